"""Packing and reading, without a mount."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import resource
import subprocess
import sys
import tracemalloc
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components import trees
from components.loopdisk import loop_disk
from dls.fuse import leftovers, records, source, spool
from dls.fuse.blocks import INSIDE, Form
from dls.fuse.codec import PARTS
from dls.fuse.image import open_image
from dls.fuse.index import Header
from dls.fuse.origin import FolderOrigin
from dls.fuse.pack import Options, asked, pack
from dls.fuse.source import Attributes, Item
from dls.fuse.unpack import unpack
from dls.logistics import segment
from dls.logistics.errors import Conflict, Corrupt, Denied, DlsError, Exists, Invalid, Unavailable, Unsupported
from dls.logistics.stores.posix import PosixStore
from dls.logistics.transfer.listing import listed
from dls.logistics.transfer.prove import prove
from dls.logistics.transfer.receipt import MemoryReceipts

HERE = Options(workers=0, attributes=source.user_attributes)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("nasty") / "tree"
    trees.nasty(root)
    return root


@pytest.fixture(scope="module")
def image(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("images") / "nasty.sqfs")
    pack(str(tree), path, HERE)
    return path


@pytest.mark.spec("IMAGE-9", "IMAGE-10")
def test_all_is_found_and_read(tree: Path, image: str) -> None:
    top = os.fsencode(tree)
    with open_image(image) as found:
        seen = {b""}
        for path, attr in found.walk():
            seen.add(path)
            info = os.lstat(top + b"/" + path)
            assert (attr.mode, attr.uid, attr.gid, attr.mtime_ns) == (
                info.st_mode,
                info.st_uid,
                info.st_gid,
                info.st_mtime_ns,
            )
            assert attr.nlink == info.st_nlink
            assert found.find(path) == attr
            if attr.mode >> 12 == 8:
                with open(top + b"/" + path, "rb") as plain:
                    assert found.read(attr) == plain.read()
            elif attr.mode >> 12 == 10:
                assert found.text(attr) == os.readlink(top + b"/" + path)
        every = {os.path.relpath(os.path.join(a, n), top) for a, ds, fs in os.walk(top) for n in (*ds, *fs)}
        assert seen - {b""} == every
        for gone in (b"no", b"names/no", b"a-b/inside", b"many/00000"):
            with pytest.raises(DlsError) as told:
                found.find(gone)
            assert told.value.code == "no-such-key"


@pytest.mark.spec("IMAGE-9")
def test_any_stretch_of_a_file(tree: Path, image: str) -> None:
    rng = random.Random(4)
    with open_image(image) as found:
        for name in ("large", "hole", "all-hole", "text-16384", "random-131073"):
            data = (tree / "sizes" / name).read_bytes()
            attr = found.find(b"sizes/" + name.encode())
            for _ in range(60):
                a, b = rng.randrange(len(data) + 10), rng.randrange(len(data) + 300_000)
                assert found.read(attr, a, b) == data[a:b]


@pytest.mark.spec("IMAGE-7")
def test_the_manifest_is_that_of_the_folder(tmp_path: Path) -> None:
    trees.nasty(tmp_path / "tree", special=False)
    made = pack(str(tmp_path / "tree"), str(tmp_path / "i.sqfs"), HERE)
    store = PosixStore(str(tmp_path / "tree"))
    proof = prove(store, listed(store), MemoryReceipts())
    assert made.manifest.content == proof.manifest.content
    with open_image(str(tmp_path / "i.sqfs")) as found:
        assert found.manifest.digest == proof.manifest.digest
        assert not [error for _, error in found.verify() if error]


@pytest.mark.spec("IMAGE-6")
def test_equal_files_links_and_holes_are_stored_once(tree: Path, image: str) -> None:
    with open_image(image) as found:
        assert found.find(b"again").b == found.find(b"sizes/text-16384").b
        assert found.find(b"links/hard").node == found.find(b"a-b").node
        assert found.find(b"a-b").nlink == 2
        assert found.find(b"sizes/all-hole").blocks == 0
        assert found.find(b"sizes/hole").blocks * 512 <= 256 << 10


@pytest.mark.spec("IMAGE-6")
def test_names_outside_of_the_tree_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "a").write_bytes(b"one inode, three names")
    os.link(tmp_path / "tree" / "a", tmp_path / "tree" / "b")
    os.link(tmp_path / "tree" / "a", tmp_path / "outside")
    pack(str(tmp_path / "tree"), str(tmp_path / "i.sqfs"), HERE)
    with open_image(str(tmp_path / "i.sqfs")) as found:
        assert found.find(b"a").nlink == found.find(b"b").nlink == 2


class _Watched(FolderOrigin):
    """A folder that notes how often it is gone through, and may count names of hard links as it is told to."""

    def __init__(self, root: Path, counted: list[tuple[int, int]] | None = None) -> None:
        super().__init__(os.fsencode(root))
        self.walks, self.counts, self._counted = 0, 0, counted

    def items(self, keep: Attributes) -> Iterator[Item]:
        self.walks += 1
        return super().items(keep)

    def links(self) -> Iterable[tuple[int, int]]:
        self.counts += 1
        return super().links() if self._counted is None else self._counted


@pytest.mark.spec("IMAGE-6")
def test_a_tree_whose_hard_links_lie_elsewhere_too_is_packed_once(tmp_path: Path) -> None:
    (tmp_path / "tree" / "d").mkdir(parents=True)
    for name in ("a", "d/b"):
        (tmp_path / "tree" / name).write_bytes(name.encode())
        os.link(tmp_path / "tree" / name, tmp_path / name.replace("/", "-"))
    os.link(tmp_path / "tree" / "a", tmp_path / "tree" / "d" / "a")
    origin = _Watched(tmp_path / "tree")
    pack(origin, str(tmp_path / "i.sqfs"), HERE)
    assert (origin.walks, origin.counts) == (1, 1)
    with open_image(str(tmp_path / "i.sqfs")) as found:
        assert [found.find(name).nlink for name in (b"a", b"d/a", b"d/b")] == [2, 2, 1]


@pytest.mark.spec("IMAGE-1")
@pytest.mark.parametrize("form", ["squashfs", "erofs"])
def test_further_names_elsewhere_change_no_byte(tmp_path: Path, form: str) -> None:
    (tmp_path / "tree" / "d").mkdir(parents=True)
    for name in ("a", "b", "d/c", "empty"):
        (tmp_path / "tree" / name).write_bytes(name.encode() if name != "empty" else b"")
    os.symlink("a", tmp_path / "tree" / "link")
    os.link(tmp_path / "tree" / "b", tmp_path / "tree" / "d" / "b")
    times = {path: os.stat(path) for path in (tmp_path / "tree", tmp_path / "tree" / "d")}
    for number, name in enumerate(("a", "b", "d/c", "empty", "link")):
        os.link(tmp_path / "tree" / name, tmp_path / f"elsewhere-{number}", follow_symlinks=False)
    options = asked(form=form, workers=0)
    pack(str(tmp_path / "tree"), str(tmp_path / "linked"), options)
    for number in range(5):
        (tmp_path / f"elsewhere-{number}").unlink()
    pack(str(tmp_path / "tree"), str(tmp_path / "alone"), options)
    assert all(os.stat(path).st_mtime_ns == info.st_mtime_ns for path, info in times.items())
    assert (tmp_path / "linked").read_bytes() == (tmp_path / "alone").read_bytes()
    with open_image(str(tmp_path / "linked")) as found:
        assert [found.find(name).nlink for name in (b"a", b"b", b"d/b", b"d/c", b"empty", b"link")] == [
            1,
            2,
            2,
            1,
            1,
            1,
        ]


@pytest.mark.spec("IMAGE-6")
def test_without_hard_links_nothing_is_counted(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "a").write_bytes(b"one")
    origin = _Watched(tmp_path / "tree")
    pack(origin, str(tmp_path / "i.sqfs"), HERE)
    assert (origin.walks, origin.counts) == (1, 0)


@pytest.mark.spec("IMAGE-6")
def test_names_that_were_counted_wrong_are_counted_again(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "a").write_bytes(b"one inode")
    os.link(tmp_path / "tree" / "a", tmp_path / "tree" / "b")
    info = os.stat(tmp_path / "tree" / "a")
    origin = _Watched(tmp_path / "tree", [(info.st_dev, info.st_ino)] * 3)
    pack(origin, str(tmp_path / "i.sqfs"), HERE)
    assert (origin.walks, origin.counts) == (2, 1)
    with open_image(str(tmp_path / "i.sqfs")) as found:
        assert found.find(b"a").nlink == found.find(b"b").nlink == 2


@pytest.mark.spec("IMAGE-3")
def test_exact_times_and_attributes(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    times = {b"now": 1_700_000_000_123_456_789, b"old": -5_000_000_001, b"late": 5_000_000_000_000_000_007}
    for name, time in times.items():
        path = os.fsencode(tmp_path / "tree") + b"/" + name
        Path(os.fsdecode(path)).write_bytes(name)
        os.setxattr(path, b"user.odd \xff", bytes(range(200)))
        os.utime(path, ns=(time, time))
    kept = {name: os.stat(os.fsencode(tmp_path / "tree") + b"/" + name).st_mtime_ns for name in times}
    pack(str(tmp_path / "tree"), str(tmp_path / "i.sqfs"), HERE)
    with open_image(str(tmp_path / "i.sqfs")) as found:
        for name in times:
            attr = found.find(name)
            assert attr.mtime_ns == kept[name]
            assert found.xattrs(attr) == {b"user.odd \xff": bytes(range(200))}


@pytest.mark.spec("IMAGE-1")
def test_the_same_bytes_everywhere(tree: Path, image: str, tmp_path: Path) -> None:
    copy = tmp_path / "another name"
    subprocess.run(["cp", "-a", str(tree), str(copy)], check=True)
    code = (
        "import os,sys; os.umask(0o077); from dls.fuse import source; from dls.fuse.pack import Options, pack;"
        "pack(sys.argv[1], sys.argv[2], Options(workers=3, attributes=source.user_attributes))"
    )
    env = {**os.environ, "LC_ALL": "C", "TZ": "Asia/Kolkata"}
    subprocess.run([sys.executable, "-c", code, str(copy), str(tmp_path / "two.sqfs")], check=True, env=env)
    assert Path(image).read_bytes() == (tmp_path / "two.sqfs").read_bytes()


@pytest.mark.spec("IMAGE-4")
def test_a_name_that_is_taken(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    taken = tmp_path / "i.sqfs"
    taken.write_bytes(b"mine")
    with pytest.raises(Exists):
        pack(str(tmp_path / "tree"), str(taken), HERE)
    assert taken.read_bytes() == b"mine"
    pack(str(tmp_path / "tree"), str(taken), HERE._replace(replace=True))
    with open_image(str(taken)) as found:
        assert found.listdir() == []
    assert sorted(os.listdir(tmp_path)) == ["i.sqfs", "tree"]


@pytest.mark.spec("IMAGE-5")
@pytest.mark.parametrize("size", [10, 40 << 20])
def test_a_source_that_changes(tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "f").write_bytes(bytes(size))
    listing = source._scan

    def then_changed(*words: object) -> object:
        found = listing(*words)  # type: ignore[arg-type]
        with open(tmp_path / "tree" / "f", "ab") as out:
            out.write(b"more")
        return found

    monkeypatch.setattr(source, "_scan", then_changed)
    with pytest.raises(Conflict) as told:
        pack(str(tmp_path / "tree"), str(tmp_path / "i.sqfs"), HERE)
    assert told.value.code == "source-changed"
    assert os.listdir(tmp_path) == ["tree"]


@pytest.mark.spec("IMAGE-4")
def test_a_process_that_packs_is_killed(tree: Path, tmp_path: Path) -> None:
    def kill() -> None:
        for child in psutil.Process().children():
            with contextlib.suppress(psutil.Error):  # another test's, which ends meanwhile
                if "dls.fuse.work" in " ".join(child.cmdline()):
                    child.kill()

    with pytest.raises(Unavailable) as told:
        pack(str(tree), str(tmp_path / "i.sqfs"), HERE._replace(workers=2), alive=kill)
    assert told.value.code == "worker-died"
    assert os.listdir(tmp_path) == []


@pytest.mark.service
@pytest.mark.spec("IMAGE-4", "IMAGE-11")
def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    for n in range(12):
        (root / f"f{n}").write_bytes(random.Random(n).randbytes(1 << 20))
    pack(str(root), str(tmp_path / "i.sqfs"), HERE)
    with loop_disk(tmp_path, 8) as small:
        disk = small.folder
        before = sorted(os.listdir(disk))
        for workers in (0, 2):
            with pytest.raises(Unavailable) as told:
                pack(str(root), str(disk / "j.sqfs"), HERE._replace(workers=workers))
            assert told.value.code == "disk-full"
            assert "j.sqfs" in told.value.message
        with open_image(str(tmp_path / "i.sqfs")) as found, pytest.raises(Unavailable) as told:
            unpack(found, str(disk / "out"))
        assert told.value.code == "disk-full"
        assert sorted(os.listdir(disk)) == before


@pytest.mark.spec("IMAGE-5")
def test_a_file_that_nobody_may_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "secret").write_bytes(b"x")
    real = os.open

    def refusing(path: object, *words: object, **named: object) -> int:
        if isinstance(path, bytes) and path.endswith(b"secret"):
            raise PermissionError(13, "Permission denied")
        return real(path, *words, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", refusing)
    with pytest.raises(Denied) as told:
        pack(str(tmp_path / "tree"), str(tmp_path / "i.sqfs"), HERE)
    assert "secret" in str(told.value)
    assert os.listdir(tmp_path) == ["tree"]


@pytest.mark.spec("IMAGE-8")
@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "_KEPT", 1 << 14)
    monkeypatch.setattr(segment, "LEAST", 64)
    monkeypatch.setattr(segment, "LIMIT", 256)
    peaks = []
    for folders in (30, 180):
        root = tmp_path / str(folders)
        for n in range(folders):
            (root / f"d{n}").mkdir(parents=True)
            for i in range(100):
                (root / f"d{n}" / f"f{i}").write_bytes(b"%d %d" % (n, i))
        tracemalloc.start()
        try:
            pack(str(root), str(tmp_path / f"{folders}.sqfs"), HERE)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    # Beside what is bounded, 15,000 files more take a slot for their content and one for their name each.
    assert peaks[1] < peaks[0] + 15_000 * 80, peaks


@pytest.mark.spec("IMAGE-11")
def test_unpacking_gives_the_tree_back(tree: Path, image: str, tmp_path: Path) -> None:
    with open_image(image) as found:
        unpack(found, str(tmp_path / "out"))
        with pytest.raises(Exists):
            unpack(found, str(tmp_path / "out"))
    assert not trees.differences(tree, tmp_path / "out")
    fields = "%P|%y|%m|%U|%G|%n|%l|%T@"
    assert trees.shown(tree, fields) == trees.shown(tmp_path / "out", fields)
    assert sorted(os.listdir(tmp_path)) == ["out"]


@pytest.mark.spec("IMAGE-11")
@pytest.mark.skipif(os.geteuid() != 0, reason="makes a device")
def test_names_of_one_node_that_is_no_file_stay_one(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    (root / "d").mkdir(parents=True)
    os.symlink("anywhere", root / "link")
    os.mkfifo(root / "pipe")
    os.mknod(root / "device", 0o020644, os.makedev(1, 3))
    for name in ("link", "pipe", "device"):
        os.link(root / name, root / "d" / name, follow_symlinks=False)
        os.link(root / name, root / f"z-{name}", follow_symlinks=False)
    pack(str(root), str(tmp_path / "i.sqfs"), HERE)
    with open_image(str(tmp_path / "i.sqfs")) as found:
        unpack(found, str(tmp_path / "out"))
    fields = "%P|%y|%m|%U|%G|%n|%l|%T@"
    assert trees.shown(root, fields) == trees.shown(tmp_path / "out", fields)
    for name in ("link", "pipe", "device"):
        assert os.path.samestat(os.lstat(tmp_path / "out" / name), os.lstat(tmp_path / "out" / "d" / name))


@pytest.mark.spec("IMAGE-11")
def test_a_link_to_an_empty_folder_means_that_folder(tree: Path, image: str, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    os.symlink("there", tmp_path / "link")
    with open_image(image) as found:
        unpack(found, str(tmp_path / "link"))
    assert not trees.differences(tree, tmp_path / "there")
    assert os.readlink(tmp_path / "link") == "there"
    assert sorted(os.listdir(tmp_path)) == ["link", "there"]


@pytest.mark.service
@pytest.mark.spec("IMAGE-4", "IMAGE-11")
def test_what_cannot_be_replaced_is_told_before_anything_is_read(image: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with loop_disk(tmp_path, 8) as small, open_image(image) as found:
        for one in small.folder.iterdir():
            one.rmdir()  # lost+found
        for target, why in ((tmp_path / "file", "is no folder"), (small.folder, "where a file system is mounted")):
            with pytest.raises(Exists, match=why) as told:
                unpack(found, str(target))
            assert told.value.code == "target-differs"
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(Conflict) as taken:  # the source is not even looked at
        pack(str(tmp_path / "none"), str(tmp_path / "folder"), HERE._replace(replace=True))
    assert taken.value.code == "name-clash"
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.spec("IMAGE-4", "IMAGE-11")
def test_what_a_killed_unpack_left_may_be_deep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ".dls-making-0123456789abcdef"
    deep.mkdir()
    (tmp_path / "tree").mkdir()
    at = os.open(deep, os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("d", dir_fd=at)
        below = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)
    monkeypatch.setattr(leftovers, "_AGE_S", -1.0)
    pack(str(tmp_path / "tree"), str(tmp_path / "i.sqfs"), HERE)
    assert sorted(os.listdir(tmp_path)) == ["i.sqfs", "tree"]


@pytest.mark.service
@pytest.mark.spec("IMAGE-11")
def test_attributes_that_the_target_cannot_hold_are_told(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "f").touch()
    os.setxattr(tmp_path / "tree" / "f", b"user.note", b"mine")
    pack(str(tmp_path / "tree"), str(tmp_path / "i.sqfs"), HERE)
    (tmp_path / "ram").mkdir()
    subprocess.run(["mount", "-t", "ramfs", "none", tmp_path / "ram"], check=True)
    try:
        with (
            open_image(str(tmp_path / "i.sqfs")) as found,
            pytest.raises(Unsupported, match=r"user\.note of f") as told,
        ):
            unpack(found, str(tmp_path / "ram" / "out"))
        assert told.value.code == "kind-not-kept"
        assert os.listdir(tmp_path / "ram") == []
    finally:
        subprocess.run(["umount", tmp_path / "ram"], check=True)


@pytest.mark.spec("IMAGE-2")
@pytest.mark.parametrize(
    "owner", ["²:1", "1:²", "4294967295", "0:4294967295", "99999999999:0", "9" * 5000, "-1", ":", "1:1:1"]
)
def test_owners_that_cannot_be(owner: str) -> None:
    with pytest.raises(Invalid) as told:
        asked(owner=owner)
    assert told.value.code == "bad-usage"


@pytest.mark.spec("IMAGE-2")
def test_the_last_owner_that_can_be() -> None:
    assert asked(owner="4294967294").owner == (4294967294, 4294967294)
    assert asked(owner="7:0").owner == (7, 0)


@pytest.mark.spec("IMAGE-11")
def test_a_sample_is_one_of_files(tmp_path: Path) -> None:
    """Links stand between them here: of every two names none was a file."""
    (tmp_path / "tree").mkdir()
    for number in range(0, 20, 2):
        os.symlink("x", tmp_path / "tree" / f"{number:02}")
        (tmp_path / "tree" / f"{number + 1:02}").write_bytes(b"%d" % number)
    pack(str(tmp_path / "tree"), str(tmp_path / "i.sqfs"), HERE)
    with open_image(str(tmp_path / "i.sqfs")) as found:
        read = [entry.path for entry, error in found.verify(every=2) if error is None]
    assert read == [b"01", b"05", b"09", b"13", b"17"]


@pytest.mark.spec("IMAGE-4")
@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_larger_than_files_may_be_is_told(tmp_path: Path, workers: int) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "f").write_bytes(random.Random(1).randbytes(2 << 20))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        with pytest.raises(Unsupported, match=r"i\.sqfs is larger") as told:
            pack(str(tmp_path / "tree"), str(tmp_path / "i.sqfs"), HERE._replace(workers=workers))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert told.value.code == "too-large"
    assert os.listdir(tmp_path) == ["tree"]


class _Owned(FolderOrigin):
    """Empty files, each of another owner."""

    def __init__(self, root: Path, owners: int) -> None:
        super().__init__(os.fsencode(root))
        self._owners = owners

    def items(self, keep: Attributes) -> Iterator[Item]:
        yield Item(b"", 0o040755, 0, 0, 0)
        for number in range(1, self._owners):
            yield Item(b"%06d" % number, 0o100644, number, number, 0)


@pytest.mark.spec("IMAGE-2")
@pytest.mark.parametrize("owners", [65_535, 65_536])
def test_as_many_owners_as_the_superblock_can_count(tmp_path: Path, owners: int) -> None:
    if owners > 0xFFFF:
        with pytest.raises(Unsupported) as told:
            pack(_Owned(tmp_path, owners), str(tmp_path / "i.sqfs"), HERE)
        assert told.value.code == "too-many-owners"
        assert os.listdir(tmp_path) == []
        return
    pack(_Owned(tmp_path, owners), str(tmp_path / "i.sqfs"), HERE)
    shown = subprocess.run(
        ["unsquashfs", "-lln", str(tmp_path / "i.sqfs"), "065534"], capture_output=True, text=True, check=True
    )
    assert "65534/65534" in shown.stdout


@pytest.mark.spec("IMAGE-2", "IMAGE-5")
def test_attributes_that_cannot_be_had_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "f").touch()
    os.setxattr(tmp_path / "tree" / "f", b"user.note", b"mine")
    for verb, number, code in (
        ("listxattr", errno.E2BIG, "too-many-attributes"),
        ("listxattr", errno.EIO, "io-error"),
        ("getxattr", errno.EACCES, "no-access"),
        ("getxattr", errno.EIO, "io-error"),
    ):

        def failing(path: object, *words: object, number: int = number, **named: object) -> object:
            if path == os.fsencode(tmp_path / "tree/f"):
                raise OSError(number, os.strerror(number))
            return []

        with monkeypatch.context() as planted:
            planted.setattr(os, verb, failing)
            with pytest.raises(DlsError, match=r"tree/f\b") as told:
                pack(str(tmp_path / "tree"), str(tmp_path / "i.sqfs"), HERE)
            assert told.value.code == code
    assert os.listdir(tmp_path) == ["tree"]


@pytest.mark.spec("IMAGE-5")
@pytest.mark.parametrize("what", ["pipe", "link", "folder", "gone", "above"])
def test_a_file_that_becomes_something_else(tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tree" / "d").mkdir(parents=True)
    path = tmp_path / "tree" / "d" / "f"
    path.write_bytes(b"some bytes")
    listing = source._scan

    def then_changed(folder: bytes, *words: object) -> object:
        found = listing(folder, *words)  # type: ignore[arg-type]
        if what == "above" and path.parent.is_dir():
            path.unlink()
            path.parent.rmdir()
            path.parent.touch()
        elif path.is_file() and folder.endswith(b"/d/"):
            path.unlink()
            if what == "pipe":
                os.mkfifo(path)
            elif what == "link":
                path.symlink_to("/etc/passwd")
            elif what == "folder":
                path.mkdir()
        return found

    monkeypatch.setattr(source, "_scan", then_changed)
    with pytest.raises(Conflict) as told:
        pack(str(tmp_path / "tree"), str(tmp_path / "i.sqfs"), HERE)
    assert told.value.code == "source-changed"
    assert os.listdir(tmp_path) == ["tree"]


# ------------------------------------------------------------------------------------------------------------ damage


def _small(folder: Path) -> bytes:
    """A small image with every section in it."""
    root = folder / "tree"
    root.mkdir()
    rng = random.Random(3)
    (root / "random").write_bytes(rng.randbytes(20_000))
    for n in range(30):
        (root / f"text{n}").write_bytes(b"some text %d " % n * 40)
    os.symlink("text1", root / "link")
    os.link(root / "text2", root / "hard")
    (root / "folder").mkdir()
    os.setxattr(root / "text3", b"user.note", b"value" * 9)
    pack(str(root), str(folder / "i.sqfs"), HERE)
    return (folder / "i.sqfs").read_bytes()


def _all(path: str) -> tuple[list[object], int]:
    """Everything that a reader can get out of an image, and how often it was refused; errors of ours only."""
    out: list[object] = []
    refused = 0
    with open_image(path) as image:
        for path_, attr in image.walk():
            row: list[object] = [path_, attr.mode, attr.size, attr.mtime_ns]
            try:
                kind = attr.mode >> 12
                row.append(image.read(attr) if kind == 8 else image.text(attr) if kind == 10 else b"")
                row.append(image.xattrs(attr))
                row.append(image.find(path_))
            except DlsError:
                refused += 1
                continue
            out.append(row)
        if [error for _, error in image.verify() if error]:
            refused += 1
    return out, refused


@pytest.mark.spec("IMAGE-9")
@pytest.mark.fault
@pytest.mark.timeout(600)
def test_a_flipped_bit_is_never_believed(tmp_path: Path, rng: random.Random, faults_full: bool) -> None:
    whole = _small(tmp_path)
    right, refused = _all(str(tmp_path / "i.sqfs"))
    assert not refused
    rows = {repr(row) for row in right}
    bad = tmp_path / "bad.sqfs"
    told = 0
    for _ in range(3000 if faults_full else 300):
        data = bytearray(whole)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        bad.write_bytes(data)
        try:
            found, refused = _all(str(bad))
        except DlsError:
            told += 1
            continue
        told += bool(refused)
        assert {repr(row) for row in found} <= rows
        assert len(found) + refused >= len(right)
    assert told


@pytest.mark.spec("IMAGE-9")
def test_a_truncated_image_is_told(tmp_path: Path, rng: random.Random) -> None:
    whole = _small(tmp_path)
    bad = tmp_path / "bad.sqfs"
    for size in [0, 1, 63, 64, 95, 96, *(rng.randrange(len(whole)) for _ in range(60)), len(whole) - 1]:
        bad.write_bytes(whole[:size])
        with pytest.raises((Corrupt, Invalid)):
            _all(str(bad))


@pytest.mark.spec("IMAGE-9")
def test_an_index_of_another_image_is_told(tmp_path: Path) -> None:
    whole = bytearray(_small(tmp_path))
    whole[20:24] = b"\0\0\0\1"
    (tmp_path / "i.sqfs").write_bytes(whole)
    with pytest.raises(Corrupt, match="another image"):
        open_image(str(tmp_path / "i.sqfs"))


# ---------------------------------------------------------------------------------------------------------- any tree

_name = st.binary(min_size=1, max_size=40).filter(
    lambda n: b"/" not in n and b"\0" not in n and n not in (b".", b"..") and not n.startswith(b".dls-")
)
_leaf = st.one_of(st.binary(max_size=2000), st.integers(0, 300_000), st.text(max_size=20).map(lambda t: "l" + t))
_trees = st.recursive(
    st.dictionaries(_name, _leaf, max_size=6), lambda c: st.dictionaries(_name, st.one_of(_leaf, c), max_size=5)
)


def _plant(root: bytes, tree: object) -> None:
    os.makedirs(root)
    assert isinstance(tree, dict)
    for name, value in tree.items():
        path = root + b"/" + name
        if isinstance(value, dict):
            _plant(path, value)
        elif isinstance(value, str):
            os.symlink(value.replace("\0", "-").encode("utf-8", "surrogatepass") or b"x", path)
        else:
            with open(path, "wb") as out:
                out.write(
                    value if isinstance(value, bytes) else bytes(range(256)) * (value // 256) + b"z" * (value % 256)
                )


@pytest.mark.spec("IMAGE-9", "IMAGE-7")
@settings(max_examples=40)
@given(tree=_trees, form=st.sampled_from([Form(), Form(4096, 100, 500), Form(4096, 4096, 4096)]))
def test_any_tree_is_read_back(tree: object, form: Form, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("any")
    _plant(os.fsencode(folder) + b"/tree", tree)
    path = str(folder / "i.sqfs")
    pack(str(folder / "tree"), path, HERE._replace(form=form))
    with open_image(path) as image:
        unpack(image, str(folder / "out"))
        assert not [error for _, error in image.verify() if error]
    assert not trees.differences(folder / "tree", folder / "out")
    assert trees.shown(folder / "tree", "%P|%y|%m|%T@|%l") == trees.shown(folder / "out", "%P|%y|%m|%T@|%l")


def _runs(rng: random.Random) -> list[bytes]:
    """Small files of every kind that compressors tell apart; many begin with a run."""
    out = []
    for n in range(200):
        head = bytes([rng.choice(b"\0 #-A")]) * rng.choice((1, 3, 4, 5, 8, 40, 700))
        body = rng.choice((rng.randbytes(900), b"%d words and words " % n * 40, b"\0\0\0\0\1" * 300, b"", b"x"))
        out.append(head + body + head * rng.randrange(3))
    return [*out, b"a", b"\0" * 4000, b"z" * (16 << 10), rng.randbytes(16 << 10), b"0123456789" * 1638]


@pytest.mark.spec("IMAGE-10")
@pytest.mark.parametrize("size", [8 << 10, 64 << 10, 1 << 20])
def test_frames_of_any_size_are_read(
    tree: Path, image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(records, "FRAME", size)
    monkeypatch.setattr("dls.fuse.pack.FRAME", size)
    pack(str(tree), str(tmp_path / "i.sqfs"), HERE)
    with open_image(image) as usual, open_image(str(tmp_path / "i.sqfs")) as found:
        assert found.index.header.image["frame"] == size
        assert [path for path, _ in found.walk()] == [path for path, _ in usual.walk()]
        for path, attr in usual.walk():
            assert found.find(path).mtime_ns == attr.mtime_ns
            if attr.mode >> 12 == 4:
                rows = b"".join(found.listing(found.find(path).node, 0, 1 << 20))
                assert len(rows) >= records.HEAD * 2
                assert [n for n, _ in found.rows(found.find(path))] == usual.listdir(path)


@pytest.mark.spec("IMAGE-10")
def test_an_index_that_does_not_say_has_frames_of_64_kib(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without(header: Header) -> bytes:
        image = {name: value for name, value in header.image.items() if name != "frame"}
        return encode(Header(**{**{name: getattr(header, name) for name in Header.__slots__}, "image": image}))

    encode = Header.encode
    monkeypatch.setattr(records, "FRAME", records.FORMER_FRAME)
    monkeypatch.setattr(Header, "encode", without)
    pack(str(tree), str(tmp_path / "i.sqfs"), HERE)
    with open_image(str(tmp_path / "i.sqfs")) as found:
        assert "frame" not in found.index.header.image
        assert not [error for _, error in found.verify() if error]
        assert sum(1 for _ in found.walk()) > 1000


@pytest.mark.spec("IMAGE-15")
def test_small_files_lie_one_by_one(tmp_path: Path, rng: random.Random) -> None:
    bodies = _runs(rng)
    (tmp_path / "tree").mkdir()
    for n, body in enumerate(bodies):
        (tmp_path / "tree" / f"{n:04d}").write_bytes(body)
    pack(str(tmp_path / "tree"), str(tmp_path / "i.sqfs"), HERE)
    with open_image(str(tmp_path / "i.sqfs")) as found:
        marks = {
            stored & PARTS for _, stored, _ in map(found.index.blocks.__getitem__, range(found.index.blocks.count))
        }
        assert marks == {PARTS}
        for n, body in enumerate(bodies):
            attr = found.find(b"%04d" % n)
            assert found.read(attr) == b"".join(found.content(attr.node, 0, 1 << 20)) == body
            assert found.read(attr, 3, 50) == body[3:50]
        # The bytes of one file, no others: a neighbour is damaged.
        one, other = found.find(b"0203"), found.find(b"0204")
        at = found.index.blocks[other.b][0] + (other.c & INSIDE)
    subprocess.run(
        ["unsquashfs", "-q", "-n", "-d", tmp_path / "out", tmp_path / "i.sqfs"], check=True, capture_output=True
    )
    assert not trees.differences(tmp_path / "tree", tmp_path / "out")
    data = bytearray((tmp_path / "i.sqfs").read_bytes())
    data[at + 20] ^= 1
    (tmp_path / "i.sqfs").write_bytes(data)
    with open_image(str(tmp_path / "i.sqfs")) as found:
        assert found.read(one) == bodies[203]
        with pytest.raises(Corrupt):
            found.read(other)


@pytest.mark.spec("IMAGE-15")
def test_files_much_alike_are_compressed_as_one(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    words = b" ".join(b"%x" % (n * 2654435761 % (1 << 32)) for n in range(90))
    for n in range(300):
        (tmp_path / "tree" / f"{n:04d}").write_bytes(words + b"%d" % n)
    pack(str(tmp_path / "tree"), str(tmp_path / "i.sqfs"), HERE)
    with open_image(str(tmp_path / "i.sqfs")) as found:
        assert not any(found.index.blocks[i][1] & PARTS for i in range(found.index.blocks.count))
        assert sum(found.index.blocks[i][1] for i in range(found.index.blocks.count)) < len(words) * 30
        assert found.read(found.find(b"0123")) == words + b"123"


_CUT_SHORT = """
import os, sys
from dls.fuse.image import open_image
from dls.logistics.errors import Conflict
image = open_image(sys.argv[1])
small, large = image.find(b"d/0000"), image.find(b"large")
ways = {
    "find": lambda: image.find(b"d/2999"),
    "walk": lambda: list(image.walk()),
    "small": lambda: image.read(small),
    "large": lambda: image.read(large, 1 << 20, 3 << 20),
    "manifest": lambda: list(image.manifest),
    "loaded": lambda seen=image.manifest: list(seen),
}
os.truncate(sys.argv[1], 0)
for name, way in ways.items():
    try:
        way()
    except Conflict as told:
        print(name, told.code)
"""


@pytest.mark.spec("IMAGE-9")
def test_an_image_cut_short_while_it_is_open_is_told(tmp_path: Path) -> None:
    (tmp_path / "tree" / "d").mkdir(parents=True)
    for number in range(3000):
        (tmp_path / "tree" / "d" / f"{number:04d}").write_bytes(b"%d" % number * 100)
    (tmp_path / "tree" / "large").write_bytes(random.Random(1).randbytes(4 << 20))
    pack(str(tmp_path / "tree"), str(tmp_path / "i.sqfs"), HERE)
    found = subprocess.run(
        [sys.executable, "-c", _CUT_SHORT, str(tmp_path / "i.sqfs")], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found
    assert found.stdout.splitlines() == [
        f"{way} source-changed" for way in ("find", "walk", "small", "large", "manifest", "loaded")
    ]
