"""Images that are made under a catalogue: killed at any moment, on full disks, from damaged sources."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from components.loopdisk import loop_disk
from dls.catalogue.model import ReplicaState
from dls.fuse.image import open_image
from dls.logistics import url
from faults.installation import Installation, wait_for

pytestmark = [pytest.mark.fault, pytest.mark.timeout(3600)]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """1,500 files and a large one: four worker processes' worth of work, a second or two."""
    root, rng = tmp_path / "tree", random.Random(7)
    for d in range(15):
        (root / f"d{d}").mkdir(parents=True)
        for f in range(100):
            (root / f"d{d}" / f"f{f}").write_bytes(rng.randbytes(rng.randrange(30_000)))
    (root / "large").write_bytes(rng.randbytes(40 << 20))
    return root


@pytest.fixture
def dls(tmp_path: Path) -> Iterator[Installation]:
    made = Installation(tmp_path / "home")
    made("site", "add", "scratch", tmp_path / "scratch")
    yield made
    made.close()


def whole(image: Path) -> str:
    """The content that an image holds, every file of it compared."""
    with open_image(str(image)) as found:
        assert not [error for _, error in found.verify() if error]
        return found.manifest.content.hex()


def facts(dls: Installation) -> list[tuple[str, str]]:
    """Replicas that are said to be complete: (address, layout)."""
    with dls.open() as found:
        cat, me = found.context.catalogue, found.context.actor
        rows = [r for d in cat.datasets(actor=me) for v in cat.versions(url.dataset(d.key), actor=me)
                for r in cat.replicas(url.dataset(v.id), actor=me, offered=False)]  # fmt: skip
        return [(r.url, r.layout.value) for r in rows if r.state is ReplicaState.COMPLETE]


def killed(dls: Installation, after: float, *words: str | Path) -> bool:
    """Kill a command some time after its start, and see its workers end; False where it had ended."""
    child = dls.start(*words)
    time.sleep(after)
    family = psutil.Process(child.pid).children(recursive=True) if child.poll() is None else []
    was = child.poll() is None
    child.send_signal(signal.SIGKILL)
    child.communicate()
    for one in family:
        wait_for(lambda one=one: not one.is_running() or one.status() == psutil.STATUS_ZOMBIE, 20)
    return was


def leftovers(folder: Path) -> list[str]:
    """What is hidden in a folder."""
    return [name for name in os.listdir(folder) if name.startswith(".dls-")] if folder.exists() else []


def moments(dls: Installation, rng: random.Random, full: bool, *words: str | Path) -> list[float]:
    """Random moments of a command's life, as long as it takes here."""
    began = time.monotonic()
    dls(*words)
    took = time.monotonic() - began
    return [rng.uniform(0.15, 1.0) * took for _ in range(40 if full else 4)]


@pytest.mark.spec("IMAGE-4", "ACTION-26", "ACTION-8")
def test_packing_under_a_name(
    tmp_path: Path, tree: Path, dls: Installation, rng: random.Random, faults_full: bool
) -> None:
    """Nothing at the name, or the whole; no fact without its bytes; and the same command ends well."""
    control = tmp_path / "control.sqfs"
    times, hits = moments(dls, rng, faults_full, "pack", tree, control, "--as", "x:control"), 0
    content = whole(control)
    for number, after in enumerate(times):
        image = tmp_path / f"out-{number}" / "i.sqfs"
        words: tuple[str | Path, ...] = ("pack", tree, image, "--as", f"x:n{number}")
        hits += killed(dls, after, *words)
        if image.exists():
            assert whole(image) == content
        complete = [one for one, _ in facts(dls)]
        assert f"file://{image}" not in complete or image.exists()
        answer = dls(*words)
        assert (answer["dataset"], answer["files"]) == (f"x:n{number}@1", 1501)
        assert image.read_bytes() == control.read_bytes()
        assert leftovers(image.parent) == []
    assert hits, "every command had ended before it was killed"


