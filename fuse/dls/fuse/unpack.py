"""Writes what an image holds into a folder: proven while it is written, shown when it is complete."""

from __future__ import annotations

import errno
import os
import stat as st
from collections.abc import Callable
from contextlib import suppress

from dls.fuse import leftovers, listed
from dls.fuse.records import Attr, device_of
from dls.fuse.tree import Tree
from dls.logistics import digest as digests
from dls.logistics import names
from dls.logistics.entry import FILE, LINK, Entry
from dls.logistics.errors import Corrupt, Exists, Unsupported
from dls.logistics.stores.posix import PosixStore
from dls.logistics.stores.posix_errors import ours
from dls.logistics.transfer.progress import Progress

_STEP = 4 << 20
_NOT_HELD = frozenset({errno.ENOTSUP, errno.E2BIG, errno.ERANGE})
"""Of a file system without attributes, or with less room for them."""
_OWNERS = 0o6000
"""Set-user-ID and set-group-ID: kept only where the owner is."""


def unpack(
    image: Tree, folder: str, *, progress: Progress | None = None, alive: Callable[[], None] = lambda: None
) -> Progress:
    """Write the tree into `folder`, which is absent or empty; Corrupt where a byte is not what was packed.

    A tree that knows no digests (what others wrote) is read with the checks that its format has.

    Owners, devices and attributes beside `user.*` are kept where root unpacks, bits that lend the owner's rights where
    the owner is.  Whatever the tree says, nothing is written outside of the folder.
    """
    progress = progress or Progress()
    target = os.path.abspath(os.fsencode(folder))
    if os.path.isdir(target):
        target = os.path.realpath(target)  # a link to a folder means that folder
    shown, above = os.fsdecode(target), os.path.dirname(target)
    try:
        _check_free(target, shown)
        leftovers.sweep(above)
        beside = leftovers.hidden(above)
        store = PosixStore(os.fsdecode(beside))
        os.mkdir(beside, 0o700)
        held = os.open(beside, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            leftovers.hold(held)
            _Writing(image, beside, progress, alive).all()
            store.sync()
            with suppress(FileNotFoundError):
                os.rmdir(target)
            os.rename(beside, target)
            PosixStore(os.fsdecode(above)).sync()
        finally:
            os.close(held)
            store.wipe()  # what was not finished
    except OSError as exc:
        raise ours(exc, shown) from exc
    return progress


def _check_free(target: bytes, shown: str) -> None:
    """Exists where something is there that the tree cannot take the place of in one step."""
    if not os.path.lexists(target):
        return
    why = ""
    if not os.path.isdir(target):
        why = "is no folder"
    elif os.listdir(target):
        why = "is not empty"
    elif os.path.ismount(target):
        why = "is where a file system is mounted, of which nothing can take the place"
    if why:
        raise Exists(f"{shown} {why}", code="target-differs", remedy="name another folder", store=shown)


class _Writing:
    def __init__(self, image: Tree, root: bytes, progress: Progress, alive: Callable[[], None]) -> None:
        self._image, self._root, self._progress, self._alive = image, root, progress, alive
        self._is_root = os.geteuid() == 0
        self._met: dict[int, bytes] = {}
        """Where the first name of a node lies that is no file and has several; of files, the entries say it."""

    def all(self) -> None:
        """Folders, then files, then links, then what folders have of their own: writing inside changes it.

        No link is there while anything is written through a path; links themselves come last name first, so that no
        part of the path of one is another.
        """
        image, root = self._image, self._root
        folders: list[tuple[bytes, int]] = []
        for path, attr in image.walk():
            kind = attr.mode >> 12
            if kind == 4:
                os.mkdir(root + b"/" + names.check(path), 0o700)
                folders.append((path, attr.node))
            elif (kind in (1, 12) or (kind in (2, 6) and self._is_root)) and not self._again(names.check(path), attr):
                os.mknod(root + b"/" + path, attr.mode & ~0o7777 | 0o600, device_of(attr.rdev))
                self._dress(root + b"/" + path, attr)
        self._proven = listed.proven(image)
        for entry in listed.forwards(image):
            self._alive()
            if entry.kind == FILE:
                self._file(entry)
        for entry in listed.backwards(image):
            if entry.kind == LINK:
                self._link(entry)
        for path, node in reversed(folders):
            self._dress(root + b"/" + path, image.attr(node))
        self._dress(root, image.find(b""))

    def _again(self, path: bytes, attr: Attr) -> bool:
        """Whether this is a further name of what is there already: then it is given it."""
        first = self._met.setdefault(attr.node, path) if attr.nlink > 1 else path
        if first != path:
            os.link(self._root + b"/" + first, self._root + b"/" + path, follow_symlinks=False)
        return first != path

    def _link(self, entry: Entry) -> None:
        path = self._root + b"/" + names.check(entry.path)
        attr = self._image.find(entry.path)
        if not entry.target or b"\0" in entry.target:
            raise _differs(entry)
        if self._again(entry.path, attr):
            return
        os.symlink(entry.target, path)
        self._dress(path, attr)

    def _file(self, entry: Entry) -> None:
        path = self._root + b"/" + names.check(entry.path)
        if entry.target:
            os.link(self._root + b"/" + names.check(entry.target), path, follow_symlinks=False)
            self._progress.settled(1, 0)
            return
        attr = self._image.find(entry.path)
        if attr.size != entry.size or attr.mode >> 12 != 8:
            raise _differs(entry)
        hasher, zeros = digests.Hasher(0), bytes(min(attr.size, self._image.block))
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            for at in range(0, attr.size, _STEP):
                for piece in self._image.pieces(attr, at, at + _STEP):
                    hasher.update(piece)
                    if piece[0] or piece != zeros[: len(piece)]:
                        _write(fd, piece)
                    else:
                        os.lseek(fd, len(piece), os.SEEK_CUR)  # a hole stays one
            os.ftruncate(fd, attr.size)
        finally:
            os.close(fd)
        if (self._proven and hasher.digest() != entry.digest) or hasher.length != entry.size:
            raise _differs(entry)
        self._dress(path, attr)
        self._progress.settled(1, attr.size)

    def _dress(self, path: bytes, attr: Attr) -> None:
        """Owner, attributes, mode and time, in the order in which none undoes another."""
        if self._is_root:
            os.chown(path, attr.uid, attr.gid, follow_symlinks=False)
        for name, value in self._image.xattrs(attr).items():
            if self._is_root or name.startswith(b"user."):
                self._attribute(path, name, value)
        if not st.S_ISLNK(attr.mode):
            mode = attr.mode & 0o7777
            if not self._is_root and attr.mode >> 12 == 8 and (attr.uid, attr.gid) != (os.geteuid(), os.getegid()):
                mode &= ~_OWNERS
            os.chmod(path, mode)
        os.utime(path, ns=(attr.mtime_ns, attr.mtime_ns), follow_symlinks=False)

    def _attribute(self, path: bytes, name: bytes, value: bytes) -> None:
        try:
            os.setxattr(path, name, value, follow_symlinks=False)
        except OSError as exc:
            if exc.errno not in _NOT_HELD:
                raise
            shown, key = names.show(name), names.show(path[len(self._root) + 1 :])
            raise Unsupported(
                f"the file system cannot hold the extended attribute {shown} of {key or 'the folder'}: {exc.strerror}",
                code="kind-not-kept", key=key,
                remedy="unpack where attributes are held, or mount the image and copy what you need",
            ) from exc  # fmt: skip


def _differs(entry: Entry) -> Corrupt:
    shown = names.show(entry.path)
    return Corrupt(f"{shown} has another content than was packed", code="content-differs", key=shown)


def _write(fd: int, data: bytes | memoryview) -> None:
    """All of it: a disk that fills up takes a part without an error."""
    done = os.write(fd, data)
    while done < len(data):
        done += os.write(fd, memoryview(data)[done:])
