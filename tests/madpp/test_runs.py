"""Runs and the engine in place: states, answers, errors."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from dls.logistics import event
from dls.logistics.actor import Actor
from dls.logistics.errors import Conflict, DlsError, Invalid, NotFound, Unavailable
from dls.madpp.action import ANSWER_BYTES, Context, Facts
from dls.madpp.engine import Durable
from dls.madpp.execution import Hold, Run, RunState
from dls.madpp.plan import Plan, Step, single
from dls.madpp.testing.world import SECRET, World

SEEN: list[str] = []


@dataclass(frozen=True)
class Say:
    """Answers, fails or is interrupted, as asked."""

    what: str
    name: ClassVar[str] = "say"

    def check(self, context: Context) -> list[DlsError]:
        return [Invalid("never", code="never")] if self.what == "never" else []

    def preview(self, context: Context) -> Facts:
        return {}

    def run(self, context: Context) -> Facts:
        SEEN.append(self.what)
        if self.what == "fail":
            raise Unavailable("it failed", code="failed-so", remedy="again", keys=["k" * 100] * 100)
        if self.what == "bug":
            raise ValueError(f"a token of {SECRET}")
        if self.what == "interrupt":
            raise KeyboardInterrupt
        return {"said": self.what, "run": context.run, "many": ["x" * 100] * 100}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    SEEN.clear()
    made = World(tmp_path / "w")
    yield made
    made.close()


def plan(*words: str) -> Plan:
    return Plan(tuple(Step(word, Say(word), (words[n - 1],) if n else ()) for n, word in enumerate(words)), "talk")


def newest(world: World) -> Run:
    return world.runs.list(1)[0]


@pytest.mark.spec("RUN-1")
def test_a_plan_is_proven_before_it_is_touched(world: World) -> None:
    before = world.dump()
    with pytest.raises(Invalid):
        Durable(world.runs).submit(plan("one", "never"), world.context)
    assert SEEN == []
    assert world.dump() == before
    assert world.runs.list() == []


@pytest.mark.spec("RUN-2", "RUN-4")
def test_a_run_that_ends_well(world: World) -> None:
    run = Durable(world.runs).submit(plan("one", "two"), world.context)
    assert SEEN == ["one", "two"]
    assert (run.state, list(run.results), run.error) == (RunState.DONE, ["one", "two"], {})
    assert run.results["one"]["run"] == run.id
    assert all(len(json.dumps(facts)) <= ANSWER_BYTES for facts in run.results.values())
    assert run.results["one"]["many_more"] + len(run.results["one"]["many"]) == 100
    assert ("run", {"run": run.id, "plan": "talk"}) in world.told


@pytest.mark.spec("RUN-4")
@pytest.mark.parametrize(
    ("word", "raised", "code"),
    [("fail", Unavailable, "failed-so"), ("bug", ValueError, "bug"), ("interrupt", KeyboardInterrupt, "interrupted")],
)
def test_the_first_error_ends_a_run(world: World, word: str, raised: type[BaseException], code: str) -> None:
    with pytest.raises(raised):
        Durable(world.runs).submit(plan("one", word, "two"), world.context)
    run = newest(world)
    assert ["one", word] == SEEN
    assert (run.state, list(run.results), run.error["code"]) == (RunState.FAILED, ["one"], code)
    assert len(json.dumps(run.error)) <= ANSWER_BYTES
    assert SECRET not in json.dumps(run.to_json())


@pytest.mark.spec("RUN-2")
def test_an_ended_run_is_never_ended_again(world: World) -> None:
    run = Durable(world.runs).submit(plan("one"), world.context)
    with pytest.raises(Conflict):
        world.runs.end(Hold(run.id, run.epoch), world.context.actor, {"code": "late"})
    assert world.runs.get(run.id) == run


@pytest.mark.spec("RUN-3")
def test_a_dead_run_shows_as_broken_off(world: World, tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from dls.logistics.database import Database\n"
        "from dls.logistics.actor import local\n"
        "from dls.logistics.locks import FileLocks\n"
        "from dls.logistics.locks import FileLocks\n"
        "from dls.madpp.runs import Runs\n"
        "from dls.madpp.plan import Plan\n"
        "home = Path(sys.argv[1])\n"
        "runs = Runs(Database(home / 'state.sqlite'), FileLocks(home / 'locks'))\n"
        "with runs.begun(Plan((), 'p'), local('me')) as hold:\n"
        "    print(hold.run, flush=True)\n"
        "    sys.stdin.readline()\n"
        "    os._exit(9)\n"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code, str(world.folder)], stdin=pipe, stdout=pipe, text=True) as child:
        assert child.stdout is not None
        id = child.stdout.readline().strip()
        assert world.runs.get(id).state is RunState.RUNNING
        child.communicate("\n")
    assert world.runs.get(id).state is RunState.BROKEN_OFF
    assert newest(world).state is RunState.BROKEN_OFF


@pytest.mark.spec("RUN-3")
def test_a_run_that_ends_while_it_is_looked_at_is_not_broken_off(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with world.runs.begun(plan("one"), world.context.actor) as hold:
        id = hold.run
        assert world.runs.get(id).state is RunState.RUNNING

        def ends(_: str) -> bool:
            world.runs.end(hold, world.context.actor)
            return False

        monkeypatch.setattr(world.runs, "_alive", ends)
        assert world.runs.get(id).state is RunState.DONE


@pytest.mark.spec("RUN-5")
def test_a_run_says_who_asked_and_when(world: World) -> None:
    actor = Actor("robot", frozenset({"public", "local"}), on_behalf_of="ada")
    before = world.clock.now_ns
    run = Durable(world.runs).submit(plan("one"), replace(world.context, actor=actor))
    assert (run.actor, run.on_behalf_of, run.project) == ("robot", "ada", "local")
    assert before < run.started_ns <= run.ended_ns <= world.clock.now_ns
    assert run.plan["steps"][0]["with"] == {"what": "one"}
    kinds = [(e.type, e.subject, e.actor) for e in event.since(world.database) if e.type.startswith("run.")]
    assert kinds == [("run.started", run.id, "robot"), ("run.done", run.id, "robot")]


@pytest.mark.spec("RUN-6")
def test_runs_are_listed_newest_first(world: World) -> None:
    made = [Durable(world.runs).submit(single(Say(str(n))), world.context).id for n in range(4)]
    assert [run.id for run in world.runs.list(3)] == made[:0:-1]
    with pytest.raises(NotFound) as told:
        world.runs.get("nobody")
    assert told.value.code == "no-run"


def test_a_watcher_that_fails_ends_nothing(world: World) -> None:
    def deaf(*_: Any) -> None:
        raise BrokenPipeError

    run = Durable(world.runs).submit(plan("one"), replace(world.context, tell=deaf))
    assert run.state is RunState.DONE
