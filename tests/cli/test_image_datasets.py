"""Images and the catalogue together, as programs see them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.s3 import S3Service
from components.s3_rclone import rclone_s3

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


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Service]:
    # `fresh` would hash the large objects whole for each range of them: 30 s of processor time.
    with rclone_s3(tmp_path, fresh=False) as service:
        service.bucket("b")
        for name, value in service.env().items():
            monkeypatch.setenv(name, value)
        yield service


def test_from_a_bucket_to_an_image_in_a_bucket_and_back(tree: Path, home: Path, tmp_path: Path, s3: S3Service) -> None:
    """A prefix of 51 files, one of them 70 MB, becomes one object; the object is registered, mounted, staged."""
    assert s3.root is not None
    dls(home, "site", "add", "scratch", tmp_path / "scratch")
    dls(home, "stage-out", tree, "--to", "s3://b/tree")
    packed = dls(home, "pack", "s3://b/tree", "s3://b/tree.sqfs", "--as", "x:tree")[-1]
    assert (packed["dataset"], packed["url"], packed["files"]) == ("x:tree@1", "s3://b/tree.sqfs", 51)
    assert packed["stored"] == (s3.root / "b" / "tree.sqfs").stat().st_size
    again = dls(home, "pack", "s3://b/tree", "s3://b/tree.sqfs", "--as", "x:tree")[-1]
    assert (again["copied"], again["kept"]) == (0, 51)
    subprocess.run(["rm", "-r", s3.root / "b" / "tree"], check=True)
    assert s3.look_again()
    large = (tree / "large").read_bytes()
    assert raw(home, "cat", "x:tree", "large") == large
    folder = tmp_path / "m"
    folder.mkdir()
    assert dls(home, "mount", "x:tree", folder)[-1]["image"] == "s3://b/tree.sqfs"
    try:
        assert sorted(p.name for p in (folder / "a").iterdir()) == sorted(f"f{n}" for n in range(50))
        assert (folder / "large").read_bytes() == large
    finally:
        dls(home, "umount", folder)
    whole = dls(home, "stage-in", "x:tree", "--to", "scratch", "--as-image")[-1]
    assert Path(whole["path"]).read_bytes() == (s3.root / "b" / "tree.sqfs").read_bytes(), "copied, not packed again"
    files = dls(home, "stage-in", "x:tree", "--to", "scratch")[-1]
    assert (Path(files["path"]) / "large").read_bytes() == large
    assert dls(home, "verify", "x:tree", "--deep")[-1]["replicas"][0]["state"] == "complete"
    released = dls(home, "buffer", "release", whole["path"])[-1]
    assert released["freed"]
    assert raw(home, "-q", "stage-in", "x:tree", "--to", "scratch", "--as-image").decode().strip().endswith(".sqfs")


@pytest.mark.spec("IMAGE-16")
def test_a_dataset_as_an_erofs(tree: Path, home: Path, tmp_path: Path) -> None:
    """An image of either form is a replica; the same content again is not packed again, whatever its form."""
    image = tmp_path / "i.erofs"
    would = dls(home, "pack", tree, image, "--as", "x:tree", "--format", "erofs", "--dry-run")[-1]
    made = dls(home, "pack", tree, image, "--as", "x:tree", "--format", "erofs")[-1]
    assert image.read_bytes()[1024:1028] == bytes.fromhex("e2e1f5e0")
    assert made["stored"] == image.stat().st_size <= would["most"]
    dls(home, "pack", "x:tree", tmp_path / "j.sqfs")
    assert (tmp_path / "j.sqfs").read_bytes()[:4] == b"hsqs"
    assert dls(home, "pack", "x:tree", image, "--format", "squashfs")[-1]["kept"] == 51
    assert dls(home, "verify", "x:tree", "--deep")[-1]["replicas"][0]["state"] == "complete"
    (tmp_path / "plan.yaml").write_text(
        f"dls: 1\nsteps:\n  one:\n    pack: x:tree\n    to: {tmp_path}/k.erofs\n    format: erofs\n"
    )
    dls(home, "plan", "apply", tmp_path / "plan.yaml")
    assert (tmp_path / "k.erofs").read_bytes()[1024:1028] == bytes.fromhex("e2e1f5e0")
    (tmp_path / "plan.yaml").write_text(
        f"dls: 1\nsteps:\n  one:\n    pack: x:tree\n    to: {tmp_path}/l.erofs\n    format: ext4\n"
    )
    assert "squashfs or erofs" in str(dls(home, "plan", "check", tmp_path / "plan.yaml", status=2))


def test_dry_runs_and_words(tree: Path, home: Path, tmp_path: Path) -> None:
    image = tmp_path / "i.sqfs"
    would = dls(home, "pack", tree, image, "--as", "x:tree", "--dry-run")[-1]
    assert (would["files"], would["dry_run"], image.exists()) == (51, True, False)
    dls(home, "pack", tree, image, "--as", "x:tree")
    dls(home, "site", "add", "scratch", tmp_path / "scratch")
    would = dls(home, "stage-in", "x:tree", "--to", "scratch", "--as-image", "--dry-run")[-1]
    assert (would["layout"], would["allocated"]) == ("image", image.stat().st_size)
    assert not list((tmp_path / "scratch").rglob("*"))
    text = raw(home, "stage-in", "x:tree", "--to", "scratch", "--as-image").decode()
    assert "mount it: dls mount" in text
    assert "was there already" in raw(home, "pack", tree, image, "--as", "x:tree").decode()
    for words, status, code in (
        (("pack", tree, tmp_path / "k.sqfs", "--as", "x:tree", "--workers", "1"), 2, "bad-usage"),
        (("pack", "x:tree", tmp_path / "k.sqfs", "--as", "y:tree"), 2, "named-twice"),
        (("pack", "x:none", tmp_path / "k.sqfs"), 3, "no-dataset"),
        (("pack", tree, tree / "k.sqfs", "--as", "x:tree"), 2, "same-place"),
        (("pack", "x:tree", "https://127.0.0.1:9/k.sqfs"), 6, "no-such-verb"),
        (("stage-in", tree, "--to", "scratch", "--as-image"), 6, "no-dataset-to-pack"),
    ):
        assert dls(home, *words, status=status)[-1]["code"] == code, words
    (tree / "a" / "f1").write_bytes(b"changed")
    assert dls(home, "pack", tree, image, "--as", "x:tree", status=4)[-1]["code"] == "target-differs"
    two = dls(home, "pack", tree, image, "--as", "x:tree", "--replace")[-1]
    assert two["dataset"] == "x:tree@2"
    states = {r["url"]: r["state"] for r in dls(home, "catalogue", "show", "x:tree@1")[-1]["replicas"]}
    assert states[f"file://{image}"] == "gone"


def test_a_request_that_is_left_to_a_worker(tree: Path, home: Path, tmp_path: Path) -> None:
    dls(home, "pack", tree, tmp_path / "i.sqfs", "--as", "x:tree", "--detach")
    dls(home, "worker", "--once")
    assert dls(home, "catalogue", "show", "x:tree")[-1]["replicas"][0]["layout"] == "image"


def test_files_as_they_lie_are_mounted_and_an_image_goes_first(tree: Path, home: Path, tmp_path: Path) -> None:
    image, folder = tmp_path / "i.sqfs", tmp_path / "m"
    folder.mkdir()
    dls(home, "catalogue", "add", "x:tree", tree)
    for wanted in (f"file://{tree}", f"file://{image}", f"file://{tree}"):
        mounted = dls(home, "mount", "x:tree@1", folder)[-1]
        try:
            assert (mounted["dataset"], mounted["image"]) == ("x:tree@1", wanted)
            assert (folder / "a" / "f7").read_bytes() == b"7" * 100
            assert sorted(p.name for p in folder.iterdir()) == ["a", "large"]
        finally:
            dls(home, "umount", folder)
        if not image.exists():
            dls(home, "pack", "x:tree", image)
        else:
            image.write_bytes(image.read_bytes()[:-1])  # an image that cannot be opened is passed over
