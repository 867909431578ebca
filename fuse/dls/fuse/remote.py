"""Images that lie behind a store: the index is fetched once, data by ranges, in pieces that are kept.

    with open_remote(store, b"tree.sqfs", cache_folder="/tmp/pieces") as image: …

A piece is 256 KiB.  Neighbours that are missing come in one request; who reads in order finds the next pieces on
their way (`dls.fuse.order`), and where a round trip takes long its neighbours come along (`dls.fuse.width`), fetched by
other threads over connections of their own.  One piece is fetched once, however many threads and processes want it.
What comes is checked like what lies here: by the sums of the index, and the index by its own before it is kept.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from queue import SimpleQueue
from typing import Any, Final

from dls.fuse.cache import LIMIT, Cache
from dls.fuse.image import Image, index_size, matched, open_image
from dls.fuse.index import FOOTER
from dls.fuse.index_far import fetched_index
from dls.fuse.order import MOST, Order
from dls.fuse.width import Width
from dls.logistics import digest as digests
from dls.logistics import names
from dls.logistics.errors import Conflict, DlsError, NotFound, Unavailable
from dls.logistics.registry import open_store
from dls.logistics.store import Store, Versioned
from dls.logistics.url import Url, parse

PIECE: Final = 256 << 10
REQUEST: Final = 8
"""Pieces in one request that is made ahead; more, where all connections have as many."""
KEPT: Final = 96
"""Pieces kept in memory."""
CONNECTIONS: Final = 3
"""Requests ahead under way at once, beside those that somebody waits for."""
PATIENCE_S: Final = 15.0
"""Silence of a service after which whoever reads gets an error."""
_DOWN_S: Final = 0.5
"""After a service did not answer, whoever asks in this time is told so at once: many requests wait behind one that
hangs, and each would hang for as long."""
_TAIL: Final = 256 << 10
"""What is read first, from the end: the footer, and a small index whole."""
_Range = range  # inside the class it is a verb
_NETWORK: Final = ("http", "https", "s3", "s3+http", "s3+https")


class _Coming:
    """A piece that somebody is fetching."""

    __slots__ = ("data", "done")

    def __init__(self) -> None:
        self.done, self.data = threading.Event(), b""


class RemoteFile:
    """The stored bytes of one version of an object behind a store.  Safe for several threads, and after a fork."""

    far = True

    def __init__(self, store: Store, key: bytes, cache: tuple[str, int] | None = None) -> None:
        self.name = f"{store.url}/{names.show(key)}"
        self._store, self._key = store, key
        found = store.stat(key)
        self.size, self._stamp = found.entry.size, found.stamp
        self.version = found.stamp.hex()
        """Of the object, for people who keep something of it."""
        self._keep = cache
        self.cache: Cache | None = None
        self.content(self.name.encode() + b"\0" + found.stamp)
        self._held: OrderedDict[int, bytes] = OrderedDict()
        self._order = Order((self.size - 1) // PIECE)
        # What is brought must not drive out what is read: without a cache there is room in memory only.
        self._width = Width(-(-self.size // PIECE), PIECE, max(KEPT, cache[1] // PIECE) if cache else KEPT)
        self._anew()
        self._down: tuple[float, Unavailable] | None = None
        self.requests = self.waited = 0
        """Requests made, and how often somebody had to wait for one."""

    def _anew(self) -> None:
        """Begin without threads: there are none yet, or they stayed behind in the process that forked."""
        self._lock = threading.Lock()
        self._count = threading.Lock()
        """Of requests alone: they may end wherever whoever reads from one is given up."""
        self._ahead: SimpleQueue[tuple[int, int] | None] = SimpleQueue()
        self._threads, self._owner, self._flying = 0, os.getpid(), 0
        self._coming: dict[int, _Coming] = {}

    def content(self, name: bytes) -> None:
        """Say what no other content has: pieces are kept under this name, whatever address they came from."""
        if self._keep is not None:
            self.cache = Cache(self._keep[0], digests.of(name).hex()[:32], self._keep[1])

    # --------------------------------------------------------------------------------------------- the store

    def range(self, start: int, stop: int) -> bytes:
        """Bytes straight from the store: all of them, of the version that was opened, or an error."""
        return b"".join(self.parts(start, stop))

    def parts(self, start: int, stop: int) -> Iterator[bytes]:
        """The same, as they come; the last one only if they were all."""
        if self._down is not None and time.monotonic() < self._down[0]:
            why = self._down[1]
            raise Unavailable(why.message, code=why.code, remedy=why.remedy, **why.facts)
        with self._count:
            self.requests += 1
            self._flying += 1
            sharing = self._flying
        store, began = self._store, time.monotonic()
        try:
            if isinstance(store, Versioned):
                parts = store.read_version(self._key, self._stamp, start, stop)
            else:
                parts = store.read(self._key, start, stop)
            size = first = len(part := next(parts, b""))
            answered, sharing = time.monotonic(), sharing + self._flying
            for following in parts:
                yield part
                part = following
                size += len(part)
            ended, sharing = time.monotonic(), sharing + self._flying
        except Unavailable as error:
            self._down = time.monotonic() + _DOWN_S, error
            raise
        except (Conflict, NotFound) as error:
            raise self._changed() from error
        finally:
            with self._count:
                self._flying -= 1
        self._down = None
        if size != stop - start:
            raise self._changed()
        with self._lock:
            self._width.told(answered - began, size - first, ended - answered, sharing / 3)
        yield part

    def _changed(self) -> Conflict:
        return Conflict(
            f"{self.name} changed, or went, since it was opened",
            code="source-changed", store=self.name, remedy="mount or open it again",
        )  # fmt: skip

    # --------------------------------------------------------------------------------------------- pieces

    def at(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset`, fewer at the end."""
        stop = min(offset + size, self.size)
        if offset >= stop:
            return b""
        first, last = offset // PIECE, (stop - 1) // PIECE
        parts = self._pieces(first, last)
        if first == last:
            return parts[0][offset - first * PIECE : stop - first * PIECE]
        whole = b"".join(parts)
        return whole[offset - first * PIECE : stop - first * PIECE]

    def same(self) -> None:
        """Nothing: the index is in a file of our own."""

    def ready(self, offset: int) -> bool:
        """Whether it is in memory."""
        return offset // PIECE in self._held

    def again(self, offset: int, size: int) -> bytes:
        """The same, fetched anew, past all that is kept on the way, and in its place."""
        stop = min(offset + size, self.size)
        if offset >= stop:
            return b""
        first, last = offset // PIECE, (stop - 1) // PIECE
        data = self.range(first * PIECE, min((last + 1) * PIECE, self.size))
        for number in range(first, last + 1):
            self._put(number, data[(number - first) * PIECE : (number - first + 1) * PIECE])
        if not isinstance(self._store, Versioned) and self._store.stat(self._key).stamp != self._stamp:
            raise self._changed()
        return data[offset - first * PIECE : stop - first * PIECE]

    def _pieces(self, first: int, last: int) -> list[bytes]:
        if self._owner != os.getpid():
            self._anew()
        with self._lock:
            self._width.read(first, last)
            room = MOST - len(self._coming)
            ahead = self._order.ahead(first, last, room) if room > 0 else range(0)
        found = {number: self._here(number) for number in range(first, last + 1)}
        if ahead:
            self._later(ahead)
        missing = [number for number, data in found.items() if data is None]
        if missing and not ahead:
            self._around(missing[0], missing[-1])
        for start, stop in _runs(missing):
            self.waited += 1
            found |= self._bring(start, stop)
        return [data for data in found.values() if data is not None]

    def _around(self, first: int, last: int) -> None:
        """Have what lies around missing pieces brought, unless much is on its way already."""
        with self._lock:
            if any(number in self._coming for number in range(first, last + 1)) or self._ahead.qsize() > CONNECTIONS:
                return
            wanted = [
                number
                for number in self._width.missed(first, last)
                if not (first <= number <= last or number in self._held or number in self._coming)
            ]
        if self.cache is not None:
            wanted = [number for number in wanted if not self.cache.has(str(number))]
        with self._lock:
            self._width.bring(wanted)
        for start, stop in _runs(wanted):
            self._later(range(start, stop + 1))

    def _length(self, number: int) -> int:
        return min(PIECE, self.size - number * PIECE)

    def _here(self, number: int) -> bytes | None:
        """A piece from memory or from the cache."""
        with self._lock:
            data = self._held.get(number)
            if data is not None:
                self._held.move_to_end(number)
                return data
        if self.cache is None or (data := self.cache.get(str(number), self._length(number))) is None:
            return None
        self._hold(number, data)
        return data

    def _hold(self, number: int, data: bytes) -> None:
        with self._lock:
            self._held[number] = data
            self._held.move_to_end(number)
            while len(self._held) > KEPT:
                self._held.popitem(last=False)

    def _put(self, number: int, data: bytes) -> None:
        self._hold(number, data)
        if self.cache is not None:
            self.cache.put(str(number), data)

    def _bring(self, first: int, last: int) -> dict[int, bytes]:
        """Pieces that are not here, from the store; those that another thread is fetching, from its hands."""
        out: dict[int, bytes] = {}
        ours: dict[int, _Coming] = {}
        theirs: dict[int, _Coming] = {}
        with self._lock:
            for number in range(first, last + 1):
                if (data := self._held.get(number)) is not None:
                    out[number] = data
                elif (coming := self._coming.get(number)) is not None:
                    theirs[number] = coming
                else:
                    ours[number] = self._coming[number] = _Coming()
        try:
            for start, stop in _runs(ours):
                out |= self._fetch(start, stop, ours)
        finally:
            with self._lock:
                for number, coming in ours.items():
                    self._coming.pop(number, None)
                    coming.done.set()
        for number, coming in theirs.items():
            coming.done.wait()
            # Nothing where they failed: this one has somebody who waits for it, so it is tried here.
            out[number] = coming.data or self._bring(number, number)[number]
        return out

    def _fetch(self, first: int, last: int, coming: dict[int, _Coming]) -> dict[int, bytes]:
        out: dict[int, bytes] = {}
        if self.cache is None:
            self._take(first, last, out, coming)
        else:
            with self.cache.claimed(first, last) as alone:
                missing: list[int] = list(range(first, last + 1))
                if not alone:
                    found = {number: self._here(number) for number in missing}
                    out = {number: data for number, data in found.items() if data is not None}
                    missing = [number for number in missing if number not in out]
                for start, stop in _runs(missing):
                    self._take(start, stop, out, coming)
        for number, data in out.items():
            coming[number].data = data
        return out

    def _take(self, first: int, last: int, out: dict[int, bytes], coming: dict[int, _Coming]) -> None:
        """Pieces from the store; who waits for one of them has it as soon as it is there."""
        number, parts, have = first, list[bytes](), 0
        for part in self.parts(first * PIECE, min((last + 1) * PIECE, self.size)):
            parts.append(part)
            have += len(part)
            if number > last or have < self._length(number):
                continue
            whole, at = b"".join(parts), 0
            while number <= last and have - at >= (length := self._length(number)):
                out[number] = data = whole[at : at + length]
                self._put(number, data)
                coming[number].data = data
                coming[number].done.set()
                number, at = number + 1, at + length
            parts, have = [whole[at:]], have - at

    # --------------------------------------------------------------------------------------------- ahead

    def soon(self, offset: int) -> None:
        """Have the piece that holds this byte brought while something else is waited for."""
        self._later(range(offset // PIECE, offset // PIECE + 1))

    def _later(self, pieces: _Range) -> None:
        """Have pieces fetched by other threads, which this process starts when it first needs them."""
        with self._lock:
            step = max(REQUEST, -(-len(pieces) // CONNECTIONS))
            wishes = range(pieces.start, pieces.stop, step)
            for start in wishes:
                self._ahead.put((start, min(start + step, pieces.stop) - 1))
            starting = min(CONNECTIONS - self._threads, len(wishes))
            self._threads += starting
        for _ in range(starting):
            threading.Thread(target=self._fetching, args=(self._ahead,), name="image-ahead", daemon=True).start()

    def _fetching(self, wishes: SimpleQueue[tuple[int, int] | None]) -> None:
        while (wish := wishes.get()) is not None:
            try:
                for start, stop in _runs(n for n in range(wish[0], wish[1] + 1) if self._here(n) is None):
                    self._bring(start, stop)
            except DlsError:
                continue  # whoever really needs it will ask again, and is told

    # --------------------------------------------------------------------------------------------- the ends

    def tail(self) -> bytes:
        """The end of the object."""
        return self.range(max(0, self.size - _TAIL), self.size)

    def close(self) -> None:
        """Let go of the store."""
        with self._lock:
            for _ in range(self._threads):
                self._ahead.put(None)
            self._threads = 0
            self._held.clear()
        self._store.close()


def _runs(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Numbers that rise, as first and last of those that follow one another."""
    first = last = -2
    for number in numbers:
        if number != last + 1:
            if first >= 0:
                yield first, last
            first = number
        last = number
    if first >= 0:
        yield first, last


def open_at(url: str, **options: Any) -> Image:
    """The image in a file of this machine (a path is taken relative to the working folder) or at an address; `options`
    are those of `open_remote`."""
    at = parse(url, os.getcwd())
    if at.scheme == "file":
        return open_image(os.fsdecode(b"/" + at.path))
    return open_remote(*stored_at(at), **options)


def stored_at(at: Url) -> tuple[Store, bytes]:
    """The store that holds what is at an address, and its key there."""
    above, key = at.parent
    patience: dict[str, Any] = {"timeout_s": PATIENCE_S} if at.scheme in _NETWORK else {}
    return open_store(above, **patience), key


def open_remote(store: Store, key: bytes, *, cache_folder: str = "", cache_bytes: int = LIMIT) -> Image:
    """The image under a key of a store; the store is closed with it."""
    try:
        source = RemoteFile(store, key, (cache_folder, cache_bytes) if cache_folder else None)
        return image_in(source, source.tail())
    except BaseException:
        store.close()
        raise


def image_in(source: RemoteFile, tail: bytes) -> Image:
    """The image in an object that ends so."""
    size = index_size(tail, source)
    source.content(tail[-FOOTER.size :])  # the digest in it covers all sums: this image and no other
    if size > len(tail):
        source.soon(0)  # where the superblock is: it comes while the index does
    return matched(source, fetched_index(source, tail, size))
