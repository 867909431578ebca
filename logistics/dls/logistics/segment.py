"""Segments: up to 8,192 sorted entries in columns, immutable, named by their content.

Borders are content-defined: a segment ends after an entry whose name hashes to zero in its low twelve bits (from
1,024 entries on), so an insertion moves one border and the rest stays shared.  Format: `specs/manifest.md`.

Two names are derived from the plain columns, never from their compressed form: `digest` covers everything,
`content` leaves out modes and times (what a job reads), so touching a tree makes no new version of it.
"""

from __future__ import annotations

import struct
import sys
import zlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, repeat

from dls.logistics import digest as digests
from dls.logistics import names
from dls.logistics.entry import FILE, FOLDER, NO_TIME, Entry
from dls.logistics.errors import Corrupt, Invalid

LIMIT = 8192
LEAST = 1024
_MASK = 0xFFF

_MAGIC = b"DLSG\x01"
_HEAD = struct.Struct("<5sIB")
_COLUMN = struct.Struct("<BBQQ")
_PATHS, _KINDS, _SIZES, _MODES, _MTIMES, _DIGESTS, _TARGETS, _BLOCKS = range(8)
_RAW, _ZLIB = 0, 1
_COUNTED = {_KINDS: 1, _SIZES: 8, _MODES: 2, _MTIMES: 8, _DIGESTS: digests.SIZE}
_LITTLE = sys.byteorder == "little"
_LARGEST_COLUMN = 1 << 30
_LARGEST_INFLATED = LIMIT * 4096 * 2
"""Of a column that is packed: a path, or the text of a link, has at most 4,096 bytes on Linux."""


