"""`dls layer`, `dls compact`, and mounts of several images, as programs see them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from components import trees

pytestmark = pytest.mark.service
DLS = Path(sys.executable).parent / "dls"


def dls(home: Path, *words: str | Path, status: int = 0) -> list[dict[str, Any]]:
    """What a command says with --json; its status is as expected and standard error is empty."""
    done = subprocess.run(
        [DLS, "--json", *words], env={**os.environ, "DLS_HOME": str(home)}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (status, ""), done.stdout
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def tree(tmp_path: Path, home: Path) -> Path:
    """A tree, packed as v1.sqfs."""
    root = tmp_path / "tree"
    (root / "a").mkdir(parents=True)
    for n in range(50):
        (root / "a" / f"f{n}").write_bytes(b"%d" % n * 100)
    dls(home, "pack", root, tmp_path / "v1.sqfs")
    return root


@pytest.mark.spec("LAYER-1", "LAYER-15")
def test_a_version_after_the_other(tree: Path, home: Path, tmp_path: Path) -> None:
    one, two, folder = tmp_path / "v1.sqfs", tmp_path / "v2.sqfs", tmp_path / "m"
    (tree / "a" / "f7").unlink()
    (tree / "a" / "f8").write_bytes(b"changed")
    (tree / "new").write_bytes(b"new")
    made = dls(home, "layer", tree, two, "--onto", one)[-1]
    assert (made["added"], made["changed"], made["deleted"], made["same"], made["files"]) == (1, 1, 1, 48, 2)
    assert made["stored"] == two.stat().st_size
    folder.mkdir()
    dls(home, "mount", two, folder)
    try:
        assert not trees.differences(tree, folder)
    finally:
        dls(home, "umount", folder)
    assert dls(home, "verify", two)[-1]["files"] == 50
    dls(home, "unpack", two, tmp_path / "out")
    assert not trees.differences(tree, tmp_path / "out")
    for image, content in ((one, b"8" * 100), (two, b"changed"), (f"{one}+{two}", b"changed")):
        assert subprocess.run([DLS, "cat", image, "a/f8"], capture_output=True, check=True).stdout == content
    whole = dls(home, "compact", two, tmp_path / "whole.sqfs")[-1]
    packed = dls(home, "pack", tree, tmp_path / "direct.sqfs")[-1]
    assert whole["content"] == packed["content"]
    assert (tmp_path / "whole.sqfs").read_bytes() == (tmp_path / "direct.sqfs").read_bytes()


@pytest.mark.spec("LAYER-6")
def test_edits_without_the_whole_tree(tree: Path, home: Path, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "x").write_bytes(b"x")
    one, two, three = (tmp_path / f"v{n}.sqfs" for n in (1, 2, 3))
    made = dls(home, "layer", tmp_path / "more", two, "--onto", one, "--add")[-1]
    assert (made["added"], made["changed"], made["deleted"], made["same"]) == (1, 0, 0, 50)
    made = dls(home, "layer", three, "--onto", two, "--delete", "a/f1", "--delete", "/x")[-1]
    assert (made["added"], made["changed"], made["deleted"], made["same"]) == (0, 0, 2, 49)
    dls(home, "unpack", three, tmp_path / "out")
    (tree / "a" / "f1").unlink()
    assert not trees.differences(tree, tmp_path / "out")


@pytest.mark.spec("LAYER-16", "LAYER-17")
def test_several_in_one_mount(tree: Path, home: Path, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "a").mkdir()
    (tmp_path / "more" / "a" / "f8").write_bytes(b"of more")
    dls(home, "pack", tmp_path / "more", tmp_path / "more.sqfs")
    (tree / "a" / "f9").unlink()
    dls(home, "layer", tree, tmp_path / "v2.sqfs", "--onto", tmp_path / "v1.sqfs")
    folder = tmp_path / "m"
    folder.mkdir()
    dls(home, "mount", tmp_path / "more.sqfs", f"now={tmp_path}/v2.sqfs", tmp_path / "v1.sqfs", folder)
    try:
        assert sorted(os.listdir(folder)) == ["more", "now", "v1"]
        assert not trees.differences(tree, folder / "now")
        assert (folder / "v1" / "a" / "f9").read_bytes() == b"9" * 100
        assert (folder / "more" / "a" / "f8").read_bytes() == b"of more"
        (row,) = [row for row in dls(home, "mounts") if row.get("folder") == str(folder)]
        assert row["event"] == "mount"
        assert row["image"] == ", ".join(f"{tmp_path}/{name}.sqfs" for name in ("more", "v2", "v1"))
    finally:
        dls(home, "umount", folder)
    dls(home, "mount", "--union", tmp_path / "more.sqfs", tmp_path / "v1.sqfs", folder)
    try:
        assert (folder / "a" / "f8").read_bytes() == b"of more"
        assert (folder / "a" / "f9").read_bytes() == b"9" * 100
        assert os.listdir(folder) == ["a"]
    finally:
        dls(home, "umount", folder)


@pytest.mark.spec("LAYER-12")
def test_what_goes_wrong_is_said(tree: Path, home: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "v1.sqfs", tmp_path / "v2.sqfs"
    (tree / "new").write_bytes(b"new")
    dls(home, "layer", tree, two, "--onto", one)
    assert dls(home, "layer", tree, two, "--onto", one, status=4)[-1]["code"] == "key-exists"
    assert dls(home, "layer", tree, "--onto", one, status=2)[-1]["code"] == "bad-usage"
    assert dls(home, "layer", tree, two, status=2)[-1]["code"] == "bad-usage"
    assert (
        dls(home, "layer", tmp_path / "3.sqfs", "--onto", one, "--delete", "no", status=3)[-1]["code"] == "no-such-key"
    )
    assert dls(home, "layer", tree, tmp_path / "3.sqfs", "--onto", tree / "new", status=2)[-1]["code"] == "not-an-image"
    folder = tmp_path / "m"
    folder.mkdir()
    assert dls(home, "mount", one, one, folder, status=9)[-1]["code"] == "name-clash"
    assert dls(home, "mount", "--union", one, two, folder, status=6)[-1]["code"] == "no-stack"
    dls(home, "pack", tree, one, "--replace")
    assert dls(home, "mount", two, folder, status=9)[-1]["code"] == "wrong-base"
    one.unlink()
    assert dls(home, "verify", two, status=3)[-1]["code"] == "no-base"
    assert dls(home, "catalogue", "add", "demo:two", two, "--image", status=3)[-1]["code"] == "no-base"


@pytest.mark.spec("LAYER-15")
def test_in_the_catalogue_a_layer_is_all_that_it_shows(tree: Path, home: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "v1.sqfs", tmp_path / "v2.sqfs"
    (tree / "a" / "f7").unlink()
    (tree / "new").write_bytes(b"new")
    dls(home, "layer", tree, two, "--onto", one)
    dls(home, "catalogue", "add", "demo:tree", one, "--image")
    added = dls(home, "catalogue", "add", "demo:tree", two, "--image")[-1]
    assert (added["files"], added["dataset"]) == (50, "demo:tree@2")
    rows = [row for row in dls(home, "catalogue", "files", "demo:tree") if row["event"] == "file"]
    assert {row["path"] for row in rows} == {"new", *(f"a/f{n}" for n in range(50) if n != 7)}
    assert dls(home, "verify", "demo:tree")[-1]["event"] == "result"
    folder = tmp_path / "m"
    folder.mkdir()
    for version, names in (("demo:tree@1", ["a"]), ("demo:tree@2", ["a", "new"])):
        dls(home, "mount", version, folder)
        try:
            assert sorted(os.listdir(folder)) == names
        finally:
            dls(home, "umount", folder)
