"""Manifests: reading, merging, comparing, bitmaps."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dls.logistics import digest as digests
from dls.logistics.entry import FILE, Entry
from dls.logistics.errors import Corrupt, NotFound
from dls.logistics.manifest import Bitmap, Change, Manifest, decode_refs, diff, in_memory, merge
from dls.logistics.segment import Segment
from dls.logistics.testing.strategies import many, sound, trees


@pytest.mark.spec("MANIFEST-8")
@given(trees())
def test_reading_gives_what_it_was_made_of(tree: list[Entry]) -> None:
    made = in_memory(tree)
    assert list(made) == tree
    files = [e for e in tree if e.kind == FILE]
    assert (made.entries, made.files, made.size) == (len(tree), len(files), sum(e.size for e in tree))
    again = Manifest(decode_refs(made.encode_refs()), made.load)
    assert again.refs == made.refs
    assert (again.digest, again.content) == (made.digest, made.content)
    assert made.to_json()["bytes"] == made.size


@pytest.mark.spec("MANIFEST-8")
def test_names_and_references() -> None:
    made = in_memory(many(20_000))
    assert len(made.refs) > 1
    assert len(made.encode_refs()) == 84 * len(made.refs)
    assert made.digest == digests.of(b"DLSM\x01" + b"".join(s.digest for s in made.segments()))
    assert made.content == digests.of(b"DLSC\x01" + b"".join(s.content for s in made.segments()))
    touched = in_memory(many(20_000, mode=0o600))
    assert (touched.digest != made.digest, touched.content) == (True, made.content)
    with pytest.raises(NotFound):
        made.load(bytes(32))
    for bad in (b"x", made.encode_refs()[:-1]):
        with pytest.raises(Corrupt):
            decode_refs(bad)


@pytest.mark.spec("MANIFEST-9")
@given(trees(), trees())
def test_merge_is_the_union(left: list[Entry], right: list[Entry]) -> None:
    a, b = {e.path: e for e in left}, {e.path: e for e in right}
    assert list(merge(left, right)) == [(a.get(p), b.get(p)) for p in sorted(a | b)]


@pytest.mark.spec("MANIFEST-9")
def test_merge_is_lazy() -> None:
    taken = [0, 0]

    def endless(side: int) -> Iterator[Entry]:
        while True:
            yield Entry(b"%09d" % (taken[side] * (side + 1)), FILE)
            taken[side] += 1

    pairs = merge(endless(0), endless(1))
    seen = [next(pairs) for _ in range(10)]
    assert [(bool(x), bool(y)) for x, y in seen] == [(True, i % 2 == 0) for i in range(10)]
    assert max(taken) <= 11


@pytest.mark.spec("MANIFEST-9")
@given(trees(), trees(), st.booleans())
def test_diff_agrees_with_two_dicts(left: list[Entry], right: list[Entry], related: bool) -> None:
    if related:  # mostly the same tree
        right = sound({e.path: e for e in [*left[1:], *right[:2]]})
    a, b = {e.path: e for e in left}, {e.path: e for e in right}

    def seen(entry: Entry | None) -> object:
        return entry and (entry.kind, entry.size, entry.digest, entry.target)

    wanted = [Change(a.get(p), b.get(p)) for p in sorted(a | b) if seen(a.get(p)) != seen(b.get(p))]
    found = list(diff(in_memory(left), in_memory(right)))
    assert found == wanted
    for change in found:
        word = "added" if change.before is None else "removed" if change.after is None else "changed"
        assert change.to_json()["change"] == word
        assert change.path in (a | b)


@pytest.mark.spec("MANIFEST-9")
def test_diff_opens_only_what_is_not_shared() -> None:
    tree = many(40_000)
    old = in_memory(tree)
    new = in_memory([*tree[:20_000], tree[20_000]._replace(size=7_777), *tree[20_001:]])
    opened: list[bytes] = []

    def watched(made: Manifest) -> Manifest:
        def load(digest: bytes) -> Segment:
            opened.append(digest)
            return made.load(digest)

        return Manifest(made.refs, load)

    (change,) = diff(watched(old), watched(new))
    assert change == Change(tree[20_000], tree[20_000]._replace(size=7_777))
    assert len(opened) == 2
    assert list(diff(watched(old), watched(in_memory(many(40_000, mode=0o600))))) == [], "modes are no difference"
    assert len(opened) == 2


@pytest.mark.spec("MANIFEST-10")
@given(st.integers(0, 300), st.data())
def test_a_bitmap_is_a_set(count: int, data: st.DataObject) -> None:
    ordinals = st.integers(0, max(count - 1, 0))
    added = data.draw(st.lists(ordinals, max_size=40)) if count else []
    removed = data.draw(st.lists(ordinals, max_size=10)) if count else []
    bitmap, model = Bitmap(count), set(added) - set(removed)
    for i in added:
        bitmap.add(i)
    for i in removed:
        bitmap.remove(i)
    assert len(bitmap) == len(model)
    assert [i for i in range(count + 3) if i in bitmap] == sorted(model)
    assert list(bitmap.missing()) == sorted(set(range(count)) - model)
    assert bitmap.complete == (len(model) == count)
    data_ = bitmap.encode()
    assert len(data_) == -(-count // 8)
    assert all((data_[i // 8] >> i % 8 & 1) == (i in model) for i in range(count))
    assert list(Bitmap(count, data_).missing()) == list(bitmap.missing())
    full = Bitmap.full(count)
    assert full.complete
    assert len(full) == count
    assert list(full.missing()) == []


@pytest.mark.spec("MANIFEST-10")
def test_bits_beyond_the_count() -> None:
    for bad in (-1, 9, 100):
        with pytest.raises(IndexError):
            Bitmap(9).add(bad)
    with pytest.raises(ValueError, match="beyond 9"):
        Bitmap(9, b"\x00\x02")
    assert Bitmap(9, b"\x00\x01").encode() == b"\x00\x01"
    assert Bitmap(9, b"").encode() == b"\x00\x00"
