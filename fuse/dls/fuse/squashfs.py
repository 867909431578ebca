"""SquashFS 4.0 as it lies on the disk, and a writer of it.

Format: the kernel's Documentation/filesystems/squashfs.rst and fs/squashfs/squashfs_fs.h.  Everything is little-endian.
Data blocks come first, then the tables: inodes, directories, fragments, ids, extended attributes.  A *reference*
to something in a table is (start of its metadata block) << 16 | offset inside.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from dls.fuse.codec import Packer
from dls.fuse.spool import Spool
from dls.logistics.errors import Unsupported

MAGIC: Final = 0x73717368
ZSTD: Final = 6
NONE: Final = 0xFFFFFFFF
NO_TABLE: Final = 0xFFFFFFFFFFFFFFFF
META: Final = 8192
RAW: Final = 1 << 24
"""Set in the stored size of a data block or fragment that is not compressed."""
DIR, FILE, LINK, BLOCK_DEVICE, CHAR_DEVICE, FIFO, SOCKET = range(1, 8)
EXTENDED: Final = 7
"""Added to a type where the inode has the long form."""
_DUPLICATES, _EXPORTABLE, _NO_FRAGMENTS, _NO_XATTRS = 0x40, 0x80, 0x10, 0x200

SUPER: Final = struct.Struct("<IIIIIHHHHHHQQQQQQQQ")
assert SUPER.size == 96
_DIR = struct.Struct("<HHHHIIIIHHI")
_LDIR = struct.Struct("<HHHHIIIIIIHHI")
_INDEX = struct.Struct("<III")
_REG = struct.Struct("<HHHHIIIIII")
_LREG = struct.Struct("<HHHHIIQQQIIII")
_LINK = struct.Struct("<HHHHIIII")
_DEV = struct.Struct("<HHHHIIII")
_IPC = struct.Struct("<HHHHIII")
_U32 = struct.Struct("<I")
_RUN = struct.Struct("<III")
_NAME = struct.Struct("<HhHH")
_FRAGMENT = struct.Struct("<QII")
_XATTR_HEAD = struct.Struct("<QII")
_XATTR_ID = struct.Struct("<QII")
_PREFIXES = (b"user.", b"trusted.", b"security.")


class Super(NamedTuple):
    """The superblock; offsets are from the start of the image, bytes."""

    magic: int
    inodes: int
    mtime: int
    block: int
    fragments: int
    compressor: int
    block_log: int
    flags: int
    ids: int
    major: int
    minor: int
    root: int
    used: int
    id_table: int
    xattr_table: int
    inode_table: int
    dir_table: int
    fragment_table: int
    export_table: int

    @property
    def at(self) -> int:
        """Where it begins in the image."""
        return 0

    def encode(self) -> bytes:
        """As it is stored."""
        return SUPER.pack(*self)


class Node(NamedTuple):
    """What every inode has."""

    mode: int
    """Permission bits, 07777."""
    uid: int
    gid: int
    mtime: int
    """Seconds, 0 … 2³²-1."""
    number: int
    """From 1, unique."""
    nlink: int
    xattr: int = NONE
    mtime_ns: int = 0
    """All of the time; SquashFS keeps `mtime` of it."""


class Where(NamedTuple):
    """Where the bytes of a file lie."""

    start: int = 0
    """Of the first block, bytes from the start of the image."""
    sizes: Sequence[int] = ()
    """Stored size of each full block (and of the last one where there is no fragment); 0 is a hole."""
    fragment: int = NONE
    offset: int = 0
    """Inside the fragment."""
    holes: int = 0
    """Bytes that holes stand for."""


class _Meta:
    """A table of metadata blocks of up to 8 KiB each, kept beside until the data are all written."""

    def __init__(self, packer: Packer, spool: Spool) -> None:
        self._packer, self._spool = packer, spool
        self.open = bytearray()
        """Of the last block."""
        self.starts = array("Q")
        """Where each block begins, relative to the table."""
        self.at = 0
        """Where it begins."""

    def here(self) -> tuple[int, int]:
        """(start of the block, offset inside) of what is added next."""
        return self.at, len(self.open)

    def add(self, data: bytes | bytearray) -> None:
        """Append; blocks are cut wherever they are full."""
        self.open += data
        while len(self.open) >= META:
            self._flush(META)

    def _flush(self, size: int) -> None:
        plain = bytes(self.open[:size])
        packed = self._packer.one(plain)
        head, body = (len(packed), packed) if len(packed) < size else (size | 0x8000, plain)
        self.starts.append(self.at)
        self._spool.add(head.to_bytes(2, "little") + body)
        self.at += 2 + len(body)
        del self.open[:size]

    def end(self) -> None:
        """Close the last block."""
        if self.open:
            self._flush(len(self.open))

    @property
    def size(self) -> int:
        """Stored bytes; final after `end`."""
        return self.at

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._spool)


class Tables:
    """Everything of an image but its data: inodes and directories are added bottom-up, then `finish` writes all."""

    def __init__(self, block: int, packer: Packer, spools: Callable[[], Spool]) -> None:
        self.block, self._packer, self._spools = block, packer, spools
        self._inodes, self._dirs = _Meta(packer, spools()), _Meta(packer, spools())
        self._fragments = _Meta(packer, spools())
        self._fragment_count = 0
        self._ids: dict[int, int] = {}
        self._count = 0
        self._newest = 0
        self._xattrs = _Meta(packer, spools())
        self._xattr_ids = _Meta(packer, spools())
        self._xattr_count = 0

    # ------------------------------------------------------------------------------------- small tables

    def _id(self, number: int) -> int:
        found = self._ids.get(number)
        if found is None:
            found = self._ids[number] = len(self._ids)
            if found >= 0xFFFF:  # the superblock has 16 bits for how many there are
                raise Unsupported(
                    "an image holds at most 65,535 different owners and groups",
                    code="too-many-owners",
                    remedy="pack with --owner 0:0",
                )
        return found

    def fragment(self, start: int, stored: int) -> int:
        """Add a fragment block, `stored` with RAW where it is; returns its number."""
        self._fragments.add(_FRAGMENT.pack(start, stored, 0))
        self._fragment_count += 1
        return self._fragment_count - 1

    def xattrs(self, pairs: Sequence[tuple[bytes, bytes]]) -> int:
        """Add a set of extended attributes; returns its number, NONE where the format can hold none of them."""
        fit = [
            (i, name[len(p) :], value) for name, value in pairs for i, p in enumerate(_PREFIXES) if name.startswith(p)
        ]
        if not fit:
            return NONE
        out = bytearray()
        size = 0
        for kind, name, value in fit:
            out += struct.pack("<HH", kind, len(name)) + name + struct.pack("<I", len(value)) + value
            size += len(_PREFIXES[kind]) + len(name) + 1 + len(value)
        at, inside = self._xattrs.here()
        self._xattrs.add(out)
        self._xattr_ids.add(_XATTR_ID.pack(at << 16 | inside, len(fit), size))
        self._xattr_count += 1
        return self._xattr_count - 1

    # ------------------------------------------------------------------------------------------- inodes

    def _add(self, data: bytes, mtime: int) -> tuple[int, int]:
        here = self._inodes.here()
        self._inodes.add(data)
        self._count += 1
        if mtime > self._newest:
            self._newest = mtime
        return here

    def file(self, node: Node, size: int, where: Where) -> tuple[int, int]:
        """The inode of a regular file; returns where it lies: (block, offset)."""
        owner, group = self._id(node.uid), self._id(node.gid)
        sizes = array("I", where.sizes).tobytes() if where.sizes else b""
        if node.nlink == 1 and node.xattr == NONE and not where.holes and where.start < 1 << 32 and size < 1 << 32:
            head = _REG.pack(
                FILE, node.mode, owner, group, node.mtime, node.number,
                where.start, where.fragment, where.offset, size,
            )  # fmt: skip
        else:
            head = _LREG.pack(
                FILE + EXTENDED, node.mode, owner, group, node.mtime, node.number,
                where.start, size, where.holes, node.nlink, where.fragment, where.offset, node.xattr,
            )  # fmt: skip
        return self._add(head + sizes, node.mtime)

    def plain(
        self, mode: int, uid: int, gid: int, mtime: int, number: int, size: int, start: int, fragment: int, offset: int,
        sizes: bytes, mtime_ns: int,
    ) -> tuple[int, int]:  # fmt: skip
        """As `file`, for most of them: one name, no attributes, no holes, small numbers; `sizes` as they are stored."""
        ids, table = self._ids, self._inodes
        owner, group = ids.get(uid), ids.get(gid)
        if owner is None or group is None:
            owner, group = self._id(uid), self._id(gid)
        here = table.at, len(table.open)
        table.open += _REG.pack(FILE, mode, owner, group, mtime, number, start, fragment, offset, size) + sizes
        if len(table.open) >= META:
            table.add(b"")
        self._count += 1
        if mtime > self._newest:
            self._newest = mtime
        return here

    def link(self, node: Node, text: bytes) -> tuple[int, int]:
        """The inode of a symbolic link."""
        kind = LINK if node.xattr == NONE else LINK + EXTENDED
        data = _LINK.pack(
            kind, node.mode, self._id(node.uid), self._id(node.gid), node.mtime, node.number, node.nlink, len(text)
        )
        return self._add(data + text + (b"" if node.xattr == NONE else _U32.pack(node.xattr)), node.mtime)

    def special(self, node: Node, kind: int, device: int) -> tuple[int, int]:
        """The inode of a device, a pipe or a socket; `device` as the kernel encodes it in 32 bits."""
        long = node.xattr != NONE
        kind += EXTENDED if long else 0
        head = (kind, node.mode, self._id(node.uid), self._id(node.gid), node.mtime, node.number, node.nlink)
        is_device = kind - (EXTENDED if long else 0) in (BLOCK_DEVICE, CHAR_DEVICE)
        data = _DEV.pack(*head, device) if is_device else _IPC.pack(*head)
        return self._add(data + (_U32.pack(node.xattr) if long else b""), node.mtime)

    def begin(self, number: int, xattr: int) -> None:
        """A folder comes: all of it is written by `folder`."""

    def folder(
        self, node: Node, parent: int, entries: Iterator[tuple[bytes, int, int, int, int]]
    ) -> tuple[int, int, int]:
        """A folder with its entries (name, block and offset of the inode, its number, its type), sorted by name.

        Returns (block, offset, size of the listing in bytes).
        """
        start, offset = self._dirs.here()
        size, index = self._listing(entries)
        owner, group = self._id(node.uid), self._id(node.gid)
        if node.xattr == NONE and not index and size + 3 < 1 << 16:
            data = _DIR.pack(
                DIR, node.mode, owner, group, node.mtime, node.number, start, node.nlink, size + 3, offset, parent
            )
        else:
            data = _LDIR.pack(
                DIR + EXTENDED, node.mode, owner, group, node.mtime, node.number,
                node.nlink, size + 3, start, parent, len(index), offset, node.xattr,
            ) + b"".join(index)  # fmt: skip
        return *self._add(data, node.mtime), size

    def _listing(self, entries: Iterator[tuple[bytes, int, int, int, int]]) -> tuple[int, list[bytes]]:
        """Write the runs of one folder; returns their size and an index with one entry per metadata block begun."""
        size, index, seen = 0, list[bytes](), self._dirs.here()[0]
        run, count, at, base = bytearray(), 0, -1, 0
        first = b""

        def close() -> None:
            nonlocal size, seen
            here = self._dirs.here()[0]
            if here != seen and len(index) < 0xFFFF:
                index.append(_INDEX.pack(size, here, len(first) - 1) + first)
                seen = here
            self._dirs.add(_RUN.pack(count - 1, at, base) + run)
            size += _RUN.size + len(run)

        for name, block, offset, number, kind in entries:
            if count and (count == 256 or block != at or not -32768 <= number - base <= 32767):
                close()
                run, count = bytearray(), 0
            if not count:
                at, base, first = block, number, name
            run += _NAME.pack(offset, number - base, kind, len(name) - 1) + name
            count += 1
        if count:
            close()
        return size, index

    # ------------------------------------------------------------------------------------------- the end

    def finish(self, root: tuple[int, int], at: int, write: Callable[[bytes], None]) -> Super:
        """Write all tables from position `at` on; returns the superblock, which the caller puts at position 0."""
        for table in (self._inodes, self._dirs, self._fragments, self._xattrs, self._xattr_ids):
            table.end()
        inode_table = at
        dir_table = inode_table + self._inodes.size
        at = dir_table + self._dirs.size
        for table in (self._inodes, self._dirs):
            for data in table:
                write(data)
        fragment_table, at = self._indexed(self._fragments, at, write) if self._fragment_count else (NO_TABLE, at)
        ids = _Meta(self._packer, self._spools())
        ids.add(array("I", self._ids).tobytes())
        ids.end()
        id_table, at = self._indexed(ids, at, write)
        xattr_table = NO_TABLE
        if self._xattr_count:
            pairs_at = at
            for data in self._xattrs:
                write(data)
            at += self._xattrs.size
            head = _XATTR_HEAD.pack(pairs_at, self._xattr_count, 0)
            xattr_table, at = self._indexed(self._xattr_ids, at, write, head)
        flags = _DUPLICATES | (0 if self._fragment_count else _NO_FRAGMENTS) | (0 if self._xattr_count else _NO_XATTRS)
        return Super(
            MAGIC, self._count, self._newest, self.block, self._fragment_count, ZSTD, self.block.bit_length() - 1,
            flags, len(self._ids), 4, 0, root[0] << 16 | root[1], at, id_table, xattr_table, inode_table, dir_table,
            fragment_table, NO_TABLE,
        )  # fmt: skip

    def _indexed(self, table: _Meta, at: int, write: Callable[[bytes], None], head: bytes = b"") -> tuple[int, int]:
        """A table and the list of its blocks; returns where the list (with its head) is and where it ends."""
        for data in table:
            write(data)
        place = at + table.size
        body = head + array("Q", [at + start for start in table.starts]).tobytes()
        write(body)
        return place, place + len(body)
