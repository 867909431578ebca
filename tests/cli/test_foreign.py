"""Archives of other programs on the command line: they are read as images are."""

from __future__ import annotations

import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from components import trees
from components.command import Command


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "folder").mkdir(parents=True)
    (root / "folder" / "file").write_bytes(b"what is in it")
    (root / "large").write_bytes(os.urandom(1 << 20))
    os.link(root / "large", root / "folder" / "again")
    os.symlink("folder/file", root / "link")
    for path in (root / "folder" / "file", root / "large", root / "folder"):
        os.utime(path, (1_600_000_000, 1_600_000_000))
    return root


@pytest.fixture
def archive(tree: Path, tmp_path: Path) -> Path:
    path = tmp_path / "some.tar.gz"
    with tarfile.open(path, "w:gz") as out:
        out.add(tree, ".")
    return path


@pytest.mark.spec("FOREIGN-8")
def test_cat_unpack_verify(dls: Command, archive: Path, tree: Path, tmp_path: Path) -> None:
    assert dls("cat", archive, "folder/file", ok=True).out == "what is in it"
    done = dls("unpack", archive, tmp_path / "out", "--json", ok=True).result
    assert (done["files"], done["proven"]) == (3, False)
    assert not trees.differences(tree, tmp_path / "out")
    done = dls("verify", archive, ok=True)
    assert "3 files read, as its format can check" in done.out
    with open(archive, "r+b") as file:
        file.truncate(os.path.getsize(archive) - 100)
    done = dls("verify", archive, "--json")
    assert (done.status, done.result["code"]) == (7, "bad-archive")


@pytest.mark.spec("FOREIGN-3")
def test_what_is_odd_is_told(dls: Command, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "odd.zip", "w") as out:
        out.writestr("../up", "out of it")
        out.writestr("fine", "fine")
    for _ in range(2):  # also when the index is there already
        done = dls("cat", tmp_path / "odd.zip", "fine", ok=True)
        assert done.out == "fine"
        assert "leads out of the archive" in done.err


@pytest.mark.spec("FOREIGN-8")
def test_registered_with_digests_and_taken_from_there(dls: Command, archive: Path, tree: Path) -> None:
    done = dls("catalogue", "add", "demo:archive", archive, "--image", "--json", ok=True).result
    assert (done["files"], done["read"]) == (3, 3)
    assert dls("catalogue", "add", "demo:tree", tree, "--json", ok=True).result["files"] == 3
    shown = [dls("catalogue", "show", name, "--json", ok=True).result for name in ("demo:archive", "demo:tree")]
    contents = [one["versions"][-1]["content"] if "versions" in one else one.get("content") for one in shown]
    assert contents[0] == contents[1]
    assert dls("cat", "demo:archive", "folder/file", ok=True).out == "what is in it"
    assert "every copy (1) is right" in dls("verify", "demo:archive", "--deep", ok=True).out
