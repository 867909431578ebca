"""Our index for what is no image of ours: made from items and places, kept in a folder for the next time.

    index = build(rows, fd, …)      # rows: (Item, Place) in order of the manifest
    kept(folder, version, make)     # the same by way of a file that later openings find

A place is 40 + 32 + 32 bits that say to the format's own reader where the bytes are: `attr.a, attr.b, attr.c`.  The
file may hold data before the index, as an image does: what was unpacked for reading out of order.
"""

from __future__ import annotations

import gc
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Final

from dls.fuse import squashfs
from dls.fuse.blocks import Form
from dls.fuse.groups import Groups
from dls.fuse.index import EXTENT, FOOTER, PAGE, Header, Index, Out, damaged, mapped
from dls.fuse.layout import Layout, Place
from dls.fuse.records import FRAME
from dls.fuse.source import Item
from dls.fuse.spool import Spool
from dls.logistics.errors import DlsError
from dls.logistics.manifest import in_memory
from dls.logistics.stores.posix_errors import ours

BLOCK: Final = 128 << 10
FOLDER: Final = "indexes"
"""Where indexes are kept, inside a user's folder of pieces: what another user made is never read."""


class _NoTables(squashfs.Tables):
    """Takes the place of SquashFS's own tables, which nobody will read."""

    def __init__(self) -> None:
        pass

    def xattrs(self, pairs: object) -> int:
        """Keeps none."""
        return squashfs.NONE

    def file(self, node: squashfs.Node, size: int, where: squashfs.Where) -> tuple[int, int]:
        """Keeps nothing."""
        return 0, 0

    def plain(self, *fields: object) -> tuple[int, int]:
        """Keeps nothing."""
        return 0, 0

    def link(self, node: squashfs.Node, text: bytes) -> tuple[int, int]:
        """Keeps nothing."""
        return 0, 0

    def special(self, node: squashfs.Node, type_: int, device: int) -> tuple[int, int]:
        """Keeps nothing."""
        return 0, 0

    def folder(self, node: squashfs.Node, parent: int, entries: object) -> tuple[int, int, int]:
        """Keeps nothing."""
        return 0, 0, 0


def place(a: int = 0, b: int = 0, c: int = 0, holes: int = 0) -> Place:
    """What a reader gets back as `attr.a` (40 bits), `attr.b` and `attr.c` (32 bits each)."""
    return Place(0, a, holes, squashfs.NONE, b, c, c, 0)


