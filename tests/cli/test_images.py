"""`dls pack`, `mount` and their kin, as programs see them."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dls.cli.commands.compact import compact as compact_command
from dls.cli.commands.layer import layer as layer_command
from dls.cli.commands.pack import pack as pack_command
from dls.fuse.codec import LEVEL
from dls.madpp import build
from dls.madpp.actions.pack import Pack

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
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "a").mkdir(parents=True)
    for n in range(50):
        (root / "a" / f"f{n}").write_bytes(b"%d" % n * 100)
    return root


def test_from_a_folder_to_a_mount_and_back(tree: Path, tmp_path: Path) -> None:
    home, image, folder = tmp_path / "home", tmp_path / "i.sqfs", tmp_path / "m"
    (packed,) = [row for row in dls(home, "pack", tree, image) if row.get("action") == "pack"]
    assert (packed["files"], packed["stored"]) == (50, image.stat().st_size)
    folder.mkdir()
    dls(home, "mount", image, folder)
    try:
        assert (folder / "a" / "f7").read_bytes() == b"7" * 100
        (row,) = [row for row in dls(home, "mounts") if row.get("folder") == str(folder)]
        assert (row["folder"], row["image"], row["state"]) == (str(folder), str(image), "answers")
        with open(folder / "a" / "f7", "rb"):
            assert dls(home, "umount", folder, status=9)[-1]["code"] == "in-use"
    finally:
        dls(home, "umount", folder)
    assert dls(home, "umount", folder, status=3)[-1]["code"] == "not-mounted"
    dls(home, "unpack", image, tmp_path / "out")
    assert (tmp_path / "out" / "a" / "f7").read_bytes() == b"7" * 100


@pytest.mark.spec("CLI-10")
def test_a_home_that_is_first_needed_by_a_mount_is_its_owners_alone(tree: Path, tmp_path: Path) -> None:
    home, image, folder = tmp_path / "home", tmp_path / "i.sqfs", tmp_path / "m"
    dls(home, "pack", tree, image)
    folder.mkdir()
    dls(home, "mount", image, folder)
    dls(home, "umount", folder)
    assert home.stat().st_mode & 0o777 == 0o700
    done = subprocess.run([DLS, "cat", image, "a/f7"], capture_output=True, check=True)
    assert done.stdout == b"7" * 100


@pytest.mark.spec("IMAGE-16")
def test_an_erofs_does_all_that_an_image_does(tree: Path, tmp_path: Path) -> None:
    home, image, folder = tmp_path / "home", tmp_path / "i.erofs", tmp_path / "m"
    packed = dls(home, "pack", tree, image, "--format", "erofs", "--workers", "2")[-1]
    assert (packed["files"], packed["stored"]) == (50, image.stat().st_size)
    done = subprocess.run(["fsck.erofs", image], capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")
    again = dls(home, "pack", tree, tmp_path / "again.erofs", "--format", "erofs", "--workers", "0")[-1]
    assert again["content"] == packed["content"]
    assert (tmp_path / "again.erofs").read_bytes() == image.read_bytes()
    assert dls(home, "verify", image)[-1]["files"] == 50
    folder.mkdir()
    dls(home, "mount", image, folder)
    try:
        assert (folder / "a" / "f7").read_bytes() == b"7" * 100
    finally:
        dls(home, "umount", folder)
    dls(home, "unpack", image, tmp_path / "out")
    assert (tmp_path / "out" / "a" / "f7").read_bytes() == b"7" * 100
    assert subprocess.run([DLS, "cat", image, "a/f7"], capture_output=True, check=True).stdout == b"7" * 100
    data = bytearray(image.read_bytes())
    data[4096] ^= 1
    image.write_bytes(data)
    assert dls(home, "verify", image, status=7)[-1]["code"] == "bad-image"
    text = subprocess.run(
        [DLS, "pack", tree, image, "--replace", "--format", "erofs"], env={**os.environ, "DLS_HOME": str(home)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "or as any EROFS" in text.stdout
    subprocess.run(["mkfs.erofs", "--quiet", tmp_path / "foreign.erofs", tree], capture_output=True, check=True)
    for verb in ("mount", "unpack"):
        told = dls(home, verb, tmp_path / "foreign.erofs", folder, status=6)[-1]
        assert told["code"] == "not-readable"
        assert "mount -t erofs -o loop,ro" in told["remedy"]


def test_what_goes_wrong_is_said(tree: Path, tmp_path: Path) -> None:
    home, image = tmp_path / "home", tmp_path / "i.sqfs"
    dls(home, "pack", tree, image)
    assert dls(home, "pack", tree, image, status=4)[-1]["code"] == "key-exists"
    assert dls(home, "pack", tmp_path / "none", tmp_path / "j.sqfs", status=3)[-1]["code"] == "no-such-key"
    assert dls(home, "pack", tree, tmp_path / "j.sqfs", "--owner", "me", status=2)[-1]["code"] == "bad-usage"
    assert dls(home, "cat", image, "a/none", status=3)[-1]["code"] == "no-such-key"
    assert dls(home, "mount", tree / "a" / "f7", tmp_path, status=2)[-1]["code"] == "not-an-image"
    assert dls(home, "mount", image, tmp_path / "none", status=3)[-1]["code"] == "no-such-key"
    assert dls(home, "verify", image)[-1]["files"] == 50
    assert dls(home, "verify", image, "--sample", "10")[-1]["files"] == 5
    data = bytearray(image.read_bytes())
    data[100] ^= 1
    image.write_bytes(data)
    assert dls(home, "verify", image, status=7)[-1]["code"] == "bad-image"


def test_as_mount_and_fstab_call_it(tree: Path, tmp_path: Path) -> None:
    home, image, folder = tmp_path / "home", tmp_path / "i.sqfs", tmp_path / "m"
    dls(home, "pack", tree, image)
    folder.mkdir()
    helper = DLS.with_name("mount.dls")
    env = {**os.environ, "DLS_HOME": str(home)}
    for words, status in (
        ([image, folder, "-o", "nonsense"], 1),
        ([image], 1),
        ([image, folder, "-o", "sevrers=2"], 1),
        ([tree / "a" / "f1", folder, "-o", "ro"], 32),
    ):
        done = subprocess.run([helper, *words], env=env, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (status, "")
        assert done.stderr.startswith("error: ")
    subprocess.run([helper, image, folder, "-n", "-o", "ro,nofail,servers=2,x-systemd.idle"], env=env, check=True)
    try:
        assert (folder / "a" / "f7").read_bytes() == b"7" * 100
    finally:
        dls(home, "umount", folder)


def test_one_level_is_the_default_everywhere() -> None:
    """The commands and plans start without the library that compresses, so the number stands in each of them."""
    found = {
        command.name: next(option.default for option in command.params if option.name == "level")
        for command in (pack_command, layer_command, compact_command)
    }
    assert found == dict.fromkeys(("pack", "layer", "compact"), LEVEL)
    assert Pack("a", "b").level == LEVEL
    assert inspect.signature(build.pack).parameters["level"].default == LEVEL
