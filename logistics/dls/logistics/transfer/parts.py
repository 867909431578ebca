"""Large files: read by ranges in several streams, hashed in order, written by parts, resumed at the part."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from dls.logistics import digest as digests
from dls.logistics import names
from dls.logistics.entry import Entry
from dls.logistics.errors import Conflict, Corrupt
from dls.logistics.store import Store, Upload
from dls.logistics.transfer.log import Log
from dls.logistics.transfer.progress import Progress
from dls.logistics.transfer.threads import together

Alive = Callable[[], None]
"""Raises where the transfer was given up."""


@dataclass(slots=True)
class Large:
    """One large file on its way."""

    source: Store
    entry: Entry
    where: tuple[int, int]
    """(segment, ordinal), its name in the log."""
    log: Log
    progress: Progress
    alive: Alive
    upload: Upload | None = None
    """None: only hash it."""
    streams: int = 1

    def run(self) -> tuple[bytes, bytes]:
        """Bring all parts; returns (digest, block digests).  Corrupt where the bytes are not the wanted ones."""
        known = self.entry.digest != digests.UNKNOWN
        size = self.entry.size
        part = self.upload.part if self.upload else digests.BLOCK
        count = -(-size // part)
        whole = None if known and self.entry.blocks else _InOrder(size)
        blocks = self.entry.blocks
        turn = iter(range(count))
        lock = threading.Lock()

        def work(stop: threading.Event) -> None:
            while not stop.is_set():
                self.alive()
                with lock:
                    number = next(turn, None)
                if number is None:
                    return
                data = self._part(number, part, need=whole is not None)
                if whole is not None:
                    whole.feed(number, data, self.alive, stop)

        together(work, min(self.streams, count))
        if whole is None:
            return self.entry.digest, blocks
        digest, blocks = whole.hasher.digest(), whole.hasher.blocks()
        if known and digest != self.entry.digest:
            self.log.forget(*self.where)
            raise differs(self.source.url, self.entry)
        return digest, blocks

    def _part(self, number: int, part: int, *, need: bool) -> bytearray | None:
        """Settle one part; its bytes where the caller needs them."""
        start = number * part
        stop = min(start + part, self.entry.size)
        expected = self._expected(number, part, stop - start)
        there: Iterator[bytes] | bool = False
        if self.upload is not None and expected is not None:
            there = self.upload.back(number, self.log.parts(*self.where).get(number, ""))
        if not isinstance(there, bool):
            data = self._gather(there, stop - start)
            if data is not None and _blocks(data) == expected:
                self.progress.bytes += len(data)
                return data if need else None
            there = False
        if there and not need:
            self.progress.bytes += stop - start
            return None
        data = self._fetch(start, stop)
        found = _blocks(data)
        if self.entry.blocks and found != self._wanted(number, part, stop - start):
            raise differs(self.source.url, self.entry)
        if self.upload is not None and not (there and found == expected):
            receipt = self.upload.write(number, data)
            if receipt:
                self.log.add_part(*self.where, number, receipt)
        if self.upload is not None and not self.entry.blocks:
            first = start // digests.BLOCK
            for k, one in enumerate(found):
                self.log.add_block(*self.where, first + k, one)
        return data

    def _wanted(self, number: int, part: int, length: int) -> list[bytes]:
        first = number * part // digests.BLOCK
        last = first + -(-length // digests.BLOCK)
        return [self.entry.blocks[32 * k : 32 * k + 32] for k in range(first, last)]

    def _expected(self, number: int, part: int, length: int) -> list[bytes] | None:
        """The block digests that a part must have, as the manifest or else the log knows them; None if neither."""
        if self.entry.blocks:
            return self._wanted(number, part, length)
        first = number * part // digests.BLOCK
        seen = self.log.blocks(*self.where)
        found = [seen.get(k) for k in range(first, first + -(-length // digests.BLOCK))]
        return [b for b in found if b is not None] if None not in found else None

    def _gather(self, chunks: Iterator[bytes], length: int) -> bytearray | None:
        buffer, at = bytearray(length), 0
        for chunk in chunks:
            if at + len(chunk) > length:
                return None
            buffer[at : at + len(chunk)] = chunk
            at += len(chunk)
            self.progress.ticks += 1
            self.alive()
        return buffer if at == length else None

    def _fetch(self, start: int, stop: int) -> bytearray:
        self.progress.requests += 1
        buffer, at = bytearray(stop - start), 0
        for chunk in self.source.read(self.entry.path, start, stop):
            if at + len(chunk) > len(buffer):
                raise _short(self.source.url, self.entry, "more")
            buffer[at : at + len(chunk)] = chunk
            at += len(chunk)
            self.progress.bytes += len(chunk)
            self.progress.ticks += 1
            self.alive()
        if at != len(buffer):
            raise _short(self.source.url, self.entry, "fewer")
        return buffer


class _InOrder:
    """One hasher that several streams feed, each when its turn has come; a stream waits with one part at most."""

    def __init__(self, size: int) -> None:
        self.hasher = digests.Hasher(size)
        self._next = 0
        self._ready = threading.Condition()

    def feed(self, number: int, data: bytearray | None, alive: Alive, stop: threading.Event) -> None:
        """Hash one part when all before it are hashed."""
        with self._ready:
            while self._next != number:
                if stop.is_set():
                    return
                self._ready.wait(0.2)
                alive()
        if data is not None:
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


def _short(where: str, entry: Entry, word: str) -> Conflict:
    return Conflict(
        f"{where}/{names.show(entry.path)} gave {word} bytes than the {entry.size} that were listed",
        code="source-changed",
        remedy="wait until nobody writes there, then run the same again",
        **_facts(where, entry),
    )
