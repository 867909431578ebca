"""System calls that Python's `os` lacks: syncfs(2), renameat2(2) with RENAME_NOREPLACE, fallocate(2), fstatfs(2),
sync_file_range(2), prctl(2)."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
from functools import cache

_AT_FDCWD = -100
_NOREPLACE = 1
_BEGIN_WRITING = 2
_TMPFS = 0x01021994
_PR_SET_PDEATHSIG = 1


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _failed(path: bytes) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), os.fsdecode(path))


def syncfs(path: bytes) -> None:
    """Flush the file system that holds `path`; returns when everything written to it is on the medium."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc().syncfs(fd) != 0:
            raise _failed(path)
    finally:
        os.close(fd)


def write_soon(fd: int, start: int, size: int) -> None:
    """Have the kernel begin to write this range out, without waiting: a later sync finds less to do.  A wish only."""
    libc = _libc()
    if hasattr(libc, "sync_file_range"):
        libc.sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
        libc.sync_file_range(fd, start, size, _BEGIN_WRITING)


def rename_new(first: bytes, second: bytes) -> None:
    """Rename, refusing (EEXIST) where the second name exists; atomic where the file system supports it."""
    libc = _libc()
    if hasattr(libc, "renameat2"):
        if libc.renameat2(_AT_FDCWD, first, _AT_FDCWD, second, _NOREPLACE) == 0:
            return
        if ctypes.get_errno() not in (errno.EINVAL, errno.ENOSYS):
            raise _failed(second)
    if os.path.lexists(second):
        raise OSError(errno.EEXIST, os.strerror(errno.EEXIST), os.fsdecode(second))
    os.rename(first, second)


def allocate(fd: int, size: int) -> None:
    """Reserve `size` bytes for a file and set its length; a file system without fallocate gets the length only.

    So does one in memory, where that fits: there fallocate takes every page at once, in one thread (0.2 s a gigabyte,
    a fifth of the time of a download), and writing takes them anyway.
    """
    libc = _libc()
    libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    if _in_memory(fd):
        free = os.fstatvfs(fd)
        if size > free.f_bavail * free.f_frsize:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    elif size and libc.fallocate(fd, 0, 0, size) != 0:
        number = ctypes.get_errno()
        if number not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
            raise OSError(number, os.strerror(number))
    if os.fstat(fd).st_size != size:
        os.ftruncate(fd, size)


def _in_memory(fd: int) -> bool:
    """Whether a file lies on tmpfs: statfs(2) begins with the kind of file system, a long."""
    told = (ctypes.c_long * 32)()  # 256 bytes: the structure has 120, on 64-bit machines
    return _libc().fstatfs(fd, told) == 0 and told[0] == _TMPFS


def end_with_parent(parent: int) -> None:
    """Be killed when the thread that started this process ends; leave at once where `parent` (its id) is gone."""
    libc = _libc()
    if hasattr(libc, "prctl"):
        libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)


@cache
def umask() -> int:
    """This process's umask, read without changing it."""
    try:
        with open("/proc/self/status", "rb") as status:
            for line in status:
                if line.startswith(b"Umask:"):
                    return int(line.split()[1], 8)
    except OSError:
        pass
    return 0o777
