"""Segments: cutting, encoding, names, and what damage does."""

import struct
import tracemalloc
import zlib
from array import array
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dls.logistics import digest as digests
from dls.logistics import names
from dls.logistics.entry import FILE, FOLDER, LINK, NO_MODE, NO_TIME, Entry
from dls.logistics.errors import Corrupt, Invalid
from dls.logistics.segment import LEAST, LIMIT, Segment, cut, entries_of, seen_time
from dls.logistics.testing.strategies import entries, many, trees

pytestmark = pytest.mark.filterwarnings("error")


@pytest.mark.spec("MANIFEST-5")
@given(trees())
def test_segments_round_trip(tree: list[Entry]) -> None:
    segment = Segment.of(tree)
    back = Segment.decode(segment.encode(), segment.digest)
    assert list(back) == list(segment) == tree == [segment.entry(i) for i in range(len(tree))]
    assert back.names == segment.names
    assert len(back) == len(tree)
    assert back.size == sum(e.size for e in tree)
    assert back.hashed == all(e.digest != digests.UNKNOWN for e in tree if e.kind == FILE)


@pytest.mark.spec("MANIFEST-5")
def test_a_full_segment_is_small() -> None:
    segment = Segment.of(many(LIMIT, mode=0o644, mtime_ns=1_700_000_000_000_000_000))
    data = segment.encode()
    assert list(Segment.decode(data, segment.digest)) == list(segment)
    assert len(data) < 48 * LIMIT


def plain_form(tree: list[Entry], *, content: bool = False) -> bytes:
    """The format as specs/manifest.md tells it, written a second time."""

    def sparse(values: list[bytes]) -> bytes:
        return b"".join(struct.pack("<II", i, len(v)) + v for i, v in enumerate(values) if v)

    n = len(tree)
    columns = [
        b"\0".join(e.path for e in tree),
        bytes(e.kind for e in tree),
        struct.pack(f"<{n}Q", *(e.size for e in tree)),
        struct.pack(f"<{n}H", *(e.mode for e in tree)),
        struct.pack(f"<{n}q", *(e.mtime_ns for e in tree)),
        b"".join(e.digest for e in tree),
        sparse([e.target for e in tree]),
        sparse([e.blocks for e in tree]),
    ]
    out = b"DLSG\x01" + struct.pack("<IB", n, 8)
    for number, column in enumerate(columns):
        if not (content and number in (3, 4)):
            out += struct.pack("<BBQQ", number, 0, len(column), len(column)) + column
    return out


@pytest.mark.spec("MANIFEST-7")
@given(trees())
def test_names_are_those_of_the_plain_form(tree: list[Entry]) -> None:
    segment = Segment.of(tree)
    assert segment.digest == digests.of(plain_form(tree))
    assert segment.content == digests.of(plain_form(tree, content=True))
    assert list(Segment.decode(plain_form(tree), segment.digest)) == tree, "the plain form can be read too"


@pytest.mark.spec("MANIFEST-7")
@given(trees(), st.data())
def test_what_the_names_cover(tree: list[Entry], data: st.DataObject) -> None:
    assume(tree)
    i = data.draw(st.integers(0, len(tree) - 1))
    old = Segment.of(tree)

    def changed(**attributes: object) -> Segment:
        return Segment.of([*tree[:i], tree[i]._replace(**attributes), *tree[i + 1 :]])

    for touched in (changed(mode=tree[i].mode ^ 1), changed(mtime_ns=tree[i].mtime_ns ^ 1)):
        assert touched.digest != old.digest
        assert touched.content == old.content
    for other in (
        changed(size=tree[i].size ^ 1),
        changed(digest=digests.of(b"other")),
        changed(target=tree[i].target + b"x"),
        changed(kind=(tree[i].kind + 1) % 3),
        changed(blocks=tree[i].blocks + bytes(32)),
        changed(path=tree[i].path + b"x"),
    ):
        assert other.digest != old.digest
        assert other.content != old.content


@pytest.mark.spec("MANIFEST-6")
@given(trees(12), st.data())
def test_damage_is_told(tree: list[Entry], data: st.DataObject) -> None:
    segment = Segment.of(tree)
    good = segment.encode()
    bad = bytearray(good)
    match data.draw(st.sampled_from(["flip", "cut", "insert", "overwrite"])):
        case "flip":
            at = data.draw(st.integers(0, len(good) - 1))
            bad[at] ^= 1 << data.draw(st.integers(0, 7))
        case "cut":
            del bad[data.draw(st.integers(0, len(good) - 1)) :]
        case "insert":
            bad[data.draw(st.integers(0, len(good))) : 0] = data.draw(st.binary(min_size=1, max_size=9))
        case _:
            at = data.draw(st.integers(0, len(good) - 1))
            bad[at : at + 8] = data.draw(st.binary(min_size=8, max_size=8))
    with suppress(Corrupt):
        assert list(Segment.decode(bytes(bad), segment.digest)) == tree, "damage that changes nothing that is read"
    with suppress(Corrupt):
        unasked = Segment.decode(bytes(bad))
        assert len(list(unasked)) == len(unasked)
        assert len(unasked.digest) == 32


