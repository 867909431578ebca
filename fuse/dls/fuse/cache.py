"""A folder of pieces of remote images, shared by all mounts of a user, on one machine or on many that see the folder.

A piece is a file with the sum of its bytes before them, and appears by one rename, so several processes may write the
same one at once.  A piece that is damaged is not one that is there.  Nothing hangs on the cache: where it cannot be
written, or is full, bytes come from afar.  Each user has a folder of their own inside, which nobody else may write:
what another user put there is never read, as a sum is no proof of who wrote.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat as st
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final, NamedTuple

from dls.fuse.codec import sum_of

LIMIT: Final = 10 << 30
"""Bytes of pieces that are kept, unless somebody says otherwise."""
_SUM: Final = 4
_SHARE: Final = 32
"""The folder is looked through whenever this part of its limit was written by one process."""
_LEFT: Final = 0.9
"""What is left of the limit after the oldest went."""
_TOUCH_S: Final = 60
"""A piece that is used is marked as young, once in so long."""
_TEMPORARY_S: Final = 600
"""What a killed process left half-written is removed at this age."""
_PAUSE_S: Final = 1.0
"""After a piece that could not be kept, none is tried for so long."""
_FLOCK: Final = struct.Struct("@hhqqi4x")
"""`struct flock` of 64-bit Linux: type, whence, start, length, process."""
_CLAIM_FILE: Final = ".claims"
_CLAIM_S: Final = 2.0
"""How long one process waits for the piece that another is fetching, before it fetches it too."""
_READ: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class _Piece(NamedTuple):
    used_ns: int
    size: int
    path: str


class Cache:
    """Pieces of `image` (a name that no other content has) in `folder`; of all images together `limit` bytes."""

    def __init__(self, folder: str, image: str, limit: int) -> None:
        self._top = os.path.join(folder, f"user-{os.geteuid()}")
        self._folder, self._limit = os.path.join(self._top, image), limit
        self._unseen = limit  # so that the first piece has the folder looked through
        self._rest_until = 0.0
        self._ready = False

    def _open(self) -> None:
        """Make the folders; OSError where they cannot be ours alone."""
        os.makedirs(self._top, mode=0o700, exist_ok=True)
        info = os.lstat(self._top)
        if not st.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid() or info.st_mode & 0o022:
            raise PermissionError(errno.EPERM, "others may write here", self._top)
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        self._ready = True

    def _usable(self) -> bool:
        if self._ready:
            return True
        with suppress(OSError):
            if os.path.isdir(self._top):
                self._open()
        return self._ready

    def get(self, name: str, size: int) -> bytes | None:
        """A piece of `size` bytes, or None."""
        if not self._usable():
            return None
        path = os.path.join(self._folder, name)
        try:
            fd = os.open(path, _READ)
        except OSError:
            return None
        try:
            info = os.fstat(fd)
            data = os.read(fd, _SUM + size + 1) if st.S_ISREG(info.st_mode) else b""
            while len(data) < _SUM + size and (more := os.read(fd, _SUM + size - len(data))):
                data += more
            if len(data) == _SUM + size and sum_of(memoryview(data)[_SUM:]) == int.from_bytes(data[:_SUM], "little"):
                if time.time() - info.st_mtime > _TOUCH_S:
                    os.utime(fd)
                return data[_SUM:]
        except OSError:
            return None
        finally:
            os.close(fd)
        self.drop(name)
        return None

    def has(self, name: str) -> bool:
        """Whether there is such a piece, sound or not."""
        return self._usable() and os.path.exists(os.path.join(self._folder, name))

    def drop(self, name: str) -> None:
        """Forget a piece."""
        with suppress(OSError):
            os.unlink(os.path.join(self._folder, name))

    def put(self, name: str, data: bytes | memoryview) -> None:
        """Keep a piece, if that is possible."""
        if len(data) > self._limit // 2 or time.monotonic() < self._rest_until:
            return
        try:
            self._put(name, data)
        except FileNotFoundError:  # the folder went with its last piece
            self._ready = False
            with suppress(OSError):
                self._put(name, data)
        except IsADirectoryError:
            return
        except OSError as exc:
            self._rest_until = time.monotonic() + _PAUSE_S
            if exc.errno in _FULL:
                self._clean(full=True)
            return
        self._unseen += len(data)
        if self._unseen * _SHARE > self._limit:
            self._unseen = 0
            self._clean()

    def _put(self, name: str, data: bytes | memoryview) -> None:
        if not self._ready:
            self._open()
        beside = os.path.join(self._folder, f".{os.urandom(8).hex()}")
        try:
            fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                view = memoryview(sum_of(data).to_bytes(_SUM, "little") + data)
                while len(view):
                    view = view[os.write(fd, view) :]
            finally:
                os.close(fd)
            os.rename(beside, os.path.join(self._folder, name))
        except OSError:
            with suppress(OSError):
                os.unlink(beside)
            raise

    @contextmanager
    def claimed(self, first: int, last: int) -> Iterator[bool]:
        """True where nobody else is fetching these pieces; False after those who did had time to end: look again.

        Only spares work: a claim that cannot be made costs a request and nothing else.  The lock is on numbers of
        pieces, not on bytes of the file that it is asked of, and ends with whoever holds it.
        """
        fd = -1
        try:
            with suppress(OSError):
                if not self._ready:
                    self._open()
                fd = os.open(os.path.join(self._folder, _CLAIM_FILE), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            yield fd < 0 or _alone(fd, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, first, last + 1 - first, 0))
        finally:
            if fd >= 0:
                os.close(fd)

    def _clean(self, *, full: bool = False) -> None:
        """Remove the oldest pieces beyond the limit, or of a full disk; one process at a time."""
        with suppress(OSError):
            lock = os.open(os.path.join(self._top, ".lock"), _READ | os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._remove_oldest(full)
            finally:
                os.close(lock)

    def _remove_oldest(self, full: bool) -> None:
        found: list[_Piece] = []
        with os.scandir(self._top) as images:
            folders = [image.path for image in images if image.is_dir(follow_symlinks=False)]
        for folder in folders:
            with suppress(OSError):
                found += _pieces(folder)
        total = sum(piece.size for piece in found)
        most = min(total, self._limit) if full else self._limit
        if total > self._limit or full:
            for piece in sorted(found):
                with suppress(OSError):
                    os.unlink(piece.path)
                total -= piece.size
                if total <= most * _LEFT:
                    break
        for folder in folders:
            if folder != self._folder:
                _forget(folder)


def _alone(fd: int, wish: bytes) -> bool:
    """Take the lock; where somebody has it, wait until they are done, or for a while."""
    until, pause, first = time.monotonic() + _CLAIM_S, 0.001, True
    while True:
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, wish)
        except OSError as exc:
            if exc.errno not in (errno.EAGAIN, errno.EACCES):
                return True  # no locks here
        else:
            return first
        if time.monotonic() > until:
            return False
        first = False
        time.sleep(pause)
        pause = min(pause * 2, 0.02)


def _pieces(folder: str) -> list[_Piece]:
    """What is kept of one image.  A part of an index is as young as the youngest piece: no read does without it."""
    out: list[_Piece] = []
    parts: list[_Piece] = []
    youngest, now = 0, time.time_ns()
    with os.scandir(folder) as inside:
        seen = list(inside)
    for one in seen:
        try:
            info = one.stat(follow_symlinks=False)
        except FileNotFoundError:  # another process removed it
            continue
        if one.name.startswith("."):
            if now - info.st_mtime_ns > _TEMPORARY_S * 1_000_000_000 and one.name != _CLAIM_FILE:
                with suppress(OSError):
                    os.unlink(one.path)
            continue
        youngest = max(youngest, info.st_mtime_ns)
        piece = _Piece(info.st_mtime_ns, info.st_size, one.path)
        (parts if one.name.startswith("index-") else out).append(piece)
    return out + [piece._replace(used_ns=youngest) for piece in parts]


def _forget(folder: str) -> None:
    """Remove the folder of an image of which nothing is kept."""
    with suppress(OSError):
        names = os.listdir(folder)
        if names in ([], [_CLAIM_FILE]):
            for name in names:
                os.unlink(os.path.join(folder, name))
            os.rmdir(folder)