@dataclass(frozen=True, slots=False, eq=False)
class Segment:
    """Entries `0 … n-1` as columns.  `paths`, `kinds`, `sizes`, `modes`, `mtimes` have length n, `digests` 32 n bytes;
    `targets` and `blocks` are sparse, by ordinal."""

    paths: Sequence[bytes]
    kinds: bytes
    sizes: array[int]
    modes: array[int]
    mtimes: array[int]
    digests: bytes
    targets: dict[int, bytes] = field(default_factory=dict)
    blocks: dict[int, bytes] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.paths)

    def entry(self, i: int) -> Entry:
        """The entry at ordinal i."""
        return Entry(
            self.paths[i],
            self.kinds[i],
            self.sizes[i],
            self.digests[32 * i : 32 * i + 32],
            self.modes[i],
            self.mtimes[i],
            self.targets.get(i, b""),
            self.blocks.get(i, b""),
        )

    def __iter__(self) -> Iterator[Entry]:
        n = len(self.paths)
        d = self.digests
        split = [d[k : k + 32] for k in range(0, 32 * n, 32)]
        targets = map(self.targets.get, range(n), repeat(b"")) if self.targets else repeat(b"", n)
        blocks = map(self.blocks.get, range(n), repeat(b"")) if self.blocks else repeat(b"", n)
        columns = zip(self.paths, self.kinds, self.sizes, split, self.modes, self.mtimes, targets, blocks, strict=True)
        return map(Entry._make, columns)

    @property
    def hashed(self) -> bool:
        """Whether every file's digest is known."""
        zero = digests.UNKNOWN
        return zero not in self.digests or all(
            kind != FILE or self.digests[32 * i : 32 * i + 32] != zero for i, kind in enumerate(self.kinds)
        )

    def _columns(self) -> dict[int, bytes]:
        return {
            _PATHS: b"\0".join(self.paths),
            _KINDS: self.kinds,
            _SIZES: _little(self.sizes),
            _MODES: _little(self.modes),
            _MTIMES: _little(self.mtimes),
            _DIGESTS: self.digests,
            _TARGETS: _sparse(self.targets),
            _BLOCKS: _sparse(self.blocks),
        }

    @cached_property
    def names(self) -> tuple[bytes, bytes]:
        """(digest, content): 32 bytes each, of all columns and of those that a reader of the content sees."""
        columns = self._columns()
        whole = [_HEAD.pack(_MAGIC, len(self), len(columns))]
        content = list(whole)
        for number, data in columns.items():
            part = _COLUMN.pack(number, _RAW, len(data), len(data)) + data
            whole.append(part)
            if number not in (_MODES, _MTIMES):
                content.append(part)
        return digests.of(b"".join(whole)), digests.of(b"".join(content))

    @cached_property
    def size(self) -> int:
        """Sum of file sizes, bytes."""
        return sum(self.sizes)

    @property
    def digest(self) -> bytes:
        """BLAKE3-256 that names this segment, 32 bytes."""
        return self.names[0]

    @property
    def content(self) -> bytes:
        """As `digest`, without modes and times."""
        return self.names[1]

    def encode(self, *, packed: bool = True) -> bytes:
        """The stored form: header, then each column plain or (if `packed`) deflated, whichever is shorter."""
        columns = self._columns()
        out = [_HEAD.pack(_MAGIC, len(self), len(columns))]
        for number, data in columns.items():
            codec, stored = _RAW, data
            if packed and number not in (_DIGESTS, _BLOCKS) and len(data) > 64:
                small = zlib.compress(data, 1)
                if len(small) < len(data):
                    codec, stored = _ZLIB, small
            out.append(_COLUMN.pack(number, codec, len(data), len(stored)))
            out.append(stored)
        return b"".join(out)

    @classmethod
    def decode(cls, data: bytes, expect: bytes | None = None) -> Segment:
        """The segment in `data`; Corrupt if it is not one, or not the one named `expect`."""
        try:
            segment = cls._read(data)
        except (struct.error, zlib.error, ValueError, IndexError, OverflowError) as exc:
            raise Corrupt(f"not a segment: {exc}", code="bad-segment") from exc
        if expect is not None and segment.digest != expect:
            raise Corrupt(f"segment {expect.hex()[:16]} holds other content", code="bad-segment")
        return segment

    @classmethod
    def _read(cls, data: bytes) -> Segment:
        magic, count, columns = _HEAD.unpack_from(data, 0)
        if magic != _MAGIC or count > LIMIT or columns > 32:
            raise ValueError("wrong magic, version or counts")
        at, found = _HEAD.size, dict[int, bytes]()
        for _ in range(columns):
            number, codec, plain, packed = _COLUMN.unpack_from(data, at)
            at += _COLUMN.size
            if at + packed > len(data) or plain > _LARGEST_COLUMN or codec not in (_RAW, _ZLIB):
                raise ValueError("a column is cut short")
            if number in _COUNTED and plain != count * _COUNTED[number]:
                raise ValueError(f"column {number} has a wrong length")
            raw = _plain(data[at : at + packed], codec, plain)
            at += packed
            if number in found:
                raise ValueError(f"column {number} twice")
            found[number] = raw
        if at != len(data):
            raise ValueError("bytes after the last column")
        if missing := set(range(8)) - set(found):
            raise ValueError(f"columns missing: {sorted(missing)}")
        paths = found[_PATHS].split(b"\0") if count else []
        if len(paths) != count or (not count and found[_PATHS]):
            raise ValueError("wrong number of names")
        if max(found[_KINDS], default=FILE) > FOLDER:
            raise ValueError("unknown kind")
        return cls(
            paths,
            found[_KINDS],
            _wide("Q", found[_SIZES]),
            _wide("H", found[_MODES]),
            _wide("q", found[_MTIMES]),
            found[_DIGESTS],
            _dense(found[_TARGETS], count),
            _dense(found[_BLOCKS], count),
        )

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> Segment:
        """A segment of the given entries, which must be sorted and legal (see `cut`)."""
        rows = list(entries)
        if not rows:
            return cls([], b"", array("Q"), array("H"), array("q"), b"")
        paths, kinds, sizes, hashes, modes, mtimes, targets, blocks = zip(*rows, strict=True)
        return cls(
            list(paths),
            bytes(kinds),
            array("Q", sizes),
            array("H", modes),
            array("q", mtimes),
            b"".join(hashes),
            {i: t for i, t in enumerate(targets) if t} if any(targets) else {},
            {i: b for i, b in enumerate(blocks) if b} if any(blocks) else {},
        )

    def with_digests(self, found: dict[int, tuple[bytes, bytes]]) -> Segment:
        """The same entries with (digest, blocks) filled in by ordinal."""
        hashes = bytearray(self.digests)
        blocks = dict(self.blocks)
        for i, (digest, parts) in found.items():
            hashes[32 * i : 32 * i + 32] = digest
            if parts:
                blocks[i] = parts
        return Segment(
            self.paths,
            self.kinds,
            self.sizes,
            self.modes,
            self.mtimes,
            bytes(hashes),
            self.targets,
            dict(sorted(blocks.items())),
        )


