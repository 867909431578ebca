"""Images in Python, without a mount."""

from __future__ import annotations

import hashlib
import io
import mmap
import multiprocessing
import os
import pickle
import random
from pathlib import Path
from typing import Any

import pytest

from dls.fuse.files import Files, Samples, _Paths, open_image
from dls.fuse.pack import Options, pack
from dls.logistics.errors import Conflict, DlsError


@pytest.fixture
def files(tmp_path: Path) -> Files:
    root = tmp_path / "tree"
    (root / "a").mkdir(parents=True)
    rng = random.Random(8)
    for n in range(20):
        (root / "a" / f"{n:02}.bin").write_bytes(rng.randbytes(n * 20_000))
    for n in range(5):
        (root / "small" / f"{n}").parent.mkdir(exist_ok=True)
        (root / "small" / f"{n}").write_bytes(rng.randbytes(n * 3000))
    (root / "note.txt").write_text("one\ntwo\n")
    os.symlink("note.txt", root / "link")
    pack(str(root), str(tmp_path / "i.sqfs"), Options(workers=0))
    return open_image(str(tmp_path / "i.sqfs"))


@pytest.mark.spec("IMAGE-13")
def test_names_and_bytes(files: Files, tmp_path: Path) -> None:
    with files:
        assert files.listdir() == sorted(["a", "link", "note.txt", "small"])
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


# ------------------------------------------------------------------------------------------------- without copies


@pytest.mark.spec("IMAGE-13")
def test_views_are_the_bytes_and_no_copies(files: Files, tmp_path: Path) -> None:
    rng = random.Random(10)
    mapped = 0
    for n in range(20):
        want = (tmp_path / f"tree/a/{n:02}.bin").read_bytes()
        for _ in range(20):
            start, stop = sorted((rng.randrange(len(want) + 2), rng.randrange(len(want) + 2)))
            assert files.view(f"a/{n:02}.bin", start, stop) == want[start:stop]
        whole = files.view(f"a/{n:02}.bin")
        assert whole == want
        assert whole.readonly
        mapped += isinstance(whole.obj, mmap.mmap)
    assert mapped >= 18  # noise is stored as it is, whether it shares a block or has several of its own
    assert files.view("note.txt") == b"one\ntwo\n"
    for n in range(5):
        want = (tmp_path / f"tree/small/{n}").read_bytes()
        assert files.view(f"small/{n}") == want
        assert files.view(f"small/{n}", 10, 2000) == want[10:2000]
        assert not n or isinstance(files.view(f"small/{n}").obj, mmap.mmap)


@pytest.mark.spec("IMAGE-13", "IMAGE-9")
def test_a_view_of_damaged_bytes_is_refused(files: Files, tmp_path: Path) -> None:
    data = bytearray((tmp_path / "i.sqfs").read_bytes())
    data[data.index((tmp_path / "tree/a/15.bin").read_bytes()[200_000:200_100])] ^= 1
    (tmp_path / "bad.sqfs").write_bytes(data)
    with open_image(str(tmp_path / "bad.sqfs")) as bad:
        with pytest.raises(DlsError) as told:
            bad.view("a/15.bin")
        assert told.value.code == "bad-image"
        assert bad.view("a/15.bin", 0, 1000) == (tmp_path / "tree/a/15.bin").read_bytes()[:1000]
    with open(tmp_path / "i.sqfs", "r+b") as out:
        out.write(bytes(10))
    with pytest.raises(DlsError) as told:
        files.view("a/15.bin")
    assert told.value.code == "source-changed"


# ------------------------------------------------------------------------------------------------------ a loader


def _batches(dataset: Samples, numbers: list[list[int]], out: Any) -> None:
    """What a worker of a data loader does: batches of numbers in, samples out."""
    for some in numbers:
        out.put((some, [(name, hashlib.sha256(body).hexdigest()) for name, body in dataset.__getitems__(some)]))


