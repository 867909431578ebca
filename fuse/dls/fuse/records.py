"""Records: a name and its attributes as the kernel's FUSE driver wants them in a READDIRPLUS reply.

One record (include/uapi/linux/fuse.h, protocol 7.31) is a `fuse_entry_out` of 128 bytes, a `fuse_dirent` of 24 bytes
and the name, padded with zeros to a multiple of 8.  A LOOKUP is answered by its first 128 bytes, a GETATTR by its
bytes 40 … 127, a listing by many of them as they are.  Records lie in *space*: a line of bytes cut into frames
of 8 KiB that no record crosses; the number of a node is its position in space, divided by 8.

Fields that the kernel does not use hold what a reader needs:

    generation        files: number of the first block, or the sum of its part (40 bits); folders and links:
                      position / 8 of the listing or the text (40 bits); for all, number of the set of extended
                      attributes + 1 in the upper 24 bits
    entry_valid_nsec  files: number of the block with the tail, NO_TAIL where the last block has it;
                      folders: bytes of the listing
    attr_valid_nsec   files: where the tail begins in that block, or where its part is (`dls.fuse.blocks`);
                      folders: the upper 32 bits of the bytes
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple
from zlib import crc32

from dls.fuse.spool import Row

FRAME: Final = 1 << 13
"""Bytes of space in a frame.  One of 64 KiB took 80 to 200 µs to decode for one name, one of 8 KiB takes 7 to 13; they
are as many bytes altogether for names that count, and a fifth more for /usr (0.04 % of its image)."""
FORMER_FRAME: Final = 1 << 16
"""What it is where an index does not say."""
FIRST: Final = 64
"""Position of the first record: the numbers below belong to the protocol (1 is the root)."""
HEAD: Final = 152
"""Bytes of a record before the name."""
NO_TAIL: Final = 0xFFFFFFFF
FOR_EVER: Final = 1_000_000_000
"""Seconds for which the kernel may keep what it was told: an image does not change under a mount."""
LOW: Final = (1 << 40) - 1

RECORD: Final = struct.Struct("<QQQQII QQQQQQIIIIIIIIII QQII")
assert RECORD.size == HEAD
NODE, GENERATION, TAIL, INO, SIZE, BLOCKS, MTIME, MTIME_NS, MODE = 0, 8, 32, 40, 48, 56, 72, 92, 100
NLINK, UID, GID, RDEV, DIRENT_INO, OFF, NAME_SIZE, TYPE = 104, 108, 112, 116, 128, 136, 144, 148
"""Where fields begin inside a record."""
HASHED: Final = struct.Struct("<QQ")
SPREAD: Final = 0x9E3779B97F4A7C15
WIDE: Final = (1 << 64) - 1
"""A name's hash is its CRC-32, begun with the inode number of its folder, times SPREAD, 64 bits of it."""
U64: Final = struct.Struct("<Q")
U32: Final = struct.Struct("<I")
_ATTR: Final = struct.Struct("<QQ16xIIQQQ8xq12xI4xIIIII")
"""What a reader gets back: the rest of a record is there for the kernel."""
_NO_NODE: Final = bytes(8)
PLAIN: Final = 13
"""Fields of a row that is a file with nothing special: name, block and offset of its inode in the tables of SquashFS,
number, type, bytes, mtime_ns, mode, uid, gid, then `generation`, `entry_valid_nsec` and `attr_valid_nsec`."""
_PAD = (b"", b"\0" * 7, b"\0" * 6, b"\0" * 5, b"\0" * 4, b"\0" * 3, b"\0" * 2, b"\0")


class Attr(NamedTuple):
    """The attributes of a node, as a reader gets them back."""

    node: int
    a: int
    """The lower 40 bits of `generation`."""
    xattrs: int
    """Number of the set of extended attributes, -1: none."""
    b: int
    c: int
    ino: int
    size: int
    blocks: int
    mtime_ns: int
    mode: int
    """With the type, as in `st_mode`."""
    nlink: int
    uid: int
    gid: int
    rdev: int


def pack(
    name: bytes,
    node: int,
    generation: int,
    b: int,
    c: int,
    ino: int,
    size: int,
    blocks: int,
    mtime_ns: int,
    mode: int,
    nlink: int,
    uid: int,
    gid: int,
    rdev: int,
    blksize: int,
) -> bytes:
    """A record; `node` 0 and the cookie of the listing are filled in when its place is known (`Space.listing`)."""
    seconds, nanos = divmod(mtime_ns, 1_000_000_000)
    seconds &= 0xFFFFFFFFFFFFFFFF
    length = len(name)
    head = RECORD.pack(
        node, generation, FOR_EVER, FOR_EVER, b, c,
        ino, size, blocks, seconds, seconds, seconds, nanos, nanos, nanos, mode, nlink, uid, gid, rdev, blksize, 0,
        ino, 0, length, mode >> 12,
    )  # fmt: skip
    return head + name + _PAD[length & 7]