class Making:
    """What is being made in a file: data first, if there are any, then the index."""

    def __init__(self, fd: int, folder: bytes) -> None:
        self.fd, self.at, self._folder = fd, 0, folder
        self.version = ""
        """What it belongs to."""
        self.blocks = self.spool()
        """One row of EXTENT for each block of data."""

    def spool(self) -> Spool:
        """Room for bytes that are wanted later."""
        return Spool(self._folder)

    def write(self, data: bytes | memoryview) -> None:
        """Append to the file."""
        view = memoryview(data)
        while len(view):
            done = os.pwrite(self.fd, view, self.at)
            self.at += done
            view = view[done:]

    def index(self, rows: Iterable[tuple[Item, Place]], about: dict[str, Any], block: int = BLOCK) -> None:
        """Write the index of `rows`; `about` says what it belongs to."""
        collects = gc.isenabled()
        gc.disable()  # millions of small tuples, none in a cycle
        try:
            layout = Layout(Form(block), self.spool, self.blocks, tables=_NoTables())
            groups = Groups(self.spool)
            layout.extend((groups.numbered(item), place) for item, place in rows)
            layout.finish()
        finally:
            if collects:
                gc.enable()
        self.write(bytes(-self.at % PAGE))
        self._end(layout, {**about, "of": self.version, "bytes": self.at, "block": block, "frame": FRAME})

    def _end(self, layout: Layout, image: dict[str, Any]) -> None:
        space = layout.space.finish()
        out = Out(self.write)
        out.paged("frames", layout.frames)
        _plain(out, "frame data", layout.frame_data)
        out.paged("blocks", self.blocks)
        out.paged("names", layout.names.parts())
        out.paged("xattrs", layout.xattr_rows)
        _plain(out, "xattr data", layout.xattr_data)
        out.paged("segments", ())
        out.whole("refs", in_memory(()).encode_refs())
        counts = {**layout.kinds, "blocks": len(self.blocks) // EXTENT.size}
        out.end(Header(image, counts, layout.root[2], space, layout.names.slots, out.sections, out.digests, {}))


def _plain(out: Out, name: str, parts: Iterable[bytes]) -> None:
    out.align()
    at = out.size
    for part in parts:
        out.add(part)
    out.sections[name] = (at, out.size - at)


def build(rows: Iterable[tuple[Item, Place]], fd: int, about: dict[str, Any] | None = None) -> Index:
    """The index of items in order of the manifest, written to an empty file."""
    Making(fd, _temporary()).index(rows, about or {})
    return opened(fd)


def opened(fd: int) -> Index:
    """The index at the end of a file."""
    size = os.fstat(fd).st_size
    end = os.pread(fd, FOOTER.size, max(0, size - FOOTER.size))
    whole = FOOTER.unpack(end)[-1] if len(end) == FOOTER.size else 0
    if not FOOTER.size < whole <= size:
        raise damaged("it has no end")
    return Index(mapped(fd, size - whole, whole))


def kept(folder: str, version: str, make: Callable[[Making], None]) -> tuple[int, Index]:
    """A descriptor, and the index in it: as a file of `folder` has it, or as `make` makes it now.

    `version` names what it is the index of, and by what it was made.  A file that is damaged is made anew.  Where the
    folder cannot be written (or is ''), a nameless file serves, for this time only.
    """
    if folder:
        with suppress(OSError, DlsError):
            return _found(path_of(folder, version), version)
    fd, beside, path = _target(folder, version)
    try:
        make(Making(fd, os.path.dirname(os.fsencode(path)) if path else _temporary()))
        if path:
            os.rename(beside, path)
            beside = ""
        return fd, opened(fd)
    except OSError as exc:
        os.close(fd)
        raise ours(exc, path or tempfile.gettempdir()) from exc
    except BaseException:
        os.close(fd)
        raise
    finally:
        if beside:
            os.unlink(beside)


def path_of(folder: str, version: str) -> str:
    """The file of a folder that keeps an index."""
    return os.path.join(folder, f"user-{os.geteuid()}", FOLDER, f"{version}.idx")


def _target(folder: str, version: str) -> tuple[int, str, str]:
    """A descriptor to write to, the name that it has until it is complete, and the one that it will have then."""
    if folder:
        path = path_of(folder, version)
        where = os.path.dirname(path)
        beside = os.path.join(where, f".{version}.{os.getpid()}.{os.urandom(4).hex()}")
        with suppress(OSError):
            os.makedirs(os.path.dirname(where), mode=0o700, exist_ok=True)
            os.makedirs(where, mode=0o700, exist_ok=True)
            if all(_is_ours(os.lstat(one)) for one in (os.path.dirname(where), where)):
                fd = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                return fd, beside, path
    with tempfile.TemporaryFile(prefix="dls-index-") as file:
        return os.dup(file.fileno()), "", ""


def _is_ours(info: os.stat_result) -> bool:
    """Whether only this user can have written there."""
    return info.st_uid == os.geteuid() and not info.st_mode & 0o022


def _found(path: str, version: str) -> tuple[int, Index]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if not _is_ours(os.fstat(fd)):
            raise damaged("somebody else wrote it")
        index = opened(fd)
        image = index.header.image
        if image.get("of") != version or image.get("bytes") != os.fstat(fd).st_size - len(index.data):
            raise damaged("it belongs to something else")
        with suppress(OSError):
            # What is used is not what is cleaned away first; its time of change stays, for those who have it open.
            os.utime(fd, ns=(time.time_ns(), os.fstat(fd).st_mtime_ns))
        return fd, index
    except BaseException:
        os.close(fd)
        raise


def _temporary() -> bytes:
    return os.fsencode(tempfile.gettempdir())