def cut(entries: Iterable[Entry]) -> Iterator[Segment]:
    """Segments of a sorted stream of entries, lazily; at most one segment is held.

    Invalid: out of order, a name twice, an illegal name, or a file `a` beside `a/b`.
    """
    rows: list[Entry] = []
    crc, last = zlib.crc32, b""
    above: list[bytes] = []
    for entry in entries:
        path = entry[0]
        if path <= last:
            raise _disorder(last, names.check(path))
        last = path
        while above and not path.startswith(above[-1]):
            above.pop()
        for blocker in above:
            if path[len(blocker)] == 0x2F:
                raise Invalid(
                    f"{names.show(blocker)} is a file and also a folder that holds {names.show(names.check(path))}",
                    code="name-clash",
                    key=names.show(blocker),
                    remedy="rename one of the two at the source",
                )
        if entry[1] != FOLDER:
            above.append(path)
        rows.append(entry)
        if len(rows) >= LEAST and (crc(path) & _MASK == 0 or len(rows) >= LIMIT):
            yield _legal(rows)
            rows = []
    if rows:
        yield _legal(rows)


def _legal(rows: list[Entry]) -> Segment:
    """The segment of sorted entries, whose names are looked at all at once."""
    segment = Segment.of(rows)
    names.check_all(segment.paths)
    return segment


def _disorder(last: bytes, path: bytes) -> Invalid:
    if path == last:
        return Invalid(f"the name {names.show(path)} appears twice", code="name-clash", key=names.show(path))
    return Invalid(f"not sorted: {names.show(path)} after {names.show(last)}", code="not-sorted", key=names.show(path))


def _plain(raw: bytes, codec: int, size: int) -> bytes:
    """A column of `size` bytes as it was; ValueError where it is none, before memory is taken for what it is not."""
    if codec == _ZLIB:
        if size > _LARGEST_INFLATED:
            raise ValueError("a column says more than belongs there")
        raw = zlib.decompressobj().decompress(raw, size + 1)
    if len(raw) != size:
        raise ValueError("a column has a wrong length")
    return raw


def _little(column: array[int]) -> bytes:
    if not _LITTLE:
        column = array(column.typecode, column)
        column.byteswap()
    return column.tobytes()


def _wide(code: str, data: bytes) -> array[int]:
    column = array(code)
    column.frombytes(data)
    if not _LITTLE:
        column.byteswap()
    return column


def _sparse(values: dict[int, bytes]) -> bytes:
    parts = (struct.pack("<II", i, len(v)) + v for i, v in sorted(values.items()))
    return b"".join(parts)


def _dense(data: bytes, count: int) -> dict[int, bytes]:
    out, at, last = dict[int, bytes](), 0, -1
    while at < len(data):
        i, length = struct.unpack_from("<II", data, at)
        at += 8
        if not last < i < count or at + length > len(data):
            raise ValueError("a sparse column is cut short or out of order")
        out[i] = data[at : at + length]
        at, last = at + length, i
    return out


def entries_of(segments: Iterable[Segment]) -> Iterator[Entry]:
    """All entries of several segments, lazily."""
    return chain.from_iterable(segments)


def seen_time(entry: Entry) -> int | None:
    """The modification time in nanoseconds, or None where the place kept none."""
    return None if entry.mtime_ns == NO_TIME else entry.mtime_ns
