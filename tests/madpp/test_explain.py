"""Why not yet: every state of a run, its steps, one file."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dls.logistics.errors import NotFound
from dls.logistics.locks import FileLocks
from dls.madpp.actions.pack import Pack
from dls.madpp.actions.register import Register
from dls.madpp.actions.stage_in import StageIn
from dls.madpp.actions.verify import Verify
from dls.madpp.actions.wait_for import WaitFor
from dls.madpp.carry import Carried
from dls.madpp.engine import Durable
from dls.madpp.execution import Run, RunState
from dls.madpp.explain import Around, Reason, around, explain, explain_file
from dls.madpp.plan import Plan, Step, plan_from, single
from dls.madpp.slots import Slots
from dls.madpp.testing.world import World
from dls.madpp.worker import Retries

pytestmark = pytest.mark.spec("LOOK-15")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "w")
    yield made
    made.close()


def told(world: World, run: Run) -> dict[str, Reason]:
    slots = Slots(world.database, FileLocks(world.folder / "locks"))
    seen = around(world.context, world.runs.list(99), run, slots.list(), lambda _: None)
    found = explain(run, seen)
    json.dumps([one.to_json() for one in found])
    return {one.subject: one for one in found}


def test_queued_runs_wait_for_workers(world: World) -> None:
    at = world.write("data", {"a": b"1"})
    engine = Durable(world.runs)
    first = engine.enqueue(single(StageIn(at, "scratch")), world.context)
    second = engine.enqueue(single(StageIn(at, "archive")), world.context)
    reasons = told(world, second)
    assert reasons["run"].waits_for == "a worker; none lives"
    assert "dls worker" in reasons["run"].help
    assert reasons["step stage-in"].waits_for == "its turn"
    slots = Slots(world.database, FileLocks(world.folder / "locks"))
    slot = slots.take("here", world.runs)
    assert told(world, first)["run"].waits_for == "a worker; 1 lives"
    assert told(world, second)["run"].waits_for == "a worker; 1 lives, 1 run before it"
    slots.leave(slot)


def test_waiting_steps_say_for_what(world: World) -> None:
    at = world.write("data", {"a": b"1"})
    steps = (
        Step("wait", WaitFor("x:later")),
        Step("look", Verify("x:later"), ("wait",)),
        Step("bring", StageIn(at, "mem")),
    )
    run = Durable(world.runs).enqueue(Plan(steps, "p"), world.context)
    hold = world.runs.claim("here-0")
    assert hold is not None
    assert not Carried(world.runs, hold, plan_from(run.plan), world.context, Retries()).go()
    reasons = told(world, world.runs.get(run.id))
    assert set(reasons) == {"run", "step wait", "step look"}, "what is done needs no reason"
    assert reasons["run"].state == "waiting"
    assert "x:later" in reasons["run"].waits_for
    assert reasons["run"].until_ns > reasons["run"].since_ns > 0
    assert "x:later" in reasons["step wait"].waits_for
    assert (reasons["step look"].state, reasons["step look"].waits_for) == ("not begun", "step wait")


def test_ended_runs_say_why(world: World) -> None:
    run = Durable(world.runs).enqueue(single(WaitFor("x:no")), world.context)
    Durable(world.runs).cancel(run.id, world.context.actor)
    reason = told(world, world.runs.get(run.id))["run"]
    assert (reason.state, "cancelled" in reason.waits_for) == ("cancelled", True)
    assert f"dls resume {run.id}" in reason.help
    done = world.submit(Register("x:d", world.write("data", {"a": b"1"})))
    assert list(told(world, done)) == ["run"]
    broken = replace(done, state=RunState.BROKEN_OFF, steps={})
    assert "resume" in told(world, broken)["run"].help
    assert told(world, broken)["step register"].state == "not begun"


def test_running_steps_say_how_far_and_for_whom_they_wait(world: World) -> None:
    at = world.write("data", {"a": b"1"})
    run = world.submit(StageIn(at, "scratch"))
    step = replace(run.steps["stage-in"], state="running")
    now = replace(run, state=RunState.RUNNING, steps={"stage-in": step})
    figures = {"phase": "copying", "files": 5, "files_total": 1000, "eta_s": 12.5, "eta_low_s": 10, "eta_high_s": 20.0}
    reasons = explain(now, Around(10**18, figures=figures))
    assert [r.waits_for for r in reasons] == ["carried by the process that asked", "copying: 5 of 1,000 files"]
    assert [r.until_ns for r in reasons] == [10**18 + 12_500_000_000] * 2
    assert [r.between_ns for r in reasons] == [(10**18 + 10**10, 10**18 + 2 * 10**10)] * 2
    del figures["eta_low_s"], figures["eta_high_s"]
    assert {explain(now, Around(10**18, figures=figures))[0].between_ns} == {(10**18 + 12_500_000_000,) * 2}
    with world.context.needs.claim(b"c" * 32, "scratch/default", "OTHER") as held:
        other = world.context.needs.claim(b"c" * 32, "scratch/default", run.id)
        reasons = explain(now, Around(10**18, needs=world.context.needs.list()))
        assert "run OTHER" in reasons[1].waits_for
        held.finish({})
    assert other.run == run.id


def test_one_file(world: World) -> None:
    world.take(Register("x:d", world.write("data", {"a": b"1", "b/c": b"2"})))
    queued = Durable(world.runs).enqueue(single(StageIn("x:d", "scratch")), world.context)
    (reason,) = explain_file(world.context, queued, b"b/c")
    assert (reason.subject, reason.state) == ("file b/c", "not begun")
    run = world.submit(StageIn("x:d", "scratch"))
    (reason,) = explain_file(world.context, run, b"b/c")
    assert reason.state.startswith("proven at /")
    for action in (StageIn("x:d", "scratch", as_image=True), Pack("x:d", str(world.folder / "i.sqfs"))):
        ended = world.submit(action)
        (reason,) = explain_file(world.context, ended, b"b/c")
        assert reason.state.startswith("proven at /"), action
    with pytest.raises(NotFound) as error:
        explain_file(world.context, run, b"nothing")
    assert error.value.code == "no-such-file"
