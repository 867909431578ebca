"""Images whose sums are right and whose contents are not: taken apart, changed, put together again with new sums."""

from __future__ import annotations

import struct
import zlib
from array import array
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from dls.fuse import index as indexes
from dls.fuse.codec import Packer, sum_of
from dls.fuse.image import open_image
from dls.fuse.index import EXTENT, Header, Out
from dls.fuse.records import FRAME, HEAD, SPREAD, WIDE
from dls.logistics.manifest import SegmentRef
from dls.logistics.segment import Segment

_DATA = {"frames": "frame data", "xattrs": "xattr data", "segments": "segment data"}


@dataclass
class Parts:
    """An image in pieces that can be changed; `whole` puts them together with sums that are right."""

    body: bytearray
    """The SquashFS."""
    header: Header
    space: bytearray
    blocks: list[tuple[int, int, int]]
    names: array[int]
    xattrs: list[bytes]
    segments: list[Segment]
    nodes: dict[bytes, int]
    """Numbers of nodes by path."""
    frames: dict[int, bytes] = field(default_factory=dict)
    """Frames that are stored as they are here, instead of what space holds."""
    raw_segments: dict[int, bytes] = field(default_factory=dict)
    said: dict[str, Any] = field(default_factory=dict)
    """Fields of the header that are not as they would be."""

    def put(self, path: bytes, offset: int, form: str, *values: int) -> None:
        """Write numbers into the record of a path."""
        struct.pack_into(form, self.space, (self.nodes[path] << 3) + offset, *values)

    def get(self, path: bytes, offset: int, form: str) -> int:
        """A number in the record of a path."""
        (value,) = struct.unpack_from(form, self.space, (self.nodes[path] << 3) + offset)
        return int(value)

    def rename(self, path: bytes, name: bytes, parent: int) -> None:
        """Another name of the same length, found by its hash too."""
        at = (self.nodes[path] << 3) + HEAD
        self.space[at : at + len(name)] = name
        hashed = zlib.crc32(name, parent) * SPREAD & WIDE
        mask, slot = len(self.names) - 1, hashed >> 20
        while self.names[slot & mask]:
            slot += 1
        self.names[slot & mask] = (hashed >> 40) << indexes.MARK_AT | self.nodes[path]

    def entries(self, change: Any) -> None:
        """Replace the manifest by that of other entries, unchecked."""
        self.segments = [Segment.of(change([entry for one in self.segments for entry in one]))]

    def whole(self) -> bytes:
        """The image."""
        data = bytearray(self.body)
        out = Out(lambda piece: data.extend(piece) or None)  # type: ignore[func-returns-value]
        pack = Packer(3)
        plain = [bytes(self.space[at : at + FRAME]) for at in range(0, len(self.space), FRAME)]
        frames = [self.frames.get(i, pack.one(one)) for i, one in enumerate(plain)]
        segments = [self.raw_segments.get(i, one.encode()) for i, one in enumerate(self.segments)]
        for name, stored in (("frames", frames), ("", []), ("xattrs", self.xattrs), ("segments", segments)):
            if not name:
                out.paged("blocks", [b"".join(EXTENT.pack(*row) for row in self.blocks)])
                out.paged("names", [self.names.tobytes()])
                continue
            rows, at = bytearray(), 0
            for one in stored:
                rows += EXTENT.pack(at, len(one), sum_of(one))
                at += len(one)
            out.paged(name, [rows])
            out.align()
            begun = out.size
            out.add(b"".join(stored))
            out.sections[_DATA[name]] = (begun, out.size - begun)
        refs = [SegmentRef.of(one) for one in self.segments]
        out.whole(
            "refs", b"".join(struct.pack("<32s32sIQQ", r.digest, r.content, r.entries, r.files, r.size) for r in refs)
        )
        header = replace(self.header, sections=out.sections, digests=out.digests, space=len(self.space))
        header = replace(header, **{"slots": len(self.names), **self.said})
        out.end(header)
        return bytes(data)


def taken_apart(path: Path) -> Parts:
    """The parts of an image of ours."""
    whole = path.read_bytes()
    with open_image(str(path)) as image:
        index = image.index
        base = len(whole) - len(index.data)
        xattr_data = index.section("xattr data")
        nodes = {b"": image.root} | {name: attr.node for name, attr in image.walk()}
        names = array("Q", bytes(index.section("names")))
        rows = [index.blocks[i] for i in range(index.blocks.count)]
        return Parts(
            bytearray(whole[:base]),
            index.header,
            bytearray(b"".join(image.frame(i) for i in range(index.frames.count))),
            [(a, b, c) for a, b, c in rows],
            names,
            [bytes(xattr_data[at : at + size]) for at, size, _ in (index.xattrs[i] for i in range(index.xattrs.count))],
            list(image.manifest.segments()),
            nodes,
        )


def copied(parts: Parts) -> Parts:
    """Pieces of their own, to be changed."""
    return replace(
        parts, space=bytearray(parts.space), blocks=list(parts.blocks), names=array("Q", parts.names),
        segments=list(parts.segments), body=bytearray(parts.body), said={}, frames={}, raw_segments={},
    )  # fmt: skip


NUMBERS = st.one_of(
    st.sampled_from([0, 1, 2, 8, 63, 64, 4096, 65535, 65536, (1 << 31) - 1, 1 << 31, (1 << 32) - 1]),
    st.sampled_from([1 << 40, (1 << 40) - 1, 1 << 62, 1 << 63, (1 << 64) - 1]),
    st.integers(0, 1 << 17),
)
"""Numbers that are at some border, and others."""
CHANGES = st.one_of(
    st.tuples(st.just("space"), st.integers(0, 1 << 13), NUMBERS, st.sampled_from("BHIQ")),
    st.tuples(st.just("block"), st.integers(0, 9), NUMBERS, NUMBERS),
    st.tuples(st.just("slot"), st.integers(0, 511), NUMBERS, st.just(0)),
    st.tuples(st.just("entry"), st.integers(0, 40), st.binary(max_size=12), st.sampled_from(["path", "target"])),
    st.tuples(st.just("kind"), st.integers(0, 40), st.integers(0, 2), st.just(0)),
)
"""(what, where, value, how): what is done to a piece of an image."""


def changed(parts: Parts, what: str, where: int, value: Any, how: Any) -> None:
    """Make one of CHANGES."""
    if what == "space":
        size = struct.calcsize(how)
        at = min(where, (len(parts.space) - size) // size) * size
        struct.pack_into("<" + how, parts.space, at, value & (1 << 8 * size) - 1)
    elif what == "block":
        number = where % len(parts.blocks)
        old = parts.blocks[number]
        parts.blocks[number] = value & (1 << 64) - 1, how & (1 << 32) - 1, old[2]
    elif what == "slot":
        parts.names[where % len(parts.names)] = value
    else:
        entries = [entry for one in parts.segments for entry in one]
        at = where % len(entries)
        field: dict[str, Any] = {"kind": value} if what == "kind" else {how: value}
        entries[at] = entries[at]._replace(**field)
        parts.entries(lambda _: entries)
