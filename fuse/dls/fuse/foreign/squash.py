"""Trees in SquashFS 4.0 images that others wrote, with every compressor.

Format: the kernel's Documentation/filesystems/squashfs.rst.  A place is a reference to an inode.  SquashFS has no
checksums: what a decoder does not notice is given as it is.
"""

from __future__ import annotations

import stat as st
import struct
from array import array
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from dls.fuse.foreign.archive import Archive, Context, damaged, index_of, unreadable
from dls.fuse.foreign.metadata import Metadata, decompressor
from dls.fuse.image import Source
from dls.fuse.index import Index
from dls.fuse.indexing import Making, place
from dls.fuse.layout import Place
from dls.fuse.records import LOW, Attr, device_of
from dls.fuse.source import Item, Row, ordered
from dls.fuse.squashfs import (
    BLOCK_DEVICE,
    CHAR_DEVICE,
    DIR,
    EXTENDED,
    FIFO,
    FILE,
    LINK,
    MAGIC,
    NO_TABLE,
    NONE,
    RAW,
    SOCKET,
    SUPER,
    Super,
)
from dls.logistics import names
from dls.logistics.errors import Corrupt

_COMMON: Final = struct.Struct("<HHHHII")
_KINDS: Final = {
    DIR: st.S_IFDIR, FILE: st.S_IFREG, LINK: st.S_IFLNK, BLOCK_DEVICE: st.S_IFBLK, CHAR_DEVICE: st.S_IFCHR,
    FIFO: st.S_IFIFO, SOCKET: st.S_IFSOCK,
}  # fmt: skip
_FILES_KEPT: Final = 128
_BLOCKS_KEPT: Final = 64
_LONGEST_TEXT: Final = 65535


class Inode(NamedTuple):
    """An inode: what every kind has, and what its own kind has."""

    type: int
    mode: int
    """With the type, as in `st_mode`."""
    uid: int
    gid: int
    mtime: int
    number: int
    nlink: int
    xattr: int
    size: int
    device: int = 0
    text: bytes = b""
    start: int = 0
    """Of a file: where its blocks begin; of a folder: the block of its listing, from the start of that table."""
    offset: int = 0
    """Inside the fragment, or the block of the listing."""
    fragment: int = NONE
    sizes_at: tuple[int, int] = (0, 0)
    holes: int = 0


