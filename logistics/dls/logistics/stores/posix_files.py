"""Single files and folders of a POSIX file system: their stamps, entries, bytes and attributes."""

from __future__ import annotations

import errno
import os
import stat as st
import struct
from contextlib import suppress

from dls.logistics import digest as digests
from dls.logistics import names
from dls.logistics.entry import FILE, FOLDER, LINK, NO_MODE, NO_TIME, Entry
from dls.logistics.errors import Conflict
from dls.logistics.stores.posix_calls import umask
from dls.logistics.stores.posix_errors import ours

_STAMP = struct.Struct("<4q").pack
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def stamp_of(info: os.stat_result) -> bytes:
    """Inode, size, mtime_ns, ctime_ns: 32 bytes.  A folder's times change with what is in it, so it has none."""
    if info.st_mode & 0o170000 == st.S_IFDIR:
        return _STAMP(info.st_ino, 0, 0, info.st_mode)
    return _STAMP(info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)


def changed(where: str, key: bytes, expected: int, found: int) -> Conflict:
    """The error of a file whose length is not the listed one."""
    return Conflict(
        f"{where}/{names.show(key)} has {found if found <= expected else 'more than ' + str(expected)} bytes, "
        f"{expected} were expected: it changed at the source",
        code="source-changed",
        store=where,
        key=names.show(key),
        remedy="wait until nobody writes there, then register it again with dls catalogue add",
    )


def entry_of(key: bytes, path: bytes, info: os.stat_result, where: str) -> Entry:
    kind, mode = st.S_IFMT(info.st_mode), st.S_IMODE(info.st_mode)
    if kind == st.S_IFREG:
        return Entry(key, FILE, info.st_size, digests.UNKNOWN, mode, info.st_mtime_ns)
    if kind == st.S_IFDIR:
        return Entry(key, FOLDER, 0, digests.UNKNOWN, mode, info.st_mtime_ns)
    if kind == st.S_IFLNK:
        return Entry(key, LINK, 0, digests.UNKNOWN, NO_MODE, info.st_mtime_ns, os.readlink(path))
    raise ours(OSError(errno.ENXIO, "special file"), where, key)


def check_regular(info: os.stat_result, where: str, key: bytes) -> None:
    if not st.S_ISREG(info.st_mode):
        number = errno.EISDIR if st.S_ISDIR(info.st_mode) else errno.ENXIO
        raise ours(OSError(number, "not a file"), where, key)


def write_all(fd: int, data: bytes | bytearray | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def dress(fd: int, mode: int, mtime_ns: int) -> None:
    """Set what the creation of the file could not: bits hidden by the umask, special bits, the time."""
    if mode != NO_MODE and (mode & umask() or mode & ~0o777 or not mode & 0o200):
        os.fchmod(fd, mode)
    if mtime_ns != NO_TIME:
        os.utime(fd, ns=(mtime_ns, mtime_ns))


def make_folder(path: bytes, entry: Entry) -> None:
    try:
        os.mkdir(path)
    except FileExistsError:
        if not st.S_ISDIR(os.lstat(path).st_mode):
            os.unlink(path)
            os.mkdir(path)
    if entry.mode != NO_MODE:
        os.chmod(path, entry.mode)
    if entry.mtime_ns != NO_TIME:
        os.utime(path, ns=(entry.mtime_ns, entry.mtime_ns))


def remove_tree(root: bytes) -> None:
    """Remove a folder and all in it, closed folders too; whatever else is there; nothing is fine."""
    try:
        kind = os.lstat(root).st_mode
    except FileNotFoundError:
        return
    if not st.S_ISDIR(kind):
        os.unlink(root)
        return
    # However deep it is: no path grows, no call is inside another, and two folders are open.
    at, above = _entered(root), list[tuple[bytes, os.stat_result]]()
    try:
        todo = [_emptied(at)]
        while todo:
            if todo[-1]:
                name = todo[-1].pop()
                above.append((name, os.fstat(at)))
                at = _moved(at, _entered(name, at))
                todo.append(_emptied(at))
                continue
            todo.pop()
            if above:
                name, folder = above.pop()
                at = _moved(at, os.open(b"..", _FOLDER, dir_fd=at))
                if not os.path.samestat(folder, os.fstat(at)):
                    raise OSError(errno.ESTALE, "a folder was moved while it was removed")
                os.rmdir(name, dir_fd=at)
    finally:
        os.close(at)
    os.rmdir(root)


def _entered(path: bytes, folder: int | None = None) -> int:
    """A folder, opened, with the rights that removing what is in it takes."""
    try:
        fd = os.open(path, _FOLDER, dir_fd=folder)
    except PermissionError:
        os.chmod(path, 0o700, dir_fd=folder)
        fd = os.open(path, _FOLDER, dir_fd=folder)
    if os.fstat(fd).st_mode & 0o700 != 0o700:
        with suppress(PermissionError):  # another user's, in which this one may write all the same
            os.fchmod(fd, 0o700)
    return fd


def _emptied(fd: int) -> list[bytes]:
    """Remove what is in a folder, but for its folders: their names."""
    with os.scandir(fd) as found:  # most file systems say the kind with the name
        inside = [(os.fsencode(one.name), one.is_dir(follow_symlinks=False)) for one in found]
    for name, is_folder in inside:
        if not is_folder:
            os.unlink(name, dir_fd=fd)
    return [name for name, is_folder in inside if is_folder]


def _moved(old: int, new: int) -> int:
    os.close(old)
    return new


def make_link(entry: Entry, path: bytes) -> None:
    """A symbolic link, with its time."""
    os.symlink(entry.target, path)
    if entry.mtime_ns != NO_TIME:
        os.utime(path, ns=(entry.mtime_ns, entry.mtime_ns), follow_symlinks=False)


def same_link(path: bytes, entry: Entry) -> bool:
    """Whether the link is there already: its folder may be closed for writing by now."""
    try:
        info = os.lstat(path)
        same = st.S_ISLNK(info.st_mode) and os.readlink(path) == entry.target
    except FileNotFoundError:
        return False
    return same and entry.mtime_ns in (NO_TIME, info.st_mtime_ns)


def same_file(first: bytes, second: bytes) -> bool:
    try:
        return os.path.samestat(os.lstat(first), os.lstat(second))
    except FileNotFoundError:
        return False
