"""Runs: one execution of a plan each, kept with who asked, how far it is, what came of it, or why it failed.

A run is carried *in place*, by the process that asked (alive while it holds a lock that the kernel frees), or
*detached*, by whichever worker claims it (alive while the worker's slot is, `dls.madpp.slots`).  Each hold has an
epoch, and every word about a run names the epoch of whoever says it: what an overtaken holder says is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from dls.logistics import event, ids
from dls.logistics.actor import Actor
from dls.logistics.database import Database, Row, Tx
from dls.logistics.errors import Conflict, NotFound, Stop
from dls.logistics.event import Event
from dls.logistics.locks import Locks
from dls.madpp.execution import ENDED, Hold, Run, RunState, StepRecord
from dls.madpp.plan import Plan

MIGRATIONS = (
    """
    CREATE TABLE runs (
        id         TEXT PRIMARY KEY,     -- ULID
        plan       TEXT NOT NULL,        -- JSON
        actor      TEXT NOT NULL,
        behalf     TEXT NOT NULL,        -- on behalf of whom
        project    TEXT NOT NULL,
        state      TEXT NOT NULL,        -- queued | running | waiting | done | failed | cancelled
        started_ns INTEGER NOT NULL,
        ended_ns   INTEGER NOT NULL,     -- 0 while running
        results    TEXT NOT NULL,        -- JSON: answers by step of runs that were kept before `steps` was
        error      TEXT NOT NULL         -- JSON of the error that ended it, or {}
    )
    """,
    """
    ALTER TABLE runs ADD COLUMN detached INTEGER NOT NULL DEFAULT 0;   -- 1: any worker may carry it
    ALTER TABLE runs ADD COLUMN slot TEXT NOT NULL DEFAULT '';         -- the worker's slot that carries it, or did last
    ALTER TABLE runs ADD COLUMN epoch INTEGER NOT NULL DEFAULT 0;      -- holds so far
    ALTER TABLE runs ADD COLUMN wake_ns INTEGER NOT NULL DEFAULT 0;    -- not before this time
    ALTER TABLE runs ADD COLUMN waits TEXT NOT NULL DEFAULT '[]';      -- JSON: what its steps wait for
    ALTER TABLE runs ADD COLUMN cancel INTEGER NOT NULL DEFAULT 0;     -- 1: whoever carries it shall stop
    ALTER TABLE runs ADD COLUMN cwd TEXT NOT NULL DEFAULT '/';         -- what its relative paths are relative to
    CREATE INDEX runs_ready ON runs (state, wake_ns);
    CREATE TABLE steps (
        run      TEXT NOT NULL,
        step     TEXT NOT NULL,
        state    TEXT NOT NULL,          -- running | done
        attempts INTEGER NOT NULL,       -- times it was begun
        began_ns INTEGER NOT NULL,       -- the first time
        ended_ns INTEGER NOT NULL,       -- 0 while running
        answer   TEXT NOT NULL,          -- JSON, at most 4 KB
        PRIMARY KEY (run, step)
    )
    """,
)


class Runs:
    """The runs of one installation."""

    def __init__(self, database: Database, locks: Locks) -> None:
        self._database = database
        self._locks = locks
        event.prepare(database)
        database.migrate("run", MIGRATIONS)

    # -------------------------------------------------------------------------------------------- beginning

    def add(self, plan: Plan, actor: Actor, cwd: str = "/") -> str:
        """A new run for the next worker; its id."""
        id = ids.ulid()
        with self._database.transaction() as tx:
            _insert(tx, id, plan, actor, cwd, detached=True)
        return id

    @contextmanager
    def begun(self, plan: Plan, actor: Actor, cwd: str = "/", starts: str = "") -> Iterator[Hold]:
        """A new run carried in place inside the block; `starts` is the step that it begins with."""
        id = ids.ulid()
        with self._locked(id):
            with self._database.transaction() as tx:
                _insert(tx, id, plan, actor, cwd, detached=False)
                _start(tx, id, starts)
            yield Hold(id, 1)

    @contextmanager
    def resumed(self, id: str, actor: Actor) -> Iterator[Hold]:
        """Carry on in place a run that broke off, failed, waits or was cancelled; Conflict where somebody carries it,
        or it is done."""
        with self._locked(id):
            with self._database.transaction() as tx:
                row = tx.one("SELECT state, detached, epoch, actor FROM runs WHERE id = ?", (id,))
                if row is None:
                    raise _absent(id)
                if row[0] == RunState.DONE or (row[0] == RunState.RUNNING and row[1]):
                    raise _not_so(id, "is done" if row[0] == RunState.DONE else "is carried by a worker")
                tx.run(
                    "UPDATE runs SET state = 'running', detached = 0, slot = '', epoch = epoch + 1, cancel = 0,"
                    " ended_ns = 0, error = '{}', waits = '[]', wake_ns = 0 WHERE id = ?",
                    (id,),
                )
                event.record(tx, Event("run.resumed", id, actor.name, {"epoch": row[2] + 1}))
            yield Hold(id, row[2] + 1)

    @contextmanager
    def _locked(self, id: str) -> Iterator[None]:
        lock = self._locks.try_hold(f"run-{id}")
        if lock is None:
            raise _not_so(id, "is carried by another process")
        try:
            yield
        finally:
            lock.release(forget=True)

    def claim(self, slot: str, still: Callable[[Tx], None] | None = None) -> Hold | None:
        """The right to carry the run that has waited longest of those that may go on, for a worker's slot; `still` is
        asked within the change whether the slot is its own."""
        if self._database.one(_READY, (self._database.now_ns(),)) is None:  # idle workers write nothing
            return None
        with self._database.transaction() as tx:
            if still is not None:
                still(tx)
            row = tx.one(_READY, (tx.now_ns,))
            if row is None:
                return None
            tx.run("UPDATE runs SET state = 'running', slot = ?, epoch = epoch + 1 WHERE id = ?", (slot, row[0]))
            event.record(tx, Event("run.claimed", row[0], slot, {"epoch": row[1] + 1}))
        return Hold(row[0], row[1] + 1)

    # ------------------------------------------------------------------------------------ words of the holder

    def turn(self, hold: Hold, done: tuple[str, dict[str, Any]] | None, starts: str) -> None:
        """One step is done, the next one begins, in one change."""
        with self._database.transaction() as tx:
            check(tx, hold)
            _did(tx, hold.run, done)
            _start(tx, hold.run, starts)

    def park(self, hold: Hold, waits: Sequence[Mapping[str, Any]], wake_ns: int, done: Any = None) -> None:
        """Nobody needs to carry it before `wake_ns`: each of `waits` says what a step waits for."""
        with self._database.transaction() as tx:
            check(tx, hold)
            _did(tx, hold.run, done)
            tx.run(
                "UPDATE runs SET state = CASE detached WHEN 1 THEN 'waiting' ELSE 'running' END, waits = ?,"
                " wake_ns = ? WHERE id = ?",
                (json.dumps(list(waits)), wake_ns, hold.run),
            )
            told = {"for": ", ".join(str(one.get("for", "")) for one in waits)[:500]}
            event.record(tx, Event("run.waits", hold.run, "", told))

    def hand_back(self, hold: Hold) -> None:
        """A worker that ends leaves it to the next one."""
        with self._database.transaction() as tx:
            check(tx, hold)
            _requeue(tx, hold.run, "handed back")

    def end(self, hold: Hold, actor: Actor, error: Mapping[str, Any] | None = None, done: Any = None) -> None:
        """How it ended, once: what is said later of an ended run is Conflict.  `error` of code `cancelled` is that."""
        error = error or {}
        state = RunState.FAILED if error else RunState.DONE
        if error.get("code") == "cancelled":
            state = RunState.CANCELLED
        with self._database.transaction() as tx:
            check(tx, hold)
            _did(tx, hold.run, done)
            tx.run(
                "UPDATE runs SET state = ?, ended_ns = ?, error = ?, waits = '[]', wake_ns = 0 WHERE id = ?",
                (state.value, tx.now_ns, json.dumps(error), hold.run),
            )
            event.record(tx, Event(f"run.{state.value}", hold.run, actor.name, {"code": error.get("code", "")}))

    # ---------------------------------------------------------------------------------------- words of others

    def cancel(self, id: str, actor: Actor) -> RunState:
        """Ask that it ends: at once where nobody carries it, else when its holder hears of it.  The state now."""
        alive = self._alive(id)
        with self._database.transaction() as tx:
            row = tx.one("SELECT state, detached FROM runs WHERE id = ?", (id,))
            if row is None:
                raise _absent(id)
            state, detached = RunState(row[0]), bool(row[1])
            if state in ENDED:
                raise _not_so(id, f"is {state.value} already")
            carried = state is RunState.RUNNING and (detached or alive)
            if carried:
                tx.run("UPDATE runs SET cancel = 1 WHERE id = ?", (id,))
            else:
                state = RunState.CANCELLED
                error = {"kind": "conflict", "code": "cancelled", "message": f"cancelled by {actor.name}"}
                tx.run(
                    "UPDATE runs SET state = 'cancelled', cancel = 1, epoch = epoch + 1, ended_ns = ?, error = ?,"
                    " waits = '[]' WHERE id = ?",
                    (tx.now_ns, json.dumps(error), id),
                )
            event.record(tx, Event("run.cancelling" if carried else "run.cancelled", id, actor.name, {}))
        return state

    def requeue(self, id: str, actor: Actor) -> RunState:
        """Leave to the workers a run that broke off, failed or was cancelled; Conflict where somebody carries it, it is
        queued, or done."""
        alive = self._alive(id)
        with self._database.transaction() as tx:
            row = tx.one("SELECT state, detached FROM runs WHERE id = ?", (id,))
            if row is None:
                raise _absent(id)
            carried = row[0] == RunState.RUNNING and (row[1] or alive)
            if carried or row[0] in (RunState.DONE, RunState.QUEUED):
                raise _not_so(id, f"is {row[0]}")
            tx.run("UPDATE runs SET detached = 1, cancel = 0, ended_ns = 0, error = '{}' WHERE id = ?", (id,))
            _requeue(tx, id, f"asked by {actor.name}")
        return RunState.QUEUED

    def orphan(self, tx: Tx, slot: str) -> list[str]:
        """Queue again what a slot carried whose worker is gone: whoever held it holds nothing any more.  Their ids."""
        rows = tx.all("SELECT id FROM runs WHERE slot = ? AND state = 'running' AND detached = 1", (slot,))
        for (id,) in rows:
            _requeue(tx, id, f"{slot} is gone")
        return [id for (id,) in rows]

    def has(self, slot: str) -> bool:
        """Whether a slot carries a run, as far as the records say."""
        sql = "SELECT 1 FROM runs WHERE slot = ? AND state = 'running' AND detached = 1"
        return self._database.one(sql, (slot,)) is not None

    def cancelling(self, id: str) -> bool:
        """Whether somebody wants it to end."""
        row = self._database.one("SELECT cancel FROM runs WHERE id = ?", (id,))
        return bool(row and row[0])

    # ------------------------------------------------------------------------------------------------ looking

    def get(self, id: str) -> Run:
        """One run with its steps; NotFound."""
        row = self._database.one(_SELECT + " WHERE id = ?", (id,))
        if row is None:
            raise _absent(id)
        return self._run(row, self._steps([id]).get(id, {}))

    def list(self, limit: int = 20, states: Sequence[RunState] = ()) -> list[Run]:
        """The newest runs, newest first."""
        marks = ", ".join("?" for _ in states)
        where = f" WHERE state IN ({marks})" if states else ""
        values = (*(s.value for s in states), limit)
        rows = self._database.all(f"{_SELECT}{where} ORDER BY id DESC LIMIT ?", values)
        steps = self._steps([row[0] for row in rows])
        return [self._run(row, steps.get(row[0], {})) for row in rows]

    def _steps(self, ids: Sequence[str]) -> dict[str, dict[str, StepRecord]]:
        """The steps of some runs, by run and name."""
        marks, found = ", ".join("?" for _ in ids), dict[str, dict[str, StepRecord]]()
        sql = "SELECT run, step, state, attempts, began_ns, ended_ns, answer FROM steps"
        where = f" WHERE run IN ({marks}) ORDER BY began_ns, step"
        for run, name, state, attempts, began, ended, answer in self._database.all(sql + where, ids) if ids else ():
            one = StepRecord(name, state, attempts, began, ended, json.loads(answer))
            found.setdefault(run, {})[name] = one
        return found

    def waiting(self) -> tuple[int, int]:
        """(runs that a worker may claim now or later, the earliest time of one in nanoseconds or 0)."""
        sql = "SELECT count(*), min(wake_ns) FROM runs WHERE state IN ('queued', 'waiting') AND detached = 1"
        row = self._database.one(sql)
        return (int(row[0]), int(row[1] or 0)) if row else (0, 0)

    def prune(self, before_ns: int) -> int:
        """Forget the steps of runs that ended before a time; the runs stay, lineage names them.  How many steps."""
        with self._database.transaction() as tx:
            ended = "SELECT id FROM runs WHERE ended_ns > 0 AND ended_ns < ?"
            return tx.run(f"DELETE FROM steps WHERE run IN ({ended})", (before_ns,))  # noqa: S608 - no outside text

    def _run(self, row: Row, steps: Mapping[str, StepRecord]) -> Run:
        if row[5] == RunState.RUNNING and not row[10] and not self._alive(row[0]):
            row = self._database.one(_SELECT + " WHERE id = ?", row[:1]) or row  # it may have ended between two looks
            if row[5] == RunState.RUNNING:
                row = (*row[:5], RunState.BROKEN_OFF.value, *row[6:])
        id, plan, actor, behalf, project, state, started, ended, results, error = row[:10]
        detached, slot, epoch, wake, waits, cancel, cwd = row[10:]
        answers = {name: one.answer for name, one in steps.items() if one.state == "done"}
        return Run(
            id,
            json.loads(plan),
            actor,
            behalf,
            project,
            RunState(state),
            started,
            ended,
            {**json.loads(results), **answers},
            json.loads(error),
            bool(detached),
            slot,
            epoch,
            wake,
            json.loads(waits),
            bool(cancel),
            cwd,
            steps,
        )

    def _alive(self, id: str) -> bool:
        return self._locks.is_held(f"run-{id}")


def check(tx: Tx, hold: Hold) -> None:
    """Whether a holder still holds its run: `Stop` where it was taken over, Conflict where it has ended."""
    row = tx.one("SELECT state, epoch FROM runs WHERE id = ?", (hold.run,))
    if row is None or row[1] != hold.epoch:
        raise Stop("taken-over")
    if row[0] != RunState.RUNNING:
        raise _not_so(hold.run, f"is {row[0]} already")


def _insert(tx: Tx, id: str, plan: Plan, actor: Actor, cwd: str, *, detached: bool) -> None:
    state, epoch = ("queued", 0) if detached else ("running", 1)
    tx.run(
        "INSERT INTO runs (id, plan, actor, behalf, project, state, started_ns, ended_ns, results, error, detached,"
        " epoch, cwd) VALUES (?, ?, ?, ?, 'local', ?, ?, 0, '{}', '{}', ?, ?, ?)",
        (id, json.dumps(plan.to_json()), actor.name, actor.on_behalf_of, state, tx.now_ns, int(detached), epoch, cwd),
    )
    event.record(tx, Event("run.queued" if detached else "run.started", id, actor.name, {"plan": plan.name}))


def _start(tx: Tx, run: str, step: str) -> None:
    if step:
        tx.run(
            "INSERT INTO steps (run, step, state, attempts, began_ns, ended_ns, answer) VALUES"
            " (?, ?, 'running', 1, ?, 0, '{}') ON CONFLICT (run, step) DO UPDATE SET attempts = steps.attempts + 1",
            (run, step, tx.now_ns),
        )


def _did(tx: Tx, run: str, done: tuple[str, Mapping[str, Any]] | None) -> None:
    if done:
        sql = "UPDATE steps SET state = 'done', ended_ns = ?, answer = ? WHERE run = ? AND step = ?"
        tx.run(sql, (tx.now_ns, json.dumps(done[1]), run, done[0]))


def _requeue(tx: Tx, id: str, why: str) -> None:
    tx.run("UPDATE runs SET state = 'queued', slot = '', epoch = epoch + 1, wake_ns = 0 WHERE id = ?", (id,))
    event.record(tx, Event("run.queued", id, "", {"why": why}))


def _absent(id: str) -> NotFound:
    return NotFound(f"no run {id[:100]}", code="no-run", run=id[:100], remedy="look at dls status")


def _not_so(id: str, how: str) -> Conflict:
    return Conflict(
        f"the run {id[:100]} {how}", code="run-ended", run=id[:100], remedy=f"look at dls status {id[:100]}"
    )


_READY = (
    "SELECT id, epoch FROM runs WHERE state IN ('queued', 'waiting') AND detached = 1 AND wake_ns <= ?"
    " ORDER BY wake_ns, id LIMIT 1"
)
_SELECT = (
    "SELECT id, plan, actor, behalf, project, state, started_ns, ended_ns, results, error, detached, slot, epoch,"
    " wake_ns, waits, cancel, cwd FROM runs"
)
