"""Large files: read by ranges in several streams, hashed in order, written by parts, resumed at the part."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from dls.logistics import digest as digests
from dls.logistics import names
from dls.logistics.entry import Entry
from dls.logistics.errors import Conflict, Corrupt
from dls.logistics.store import Store, Upload
from dls.logistics.transfer.log import Log, blocks_of
from dls.logistics.transfer.progress import Progress
from dls.logistics.transfer.threads import ending, together

Alive = Callable[[], None]
"""Raises where the transfer was given up."""
Piece = Callable[[int, int, memoryview], None]
"""Writes bytes of a part, so many from its start (`PosixUpload.piece`)."""
RUN = 4
"""Blocks of known digest that one request brings, each proven as it passes: with 64 MiB a request a server that reads
ahead (rclone: 16 MiB behind the end of each) spent 0.1 s less of its CPU on a gigabyte than with 16 MiB."""


@dataclass(slots=True)
class Large:
    """One large file on its way."""

    source: Store
    entry: Entry
    i: int
    """Its ordinal, its name in the log."""
    log: Log
    progress: Progress
    alive: Alive
    upload: Upload | None = None
    """None: only hash it."""
    streams: int = 1
    _counted: int = 0
    _blocks: dict[int, list[bytes]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self) -> tuple[bytes, bytes]:
        """Bring all parts; returns (digest, block digests).  Corrupt where the bytes are not the wanted ones."""
        try:
            return self._run()
        except BaseException:
            self.take_back()
            raise

    def take_back(self) -> None:
        """What was counted came to nothing."""
        with self._lock:
            counted, self._counted = self._counted, 0
        self.progress.moved(-counted)

    def _run(self) -> tuple[bytes, bytes]:
        entry = self.entry
        part = self.upload.part if self.upload is not None else digests.BLOCK
        count = -(-entry.size // part)
        whole = None if entry.digest != digests.UNKNOWN and entry.blocks else _InOrder()
        piece: Piece | None = getattr(self.upload, "piece", None) if whole is None else None
        run = max(1, min(RUN, count // (2 * self.streams))) if piece is not None else 1
        turn = iter(range(0, count, run))

        def work(stop: threading.Event) -> None:
            while not stop.is_set():
                self.alive()
                with self._lock:
                    number = next(turn, None)
                if number is None:
                    return
                if piece is not None:
                    self._straight(range(number, min(number + run, count)), part, piece)
                    continue
                data = self._part(number, part, need=whole is not None)
                if whole is not None and data is not None:
                    whole.feed(number, data, self.alive, stop)
                del data  # before the next part is made: one part in memory for each stream

        together(work, min(self.streams, count))
        if whole is None:
            return entry.digest, entry.blocks
        digest = whole.hasher.digest()
        if entry.digest not in (digests.UNKNOWN, digest):
            raise differs(self.source.url, entry)
        found = b"".join(one for number in range(count) for one in self._blocks[number])
        return digest, found if entry.size > digests.BIG else b""

    def _part(self, number: int, part: int, *, need: bool) -> bytearray | None:
        """Settle one part; its bytes where the caller needs them."""
        start = number * part
        stop = min(start + part, self.entry.size)
        expected = self._expected(start, stop)
        there, data = self._lies(number, start, stop, expected)
        if data is not None or (there and not need):
            self._count(stop - start)
            return data
        return self._bring(number, start, stop, expected if there else None)

    def _lies(self, number: int, start: int, stop: int, expected: list[bytes] | None) -> tuple[bool, bytearray | None]:
        """Whether the target holds a part as expected, and its bytes where it gives them back."""
        if self.upload is None or expected is None:
            return False, None
        there = self.upload.back(number, self.log.part(self.i, number))
        if isinstance(there, bool):
            return there, None
        data = self._gather(there, stop - start)
        if data is None or _blocks(data) != expected:
            return False, None
        self._blocks[number] = expected
        return True, data

    def _straight(self, numbers: range, part: int, piece: Piece) -> None:
        """Bring a run of parts whose block digests are known, as few requests as what lies there leaves holes."""
        first = None
        for number in numbers:
            start = number * part
            stop = min(start + part, self.entry.size)
            if self._lies(number, start, stop, self._wanted(start, stop))[0]:
                self._count(stop - start)
                if first is not None:
                    self._through(first * part, start, part, piece)
                first = None
            elif first is None:
                first = number
        if first is not None:
            self._through(first * part, min(numbers.stop * part, self.entry.size), part, piece)

    def _bring(self, number: int, start: int, stop: int, there: list[bytes] | None) -> bytearray | None:
        """Fetch one part and write it, unless the target proved that it holds the blocks `there`."""
        data = self._fetch(start, stop)
        found = self._blocks[number] = _blocks(data)
        if self.entry.blocks and found != self._wanted(start, stop):
            raise differs(self.source.url, self.entry)
        if self.upload is None:
            return data
        if found != there:
            receipt = self.upload.write(number, data)
            if receipt:
                self.log.add_part(self.i, number, receipt)
        if not self.entry.blocks:
            self.log.add_blocks(self.i, start // digests.BLOCK, found)
        return data

    def _through(self, start: int, stop: int, part: int, piece: Piece) -> None:
        """Write blocks of known digest as their bytes come, ungathered: nothing sees them before all are proven."""
        self.progress.requests += 1
        hasher, at = digests.Hasher(0), start
        more = stop == self.entry.size
        with ending(self.source.read(self.entry.path, start, stop + 1 if more else stop)) as chunks:
            for chunk in chunks:
                if at + len(chunk) > stop:
                    raise _length(self.source.url, self.entry, "more")
                view = memoryview(chunk)
                while view:
                    some = view[: digests.BLOCK - at % digests.BLOCK]
                    piece(at // part, at % part, some)
                    hasher.update(some)
                    at, view = at + len(some), view[len(some) :]
                    if at % digests.BLOCK == 0 or at == self.entry.size:
                        self._proven(hasher, at)
                        hasher = digests.Hasher(0)
                self._count(len(chunk))
                self.alive()
        if at != stop:
            raise _length(self.source.url, self.entry, "fewer")

    def _proven(self, hasher: digests.Hasher, stop: int) -> None:
        """The block that ends here is the wanted one."""
        if [hasher.digest()] != self._wanted(stop - hasher.length, stop):
            raise differs(self.source.url, self.entry)

    def _wanted(self, start: int, stop: int) -> list[bytes]:
        first, last = start // digests.BLOCK, -(-stop // digests.BLOCK)
        return [self.entry.blocks[32 * k : 32 * k + 32] for k in range(first, last)]

    def _expected(self, start: int, stop: int) -> list[bytes] | None:
        """The block digests that a part must have, as the manifest or else the log knows them; None if neither."""
        if self.entry.blocks:
            return self._wanted(start, stop)
        return self.log.blocks(self.i, start // digests.BLOCK, blocks_of(stop - start))

    def _gather(self, chunks: Iterator[bytes], length: int) -> bytearray | None:
        buffer, at = bytearray(length), 0
        with ending(chunks):
            for chunk in chunks:
                if at + len(chunk) > length:
                    return None
                buffer[at : at + len(chunk)] = chunk
                at += len(chunk)
                self.progress.ticks += 1
                self.alive()
        return buffer if at == length else None

    def _fetch(self, start: int, stop: int) -> bytearray:
        """The bytes of one part; of the last one a byte more is asked for, so that a longer file is found out."""
        self.progress.requests += 1
        more = stop == self.entry.size
        buffer, at = bytearray(stop - start), 0
        with ending(self.source.read(self.entry.path, start, stop + 1 if more else stop)) as chunks:
            for chunk in chunks:
                if at + len(chunk) > len(buffer):
                    raise _length(self.source.url, self.entry, "more")
                buffer[at : at + len(chunk)] = chunk
                at += len(chunk)
                self._count(len(chunk))
                self.alive()
        if at != len(buffer):
            raise _length(self.source.url, self.entry, "fewer")
        return buffer

    def _count(self, length: int) -> None:
        with self._lock:
            self._counted += length
        self.progress.moved(length)


class _InOrder:
    """One hasher that several streams feed, each when its turn has come; a stream waits with one part at most."""

    def __init__(self) -> None:
        self.hasher = digests.Hasher(0)  # of the whole: each stream hashes its own blocks
        self._next = 0
        self._ready = threading.Condition()

    def feed(self, number: int, data: bytearray, alive: Alive, stop: threading.Event) -> None:
        """Hash one part when all before it are hashed."""
        with self._ready:
            while self._next != number:
                if stop.is_set():
                    return
                self._ready.wait(0.2)
                alive()
        self.hasher.update(memoryview(data))
        with self._ready:
            self._next = number + 1
            self._ready.notify_all()


def _blocks(data: bytearray) -> list[bytes]:
    view = memoryview(data)
    return [digests.of(view[k : k + digests.BLOCK]) for k in range(0, len(view), digests.BLOCK)]


def _facts(where: str, entry: Entry) -> dict[str, Any]:
    return {"store": where, "key": names.show(entry.path)}


def differs(where: str, entry: Entry) -> Corrupt:
    """The error of bytes that are not those that were recorded."""
    return Corrupt(
        f"{where}/{names.show(entry.path)} no longer holds the bytes that were registered",
        code="content-differs",
        remedy="take another replica, or register what lies there now as a new version with dls catalogue add",
        **_facts(where, entry),
    )


def _length(where: str, entry: Entry, word: str) -> Conflict:
    return Conflict(
        f"{where}/{names.show(entry.path)} gave {word} bytes than the {entry.size} that were listed",
        code="source-changed",
        remedy="wait until nobody writes there, then run the same again",
        **_facts(where, entry),
    )
