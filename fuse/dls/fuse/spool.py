"""Bytes kept for later: in memory while they are few, in a nameless file when they are many."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from typing import Final

from dls.fuse.leftovers import PREFIX

_KEPT: Final = 1 << 20
"""Bytes a spool may hold in memory."""
_CHUNK: Final = 1 << 20
_FEW: Final = 4096
"""Rows kept as objects, for each folder that is open."""


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
            self._file = tempfile.TemporaryFile(dir=self._folder, prefix=PREFIX, buffering=0)  # noqa: SIM115 - closed by close()
            self._fd = self._file.fileno()
        view = memoryview(self._held)
        done = 0
        while done < len(view):
            done += os.pwrite(self._fd, view[done:], self._size + done)
        view.release()
        self._size += len(self._held)
        self._held.clear()

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
    """Rows of bytes, in order: few are kept as they are."""

    __slots__ = ("_few", "_make", "_spool", "count")

    def __init__(self, make: Callable[[], Spool]) -> None:
        self._make, self._few, self.count = make, list[bytes](), 0
        self._spool: Spool | None = None

    def add(self, row: bytes) -> None:
        """Append a row of less than 64 KiB."""
        self._few.append(row)
        self.count += 1
        if len(self._few) >= _FEW:
            if self._spool is None:
                self._spool = self._make()
            self._spool.add(b"".join([len(one).to_bytes(2, "little") + one for one in self._few]))
            self._few.clear()

    def __iter__(self) -> Iterator[bytes]:
        if self._spool is not None:
            rest = b""
            for chunk in self._spool:
                data, at = rest + chunk, 0
                while at + 2 <= len(data) and at + 2 + (size := data[at] | data[at + 1] << 8) <= len(data):
                    yield data[at + 2 : at + 2 + size]
                    at += 2 + size
                rest = data[at:]
        yield from self._few

    def close(self) -> None:
        """Forget all."""
        self._few.clear()
        if self._spool is not None:
            self._spool.close()