@pytest.mark.spec("ACTION-27", "ACTION-8")
@pytest.mark.parametrize("source", ["folder", "image"])
def test_staging_as_an_image(
    tmp_path: Path, tree: Path, dls: Installation, rng: random.Random, faults_full: bool, source: str
) -> None:
    if source == "folder":
        dls("catalogue", "add", "x:tree", tree)
    else:
        dls("pack", tree, tmp_path / "i.sqfs", "--as", "x:tree")
    dls("site", "add", "first", tmp_path / "first")
    words = ("stage-in", "x:tree", "--as-image", "--to")
    times, hits = moments(dls, rng, faults_full, *words, "first"), 0
    for number, after in enumerate(times):
        place = tmp_path / f"site-{number}"
        dls("site", "add", f"s{number}", place)
        hits += killed(dls, after, *words, f"s{number}")
        for one, layout in facts(dls):
            if one.startswith(f"file://{place}/"):
                assert layout == "image"
                whole(Path(one.removeprefix("file://")))
        answer = dls(*words, f"s{number}")
        whole(Path(answer["path"]))
        assert sorted(os.listdir(Path(answer["path"]).parent)) == ["image.sqfs"]
        assert leftovers(place / "dls") == []
        dls("verify", "x:tree", "--at", f"s{number}", "--deep")
        assert dls("buffer", "release", answer["path"])["freed"]
    assert hits, "every command had ended before it was killed"


@pytest.mark.spec("IMAGE-4", "ACTION-26", "ACTION-27")
def test_a_full_disk(tmp_path: Path, tree: Path, dls: Installation) -> None:
    dls("catalogue", "add", "x:tree", tree)
    (tmp_path / "work").mkdir()
    with loop_disk(tmp_path / "work", 24) as made:
        disk = made.folder
        dls("site", "add", "small", disk / "site")
        for words in (("pack", "x:tree", disk / "i.sqfs"), ("pack", tree, disk / "i.sqfs", "--as", "y:tree")):
            assert refused(dls, *words) == ("disk-full", 8)
            assert not (disk / "i.sqfs").exists()
            assert leftovers(disk) == []
        assert refused(dls, "stage-in", "x:tree", "--to", "small", "--as-image") == ("disk-full", 8)
    assert [one for one, _ in facts(dls)] == [f"file://{tree}"]
    answer = dls("stage-in", "x:tree", "--to", "scratch", "--as-image")
    whole(Path(answer["path"]))


@pytest.mark.spec("ACTION-25", "ACTION-26", "ACTION-27")
def test_damaged_sources(tmp_path: Path, tree: Path, dls: Installation, rng: random.Random, faults_full: bool) -> None:
    """Bits flipped anywhere in an image: found by verify, and never copied, packed or staged from."""
    image = tmp_path / "i.sqfs"
    dls("pack", tree, image, "--as", "x:tree")
    good, content = image.read_bytes(), whole(image)
    for number in range(30 if faults_full else 5):
        data = bytearray(good)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        image.write_bytes(data)
        dls("site", "add", f"s{number}", tmp_path / f"s{number}")
        child = dls.start("stage-in", "x:tree", "--to", f"s{number}", "--as-image", "--json")
        out, _ = child.communicate(timeout=120)
        if child.returncode == 0:  # the bit was in what nobody reads
            path = Path(out.splitlines()[-1].partition('"path": "')[2].partition('"')[0])
            assert whole(path) == content
        else:
            assert child.returncode in (2, 3, 7), out
        image.write_bytes(good)
        dls("catalogue", "add", "x:tree", image, "--image")


def refused(dls: Installation, *words: str | Path) -> tuple[str, int]:
    """The code and the exit status of a command that must fail."""
    child = dls.start(words[0], "--json", *words[1:])
    out, _ = child.communicate(timeout=120)
    last: dict[str, Any] = json.loads(out.splitlines()[-1])
    return last["code"], child.returncode
