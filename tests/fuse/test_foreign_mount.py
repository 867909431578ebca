"""Archives mounted: by our own server, and by libfuse, which shows the same."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from components import archives, trees
from dls.fuse import libfuse, mounting
from dls.fuse.opening import open_tree
from dls.logistics.errors import Corrupt, Exists, Unsupported

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not os.path.exists("/dev/fuse"), reason="mounts here need root and /dev/fuse"
)
FIELDS = "%y %m %U %G %T@ %n %s %p -> %l"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mounted") / "tree"
    trees.nasty(root, large=6)
    os.setxattr(root / "a-b", "user.one", b"\xff\0value")
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "folder"
    path.mkdir()
    yield path
    if os.path.ismount(path):
        mounting.unmount(str(path), lazy=True)


def mount(module: ModuleType, archive: str, folder: Path) -> None:
    def opener() -> object:
        return open_tree(archive, cache_folder=str(folder.parent / "cache"))

    module.in_background(archive, opener, str(folder), mounting.MountOptions(), str(folder.parent / "log"))


def seen(root: Path, left_out: bytes) -> dict[bytes, list[bytes]]:
    """Every field of every name; links and sizes of folders are a file system's own business."""
    out = {}
    for line in trees.shown(root, FIELDS):
        if line:
            *fields, name = line.split(b" ", 7)
            if not name.startswith((left_out, b"./lost+found")):
                out[name] = fields[:5] if fields[0] == b"d" else fields
    return out


@pytest.mark.spec("FOREIGN-2", "FOREIGN-13")
@pytest.mark.parametrize("module", [mounting, libfuse], ids=["wire", "libfuse"])
@pytest.mark.parametrize("name", ["tar2sqfs.sqfs", "plain.tar.zst", "kernel.ext4"])
def test_mounted(name: str, module: ModuleType, tree: Path, folder: Path, tmp_path: Path) -> None:
    if module is libfuse:
        pytest.importorskip("mfusepy")
    if not archives.have(name):
        pytest.skip(f"the program that makes {name} is not installed")
    mount(module, archives.made(name, tree, tmp_path), folder)
    left_out = "links/long" if "kernel" in name else "socket"
    gone = ("Only in",) if "kernel" in name else (f"Only in {tree}: socket",)
    assert not [line for line in trees.differences(tree, folder).splitlines() if not line.startswith(gone)]
    assert seen(folder, f"./{left_out}".encode()) == seen(tree, f"./{left_out}".encode())
    assert os.stat(folder / "a-b").st_ino == os.stat(folder / "links" / "hard").st_ino
    assert (folder / "sizes" / "large").read_bytes() == (tree / "sizes" / "large").read_bytes()
    if name != "plain.tar.zst":
        assert os.getxattr(folder / "a-b", "user.one") == b"\xff\0value"
    with pytest.raises(OSError, match=r"No data|not supported"):
        os.getxattr(folder / "a0", "user.one")
    with pytest.raises(OSError, match="Read-only"):
        (folder / "a-b").write_bytes(b"x")
    with pytest.raises(FileNotFoundError):
        (folder / ".dls-x").stat()
    with pytest.raises(Exists):
        mount(module, str(tmp_path / name), folder)
    mounting.unmount(str(folder))


@pytest.mark.spec("FOREIGN-13", "FOREIGN-4")
def test_libfuse_tells_what_is_wrong(tree: Path, folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("mfusepy")
    with pytest.raises(Unsupported) as told:
        libfuse.check(mounting.MountOptions(servers=2))
    assert told.value.code == "not-by-libfuse"
    path = Path(archives.made("info.zip", tree, tmp_path))
    bad = bytearray(path.read_bytes())
    at = bad.find(b"sizes/random-3145728") + 500
    bad[at] ^= 1
    path.write_bytes(bad)
    mount(libfuse, str(path), folder)
    with pytest.raises(OSError, match="Input/output"):
        (folder / "sizes" / "random-3145728").read_bytes()
    assert (folder / "a-b").read_bytes() == b"beside"
    mounting.unmount(str(folder))
    assert "CRC-32" in (folder.parent / "log").read_text()
    path.write_bytes(bad[:1000])
    with pytest.raises(Corrupt):
        mount(libfuse, str(path), folder)


@pytest.mark.spec("FOREIGN-13")
def test_libfuse_is_taken_where_it_is_all_that_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mfusepy")
    assert not libfuse.wanted("auto")
    assert libfuse.wanted("libfuse")
    monkeypatch.setattr(mounting, "_DEVICE", "/dev/no-fuse-here")
    assert libfuse.wanted("auto")
    assert not libfuse.wanted("kernel-wire")
    code = (
        "import sys; sys.modules['mfusepy'] = None\nfrom dls.fuse import libfuse, mounting\nmounting._DEVICE = '/no'\n"
    )
    code += "print(libfuse.wanted('auto'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
