"""What a killed process left beside a target: told from what is still being worked on by a lock, and removed."""

from __future__ import annotations

import fcntl
import os
import stat as st
import time
from contextlib import suppress
from typing import Final

from dls.logistics.stores.posix_files import remove_tree

PREFIX: Final = b".dls-making-"
_AGE_S: Final = 10.0
"""Nobody is that slow between making something and locking it."""
_OPEN: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def hidden(folder: bytes) -> bytes:
    """A new path in a folder for what is not finished."""
    return folder + b"/" + PREFIX + os.urandom(8).hex().encode()


def hold(fd: int) -> None:
    """Say that a process is at work on it, for as long as the descriptor or a copy of it is open."""
    with suppress(OSError):  # no locks here: then it is never removed by others
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def sweep(folder: bytes) -> None:
    """Remove what processes of this user left in a folder that are not there any more."""
    with suppress(OSError):
        found = [one.path for one in os.scandir(folder) if one.name.startswith(PREFIX)]
        for path in found:
            with suppress(OSError):
                _remove_abandoned(path)


def _remove_abandoned(path: bytes) -> None:
    fd = os.open(path, _OPEN)
    try:
        info = os.fstat(fd)
        if info.st_uid != os.geteuid() or time.time() - info.st_ctime < _AGE_S:
            return
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if st.S_ISDIR(info.st_mode):
            remove_tree(path)
        else:
            os.unlink(path)
    finally:
        os.close(fd)
