"""Three workers on one PostgreSQL, killed, stopped and restarted at random, the server too: nothing lost or twice."""

from __future__ import annotations

import random
import signal
import subprocess
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from components import postgres
from components.compare import same_tree
from dls.cli.wiring import Dls
from dls.logistics.errors import Conflict, DlsError, Unavailable
from dls.madpp.actions.compute import Compute
from dls.madpp.actions.register import Register
from dls.madpp.actions.stage_in import StageIn
from dls.madpp.actions.stage_out import StageOut
from dls.madpp.actions.verify import Verify
from dls.madpp.execution import ENDED, RunState
from dls.madpp.plan import single
from faults.installation import Installation

pytestmark = [pytest.mark.fault, pytest.mark.service, pytest.mark.timeout(3600)]
LEASE_S = 2.0
DATASETS = 6
ENDS = (0, 128 + signal.SIGTERM, -signal.SIGTERM, 8)
"""How a worker ends that is told to: drained; or at once, where it has only just begun (anew).  8: it found no server
when it began, and said so."""


@pytest.fixture
def served(tmp_path: Path, need: Callable[[str, object, str], None]) -> Iterator[tuple[Installation, Any]]:
    """An installation on a server of its own, which syncs what it commits."""
    need("postgres", postgres.installed(), "not installed")
    with postgres.postgres(durable=True) as server:
        name = f"t{uuid.uuid4().hex}"
        home = Installation(tmp_path / "home", DLS_DATABASE=server.url, DLS_SCHEMA=name)
        yield home, server
        home.close()


def insist(ask: Callable[[], Any]) -> Any:
    """Ask again while the server is away."""
    until = time.monotonic() + 60
    while True:
        try:
            return ask()
        except DlsError:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


def requests(rng: random.Random, count: int, top: Path) -> Iterator[Any]:
    """A mixture: the same datasets again and again, products, looks, and some that must fail."""
    for n in range(count):
        key = f"x:d{rng.randrange(DATASETS)}"
        kind = rng.random()
        if kind < 0.45:
            yield StageIn(key, rng.choice(["scratch", "other"]))
        elif kind < 0.6:
            yield Verify(key)
        elif kind < 0.8:
            yield Compute(("sh", "-c", "cat $DLS_IN/f0 > out; sleep 0.1"), "scratch", (key,), f"x:made{n}")
        elif kind < 0.95:
            yield StageOut(key, str(top / f"saved-{n}"))
        else:
            yield Compute(("sh", "-c", "exit 3"), "scratch", (key,))


class Chaos:
    """Three workers to whom things happen."""

    def __init__(self, home: Installation, server: Any, rng: random.Random, *, restarts: bool) -> None:
        self.home, self.server, self.rng, self.restarts = home, server, rng, restarts
        self.workers = [self._start() for _ in range(3)]
        self.done: Counter[str] = Counter()

    def _start(self) -> subprocess.Popen[str]:
        return self.home.worker("--grace", "0.5", lease=LEASE_S)

    def once(self) -> None:
        """Something happens to one of them, or to the server."""
        number, what = self.rng.randrange(3), self.rng.random() * (1.0 if self.restarts else 0.9)
        worker = self.workers[number]
        if what < 0.4:
            self.done["killed"] += 1
            worker.kill()
            worker.wait()
            self.workers[number] = self._start()
        elif what < 0.65:
            self.done["stopped"] += 1
            worker.send_signal(signal.SIGSTOP)
            time.sleep(LEASE_S * 1.5)
            worker.send_signal(signal.SIGCONT)
        elif what < 0.9:
            self.done["told to end"] += 1
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(30) in ENDS
            self.workers[number] = self._start()
        else:
            self.done["server restarted"] += 1
            self.server.restart()

    def mend(self) -> None:
        """As whoever looks after workers does: start those again that ended."""
        for number, worker in enumerate(self.workers):
            if worker.poll() is not None:
                assert worker.returncode in ENDS
                self.workers[number] = self._start()

    def end(self) -> None:
        """All of them end as they should."""
        for worker in self.workers:
            worker.send_signal(signal.SIGTERM)
        assert all(worker.wait(60) in ENDS for worker in self.workers)


@pytest.mark.spec("RUN-9", "RUN-10", "RUN-11")
def test_three_workers_under_fire(
    served: tuple[Installation, Any], tmp_path: Path, rng: random.Random, faults_full: bool
) -> None:
    home, server = served
    count, seconds = (200, 300.0) if faults_full else (30, 15.0)
    for n in range(DATASETS):
        folder = tmp_path / f"d{n}"
        folder.mkdir()
        for k in range(40):
            (folder / f"f{k}").write_bytes(rng.randbytes(rng.randrange(50_000)))
    with home.open() as dls:
        for site in ("scratch", "other"):
            dls.context.sites.add_site(site, str(tmp_path / site))
        for n in range(DATASETS):
            dls.take(Register(f"x:d{n}", str(tmp_path / f"d{n}")))
        chaos = Chaos(home, server, rng, restarts=faults_full)
        until, asked, todo = time.monotonic() + seconds, list[str](), requests(rng, count, tmp_path)
        while time.monotonic() < until:
            for action in [next(todo, None) for _ in range(max(1, count // 10))]:
                if action is not None:
                    asked.append(insist(lambda action=action: dls.enqueue(single(action)).id))
            if rng.random() < 0.1:
                _cancel(dls, rng.choice(asked))
            time.sleep(rng.uniform(0.2, 1.0))
            chaos.once()
            chaos.mend()
        server.restart()
        chaos.mend()
        for action in todo:
            asked.append(insist(lambda action=action: dls.enqueue(single(action)).id))
        assert len(asked) == count
        _all_end(dls, asked)
        chaos.end()
        _once_each(dls, home, asked, tmp_path)
    print(dict(chaos.done))
    assert sum(chaos.done.values()) > 3


def _cancel(dls: Dls, run: str) -> None:
    """Some that have ended refuse."""
    with suppress(Conflict, Unavailable):
        dls.engine.cancel(run, dls.context.actor)


def _all_end(dls: Dls, asked: list[str]) -> None:
    until = time.monotonic() + 240
    while left := [run for run in asked if insist(lambda run=run: dls.runs.get(run)).state not in ENDED]:
        assert time.monotonic() < until, [dls.runs.get(run) for run in left[:3]]
        time.sleep(0.5)


def _once_each(dls: Dls, home: Installation, asked: list[str], top: Path) -> None:
    """Every request ended, and says why; every fact is there once; what lies there is right."""
    runs = {run: dls.runs.get(run) for run in asked}
    for run in runs.values():
        wrong = run.state is RunState.FAILED and run.error["code"] != "command-failed"
        assert not wrong, (run.plan["name"], run.error)
        assert bool(run.error) == (run.state is not RunState.DONE)
    told = Counter((e.subject, e.type) for e in home.events())
    assert [key for key, n in told.items() if key[1] in ("run.done", "run.failed") and n > 1] == []
    # One activity of a kind for each run; a verification has one for each copy that it looked at.
    sql = "SELECT run, type FROM activities WHERE type <> 'verify' GROUP BY run, type HAVING count(*) > 1"
    assert dls.database.all(sql) == []
    same = dls.database.all("SELECT version, url, count(*) FROM replicas GROUP BY version, url HAVING count(*) > 1")
    assert same == []
    assert dls.context.needs.list() == ()
    for run in runs.values():
        answer = run.results.get("stage-in")
        if run.state is RunState.DONE and answer:
            number = answer["dataset"].partition("@")[0][-1]
            assert same_tree(top / f"d{number}", Path(answer["path"]), modes=False, mtimes=False) == []
