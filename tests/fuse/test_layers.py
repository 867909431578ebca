"""Layers as files: what lies on what, what is refused, what a kill leaves; trees side by side."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import pickle
import random
import shutil
import struct
import subprocess
import sys
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components import trees
from components.hostile import Parts, taken_apart
from components.http_plain import python_server
from components.loopdisk import loop_disk
from dls.fuse import compare, files, named, source, spool
from dls.fuse.beside import Beside, named_of, open_beside
from dls.fuse.hashing import Hashing
from dls.fuse.image import open_image
from dls.fuse.index import FOOTER
from dls.fuse.layering import Edits, compact, layer
from dls.fuse.layers import absolute, open_over, open_stack, split
from dls.fuse.listings import LAYERS
from dls.fuse.pack import Options, pack
from dls.fuse.tree import Tree
from dls.fuse.unpack import unpack
from dls.logistics import segment
from dls.logistics.errors import Conflict, DlsError, Exists, Invalid, NotFound, Unavailable, Unsupported

HERE = Options(workers=0, attributes=source.all_attributes)


def plant(root: Path, **names: bytes) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for name, data in names.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """A folder with v1.sqfs, v2.sqfs, v3.sqfs, each a layer over the one before, and the tree `tree` of the last."""
    tree = plant(tmp_path / "tree", one=b"1", two=b"2", three=b"3")
    (tree / "d").mkdir()
    for n in range(30):
        (tree / "d" / f"f{n}").write_bytes(b"%d" % n * 1000)
    pack(str(tree), str(tmp_path / "v1.sqfs"), HERE)
    (tree / "two").write_bytes(b"two")
    (tree / "d" / "f3").unlink()
    layer(str(tmp_path / "v1.sqfs"), str(tree), str(tmp_path / "v2.sqfs"), HERE)
    (tree / "four").write_bytes(b"4")
    (tree / "one").unlink()
    layer(str(tmp_path / "v2.sqfs"), str(tree), str(tmp_path / "v3.sqfs"), HERE)
    return tmp_path


def shown(tree: Tree) -> dict[bytes, bytes]:
    return {path: tree.read(attr) for path, attr in tree.walk() if attr.mode >> 12 == 8}


def told(error: pytest.ExceptionInfo[DlsError], *words: str) -> None:
    for word in words:
        assert word in error.value.message, error.value.message


# -------------------------------------------------------------------------------------------------- what lies on what


@pytest.mark.spec("LAYER-11", "LAYER-12")
def test_each_layer_is_a_version(three: Path) -> None:
    for version, names in ((1, {b"one", b"two", b"three"}), (2, {b"one", b"two", b"three"})):
        with open_stack(str(three / f"v{version}.sqfs")) as found:
            assert {name for name in shown(found) if b"/" not in name} == names
            assert found.read(found.find(b"two")) == (b"2" if version == 1 else b"two")
    with open_stack(str(three / "v3.sqfs")) as found:
        assert {name for name in shown(found) if b"/" not in name} == {b"two", b"three", b"four"}
    by_hand = "+".join(str(three / f"v{n}.sqfs") for n in (1, 2, 3))
    with open_stack(by_hand) as found, open_stack(str(three / "v3.sqfs")) as other:
        assert shown(found) == shown(other)
        assert found.manifest.digest == other.manifest.digest


@pytest.mark.spec("LAYER-11")
def test_what_it_lies_on_is_in_the_header(three: Path) -> None:
    with open_image(str(three / "v3.sqfs")) as image, open_image(str(three / "v1.sqfs")) as base:
        below = image.index.header.made["below"]
        assert [row["name"] for row in below] == ["v2.sqfs", "v1.sqfs"]
        header = FOOTER.unpack_from(base.index.data, len(base.index.data) - FOOTER.size)[4]
        assert below[1]["header"] == "blake3:" + header.hex()
        assert below[1]["super"] == base.index.header.image["super"]
        assert below[1]["content"] == "blake3:" + base.manifest.content.hex()
        assert "below" not in base.index.header.made


@pytest.mark.spec("LAYER-11")
def test_they_may_be_moved(three: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for n in (1, 2, 3):
        shutil.move(three / f"v{n}.sqfs", elsewhere / f"v{n}.sqfs")
    with open_stack(str(elsewhere / "v3.sqfs")) as found:
        assert b"four" in found.listdir()
    (elsewhere / "bases").mkdir()
    shutil.move(elsewhere / "v1.sqfs", elsewhere / "bases" / "old name.sqfs")
    with pytest.raises(NotFound) as error:
        open_stack(str(elsewhere / "v3.sqfs"))
    assert error.value.code == "no-base"
    told(error, "v3.sqfs", "v1.sqfs", "blake3:")
    places = [elsewhere / "bases" / "old name.sqfs", elsewhere / "v2.sqfs", elsewhere / "v3.sqfs"]
    with open_stack("+".join(map(str, places))) as found:
        assert b"four" in found.listdir()


@pytest.mark.spec("LAYER-11")
def test_names_are_seen_from_the_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(tmp_path / "tree", a=b"a")
    (tmp_path / "bases").mkdir()
    (tmp_path / "layers").mkdir()
    pack(str(tmp_path / "tree"), str(tmp_path / "bases" / "b\udcff.sqfs"), HERE)
    plant(tmp_path / "tree", b=b"b")
    monkeypatch.chdir(tmp_path)
    layer("bases/b\udcff.sqfs", "tree", "layers/l.sqfs", HERE)
    monkeypatch.chdir("/")
    with open_stack(str(tmp_path / "layers" / "l.sqfs")) as found:
        assert found.listdir() == [b"b", b"a"]
    shutil.copytree(tmp_path / "bases", tmp_path / "layers", dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "bases")
    with open_stack(str(tmp_path / "layers" / "l.sqfs")) as found:
        assert found.listdir() == [b"b", b"a"]


@pytest.mark.spec("LAYER-13")
@pytest.mark.parametrize("how", ["itself", "link", "lowest"])
def test_a_layer_never_replaces_what_it_lies_on(tmp_path: Path, how: str) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "f").write_bytes(b"1")
    base, second = str(tmp_path / "base.sqfs"), str(tmp_path / "second.sqfs")
    pack(str(tmp_path / "tree"), base, HERE)
    (tmp_path / "tree" / "f").write_bytes(b"22")
    layer(base, str(tmp_path / "tree"), second, HERE)
    os.symlink("base.sqfs", tmp_path / "link.sqfs")
    onto = {"itself": base, "link": str(tmp_path / "link.sqfs"), "lowest": second}[how]
    before = Path(base).read_bytes()
    with pytest.raises(Exists) as told:
        layer(onto, str(tmp_path / "tree"), base, HERE._replace(replace=True))
    assert told.value.code == "key-exists"
    assert Path(base).read_bytes() == before
    with pytest.raises(Invalid):
        layer(base, None, str(tmp_path / "new.sqfs"), HERE, Edits(True, (b"",)))
    assert not (tmp_path / "new.sqfs").exists()


@pytest.mark.spec("LAYER-11")
def test_what_lies_below_is_found_behind_links_to_folders(tmp_path: Path) -> None:
    """What is above a folder is not what is above a link to it."""
    for folder in ("tree", "disk/x/mine", "bases"):
        (tmp_path / folder).mkdir(parents=True)
    os.symlink("disk/x/mine", tmp_path / "mine")
    os.symlink("bases", tmp_path / "to-bases")
    (tmp_path / "tree" / "f").write_bytes(b"1")
    pack(str(tmp_path / "tree"), str(tmp_path / "bases" / "base.sqfs"), HERE)
    (tmp_path / "tree" / "f").write_bytes(b"22")
    made = []
    for number, base in enumerate(("bases/base.sqfs", "to-bases/base.sqfs")):
        for folder in ("mine", "disk/x/mine"):
            layer(str(tmp_path / base), str(tmp_path / "tree"), str(tmp_path / folder / f"l{number}.sqfs"), HERE)
            for way in ("mine", "disk/x/mine"):
                with open_stack(str(tmp_path / way / f"l{number}.sqfs")) as found:
                    assert found.read(found.find(b"f")) == b"22"
            (tmp_path / "newest.sqfs").symlink_to(tmp_path / "mine" / f"l{number}.sqfs")
            with open_stack(str(tmp_path / "newest.sqfs")) as found:
                assert found.read(found.find(b"f")) == b"22"
            (tmp_path / "newest.sqfs").unlink()
            made.append((tmp_path / "mine" / f"l{number}.sqfs").read_bytes())
            (tmp_path / "mine" / f"l{number}.sqfs").unlink()
    assert len(set(made)) == 1


@pytest.mark.spec("LAYER-12")
def test_a_wrong_base_is_refused(three: Path, tmp_path: Path) -> None:
    plant(tmp_path / "other", one=b"another")
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    pack(str(tmp_path / "other"), str(tmp_path / "x.sqfs"), HERE)
    for stack in ("x+v2", "v1+v3", "x+v1+v2", "v2+v1", "v1+v2+x+v3"):
        with pytest.raises(Conflict) as error:
            open_stack("+".join(f"{three}/{name}.sqfs" for name in stack.split("+")))
        assert error.value.code == "wrong-base", stack
    shutil.copy(tmp_path / "x.sqfs", three / "v1.sqfs")
    with pytest.raises(Conflict) as error:
        open_stack(str(three / "v3.sqfs"))
    assert error.value.code == "wrong-base"
    told(error, "v3.sqfs", "v1.sqfs", "another image")
    del error
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.spec("LAYER-12")
def test_a_base_with_other_modes_is_another_base(tmp_path: Path) -> None:
    """Its content is the same, and so may its superblock be."""
    tree = plant(tmp_path / "tree", a=b"a", b=b"b")
    pack(str(tree), str(tmp_path / "v1.sqfs"), HERE)
    (tree / "b").write_bytes(b"changed")
    layer(str(tmp_path / "v1.sqfs"), str(tree), str(tmp_path / "v2.sqfs"), HERE)
    (tree / "b").write_bytes(b"b")
    os.chmod(tree / "a", 0o640)
    pack(str(tree), str(tmp_path / "v1.sqfs"), HERE._replace(replace=True))
    with pytest.raises(Conflict, match="another image"):
        open_stack(str(tmp_path / "v2.sqfs"))


@pytest.mark.spec("LAYER-12")
def test_a_base_with_other_nanoseconds_is_another_base(tmp_path: Path) -> None:
    """Its SquashFS is the same to the bit, and so is its content: the index tells."""
    tree = plant(tmp_path / "tree", a=b"a", b=b"b")
    os.utime(tree / "a", ns=(1_000_000_005, 1_000_000_005))
    pack(str(tree), str(tmp_path / "v1.sqfs"), HERE)
    layer(str(tmp_path / "v1.sqfs"), None, str(tmp_path / "v2.sqfs"), HERE, Edits(delete=(b"b",)))
    with open_image(str(tmp_path / "v1.sqfs")) as one:
        before = one.manifest.content, one.index.header.image["super"]
    os.utime(tree / "a", ns=(1_000_000_006, 1_000_000_006))
    pack(str(tree), str(tmp_path / "v1.sqfs"), HERE._replace(replace=True))
    with open_image(str(tmp_path / "v1.sqfs")) as one:
        assert before == (one.manifest.content, one.index.header.image["super"])
    with pytest.raises(Conflict, match="another image"):
        open_stack(str(tmp_path / "v2.sqfs"))


@pytest.mark.spec("LAYER-12")
def test_a_damaged_base_is_told(three: Path, rng: random.Random) -> None:
    whole = (three / "v1.sqfs").read_bytes()
    with open_stack(str(three / "v3.sqfs")) as found:
        right = shown(found)
    for _ in range(60):
        data = bytearray(whole)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        (three / "v1.sqfs").write_bytes(data)
        try:
            with open_stack(str(three / "v3.sqfs")) as found:
                assert shown(found) == right
        except DlsError:  # which one hangs on the bit: of the version, of a sum, of a name
            continue
    (three / "v1.sqfs").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(Invalid, match=r"v1\.sqfs"):
        open_stack(str(three / "v3.sqfs"))


def test_texts_of_stacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert split("a.sqfs+b.sqfs") == ["a.sqfs", "b.sqfs"]
    assert split("s3://b/a.sqfs+/x/b.squashfs") == ["s3://b/a.sqfs", "/x/b.squashfs"]
    assert split("a+b.sqfs") == ["a+b.sqfs"]
    (tmp_path / "a.sqfs+b.sqfs").write_bytes(b"")
    assert split("a.sqfs+b.sqfs") == ["a.sqfs+b.sqfs"]
    assert absolute("c.sqfs+s3://b/a.sqfs") == f"{tmp_path}/c.sqfs+s3://b/a.sqfs"


# ------------------------------------------------------------------------------------------------------ making layers


@pytest.mark.spec("LAYER-13")
def test_the_same_bytes_everywhere(three: Path, tmp_path: Path) -> None:
    away = tmp_path / "away" / "deeper"
    away.mkdir(parents=True)
    shutil.copy(three / "v1.sqfs", away / "v1.sqfs")
    shutil.copy(three / "v2.sqfs", away / "v2.sqfs")
    subprocess.run(["cp", "-a", three / "tree", away / "copy"], check=True)
    code = (
        "import os,sys; os.umask(0o077); from dls.fuse import source; from dls.fuse.layering import layer;"
        "from dls.fuse.pack import Options;"
        "layer(sys.argv[1], sys.argv[2], sys.argv[3], Options(workers=3, attributes=source.all_attributes))"
    )
    words = [away / "v2.sqfs", away / "copy", away / "v3.sqfs"]
    env = {**os.environ, "LC_ALL": "C", "TZ": "Asia/Kolkata"}
    subprocess.run([sys.executable, "-c", code, *words], check=True, env=env, cwd="/")
    assert (away / "v3.sqfs").read_bytes() == (three / "v3.sqfs").read_bytes()


@pytest.mark.spec("LAYER-13")
def test_a_name_that_is_taken(three: Path) -> None:
    with pytest.raises(Exists):
        layer(str(three / "v2.sqfs"), str(three / "tree"), str(three / "v3.sqfs"), HERE)
    whole = (three / "v3.sqfs").read_bytes()
    layer(str(three / "v2.sqfs"), str(three / "tree"), str(three / "v3.sqfs"), HERE._replace(replace=True))
    assert (three / "v3.sqfs").read_bytes() == whole


@pytest.mark.service
@pytest.mark.spec("LAYER-13")
def test_a_full_disk_leaves_nothing(three: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(12):
        (three / "tree" / f"large{n}").write_bytes(random.Random(n).randbytes(1 << 20))
    with loop_disk(tmp_path, 8) as small:
        before = sorted(os.listdir(small.folder))
        for kept in (spool._KEPT, 1):  # while it is packed, and while it is compared
            monkeypatch.setattr(spool, "_KEPT", kept)
            if kept == 1:
                with contextlib.suppress(OSError), open(small.folder / "full", "wb", 0) as full:
                    while full.write(bytes(1024)):
                        pass
            with pytest.raises(Unavailable) as error:
                layer(str(three / "v3.sqfs"), str(three / "tree"), str(small.folder / "v4.sqfs"), HERE)
            assert error.value.code == "disk-full"
        (small.folder / "full").unlink()
        assert sorted(os.listdir(small.folder)) == before


@pytest.mark.spec("LAYER-5")
def test_only_the_bytes_decide(tmp_path: Path) -> None:
    """A file of the same size and time that holds something else is found; one that holds the same is left out."""
    tree = plant(tmp_path / "tree", a=b"same", b=b"one", c=b"x" * 3_000_000)
    for name in "abc":
        os.utime(tree / name, (1, 1))
    pack(str(tree), str(tmp_path / "v1.sqfs"), HERE)
    (tree / "b").write_bytes(b"two")
    (tree / "c").write_bytes(b"x" * 2_999_999 + b"y")
    for name in "bc":
        os.utime(tree / name, (1, 1))
    made = layer(str(tmp_path / "v1.sqfs"), str(tree), str(tmp_path / "v2.sqfs"), HERE)
    assert (made.counts.changed, made.counts.same, made.counts.added) == (2, 1, 0)
    with open_image(str(tmp_path / "v2.sqfs")) as found:
        assert set(found.listdir()) == {b"b", b"c"}


@pytest.mark.spec("LAYER-5")
def test_a_source_that_changes(three: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = three / "tree" / "d" / "f9"
    hashed = Hashing.digests

    def then_changed(self: Hashing[object], some: list[object]) -> list[bytes]:
        victim.write_bytes(b"longer than it was" * 1000)
        return hashed(self, some)  # type: ignore[arg-type]

    monkeypatch.setattr(Hashing, "digests", then_changed)
    with pytest.raises(Conflict) as error:
        layer(str(three / "v3.sqfs"), str(three / "tree"), str(three / "v4.sqfs"), HERE)
    assert error.value.code == "source-changed"
    assert not (three / "v4.sqfs").exists()


@pytest.mark.spec("LAYER-2")
def test_hard_links_are_whole_or_left_out(tmp_path: Path) -> None:
    tree = plant(tmp_path / "tree", a=b"linked", x=b"alone")
    os.link(tree / "a", tree / "b")
    os.link(tree / "a", tree / "c")
    pack(str(tree), str(tmp_path / "v1.sqfs"), HERE)
    (tree / "b").unlink()
    layer(str(tmp_path / "v1.sqfs"), str(tree), str(tmp_path / "v2.sqfs"), HERE)
    with open_stack(str(tmp_path / "v2.sqfs")) as found:
        assert found.find(b"a").node == found.find(b"c").node
        assert found.find(b"a").nlink == 2
    layer(str(tmp_path / "v1.sqfs"), None, str(tmp_path / "v3.sqfs"), HERE, Edits(delete=(b"a",)))
    with open_stack(str(tmp_path / "v3.sqfs")) as found:
        assert found.find(b"b").node == found.find(b"c").node
        assert (found.find(b"b").nlink, found.read(found.find(b"c"))) == (2, b"linked")


@pytest.mark.spec("LAYER-1", "LAYER-3")
def test_a_folder_of_which_something_is_left_hides_nothing_else(tmp_path: Path) -> None:
    """Also where what is left lies deeper, below folders with other attributes."""
    tree = plant(
        tmp_path / "tree", **{"p/gone": b"x", "p/q/kept": b"k", "r/gone": b"x", "r/s/t/kept": b"k", "u/gone": b"x"}
    )
    (tree / "v" / "w").mkdir(parents=True)
    (tree / "v" / "gone").write_bytes(b"x")
    pack(str(tree), str(tmp_path / "v1.sqfs"), HERE)
    for name in "pruv":
        (tree / name / "gone").unlink()
    os.chmod(tree / "r" / "s", 0o700)
    (tree / "u" / "new").write_bytes(b"n")
    layer(str(tmp_path / "v1.sqfs"), str(tree), str(tmp_path / "v2.sqfs"), HERE)
    with open_stack(str(tmp_path / "v2.sqfs")) as found:
        assert set(shown(found)) == {b"p/q/kept", b"r/s/t/kept", b"u/new"}
        assert found.listdir(b"v") == [b"w"]
    with open_image(str(tmp_path / "v2.sqfs")) as alone:
        opaque = {path for path, attr in alone.walk() if alone.xattrs(attr)}
    assert opaque == {b"u"}  # alone has nothing left of what was below


@pytest.mark.spec("LAYER-3")
def test_what_cannot_be_said_is_refused(three: Path) -> None:
    os.mknod(three / "tree" / "odd", 0o020600, os.makedev(0, 0))
    with pytest.raises(Unsupported) as error:
        layer(str(three / "v3.sqfs"), str(three / "tree"), str(three / "v4.sqfs"), HERE)
    assert error.value.code == "reads-as-deleted"
    told(error, "odd")
    (three / "tree" / "odd").unlink()
    os.setxattr(three / "tree" / "d", b"trusted.overlay.opaque", b"y")
    with pytest.raises(Unsupported, match="overlayfs"):
        layer(str(three / "v3.sqfs"), str(three / "tree"), str(three / "v4.sqfs"), HERE)
    os.removexattr(three / "tree" / "d", b"trusted.overlay.opaque")
    with pytest.raises(NotFound):
        layer(str(three / "v3.sqfs"), None, str(three / "v4.sqfs"), HERE, Edits(delete=(b"none",)))
    assert not (three / "v4.sqfs").exists()


@pytest.mark.spec("LAYER-3")
def test_what_others_write_is_read(tmp_path: Path) -> None:
    """An upper folder of the kernel's overlayfs, packed: whiteouts, opaque folders in both forms, no redirects."""
    base = plant(tmp_path / "base")
    for name in ("gone/x", "hidden/x", "user/x", "both/x", "moved/x"):
        plant(base, **{name: b"base"})
    upper = plant(tmp_path / "upper")
    for name in ("hidden", "user", "both"):
        plant(upper, **{f"{name}/new": b"upper"})
    os.mknod(upper / "gone", 0o020000, os.makedev(0, 0))
    os.setxattr(upper / "hidden", b"trusted.overlay.opaque", b"y")
    os.setxattr(upper / "user", b"user.overlay.opaque", b"y")
    for name in ("base", "upper"):
        pack(str(tmp_path / name), str(tmp_path / f"{name}.sqfs"), HERE)
    with open_stack(f"{tmp_path}/base.sqfs+{tmp_path}/upper.sqfs") as found:
        assert set(shown(found)) == {b"hidden/new", b"user/new", b"both/new", b"both/x", b"moved/x"}
        assert found.xattrs(found.find(b"hidden")) == found.xattrs(found.find(b"user")) == {}
        assert {entry.path for entry in found.manifest} == set(shown(found))
    plant(upper, **{"moved/y": b""})
    os.setxattr(upper / "moved", b"trusted.overlay.redirect", b"/both")
    pack(str(upper), str(tmp_path / "upper.sqfs"), HERE._replace(replace=True))
    with open_stack(f"{tmp_path}/base.sqfs+{tmp_path}/upper.sqfs") as found, pytest.raises(Unsupported) as error:
        found.find(b"moved/y")
    assert error.value.code == "moved-folder"


