"""Listings of several trees as one: records get the number of their tree, names that are hidden are cut out.

Numbers of nodes and of inodes of tree *n* have n in some of their upper bits, so what comes from tree 0 (the lowest,
and the largest) is handed on as it lies.  Where trees lie on top of one another, cookies have it too.  Folders that
are made up of several are few; their records come first, in a block of their own, then each tree's own listing without
what the block or a higher tree shows.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from dls.fuse.index import damaged
from dls.fuse.records import DIRENT_INO, HEAD, INO, MODE, NAME_SIZE, NODE, OFF, RDEV, TYPE, U32, U64, length_of


class Tag(NamedTuple):
    """Which bits of a number say which tree it is of; the highest of them is set for folders that are made up."""

    shift: int
    """A multiple of 8."""
    bytes: int
    layers: bool
    """Whether trees lie on top of one another: cookies are tagged, whiteouts left out."""

    @property
    def inside(self) -> int:
        """Mask of the bits that the tree itself knows."""
        return (1 << self.shift) - 1

    @property
    def made(self) -> int:
        """The bit of folders that are made up."""
        return 1 << self.shift + 8 * self.bytes - 1


LAYERS: Final = Tag(40, 2, True)
"""An image numbers its nodes with 37 bits."""
PLACES: Final = Tag(56, 1, False)
"""What lies in the folders of `Beside` may be a stack."""
BLOCK: Final = 0x7FFF << LAYERS.shift
"""Cookies of the block."""
_CHAR: Final = 2
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
    """The first HEAD bytes of a record, as of tree `number`."""
    if not number:
        return record
    out = bytearray(record[:HEAD])
    _mark(out, 0, number.to_bytes(tag.bytes, "little"), tag)
    return bytes(out)


def _mark(out: bytearray, at: int, number: bytes, tag: Tag) -> None:
    first, stop = at + (tag.shift >> 3), at + (tag.shift >> 3) + tag.bytes
    if out[at : at + 8] != b"\0\0\0\0\0\0\0\0":  # `.` and `..` have no number
        out[first + NODE : stop + NODE] = number
    out[first + INO : stop + INO] = number
    out[first + DIRENT_INO : stop + DIRENT_INO] = number
    if tag.layers:
        out[first + OFF : stop + OFF] = number


def shifted(piece: bytes | memoryview, number: int, tag: Tag) -> bytes:
    """Whole records as of tree `number`, without whiteouts where trees lie on top of one another."""
    out, at, mark = bytearray(piece), 0, number.to_bytes(tag.bytes, "little")
    gone: list[Cut] = []
    end, hide = len(out), tag.layers
    while at < end:
        length = HEAD + (U32.unpack_from(out, at + NAME_SIZE)[0] + 7 & ~7)
        if hide and out[at + TYPE] == _CHAR and out[at + RDEV : at + RDEV + 4] == b"\0\0\0\0":
            gone.append((at, at + length))
        else:
            _mark(out, at, mark, tag)
        at += length
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

    def part(self, at: int, size: int) -> bytes:
        """Whole records from `at` on, at most `size` bytes."""
        stop = self.borders[bisect_right(self.borders, at + size) - 1]
        return self.data[at:stop] if stop > at else b""
