"""What the files of a job become: blocks, compressed and proven.

A large file has blocks of its own; small ones share a block, one behind the other.  A shared block is made of *parts*
(`dls.fuse.codec`), one for each file, so that a file is read without its neighbours, unless that costs more than
GAIN in bytes: files that are much alike go into one frame.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable
from functools import cache
from itertools import accumulate
from typing import Final, NamedTuple

from dls.fuse.codec import FRAME_HEAD, LEVEL, PART_HEAD, PARTS, RAW, Packer, Unpacker, joined, sealed, sum_of, sums_of
from dls.logistics.errors import Corrupt

GAIN: Final = 1.04
"""Parts may take so many times the bytes of one frame; looked at for the first shared block of each job."""
LARGEST_PART: Final = 16 << 10
LARGEST_SHARED: Final = 128 << 10
"""What fits into the 32 bits of `inside`."""
INSIDE_AT: Final = 18
INSIDE: Final = (1 << INSIDE_AT) - 1
"""Where a part is: its first byte in the stored block (18 bits), above it its bytes, less PART_HEAD and 1 (14 bits)."""
ROW: Final = struct.Struct("<IIIIIQ")
"""For each file: number of its first block in the job, how many are its own (0: it shares one), offset of its content
in the shared block, `inside` (the same, or where its part is), sum of its part, bytes that are not stored."""


SQUASHFS: Final = "squashfs"
EROFS: Final = "erofs"
_ALIGNED: Final = 4096


class Form(NamedTuple):
    """The shape of an image's data."""

    block: int = 128 << 10
    """Bytes of a block of a file."""
    small: int = 16 << 10
    """Files up to this size share a block with their neighbours."""
    shared: int = 32 << 10
    """A shared block takes no further file from here on."""
    level: int = LEVEL
    image: str = SQUASHFS
    """The file system that the image is for the kernel."""

    @property
    def shown(self) -> str:
        """The name of that file system, for people."""
        return "EROFS" if self.image == EROFS else "SquashFS"

    @property
    def align(self) -> int:
        """Blocks begin at multiples of this."""
        return _ALIGNED if self.image == EROFS else 1


AS_IT_IS: Final = Form(small=0, shared=0, level=0, image=EROFS)
"""EROFS: no block is compressed, and no file shares one."""


class Packed(NamedTuple):
    """What a job became, as it goes through a pipe."""

    stored: bytes
    """For each block, u32: stored bytes, RAW, PARTS; 0 is a hole."""
    sums: bytes
    """For each block, u32."""
    shared: bytes
    """Numbers of the shared blocks, u32."""
    files: bytes
    """For each file that is kept, a ROW."""


class Blocks:
    """Takes bodies in order; the result depends on nothing else."""

    def __init__(self, form: Form, packer: Packer, unpacker: Unpacker) -> None:
        self._form, self._packer, self._unpacker = form, packer, unpacker
        self.data: list[bytes] = []
        """What is to be written, in order."""
        self._stored, self._sums, self._shared = array("I"), array("I"), array("I")
        self._files = bytearray()
        self._group: list[bytes] = []
        self._filled = 0
        self._zeros = _zeros(form.block)
        fits = form.small <= LARGEST_PART and form.block <= LARGEST_SHARED
        self._apart: bool | None = None if fits else False

    def add(self, bodies: Iterable[bytes]) -> None:
        """The next files."""
        small, most, enough = self._form.small, self._form.block, self._form.shared
        group, filled = self._group, self._filled
        for body in bodies:
            size = len(body)
            if size > small or filled + size > most:
                self._close()
                filled = 0
                if size > small:
                    first = len(self._stored)
                    holes = self.stretch(body)
                    self._files += ROW.pack(first, -(-size // most), 0, 0, 0, holes)
                    continue
            group.append(body)
            filled += size
            if filled >= enough:
                self._close()
                filled = 0
        self._filled = filled

    def stretch(self, body: bytes) -> int:
        """Blocks of one file's own; how many bytes of it are zeros that are not stored."""
        block, zeros, holes = self._form.block, self._zeros, 0
        for at in range(0, len(body), block):
            plain = body[at : at + block] if len(body) > block else body
            # Compared, not counted: most blocks that begin with a zero hold something else soon.
            if not plain[0] and plain == (zeros if len(plain) == block else bytes(len(plain))):
                self._stored.append(0)
                self._sums.append(0)
                holes += len(plain)
            else:
                self._put(*self._framed(plain))
        return holes

    def packed(self) -> Packed:
        """What has become of them."""
        self._close()
        return Packed(self._stored.tobytes(), self._sums.tobytes(), self._shared.tobytes(), bytes(self._files))

    # --------------------------------------------------------------------------------------------- inside

    def _put(self, data: bytes, marks: int) -> None:
        self._stored.append(len(data) | marks)
        self._sums.append(sum_of(data))
        self.data.append(data)
        if self._form.image == EROFS:
            self.data.append(bytes(-len(data) % _ALIGNED))

    def _framed(self, plain: bytes) -> tuple[bytes, int]:
        if self._form.image == EROFS:
            return plain, RAW
        frame, size = self._packer.one(plain), len(plain)
        if len(frame) >= size:
            return plain, RAW
        # Proven before it is written: what cannot be read back is never stored.
        if self._unpacker.proven(frame, size) != plain:
            raise _unreadable()
        return frame, 0

    def _close(self) -> None:
        group = self._group
        if not group:
            return
        if self._apart is False:
            self._whole(group)
        else:
            parts = self._packer.parts(group)
            if self._apart is None:
                plain = b"".join(group)
                size = min(len(plain), FRAME_HEAD + sum(map(len, parts)))
                self._apart = size <= GAIN * min(len(plain), len(self._packer.one(plain)))
            if self._apart:
                self._parts(group, parts)
            else:
                self._whole(group)
        group.clear()

    def _whole(self, group: list[bytes]) -> None:
        number, offset = len(self._stored), 0
        for body in group:
            self._files += ROW.pack(number, 0, offset, offset, 0, 0)
            offset += len(body)
        self._shared.append(number)
        self._put(*self._framed(b"".join(group)))

    def _parts(self, group: list[bytes], parts: list[bytes]) -> None:
        offsets = list(accumulate(map(len, group), initial=0))
        size = offsets.pop()
        if FRAME_HEAD + sum(map(len, parts)) >= size:
            ends, head, at, marks = group, 0, 0, PARTS | RAW
            frame = b"".join(group)
        else:
            ends, head, at, marks = sealed(parts), PART_HEAD, FRAME_HEAD, PARTS
            frame = joined(ends, size)
            found = self._unpacker.proven(frame, size)
            if len(found) != size or not all(map(found.startswith, group, offsets)):
                # A match at the beginning of a file hangs on what was before: such a file begins a block.
                if len(group) == 1:
                    raise _unreadable()
                half = len(group) // 2
                self._parts(group[:half], parts[:half])
                self._parts(group[half:], parts[half:])
                return
        number, row, rows = len(self._stored), ROW.pack, []
        for offset, length, check in zip(offsets, map(len, ends), map(sums_of, ends), strict=True):
            rows.append(row(number, 0, offset, (length - head - 1) << INSIDE_AT | at, check & 0xFFFFFFFF, 0))
            at += length
        self._files += b"".join(rows)
        self._shared.append(number)
        self._put(frame, marks)


@cache
def _zeros(size: int) -> bytes:
    return bytes(size)


def _unreadable() -> Corrupt:
    return Corrupt("a compressed block does not give back what went in", code="bad-memory")