@pytest.mark.spec("LAYER-14")
@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "_KEPT", 1 << 14)
    monkeypatch.setattr(named, "_FRAMES_KEPT", 1 << 14)
    monkeypatch.setattr(segment, "LEAST", 64)
    monkeypatch.setattr(segment, "LIMIT", 256)
    monkeypatch.setattr(compare, "BATCH_FILES", 64)
    monkeypatch.setattr(compare, "_EVENTS", 128)
    peaks = []
    for folders in (20, 120):
        root = tmp_path / str(folders)
        for n in range(folders):
            (root / f"d{n}").mkdir(parents=True)
            for i in range(60):
                (root / f"d{n}" / f"f{i}").write_bytes(b"%d %d" % (n, i))
        pack(str(root), str(tmp_path / f"{folders}.sqfs"), HERE)
        (root / "d1" / "f1").write_bytes(b"changed")
        tracemalloc.start()
        try:
            layer(str(tmp_path / f"{folders}.sqfs"), str(root), str(tmp_path / f"{folders}-2.sqfs"), HERE)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[1] < peaks[0] + 6_000 * 40, peaks


# ------------------------------------------------------------------------------------------------- the other ways in


@pytest.mark.spec("LAYER-15")
def test_from_python(three: Path) -> None:
    with files.open_image(str(three / "v3.sqfs")) as found:
        again = pickle.loads(pickle.dumps(found))
        assert sorted(again.listdir()) == ["d", "four", "three", "two"]
        assert again.read("two") == b"two"
        samples = found.samples(lambda name: name.startswith("d/"))
        assert len(samples) == 29
        assert samples[0] == ("d/f0", b"0" * 1000)
        again.close()