@pytest.mark.spec("IMAGE-13")
@pytest.mark.parametrize("start", ["fork", "spawn"])
@pytest.mark.parametrize("opened", [True, False])
def test_as_a_dataset_of_a_loader_with_workers(files: Files, tmp_path: Path, start: str, opened: bool) -> None:
    """A stand-in for torch's DataLoader, which is too large to install here: the same protocol (`__len__`,
    `__getitem__`, `__getitems__`), the data set handed to each worker by the same ways, shuffled, several epochs."""
    samples = files.samples(lambda name: name.endswith(".bin"))
    if not opened:
        files.close()
    context: Any = multiprocessing.get_context(start)
    rng = random.Random(4)
    for _ in range(2):
        order = rng.sample(range(len(samples)), len(samples))
        batches = [order[at : at + 3] for at in range(0, len(order), 3)]
        queue = context.Queue()
        workers = [context.Process(target=_batches, args=(samples, batches[n::3], queue)) for n in range(3)]
        for worker in workers:
            worker.start()
        found = {tuple(some): rows for some, rows in (queue.get(timeout=60) for _ in batches)}
        for worker in workers:
            worker.join(20)
            assert worker.exitcode == 0
        assert sorted(found) == sorted(map(tuple, batches))
        for some, rows in found.items():
            for number, (name, digest) in zip(some, rows, strict=True):
                assert name == f"a/{number:02}.bin"
                assert digest == hashlib.sha256((tmp_path / "tree" / name).read_bytes()).hexdigest()


@pytest.mark.spec("IMAGE-13")
def test_many_names_are_few_objects(files: Files) -> None:
    samples = Samples(files, _Paths(b"folder/%07d" % n for n in range(100_000)))
    assert len(samples) == 100_000
    assert len(pickle.dumps(samples)) < 100_000 * 30
    assert samples.names[-1] == "folder/0099999"
    with pytest.raises(IndexError):
        samples[100_000]


@pytest.mark.spec("IMAGE-13")
def test_stretches_are_those_of_slices(files: Files, tmp_path: Path) -> None:
    """What is negative, too: it never reaches into the file before."""
    ends = (None, 0, 1, 5, -1, -5, 8191, -20_001, 131_072, -131_073, 1 << 40, -(1 << 40))
    with files:
        for name in ("a/00.bin", "a/01.bin", "a/07.bin", "a/19.bin", "small/2", "note.txt"):
            data = (tmp_path / "tree" / name).read_bytes()
            for start in ends[1:]:
                for stop in ends:
                    assert files.read(name, start or 0, stop) == data[start:stop], (name, start, stop)
                    assert files.view(name, start or 0, stop) == data[start:stop], (name, start, stop)


@pytest.mark.spec("IMAGE-13")
def test_another_process_opens_the_same_image_or_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may stand in another folder, and another image may have taken the name meanwhile."""
    for folder in ("tree", "here", "there"):
        (tmp_path / folder).mkdir()
    for folder in ("here", "there"):
        (tmp_path / "tree" / "f").write_text(folder)
        pack(str(tmp_path / "tree"), str(tmp_path / folder / "i.sqfs"), Options(workers=0))
    monkeypatch.chdir(tmp_path / "here")
    with open_image("i.sqfs") as found:
        sent = pickle.dumps(found.samples())
        monkeypatch.chdir(tmp_path / "there")
        assert pickle.loads(sent)[0] == ("f", b"here")
        os.replace(tmp_path / "there" / "i.sqfs", tmp_path / "here" / "i.sqfs")
        assert found.read("f") == b"here"
        with pytest.raises(Conflict) as told:
            pickle.loads(sent)[0]
        assert told.value.code == "source-changed"
        child = os.fork()
        if not child:
            status = 1
            try:
                found.read("f")
            except Conflict:
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
    with open_image(str(tmp_path / "here" / "i.sqfs")) as anew:
        assert anew.read("f") == b"there"
