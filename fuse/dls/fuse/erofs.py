"""EROFS as it lies on the disk, data as they are, and a writer of it.

Format: the kernel's Documentation/filesystems/erofs.rst and fs/erofs/erofs_fs.h.  Everything is little-endian, in
blocks of 4 KiB.  Block 0 has the superblock, at byte 1024; data come next, then the inodes, then the listings.  A
*nid* is where an inode lies, from the start of the inodes, divided by 32.  All inodes have the long form, 64 bytes; a
set of extended attributes, the text of a link or the list of a file's chunks lies behind its inode.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import merge
from typing import Final, NamedTuple

from dls.fuse import squashfs
from dls.fuse.spool import Spool
from dls.fuse.squashfs import NONE, Node, Where
from dls.logistics.errors import Unsupported

MAGIC: Final = 0xE0F5E1E2
AT: Final = 1024
"""Where the superblock begins."""
BLOCK: Final = 4096
SUPER: Final = struct.Struct("<IIIBBHQQIIII16s16sIHHHBBIQB23x")
assert SUPER.size == 128
INODE: Final = struct.Struct("<HHHHQIIIIqII16x")
assert INODE.size == 64
DIRENT: Final = struct.Struct("<QHBB")
_PLAIN, _INLINE, _CHUNKS = 0 << 1 | 1, 2 << 1 | 1, 4 << 1 | 1
"""Layouts of data: in blocks of its own; its tail behind the inode; by chunks, which may lie anywhere or be holes."""
_CHECKSUM, _TIMES, _CHUNKED = 1, 2, 4
"""Features: a checksum of the superblock; times; (incompatible) files by chunks, since Linux 5.15."""
_HOLE: Final = 0xFFFFFFFF
_MOST: Final = BLOCK * (_HOLE - 1)
"""Bytes of an image: blocks have 32 bits."""
_SLOT: Final = 32
_IBODY: Final = struct.Struct("<IB7x")
_ENTRY: Final = struct.Struct("<BBH")
_LARGEST_VALUE: Final = 0xFFFF
"""One less than what Linux allows."""
_LARGEST_SET: Final = _IBODY.size + 4 * 0xFFFE
_NAMES: Final = (
    (b"user.", 1),
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (b"trusted.", 4),
    (b"security.", 6),
)
_KINDS: Final = {
    squashfs.FILE: (1, 0o100000), squashfs.DIR: (2, 0o040000), squashfs.CHAR_DEVICE: (3, 0o020000),
    squashfs.BLOCK_DEVICE: (4, 0o060000), squashfs.FIFO: (5, 0o010000), squashfs.SOCKET: (6, 0o140000),
    squashfs.LINK: (7, 0o120000),
}  # fmt: skip
"""Of each kind, as SquashFS numbers them: its number in listings, its bits in modes."""
_LATE: Final = struct.Struct("<QQ")
"""Where an inode lies whose block is counted from the start of the listings, and which block."""


class Super(NamedTuple):
    """What the superblock says."""

    inodes: int
    root: int
    """Its nid."""
    newest: int
    """Seconds."""
    blocks: int
    inode_block: int
    chunked: bool
    block: int
    """Bytes of a block of a file in our index; EROFS does not know it."""
    at: int = AT

    def encode(self) -> bytes:
        """As it is stored, with its checksum."""
        bits, features = BLOCK.bit_length() - 1, _CHUNKED if self.chunked else 0

        def packed(check: int) -> bytes:
            return SUPER.pack(
                MAGIC, check, _CHECKSUM | _TIMES, bits, 0, self.root, self.inodes, self.newest, 0, self.blocks,
                self.inode_block, 0, bytes(16), bytes(16), features, 0, 0, 0, 0, 0, 0, 0, 0,
            )  # fmt: skip

        return packed(_crc32c(packed(0) + bytes(BLOCK - AT - SUPER.size)))


def bytes_used(begin: bytes) -> int | None:
    """What the superblock in the first bytes of an image says of its bytes; None where it is no EROFS."""
    if len(begin) < AT + SUPER.size or begin[AT : AT + 4] != MAGIC.to_bytes(4, "little"):
        return None
    found: tuple[int, ...] = SUPER.unpack_from(begin, AT)
    return found[9] << found[3]


class Tables:
    """Everything of an image but its data.  Folders get their place when they begin: what is inside names them."""

    def __init__(self, block: int, spools: Callable[[], Spool]) -> None:
        if block < BLOCK or block & block - 1:
            raise AssertionError(f"blocks of {block} bytes are no chunks of EROFS")
        self.block = block
        self._inodes, self._listings, self._late = spools(), spools(), spools()
        self._inodes.add(bytes(INODE.size))  # the root comes next: its number has 16 bits only
        self._sets, self._set_starts = spools(), array("Q", (0,))
        self._begun: dict[int, int] = {}
        """Where the inodes of open folders lie."""
        self._count = self._newest = 0
        self._chunked = False

    def fragment(self, start: int, stored: int) -> int:
        """No two files share a block that is not compressed."""
        raise AssertionError("EROFS has no shared blocks")

    def plain(
        self, mode: int, uid: int, gid: int, mtime: int, number: int, size: int, start: int, fragment: int, offset: int,
        sizes: bytes, mtime_ns: int,
    ) -> tuple[int, int]:  # fmt: skip
        """As `file`, for most of them: one name, no attributes, no holes."""
        if start + size > _MOST:
            raise _too_large()
        seconds, nanos = divmod(mtime_ns, 1_000_000_000)
        if mtime > self._newest:
            self._newest = mtime
        self._count += 1
        nid = len(self._inodes) // _SLOT
        self._inodes.add(
            INODE.pack(
                _PLAIN, 0, mode | 0o100000, 0, size, start // BLOCK, number & 0xFFFFFFFF, uid, gid, seconds, nanos, 1
            )
        )
        return nid >> 16, nid & 0xFFFF

    def xattrs(self, pairs: Sequence[tuple[bytes, bytes]]) -> int:
        """Add a set of extended attributes; returns its number, NONE where the format can hold none of them."""
        out = bytearray()
        for name, value in pairs:
            if len(value) > _LARGEST_VALUE:
                raise _too_many(f"{_LARGEST_VALUE:,} bytes in one extended attribute, here are {len(value):,}")
            for prefix, kind in _NAMES:
                rest = name[len(prefix) :]
                if name.startswith(prefix) and bool(rest) == prefix.endswith(b"."):
                    out += _ENTRY.pack(len(rest), kind, len(value)) + rest + value
                    out += bytes(-len(out) % 4)
        if not out:
            return NONE
        if _IBODY.size + len(out) > _LARGEST_SET:
            raise _too_many(f"{_LARGEST_SET:,} bytes of extended attributes a file, here are {len(out):,}")
        self._sets.add(_IBODY.pack(0, 0) + out)
        self._set_starts.append(len(self._sets))
        return len(self._set_starts) - 2

    # ------------------------------------------------------------------------------------------- inodes

    def begin(self, number: int, xattr: int) -> None:
        """A folder: its inode comes here once what is inside is known."""
        self._begun[number] = len(self._inodes)
        self._inodes.add(bytes(INODE.size) + self._padded(self._set(xattr)))

    def file(self, node: Node, size: int, where: Where) -> tuple[int, int]:
        """The inode of a regular file; `where.sizes` is looked at where it has holes."""
        if where.start + size > _MOST:
            raise _too_large()
        if not where.holes:
            return self._add(node, squashfs.FILE, size, where.start // BLOCK)
        self._chunked = True
        chunks, block = array("I"), where.start // BLOCK
        for stored in where.sizes:
            chunks.append(block if stored else _HOLE)
            block += self.block // BLOCK if stored else 0
        form = (self.block // BLOCK).bit_length() - 1
        return self._add(node, squashfs.FILE, size, form, _CHUNKS, chunks.tobytes())

    def link(self, node: Node, text: bytes) -> tuple[int, int]:
        """The inode of a symbolic link: the text behind it where both fit into one block."""
        whole = INODE.size + len(self._set(node.xattr)) + len(text)
        if whole <= BLOCK:
            room = -len(self._inodes) % BLOCK
            if room < whole:
                self._inodes.add(bytes(room))
            return self._add(node, squashfs.LINK, len(text), 0, _INLINE, text)
        spot = self._add(node, squashfs.LINK, len(text), 0)
        self._later(spot[0] << 16 | spot[1], text + bytes(-len(text) % BLOCK))
        return spot

    def special(self, node: Node, kind: int, device: int) -> tuple[int, int]:
        """The inode of a device, a pipe or a socket; `device` as the kernel encodes it in 32 bits."""
        return self._add(node, kind, 0, device)

    def folder(
        self, node: Node, parent: int, entries: Iterator[tuple[bytes, int, int, int, int]]
    ) -> tuple[int, int, int]:
        """A folder with its entries (name, the two parts of a nid, a number that is not needed, type), sorted by name.

        Returns the two parts of its nid and the size of its listing in bytes.
        """
        at = self._begun.pop(node.number)
        nid, above = at // _SLOT, self._begun.get(parent, at) // _SLOT  # above the root is the root
        rows = ((name, high << 16 | low, _KINDS[kind][0]) for name, high, low, _, kind in entries)
        first, size = len(self._listings) // BLOCK, 0
        for listing in _blocks(merge(((b".", nid, 2), (b"..", above, 2)), rows)):
            size = -(-size // BLOCK) * BLOCK + len(listing)
            self._listings.add(listing + bytes(-len(listing) % BLOCK))
        self._inodes.put(at, self._inode(node, squashfs.DIR, size, 0, _PLAIN) + self._set(node.xattr))
        self._late.add(_LATE.pack(at, first))
        return nid >> 16, nid & 0xFFFF, size

    def _add(
        self, node: Node, kind: int, size: int, where: int, layout: int = _PLAIN, tail: bytes = b""
    ) -> tuple[int, int]:
        nid = len(self._inodes) // _SLOT
        self._inodes.add(self._padded(self._inode(node, kind, size, where, layout) + self._set(node.xattr) + tail))
        return nid >> 16, nid & 0xFFFF

    def _inode(self, node: Node, kind: int, size: int, where: int, layout: int) -> bytes:
        self._count += 1
        seconds, nanos = divmod(node.mtime_ns, 1_000_000_000)
        self._newest = max(self._newest, seconds)
        body = len(self._set(node.xattr))
        return INODE.pack(
            layout, (body - _IBODY.size) // 4 + 1 if body else 0, node.mode | _KINDS[kind][1], 0, size, where,
            node.number & 0xFFFFFFFF, node.uid, node.gid, seconds, nanos, node.nlink,
        )  # fmt: skip

    def _set(self, number: int) -> bytes:
        if number == NONE:
            return b""
        start = self._set_starts[number]
        return self._sets.at(start, self._set_starts[number + 1] - start)

    @staticmethod
    def _padded(data: bytes) -> bytes:
        """Filled up so that the next inode does not cross the border of a block."""
        return data + bytes(-len(data) % INODE.size)

    def _later(self, nid: int, blocks: bytes) -> None:
        """Blocks among the listings that an inode shall name once it is known where those begin."""
        self._late.add(_LATE.pack(nid * _SLOT, len(self._listings) // BLOCK))
        self._listings.add(blocks)

    # ------------------------------------------------------------------------------------------- the end

    def finish(self, root: tuple[int, int], at: int, write: Callable[[bytes], None]) -> Super:
        """Write all tables from position `at` on, a multiple of BLOCK; returns the superblock."""
        self._inodes.add(bytes(-len(self._inodes) % BLOCK))
        listings = at + len(self._inodes)
        end = listings + len(self._listings)
        if end > _MOST:
            raise _too_large()
        for part in self._late:
            for place, block in _LATE.iter_unpack(part):
                self._inodes.put(place + 16, (listings // BLOCK + block).to_bytes(4, "little"))
        for table in (self._inodes, self._listings):
            for data in table:
                write(data)
        nid = root[0] << 16 | root[1]
        return Super(
            self._count, nid, self._newest, end // BLOCK, at // BLOCK, self._chunked, self.block,
        )  # fmt: skip


def _blocks(rows: Iterable[tuple[bytes, int, int]]) -> Iterator[bytes]:
    """The blocks of a listing: entries first, then their names; only the last may be shorter than BLOCK when padded."""
    heads, names, some = list[tuple[int, int]](), list[bytes](), 0
    for name, nid, kind in rows:
        if some + DIRENT.size + len(name) > BLOCK:
            yield _block(heads, names)
            heads, names, some = [], [], 0
        heads.append((nid, kind))
        names.append(name)
        some += DIRENT.size + len(name)
    yield _block(heads, names)


def _block(heads: Sequence[tuple[int, int]], names: Sequence[bytes]) -> bytes:
    out, at = list[bytes](), DIRENT.size * len(heads)
    for (nid, kind), name in zip(heads, names, strict=True):
        out.append(DIRENT.pack(nid, at, kind, 0))
        at += len(name)
    return b"".join((*out, *names))


def _too_many(what: str) -> Unsupported:
    return Unsupported(
        f"EROFS holds at most {what}",
        code="too-many-attributes",
        remedy="pack with --format squashfs, or with --xattrs none",
    )


def _too_large() -> Unsupported:
    return Unsupported(
        "an EROFS image holds at most 16 TiB",
        code="image-too-large",
        remedy="pack with --format squashfs, or several images",
    )


def _crc32c(data: bytes) -> int:
    """CRC-32C (polynomial 0x1EDC6F41, reflected) as the kernel leaves it: begun with ones, not inverted at the end."""
    check = 0xFFFFFFFF
    for byte in data:
        check ^= byte
        for _ in range(8):
            check = check >> 1 ^ (0x82F63B78 if check & 1 else 0)
    return check