def unpack(record: bytes | memoryview, at: int = 0) -> Attr:
    """The attributes in a record that begins at `at`."""
    node, generation, b, c, ino, size, blocks, mtime, nanos, mode, nlink, uid, gid, rdev = _ATTR.unpack_from(record, at)
    return tuple.__new__(
        Attr,
        (
            node, generation & LOW, (generation >> 40) - 1, b, c, ino, size, blocks, mtime * 1_000_000_000 + nanos,
            mode, nlink, uid, gid, rdev,
        ),
    )  # fmt: skip


def length_of(name_size: int) -> int:
    """Bytes of a record whose name has so many."""
    return HEAD + (name_size + 7 & ~7)


def device_of(number: int) -> int:
    """A device as `st_rdev` has it, from how the kernel encodes it in 32 bits."""
    return os.makedev(number >> 8 & 0xFFF, number & 0xFF | number >> 12 & 0xFFF00)


def name_of(record: bytes | memoryview, at: int = 0) -> bytes:
    """The name in a record that begins at `at`."""
    size = int.from_bytes(record[at + NAME_SIZE : at + NAME_SIZE + 4], "little")
    return bytes(record[at + HEAD : at + HEAD + size])


class Space:
    """Writes space: frames are handed to `full` as they fill up, in order."""

    def __init__(self, full: Callable[[bytes], None]) -> None:
        self._full = full
        self._frame = bytearray(FIRST)
        self._base = 0

    @property
    def here(self) -> int:
        """The position of what comes next, were it to fit into this frame."""
        return self._base + len(self._frame)

    def _room(self, size: int) -> None:
        if len(self._frame) + size > FRAME:
            self._frame += bytes(FRAME - len(self._frame))
            self._flush()

    def _flush(self) -> None:
        self._full(bytes(self._frame))
        self._base += FRAME
        self._frame.clear()

    def text(self, data: bytes) -> int:
        """Put a text of at most 4,096 bytes; returns its position."""
        size = len(data) + 7 & ~7
        self._room(size)
        at = self.here
        self._frame += data + bytes(size - len(data))
        return at

    def lone(self, record: bytes) -> int:
        """Put a record that is in no listing (the root, a file with several names); returns its position."""
        self._room(len(record))
        at = self.here
        self._frame += U64.pack(at >> 3) + record[8:]
        return at

    def listing(self, rows: Iterable[Row], parent: int, block: int) -> tuple[int, int, bytes]:
        """Put a folder.  A row holds its name first and either its record last, or (PLAIN) what makes one of a file.

        Each record gets its cookie, and its number where it has none (0) and is not `.` or `..`.  Returns (position,
        bytes) of the listing, the gaps at the ends of frames included, and a row of HASHED for each name: its hash
        under the inode number `parent`, and its position / 8.
        """
        names = list[bytes]()
        add, hashed, pack, pads, put = names.append, HASHED.pack, RECORD.pack, _PAD, U64.pack_into
        start, frame, base = -1, self._frame, self._base
        for row in rows:
            name, inside = row[0], len(frame)
            length = len(name)
            size = HEAD + (length + 7 & ~7)
            if inside + size > FRAME:
                self._room(size)
                inside, base = len(frame), self._base
            at = base + inside
            if start < 0:
                start = at
            node = at >> 3
            if len(row) == PLAIN:
                _, _, _, number, _, octets, mtime_ns, mode, uid, gid, generation, tail, where = row
                seconds, nanos = divmod(mtime_ns, 1_000_000_000)
                seconds &= WIDE
                frame += pack(
                    node, generation, FOR_EVER, FOR_EVER, tail, where,
                    number, octets, -(-octets // 512), seconds, seconds, seconds, nanos, nanos, nanos, mode, 1, uid,
                    gid, 0, block, 0, number, at + size - start, length, mode >> 12,
                ) + name + pads[length & 7]  # fmt: skip
            else:
                frame += row[-1]
                put(frame, inside + OFF, at + size - start)
                if name == b"." or name == b"..":
                    continue
                if row[-1].startswith(_NO_NODE):
                    put(frame, inside, node)
            add(hashed(crc32(name, parent) * SPREAD & WIDE, node))
        return start, self.here - start, b"".join(names)

    def finish(self) -> int:
        """Close the last frame, which is shorter; returns the bytes of space."""
        if self._frame:
            self._base += len(self._frame)
            self._full(bytes(self._frame))
            self._frame.clear()
        return self._base