@pytest.mark.spec("MANIFEST-6")
@given(st.binary(max_size=200), st.booleans())
def test_noise_is_told(noise: bytes, begins_well: bool) -> None:
    with pytest.raises(Corrupt):
        Segment.decode(b"DLSG\x01" * begins_well + noise, bytes(32))


def column(number: int, plain: bytes, claimed: int | None = None, codec: int = 1) -> bytes:
    packed = zlib.compress(plain, 9) if codec else plain
    return struct.pack("<BBQQ", number, codec, len(plain) if claimed is None else claimed, len(packed)) + packed


@pytest.mark.spec("MANIFEST-6")
def test_a_bomb_takes_no_memory() -> None:
    bomb = column(0, bytes(200 << 20), claimed=100)
    claims = struct.pack("<BBQQ", 0, 0, 1 << 40, 1 << 40) + b"x"
    wide = b"".join(column(n, b"", claimed=2**63) for n in range(8))
    tracemalloc.start()
    try:
        for body in (bomb, claims, wide):
            with pytest.raises(Corrupt):
                Segment.decode(b"DLSG\x01" + struct.pack("<IB", 1, 8) + body)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def built(n: int, *columns: tuple[int, bytes], count: int | None = None) -> bytes:
    body = b"".join(column(number, plain, codec=0) for number, plain in columns)
    return b"DLSG\x01" + struct.pack("<IB", n, len(columns) if count is None else count) + body


def good_columns() -> list[tuple[int, bytes]]:
    return [(0, b"a"), (1, b"\0"), (2, bytes(8)), (3, bytes(2)), (4, bytes(8)), (5, bytes(32)), (6, b""), (7, b"")]


SPARSE_TWICE = struct.pack("<II", 0, 1) + b"x"
WRONG = {
    "another version": b"DLSG\x02" + built(1, *good_columns())[5:],
    "too many entries": built(LIMIT + 1, *good_columns()),
    "too many columns": built(1, *good_columns(), count=33),
    "a missing column": built(1, *good_columns()[:-1]),
    "a column twice": built(1, *good_columns(), good_columns()[0]),
    "fewer names than entries": built(2, *good_columns()),
    "more names than entries": built(1, (0, b"a\0b"), *good_columns()[1:]),
    "names without entries": built(0, (0, b"a"), *((n, b"") for n in range(1, 8))),
    "an unknown kind": built(1, good_columns()[0], (1, b"\3"), *good_columns()[2:]),
    "a short column": built(1, *good_columns()[:2], (2, bytes(7)), *good_columns()[3:]),
    "bytes at the end": built(1, *good_columns()) + b"x",
    "a sparse value beyond": built(1, *good_columns()[:6], (6, struct.pack("<II", 1, 1) + b"x"), (7, b"")),
    "a sparse value twice": built(1, *good_columns()[:6], (6, SPARSE_TWICE * 2), (7, b"")),
    "a sparse value cut": built(1, *good_columns()[:6], (6, SPARSE_TWICE[:-1]), (7, b"")),
    "a sparse head cut": built(1, *good_columns()[:6], (6, b"\0\0\0"), (7, b"")),
    "an unknown codec": built(1, *good_columns()).replace(
        b"\0\0" + struct.pack("<QQ", 1, 1), b"\0\2" + struct.pack("<QQ", 1, 1), 1
    ),
    "nothing": b"",
}


@pytest.mark.spec("MANIFEST-6")
@pytest.mark.parametrize("what", WRONG)
def test_what_is_not_a_segment(what: str) -> None:
    assert [e.path for e in Segment.decode(built(1, *good_columns()))] == [b"a"]
    with pytest.raises(Corrupt):
        Segment.decode(WRONG[what])


@pytest.mark.spec("MANIFEST-6")
def test_columns_of_later_versions_are_skipped() -> None:
    assert [e.path for e in Segment.decode(built(1, *good_columns(), (20, b"new")))] == [b"a"]


# ---------------------------------------------------------------------------------------------- cut


@pytest.mark.spec("MANIFEST-1")
@given(trees())
def test_cut_keeps_everything(tree: list[Entry]) -> None:
    assert list(entries_of(cut(tree))) == tree


def plain(*paths: bytes, kind: int = FILE) -> list[Entry]:
    return [Entry(p, kind) for p in paths]


