"""Runs: one execution of a plan each, kept with who asked, what came of it, or why it failed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from dls.logistics import event, ids
from dls.logistics.actor import Actor
from dls.logistics.database import Database, Row
from dls.logistics.errors import Conflict, NotFound
from dls.logistics.event import Event
from dls.logistics.locks import Locks
from dls.madpp.plan import Plan

MIGRATIONS = (
    """
    CREATE TABLE runs (
        id         TEXT PRIMARY KEY,     -- ULID
        plan       TEXT NOT NULL,        -- JSON
        actor      TEXT NOT NULL,
        behalf     TEXT NOT NULL,        -- on behalf of whom
        project    TEXT NOT NULL,
        state      TEXT NOT NULL,        -- running | done | failed
        started_ns INTEGER NOT NULL,
        ended_ns   INTEGER NOT NULL,     -- 0 while running
        results    TEXT NOT NULL,        -- JSON: answer by step
        error      TEXT NOT NULL         -- JSON of the error that ended it, or {}
    )
    """,
)


class RunState(StrEnum):
    """Where a run is in its life."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    BROKEN_OFF = "broken off"
    """Its process ended without a word: asking for the same again continues the work."""


@dataclass(frozen=True, slots=True)
class Run:
    """One execution."""

    id: str
    plan: dict[str, Any]
    actor: str
    on_behalf_of: str
    project: str
    state: RunState
    started_ns: int
    ended_ns: int
    results: dict[str, Any]
    error: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The run as programs read it."""
        return {
            "run": self.id,
            "plan": self.plan,
            "actor": self.actor,
            "on_behalf_of": self.on_behalf_of,
            "project": self.project,
            "state": self.state.value,
            "started_ns": self.started_ns,
            "ended_ns": self.ended_ns,
            "results": self.results,
            "error": self.error,
        }


class Runs:
    """The runs of one installation.  A running one is alive while its process holds a lock, which its death frees."""

    def __init__(self, database: Database, locks: Locks) -> None:
        self._database = database
        self._locks = locks
        event.prepare(database)
        database.migrate("run", MIGRATIONS)

    @contextmanager
    def begun(self, plan: Plan, actor: Actor) -> Iterator[str]:
        """A new run, alive inside the block; its id."""
        id = ids.ulid()
        lock = self._locks.hold(f"run-{id}")
        try:
            with self._database.transaction() as tx:
                tx.run(
                    "INSERT INTO runs (id, plan, actor, behalf, project, state, started_ns, ended_ns, results, error)"
                    " VALUES (?, ?, ?, ?, 'local', 'running', ?, 0, '{}', '{}')",
                    (id, json.dumps(plan.to_json()), actor.name, actor.on_behalf_of, tx.now_ns),
                )
                event.record(tx, Event("run.started", id, actor.name, {"plan": plan.name}))
            yield id
        finally:
            lock.release(forget=True)

    def end(self, id: str, results: dict[str, Any], error: dict[str, Any], actor: Actor) -> None:
        """How it ended, once: what is said later of an ended run is Conflict."""
        state = RunState.FAILED if error else RunState.DONE
        with self._database.transaction() as tx:
            said = (state.value, tx.now_ns, json.dumps(results), json.dumps(error), id)
            sql = "UPDATE runs SET state = ?, ended_ns = ?, results = ?, error = ? WHERE id = ? AND state = 'running'"
            if not tx.run(sql, said):
                raise Conflict(f"the run {id[:100]} does not run", code="run-ended", run=id[:100])
            event.record(tx, Event(f"run.{state.value}", id, actor.name, {"code": error.get("code", "")}))

    def get(self, id: str) -> Run:
        """One run; NotFound."""
        row = self._database.one(_SELECT + " WHERE id = ?", (id,))
        if row is None:
            raise NotFound(f"no run {id[:100]}", code="no-run", run=id[:100], remedy="look at dls status")
        return self._run(row)

    def list(self, limit: int = 20) -> list[Run]:
        """The newest runs, newest first."""
        return [self._run(row) for row in self._database.all(_SELECT + " ORDER BY id DESC LIMIT ?", (limit,))]

    def _run(self, row: Row) -> Run:
        if row[5] == RunState.RUNNING and not self._alive(row[0]):
            row = self._database.one(_SELECT + " WHERE id = ?", row[:1]) or row  # it may have ended between two looks
            if row[5] == RunState.RUNNING:
                row = (*row[:5], RunState.BROKEN_OFF.value, *row[6:])
        id, plan, actor, behalf, project, state, started, ended, results, error = row
        now = RunState(state)
        return Run(
            id, json.loads(plan), actor, behalf, project, now, started, ended, json.loads(results), json.loads(error)
        )

    def _alive(self, id: str) -> bool:
        return self._locks.is_held(f"run-{id}")


_SELECT = "SELECT id, plan, actor, behalf, project, state, started_ns, ended_ns, results, error FROM runs"
