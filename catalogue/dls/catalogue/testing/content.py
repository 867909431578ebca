"""CAT-1, 2, 8 to 12 and 24: segments, versions, manifests, pages of files, sweeping."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest

from dls.catalogue.changes import AddVersion, PutDataset
from dls.catalogue.testing.hooks import ME, CatalogueHooks, add, do, files, ids, one, put, refused
from dls.logistics import digest as digests
from dls.logistics.entry import FILE, FOLDER, LINK, Entry
from dls.logistics.errors import Corrupt, DlsError, Invalid, NotFound
from dls.logistics.manifest import SegmentRef, in_memory
from dls.logistics.segment import Segment, cut
from dls.logistics.testing.spec import spec


class ContentRules(CatalogueHooks):
    """What a version holds."""

    @spec("CAT-1")
    def test_segments_are_kept_once_under_their_digest(self, tmp_path: Path) -> None:
        catalogue = self.make(tmp_path)
        cuts = list(cut(files(12_000)))
        assert len(cuts) > 1
        wanted = [SegmentRef.of(s) for s in cuts]
        for _ in range(2):
            assert catalogue.put_segments(s.encode() for s in cuts) == wanted
            assert sorted(self.kept(catalogue)) == sorted(r.digest for r in wanted)
        assert catalogue.put_segments([]) == []

    @spec("CAT-1")
    def test_what_is_no_segment_is_refused(self, tmp_path: Path) -> None:
        catalogue = self.make(tmp_path)
        (good,) = cut(files(3))
        a, b, c = good
        bad = [
            b"",
            b"rubbish" * 100,
            good.encode()[:-1],
            good.encode() + b"x",
            Segment.of([]).encode(),
            Segment.of([b, a, c]).encode(),
            Segment.of([a, a]).encode(),
            Segment.of([a._replace(path=b"../up"), b]).encode(),
            Segment.of([a._replace(path=b"/abs")]).encode(),
            Segment.of([a._replace(path=b".dls-x/y")]).encode(),
        ]
        for data in bad:
            with pytest.raises((Corrupt, Invalid)):
                catalogue.put_segments([good.encode(), data])
            assert not self.kept(catalogue), "the batch of a refused segment was kept"

    @spec("CAT-2")
    def test_putting_is_lazy_and_holds_no_lock(self, tmp_path: Path) -> None:
        catalogue, other = self.make(tmp_path), None
        other = self.again(catalogue, tmp_path)
        taken, most, steps = 0, 0, []

        def supply() -> Iterator[bytes]:
            nonlocal taken, most
            for n in range(100):
                taken += 1
                most = max(most, taken - len(self.kept(catalogue)))
                if n % 40 == 5:  # another writer gets through while this iterable is at work
                    writer = threading.Thread(target=lambda n=n: steps.append(one(other, PutDataset(f"s:n{n}")).id))
                    writer.start()
                    writer.join(10)
                    assert not writer.is_alive(), "a lock is held while the iterable works"
                yield Segment.of(files(1, seed=n)).encode()

        assert len(catalogue.put_segments(supply())) == 100
        assert most <= 40, f"{most} segments were held"
        assert steps == ["s:n5", "s:n45", "s:n85"]

    @spec("CAT-8")
    def test_versions_are_numbered_and_new_only_with_new_content(self, tmp_path: Path) -> None:
        catalogue = self.make(tmp_path)
        tree = files(5)
        first = add(catalogue, "s:n", tree)
        wanted = in_memory(tree)
        assert (first.number, first.content, first.manifest) == (1, wanted.content, wanted.digest)
        assert (first.entries, first.files, first.size) == (5, 5, sum(e.size for e in tree))
        assert first.actor == ME.name
        assert first.created_ns
        touched = [e._replace(mtime_ns=7, mode=0o600) for e in tree]
        done = one(catalogue, AddVersion("s:n", put(catalogue, touched)))
        assert (done.id, done.changed) == ("s:n@1", False)
        assert one(catalogue, AddVersion("s:n", put(catalogue, files(6)), note="six")).id == "s:n@2"
        assert one(catalogue, AddVersion("s:n", put(catalogue, tree))).id == "s:n@3", "older content is new again"
        found = catalogue.versions(ids("s:n"), actor=ME)
        assert [v.number for v in found] == [1, 2, 3]
        assert found[0] == first
        assert found[1].note == "six"
        assert catalogue.version(ids("s:n"), actor=ME) == found[2]
        assert catalogue.version(ids("s:n@2"), actor=ME) == found[1]
        assert [v.id for v in catalogue.by_content(first.content, actor=ME)] == ["s:n@1", "s:n@3"]

    @spec("CAT-8", "CAT-10")
    def test_an_empty_tree_is_a_content(self, tmp_path: Path) -> None:
        catalogue = self.make(tmp_path)
        version = add(catalogue, "s:empty", [])
        assert (version.number, version.entries, version.content) == (1, 0, in_memory([]).content)
        assert list(catalogue.manifest(ids("s:empty"), actor=ME)) == []
        assert catalogue.files(ids("s:empty"), actor=ME) == []

    @spec("CAT-9")
    def test_a_version_needs_its_segments(self, tmp_path: Path) -> None:
        catalogue = self.make(tmp_path)
        refs = put(catalogue, files(12_000))
        absent = SegmentRef.of(Segment.of(files(2, seed=9)))
        unhashed = put(catalogue, [*files(2), Entry(b"zz", FILE, 3)])
        cases: list[tuple[type[DlsError], str, tuple[SegmentRef, ...]]] = [
            (NotFound, "no-segment", (*refs, absent)),
            (Invalid, "not-sorted", refs[::-1]),
            (Invalid, "not-sorted", (refs[0], refs[0])),
            (Corrupt, "bad-segment", (replace(refs[0], files=1), *refs[1:])),
            (Corrupt, "bad-segment", (replace(refs[0], size=0), *refs[1:])),
            (Corrupt, "bad-segment", (replace(refs[0], content=absent.content), *refs[1:])),
            (Invalid, "not-hashed", unhashed),
        ]
        do(catalogue, PutDataset("s:n"))
        for kind, code, wrong in cases:
            refused(kind, code, catalogue, AddVersion("s:n", wrong))
        assert one(catalogue, AddVersion("s:n", refs)).changed

    @spec("CAT-10")
    def test_a_manifest_comes_back_as_it_was(self, tmp_path: Path) -> None:
        catalogue = self.make(tmp_path)
        odd = [b"a\nb", b"back\\slash", b"caf\xe9", b"x" * 300, "日本/語".encode(), b"\xff"]
        extra = [Entry(path, FILE, 1, digests.of(path)) for path in odd]
        extra += [Entry(b"l", LINK, target=b"../else"), Entry(b"m", FOLDER, mode=0o700)]
        extra += [Entry(b"n", FILE, 80 << 20, digests.of(b"n"), blocks=digests.of(b"1") * 5)]
        tree = sorted([*files(12_000), *extra])
        add(catalogue, "s:n", tree)
        for handle in (catalogue, self.again(catalogue, tmp_path)):
            manifest = handle.manifest(ids("s:n@1/some/path"), actor=ME)
            assert manifest.digest == in_memory(tree).digest
            assert list(manifest) == tree

    @spec("CAT-10")
    def test_damage_is_found(self, tmp_path: Path) -> None:
        catalogue = self.make(tmp_path)
        add(catalogue, "s:n", files(9_000))
        manifest = catalogue.manifest(ids("s:n"), actor=ME)
        kept = {r.digest: manifest.load(r.digest) for r in manifest.refs}
        digest, whole = next(iter(kept.items()))
        entries = list(whole)
        forged = Segment.of([entries[0]._replace(digest=digests.of(b"forged")), *entries[1:]])
        for data in (forged.encode(), whole.encode()[:-1], b""):
            self.damage(catalogue, digest, data)
            with pytest.raises(Corrupt):
                list(catalogue.manifest(ids("s:n"), actor=ME))
            with pytest.raises(Corrupt):
                catalogue.files(ids("s:n"), actor=ME, limit=1)

    @spec("CAT-11")
    def test_versions_share_segments(self, tmp_path: Path) -> None:
        catalogue = self.make(tmp_path)
        tree = files(40_000)
        add(catalogue, "s:n", tree)
        before = self.kept(catalogue)
        assert len(before) >= 8
        tree[20_000] = tree[20_000]._replace(digest=digests.of(b"new"))
        add(catalogue, "s:n", tree)
        new = set(self.kept(catalogue)) - set(before)
        assert len(new) == 1, f"{len(new)} new segments for one changed file"
        add(catalogue, "t:other", tree)
        assert set(self.kept(catalogue)) == new | set(before), "another dataset of the same content costs segments"
        assert list(catalogue.manifest(ids("s:n@2"), actor=ME)) == tree

    @spec("CAT-12")
    def test_pages_of_files_are_the_manifest(self, tmp_path: Path) -> None:
        catalogue = self.make(tmp_path)
        small = [Entry(b"zz%03d" % i, FILE, i, digests.of(b"%d" % i)) for i in range(40)]
        tree = files(12_000) + small
        add(catalogue, "s:n", tree)
        for limit in (977, 4_096, 20_000):
            found: list[Entry] = []
            while page := catalogue.files(ids("s:n"), actor=ME, after=found[-1].path if found else b"", limit=limit):
                assert len(page) <= limit
                found += page
                assert len(found) <= len(tree), "the pages do not end"
            assert found == tree, limit
        paths = [e.path for e in tree]
        for prefix in (b"", b"0", b"005/", b"005/001600", b"zz", b"zz00", b"a", b"zzz", paths[7_000]):
            got = catalogue.files(ids("s:n"), actor=ME, prefix=prefix, limit=20_000)
            assert [e.path for e in got] == [p for p in paths if p.startswith(prefix)], prefix
            after = paths[1_700]
            got = catalogue.files(ids("s:n"), actor=ME, prefix=prefix, after=after, limit=50)
            assert [e.path for e in got] == [p for p in paths if p.startswith(prefix) and p > after][:50], prefix

    @spec("CAT-12")
    def test_a_path_in_the_id_narrows(self, tmp_path: Path) -> None:
        catalogue = self.make(tmp_path)
        every = [b"a-b", b"a.txt", b"a/1", b"a/2/3", b"a/2/4", b"aa", b"b"]
        add(catalogue, "s:n", [Entry(p, FILE, 1, digests.of(p)) for p in every])

        def found(text: str, prefix: bytes = b"", after: bytes = b"") -> list[bytes]:
            return [e.path for e in catalogue.files(ids(text), actor=ME, prefix=prefix, after=after)]

        assert found("s:n/a") == [b"a/1", b"a/2/3", b"a/2/4"]
        assert found("s:n@1/a/2") == [b"a/2/3", b"a/2/4"]
        assert found("s:n/aa") == [b"aa"]
        assert found("s:n/a", prefix=b"a/2") == [b"a/2/3", b"a/2/4"]
        assert found("s:n/a/2", prefix=b"a") == [b"a/2/3", b"a/2/4"]
        assert found("s:n/a", prefix=b"b") == found("s:n/absent") == []
        assert found("s:n/a", after=b"a/2/3") == [b"a/2/4"]

    @spec("CAT-12")
    def test_a_page_opens_only_what_it_needs(self, tmp_path: Path) -> None:
        catalogue = self.make(tmp_path)
        tree = files(60_000)
        add(catalogue, "s:n", tree)
        total = len(catalogue.manifest(ids("s:n"), actor=ME).refs)
        assert total >= 10
        real, opened = Segment.decode, []

        def decode(data: bytes, expect: bytes | None = None) -> Segment:
            opened.append(expect)
            return real(data, expect)

        with mock.patch.object(Segment, "decode", decode):
            for at in (0, 30_000, 59_000):
                opened.clear()
                page = catalogue.files(ids("s:n"), actor=ME, after=tree[at].path, limit=10)
                assert page == tree[at + 1 : at + 11]
                assert len(opened) <= 2, f"{len(opened)} of {total} segments opened for ten files"

    @spec("CAT-24")
    def test_sweeping_takes_only_what_nobody_has_or_wants(self, tmp_path: Path) -> None:
        catalogue = self.make(tmp_path)
        used = add(catalogue, "s:n", files(3))
        do(catalogue, PutDataset("s:later"))
        old = put(catalogue, files(4))
        renewed = put(catalogue, files(5))
        self.offset_ns += 100 * 10**9
        fresh = put(catalogue, files(6))
        put(catalogue, files(5))
        before = set(self.kept(catalogue))
        assert catalogue.sweep(grace_s=3600) == 0
        assert set(self.kept(catalogue)) == before
        assert catalogue.sweep(grace_s=50) == 1
        assert before - set(self.kept(catalogue)) == {old[0].digest}
        refused(NotFound, "no-segment", catalogue, AddVersion("s:later", old))
        for refs in (renewed, fresh, put(catalogue, files(4))):
            assert one(catalogue, AddVersion("s:later", refs)).changed
        self.offset_ns += 10**15
        assert catalogue.sweep(grace_s=0) == 0
        assert list(catalogue.manifest(ids(used.id), actor=ME)) == files(3)
