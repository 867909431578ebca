"""Mounts by libfuse, for systems where the kernel's wire is not open to us: FreeBSD, macOS; the only home of `mfusepy`.

Slower than our own server, the same tree.  Whatever is a `Tree` is mounted.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Final

from dls.fuse import mounting, records
from dls.fuse.background import descriptors, detach, log_line
from dls.fuse.mounting import MountOptions, Opener
from dls.fuse.mounts import SUBTYPE, on_top, real
from dls.fuse.records import FOR_EVER, Attr
from dls.fuse.tree import Tree
from dls.logistics.errors import DlsError, Invalid, NotFound, Unavailable, Unsupported

_PATIENCE_S: Final = 30.0
_WRITES: Final = os.O_WRONLY | os.O_RDWR | os.O_APPEND | os.O_TRUNC | os.O_CREAT


def library() -> Any:
    """`mfusepy` and the libfuse that it found; Unsupported where one is missing."""
    try:
        import mfusepy
    except ImportError as exc:
        raise Unsupported(
            "mounting by libfuse needs mfusepy, which is not installed", code="not-installed",
            remedy="pip install 'dls[archives]'",
        ) from exc  # fmt: skip
    except OSError as exc:  # it looks for the library when it is imported
        raise Unsupported("there is no libfuse", code="no-fuse", remedy="apt-get install fuse3") from exc
    return mfusepy


class Operations:
    """What libfuse asks, answered from a tree.  Paths are as the file system has them."""

    use_ns = True

    def __init__(self, tree: Tree, told: Callable[[str], None]) -> None:
        self._tree, self._told = tree, told

    def _find(self, path: str) -> Attr:
        try:
            return self._tree.find(os.fsencode(path)[1:])
        except (NotFound, Invalid):
            raise OSError(errno.ENOENT, path) from None
        except DlsError as error:
            raise self._broken(path, error) from error

    def _broken(self, path: str, error: DlsError) -> OSError:
        self._told(f"{path!r}: {error}")
        return OSError(errno.EIO, path)

    def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
        """The attributes of a name."""
        attr = self._find(path)
        return {
            "st_mode": attr.mode, "st_ino": attr.ino, "st_nlink": attr.nlink, "st_uid": attr.uid, "st_gid": attr.gid,
            "st_size": attr.size, "st_blocks": attr.blocks, "st_rdev": records.device_of(attr.rdev),
            "st_mtime": attr.mtime_ns, "st_ctime": attr.mtime_ns, "st_atime": attr.mtime_ns,
        }  # fmt: skip

    def readdir(self, path: str, fh: int) -> Iterator[Any]:
        """The names in a folder."""
        yield "."
        yield ".."
        try:
            for name, attr in self._tree.rows(self._find(path)):
                yield os.fsdecode(name), {"st_mode": attr.mode, "st_ino": attr.ino}, 0
        except DlsError as error:
            raise self._broken(path, error) from error

    def readlink(self, path: str) -> str:
        """The text of a link."""
        attr = self._find(path)
        try:
            return os.fsdecode(self._tree.text(attr))
        except DlsError as error:
            raise self._broken(path, error) from error

    def open(self, path: str, flags: int) -> int:
        """Open for reading; its number is that of the node."""
        if flags & _WRITES:
            raise OSError(errno.EROFS, path)
        return self._find(path).node

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        """A stretch of an open file."""
        try:
            return b"".join(self._tree.content(fh, offset, offset + size))
        except DlsError as error:
            raise self._broken(path, error) from error

    def listxattr(self, path: str) -> list[str]:
        """The names of extended attributes."""
        return [os.fsdecode(name) for name in self._xattrs(path)]

    def getxattr(self, path: str, name: str, position: int = 0) -> bytes:
        """An extended attribute."""
        found = self._xattrs(path).get(os.fsencode(name))
        if found is None:
            raise OSError(errno.ENODATA, path)
        return found

    def _xattrs(self, path: str) -> dict[bytes, bytes]:
        attr = self._find(path)
        try:
            return self._tree.xattrs(attr)
        except DlsError as error:
            raise self._broken(path, error) from error

    def statfs(self, path: str) -> dict[str, int]:
        """The size of it all."""
        tree = self._tree
        names = sum(tree.counts.get(kind, 0) for kind in ("files", "folders", "links", "others"))
        return {
            "f_bsize": 4096, "f_frsize": 4096, "f_blocks": -(-tree.size // 4096), "f_bfree": 0, "f_bavail": 0,
            "f_files": names, "f_ffree": 0, "f_favail": 0, "f_namemax": 255,
        }  # fmt: skip


def serve(name: str, opener: Opener, folder: str, options: MountOptions, told: Callable[[str], None]) -> None:
    """Mount and answer until it is unmounted; `name` is what the kernel shows as the source."""
    fuse = library()
    others = options.allow_other if options.allow_other is not None else os.geteuid() == 0
    shown = name.replace("\\", "\\\\").replace(",", "\\,")
    with opener() as tree:
        try:
            fuse.FUSE(
                Operations(tree, told), folder, foreground=True, ro=True, fsname=shown, subtype=SUBTYPE,
                allow_other=others, default_permissions=others, use_ino=True, kernel_cache=True,
                attr_timeout=FOR_EVER, entry_timeout=FOR_EVER,
            )  # fmt: skip
        except RuntimeError as exc:
            raise Unavailable(
                f"libfuse did not mount {folder} (it returned {exc})", code="mount-died", store=folder,
                remedy="see what it printed before",
            ) from exc  # fmt: skip


def in_background(name: str, opener: Opener, folder: str, options: MountOptions, log: str) -> int:
    """The same by a process that outlives this one; returns its number once the mount answers."""
    check(options)
    with opener():
        pass  # a bad archive is told here, to whoever asked
    folder = real(folder)
    mounting.check_folder(folder)
    child = os.fork()
    if child == 0:
        try:
            detach(log, descriptors())  # nothing of the caller's stays open
            serve(name, opener, folder, options, log_line)
        except DlsError as error:
            log_line(str(error))
        except BaseException as problem:  # noqa: BLE001 - the last line of a process
            log_line(f"{type(problem).__name__}: {problem}")
        finally:
            os._exit(0)
    until = time.monotonic() + _PATIENCE_S
    while on_top(folder) is None:
        with suppress(ChildProcessError):
            gone, _ = os.waitpid(child, os.WNOHANG)
            if gone or time.monotonic() > until:
                raise Unavailable(f"libfuse did not mount {folder}", code="mount-died", remedy=f"see {log}")
        time.sleep(0.02)
    os.stat(folder)  # waits for the first answer
    return child


def check(options: MountOptions) -> None:
    """Unsupported where libfuse is missing, or cannot do what is asked."""
    library()
    if options.idle_s or options.servers > 1:
        raise Unsupported(
            "a mount by libfuse has one server and no --idle-timeout", code="not-by-libfuse",
            remedy="leave --servers and --idle-timeout out, or mount --with kernel-wire",
        )  # fmt: skip


def wanted(how: str) -> bool:
    """Whether libfuse is to mount: asked for, or all that there is."""
    if how != "auto":
        return how == "libfuse"
    try:
        mounting.check_device()
    except Unsupported:
        try:
            library()
        except Unsupported:
            return False  # what is told then is why the usual way is closed
        return True
    return False
