"""Segments as they come in, and pages of files, beside plain lists."""

import itertools
from bisect import bisect_left

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dls.catalogue import files
from dls.logistics import digest as digests
from dls.logistics import names
from dls.logistics.entry import FILE, Entry
from dls.logistics.errors import Corrupt, DlsError, Invalid, NotFound
from dls.logistics.segment import Segment

PATHS = st.lists(st.sampled_from([b"a", b".", b"..", b"/", b".dls-", b".dl", b"b\n", b"\xff", b"-"]), min_size=1).map(
    b"".join
)
LEGAL = st.lists(st.sampled_from([b"a", b"b", b"a.", b"a-", b"c"]), min_size=1, max_size=3).map(b"/".join)


def segment(*paths: bytes) -> Segment:
    return Segment.of([Entry(p, FILE, 1, digests.of(p)) for p in paths])


@given(PATHS)
def test_the_quick_look_at_names_is_as_the_slow_one(path: bytes) -> None:
    try:
        names.check(path)
        legal = True
    except Invalid:
        legal = False
    for paths in ([path], sorted({b"0", path, b"zzz"})):
        try:
            files.inspect(segment(*paths).encode())
            taken = True
        except Invalid:
            taken = False
        assert taken == legal


def test_facts_are_those_of_the_segment() -> None:
    one = segment(b"a", b"b", b"c")
    facts = files.inspect(one.encode())
    assert (facts.ref.digest, facts.ref.content, facts.first, facts.last) == (one.digest, one.content, b"a", b"c")
    assert facts.hashed
    assert not files.inspect(Segment.of([*one, Entry(b"d", FILE)]).encode()).hashed


def test_sizes_that_no_database_holds_are_refused() -> None:
    too_big = Segment.of([Entry(b"a", FILE, 2**63 - 1, digests.of(b"")), Entry(b"b", FILE, 1, digests.of(b""))])
    with pytest.raises(Invalid):
        files.inspect(too_big.encode())
    assert files.inspect(Segment.of(list(too_big)[:1]).encode()).ref.size == files.SIZE_LIMIT


def test_batches_end_by_count_and_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    data = [segment(b"%03d" % i).encode() for i in range(70)]
    assert [len(batch) for batch in files.batches(data)] == [32, 32, 6]
    monkeypatch.setattr(files, "_BATCH_BYTES", len(data[0]) * 3)
    assert [len(batch) for batch in files.batches(data[:7])] == [3, 3, 1]
    assert list(files.batches([])) == []


def test_segments_line_up() -> None:
    facts = [files.inspect(segment(*paths).encode()) for paths in ((b"a", b"c"), (b"d",), (b"e", b"f"))]
    have = {f.ref.digest: f for f in facts}
    refs = [f.ref for f in facts]
    files.line_up(refs, have)
    files.line_up([], have)
    cases: list[tuple[type[DlsError], list[int]]] = [(Invalid, [1, 0]), (Invalid, [0, 0]), (Invalid, [0, 2, 1])]
    for kind, order in cases:
        with pytest.raises(kind):
            files.line_up([refs[i] for i in order], have)
    with pytest.raises(NotFound):
        files.line_up(refs, {refs[0].digest: facts[0]})
    with pytest.raises(Corrupt):
        files.line_up(refs, {r.digest: facts[0] for r in refs})


@given(st.sets(LEGAL, min_size=1), st.data())
def test_a_page_is_a_slice_of_the_list(found: set[bytes], data: st.DataObject) -> None:
    paths = sorted(found)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(paths)))) | {0, len(paths)})
    parts = [segment(*paths[a:b]) for a, b in itertools.pairwise(cuts)]
    kept = {part.digest: part for part in parts}
    any_path = st.one_of(st.just(b""), st.sampled_from(paths), LEGAL)
    prefix, after = data.draw(any_path), data.draw(any_path)
    below = data.draw(any_path)
    limit = data.draw(st.integers(1, 5))
    start = bisect_left([part.paths[-1] for part in parts], max(prefix, below, after))
    ahead = [part.digest for part in parts[data.draw(st.integers(0, start)) :]]
    got = files.page(kept.__getitem__, ahead, prefix=prefix, below=below, after=after, limit=limit)
    wanted = [
        p
        for p in paths
        if p > after and p.startswith(prefix) and (not below or p == below or p.startswith(below + b"/"))
    ]
    assert [e.path for e in got] == wanted[:limit]


@given(st.sets(LEGAL, min_size=1), st.sets(LEGAL))
def test_first_absent(found: set[bytes], asked: set[bytes]) -> None:
    paths = sorted(found)
    parts = [segment(*paths[:2]), *([segment(*paths[2:])] if paths[2:] else [])]
    kept = {part.digest: part for part in parts}

    def seek(path: bytes) -> bytes | None:
        return next((p.digest for p in parts if p.paths[-1] >= path), None)

    got = files.first_absent(kept.__getitem__, seek, sorted(asked))
    assert got == next((p for p in sorted(asked) if p not in found), None)
