"""Images in Python, without a mount."""

from __future__ import annotations

import io
import os
import pickle
import random
from pathlib import Path

import pytest

from dls.fuse.files import Files, open_image
from dls.fuse.pack import Options, pack
from dls.logistics.errors import DlsError


@pytest.fixture
def files(tmp_path: Path) -> Files:
    root = tmp_path / "tree"
    (root / "a").mkdir(parents=True)
    rng = random.Random(8)
    for n in range(20):
        (root / "a" / f"{n:02}.bin").write_bytes(rng.randbytes(n * 20_000))
    (root / "note.txt").write_text("one\ntwo\n")
    os.symlink("note.txt", root / "link")
    pack(str(root), str(tmp_path / "i.sqfs"), Options(workers=0))
    return open_image(str(tmp_path / "i.sqfs"))


@pytest.mark.spec("IMAGE-13")
def test_names_and_bytes(files: Files, tmp_path: Path) -> None:
    with files:
        assert files.listdir() == sorted(["a", "link", "note.txt"])
        assert files.stat("a/03.bin").size == 60_000
        assert files.read("a/05.bin", 10, 99_999) == (tmp_path / "tree/a/05.bin").read_bytes()[10:99_999]
        assert dict(files.walk())["note.txt"].size == 8
        with io.TextIOWrapper(files.open("note.txt")) as text:
            assert list(text) == ["one\n", "two\n"]
        for wrong in ("a", "link", "nothing"):
            with pytest.raises(DlsError):
                files.open(wrong)


@pytest.mark.spec("IMAGE-13")
def test_seeking_is_as_in_a_file(files: Files, tmp_path: Path) -> None:
    rng = random.Random(9)
    with files.open("a/19.bin") as ours, open(tmp_path / "tree/a/19.bin", "rb") as theirs:
        for _ in range(200):
            offset, whence, size = rng.randrange(400_000), rng.choice([0, 2]), rng.randrange(200_000)
            offset = -min(offset, 380_000) if whence == 2 else offset
            assert ours.seek(offset, whence) == theirs.seek(offset, whence)
            assert ours.read(size) == theirs.read(size)
            assert ours.tell() == theirs.tell()
        with pytest.raises(ValueError, match="offset"):
            ours.seek(-1)


@pytest.mark.spec("IMAGE-13")
def test_samples_go_to_other_processes(files: Files, tmp_path: Path) -> None:
    samples = files.samples(lambda name: name.endswith(".bin"))
    assert len(samples) == 20
    assert samples[3] == ("a/03.bin", (tmp_path / "tree/a/03.bin").read_bytes())
    assert [name for name, _ in samples[1:3]] == ["a/01.bin", "a/02.bin"]
    assert [name for name, _ in samples][-1] == "a/19.bin"
    with pytest.raises(IndexError):
        samples[20]
    assert pickle.loads(pickle.dumps(samples))[4] == samples[4]
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if samples[7][1] == (tmp_path / "tree/a/07.bin").read_bytes() else 1
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
