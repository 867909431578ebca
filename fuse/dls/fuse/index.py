"""The index of an image: names, attributes, extents and sums, behind the image in the same file or in a file beside it.

Format: `specs/image.md`.  Sections begin at multiples of 8; tables have one sum per page of 4 KiB, looked at
when a page is first used, so that opening costs the same for ten files and ten million.
"""

from __future__ import annotations

import json
import mmap
import struct
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from typing import Any, Final
from zlib import crc32

from dls.fuse.codec import Packer, sum_of
from dls.fuse.records import HASHED, SPREAD, WIDE
from dls.fuse.spool import Spool
from dls.logistics import digest as digests
from dls.logistics.errors import Corrupt, Unsupported
from dls.logistics.frozen import frozen
from dls.logistics.manifest import SegmentRef, decode_refs
from dls.logistics.segment import Segment

VERSION: Final = 1
PAGE: Final = 4096
FOOTER: Final = struct.Struct("<8sIIQ32sQ")
MAGIC: Final = b"DLSINDEX"
EXTENT: Final = struct.Struct("<QII")
"""One stored frame: position of its first byte, stored bytes (marked RAW or PARTS; 0: zeros), sum of what is stored."""
SLOT: Final = struct.Struct("<Q")
EMPTY: Final = 0
MARK_AT = 40
"""A slot of the table of names: the record's position / 8 in the lower 40 bits, above it 24 bits of the hash."""
_LARGEST_HEADER = 1 << 24
_SLOTS_AT_ONCE = 1 << 13


def hash_of(name: bytes, parent: int) -> int:
    """64 bits: where a name under the folder with this inode number is looked for, and its mark in the slot."""
    return crc32(name, parent) * SPREAD & WIDE


@frozen
class Header:
    """What the end of an index says about all of it."""

    image: dict[str, Any]
    """What it belongs to: `bytes` of the image, `super` (digest of the first 96 bytes of its superblock), `at` (where
    that begins, if not with the image), `block` size."""
    counts: dict[str, int]
    root: int
    """Position of the root's record."""
    space: int
    """Bytes of space."""
    slots: int
    """A power of two."""
    sections: dict[str, tuple[int, int]]
    """Position, from the start of the index, and bytes."""
    digests: dict[str, str]
    """Of sections that are read whole."""
    made: dict[str, Any]
    """With what: format, level, sizes; nothing that differs between two packs of one tree."""

    def encode(self) -> bytes:
        """As it is stored."""
        told = {one.name: getattr(self, one.name) for one in fields(self)}
        return json.dumps(told, sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, data: bytes) -> Header:
        """What `encode` made; Corrupt otherwise."""
        try:
            found = json.loads(data)
            found["sections"] = {k: (a, b) for k, (a, b) in found["sections"].items()}
            header = cls(**{one.name: found[one.name] for one in fields(cls)})
            numbers = [header.root, header.space, header.slots, *header.counts.values()]
            numbers += [n for pair in header.sections.values() for n in pair]
            numbers += [header.image["bytes"], header.image["block"]]
            numbers += [header.image.get("at", 0), header.image.get("frame", 0)]
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
            raise damaged("its header cannot be read") from exc
        if not all(type(n) is int and 0 <= n < 1 << 63 for n in numbers) or not isinstance(header.digests, dict):
            raise damaged("its header says what cannot be")
        return header


def damaged(why: str, **facts: Any) -> Corrupt:
    """An index that is not what was written."""
    return Corrupt(
        f"the index of the image is damaged: {why}",
        code="bad-image",
        remedy="get the image again, or pack it anew",
        **facts,
    )