@pytest.mark.spec("MANIFEST-1", "MANIFEST-3")
@pytest.mark.parametrize(
    ("rows", "code"),
    [
        (plain(b"b", b"a"), "not-sorted"),
        (plain(b"a/b", b"a-b"), "not-sorted"),
        (plain(b"a", b"a"), "name-clash"),
        (plain(b"a", b"a/b"), "name-clash"),
        (plain(b"a", b"a-b", b"a.b", b"a/b"), "name-clash"),
        (plain(b"a", b"a-", b"a-/x"), "name-clash"),
        (plain(b"a/b", b"a/b/c/d"), "name-clash"),
        (plain(b"l", kind=LINK) + plain(b"l/x"), "name-clash"),
        (plain(b"../a"), "bad-name"),
        (plain(b"a//b"), "bad-name"),
        (plain(b".dls-x"), "bad-name"),
        (plain(b""), "bad-name"),
    ],
)
def test_cut_refuses(rows: list[Entry], code: str) -> None:
    with pytest.raises(Invalid) as told:
        list(cut(rows))
    assert told.value.code == code
    assert "key" in told.value.facts


@pytest.mark.spec("MANIFEST-3")
@given(st.lists(entries(), max_size=30))
def test_clashes_agree_with_the_definition(rows: list[Entry]) -> None:
    rows = sorted({e.path: e for e in rows}.values())
    solid = {e.path for e in rows if e.kind != FOLDER}
    clash = any(solid.intersection(names.parents(e.path)) for e in rows)
    if not clash:
        assert list(entries_of(cut(rows))) == rows
        return
    with pytest.raises(Invalid) as told:
        list(cut(rows))
    assert told.value.code == "name-clash"


@pytest.mark.spec("MANIFEST-3")
def test_a_folder_may_hold_things() -> None:
    rows = [*plain(b"a", kind=FOLDER), *plain(b"a-b", b"a/b", b"ab")]
    assert list(entries_of(cut(rows))) == rows


@pytest.mark.spec("MANIFEST-2")
def test_cut_is_lazy() -> None:
    taken = 0

    def endless() -> Iterator[Entry]:
        nonlocal taken
        while True:
            yield Entry(b"%09d" % taken, FILE)
            taken += 1

    segments = cut(endless())
    held = 0
    for _ in range(5):
        held += len(next(segments))
        assert taken <= held


def ends(tree: list[Entry]) -> list[int]:
    """Lengths of segments by the definition in specs/manifest.md."""
    out, n = [], 0
    for entry in tree:
        n += 1
        if n >= 1024 and (zlib.crc32(entry.path) & 0xFFF == 0 or n == 8192):
            out.append(n)
            n = 0
    return [*out, n] if n else out


@pytest.mark.spec("MANIFEST-4")
def test_borders() -> None:
    tree = many(60_000)
    segments = list(cut(tree))
    assert [len(s) for s in segments] == ends(tree)
    assert len(segments) > 60_000 // LIMIT
    assert all(LEAST <= len(s) <= LIMIT for s in segments[:-1])
    before = {s.digest for s in segments}
    extra = Entry(b"100/zzz", FILE, 1)
    at = next(i for i, e in enumerate(tree) if e.path > extra.path)
    for changed in ([*tree[:at], extra, *tree[at:]], [*tree[:at], *tree[at + 1 :]]):
        after = {s.digest for s in cut(changed)}
        assert len(after - before) <= 3, "an insertion or a removal changes few segments"
        assert len(before - after) <= 3


def test_digests_are_filled_in() -> None:
    tree = [Entry(b"a", FILE, 1), Entry(b"b", LINK, target=b"a"), Entry(b"c", FILE, 2, mode=0o600)]
    segment = Segment.of(tree)
    assert not segment.hashed
    done = segment.with_digests({2: (digests.of(b"2"), digests.of(b"x")), 0: (digests.of(b"1"), b"")})
    assert done.hashed
    assert list(done) == [
        tree[0]._replace(digest=digests.of(b"1")),
        tree[1],
        tree[2]._replace(digest=digests.of(b"2"), blocks=digests.of(b"x")),
    ]
    assert list(segment) == tree, "the old one stays as it is"
    assert Segment.decode(done.encode(), done.digest).digest == done.digest


def test_small_things() -> None:
    assert list(cut([])) == []
    empty = Segment.of([])
    assert list(Segment.decode(empty.encode(), empty.digest)) == []
    assert isinstance(empty.sizes, array)
    assert seen_time(Entry(b"a", FILE)) is None
    assert seen_time(Entry(b"a", FILE, mtime_ns=0)) == 0
    assert (NO_MODE, NO_TIME) == (0xFFFF, -(2**63))
    shown = Entry(b"a\n", LINK, mode=0o644, mtime_ns=5, target=b"t").to_json()
    assert shown == {"path": "a%0A", "kind": "link", "size": 0, "mode": "0644", "mtime_ns": 5, "target": "t"}
