"""Bytes kept for later: in memory while they are few, in a nameless file when they are many."""

from __future__ import annotations

import errno
import marshal
import os
from collections.abc import Callable, Iterator
from typing import Any, Final

from dls.fuse.leftovers import PREFIX

_KEPT: Final = 1 << 20
"""Bytes a spool may hold in memory."""
_CHUNK: Final = 1 << 20
_FEW: Final = 4096
"""Rows kept as objects, for each folder that is open."""

Row = tuple[Any, ...]
"""Numbers and bytes."""


class Spool:
    """Append, then read once or more from the beginning."""

    __slots__ = ("_fd", "_file", "_folder", "_held", "_size")

    def __init__(self, folder: bytes) -> None:
        self._folder, self._held, self._fd, self._size = folder, bytearray(), -1, 0

    def add(self, data: bytes | bytearray | memoryview) -> None:
        """Append."""
        self._held += data
        if len(self._held) > _KEPT:
            self._spill()

    def _spill(self) -> None:
        if self._fd < 0:
            import tempfile  # who mounts needs none

            self._file = tempfile.TemporaryFile(dir=self._folder, prefix=PREFIX, buffering=0)  # noqa: SIM115 - closed by close()
            self._fd = self._file.fileno()
        view = memoryview(self._held)
        done = 0
        while done < len(view):
            done += os.pwrite(self._fd, view[done:], self._size + done)
        view.release()
        self._size += len(self._held)
        self._held.clear()

    def put(self, offset: int, data: bytes) -> None:
        """Write over what is there already from `offset` on."""
        away = max(0, min(len(data), self._size - offset))
        if away and os.pwrite(self._fd, data[:away], offset) != away:
            raise OSError(errno.ENOSPC, "a part of a table could not be written")
        if away < len(data):
            start = offset + away - self._size
            self._held[start : start + len(data) - away] = data[away:]

    def __len__(self) -> int:
        return self._size + len(self._held)

    def at(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset`."""
        if offset >= self._size:
            return bytes(self._held[offset - self._size : offset - self._size + size])
        found = os.pread(self._fd, min(size, self._size - offset), offset)
        return found if len(found) == size else found + bytes(self._held[: size - len(found)])

    def __iter__(self) -> Iterator[bytes]:
        for at in range(0, self._size, _CHUNK):
            yield os.pread(self._fd, min(_CHUNK, self._size - at), at)
        if self._held:
            yield bytes(self._held)

    def close(self) -> None:
        """Forget everything.  Idempotent."""
        if self._fd >= 0:
            self._file.close()
            self._fd = -1
        self._held, self._size = bytearray(), 0

    def __del__(self) -> None:
        self.close()


class Rows:
    """Rows of numbers and bytes, in order: few are kept as they are."""

    __slots__ = ("_few", "_make", "_packs", "_spool", "add")

    def __init__(self, make: Callable[[], Spool]) -> None:
        self._make, self._few = make, list[Row]()
        self.add = self._few.append
        """Append a row; `settle` once in a while."""
        self._spool: Spool | None = None
        self._packs = list[int]()
        """Bytes of each pack of rows in the spool."""

    def settle(self) -> None:
        """Put rows aside if they have become many."""
        if len(self._few) >= _FEW:
            if self._spool is None:
                self._spool = self._make()
            data = marshal.dumps(self._few)
            self._packs.append(len(data))
            self._spool.add(data)
            self._few.clear()

    def __iter__(self) -> Iterator[Row]:
        if self._spool is not None:
            at = 0
            for size in self._packs:
                yield from marshal.loads(self._spool.at(at, size))  # noqa: S302 - nobody else has this file
                at += size
        yield from self._few

    def close(self) -> None:
        """Forget all."""
        self._few.clear()
        if self._spool is not None:
            self._spool.close()
