"""Listings of several trees as one: records get the number of their tree, names that are hidden are cut out.

Numbers of nodes and of inodes of tree *n* have n in some of their upper bits, so what comes from tree 0 (the lowest,
and the largest) is handed on as it lies.  Where trees lie on top of one another, cookies have it too.  Folders that
are made up of several are few; their records come first, in a block of their own, then each tree's own listing without
what the block or a higher tree shows.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from dls.fuse.index import damaged
from dls.fuse.records import DIRENT_INO, HEAD, INO, MODE, NAME_SIZE, NODE, OFF, RDEV, TYPE, U32, U64, length_of


class Tag(NamedTuple):
    """Which byte of a number says which tree it is of, and which bit that a folder is made up."""

    shift: int
    """A multiple of 8."""
    made: int
    layers: bool
    """Whether trees lie on top of one another: cookies are tagged, whiteouts left out."""

    @property
    def inside(self) -> int:
        """Mask of the bits that the tree itself knows."""
        return (1 << self.shift) - 1


LAYERS: Final = Tag(40, 1 << 55, True)
"""An image numbers its nodes with 37 bits."""
PLACES: Final = Tag(56, 1 << 63, False)
"""What lies in the folders of `Beside` may be a stack."""
BLOCK: Final = 0x7FFF << LAYERS.shift
"""Cookies of the block."""
_CHAR: Final = 2
_NO_DEVICE: Final = bytes(4)
_DOT: Final = 0x2E
FULL: Final = 512
"""With less room than this the next record may not fit."""

Cut = tuple[int, int]
"""From where to where a listing is not shown."""


def cookie_of(record: bytes) -> Cut:
    """Where a record lies in the listing of its folder; Corrupt where there is none."""
    if len(record) < HEAD:
        raise damaged("a name in a listing is not in its table")
    (stop,) = U64.unpack_from(record, OFF)
    return stop - length_of(U32.unpack_from(record, NAME_SIZE)[0]), stop


def shift(record: bytes, number: int, tag: Tag) -> bytes:
    """The first HEAD bytes of a record, as of tree `number`; Corrupt where its own number is too large."""
    if U64.unpack_from(record, NODE)[0] >> tag.shift:
        raise damaged("a node has a number that no image gives")
    if not number:
        return record
    out, byte = bytearray(record[:HEAD]), tag.shift >> 3
    for field in (NODE, INO, DIRENT_INO, OFF) if tag.layers else (NODE, INO, DIRENT_INO):
        out[field + byte] = number
    return bytes(out)


def shifted(piece: bytes | memoryview, number: int, tag: Tag) -> bytes:
    """Whole records as of tree `number`, without whiteouts where trees lie on top of one another."""
    out, at, byte, layers = bytearray(piece), 0, tag.shift >> 3, tag.layers
    ino, dirent, off = INO + byte, DIRENT_INO + byte, OFF + byte
    gone: list[Cut] = []
    end = len(out)
    while at < end:
        size = out[at + NAME_SIZE] | out[at + NAME_SIZE + 1] << 8
        stop = at + HEAD + (size + 7 & ~7)
        if layers and out[at + TYPE] == _CHAR and out[at + RDEV : at + RDEV + 4] == _NO_DEVICE:
            gone.append((at, stop))
        else:
            if (
                size > 2 or out[at + HEAD] != _DOT or (size == 2 and out[at + HEAD + 1] != _DOT)
            ):  # `.` and `..` have none
                out[at + byte] = number
            out[at + ino] = out[at + dirent] = number
            if layers:
                out[at + off] = number
        at = stop
    for start, stop in reversed(gone):
        del out[start:stop]
    return bytes(out)


def without(piece: bytes, cuts: Sequence[Cut]) -> list[bytes]:
    """Whole records without those that are cut out of the listing; `cuts` are sorted."""
    begin = cookie_of(piece)[0]
    end = begin + len(piece)
    out, at = list[bytes](), begin
    for start, stop in cuts[bisect_right(cuts, (begin, 0)) :]:
        if start >= end:
            break
        if start < at or stop > end or U64.unpack_from(piece, start - begin + OFF)[0] != stop:
            raise damaged("a listing is not in order")
        if start > at:
            out.append(piece[at - begin : start - begin])
        at = stop
    if at == begin:
        return [piece]
    if at < end:
        out.append(piece[at - begin :])
    return out


def named(head: bytes, name: bytes) -> bytes:
    """A whole record with this name, from the first HEAD bytes of one."""
    kind = U32.unpack_from(head, MODE)[0] >> 12
    out = head[:NAME_SIZE] + U32.pack(len(name)) + U32.pack(kind) + name
    return out + bytes(-len(name) % 8)


class Block(NamedTuple):
    """Records that were made, with their cookies."""

    data: bytes
    borders: list[int]

    @classmethod
    def of(cls, rows: Iterator[bytes]) -> Block:
        """Whole records one behind the other."""
        out, borders = bytearray(), [0]
        for row in rows:
            at = len(out)
            out += row
            U64.pack_into(out, at + OFF, BLOCK | len(out))
            borders.append(len(out))
        return cls(bytes(out), borders)

    def border(self, at: int) -> int:
        """Where the first record from `at` on begins: somebody may have sought there."""
        return self.borders[min(bisect_left(self.borders, at), len(self.borders) - 1)]

    def part(self, at: int, size: int) -> bytes:
        """Whole records from `at` on, at most `size` bytes."""
        stop = self.borders[bisect_right(self.borders, at + size) - 1]
        return self.data[at:stop] if stop > at else b""
