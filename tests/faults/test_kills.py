"""SIGKILL at every mutating system call of a transfer: the rerun ends equal, and fetches only what was in flight."""

from __future__ import annotations

import os
import pickle
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from components.compare import same_tree
from components.proxy import Proxy
from components.s3_rclone import rclone_s3
from dls.logistics.stores.posix import PosixStore
from dls.logistics.testing.spec import spec
from dls.logistics.transfer.listing import listed
from dls.logistics.transfer.prove import prove
from dls.logistics.transfer.receipt import MemoryReceipts
from faults.runner import Runner

pytestmark = [pytest.mark.fault, pytest.mark.service, pytest.mark.timeout(3600)]
SAMPLE = 30
"""Kills of each test outside `make faults`: at every kind of call, then at more of each in turn."""
STREAMS, CONNECTIONS = 2, 8


def plant(root: Path) -> None:
    """Small files in two folders, one of five parts, one of two, an empty one; links where the route keeps them."""
    rng = random.Random(3)
    for n in range(9):
        path = root / f"d{n % 2}" / f"f{n}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(n * 100))
    (root / "big").write_bytes(rng.randbytes((256 << 10) + 5))
    (root / "middle").write_bytes(rng.randbytes((64 << 10) + 5))


def plant_links(root: Path) -> None:
    os.link(root / "d0/f2", root / "d1/zz")
    os.symlink("d0/f2", root / "link")
    (root / "empty").mkdir(mode=0o700)
    os.chmod(root / "d0", 0o750)


@pytest.fixture
def work() -> Iterator[Path]:
    """A folder in memory where there is one: what is killed here is a process, not a machine."""
    top = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else Path("/tmp")
    folder = top / f"dls-kills-{os.getpid()}"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def runner(work: Path, need: Callable[[str, object, str], None]) -> Iterator[Runner]:
    need("strace", shutil.which("strace"), "not installed")
    with Runner(work) as one:
        yield one


def manifest_of(root: Path, work: Path, patch: pytest.MonkeyPatch) -> Path:
    from dls.logistics.testing.contract_transfer import small_scale

    small_scale(patch)
    proof = prove(PosixStore(root), listed(PosixStore(root)), MemoryReceipts())
    assert proof.good
    path = work / "manifest"
    path.write_bytes(pickle.dumps(list(proof.manifest)))
    return path


def _in_turn(points: list[tuple[str, int]], rng: random.Random) -> list[tuple[str, int]]:
    """In random order, but one of each kind before the second of any."""
    rng.shuffle(points)
    turns, turn = Counter[str](), dict[tuple[str, int], int]()
    for point in points:
        turns[point[0]] += 1
        turn[point] = turns[point[0]]
    return sorted(points, key=turn.__getitem__)


class _Kills:
    """Kills at chosen calls, each at a place of its own."""

    def __init__(self, runner: Runner, work: Path, case: dict[str, Any], bodies: Callable[[], int], slack: int) -> None:
        self.runner, self.work, self.case, self.bodies, self.slack = runner, work, case, bodies, slack

    def at(self, name: str) -> dict[str, Any]:
        if self.case.get("file"):
            (self.work / "to" / name).mkdir(parents=True)
        return {**self.case, "target": str(self.work / "to"), "root": name, "state": str(self.work / f"state-{name}")}

    def drop(self, name: str) -> None:
        shutil.rmtree(self.work / "to" / name)
        shutil.rmtree(self.work / f"state-{name}")

    def everywhere(self, expected: Path, rng: random.Random, full: bool) -> None:
        self.bodies()
        self.runner.run(self.at("control"))
        control = self.bodies()
        hidden = sorted(p.name for p in (self.work / "to").iterdir())
        assert hidden == ["control"]
        assert same_tree(expected, self.work / "to/control", **self._kept()) == []
        points = [(call, n + 1) for call, count in self.runner.calls(self.at("count")).items() for n in range(count)]
        assert {"openat", "write", "pwrite64", "fdatasync"} <= {call for call, _ in points}
        killed = Counter[str]()
        for call, number in _in_turn(points, rng):
            if not full and killed.total() == SAMPLE:
                break
            killed[call] += self._one(f"{call}-{number}", call, number, expected, control)
        print(f"{killed.total()} kills at {len(points)} calls: {dict(killed)}")
        assert killed.total() > 10

    def _one(self, name: str, call: str, number: int, expected: Path, control: int) -> bool:
        case = self.at(name)
        self.bodies()
        killed = self.runner.killed(case, call, number)
        final = self.work / "to" / name
        if killed and final.exists() and not self.case.get("file"):
            assert same_tree(expected, final, **self._kept()) == [], (call, number)
        ended = self.runner.run(case)
        assert (ended.get("error"), ended.get("failed")) == (None, []), (call, number, ended)
        assert same_tree(expected, final, **self._kept()) == [], (call, number)
        assert not [p for p in (self.work / "to").iterdir() if p.name.startswith(".dls-")], (call, number)
        assert not list((self.work / f"state-{name}").glob("*.log")), (call, number)
        bodies = self.bodies()
        assert bodies <= control + (self.slack if killed else 0), (call, number, bodies, control)
        self.drop(name)
        return killed

    def _kept(self) -> dict[str, bool]:
        return {} if self.case.get("all") else {"modes": False, "mtimes": False, "folders": False}


@pytest.mark.parametrize("way", ["each", "together", "at once"])
@pytest.mark.parametrize("publish", ["whole", "file"])
@pytest.mark.parametrize("form", ["known", "unknown"])
@spec("TRANSFER-3", "TRANSFER-4", "TRANSFER-8", "TRANSFER-9", "TRANSFER-10", "TRANSFER-23", "TRANSFER-32")
def test_disk_to_disk(
    runner: Runner,
    work: Path,
    rng: random.Random,
    faults_full: bool,
    form: str,
    publish: str,
    way: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Segments recorded each for itself, and (`together`) as many as were brought within a second at once; then, too,
    (`at once`) with small files in batches by threads of compiled code."""
    source = work / "from"
    plant(source)
    plant_links(source)
    case: dict[str, Any] = {"source": str(source), "all": True, "file": publish == "file"}
    if way != "each":
        case["options"] = {"settle_s": 1.0}
    if way == "at once":
        case["options"]["processes"], case["at_once"] = 2, True
    if form == "known":
        case["manifest"] = str(manifest_of(source, work, monkeypatch))
    kills = _Kills(runner, work, case, runner.bodies, (2 * 2 if way == "at once" else 1) + STREAMS)
    kills.everywhere(source, rng, faults_full)


@pytest.mark.parametrize("form", ["known", "unknown"])
@spec("TRANSFER-8", "TRANSFER-9")
def test_s3_to_disk(
    runner: Runner, work: Path, rng: random.Random, faults_full: bool, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with rclone_s3(work, fresh=False) as s3:
        plant(work / "s3-root/bucket")
        with Proxy(s3.endpoint) as proxy:
            keys = {"access_key": s3.access_key, "secret_key": s3.secret_key, "endpoint": proxy.endpoint}
            case: dict[str, Any] = {"source": "s3://bucket", "keys": keys}
            if form == "known":
                case["manifest"] = str(manifest_of(work / "s3-root/bucket", work, monkeypatch))

            def bodies() -> int:
                count = sum(1 for one in proxy.log if one.kind == "GET")
                proxy.reset()
                return count

            kills = _Kills(runner, work, case, bodies, CONNECTIONS + STREAMS)
            kills.everywhere(work / "s3-root/bucket", rng, faults_full)
