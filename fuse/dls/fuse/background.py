"""Going on in the background: a process that outlives its caller, holds nothing of it and writes to a log."""

from __future__ import annotations

import os
import stat as st
import time
from contextlib import suppress
from typing import Final

_LONGEST_LOG: Final = 4 << 20
"""Bytes after which a log begins anew."""


def descriptors() -> dict[int, tuple[int, int]]:
    """What is open now: pipes and locks of whoever called, which a mount must not hold.  By number, what it is."""
    found = dict[int, tuple[int, int]]()
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the one by which the others were found
            info = os.fstat(int(name))
            found[int(name)] = info.st_dev, info.st_ino
    return found


def detach(log: str, strangers: dict[int, tuple[int, int]]) -> None:
    """Leave the terminal and the caller's folder, pipes and files."""
    os.setsid()
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    out = null
    with suppress(OSError):  # a mount without a log is better than none
        out = os.open(log, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600) if log else null
    os.dup2(null, 0)
    os.dup2(out, 1)
    os.dup2(out, 2)
    for fd in {null, out} - {0, 1, 2}:
        os.close(fd)
    for fd, what in strangers.items():
        with suppress(OSError):  # a thread of the caller may have closed it, and its number be another one's
            info = os.fstat(fd)
            if fd > 2 and (info.st_dev, info.st_ino) == what:
                os.close(fd)


def log_line(text: str) -> None:
    """Write a line to the log, which is standard error of a detached process."""
    line = f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {text}\n".encode(errors="replace")
    with suppress(OSError):
        info = os.fstat(2)
        if st.S_ISREG(info.st_mode) and info.st_size > _LONGEST_LOG:  # whoever reads a damaged file in a loop
            os.ftruncate(2, 0)
            os.write(2, b"(earlier lines were left out)\n")
        os.write(2, line)
