"""Messages between processes of one program on one machine, over a pair of sockets: bytes, each behind its length."""

from __future__ import annotations

import os
import struct
from typing import Final

_LENGTH: Final = struct.Struct("<Q")
_MOST: Final = 1 << 20
"""Bytes asked for at once."""


class Pipe:
    """One end; the descriptor is ours."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        """The descriptor."""
        return self._fd

    def put(self, message: bytes) -> None:
        """Send one; BrokenPipeError or another OSError where nobody is there."""
        rest = memoryview(_LENGTH.pack(len(message)) + message)
        while rest:
            rest = rest[os.write(self._fd, rest) :]

    def take(self) -> bytes:
        """The next one, waited for; EOFError where nobody is there any more."""
        (size,) = _LENGTH.unpack(self._exactly(_LENGTH.size))
        return self._exactly(size)

    def _exactly(self, size: int) -> bytes:
        data = os.read(self._fd, min(size, _MOST)) if size else b""
        while len(data) < size:
            more = os.read(self._fd, min(size - len(data), _MOST))
            if not more:
                raise EOFError
            data += more
        return data

    def close(self) -> None:
        """End it."""
        os.close(self._fd)
