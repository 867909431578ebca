"""Images that lie behind a store: the index is fetched once, data by ranges, in pieces that are kept.

    with open_remote(store, b"tree.sqfs", cache_folder="/tmp/pieces") as image: …

A piece is 256 KiB.  Reading in order fetches ahead, up to 4 MiB a request; neighbours that are missing come in
one request.  What comes is checked like what lies here: by the sums of the index, and the index by its own.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections import OrderedDict
from typing import Any, Final

from dls.fuse.cache import Cache
from dls.fuse.image import Image, index_size, matched, open_image
from dls.fuse.index import Index, mapped
from dls.logistics import digest as digests
from dls.logistics import names
from dls.logistics.errors import Corrupt
from dls.logistics.registry import open_store
from dls.logistics.store import Store
from dls.logistics.url import parse

PIECE: Final = 256 << 10
MOST: Final = 16
"""Pieces in one request."""
KEPT: Final = 64
"""Pieces kept in memory."""
_TAIL: Final = 64 << 10
"""What is read first, from the end: the footer, and a small index whole."""
LIMIT: Final = 10 << 30


class RemoteFile:
    """The stored bytes of an image behind a store.  Safe for several threads."""

    def __init__(self, store: Store, key: bytes, cache: tuple[str, int] | None) -> None:
        self.name = f"{store.url}/{names.show(key)}"
        self._store, self._key = store, key
        found = store.stat(key)
        self.size = found.entry.size
        version = digests.of(self.name.encode() + b"\0" + found.stamp).hex()[:32]
        self._cache = Cache(cache[0], version, cache[1]) if cache else None
        self._held: OrderedDict[int, bytes] = OrderedDict()
        self._lock = threading.Lock()
        self._next, self._window = 0, 1
        self.requests = 0

    def range(self, start: int, stop: int) -> bytes:
        """Bytes straight from the store, all of them or an error."""
        self.requests += 1
        data = b"".join(self._store.read(self._key, start, stop))
        if len(data) != stop - start:
            raise Corrupt(
                f"{self.name} is not as long as it was", code="bad-image", store=self.name, remedy="mount it again"
            )
        return data

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

    def again(self, offset: int, size: int) -> bytes:
        """The same, fetched anew."""
        first, last = offset // PIECE, (min(offset + size, self.size) - 1) // PIECE
        self._fetch(first, last)
        return self.at(offset, size)

    def _pieces(self, first: int, last: int) -> list[bytes]:
        found = {number: self._here(number) for number in range(first, last + 1)}
        missing = [number for number, data in found.items() if data is None]
        if missing:
            ahead = self._ahead(first, last)
            for number, data in self._fetch(missing[0], max(missing[-1], ahead)).items():
                if found.get(number, b"") is None:
                    found[number] = data
        return [data for data in found.values() if data is not None]

    def _ahead(self, first: int, last: int) -> int:
        """The last piece to fetch: further ahead the longer the image is read in order."""
        with self._lock:
            in_order = self._next - 1 <= first <= self._next
            self._window = min(self._window * 2, MOST) if in_order else 1
            stop = min(last + self._window - 1, (self.size - 1) // PIECE)
            self._next = stop + 1
            return stop

    def _here(self, number: int) -> bytes | None:
        with self._lock:
            data = self._held.get(number)
            if data is not None:
                self._held.move_to_end(number)
                return data
        data = self._cache.get(str(number)) if self._cache is not None else None
        if data is None or len(data) != min(PIECE, self.size - number * PIECE):
            return None
        self._hold(number, data)
        return data

    def _hold(self, number: int, data: bytes) -> None:
        with self._lock:
            self._held[number] = data
            while len(self._held) > KEPT:
                self._held.popitem(last=False)

    def _fetch(self, first: int, last: int) -> dict[int, bytes]:
        data = self.range(first * PIECE, min((last + 1) * PIECE, self.size))
        out = {}
        for number in range(first, last + 1):
            piece = data[(number - first) * PIECE : (number - first + 1) * PIECE]
            self._hold(number, piece)
            if self._cache is not None:
                self._cache.put(str(number), piece)
            out[number] = piece
        return out

    def index(self) -> memoryview:
        """The index, in a nameless file of this machine."""
        tail = self.range(max(0, self.size - _TAIL), self.size)
        whole = index_size(tail, self)
        with tempfile.TemporaryFile(prefix="dls-index-") as file:
            for start in range(self.size - whole, self.size, 8 << 20):
                stop = min(start + (8 << 20), self.size)
                in_tail = start >= self.size - len(tail)
                file.write(tail[start - self.size :] if in_tail else self._kept(start, stop))
            file.flush()
            return mapped(file.fileno(), 0, whole)

    def _kept(self, start: int, stop: int) -> bytes:
        """A stretch of the index, from the cache if it is there."""
        name = f"index-{start}"
        if self._cache is not None and (data := self._cache.get(name)) is not None and len(data) == stop - start:
            return data
        data = self.range(start, stop)
        if self._cache is not None:
            self._cache.put(name, data)
        return data

    def close(self) -> None:
        """Let go of the store."""
        self._held.clear()
        self._store.close()


def open_at(url: str, **options: Any) -> Image:
    """The image in a file of this machine (a path is taken relative to the working folder) or at an address; `options`
    are those of `open_remote`."""
    at = parse(url, os.getcwd())
    if at.scheme == "file":
        return open_image(os.fsdecode(b"/" + at.path))
    above, key = at.parent
    return open_remote(open_store(above), key, **options)


def open_remote(store: Store, key: bytes, *, cache_folder: str = "", cache_bytes: int = LIMIT) -> Image:
    """The image under a key of a store; the store is closed with it."""
    source = RemoteFile(store, key, (cache_folder, cache_bytes) if cache_folder else None)
    try:
        return matched(source, Index(source.index()))
    except BaseException:
        source.close()
        raise
