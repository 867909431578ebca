"""Images and the catalogue together, as programs see them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.service
DLS = Path(sys.executable).parent / "dls"


def dls(home: Path, *words: str | Path, status: int = 0) -> list[dict[str, Any]]:
    """What a command says with --json; its status is as expected and standard error is empty."""
    done = subprocess.run(
        [DLS, "--json", *words], env={**os.environ, "DLS_HOME": str(home)}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (status, ""), done.stdout
    return [json.loads(line) for line in done.stdout.splitlines()]


def raw(home: Path, *words: str | Path, status: int = 0) -> bytes:
    """What a command writes to standard output."""
    env = {**os.environ, "DLS_HOME": str(home)}
    done = subprocess.run([DLS, *words], env=env, capture_output=True, check=False)
    assert done.returncode == status, done.stderr
    return done.stdout


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "a").mkdir(parents=True)
    for n in range(50):
        (root / "a" / f"f{n}").write_bytes(b"%d" % n * 100)
    (root / "large").write_bytes(os.urandom(70 << 20))
    return root


def test_what_an_image_holds_is_registered_found_and_read(tree: Path, home: Path, tmp_path: Path) -> None:
    image, folder = tmp_path / "i.sqfs", tmp_path / "m"
    dls(home, "pack", tree, image)
    added = dls(home, "catalogue", "add", "x:tree", image, "--image")[-1]
    assert (added["dataset"], added["layout"], added["files"], added["read"]) == ("x:tree@1", "image", 51, 51)
    assert dls(home, "catalogue", "add", "x:tree", tree)[-1]["new"] is False, "the same content"
    rows = [row for row in dls(home, "catalogue", "files", "x:tree", "--prefix", "a/f4") if row["event"] == "file"]
    assert [row["path"] for row in rows] == sorted(f"a/f{n}" for n in (4, *range(40, 50)))
    shown = dls(home, "catalogue", "show", "x:tree")[-1]
    assert sorted(r["layout"] for r in shown["replicas"]) == ["image", "same"]
    large = (tree / "large").read_bytes()
    for words in (("x:tree", "large"), ("x:tree@1", "large"), ("x:tree/large",)):
        assert raw(home, "cat", *words) == large
    (tree / "large").write_bytes(b"other")
    assert raw(home, "cat", "x:tree", "large") == large, "from the image"
    folder.mkdir()
    mounted = dls(home, "mount", "x:tree", folder)[-1]
    try:
        assert (mounted["dataset"], mounted["image"]) == ("x:tree@1", f"file://{image}")
        assert (folder / "a" / "f7").read_bytes() == b"7" * 100
        assert (folder / "large").read_bytes() == large
    finally:
        dls(home, "umount", folder)
    image.unlink()
    assert dls(home, "verify", "x:tree", "--deep", status=7)[-1]["code"] in ("replica-lost", "replica-damaged")
    assert dls(home, "cat", "x:tree", "large", status=7)[-1]["code"] == "content-differs", "no other byte is given"


def test_what_goes_wrong_is_said(tree: Path, home: Path, tmp_path: Path) -> None:
    image = tmp_path / "i.sqfs"
    dls(home, "pack", tree, image)
    dls(home, "catalogue", "add", "x:tree", image, "--image")
    for words, status, code in (
        (("catalogue", "add", "y:no", tree / "large", "--image"), 2, "not-an-image"),
        (("catalogue", "add", "y:no", tmp_path / "none", "--image"), 3, "no-such-key"),
        (("cat", "x:tree"), 2, "bad-usage"),
        (("cat", "x:tree/large", "large"), 2, "bad-usage"),
        (("cat", image), 2, "bad-usage"),
        (("cat", "x:tree", "none"), 3, "no-entry"),
        (("cat", "x:tree", "a"), 2, "not-a-file"),
        (("cat", "x:none", "a"), 3, "no-dataset"),
        (("mount", "x:none", tmp_path), 3, "no-dataset"),
    ):
        assert dls(home, *words, status=status)[-1]["code"] == code, words
    data = bytearray(image.read_bytes())
    data[200] ^= 1
    image.write_bytes(data)
    assert dls(home, "verify", "x:tree", status=7)[-1]["code"] == "replica-damaged"
