"""A folder of pieces of remote images, shared by all mounts of this machine.

A piece is a file with the sum of its bytes before them, and appears by one rename, so several processes may write the
same one at once.  A piece that is damaged is not one that is there.  Nothing hangs on the cache: where it cannot be
written, or is full, bytes come from afar.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from typing import Final

from dls.fuse.codec import sum_of

_SUM: Final = 4
_LOOK_EVERY: Final = 64
"""Pieces written between two looks at how much there is."""
_LEFT: Final = 0.9
"""What is left of the limit after the oldest went."""


class Cache:
    """Pieces of `image` (a name of this version of it) in `folder`, at most `limit` bytes of all images together."""

    def __init__(self, folder: str, image: str, limit: int) -> None:
        self._top, self._folder, self._limit = folder, os.path.join(folder, image), limit
        self._written = 0

    def get(self, name: str) -> bytes | None:
        """A piece, or None."""
        path = os.path.join(self._folder, name)
        try:
            with open(path, "rb") as file:
                data = file.read()
        except OSError:
            return None
        if len(data) < _SUM or sum_of(memoryview(data)[_SUM:]) != int.from_bytes(data[:_SUM], "little"):
            with suppress(OSError):
                os.unlink(path)
            return None
        return data[_SUM:]

    def put(self, name: str, data: bytes) -> None:
        """Keep a piece, if that is possible."""
        beside = os.path.join(self._folder, f".{name}.{os.getpid()}")
        try:
            os.makedirs(self._folder, mode=0o700, exist_ok=True)
            with open(beside, "wb") as file:
                file.write(sum_of(data).to_bytes(_SUM, "little") + data)
            os.rename(beside, os.path.join(self._folder, name))
        except OSError:
            with suppress(OSError):
                os.unlink(beside)
            self._clean()
            return
        self._written += 1
        if self._written % _LOOK_EVERY == 0:
            self._clean()

    def _clean(self) -> None:
        """Remove the oldest pieces beyond the limit; one process at a time."""
        with suppress(OSError):
            lock = os.open(os.path.join(self._top, ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._remove_oldest()
            finally:
                os.close(lock)

    def _remove_oldest(self) -> None:
        found: list[tuple[int, int, str]] = []
        for image in os.scandir(self._top):
            if image.is_dir():
                with suppress(OSError):
                    for piece in os.scandir(image.path):
                        info = piece.stat()
                        found.append((max(info.st_mtime_ns, info.st_atime_ns), info.st_size, piece.path))
        total = sum(size for _, size, _ in found)
        if total <= self._limit:
            return
        for _, size, path in sorted(found):
            with suppress(OSError):
                os.unlink(path)
            total -= size
            if total <= self._limit * _LEFT:
                return
