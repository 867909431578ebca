"""Messages between the one who decides and its workers: tuples of numbers, texts and bytes, over a pair of sockets.

Both ends are one program on one machine, so a message is its length and what `marshal` makes of it: a tenth of the
time to start of `multiprocessing`, and half of the time for each message.
"""

from __future__ import annotations

import marshal
import os
import struct
from typing import Any, Final

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

    def send(self, message: tuple[Any, ...] | None) -> None:
        """Send one; BrokenPipeError or another OSError where nobody is there."""
        data = marshal.dumps(message)
        rest = memoryview(_LENGTH.pack(len(data)) + data)
        while rest:
            rest = rest[os.write(self._fd, rest) :]

    def receive(self) -> Any:
        """The next one, waited for; EOFError where nobody is there any more."""
        (size,) = _LENGTH.unpack(self._exactly(_LENGTH.size))
        return marshal.loads(self._exactly(size))  # noqa: S302 - from a process of ours

    def _exactly(self, size: int) -> bytes:
        data = os.read(self._fd, min(size, _MOST))
        while len(data) < size:
            more = os.read(self._fd, min(size - len(data), _MOST))
            if not more:
                raise EOFError
            data += more
        return data

    def close(self) -> None:
        """End it."""
        os.close(self._fd)
