"""ext2, ext3 and ext4 as they lie on a disk, read only.

Format: the kernel's Documentation/filesystems/ext4.  Everything is little-endian; numbers of blocks count from the
start of the file system.  No sum is checked: CRC-32C costs too much here.
"""

from __future__ import annotations

import stat as st
import struct
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from typing import Final, NamedTuple

from dls.fuse.foreign.archive import damaged, unreadable
from dls.fuse.image import Source
from dls.fuse.records import device_of
from dls.logistics.errors import Corrupt

MAGIC: Final = 0xEF53
ROOT: Final = 2
_SUPER: Final = 1024
_RECOVER: Final = 0x4
_UNREADABLE: Final = {0x1: "compression", 0x8: "a journal alone", 0x1000: "data in folders"}
_KNOWN: Final = 0x2 | 0x10 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x2000 | 0x4000 | 0x8000 | 0x10000 | 0x20000
_FILETYPE, _META_BG, _64BIT = 0x2, 0x10, 0x80
_SPARSE, _SPARSE2 = 0x1, 0x200
_EXTENTS, _INLINE, _ENCRYPTED = 0x80000, 0x10000000, 0x800
_EXTENT_MAGIC: Final = 0xF30A
_INODE: Final = struct.Struct("<HHIIIIIHHIII")
_INODES_AT_ONCE: Final = 16 << 10
Run = tuple[int, int, int]
"""A stretch of a file: its first block there, how many blocks, the first block on the disk; -1: zeros."""


class Inode(NamedTuple):
    """An inode, decoded as far as every kind needs it."""

    number: int
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    nlink: int
    sectors: int
    flags: int
    block: bytes
    """The 60 bytes that say where its own are, or that are its own."""
    acl: int
    """The block with extended attributes, 0: none."""
    extra: bytes
    """What lies behind the inode's fields: more extended attributes."""

    @property
    def inline(self) -> bool:
        """Whether its bytes are in the inode."""
        return bool(self.flags & _INLINE)

    @property
    def encrypted(self) -> bool:
        """Whether nobody can read it without a key."""
        return bool(self.flags & _ENCRYPTED)

    @property
    def device(self) -> int:
        """As in `st_rdev`."""
        old, new = struct.unpack_from("<II", self.block)
        return device_of(old & 0xFFFF if old else new)


