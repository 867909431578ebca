"""Workers that are killed, stopped and told to end, over real processes, a real S3 server and a counting proxy."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import psutil
import pytest

from components.compare import same_tree
from components.proxy import Proxy
from components.s3_rclone import rclone_s3
from dls.madpp.execution import Run, RunState
from faults.installation import Installation, wait_for

pytestmark = [pytest.mark.fault, pytest.mark.service, pytest.mark.timeout(3600)]
IN_FLIGHT = 64 + 4
"""Requests that one process may have under way."""


@pytest.fixture
def world(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Installation, Proxy, Path]]:
    """An installation with the site `scratch`, a proxy before its S3 server, the folder that the server shows."""
    with rclone_s3(tmp_path / "s3", fresh=False) as service, Proxy(service.endpoint) as proxy:
        assert service.root is not None
        bucket = service.root / service.bucket("bucket")
        home = Installation(tmp_path / "home", **service.env(proxy.endpoint))
        home("site", "add", "scratch", tmp_path / "scratch")
        yield home, proxy, bucket
        home.close()


def planted(home: Installation, bucket: Path, name: str, files: int, size: int = 200) -> None:
    rng = random.Random(7)
    for n in range(files):
        path = bucket / name / f"d{n % 7}" / f"f{n:05}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(size))
    home("catalogue", "add", f"x:{name}", f"s3://bucket/{name}")


def ended(home: Installation, run: str) -> Run | None:
    with home.open() as dls:
        found = dls.runs.get(run)
    return found if found.state in (RunState.DONE, RunState.FAILED, RunState.CANCELLED) else None


def once(home: Installation, run: str) -> None:
    """The run is done, and every fact of it is there once."""
    with home.open() as dls:
        assert dls.runs.get(run).state is RunState.DONE, dls.runs.get(run).error
        assert dls.context.needs.list() == ()
        activities = dls.database.all("SELECT count(*) FROM activities WHERE run = ?", (run,))
    assert activities == [(1,)]
    kinds = Counter(one.type for one in home.events(run))
    assert kinds["run.done"] == 1


def killed(home: Installation, run: str, rng: random.Random, most: int) -> int:
    """Kill one worker after the other at random moments, `most` times or until the run has ended; how often."""
    kills = 0
    while not ended(home, run):
        worker = home.worker()
        if kills < most:
            time.sleep(rng.uniform(0.2, 0.8))
            worker.kill()
            kills += 1
            worker.wait()
        else:
            wait_for(lambda: ended(home, run), 300)
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(30) == 0
    return kills


def stop(home: Installation, worker: subprocess.Popen[str]) -> None:
    """SIGSTOP, but not amid a transaction: whoever holds the lock of the one file keeps all others waiting."""
    for _ in range(100):
        worker.send_signal(signal.SIGSTOP)
        wait_for(lambda: psutil.Process(worker.pid).status() == psutil.STATUS_STOPPED)
        state = sqlite3.connect(home.home / "state.sqlite", timeout=0.1, isolation_level=None)
        with closing(state), suppress(sqlite3.OperationalError):
            state.execute("BEGIN IMMEDIATE")
            state.execute("ROLLBACK")
            return
        worker.send_signal(signal.SIGCONT)
        time.sleep(0.02)
    raise AssertionError("it is always amid a transaction")


@pytest.mark.spec("RUN-11")
def test_a_zombie_writes_nothing(world: tuple[Installation, Proxy, Path]) -> None:
    home, proxy, bucket = world
    planted(home, bucket, "data", 300)
    proxy.reset()
    proxy.delay = 0.05
    old = home.worker()
    run = str(home("stage-in", "x:data", "--to", "scratch", "--detach")["run"])
    wait_for(lambda: proxy.counts().bodies >= 40)
    stop(home, old)
    new = home.worker()
    done = wait_for(lambda: ended(home, run))
    assert done.epoch >= 3
    before = home.events()
    old.send_signal(signal.SIGCONT)
    # The old one begins anew and takes a slot again; of the run it says nothing more.
    wait_for(lambda: [e for e in home.events()[len(before) :] if e.type == "worker.began"])
    assert [e for e in home.events()[len(before) :] if not e.type.startswith("worker.")] == []
    once(home, run)
    assert same_tree(bucket / "data", Path(done.results["stage-in"]["path"]), modes=False, mtimes=False) == []
    assert proxy.counts().bodies <= 300 + IN_FLIGHT
    new.send_signal(signal.SIGTERM)
    assert new.wait(30) == 0
    proxy.delay = 0.0
    again = str(home("verify", "x:data", "--detach")["run"])
    assert wait_for(lambda: ended(home, again)).state is RunState.DONE, "it is as good as new"
    old.send_signal(signal.SIGTERM)
    assert old.wait(30) == 0


@pytest.mark.spec("RUN-7", "RUN-11")
def test_killed_at_random_moments(
    world: tuple[Installation, Proxy, Path], rng: random.Random, faults_full: bool
) -> None:
    home, proxy, bucket = world
    files = 5000 if faults_full else 1500
    planted(home, bucket, "data", files)
    proxy.reset()
    proxy.delay = 0.1 if faults_full else 0.02
    run = str(home("stage-in", "x:data", "--to", "scratch", "--detach")["run"])
    kills = killed(home, run, rng, 100 if faults_full else 6)
    once(home, run)
    with home.open() as dls:
        answer = dls.runs.get(run).results["stage-in"]
        leases = dls.database.all("SELECT buffer FROM buffer_leases")
        assert leases == [(answer["buffer"],)], "one lease, the one asked for"
    assert same_tree(bucket / "data", Path(answer["path"]), modes=False, mtimes=False) == []
    assert proxy.counts().bodies <= files + kills * IN_FLIGHT
    assert kills > 2
    print(f"{kills} kills, {proxy.counts().bodies} bodies of {files} files")


@pytest.mark.spec("RUN-7", "RUN-11")
def test_one_large_file_killed_at_random_moments(
    world: tuple[Installation, Proxy, Path], rng: random.Random, faults_full: bool
) -> None:
    home, proxy, bucket = world
    size, most = (2 << 30, 100) if faults_full else (160 << 20, 4)
    (bucket / "large").mkdir()
    with (bucket / "large/file").open("wb") as file:
        for _ in range(size >> 20):
            file.write(rng.randbytes(1 << 20))
    home("catalogue", "add", "x:large", "s3://bucket/large")
    proxy.reset()
    proxy.rate = 60e6
    run = str(home("stage-in", "x:large", "--to", "scratch", "--detach")["run"])
    kills = killed(home, run, rng, most)
    once(home, run)
    with home.open() as dls:
        answer = dls.runs.get(run).results["stage-in"]
    assert same_tree(bucket / "large", Path(answer["path"]), modes=False, mtimes=False) == []
    parts, streams = -(-size // (16 << 20)), 4
    assert kills > 2
    assert proxy.counts().bodies <= parts + kills * streams
    print(f"{kills} kills, {proxy.counts().bodies} bodies of {parts} parts")


@pytest.mark.spec("RUN-12")
def test_told_to_end_it_gives_its_run_back(world: tuple[Installation, Proxy, Path]) -> None:
    home, proxy, bucket = world
    planted(home, bucket, "data", 300)
    proxy.reset()
    proxy.delay = 0.05
    worker = home.worker("--grace", "0.2")
    run = str(home("stage-in", "x:data", "--to", "scratch", "--detach")["run"])
    wait_for(lambda: proxy.counts().bodies >= 20)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(30) == 0
    with home.open() as dls:
        assert dls.runs.get(run).state is RunState.QUEUED
        assert {slot.state for slot in _slots(dls)} == {"gone"}
    proxy.delay = 0.0
    assert home.worker("--once").wait(60) == 0
    once(home, run)
    assert proxy.counts().bodies <= 300 + IN_FLIGHT


_BEGINS_ANEW = """
import os, signal, sys
from dls.cli.front import Front
from dls.cli.main import main
if not os.environ.get("DLS_TEST_ANEW"):
    from dls.madpp.worker import Worker
    os.environ["DLS_TEST_ANEW"] = "1"
    Worker.work = lambda self, once=False: True
    close = Front.close
    def closing(self):
        close(self)
        os.kill(os.getpid(), signal.SIGTERM)
    Front.close = closing
