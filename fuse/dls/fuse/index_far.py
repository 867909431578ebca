"""The index of an image behind a store: fetched once, by few requests, and looked through before it is kept."""

from __future__ import annotations

import os
import tempfile
from typing import Final, Protocol

from dls.fuse.cache import Cache
from dls.fuse.index import Index, mapped
from dls.logistics import digest as digests
from dls.logistics.errors import Corrupt
from dls.logistics.stores.posix_errors import ours

_END: Final = "index-end"
"""The piece of the cache that says which end of the object was checked together with the rest of its index."""
_STRETCH: Final = 8 << 20
"""Bytes of an index in one request."""
_CONNECTIONS: Final = 3


class Far(Protocol):
    """The object: `cache` keeps pieces of this very content, if any."""

    size: int
    cache: Cache | None

    def range(self, start: int, stop: int) -> bytes: ...


def fetched_index(far: Far, tail: bytes, size: int) -> Index:
    """The index, in a nameless file of this machine.

    Parts of it come from the cache; if the whole is not what was written, all of it comes from the store, anew.
    """
    try:
        index, fetched = _index(far, size, tail)
        if not fetched and far.cache is not None and far.cache.get(_END, 32) == digests.of(tail[-size:]):
            return index  # checked before; each part has a sum of its own, looked at when it is used
        index.check_all()
    except Corrupt:
        index, fetched = _index(far, size, None)
        index.check_all()
    except OSError as exc:
        raise ours(exc, tempfile.gettempdir()) from exc
    if far.cache is not None:
        for start in fetched:
            at = start - (far.size - size)
            far.cache.put(f"index-{start}", index.data[at : at + _STRETCH])
        far.cache.put(_END, digests.of(bytes(index.data[-len(tail) :])))
    return index


def _index(far: Far, size: int, tail: bytes | None) -> tuple[Index, list[int]]:
    """The index, and which stretches of it came from the store; all of them where no `tail` is given."""
    begin, end = far.size - size, far.size - len(tail or b"")
    fetched: list[int] = []
    with tempfile.TemporaryFile(prefix="dls-index-") as file:
        fd = file.fileno()
        os.ftruncate(fd, size)
        if tail is not None:
            os.pwrite(fd, tail[max(0, begin - end) :], max(0, end - begin))

        def part(start: int) -> None:
            stop = min(start + _STRETCH, far.size)
            name, kept = f"index-{start}", None
            if tail is not None and far.cache is not None:
                kept = far.cache.get(name, stop - start)
            if kept is None:
                kept = far.range(start, stop)
                fetched.append(start)
            os.pwrite(fd, kept, start - begin)

        starts = range(begin, max(begin, end), _STRETCH)
        if len(starts) < 2:
            for start in starts:
                part(start)
        else:
            from concurrent.futures import ThreadPoolExecutor  # 8 ms, only where there is more than one part

            with ThreadPoolExecutor(_CONNECTIONS, "image-index") as threads:
                list(threads.map(part, starts))
        return Index(mapped(fd, 0, size)), sorted(fetched)