class Tables:
    """The tables of an image, decoded as they are asked for."""

    def __init__(self, source: Source) -> None:
        self.source, self.name = source, source.name
        head = source.at(0, SUPER.size)
        if len(head) != SUPER.size:
            raise self.damaged("it was cut short", len(head))
        self.head = found = Super(*SUPER.unpack(head))
        if found.magic != MAGIC:
            raise self.damaged("it is no SquashFS", 0)
        if found.major != 4:
            raise unreadable(self.name, f"it is SquashFS {found.major}.{found.minor}", "make it anew with mksquashfs 4")
        if found.block != 1 << found.block_log or not 4096 <= found.block <= 1 << 20:
            raise self.damaged("its superblock says an impossible size of blocks", 12)
        if found.used > source.size:
            raise self.damaged(f"it was cut short: {source.size:,} of {found.used:,} bytes are there", source.size)
        self.decode = decompressor(found.compressor, self.name)
        self.meta = Metadata(source, self.decode, found.used)
        self.fragment_starts = self._starts(found.fragment_table, found.fragments, 16)
        self.ids = self._ids()
        self._xattr_from, self._xattr_starts, self._xattr_count = self._xattr_table()

    def damaged(self, why: str, at: int = -1) -> Corrupt:
        """What is wrong, and where."""
        return damaged(self.name, why, at)

    def _starts(self, at: int, count: int, row: int) -> array[int]:
        """Where the metadata blocks of a table begin, whose rows have `row` bytes."""
        blocks = -(-count * row // 8192)
        out = array("Q")
        if not count:
            return out
        if at + 8 * blocks > self.head.used:
            raise self.damaged("a table lies outside", at)
        out.frombytes(self.source.at(at, 8 * blocks))
        return out

    def _ids(self) -> array[int]:
        out = array("I")
        for start in self._starts(self.head.id_table, self.head.ids, 4):
            out.frombytes(self.meta.block(start)[0])
        return out

    def _xattr_table(self) -> tuple[int, array[int], int]:
        at = self.head.xattr_table
        if at == NO_TABLE:
            return 0, array("Q"), 0
        head = self.source.at(at, 16)
        if len(head) != 16:
            raise self.damaged("a table lies outside", at)
        begin, count, _ = struct.unpack("<QII", head)
        return begin, self._starts(at + 16, count, 16), count

    def fragment(self, number: int) -> tuple[int, int]:
        """(Start, stored size with RAW) of a fragment."""
        if number >= self.head.fragments:
            raise self.damaged(f"fragment {number} of {self.head.fragments} is asked for")
        data = self.meta.block(self.fragment_starts[number // 512])[0]
        at = number % 512 * 16
        if at + 16 > len(data):
            raise self.damaged("the table of fragments is shorter than it says")
        start, size, _ = struct.unpack_from("<QII", data, at)
        return start, size

    # ------------------------------------------------------------------------------------------- inodes

    def inode(self, reference: int) -> Inode:
        """The inode at (block << 16 | offset) in the table of inodes."""
        reader = self.meta.reader(self.head.inode_table + (reference >> 16), reference & 0xFFFF)
        type_, mode, uid, gid, mtime, number = reader.unpack(_COMMON)
        kind = type_ - EXTENDED if type_ > EXTENDED else type_
        if kind not in _KINDS or uid >= len(self.ids) or gid >= len(self.ids):
            raise self.damaged(f"inode {number} is impossible")
        common = (type_, _KINDS[kind] | mode & 0o7777, self.ids[uid], self.ids[gid], mtime, number)
        take, wide = reader.take, type_ > EXTENDED
        if kind == DIR:
            if wide:
                nlink, size, start, _, _, offset, xattr = take("<IIIIHHI")
            else:
                start, nlink, size, offset, _ = take("<IIHHI")
                xattr = NONE
            return Inode(*common, nlink, xattr, size, start=start, offset=offset)
        if kind == FILE:
            if wide:
                start, size, holes, nlink, fragment, offset, xattr = take("<QQQIIII")
            else:
                start, fragment, offset, size = take("<IIII")
                nlink, xattr, holes = 1, NONE, 0
            return Inode(*common, nlink, xattr, size, 0, b"", start, offset, fragment, reader.here(), min(holes, size))
        if kind == LINK:
            nlink, size = take("<II")
            if size > _LONGEST_TEXT:
                raise self.damaged(f"the link of inode {number} is impossible")
            text = reader.read(size)
            return Inode(*common, nlink, take("<I")[0] if wide else NONE, size, text=text)
        device = 0
        if kind in (BLOCK_DEVICE, CHAR_DEVICE):
            nlink, device = take("<II")
        else:
            (nlink,) = take("<I")
        return Inode(*common, nlink, take("<I")[0] if wide else NONE, 0, device_of(device))

    def sizes(self, inode: Inode) -> array[int]:
        """Stored sizes of the blocks of a file, with RAW."""
        count = inode.size // self.head.block if inode.fragment != NONE else -(-inode.size // self.head.block)
        reader = self.meta.reader(*inode.sizes_at)
        out = array("I")
        if count > self.head.used:  # each takes four bytes, compressed a few bits
            raise self.damaged(f"inode {inode.number} says an impossible size")
        while len(out) < count:
            out.frombytes(reader.read(4 * min(1 << 16, count - len(out))))
        return out

    def listing(self, inode: Inode) -> Iterator[tuple[bytes, int]]:
        """(Name, reference to the inode) of what is in a folder."""
        left = inode.size - 3  # for . and .., which are not there
        reader = self.meta.reader(self.head.dir_table + inode.start, inode.offset)
        while left > 0:
            count, start, _ = reader.take("<III")
            left -= 12
            if count > 255:
                raise self.damaged(f"the folder of inode {inode.number} is impossible")
            for _ in range(count + 1):
                offset, _, _, size = reader.take("<HhHH")
                left -= 9 + size
                if left < 0:
                    raise self.damaged(f"the folder of inode {inode.number} is impossible")
                yield reader.read(size + 1), start << 16 | offset

    def xattrs(self, number: int) -> tuple[tuple[bytes, bytes], ...]:
        """Set `number` of extended attributes."""
        if number == NONE:
            return ()
        if number >= self._xattr_count:
            raise self.damaged(f"set {number} of extended attributes is asked for")
        data = self.meta.block(self._xattr_starts[number // 512])[0]
        reference, count, _ = struct.unpack_from("<QII", data.ljust(number % 512 * 16 + 16, b"\xff"), number % 512 * 16)
        reader = self.meta.reader(self._xattr_from + (reference >> 16), reference & 0xFFFF)
        out = []
        for _ in range(count):
            kind, size = reader.take("<HH")
            prefix = (b"user.", b"trusted.", b"security.")[kind & 0xFF] if kind & 0xFF < 3 else None
            name = reader.read(size)
            (size,) = reader.take("<I")
            value = reader.read(size) if size <= 1 << 16 else None
            if prefix is None or value is None:
                raise self.damaged("extended attributes are impossible")
            if kind & 0x100:  # the value is elsewhere
                (where,) = struct.unpack("<Q", value)
                other = self.meta.reader(self._xattr_from + (where >> 16), where & 0xFFFF)
                (size,) = other.take("<I")
                value = other.read(min(size, 1 << 16))
            out.append((prefix + name, value))
        return tuple(sorted(out))


class _Walk:
    """Items of an image, folder by folder."""

    def __init__(self, tables: Tables, context: Context, notes: list[str]) -> None:
        self._tables, self._context, self._notes = tables, context, notes
        self._folders: dict[bytes, Inode] = {}
        self._seen: set[int] = set()
        self._where: dict[bytes, tuple[int, int]] = {}
        """Of files that were listed and not given yet: the inode, and the bytes of holes."""

    def rows(self) -> Iterator[tuple[Item, Place]]:
        """In order of the manifest."""
        tables = self._tables
        root = tables.inode(tables.head.root)
        if not st.S_ISDIR(root.mode):
            raise tables.damaged("its root is no folder")
        self._folders[b""] = root
        for item in ordered(self._item(b"", root), self._inside):
            reference, holes = self._where.pop(item.path, (0, 0))
            yield item, place(reference & LOW, reference >> 40, 0, holes)

    def _inside(self, above: bytes) -> list[Row]:
        tables, context = self._tables, self._context
        folder = self._folders.pop(above)
        if folder.number in self._seen:
            raise tables.damaged(f"the folder of inode {folder.number} is in several places")
        self._seen.add(folder.number)
        rows: list[Row] = []
        last = b""
        for name, reference in tables.listing(folder):
            if name <= last or b"/" in name or b"\0" in name or name in (b".", b".."):
                raise tables.damaged(f"{names.show(above + name)} is an impossible name, or out of order")
            last = name
            path = above + name
            if name.startswith(names.HIDDEN):
                self._notes.append(f"{names.show(path)} is left out: names that begin with .dls- are reserved")
                continue
            inode = tables.inode(reference)
            if st.S_ISDIR(inode.mode):
                self._folders[path + b"/"] = inode
            elif st.S_ISREG(inode.mode):
                self._where[path] = reference, inode.holes
            rows.append((path, self._item(path, inode)))
        context.progress.settled(len(rows), 0)
        rows.sort()
        return rows

    def _item(self, path: bytes, inode: Inode) -> Item:
        folder = st.S_ISDIR(inode.mode)
        size = inode.size if st.S_ISREG(inode.mode) else len(inode.text)
        group = (0, inode.number) if inode.nlink > 1 and not folder else None
        return Item(
            path, inode.mode, inode.uid, inode.gid, inode.mtime * 1_000_000_000, size, group, inode.device, inode.text,
            self._tables.xattrs(inode.xattr), False, 1 if folder else inode.nlink,
        )  # fmt: skip


class Squash(Archive):
    """A SquashFS."""

    form = "SquashFS"

    def __init__(self, source: Source, tables: Tables, index: Index, fd: int) -> None:
        super().__init__(source, index, fd)
        self._tables = tables

    def pieces(self, attr: Attr, start: int, stop: int) -> list[bytes | memoryview]:
        """The bytes `start … stop-1` of a file."""
        stop = min(stop, attr.size)
        if start >= stop:
            return []
        inode, sizes, starts = self.recent(attr.a | attr.b << 40, lambda: self._file(attr), _FILES_KEPT)
        block = self.block
        out: list[bytes | memoryview] = []
        while start < stop:
            number, inside = divmod(start, block)
            plain = min(block, attr.size - number * block)
            end = min(plain, inside + stop - start)
            if number < len(sizes):
                data: Any = self._block(starts[number], sizes[number], plain)
                if len(data) != plain:
                    raise self.damaged("a block has another length than its file", starts[number])
                out.append(memoryview(data)[inside:end])
            else:
                where, size = self._tables.fragment(inode.fragment)
                data = self._block(where, size, block)
                if inode.offset + plain > len(data):
                    raise self.damaged("a file ends outside of its fragment", where)
                out.append(memoryview(data)[inode.offset + inside : inode.offset + end])
            start += end - inside
        return out

    def _file(self, attr: Attr) -> tuple[Inode, array[int], array[int]]:
        inode = self._tables.inode(attr.a | attr.b << 40)
        if inode.size != attr.size:
            raise self.damaged(f"inode {inode.number} is not what it was")
        sizes, starts, at = self._tables.sizes(inode), array("Q"), inode.start
        for size in sizes:
            starts.append(at)
            at += size & ~RAW
        return inode, sizes, starts

    def _block(self, at: int, stored: int, plain: int) -> bytes:
        size = stored & ~RAW
        if not size:
            return bytes(plain)
        if size > self.block or at + size > self.size:
            raise self.damaged("a block lies outside", at)

        def make() -> bytes:
            data = self.source.at(at, size)
            try:
                return data if stored & RAW else self._tables.decode(data, self.block)
            except Corrupt as exc:
                raise self.damaged(exc.message, at) from exc

        found: bytes = self.recent((at, stored), make, _BLOCKS_KEPT)
        return found


def open_squash(source: Source, stamp: str, context: Context) -> Squash:
    """The tree in a SquashFS."""
    tables = Tables(source)

    def make(making: Making) -> None:
        notes: list[str] = []
        context.progress.files_total = tables.head.inodes
        making.index(_Walk(tables, context, notes).rows(), {"notes": notes}, tables.head.block)

    fd, index = index_of(source, "squashfs", stamp, context, make)
    return Squash(source, tables, index, fd).keep(context)
