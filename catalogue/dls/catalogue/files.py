"""Entries inside segments: what is checked when a segment comes in, and one page of a version's files."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice, pairwise
from operator import lt
from typing import Final, NamedTuple

from dls.logistics import names
from dls.logistics.entry import Entry
from dls.logistics.errors import Corrupt, Invalid, NotFound
from dls.logistics.manifest import Load, SegmentRef
from dls.logistics.segment import Segment

SIZE_LIMIT: Final = 2**63 - 1
"""Largest sum of file sizes that a database's integer holds, bytes."""


class SegmentFacts(NamedTuple):
    """A stored segment, but for its entries."""

    ref: SegmentRef
    first: bytes
    """Its first name."""
    last: bytes
    """Its last name: pages open only the segments that they need."""
    hashed: bool
    """Whether every file's digest is known."""


def no_segment(digest: bytes) -> NotFound:
    """The error of a segment that was never put, or was swept."""
    return NotFound(
        f"the catalogue has no segment {digest.hex()[:16]}",
        code="no-segment",
        segment=digest.hex(),
        remedy="put the segments, then apply; swept ones are put again",
    )


# What an illegal name looks like in a column of names with NULs between: a few searches instead of a call per name.
_EDGES = (b"\0", b"/")
_ILLEGAL = tuple(a + part + b for part in (b"", b".", b"..") for a in _EDGES for b in _EDGES) + tuple(
    a + names.HIDDEN for a in _EDGES
)


def inspect(data: bytes) -> SegmentFacts:
    """Facts of an encoded segment.  Corrupt: it is none.  Invalid: empty, out of order, or with an illegal name."""
    segment = Segment.decode(data)
    paths = segment.paths
    if not paths:
        raise Invalid("an empty segment", code="bad-segment", remedy="an empty tree has no segments")
    column = b"\0%b\0" % b"\0".join(paths)
    if any(bad in column for bad in _ILLEGAL):
        for path in paths:
            names.check(path)
    if segment.size > SIZE_LIMIT:
        raise Invalid("a segment of over 2^63 bytes", code="bad-segment")
    if not all(map(lt, paths, islice(paths, 1, None))):
        raise Corrupt("a segment whose names are not in order", code="bad-segment")
    return SegmentFacts(SegmentRef.of(segment), paths[0], paths[-1], segment.hashed)


_BATCH_SEGMENTS = 32
_BATCH_BYTES = 16 << 20


def batches(segments: Iterable[bytes]) -> Iterator[list[tuple[SegmentFacts, bytes]]]:
    """Inspected segments in batches that are worth a transaction and fit in memory: at most 32, about 16 MiB."""
    batch: list[tuple[SegmentFacts, bytes]] = []
    held = 0
    for data in segments:
        batch.append((inspect(data), data))
        held += len(data)
        if len(batch) == _BATCH_SEGMENTS or held >= _BATCH_BYTES:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def line_up(refs: Sequence[SegmentRef], have: dict[bytes, SegmentFacts]) -> None:
    """Check that these segments are stored, are as the references say, and follow each other as one tree.

    NotFound: a segment was not put.  Invalid: not in order, or a file not hashed.  Corrupt: a reference that lies.
    """
    for ref in refs:
        facts = have.get(ref.digest)
        if facts is None:
            raise no_segment(ref.digest)
        if facts.ref != ref:
            raise Corrupt(f"segment {ref.digest.hex()[:16]} is not as its reference says", code="bad-segment")
        if not facts.hashed:
            raise Invalid(
                f"a file between {names.show(facts.first)} and {names.show(facts.last)} has no digest",
                code="not-hashed",
                remedy="hash every file before the version is added",
            )
    for one, other in pairwise(refs):
        if have[one.digest].last >= have[other.digest].first:
            first = names.show(have[other.digest].first)
            raise Invalid(f"segments are not in order at {first}", code="not-sorted", key=first)


def page(
    load: Load, digests: Iterable[bytes], *, prefix: bytes = b"", below: bytes = b"", after: bytes = b"", limit: int
) -> list[Entry]:
    """At most `limit` entries whose path is above `after`, begins with `prefix`, and is `below` or under that folder.

    `digests` names segments in order, from one that holds or precedes the first such path on.
    """
    out: list[Entry] = []
    if not prefix.startswith(below) and not below.startswith(prefix):
        return out
    prefix = max(prefix, below)  # of two prefixes of one name the longer is the greater
    low = max(prefix, after)
    folder = below + b"/"
    for digest in digests:
        segment = load(digest)
        paths = segment.paths
        start = bisect_right(paths, low) if low == after else bisect_left(paths, low)
        for i in range(start, len(paths)):
            path = paths[i]
            if not path.startswith(prefix):
                return out
            if below and path != below and not path.startswith(folder):
                continue
            out.append(segment.entry(i))
            if len(out) == limit:
                return out
    return out


def first_absent(load: Load, seek: Callable[[bytes], bytes | None], paths: Iterable[bytes]) -> bytes | None:
    """The first of some sorted names that is not there; `seek` names the segment whose last name is not below one."""
    segment: Segment | None = None
    for path in paths:
        if segment is None or segment.paths[-1] < path:
            digest = seek(path)
            if digest is None:
                return path
            segment = load(digest)
        i = bisect_left(segment.paths, path)
        if i == len(segment.paths) or segment.paths[i] != path:
            return path
    return None
