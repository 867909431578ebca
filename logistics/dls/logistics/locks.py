"""Locks between processes: one holder per name, freed by release and by the death of the process, however it dies.

`FileLocks` is for processes of one machine (or of a file system that keeps `flock` for all that mount it),
`locks_postgres.PostgresLocks` for all that reach one server.  A lock says who should work, so that work is done once;
it guards no fact: whoever lost a lock is fenced by the database (a need's epoch).
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from dls.logistics.errors import Denied, Unavailable

SLICE_S = 0.2
"""Longest sleep between two looks at a lock, seconds."""


class Lock(Protocol):
    """A lock that is held."""

    @property
    def lost(self) -> bool:
        """Whether it is ours no longer, without our doing: broken, or gone with the server."""
        ...

    def release(self, *, forget: bool = False) -> None:
        """Let go; idempotent.  `forget`: nobody will want this name again, so its traces may go."""
        ...


class Locks(Protocol):
    """Locks by name: letters, digits, `-`."""

    def try_hold(self, name: str) -> Lock | None:
        """Take it now, or None where another holds it: another process, or another part of this one."""
        ...

    def hold(self, name: str, wait_s: float | None = None) -> Lock:
        """Take it, after waiting `wait_s` at most, None for ever: Unavailable `lock-busy`."""
        ...

    def is_held(self, name: str) -> bool:
        """Whether anybody holds it now."""
        ...

    def break_(self, name: str) -> bool:
        """Take it from whoever holds it: True, it is free; False where that cannot be done."""
        ...

    def close(self) -> None:
        """Release all that is held through this object; idempotent."""
        ...


def wait_for(locks: Locks, name: str, wait_s: float | None) -> Lock:
    """`Locks.hold` by looking again and again."""
    until = None if wait_s is None else time.monotonic() + wait_s
    pause = 0.005
    while (lock := locks.try_hold(name)) is None:
        left = SLICE_S if until is None else until - time.monotonic()
        if left <= 0:
            raise Unavailable(f"the lock {name} is held by another", code="lock-busy", lock=name, remedy="try again")
        time.sleep(min(pause, left))
        pause = min(pause * 2, SLICE_S)
    return lock


class FileLocks:
    """A file with `flock` per name, in a folder of mode 0700."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: set[FileLock] = set()

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.lock"

    def try_hold(self, name: str) -> FileLock | None:
        """Take it now, or None where another holds it."""
        path = self._path(name)
        while True:
            fd = self._opened(path)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_at(fd, path):  # else its holder removed the file meanwhile, and the next one made another
                    lock = FileLock(self, path, fd)
                    self._held.add(lock)
                    return lock
            except BlockingIOError:
                os.close(fd)
                return None
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)

    def _opened(self, path: Path) -> int:
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Programs that we start do not inherit it; processes forked off us do, and hold the lock while they live.
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            kind = Denied if exc.errno in (errno.EACCES, errno.EPERM, errno.EROFS) else Unavailable
            raise kind(
                f"cannot lock in {self._folder}: {exc.strerror}",
                code="no-lock",
                path=str(self._folder),
                remedy="set DLS_HOME to a folder that you may write",
            ) from exc

    def hold(self, name: str, wait_s: float | None = None) -> Lock:
        """Take it, after waiting at most so long."""
        return wait_for(self, name, wait_s)

    def is_held(self, name: str) -> bool:
        """Whether anybody holds it now."""
        try:
            fd = os.open(self._path(name), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    def break_(self, name: str) -> bool:
        """Only the kernel takes a file's lock from a process: end the process."""
        return False

    def close(self) -> None:
        """Release what is held."""
        for lock in list(self._held):
            lock.release()


class FileLock:
    """One that is held."""

    def __init__(self, locks: FileLocks, path: Path, fd: int) -> None:
        self._locks, self._path, self._fd = locks, path, fd

    @property
    def lost(self) -> bool:
        """Only by our own release."""
        return self._fd < 0

    def release(self, *, forget: bool = False) -> None:
        """Closing the file frees the lock; whoever waits on a removed file sees that it is gone and opens the next."""
        fd, self._fd = self._fd, -1
        self._locks._held.discard(self)
        if fd < 0:
            return
        if forget:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)
        os.close(fd)


def _is_at(fd: int, path: Path) -> bool:
    try:
        there, ours = os.stat(path), os.fstat(fd)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)