class Names:
    """Collects names for the table of names; few bytes each, in a spool."""

    def __init__(self, spool: Spool) -> None:
        self._spool, self.count = spool, 0

    def add(self, rows: bytes) -> None:
        """Rows of HASHED, one a name."""
        self._spool.add(rows)
        self.count += len(rows) // HASHED.size

    @property
    def slots(self) -> int:
        """A power of two, at least a third more than there are names."""
        return max(512, 1 << (self.count * 4 // 3).bit_length())

    def table(self) -> array[int]:
        """The slots: open addressing, the next slot is tried."""
        slots = self.slots
        table, mask = array("Q", bytes(8 * slots)), slots - 1
        for chunk in self._spool:
            for hashed, node in HASHED.iter_unpack(chunk):
                at = hashed >> 20 & mask
                while table[at]:
                    at = at + 1 & mask
                table[at] = (hashed >> 40) << MARK_AT | node
        return table

    def parts(self) -> Iterator[bytes]:
        """The table as it is stored, in pieces."""
        table = self.table()
        for at in range(0, len(table), _SLOTS_AT_ONCE):
            yield table[at : at + _SLOTS_AT_ONCE].tobytes()


class Out:
    """Writes sections one after the other, with the sums of their pages."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write
        self.size = 0
        self.sections: dict[str, tuple[int, int]] = {}
        self.digests: dict[str, str] = {}
        self._sums = bytearray()

    def add(self, data: bytes) -> None:
        """Append as it is."""
        self._write(data)
        self.size += len(data)

    def align(self) -> None:
        """Go on at a multiple of 8."""
        self.add(bytes(-self.size % 8))

    def whole(self, name: str, data: bytes) -> None:
        """A section that is read whole, with its digest in the header."""
        self.align()
        self.sections[name] = (self.size, len(data))
        self.digests[name] = digests.text(digests.of(data))
        self.add(data)

    def paged(self, name: str, parts: Iterable[bytes]) -> None:
        """A section that is looked at page by page."""
        self.align()
        start, rest, sums = self.size, bytearray(), bytearray()
        for part in parts:
            rest += part
            full = len(rest) // PAGE * PAGE
            for at in range(0, full, PAGE):
                sums += struct.pack("<I", sum_of(rest[at : at + PAGE]))
            self.add(bytes(rest[:full]))
            del rest[:full]
        if rest:
            sums += struct.pack("<I", sum_of(rest))
            self.add(bytes(rest))
        self.sections[name] = (start, self.size - start)
        self.sections[name + " sums"] = (len(self._sums), len(sums))
        self._sums += sums

    def end(self, header: Header) -> None:
        """The sums, the header and the footer."""
        self.whole("sums", bytes(self._sums))
        self.align()
        data, at = header.encode(), self.size
        self.add(data + bytes(-(self.size + len(data) + FOOTER.size) % 8))
        self.add(FOOTER.pack(MAGIC, VERSION, len(data), at, digests.of(data), self.size + FOOTER.size))


class Table:
    """A section of fixed-size rows, each page of which is checked when it is first used."""

    __slots__ = ("_data", "_rows", "_sums", "_unpack", "_wanting", "_words", "count")

    def __init__(self, data: memoryview, sums: memoryview, row: struct.Struct) -> None:
        if len(sums) != -(-len(data) // PAGE) * 4 or len(data) % row.size or PAGE % row.size:
            raise damaged("a table has another size than its sums")
        self._data, self._sums = data, sums.cast("I")
        self._unpack, self._rows = row.unpack_from, row.size
        self._wanting = bytearray(b"\1") * len(self._sums)
        self.count = len(data) // row.size
        self._words = data.cast("Q") if row.size == 8 else data

    def __getitem__(self, i: int) -> tuple[int, ...]:
        at = i * self._rows
        page = at >> 12
        if not 0 <= i < self.count:
            raise damaged(f"row {i} of {self.count} is asked for")
        if self._wanting[page]:
            self._check(page)
        return self._unpack(self._data, at)

    def word(self, i: int) -> int:
        """Row `i` of a table of 8 bytes a row; as []."""
        if self._wanting[i >> 9]:
            self._check(i >> 9)
        return self._words[i]

    def _check(self, page: int) -> None:
        if sum_of(self._data[page << 12 : (page + 1) << 12]) != self._sums[page]:
            raise damaged(f"page {page} of a table")
        self._wanting[page] = 0

    def check(self) -> None:
        """Look at all pages now."""
        for page in range(len(self._wanting)):
            self._check(page)


class Index:
    """An index that was opened, on mapped or held bytes.  `read` names no files: `dls.fuse.image` does."""

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.header = header = header_of(data)
        self._sums = self._whole("sums")
        self.frames = self._table("frames", EXTENT)
        self.blocks = self._table("blocks", EXTENT)
        self.names = self._table("names", SLOT)
        self.xattrs = self._table("xattrs", EXTENT)
        self.segments = self._table("segments", EXTENT)
        if self.names.count != header.slots or header.slots & (header.slots - 1) or not header.slots:
            raise damaged("its table of names has a wrong size")

    def check(self) -> None:
        """Look at every page of every table now; Corrupt where one is not what was written."""
        for table in (self.frames, self.blocks, self.names, self.xattrs, self.segments):
            table.check()

    def check_all(self) -> None:
        """As `check`, and look at everything that the rows of the tables lead to, but the blocks of the image."""
        self.check()
        for rows, name in ((self.frames, "frame data"), (self.xattrs, "xattr data"), (self.segments, "segment data")):
            data = self.section(name)
            for number in range(rows.count):
                at, size, check = rows[number]
                if at + size > len(data) or sum_of(data[at : at + size]) != check:
                    raise damaged(f"its section {name!r}")

    def section(self, name: str) -> memoryview:
        """The bytes of a section."""
        try:
            at, size = self.header.sections[name]
        except KeyError:
            raise damaged(f"it has no section {name!r}") from None
        if at < 0 or size < 0 or at + size > len(self.data):
            raise damaged(f"its section {name!r} lies outside")
        return self.data[at : at + size]

    def _whole(self, name: str) -> memoryview:
        found = self.section(name)
        if digests.text(digests.of(found)) != self.header.digests.get(name):
            raise damaged(f"its section {name!r}")
        return found

    def _table(self, name: str, row: struct.Struct) -> Table:
        at, size = self.header.sections.get(name + " sums", (0, 0))
        return Table(self.section(name), self._sums[at : at + size], row)

    def whole(self, name: str) -> bytes:
        """A section that is read whole, checked."""
        return bytes(self._whole(name))

    def refs(self) -> tuple[SegmentRef, ...]:
        """The segments of the manifest."""
        return decode_refs(self.whole("refs"))

    def segment(self, number: int, ref: SegmentRef) -> Segment:
        """Segment `number` of the manifest."""
        at, size, _ = self.segments[number]
        data = self.section("segment data")
        return Segment.decode(bytes(data[at : at + size]), expect=ref.digest)


def header_of(data: memoryview) -> Header:
    """The header of an index that ends where `data` ends; Corrupt or Unsupported otherwise."""
    if len(data) < FOOTER.size:
        raise damaged("it is cut short")
    magic, version, size, at, digest, whole = FOOTER.unpack_from(data, len(data) - FOOTER.size)
    if magic != MAGIC or whole != len(data):
        raise damaged("it has no end")
    if version != VERSION:
        raise Unsupported(
            f"the index has version {version}, this dls reads version {VERSION}",
            code="newer-image",
            remedy="update dls",
        )
    if size > _LARGEST_HEADER or at + size > len(data):
        raise damaged("its header lies outside")
    found = bytes(data[at : at + size])
    if digests.of(found) != digest:
        raise damaged("its header")
    return Header.decode(found)


def mapped(fd: int, start: int, size: int) -> memoryview:
    """`size` bytes of a file from `start`, mapped."""
    page = mmap.ALLOCATIONGRANULARITY
    before = start % page
    return memoryview(mmap.mmap(fd, before + size, access=mmap.ACCESS_READ, offset=start - before))[before:]


def frame_packer() -> Packer:
    """How frames of space are compressed."""
    return Packer(3)