class FileSystem:
    """A file system: inodes by number, and where their bytes are."""

    def __init__(self, source: Source) -> None:
        self.source, self.name = source, source.name
        data = source.at(_SUPER, 1024)
        if len(data) != 1024 or struct.unpack_from("<H", data, 56)[0] != MAGIC:
            raise self.damaged("it has no superblock", _SUPER)
        self.inodes, blocks = struct.unpack_from("<II", data)
        self._first, log, _, self._per_group, _, self._inodes_per_group = struct.unpack_from("<IIIIII", data, 20)
        revision = struct.unpack_from("<I", data, 76)[0]
        self._inode_size = struct.unpack_from("<H", data, 88)[0] if revision else 128
        self._compat, self.incompat, self._ro_compat = struct.unpack_from("<III", data, 92)
        self.clean = bool(data[58] & 1)
        wide = self.incompat & _64BIT
        self._desc = struct.unpack_from("<H", data, 254)[0] if wide else 32
        self._first_meta = struct.unpack_from("<I", data, 260)[0] if self.incompat & _META_BG else 1 << 32
        self.blocks = blocks | (struct.unpack_from("<I", data, 336)[0] << 32 if wide else 0)
        self.block = 1024 << min(log, 10)
        self._check(log)
        self._tables: dict[int, bytes] = {}
        self._held: tuple[int, bytes] = (-1, b"")

    def _check(self, log: int) -> None:
        """Refuse what cannot be, or cannot be read."""
        if self.incompat & _RECOVER:
            raise unreadable(
                self.name, "it was not unmounted cleanly, its journal holds what its tables do not",
                "e2fsck -p FILE, or mount it once with the kernel",
            )  # fmt: skip
        for bit, what in _UNREADABLE.items():
            if self.incompat & bit:
                raise unreadable(self.name, f"it uses {what}", "mount it with the kernel")
        if self.incompat & ~_KNOWN:
            unknown = f"it uses features that dls does not know (0x{self.incompat & ~_KNOWN:x})"
            raise unreadable(self.name, unknown, "mount it with the kernel")
        size = self._inode_size
        if log > 6 or not self._per_group or not self._inodes_per_group or self._desc < 32 or self._desc > self.block:
            raise self.damaged("its superblock is impossible", _SUPER)
        if size < 128 or size > self.block or size & (size - 1) or self._first > 1:
            raise self.damaged("its superblock is impossible", _SUPER)
        if self.blocks * self.block > self.source.size:
            there = self.source.size // self.block
            raise self.damaged(f"it was cut short: {there:,} of {self.blocks:,} blocks are there", self.source.size)

    def damaged(self, why: str, at: int = -1) -> Corrupt:
        """What is wrong, and where."""
        return damaged(self.name, why, at)

    def at(self, block: int, count: int = 1) -> bytes:
        """Blocks as they lie."""
        if not 0 < block + count <= self.blocks or block < 0:
            raise self.damaged(f"block {block:,} of {self.blocks:,} is asked for")
        data = self.source.at(block * self.block, count * self.block)
        if len(data) != count * self.block:
            raise self.damaged("it was cut short", block * self.block)
        return data

    # ------------------------------------------------------------------------------------------- inodes

    def _table_of(self, group: int) -> int:
        """The first block of the inodes of a group."""
        per = self.block // self._desc
        number, inside = divmod(group, per)
        data = self._tables.get(number)
        if data is None:
            if len(self._tables) > 256:
                self._tables.clear()
            data = self._tables[number] = self.at(self._desc_block(number, per))
        low = struct.unpack_from("<I", data, inside * self._desc + 8)[0]
        high = struct.unpack_from("<I", data, inside * self._desc + 40)[0] if self._desc >= 64 else 0
        return int(low | high << 32)

    def _desc_block(self, number: int, per: int) -> int:
        if number < self._first_meta:
            return int(self._first + 1 + number)
        group = number * per
        return int(self._first + group * self._per_group + self._has_super(group))

    def _has_super(self, group: int) -> bool:
        if self._compat & _SPARSE2:
            return group == 0
        if group <= 1 or not self._ro_compat & _SPARSE:
            return True
        for base in (3, 5, 7):
            power = base
            while power < group:
                power *= base
            if power == group:
                return True
        return False

    def inode(self, number: int) -> Inode:
        """An inode by its number."""
        if not 0 < number <= self.inodes:
            raise self.damaged(f"inode {number:,} of {self.inodes:,} is asked for")
        group, inside = divmod(number - 1, self._inodes_per_group)
        at = self._table_of(group) * self.block + inside * self._inode_size
        start, held = self._held
        if not start <= at <= start + len(held) - self._inode_size:
            held = self.source.at(at, _INODES_AT_ONCE)
            start = at
            self._held = start, held
        data = held[at - start : at - start + self._inode_size]
        if len(data) != self._inode_size:
            raise self.damaged(f"inode {number:,} lies outside", at)
        return self._decoded(number, data)

    def _decoded(self, number: int, data: bytes) -> Inode:
        mode, uid, size, _, _, mtime, _, gid, nlink, sectors, flags, _ = _INODE.unpack_from(data)
        acl, high = struct.unpack_from("<II", data, 104)
        sectors_high, acl_high, uid_high, gid_high = struct.unpack_from("<HHHH", data, 116)
        mtime_ns = (mtime - ((mtime & 0x80000000) << 1)) * 1_000_000_000
        extra = b""
        if len(data) > 128:
            long = struct.unpack_from("<H", data, 128)[0]
            if long >= 12 and 128 + long <= len(data):
                more = struct.unpack_from("<I", data, 136)[0]
                mtime_ns += ((more & 3) << 32) * 1_000_000_000 + (more >> 2)
            extra = data[128 + long :]
        if not st.S_ISLNK(mode):
            size |= high << 32 if st.S_ISREG(mode) or st.S_ISDIR(mode) else 0
        return Inode(
            number, mode, uid | uid_high << 16, gid | gid_high << 16, size, mtime_ns, nlink,
            sectors | sectors_high << 32, flags, data[40:100], acl | acl_high << 32, extra,
        )  # fmt: skip

    # ------------------------------------------------------------------------------------------- extents

    def runs(self, inode: Inode) -> list[Run]:
        """Where the bytes of a file are, in order; what is not told is zeros."""
        found = self._extents(inode.block, inode, -1) if inode.flags & _EXTENTS else self._pointers(inode)
        out: list[Run] = []
        total, after = 0, 0
        for first, count, where in found:
            total += count if where >= 0 else 0
            if first < after or total > self.blocks or (where >= 0 and where + count > self.blocks):
                raise self.damaged(f"the extents of inode {inode.number:,} are impossible")
            after = first + count
            if where < 0:
                continue
            before = out[-1] if out else (0, 0, 0)
            if before[0] + before[1] == first and before[2] + before[1] == where and out:
                out[-1] = before[0], before[1] + count, before[2]
            else:
                out.append((first, count, where))
        return out

    def _extents(self, data: bytes, inode: Inode, depth: int) -> Iterator[Run]:
        magic, entries, _, here = struct.unpack_from("<HHHH", data)
        if magic != _EXTENT_MAGIC or entries * 12 + 12 > len(data) or (here != depth if depth >= 0 else here > 5):
            raise self.damaged(f"the extents of inode {inode.number:,} are impossible")
        for i in range(12, 12 + 12 * entries, 12):
            if here:
                _, low, high = struct.unpack_from("<IIH", data, i)
                yield from self._extents(self.at(low | high << 32), inode, here - 1)
            else:
                first, count, high, low = struct.unpack_from("<IHHI", data, i)
                if count > 32768:
                    yield first, count - 32768, -1  # room that was never written to
                else:
                    yield first, count, low | high << 32

    def _pointers(self, inode: Inode) -> Iterator[Run]:
        """Pointers to blocks, as ext2 and ext3 have them: 12, then one for each level."""
        pointers = struct.unpack("<15I", inode.block)
        last = -(-inode.size // self.block)
        for first, where in enumerate(pointers[:12]):
            if where and first < last:
                yield first, 1, where
        per, first = self.block // 4, 12
        for level in range(3):
            if pointers[12 + level] and first < last:
                yield from self._level(pointers[12 + level], level, first, last)
            first += per ** (level + 1)

    def _level(self, block: int, level: int, first: int, last: int) -> Iterator[Run]:
        found = array("I")
        found.frombytes(self.at(block))
        step = (self.block // 4) ** level
        for where in found:
            if first >= last:
                return
            if where and level:
                yield from self._level(where, level - 1, first, last)
            elif where:
                yield first, 1, where
            first += step

    def read(self, inode: Inode, runs: list[Run], start: int, stop: int) -> list[bytes | memoryview]:
        """The bytes `start … stop-1` of a file."""
        size = self.block
        out: list[bytes | memoryview] = []
        i = max(0, bisect_right(runs, start // size, key=lambda run: run[0]) - 1)
        while start < stop:
            first, count, where = runs[i] if i < len(runs) else (-(-stop // size), 0, 0)
            i += 1
            if start < first * size:
                end = min(stop, first * size)
                out.append(bytes(end - start))
                start = end
            end = min(stop, (first + count) * size)
            if start < end:
                at = where * size + start - first * size
                data = self.source.at(at, end - start)
                if len(data) != end - start:
                    raise self.damaged("it was cut short", at)
                out.append(data)
                start = end
        return out
