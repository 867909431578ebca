"""Manifests: the exact content of a tree as a list of content-addressed segments, and what is done with two of them.

A manifest holds one small reference per segment, never the entries: `load` brings a segment when it is walked.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from dls.logistics import digest as digests
from dls.logistics import names
from dls.logistics.entry import FILE, Entry
from dls.logistics.errors import Corrupt, NotFound
from dls.logistics.frozen import frozen
from dls.logistics.segment import Segment, cut, entries_of

Load = Callable[[bytes], Segment]
"""The segment with this digest; NotFound or Corrupt otherwise."""

_REF = struct.Struct("<32s32sIQQ")


@frozen
class SegmentRef:
    """A segment by name, with what planners need to know without opening it."""

    digest: bytes
    content: bytes
    entries: int
    files: int
    size: int
    """Sum of file sizes, bytes."""

    @classmethod
    def of(cls, segment: Segment) -> SegmentRef:
        """The reference to a segment."""
        return cls(segment.digest, segment.content, len(segment), segment.kinds.count(FILE), segment.size)


@frozen
class Manifest:
    """The exact content of a tree, in order."""

    refs: tuple[SegmentRef, ...]
    load: Load

    @property
    def entries(self) -> int:
        """Files, links and folders together."""
        return sum(r.entries for r in self.refs)

    @property
    def files(self) -> int:
        """Files only; names of one hard-link group count each."""
        return sum(r.files for r in self.refs)

    @property
    def size(self) -> int:
        """Sum of file sizes, bytes; names of one hard-link group count each."""
        return sum(r.size for r in self.refs)

    @property
    def digest(self) -> bytes:
        """BLAKE3-256 over the segments' digests: all of it, modes and times included."""
        return digests.of(b"DLSM\x01" + b"".join(r.digest for r in self.refs))

    @property
    def content(self) -> bytes:
        """BLAKE3-256 over the segments' content names: what a job reads; the identity of a version."""
        return digests.of(b"DLSC\x01" + b"".join(r.content for r in self.refs))

    def segments(self) -> Iterator[Segment]:
        """The segments in order, one in memory at a time."""
        for ref in self.refs:
            yield self.load(ref.digest)

    def __iter__(self) -> Iterator[Entry]:
        return entries_of(self.segments())

    def to_json(self) -> dict[str, Any]:
        """Counts and names, not the entries."""
        return {
            "digest": digests.text(self.digest),
            "content": digests.text(self.content),
            "entries": self.entries,
            "files": self.files,
            "bytes": self.size,
            "segments": len(self.refs),
        }

    def encode_refs(self) -> bytes:
        """The list of references, 84 bytes each, as the catalogue keeps it."""
        return b"".join(_REF.pack(r.digest, r.content, r.entries, r.files, r.size) for r in self.refs)


def decode_refs(data: bytes) -> tuple[SegmentRef, ...]:
    """What `encode_refs` wrote; Corrupt where the length is wrong."""
    if len(data) % _REF.size:
        raise Corrupt(f"{len(data)} bytes are no list of segments", code="bad-segment")
    return tuple(SegmentRef(*row) for row in _REF.iter_unpack(data))


def in_memory(entries: Iterable[Entry]) -> Manifest:
    """A manifest that keeps its segments in memory: for tests and small trees."""
    kept: dict[bytes, Segment] = {}
    refs = []
    for segment in cut(entries):
        kept[segment.digest] = segment
        refs.append(SegmentRef.of(segment))

    def load(digest: bytes) -> Segment:
        if digest not in kept:
            raise NotFound(f"no segment {digest.hex()[:16]}", code="no-segment")
        return kept[digest]

    return Manifest(tuple(refs), load)


def merge(left: Iterable[Entry], right: Iterable[Entry]) -> Iterator[tuple[Entry | None, Entry | None]]:
    """Two sorted streams side by side by name: (left, right), None where one lacks the name.  Lazy, O(1) memory."""
    a, b = iter(left), iter(right)
    x, y = next(a, None), next(b, None)
    while x is not None or y is not None:
        if y is None or (x is not None and x.path < y.path):
            yield x, None
            x = next(a, None)
        elif x is None or y.path < x.path:
            yield None, y
            y = next(b, None)
        else:
            yield x, y
            x, y = next(a, None), next(b, None)


@frozen
class Change:
    """One difference between two manifests; `before` or `after` is None for an addition or a removal."""

    before: Entry | None
    after: Entry | None

    @property
    def path(self) -> bytes:
        """The name that differs."""
        one = self.after or self.before
        assert one is not None
        return one.path

    def to_json(self) -> dict[str, Any]:
        """`added`, `removed` or `changed`, with the name."""
        word = "added" if self.before is None else "removed" if self.after is None else "changed"
        return {"change": word, "path": names.show(self.path)}


def diff(before: Manifest, after: Manifest) -> Iterator[Change]:
    """What differs in content, in order of name; segments that both share are not opened."""
    for old, new in merge(_unshared(before, after), _unshared(after, before)):
        if old is None or new is None or _seen(old) != _seen(new):
            yield Change(old, new)


def _unshared(this: Manifest, other: Manifest) -> Iterator[Entry]:
    shared = {r.content for r in other.refs}
    for ref in this.refs:
        if ref.content not in shared:
            yield from this.load(ref.digest)


def _seen(entry: Entry) -> tuple[int, int, bytes, bytes]:
    return entry.kind, entry.size, entry.digest, entry.target


class Bitmap:
    """Which of n ordinals are done: one bit each, as receipts and partial replicas keep it."""

    __slots__ = ("bits", "count")

    def __init__(self, count: int, data: bytes = b"") -> None:
        self.count = count
        self.bits = int.from_bytes(data, "little")
        if self.bits >> count:
            raise ValueError(f"bits set beyond {count}")

    @classmethod
    def full(cls, count: int) -> Bitmap:
        """All done."""
        made = cls(count)
        made.bits = (1 << count) - 1
        return made

    def add(self, i: int) -> None:
        """Mark ordinal i done."""
        if not 0 <= i < self.count:
            raise IndexError(i)
        self.bits |= 1 << i

    def remove(self, i: int) -> None:
        """Mark ordinal i not done."""
        self.bits &= ~(1 << i)

    def __contains__(self, i: int) -> bool:
        return bool(self.bits >> i & 1)

    def __len__(self) -> int:
        return self.bits.bit_count()

    @property
    def complete(self) -> bool:
        """Whether nothing is missing."""
        return self.bits == (1 << self.count) - 1

    def missing(self) -> Iterator[int]:
        """Ordinals not done, ascending."""
        rest = ~self.bits & ((1 << self.count) - 1)
        while rest:
            low = rest & -rest
            yield low.bit_length() - 1
            rest ^= low

    def encode(self) -> bytes:
        """Little-endian bits, ⌈n/8⌉ bytes."""
        return self.bits.to_bytes(-(-self.count // 8), "little")
