"""Images as fsspec's file systems: beside fsspec's own view of the same tree."""

from __future__ import annotations

import io
import os
import pickle
import random
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem

from components import tree as tree_of
from components.nginx import nginx
from dls.fuse.filesystem import ImageFileSystem
from dls.fuse.pack import Options, pack


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("fsspec") / "tree"
    tree_of.odd(root)
    (root / "data" / "deep").mkdir(parents=True)
    rng = random.Random(2)
    for n in range(6):
        (root / "data" / f"{n}.bin").write_bytes(rng.randbytes(50_000 * n))
        (root / "data" / "deep" / f"{n}.csv").write_text("a,b\n" + f"{n},2\n" * 50)
    pack(str(root), str(root.parent / "i.sqfs"), Options(workers=0))
    return root


@pytest.fixture
def ours(tree: Path) -> ImageFileSystem:
    found = fsspec.filesystem("dlsimage", fo=str(tree.parent / "i.sqfs"))
    assert isinstance(found, ImageFileSystem)
    return found


@pytest.fixture
def theirs(tree: Path) -> Any:
    return DirFileSystem(path=str(tree), fs=LocalFileSystem())


def plain(path: str) -> bool:
    """No link, and no name that fsspec itself reads as something else."""
    return "links" not in path and not any(sign in path for sign in "*?[]") and "::" not in path


@pytest.mark.spec("IMAGE-14")
def test_names_are_those_of_the_folder(ours: ImageFileSystem, theirs: Any) -> None:
    for path in ["", *(p for p in theirs.find("", withdirs=True) if plain(p))]:
        a, b = ours.info(path), theirs.info(path)
        assert (a["type"], a["mode"], a["mtime"]) == (b["type"], b["mode"], b["mtime"])
        assert a["type"] == "directory" or a["size"] == b["size"]
        assert (ours.isdir(path), ours.isfile(path), ours.exists(path)) == (
            theirs.isdir(path),
            theirs.isfile(path),
            True,
        )
        assert sorted(ours.ls(path, detail=False)) == sorted(theirs.ls(path, detail=False))
        assert {one["name"]: one["type"] for one in ours.ls(path)} == {
            one: ours.info(one)["type"] for one in ours.ls(path, False)
        }
    for way in ("", "data", "data/deep", "names"):
        assert ours.find(way) == theirs.find(way)
        assert sorted(ours.find(way, withdirs=True, maxdepth=2)) == sorted(
            set(theirs.find(way, withdirs=True, maxdepth=2)) - {""}
        )
    for pattern in ("data/*.bin", "data/**/*.csv", "**/1.*", "d*/[0-2].bin", "*", "nothing*"):
        assert sorted(ours.glob(pattern)) == sorted(theirs.glob(pattern))
    walked = {where: (sorted(inside), sorted(files)) for where, inside, files in ours.walk("data")}
    assert walked == {where: (sorted(i), sorted(f)) for where, i, f in theirs.walk("data")}
    assert ours.du("data") == theirs.du("data")


@pytest.mark.spec("IMAGE-14")
def test_bytes_are_those_of_the_folder(ours: ImageFileSystem, theirs: Any) -> None:
    for path in (p for p in theirs.find("") if plain(p)):
        assert ours.cat_file(path) == theirs.cat_file(path)
    name = "data/5.bin"
    for a, b in ((0, 10), (100, None), (None, 9), (-5, None), (-300, -100), (10, 5), (240_000, 900_000), (0, 0)):
        assert ours.cat_file(name, a, b) == theirs.cat_file(name)[a:b]
    assert ours.cat_ranges([name] * 3, [0, 5, 100_000], [5, 50_000, 250_000]) == [
        theirs.cat_file(name)[a:b] for a, b in ((0, 5), (5, 50_000), (100_000, 250_000))
    ]
    assert ours.cat("data/*.bin") == theirs.cat("data/*.bin")
    assert ours.head(name, 10) == theirs.cat_file(name)[:10]
    assert ours.tail(name, 10) == theirs.cat_file(name)[-10:]
    with ours.open(name) as one, theirs.open(name) as other:
        rng = random.Random(3)
        for _ in range(100):
            at, size = rng.randrange(260_000), rng.randrange(90_000)
            assert one.seek(at) == other.seek(at)
            assert one.read(size) == other.read(size)
    with ours.open("data/deep/1.csv", "r") as text:
        assert text.readline() == "a,b\n"


