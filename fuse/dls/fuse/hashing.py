"""Hashes files of an origin in batches, a few batches ahead of who asks; results come in the order of the batches."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, Generic, TypeVar

from dls.fuse.origin import Origin
from dls.fuse.reading import File, Reader, opened
from dls.logistics import digest as digests

STRETCH: Final = 1 << 20
"""A file larger than this is hashed as it is read."""
_AHEAD: Final = 4

T = TypeVar("T")


class Hashing(Generic[T]):
    """Some threads, each with a reader of its own; what is to be done with the digests goes along with a batch."""

    def __init__(self, origin: Origin, workers: int) -> None:
        self._description, self._local = origin.reader(), threading.local()
        self._pool = ThreadPoolExecutor(max(1, workers), "image-compare")
        self._under_way: deque[tuple[list[T], Future[list[bytes]]]] = deque()

    def swap(self, what: list[T], files: Sequence[File]) -> tuple[list[T], list[bytes]]:
        """Take a batch in; give the oldest back once there are enough, else an empty one."""
        self._under_way.append((what, self._pool.submit(self.digests, files)))
        return self._oldest() if len(self._under_way) > _AHEAD else ([], [])

    def rest(self) -> Iterator[tuple[list[T], list[bytes]]]:
        """All that are left."""
        while self._under_way:
            yield self._oldest()

    def _oldest(self) -> tuple[list[T], list[bytes]]:
        what, found = self._under_way.popleft()
        return what, found.result()

    def digests(self, files: Sequence[File]) -> list[bytes]:
        """The digest of each."""
        reader: Reader | None = getattr(self._local, "reader", None)
        if reader is None:
            reader = self._local.reader = opened(self._description)
        small = [file for file in files if file.size <= STRETCH]
        found = iter([digests.of(body) for body in reader.bodies(small)])
        return [next(found) if file.size <= STRETCH else _stretched(reader, file) for file in files]

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(cancel_futures=True)


def _stretched(reader: Reader, file: File) -> bytes:
    hasher = digests.Hasher(0)
    for body in reader.stretch(file._replace(stop=file.size)):
        hasher.update(body)
    return hasher.digest()
