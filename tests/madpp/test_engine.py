"""The engine: what is kept, what is taken again, what waits, what is cancelled, who may speak."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest

from dls.logistics import event
from dls.logistics.actor import local
from dls.logistics.database import Database
from dls.logistics.errors import Conflict, Corrupt, DlsError, NotFound, Stop, Unavailable
from dls.logistics.locks import FileLocks
from dls.madpp.action import Context, Facts, NotYet
from dls.madpp.actions.stage_in import StageIn
from dls.madpp.carry import Carried
from dls.madpp.engine import Durable
from dls.madpp.execution import Run, RunState
from dls.madpp.plan import Plan, Step
from dls.madpp.runs import Runs, check
from dls.madpp.slots import Slots
from dls.madpp.testing.world import World
from dls.madpp.worker import Retries

SEEN: list[str] = []
DOES: dict[str, list[BaseException | None]] = {}
"""What a step does each time that it is taken: raises, or answers."""


@dataclass(frozen=True)
class Does:
    """Does what `DOES` says of it."""

    what: str
    name: ClassVar[str] = "does"

    def check(self, context: Context) -> list[DlsError]:
        return []

    def preview(self, context: Context) -> Facts:
        return {}

    def run(self, context: Context) -> Facts:
        SEEN.append(self.what)
        todo = DOES.get(self.what) or [None]
        now = todo.pop(0) if len(todo) > 1 else todo[0]
        if now is not None:
            raise now
        return {"said": self.what, "step": context.step}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    SEEN.clear()
    DOES.clear()
    made = World(tmp_path / "w")
    yield made
    made.close()


def chain(*words: str) -> Plan:
    return Plan(tuple(Step(word, Does(word), (words[n - 1],) if n else ()) for n, word in enumerate(words)), "chain")


def beside(*words: str) -> Plan:
    return Plan(tuple(Step(word, Does(word)) for word in words), "beside")


def carry(world: World, plan: Plan, slot: str = "here-0") -> tuple[bool, Run]:
    """Claim the queued run and carry it as a worker does; (whether it is done, the run)."""
    hold = world.runs.claim(slot)
    assert hold is not None
    done = Carried(world.runs, hold, plan, world.context, Retries()).go()
    return done, world.runs.get(hold.run)


@pytest.mark.spec("RUN-7")
def test_a_step_whose_answer_is_kept_is_not_taken_again(world: World) -> None:
    DOES["two"] = [KeyboardInterrupt(), None]
    plan, engine = chain("one", "two", "three"), Durable(world.runs)
    with pytest.raises(KeyboardInterrupt):
        engine.submit(plan, world.context)
    run = world.runs.list(1)[0]
    assert (run.state, {n: s.state for n, s in run.steps.items()}) == (
        RunState.FAILED,
        {"one": "done", "two": "running"},
    )
    with world.runs.resumed(run.id, world.context.actor) as hold:
        assert Carried(world.runs, hold, plan, world.context, Retries()).go()
    assert SEEN == ["one", "two", "two", "three"]
    again = world.runs.get(run.id)
    assert (again.state, list(again.results), again.error) == (RunState.DONE, ["one", "two", "three"], {})
    assert again.steps["two"].attempts == 2
    with pytest.raises(Conflict, match="is done"), world.runs.resumed(run.id, world.context.actor):
        pass


@pytest.mark.spec("RUN-7")
def test_steps_know_their_names_and_same_steps_are_two_activities(world: World) -> None:
    at = world.write("data", {"a": b"1", "b": b"22"})
    first = Step("first", StageIn(at, "scratch"))
    plan = Plan((first, Step("second", StageIn(at, "scratch"), ("first",))), "twice")
    run = Durable(world.runs).submit(plan, world.context)
    assert run.results["first"]["activity"] != run.results["second"]["activity"]
    assert run.results["first"]["buffer"] == run.results["second"]["buffer"]


@pytest.mark.spec("RUN-8")
def test_what_is_not_yet_possible_holds_up_no_other(world: World) -> None:
    DOES["wait"] = [NotYet("the moon", look_again_s=7.0, help="patience"), None]
    engine, plan = Durable(world.runs), beside("wait", "other")
    engine.enqueue(plan, world.context)
    done, run = carry(world, plan)
    assert not done
    assert (run.state, SEEN) == (RunState.WAITING, ["wait", "other"])
    (wait,) = run.waits
    assert (wait["step"], wait["for"], wait["help"]) == ("wait", "the moon", "patience")
    assert run.wake_ns == wait["look_ns"] >= wait["since_ns"] + 7 * 10**9
    assert world.runs.claim("here-0") is None, "not before it is time"
    world.clock.advance(8)
    done, run = carry(world, plan)
    assert done
    assert (run.state, SEEN) == (RunState.DONE, ["wait", "other", "wait"])
    assert run.waits == []


@pytest.mark.spec("RUN-8")
def test_too_late_is_an_error(world: World) -> None:
    until = world.clock.now_ns + 10 * 10**9
    DOES["wait"] = [NotYet("the moon", look_again_s=60.0, until_ns=until)]
    plan = beside("wait")
    Durable(world.runs).enqueue(plan, world.context)
    _, run = carry(world, plan)
    assert run.wake_ns == until, "looked at once more at the end"
    world.clock.advance(11)
    with pytest.raises(Unavailable) as told:
        carry(world, plan)
    assert told.value.code == "not-in-time"


@pytest.mark.spec("RUN-8")
def test_in_place_waits_for_it(world: World) -> None:
    DOES["wait"] = [NotYet("the moon", look_again_s=1e-5), NotYet("the moon", look_again_s=1e-5), None]
    run = Durable(world.runs).submit(beside("wait"), world.context)
    assert (run.state, SEEN) == (RunState.DONE, ["wait"] * 3)


@pytest.mark.spec("RUN-9")
def test_workers_try_again_what_may_pass(world: World) -> None:
    away = Unavailable("the service is away", code="service-down", remedy="look")
    DOES["one"] = [away, away, None]
    plan = beside("one")
    Durable(world.runs).enqueue(plan, world.context)
    for failures, pause in ((1, 1), (2, 2)):
        done, run = carry(world, plan)
        assert not done
        assert run.waits[0]["failures"] == failures
        assert "the service is away" in run.waits[0]["for"]
        assert abs(run.wake_ns - world.clock.now_ns - pause * 10**9) < 10**8
        world.clock.advance(pause + 1)
    done, run = carry(world, plan)
    assert done
    retries = Retries()
    assert [retries.again(away, n) for n in (1, 2, 3, 7, 8)] == [1, 2, 4, 60, None]
    assert retries.again(Corrupt("bytes"), 1) is None
    assert retries.again(Unavailable("exit 3", code="command-failed"), 1) is None
    DOES["two"] = [away]
    with pytest.raises(Unavailable):  # in place, the error is the user's at once
        Durable(world.runs).submit(beside("two"), world.context)


@pytest.mark.spec("RUN-10")
def test_a_run_is_carried_by_one(world: World) -> None:
    Durable(world.runs).enqueue(beside("one"), world.context)
    hold = world.runs.claim("a-0")
    assert hold is not None
    assert world.runs.claim("b-0") is None
    with pytest.raises(Conflict, match="carried by a worker"), world.runs.resumed(hold.run, world.context.actor):
        pass


@pytest.mark.spec("RUN-11")
def test_a_dead_worker_loses_its_run_at_once_a_hanging_one_after_its_lease(world: World, tmp_path: Path) -> None:
    slots = Slots(world.database, FileLocks(world.folder / "locks"), lease_s=10.0)
    one = slots.take("here", world.runs)
    other = slots.take("here", world.runs)
    assert (one.name, other.name) == ("here-0", "here-1")
    plan = beside("one")
    Durable(world.runs).enqueue(plan, world.context)
    hold = world.runs.claim(one.name)
    assert hold is not None
    assert slots.bury(world.runs, other.name) == [], "it lives"
    world.clock.advance(11)
    slots.renew(other)
    told: list[list[str]] = []
    assert slots.bury(world.runs, other.name, lambda _, ids: told.append(ids)) == [hold.run]
    assert told == [[hold.run]]
    # What the old holder says is refused, and with its guard nothing that it writes lands.
    for say in (
        lambda: world.runs.turn(hold, None, "one"),
        lambda: world.runs.end(hold, world.context.actor),
        lambda: world.runs.hand_back(hold),
        lambda: slots.renew(one),
    ):
        with pytest.raises(Stop):
            say()
    assert carry(world, plan, other.name)[0]
    # Dead: the lock is free.
    Durable(world.runs).enqueue(plan, world.context)
    held = world.runs.claim(other.name)
    assert held is not None
    other.lock.release()
    third = slots.take("here", world.runs)  # the freed slot itself
    assert third.name == other.name
    assert world.runs.get(held.run).state is RunState.QUEUED
    slots.leave(third)
    slots.leave(third)
    assert {s.state for s in slots.list()} == {"gone"}
    one.lock.release()


@pytest.mark.spec("RUN-11")
def test_the_guard_fences_every_write(world: World) -> None:
    beside_it = Database(world.folder / "state.sqlite")
    other = Runs(beside_it, FileLocks(world.folder / "locks"))
    plan = beside("one")
    Durable(world.runs).enqueue(plan, world.context)
    hold = world.runs.claim("a-0")
    assert hold is not None
    world.database.guard = lambda tx: check(tx, hold)
    world.sites.add_site("before", str(world.folder / "before"))
    with beside_it.transaction() as tx:
        assert other.orphan(tx, "a-0") == [hold.run]
    facts = world.database.all("SELECT count(*) FROM events")
    with pytest.raises(Stop):
        world.sites.add_site("after", str(world.folder / "after"))
    assert world.database.all("SELECT count(*) FROM events") == facts
    world.database.guard = None
    with pytest.raises(NotFound):
        world.sites.get("after")
    beside_it.close()


@pytest.mark.spec("RUN-11")
def test_what_hangs_is_broken_out_of_its_needs(world: World) -> None:
    needs = world.context.needs
    stuck = needs.claim(b"c" * 32, "scratch/default", "run-1")
    stuck.wait()
    assert stuck.is_held
    waiter = needs.claim(b"c" * 32, "scratch/default", "run-2")
    thread = threading.Thread(target=waiter.wait, daemon=True)
    thread.start()
    with world.database.transaction() as tx:
        needs.break_holds(tx, ["run-1"])
    thread.join(20)
    assert waiter.is_held
    with pytest.raises(Conflict, match="taken over"):
        stuck.finish({})
    waiter.finish({"ok": 1})
    late = needs.claim(b"c" * 32, "scratch/default", "run-3", alive=lambda: (_ for _ in ()).throw(Stop("draining")))
    with late:
        late.finish({})


@pytest.mark.spec("RUN-12")
def test_waiting_for_a_need_ends_when_told_to_stop(world: World) -> None:
    needs = world.context.needs
    with needs.claim(b"c" * 32, "scratch/default", "run-1") as held:

        def stop() -> None:
            raise Stop("draining")

        with pytest.raises(Stop):
            needs.claim(b"c" * 32, "scratch/default", "run-2", alive=stop).wait()
        held.finish({})


@pytest.mark.spec("RUN-12")
def test_cancelling(world: World) -> None:
    engine, me = Durable(world.runs), world.context.actor
    queued = engine.enqueue(beside("one"), world.context)
    assert engine.cancel(queued.id, me) is RunState.CANCELLED
    assert world.runs.claim("a-0") is None
    with pytest.raises(Conflict, match="is cancelled already"):
        engine.cancel(queued.id, me)
    assert world.runs.requeue(queued.id, me) is RunState.QUEUED
    hold = world.runs.claim("a-0")
    assert hold is not None
    assert engine.cancel(queued.id, me) is RunState.RUNNING
    assert world.runs.cancelling(queued.id)
    with pytest.raises(Conflict, match="is running"):
        world.runs.requeue(queued.id, me)
    world.runs.end(hold, me, {"code": "cancelled", "message": "cancelled"})
    assert world.runs.get(queued.id).state is RunState.CANCELLED
    with world.runs.resumed(queued.id, me) as again:
        assert Carried(world.runs, again, beside("one"), world.context, Retries()).go()
    with pytest.raises(Conflict, match="is done"):
        engine.cancel(queued.id, me)


@pytest.mark.spec("RUN-12")
def test_a_run_in_place_hears_that_it_is_cancelled(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    DOES["wait"] = [NotYet("the moon", look_again_s=1e6)]
    engine = Durable(world.runs)
    monkeypatch.setattr("dls.madpp.engine.SLICE_S", 0.01)
    failed: list[BaseException] = []

    def submit() -> None:
        try:
            engine.submit(beside("wait"), world.context)
        except BaseException as exc:  # noqa: BLE001 - looked at below
            failed.append(exc)

    thread = threading.Thread(target=submit)
    thread.start()
    while not (world.runs.list(1) and world.runs.list(1)[0].waits):
        thread.join(0.01)
    engine.cancel(world.runs.list(1)[0].id, local("bob"))
    thread.join(30)
    assert [(type(e), getattr(e, "code", "")) for e in failed] == [(Conflict, "cancelled")]
    run = world.runs.list(1)[0]
    assert (run.state, run.error["code"]) == (RunState.CANCELLED, "cancelled")
    kinds = [e.type for e in event.since(world.database) if e.subject == run.id]
    assert kinds == ["run.started", "run.waits", "run.cancelling", "run.cancelled"]


@pytest.mark.spec("RUN-13")
def test_steps_of_old_runs_are_forgotten_runs_are_not(world: World) -> None:
    run = Durable(world.runs).submit(chain("one", "two"), world.context)
    assert world.runs.prune(run.ended_ns) == 0
    assert world.runs.prune(run.ended_ns + 1) == 2
    assert world.runs.get(run.id).state is RunState.DONE
    assert replace(world.runs.get(run.id), steps={}).results == {}


@pytest.mark.spec("RUN-11")
def test_a_claim_whose_answer_was_lost_is_queued_again(world: World) -> None:
    slots = Slots(world.database, FileLocks(world.folder / "locks"), lease_s=10.0)
    slot = slots.take("here", world.runs)
    run = Durable(world.runs).enqueue(beside("one"), world.context)
    assert slots.tidy(slot, world.runs) == []
    assert world.runs.claim(slot.name, lambda tx: slots.still(tx, slot)) is not None  # and the answer never arrives
    assert slots.tidy(slot, world.runs) == [run.id]
    assert world.runs.get(run.id).state is RunState.QUEUED
    world.clock.advance(11)
    other = slots.take("here", world.runs)
    slots.bury(world.runs, other.name)
    with pytest.raises(Stop):  # whose slot was taken claims nothing
        world.runs.claim(slot.name, lambda tx: slots.still(tx, slot))
    assert world.runs.claim(other.name, lambda tx: slots.still(tx, other)) is not None
    with pytest.raises(Stop):
        slots.tidy(slot, world.runs) or slots.renew(slot)
    slot.lock.release()
    slots.leave(other)
