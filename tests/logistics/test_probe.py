"""Findings of a probe: the fold against a naive count, and its memory."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as some

from dls.logistics import names, probe
from dls.logistics.entry import FILE, FOLDER, LINK, NO_TIME, Entry
from dls.logistics.probe import BOUNDS, BUSIEST, CROWDED, Findings, Probe
from dls.logistics.segment import Segment, cut
from dls.logistics.testing.strategies import trees


def found(segments: Iterable[Segment]) -> Findings:
    fold = Probe()
    for segment in segments:
        fold.add(segment)
    return fold.findings()


def pieces(entries: Sequence[Entry], length: int) -> Iterator[Segment]:
    for start in range(0, len(entries), length):
        yield Segment.of(entries[start : start + length])


def direct(entries: Sequence[Entry]) -> Counter[bytes]:
    """Direct entries by folder: each name, and each folder that a name lies in, counts in the folder above it."""
    every = {e.path for e in entries} | {above for e in entries for above in names.parents(e.path)}
    return Counter(path.rpartition(b"/")[0] for path in every)


@given(entries=trees(), length=some.integers(1, 50))
@pytest.mark.spec("LOOK-1")
def test_the_fold_counts_as_one_would_naively(entries: list[Entry], length: int) -> None:
    got = found(pieces(entries, length))
    files = [e for e in entries if e.kind == FILE]
    folders = {e.path for e in entries if e.kind == FOLDER} | {p for e in entries for p in names.parents(e.path)}
    assert (got.files, got.links, got.folders) == (
        len(files),
        sum(1 for e in entries if e.kind == LINK),
        len(folders),
    )
    assert got.size == sum(e.size for e in files if not e.target)
    assert got.hardlinks == sum(1 for e in files if e.target)
    assert (got.small_files, got.small_bytes) == (
        sum(1 for e in files if e.size < 1 << 20),
        sum(e.size for e in files if e.size < 1 << 20),
    )
    edges = (0, *BOUNDS, 1 << 65)
    assert [(c.files, c.bytes) for c in got.sizes] == [
        (sum(1 for e in files if low <= e.size < high), sum(e.size for e in files if low <= e.size < high))
        for low, high in pairwise(edges)
    ]
    crowds = sorted(direct(entries).items(), key=lambda one: (-one[1], one[0]))[:BUSIEST]
    assert [tuple(c) for c in got.busiest] == crowds
    assert got.longest_path == max(
        (probe.At(e.path, len(e.path)) for e in entries), key=lambda a: a.value, default=None
    )
    parts = [part for e in entries for part in e.path.split(b"/")]
    assert (got.longest_part.value if got.longest_part else 0) == max(map(len, parts), default=0)
    assert got.deepest == max((e.path.count(b"/") + 1 for e in entries), default=0)
    odd = [e.path for e in entries if e.path.decode("utf-8", "replace").encode() != e.path]
    assert (got.not_utf8, got.not_utf8_first) == (len(odd), tuple(odd[: probe.SHOWN]))
    times = [e.mtime_ns for e in files if e.mtime_ns != NO_TIME]
    assert (got.oldest.value if got.oldest else None) == min(times, default=None)
    assert (got.newest.value if got.newest else None) == max(times, default=None)


@given(entries=trees())
def test_what_programs_read_is_json_and_names_come_back(entries: list[Entry]) -> None:
    facts = found(pieces(entries, 8)).to_json()
    assert [names.read(one["path"]) for one in facts["busiest"]] == [c.path for c in found(pieces(entries, 3)).busiest]


def flat(count: int, folder: bytes = b"d/") -> Iterator[Entry]:
    for number in range(count):
        yield Entry(folder + b"%07d" % number, FILE, 10)


@pytest.mark.spec("LOOK-1")
@pytest.mark.parametrize(("count", "crowded"), [(CROWDED, 0), (CROWDED + 1, 1)])
def test_a_folder_with_more_than_ten_thousand_entries_is_flagged(count: int, crowded: int) -> None:
    got = found(cut(flat(count)))
    assert got.crowded == crowded
    assert got.busiest[0] == (b"d", count)
    assert any("more than 10,000 entries" in said for said in got.advice()) is bool(crowded)


def test_many_small_files_are_named_as_such_and_few_or_large_ones_are_not() -> None:
    assert found(cut(flat(1000))).many_small
    assert not found(cut(flat(999))).many_small
    large = [Entry(b"a%07d" % n, FILE, 1 << 20) for n in range(1001)]
    assert not found([Segment.of([*large, *flat(1000)])]).many_small


def many(count: int) -> Iterator[Entry]:
    """A listing that nobody holds: folders of every depth, some with an entry of their own."""
    for number in range(count):
        folder = b"%03d/%04d" % (number // 10_000, number // 5 % 2000)
        if number % 5 == 0:
            yield Entry(folder, FOLDER, mode=0o700)
        else:
            yield Entry(folder + b"/file-%07d" % number, FILE, number, mode=0o644, mtime_ns=number)


@pytest.mark.spec("LOOK-2")
@pytest.mark.slow
def test_memory_does_not_grow_with_the_tree() -> None:
    tracemalloc.start()
    try:
        got = found(cut(many(100_000)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert got.files == 80_000
    assert got.folders == 10 + 20_000
    assert peak < 5_500_000, f"{peak:,} bytes"