@pytest.mark.service
@pytest.mark.spec("LAYER-15")
def test_behind_http(three: Path, tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    with (
        python_server(tmp_path / "log", three, exact=True) as web,
        open_stack(f"{web.endpoint}/v3.sqfs", str(tmp_path / "cache")) as found,
    ):
        with open_stack(str(three / "v3.sqfs")) as here:
            assert shown(found) == shown(here)
        unpack(found, str(tmp_path / "out"))
    assert not trees.differences(three / "tree", tmp_path / "out")


@pytest.mark.service
@pytest.mark.spec("LAYER-11")
def test_a_layer_here_over_a_base_elsewhere(three: Path, tmp_path: Path) -> None:
    (three / "away").mkdir()
    shutil.move(three / "v1.sqfs", three / "away" / "v%41 1.sqfs")
    (tmp_path / "log").mkdir()
    with python_server(tmp_path / "log", three / "away", exact=True) as web:
        plant(three / "tree", five=b"5")
        layer(f"{web.endpoint}/v%2541 1.sqfs", str(three / "tree"), str(three / "l.sqfs"), HERE)
        with open_stack(str(three / "l.sqfs")) as found:
            right = shown(found)
            assert right[b"five"] == b"5"
        compact(str(three / "l.sqfs"), str(three / "whole.sqfs"), HERE._replace(workers=2))
    with open_stack(str(three / "whole.sqfs")) as found:
        assert shown(found) == right
    with pytest.raises(DlsError):
        open_stack(str(three / "l.sqfs"))
    shutil.move(three / "away" / "v%41 1.sqfs", three / "v%41 1.sqfs")
    with open_stack(str(three / "l.sqfs")) as found:
        assert shown(found) == right


# --------------------------------------------------------------------------------------------- side by side, and over


@pytest.mark.spec("LAYER-16")
def test_side_by_side(three: Path, tmp_path: Path) -> None:
    plant(tmp_path / "more", a=b"a")
    os.link(tmp_path / "more" / "a", tmp_path / "more" / "b")
    os.chmod(tmp_path / "more", 0o750)
    pack(str(tmp_path / "more"), str(tmp_path / "more.sqfs"), HERE)
    plant(tmp_path / "none")
    pack(str(tmp_path / "none"), str(tmp_path / "none.sqfs"), HERE)
    openers = [
        (b"more-", lambda: open_stack(str(tmp_path / "more.sqfs"))),
        (b"stack", lambda: open_stack(str(three / "v3.sqfs"))),
        (b"more", lambda: open_stack(str(tmp_path / "more.sqfs"))),
        (b"none", lambda: open_stack(str(tmp_path / "none.sqfs"))),
    ]
    whole = tmp_path / "whole"
    whole.mkdir()
    for name, source_ in (("more-", "more"), ("stack", "tree"), ("more", "more"), ("none", "none")):
        subprocess.run(["cp", "-a", tmp_path / source_, whole / name], check=True)
    pack(str(whole), str(tmp_path / "whole.sqfs"), HERE)
    with open_beside(openers) as found, open_image(str(tmp_path / "whole.sqfs")) as direct:
        assert isinstance(found, Beside)
        walked = dict(found.walk())
        assert {path: (a.mode, a.size, a.nlink, a.mtime_ns) for path, a in walked.items() if a.mode >> 12 != 4} == {
            path: (a.mode, a.size, a.nlink, a.mtime_ns) for path, a in direct.walk() if a.mode >> 12 != 4
        }
        assert {p: (a.mode, a.nlink) for p, a in walked.items()} == {p: (a.mode, a.nlink) for p, a in direct.walk()}
        assert shown(found) == shown(direct)
        assert found.manifest.content == direct.manifest.content
        assert all(found.find(path) == found.attr(attr.node) == attr for path, attr in walked.items())
        assert len({a.ino for a in walked.values()}) == len(walked) - 2  # two hard links, each in two folders
        names = b"".join(found.listing(found.root, 0, 700))
        assert b"more" in names
        unpack(found, str(tmp_path / "out"))
    assert not trees.differences(whole, tmp_path / "out")
    with pytest.raises(Conflict, match="two of them"):
        open_beside([openers[0], openers[0]])


@pytest.mark.spec("LAYER-16")
def test_names_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert named_of("/data/tiles.sqfs") == (b"tiles", "/data/tiles.sqfs")
    assert named_of("t=/data/tiles.sqfs") == (b"t", "/data/tiles.sqfs")
    assert named_of("s3://b/x%25y.squashfs") == (b"x%y", "s3://b/x%25y.squashfs")
    assert named_of("a.sqfs+b.sqfs") == (b"b", "a.sqfs+b.sqfs")
    assert named_of("era:five@3") == (b"five", "era:five@3")
    assert named_of("f=era:five") == (b"f", "era:five")
    (tmp_path / "a=b.sqfs").write_bytes(b"")
    assert named_of("a=b.sqfs") == (b"a=b", "a=b.sqfs")
    for bad in ("..=x.sqfs", "=x.sqfs", ".dls-x=y.sqfs"):
        with pytest.raises(Invalid):
            named_of(bad)


@pytest.mark.spec("LAYER-17")
def test_images_of_their_own_over_one_another(three: Path, tmp_path: Path) -> None:
    top = plant(tmp_path / "top", two=b"of the top")
    os.link(top / "two", top / "again")
    plant(top / "d", f0=b"of the top", new=b"new")
    low = plant(tmp_path / "low", again=b"low", deep=b"linked")
    os.link(low / "deep", low / "other")
    os.link(low / "deep", low / "two")
    os.link(low / "again", low / "x")  # its first name is hidden: the next one takes its place
    os.link(low / "again", low / "y")
    for name in ("top", "low"):
        pack(str(tmp_path / name), str(tmp_path / f"{name}.sqfs"), HERE)
    pack(str(three / "tree"), str(tmp_path / "mid.sqfs"), HERE)
    openers = [lambda name=name: open_stack(str(tmp_path / f"{name}.sqfs")) for name in ("top", "mid", "low")]
    with open_over(openers) as found:
        assert shown(found) == {
            **shown(open_image(str(tmp_path / "low.sqfs"))),
            **shown(open_image(str(tmp_path / "mid.sqfs"))),
            **shown(open_image(str(tmp_path / "top.sqfs"))),
        }
        assert {entry.path: entry.target for entry in found.manifest if entry.target} == {
            b"two": b"again", b"other": b"deep", b"y": b"x"
        }  # fmt: skip
        unpack(found, str(tmp_path / "out"))
    assert os.stat(tmp_path / "out" / "deep").st_nlink == os.stat(tmp_path / "out" / "x").st_nlink == 2
    assert (tmp_path / "out" / "y").read_bytes() == b"low"
    with pytest.raises(Unsupported) as error:
        open_over([openers[0], lambda: open_stack(str(three / "v3.sqfs"))])
    assert error.value.code == "no-stack"


@pytest.mark.spec("LAYER-10")
def test_too_many(tmp_path: Path) -> None:
    plant(tmp_path / "tree", a=b"a")
    pack(str(tmp_path / "tree"), str(tmp_path / "a.sqfs"), HERE)
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(Unsupported) as error:
        open_over([lambda: open_image(str(tmp_path / "a.sqfs"))] * 257)
    assert error.value.code == "too-many-layers"
    del error
    assert len(os.listdir("/proc/self/fd")) == before


def test_numbers_have_room() -> None:
    assert LAYERS.made | LAYERS.inside | 255 << LAYERS.shift < 1 << 56


# ----------------------------------------------------------------------------------------------------- made to do harm

_NUMBERS = st.one_of(
    st.sampled_from([0, 1, 8, 63, 64, 4096, 65536, (1 << 32) - 1, 1 << 40, 1 << 55, 1 << 56, 1 << 63, (1 << 64) - 1]),
    st.integers(0, 1 << 14),
)
_HARM = st.tuples(st.integers(0, 1 << 13), _NUMBERS, st.sampled_from("BIQ"))


@pytest.mark.fault
@pytest.mark.timeout(3600)
@pytest.mark.spec("LAYER-12")
@settings(max_examples=2000 if os.environ.get("DLS_FAULTS") == "full" else 100)
@given(harm=st.lists(_HARM, min_size=1, max_size=4), over=st.booleans())
def test_stacks_of_images_made_to_do_harm(
    harm: list[tuple[int, int, str]], over: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever stands in the names of an image whose sums are right: an error of ours, or some tree, and an end."""
    folder = _stack_to_harm(tmp_path_factory)
    parts = replace(_parts[over], space=bytearray(_parts[over].space))
    for where, value, how in harm:
        size = struct.calcsize(how)
        at = min(where, (len(parts.space) - size) // size) * size
        struct.pack_into("<" + how, parts.space, at, value & (1 << 8 * size) - 1)
    bad, good = folder / "bad.sqfs", folder / ("v1.sqfs" if over else "v2x.sqfs")
    bad.write_bytes(parts.whole())
    looks = [
        dict,
        lambda tree: list(tree.items()),
        _listed,
        lambda tree: tree.manifest,
        lambda tree: list(tree.verify()),
    ]
    openers = [lambda: open_image(str(bad)), lambda: open_image(str(good))]
    with open_over(openers if over else openers[::-1]) as found:
        for look in looks:
            with contextlib.suppress(DlsError):
                look(found.walk() if look is dict else found)
        with contextlib.suppress(DlsError):
            unpack(found, str(folder / "out"))
    shutil.rmtree(folder / "out", ignore_errors=True)


_parts: dict[bool, Parts] = {}
_folder: list[Path] = []


def _stack_to_harm(factory: pytest.TempPathFactory) -> Path:
    if not _folder:
        folder = factory.mktemp("harm")
        tree = plant(folder / "tree", a=b"a", b=b"b")
        for name in ("d/x", "d/e/y", "d/e/z", "f/g"):
            plant(tree, **{name: name.encode() * 100})
        pack(str(tree), str(folder / "v1.sqfs"), HERE)
        plant(tree, **{"d/e/z": b"changed", "d/new": b"", "f/h/i": b"i"})
        (tree / "d" / "x").unlink()
        layer(str(folder / "v1.sqfs"), str(tree), str(folder / "v2.sqfs"), HERE)
        upper = plant(folder / "upper", **{"d/e/z": b"changed", "d/new": b"", "f/h/i": b"i"})
        os.mknod(upper / "d" / "x", 0o020000, os.makedev(0, 0))
        pack(str(upper), str(folder / "v2x.sqfs"), HERE)
        _parts[True], _parts[False] = taken_apart(folder / "v2x.sqfs"), taken_apart(folder / "v1.sqfs")
        _folder.append(folder)
    return _folder[0]


def _listed(tree: Tree) -> None:
    todo, seen = [tree.root], {tree.root}
    while todo:
        offset, node = 0, todo.pop()
        for _ in range(200):
            pieces = tree.listing(node, offset, 4096)
            data, at = b"".join(pieces), 0
            while at < len(data):
                length = int.from_bytes(data[at + 144 : at + 148], "little")
                offset = int.from_bytes(data[at + 136 : at + 144], "little")
                inner = int.from_bytes(data[at : at + 8], "little")
                if data[at + 148] == 4 and inner and inner not in seen:
                    seen.add(inner)
                    todo.append(inner)
                at += 152 + (length + 7 & ~7)
            if not pieces:
                break


# -------------------------------------------------------------------------------------------------------------- killed


@pytest.mark.fault
@pytest.mark.timeout(300)
@pytest.mark.spec("LAYER-13")
@pytest.mark.parametrize("verb", ["layer", "compact"])
def test_whoever_makes_it_is_killed(tmp_path: Path, rng: random.Random, faults_full: bool, verb: str) -> None:
    trees.nasty(tmp_path / "tree")
    pack(str(tmp_path / "tree"), str(tmp_path / "v1.sqfs"), HERE)
    for n in range(0, 600, 2):
        (tmp_path / "tree" / "many" / f"new{n}").write_bytes(random.Random(n).randbytes(20_000))
    shutil.rmtree(tmp_path / "tree" / "names")
    out = tmp_path / "v2.sqfs"
    words = [verb, tmp_path / "v1.sqfs", tmp_path / "tree", out]
    if verb == "compact":
        layer(str(tmp_path / "v1.sqfs"), str(tmp_path / "tree"), str(out), HERE)
        out = tmp_path / "whole.sqfs"
        words = [verb, tmp_path / "v2.sqfs", out]
    code = (
        "import sys; from dls.fuse import layering, source; from dls.fuse.pack import Options;"
        "getattr(layering, sys.argv[1])(*sys.argv[2:], Options(workers=2, attributes=source.all_attributes))"
    )
    command = [sys.executable, "-c", code, *map(str, words)]
    started = time.monotonic()
    subprocess.run(command, check=True)
    took = time.monotonic() - started
    whole = out.read_bytes()
    out.unlink()
    names = sorted(os.listdir(tmp_path))
    cut = 0
    for _ in range(100 if faults_full else 8):
        child = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        time.sleep(rng.random() * took * 1.1)
        child.kill()
        child.wait()
        if out.exists():
            assert out.read_bytes() == whole
            out.unlink()
        else:
            cut += 1
    assert cut
    assert [name for name in sorted(os.listdir(tmp_path)) if not name.startswith(".dls-")] == names
    assert json.dumps(names)