@pytest.mark.spec("IMAGE-14")
def test_files_are_got_and_links_followed(ours: ImageFileSystem, tree: Path, tmp_path: Path) -> None:
    ours.get("data", str(tmp_path / "got"), recursive=True)
    assert (tmp_path / "got" / "deep" / "3.csv").read_bytes() == (tree / "data" / "deep" / "3.csv").read_bytes()
    assert ours.cat_file("links/to file") == b"target"
    assert ours.info("links/to file")["type"] == "file"
    assert ours.info("links/to folder")["type"] == "directory"
    assert ours.cat_file("links/to folder/file") == b"file"
    assert {one["name"]: one["type"] for one in ours.ls("links")}["links/to folder"] == "link"
    for name in ("links/dangling", "links/absolute", "links/to itself"):
        assert ours.info(name)["type"] == "link"
        with pytest.raises(FileNotFoundError):
            ours.open(name)


@pytest.mark.spec("IMAGE-14")
def test_errors_are_those_of_files(ours: ImageFileSystem, tmp_path: Path) -> None:
    for wrong in ("nothing", "data/nothing", "data/1.bin/x", "../etc", "data/../../etc"):
        for verb in (ours.info, ours.ls, ours.cat_file, ours.open):
            with pytest.raises((FileNotFoundError, NotADirectoryError)):
                verb(wrong)
        assert not ours.exists(wrong)
        assert not ours.isdir(wrong)
    with pytest.raises(IsADirectoryError):
        ours.open("data")
    with pytest.raises(OSError, match="cannot be written"):
        ours.open("new", "wb")
    for refused in (
        lambda: ours.mkdir("x"),
        lambda: ours.makedirs("x/y"),
        lambda: ours.rm("data", recursive=True),
        lambda: ours.rm_file("data/1.bin"),
        lambda: ours.rmdir("data"),
        lambda: ours.cp_file("data/1.bin", "data/x"),
        lambda: ours.mv("data/1.bin", "data/x"),
        lambda: ours.pipe_file("x", b""),
        lambda: ours.touch("x"),
        lambda: ours.put_file(__file__, "x"),
    ):
        with pytest.raises(OSError, match="cannot be written"):
            refused()
    with pytest.raises(FileNotFoundError):
        ImageFileSystem(fo=str(tmp_path / "none.sqfs"))
    (tmp_path / "no.sqfs").write_bytes(b"no image" * 100)
    with pytest.raises(OSError, match="no image"):
        ImageFileSystem(fo=str(tmp_path / "no.sqfs"))


@pytest.mark.spec("IMAGE-14", "IMAGE-9")
def test_damage_is_an_input_output_error(tree: Path, tmp_path: Path) -> None:
    data = bytearray((tree.parent / "i.sqfs").read_bytes())
    data[data.index((tree / "data" / "4.bin").read_bytes()[500:600])] ^= 1
    (tmp_path / "bad.sqfs").write_bytes(data)
    bad = fsspec.filesystem("dlsimage", fo=str(tmp_path / "bad.sqfs"))
    with bad.open("data/4.bin") as file, pytest.raises(OSError, match="damaged"):
        file.read(10)


@pytest.mark.service
@pytest.mark.spec("IMAGE-14")
def test_by_address_chained_and_in_other_processes(tree: Path, tmp_path: Path) -> None:
    with nginx(tmp_path / "nginx") as service:
        (service.root / "i.sqfs").write_bytes((tree.parent / "i.sqfs").read_bytes())
        want = (tree / "data" / "3.bin").read_bytes()
        for address in (f"{service.endpoint}/i.sqfs", str(tree.parent / "i.sqfs"), f"file://{tree.parent}/i.sqfs"):
            fs = fsspec.filesystem("dlsimage", fo=address)
            assert fs.cat_file("data/3.bin") == want
            if not address.startswith("http"):  # in a chain fsspec loads its own class for http, which needs aiohttp
                with fsspec.open(f"dlsimage://data/3.bin::{address}") as file:
                    assert file.read() == want
                fs.close()
                fs, path = fsspec.url_to_fs(f"dlsimage://data::{address}")
                assert path == "data"
            assert fs.ls("data", detail=False)[:2] == ["data/0.bin", "data/1.bin"]
            other = pickle.loads(pickle.dumps(fs))
            assert other.cat_file("data/3.bin") == want
            other.close()
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    status = int(fs.cat_file("data/3.bin") != want)
                finally:
                    os._exit(status)
            assert os.waitpid(child, 0)[1] == 0
            fs.close()
        with fsspec.open(f"dlsimage://data/deep/2.csv::{tree.parent}/i.sqfs", "rt") as text:
            assert isinstance(text, io.TextIOWrapper)
            assert text.readline() == "a,b\n"
        files = fsspec.open_files(f"dlsimage://data/deep/*.csv::{tree.parent}/i.sqfs")
        assert len(files) == 6
        with files as opened:
            assert [one.readline() for one in opened] == [b"a,b\n"] * 6
