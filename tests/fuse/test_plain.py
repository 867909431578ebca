"""Datasets that lie file by file behind a store, as a tree."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from components import trees
from dls.fuse import mounting, plain
from dls.fuse.plain import Plain, open_plain, unit_at
from dls.fuse.unpack import unpack
from dls.logistics import digest as digests
from dls.logistics.entry import FILE, Entry
from dls.logistics.errors import Corrupt, NotFound, Unavailable
from dls.logistics.manifest import Manifest, in_memory
from dls.logistics.stores.memory import MemoryStore
from dls.logistics.stores.posix import PosixStore


def hashed(root: Path) -> Manifest:
    """What a folder holds, hashed by hand."""
    store, entries = PosixStore(str(root)), []
    for entry in store.list():
        if entry.kind == FILE:
            hasher = digests.Hasher(entry.size)
            hasher.update((root / os.fsdecode(entry.path)).read_bytes())
            entry = entry._replace(digest=hasher.digest(), blocks=hasher.blocks())
        entries.append(entry)
    return in_memory(entries)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("plain") / "tree"
    trees.nasty(root, special=False)
    return root


def same(found: Plain, root: Path) -> None:
    top = os.fsencode(root)
    seen = set()
    for path, attr in found.walk():
        seen.add(path)
        info = os.lstat(top + b"/" + path)
        assert attr.mode >> 12 == info.st_mode >> 12
        if attr.mode >> 12 == 8:
            assert (attr.mode, attr.mtime_ns, attr.size) == (info.st_mode, info.st_mtime_ns, info.st_size)
            with open(top + b"/" + path, "rb") as file:
                assert found.read(attr) == file.read()
        elif attr.mode >> 12 == 10:
            assert found.text(attr) == os.readlink(top + b"/" + path)
    assert seen == {os.path.relpath(os.path.join(a, n), top) for a, ds, fs in os.walk(top) for n in (*ds, *fs)}


@pytest.mark.spec("FOREIGN-12")
def test_a_folder_as_its_manifest_has_it(tree: Path, tmp_path: Path) -> None:
    manifest = hashed(tree)
    for _ in range(2):
        with open_plain(PosixStore(str(tree)), manifest, cache_folder=str(tmp_path / "cache")) as found:
            same(found, tree)
            assert found.manifest is manifest
    with open_plain(PosixStore(str(tree)), manifest) as found:
        unpack(found, str(tmp_path / "out"))
        assert all(error is None for _, error in found.verify())
    assert not trees.differences(tree, tmp_path / "out")


@pytest.mark.spec("FOREIGN-12")
@pytest.mark.parametrize("size", [1, 5 << 20, (64 << 20) + 100_000])
def test_no_byte_is_given_that_was_not_proven(size: int, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    noise = random.Random(size).randbytes((1 << 20) - 8)  # no block is like another: equal ones are fetched once
    body = bytearray(b"".join(b"%08d" % i + noise for i in range(size >> 20)) + b"x" * (size & 0xFFFFF))
    path = tmp_path / "data" / "file"
    path.write_bytes(body)
    manifest = hashed(tmp_path / "data")
    (entry,) = (e for e in manifest if e.kind == FILE)
    bad_at = size // 2
    unit = unit_at(entry, bad_at)
    assert (unit.stop - unit.start == 16 << 20) == (size > 64 << 20)
    body[bad_at] ^= 1
    path.write_bytes(body)
    with open_plain(PosixStore(str(tmp_path / "data")), manifest, cache_folder=str(tmp_path / "cache")) as found:
        attr = found.find(b"file")
        for start in (unit.start, bad_at, unit.stop - 1):
            with pytest.raises(Corrupt) as told:
                found.read(attr, start, start + 1)
            assert (told.value.code, told.value.facts["key"]) == ("content-differs", "file")
        if unit.start:  # the other blocks are right
            assert found.read(attr, 0, 100) == body[:100]
        path.write_bytes(body[:bad_at])
        with pytest.raises(Corrupt):
            found.read(attr, unit.start, unit.start + 1)
        path.unlink()
        with pytest.raises(NotFound):
            found.read(attr, unit.start, unit.start + 1)


class Counting(MemoryStore):
    """How often was something read?"""

    reads = 0

    def read(self, key: bytes, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        Counting.reads += 1
        return super().read(key, start, stop)


@pytest.mark.spec("FOREIGN-12")
def test_units_are_kept_by_what_is_in_them(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    place, cache = request.node.name, tmp_path / "cache"
    request.addfinalizer(lambda: MemoryStore.forget(place))
    body = os.urandom(2 << 20)
    store = MemoryStore(place)
    for key in (b"a/one", b"a/two"):
        store.write(key, [body])
    manifest = in_memory([Entry(key, FILE, len(body), digests.of(body)) for key in (b"a/one", b"a/two")])
    Counting.reads = 0
    for _ in range(2):
        with open_plain(Counting(place), manifest, cache_folder=str(cache)) as found:
            for _ in range(3):
                for name in (b"a/one", b"a/two"):
                    assert found.read(found.find(name), 1000, 2000) == body[1000:2000]
    assert Counting.reads == 1
    (kept,) = cache.glob("user-*/files/*")
    bad = bytearray(kept.read_bytes())
    bad[5000] ^= 1
    kept.write_bytes(bad)
    with open_plain(Counting(place), manifest, cache_folder=str(cache)) as found:
        assert found.read(found.find(b"a/one")) == body
    assert Counting.reads == 2


def test_folders_that_are_only_meant_and_many_segments(request: pytest.FixtureRequest) -> None:
    place = request.node.name
    request.addfinalizer(lambda: MemoryStore.forget(place))
    store = MemoryStore(place)
    paths = sorted(b"%d/deep-%d/f%d" % (i % 7, i % 50, i) for i in range(20_000))
    entries = [Entry(path, FILE, len(path), digests.of(path)) for path in paths]
    for path in paths[::500]:
        store.write(path, [path])
    manifest = in_memory(entries)
    assert len(manifest.refs) > 2
    with open_plain(MemoryStore(place), manifest) as found:
        assert found.counts["files"] == 20_000
        for path in paths[::500]:
            assert found.read(found.find(path)) == path


class Meeting(PosixStore):
    """Nobody reads from it before so many do, a part of them of the same bytes."""

    together = 3
    reads = 0
    most = coming = 0
    fails = False
    _turn = threading.Lock()

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.barrier = threading.Barrier(self.together)

    def read(self, key: bytes, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        body = b"".join(super().read(key, start, stop))
        with Meeting._turn:
            Meeting.reads += 1
            Meeting.coming += len(body)
            Meeting.most = max(Meeting.most, Meeting.coming)
        try:
            self.barrier.wait(20)
        except threading.BrokenBarrierError:
            raise Unavailable("nobody else came", code="store-unreachable") from None
        finally:
            with Meeting._turn:
                Meeting.coming -= len(body)
        if self.fails:
            time.sleep(0.5)  # the others ask meanwhile
            raise Unavailable("it does not answer", code="store-unreachable")
        return iter([body])


@pytest.fixture
def many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("reads", "most", "coming"):
        monkeypatch.setattr(Meeting, name, 0)
    (tmp_path / "data").mkdir()
    for n in range(12):
        (tmp_path / "data" / f"{n:02d}").write_bytes(random.Random(n).randbytes(1 << 20))
    return tmp_path / "data"


def in_threads(act: Callable[[int], object], count: int) -> list[object]:
    with ThreadPoolExecutor(count) as threads:
        return [one.exception() or one.result() for one in [threads.submit(act, n) for n in range(count)]]


@pytest.mark.spec("FOREIGN-14")
def test_several_units_come_at_once_and_each_one_once(many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_plain(Meeting(str(many)), hashed(many)) as found:

        def read(n: int) -> bytes:
            return found.read(found.find(b"%02d" % (n % 3)), n, 500_000)

        nodes = [found.find(b"%02d" % n).node for n in range(3)]
        assert not any(found.ready(node, 0) for node in nodes)
        got = in_threads(read, 9)
        assert got == [(many / f"{n % 3:02d}").read_bytes()[n:500_000] for n in range(9)]
        assert Meeting.reads == 3
        assert all(found.ready(node, 0) for node in nodes)

        monkeypatch.setattr(Meeting, "fails", True)  # all who wait are told; whoever asks again has it read again
        started = threading.Barrier(9)

        def fail(n: int) -> bytes:
            started.wait(20)
            return found.read(found.find(b"%02d" % (3 + n % 3)))

        assert [type(one) for one in in_threads(fail, 9)] == [Unavailable] * 9
        assert Meeting.reads == 6
        assert not found.ready(found.find(b"03").node, 0)
        monkeypatch.setattr(Meeting, "fails", False)
        assert in_threads(lambda n: found.read(found.find(b"%02d" % (3 + n))), 3) == [
            (many / f"{n:02d}").read_bytes() for n in (3, 4, 5)
        ]


@pytest.mark.spec("FOREIGN-14")
def test_what_is_on_its_way_is_bounded(many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain, "_MEMORY", 3 << 20)
    with open_plain(Meeting(str(many)), hashed(many)) as found:
        got = in_threads(lambda n: found.read(found.find(b"%02d" % n)), 12)
    assert got == [(many / f"{n:02d}").read_bytes() for n in range(12)]
    assert Meeting.most == 3 << 20


@pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="no FUSE here")
@pytest.mark.spec("FOREIGN-14")
def test_a_mount_reads_several_at_once(many: Path, tmp_path: Path) -> None:
    manifest, folder = hashed(many), tmp_path / "mounted"
    folder.mkdir()
    mounting.in_background(
        "plain", lambda: open_plain(Meeting(str(many)), manifest), str(folder), mounting.MountOptions(), f"{folder}.log"
    )
    try:
        got = in_threads(lambda n: (folder / f"{n:02d}").read_bytes(), 3)
        assert got == [(many / f"{n:02d}").read_bytes() for n in range(3)]
    finally:
        mounting.unmount(str(folder), lazy=True)


@pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="no FUSE here")
@pytest.mark.spec("FOREIGN-12")
def test_mounted(tree: Path, tmp_path: Path) -> None:
    manifest, folder = hashed(tree), tmp_path / "mounted"
    folder.mkdir()

    def opener() -> Plain:
        return open_plain(PosixStore(str(tree)), manifest, cache_folder=str(tmp_path / "cache"))

    mounting.in_background("plain", opener, str(folder), mounting.MountOptions(), str(tmp_path / "log"))
    try:
        assert not trees.differences(tree, folder)
    finally:
        mounting.unmount(str(folder))
