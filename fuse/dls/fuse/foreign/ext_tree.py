"""Trees in file systems of ext2, ext3 and ext4.  A place is the number of an inode."""

from __future__ import annotations

import stat as st
from collections.abc import Iterator
from typing import Final

from dls.fuse.foreign.archive import Archive, Context, index_of, unreadable
from dls.fuse.foreign.ext import ROOT, FileSystem, Inode, Run
from dls.fuse.foreign.ext_names import inline_data, names_in, text_of, xattrs_of
from dls.fuse.image import Source
from dls.fuse.index import Index
from dls.fuse.indexing import Making, place
from dls.fuse.layout import Place
from dls.fuse.records import Attr
from dls.fuse.source import Item, Row, ordered
from dls.logistics import names

_FILES_KEPT: Final = 128


class Ext(Archive):
    """A file system of the ext family."""

    form = "ext"

    def __init__(self, source: Source, disk: FileSystem, index: Index, fd: int) -> None:
        super().__init__(source, index, fd)
        self._disk = disk

    def pieces(self, attr: Attr, start: int, stop: int) -> list[bytes | memoryview]:
        """The bytes `start … stop-1` of a file."""
        stop = min(stop, attr.size)
        if start >= stop:
            return []
        inode, runs = self.recent(attr.a, lambda: self._file(attr), _FILES_KEPT)
        if inode.encrypted:
            raise unreadable(self.name, "the file is encrypted", "mount it with the kernel and its key")
        if inode.inline:
            found = inline_data(self._disk, inode)[start:stop]
            return [found + bytes(stop - start - len(found))]
        return self._disk.read(inode, runs, start, stop)

    def _file(self, attr: Attr) -> tuple[Inode, list[Run]]:
        inode = self._disk.inode(attr.a)
        if inode.size != attr.size:
            raise self.damaged(f"inode {inode.number:,} is not what it was")
        return inode, [] if inode.inline else self._disk.runs(inode)


class _Walk:
    """Items of a file system, folder by folder."""

    def __init__(self, disk: FileSystem, context: Context, notes: list[str]) -> None:
        self._disk, self._context, self._notes = disk, context, notes
        self._folders: dict[bytes, Inode] = {}
        self._seen: set[int] = set()
        self._where: dict[bytes, tuple[int, int]] = {}
        """Of files that were listed and not given yet: the inode, and the bytes of holes."""

    def rows(self) -> Iterator[tuple[Item, Place]]:
        """In order of the manifest."""
        root = self._disk.inode(ROOT)
        if not st.S_ISDIR(root.mode):
            raise self._disk.damaged("its root is no folder")
        self._folders[b""] = root
        for item in ordered(self._item(b"", root), self._inside):
            number, holes = self._where.pop(item.path, (0, 0))
            yield item, place(number, 0, 0, holes)

    def _inside(self, above: bytes) -> list[Row]:
        disk, folder = self._disk, self._folders.pop(above)
        if folder.number in self._seen:
            raise disk.damaged(f"the folder of inode {folder.number:,} is in several places")
        self._seen.add(folder.number)
        rows: dict[bytes, Item] = {}
        for name, number in sorted(names_in(disk, folder)):
            path = above + name
            if name.startswith(names.HIDDEN):
                self._notes.append(f"{names.show(path)} is left out: names that begin with .dls- are reserved")
                continue
            if path in rows:
                raise disk.damaged(f"{names.show(path)} is there twice")
            inode = disk.inode(number)
            if st.S_ISDIR(inode.mode):
                self._folders[path + b"/"] = inode
            elif st.S_ISREG(inode.mode):
                self._where[path] = number, 0 if inode.inline else max(0, inode.size - inode.sectors * 512)
            elif not inode.mode:
                raise disk.damaged(f"{names.show(path)} has no inode")
            rows[path] = self._item(path, inode)
        self._context.progress.settled(len(rows), 0)
        return sorted(rows.items())

    def _item(self, path: bytes, inode: Inode) -> Item:
        kind, disk = st.S_IFMT(inode.mode), self._disk
        if kind not in (st.S_IFDIR, st.S_IFREG, st.S_IFLNK, st.S_IFBLK, st.S_IFCHR, st.S_IFIFO, st.S_IFSOCK):
            raise disk.damaged(f"inode {inode.number:,} is of no kind")
        folder, text = kind == st.S_IFDIR, text_of(disk, inode) if kind == st.S_IFLNK else b""
        size = inode.size if kind == st.S_IFREG else len(text)
        if size >= 1 << 62:
            raise disk.damaged(f"inode {inode.number:,} has an impossible size")
        device = inode.device if kind in (st.S_IFBLK, st.S_IFCHR) else 0
        group = (0, inode.number) if inode.nlink > 1 and not folder else None
        return Item(
            path, inode.mode, inode.uid, inode.gid, inode.mtime_ns, size, group, device, text,
            xattrs_of(disk, inode), False, 1 if folder else max(1, inode.nlink),
        )  # fmt: skip


def open_ext(source: Source, stamp: str, context: Context) -> Ext:
    """The tree in a file system."""
    disk = FileSystem(source)

    def make(making: Making) -> None:
        notes = [] if disk.clean else ["it was not unmounted cleanly: what was written last may be missing"]
        context.progress.files_total = disk.inodes
        making.index(_Walk(disk, context, notes).rows(), {"notes": notes})

    fd, index = index_of(source, "ext", stamp, context, make)
    return Ext(source, disk, index, fd).keep(context)