sys.exit(main())
"""
"""A worker that has to begin anew, and is told to end just before it does."""


@pytest.mark.spec("RUN-12")
def test_told_to_end_while_it_begins_anew_it_ends(tmp_path: Path) -> None:
    env = {**os.environ, "DLS_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-c", _BEGINS_ANEW, "worker"], env=env, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "begins anew" in done.stderr
    assert "no more work" in done.stdout


def _slots(dls: object) -> list[object]:
    from dls.madpp.slots import Slots

    return list(Slots(dls.database, dls.locks).list())  # type: ignore[attr-defined]


@pytest.mark.spec("RUN-12")
def test_cancelled_it_stops_soon(world: tuple[Installation, Proxy, Path], tmp_path: Path) -> None:
    home, proxy, bucket = world
    planted(home, bucket, "data", 300)
    proxy.reset()
    proxy.delay = 0.2
    worker = home.worker()
    run = str(home("stage-in", "x:data", "--to", "scratch", "--detach")["run"])
    wait_for(lambda: proxy.counts().bodies >= 20)
    assert home("cancel", run)["state"] == "running"
    assert wait_for(lambda: ended(home, run)).state is RunState.CANCELLED
    proxy.delay = 0.0
    mark = tmp_path / "mark"
    words = ["sh", "-c", f"echo $$ > {mark}; exec sleep 1000"]
    sleeper = str(home("run", "--at", "scratch", "--detach", "--", *words)["run"])
    pid = int(wait_for(lambda: mark.exists() and mark.read_text()))
    home("cancel", sleeper)
    assert wait_for(lambda: ended(home, sleeper)).state is RunState.CANCELLED
    wait_for(lambda: not os.path.exists(f"/proc/{pid}"))
    assert home("resume", run)["state"] == "done"
    once(home, run)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(30) == 0
    assert proxy.counts().bodies <= 300 + IN_FLIGHT
