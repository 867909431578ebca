"""Needs: one content wanted on one storage, unique while open, with every run that waits: two requests, one copy.

    with needs.claim(content, "scratch/default", run, on_wait=tell) as claim:   # waits while another run copies it
        if not claim.done:
            … copy …
            claim.finish({"buffer": buffer.id})
    claim.result

Whoever holds a need holds a lock (`dls.logistics.locks`), which is freed at its death, however it dies; the next one
in line then takes over.  Each hold has an epoch: what an overtaken holder says later is refused, so a lock that was
broken, or lost with the connection to a server, costs work and never a fact.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import StrEnum
from types import TracebackType
from typing import Any, Self

from dls.logistics import event, ids
from dls.logistics.database import Database, Row, Tx
from dls.logistics.errors import Conflict, DlsError, Invalid, NotFound, Unavailable
from dls.logistics.event import Event
from dls.logistics.frozen import frozen
from dls.logistics.locks import Lock, Locks

SLICE_S = 0.2
"""Longest sleep between two looks at the lock: a waiter answers to Ctrl-C and sees a new holder within it."""

MIGRATIONS = (
    """
    CREATE TABLE needs (
        id        TEXT PRIMARY KEY,      -- ULID
        content   BLOB NOT NULL,         -- manifest digest, or the source where no digest is known yet
        storage   TEXT NOT NULL,
        state     TEXT NOT NULL,         -- open | done | failed
        holder    TEXT NOT NULL,         -- the run that works on it, or did last; empty before the first
        epoch     INTEGER NOT NULL,      -- holds so far
        result    TEXT NOT NULL,         -- JSON, what the holder found or made
        error     TEXT NOT NULL,         -- JSON of the last failure
        opened_ns INTEGER NOT NULL,
        closed_ns INTEGER NOT NULL
    );
    CREATE UNIQUE INDEX needs_open ON needs (content, storage) WHERE state = 'open';
    CREATE TABLE need_runs (
        need     TEXT NOT NULL,
        run      TEXT NOT NULL,          -- asked for it
        asked_ns INTEGER NOT NULL,
        gave_up  INTEGER NOT NULL,       -- failed, or stopped waiting
        PRIMARY KEY (need, run)
    )
    """,
    """
    ALTER TABLE needs ADD COLUMN broken INTEGER NOT NULL DEFAULT 0    -- holds that were taken from a hanging process
    """,
)


class NeedState(StrEnum):
    """Where a need is in its life."""

    OPEN = "open"
    DONE = "done"
    FAILED = "failed"
    """Everybody who asked for it failed or gave up."""


@frozen
class Need:
    """One content wanted on one storage."""

    id: str
    content: bytes
    storage: str
    state: NeedState
    holder: str
    """The run that works on it, or did last; '' before the first."""
    epoch: int
    result: dict[str, Any]
    error: dict[str, Any]
    """Why the last holder that failed did so; {} where none."""
    opened_ns: int
    closed_ns: int
    runs: tuple[str, ...] = ()
    """Every run that asked for it, first come first."""


class Needs:
    """The needs of one installation; all its processes see `locks`."""

    def __init__(self, database: Database, locks: Locks) -> None:
        self._database = database
        self._locks = locks
        event.prepare(database)
        database.migrate("need", MIGRATIONS)

    def claim(
        self,
        content: bytes,
        storage: str,
        run: str,
        *,
        timeout: float | None = None,
        on_wait: Callable[[str], None] | None = None,
        alive: Callable[[], None] | None = None,
    ) -> Claim:
        """Ask for a content on a storage: joins the open need, or opens one.  Entering the claim waits for it, and ends
        with what `alive` raises."""
        if not content or not run:
            raise Invalid("a need has a content and a run that asks for it", code="bad-need")
        wanted = (content, storage, run)
        return Claim(self, self._join(*wanted), wanted, timeout, on_wait, alive)

    def open(self, id: str) -> Need:
        """The need, in whatever state; NotFound."""
        row = self._database.one(_SELECT + " WHERE id = ?", (id,))
        if not row:
            raise NotFound(f"no such need: {id[:200]}", code="no-need", need=id[:200])
        return self._need(row)

    def list(self) -> tuple[Need, ...]:
        """Open needs, oldest first."""
        return tuple(self._need(row) for row in self._database.all(_SELECT + " WHERE state = 'open' ORDER BY id"))

    def _need(self, row: Row) -> Need:
        sql = "SELECT run FROM need_runs WHERE need = ? ORDER BY asked_ns, run"
        runs = tuple(run for (run,) in self._database.all(sql, (row[0],)))
        id, content, storage, state, holder, epoch, result, error, opened_ns, closed_ns = row
        known = json.loads(result), json.loads(error)
        return Need(id, content, storage, NeedState(state), holder, epoch, *known, opened_ns, closed_ns, runs)

    # ------------------------------------------------------------------------------------ steps of a claim

    def _join(self, content: bytes, storage: str, run: str) -> str:
        """The id of the open need, with this run among those that ask."""
        with self._database.transaction() as tx:
            sql = "SELECT id FROM needs WHERE content = ? AND storage = ? AND state = 'open'"
            row = tx.one(sql, (content, storage))
            id = row[0] if row else ids.ulid()
            if not row:
                tx.run(
                    "INSERT INTO needs (id, content, storage, state, holder, epoch, result, error, opened_ns,"
                    " closed_ns) VALUES (?, ?, ?, 'open', '', 0, '{}', '{}', ?, 0)",
                    (id, content, storage, tx.now_ns),
                )
            tx.run(
                "INSERT INTO need_runs (need, run, asked_ns, gave_up) VALUES (?, ?, ?, 0)"
                " ON CONFLICT (need, run) DO UPDATE SET gave_up = 0",
                (id, run, tx.now_ns),
            )
            kind = "need.joined" if row else "need.opened"
            event.record(tx, Event(kind, id, run, {"storage": storage, "content": content.hex()[:64]}))
        return id

    def break_holds(self, tx: Tx, runs: Sequence[str]) -> None:
        """Within a change that takes runs from processes that hang: what they hold is free for the next one."""
        for run in runs:
            tx.run("UPDATE needs SET broken = broken + 1 WHERE holder = ? AND state = 'open'", (run,))

    def break_(self, id: str) -> None:
        """Take the need from whoever holds it and hangs."""
        with self._database.transaction() as tx:
            tx.run("UPDATE needs SET broken = broken + 1 WHERE id = ? AND state = 'open'", (id,))

    def _lock_name(self, id: str) -> str:
        """The lock of a need: another one each time that it was taken from a process that hung."""
        row = self._database.one("SELECT broken FROM needs WHERE id = ?", (id,))
        return f"need-{id}-{row[0]}" if row and row[0] else f"need-{id}"

    def _take(self, id: str, run: str) -> int:
        """With the lock held: the epoch of the new hold, or 0 where the need is closed."""
        with self._database.transaction() as tx:
            sql = "UPDATE needs SET holder = ?, epoch = epoch + 1 WHERE id = ? AND state = 'open'"
            if not tx.run(sql, (run, id)):
                return 0
            row = tx.one("SELECT epoch FROM needs WHERE id = ?", (id,))
            epoch = int(row[0]) if row else 0
            event.record(tx, Event("need.held" if epoch == 1 else "need.taken-over", id, run, {"epoch": epoch}))
            return epoch

    def _finish(self, claim: Claim, result: dict[str, Any]) -> None:
        with self._database.transaction() as tx:
            said = (json.dumps(result, sort_keys=True), tx.now_ns, claim.id, claim.epoch)
            sql = "UPDATE needs SET state = 'done', result = ?, closed_ns = ? WHERE id = ? AND epoch = ?"
            if not tx.run(sql + " AND state = 'open'", said):
                raise Conflict(
                    f"the need {claim.id} was taken over by another run",
                    code="need-taken",
                    need=claim.id,
                    run=claim.run,
                    remedy="run the same again: it takes what the other run made",
                )
            event.record(tx, Event("need.done", claim.id, claim.run, {"epoch": claim.epoch}))

    def _fail(self, claim: Claim, error: dict[str, Any]) -> bool:
        """The need stays open for the others that asked; it is closed (True) where there are none."""
        with self._database.transaction() as tx:
            tx.run("UPDATE need_runs SET gave_up = 1 WHERE need = ? AND run = ?", (claim.id, claim.run))
            others = tx.one("SELECT 1 FROM need_runs WHERE need = ? AND gave_up = 0", (claim.id,))
            state, closed_ns = ("open", 0) if others else ("failed", tx.now_ns)
            said = (state, json.dumps(error, sort_keys=True), closed_ns, claim.id, claim.epoch)
            sql = "UPDATE needs SET state = ?, error = ?, closed_ns = ? WHERE id = ? AND epoch = ? AND state = 'open'"
            if tx.run(sql, said):
                told = {"epoch": claim.epoch, "left": bool(others)}
                event.record(tx, Event("need.failed", claim.id, claim.run, told))
            return not others

    def _give_up(self, claim: Claim) -> None:
        """Stop waiting: a holder that fails need not leave it open for this run."""
        with self._database.transaction() as tx:
            tx.run("UPDATE need_runs SET gave_up = 1 WHERE need = ? AND run = ?", (claim.id, claim.run))


class Claim:
    """One run's claim on a need.  After `wait` it is either `done`, or held by us until `finish`, `failed` or death."""

    def __init__(
        self,
        needs: Needs,
        id: str,
        wanted: tuple[bytes, str, str],
        timeout: float | None = None,
        on_wait: Callable[[str], None] | None = None,
        alive: Callable[[], None] | None = None,
    ) -> None:
        self._needs = needs
        self._wanted = wanted
        self.id = id
        self.run = wanted[2]
        self.epoch = 0
        """Of our hold; 0 while we hold nothing."""
        self.done = False
        self.result: dict[str, Any] = {}
        """What the holder that finished it said."""
        self.error: dict[str, Any] = {}
        """Why the holder before us failed; {} where it died or there was none."""
        self._timeout = timeout
        self._on_wait = on_wait
        self._alive = alive
        self._lock: Lock | None = None

    @property
    def is_held(self) -> bool:
        """Whether the work is ours to do."""
        return self.epoch > 0

    @property
    def lost(self) -> bool:
        """Whether our lock was broken or went with its server: another may have taken over, and then we are refused."""
        return self._lock is not None and self._lock.lost

    def wait(self, timeout: float | None = None, on_wait: Callable[[str], None] | None = None) -> None:
        """Until it is done or ours.  `on_wait(run)` names each holder that is waited for; `timeout` in seconds,
        None for ever: Unavailable `need-busy` after it."""
        until = None if timeout is None else time.monotonic() + timeout
        while not (self.done or self.is_held):
            try:
                self._lock = self._acquire(until, on_wait)
                self.epoch = self._needs._take(self.id, self.run)
                need = self._needs.open(self.id)
            except BaseException:
                self._unlock()
                with suppress(DlsError):
                    self._needs._give_up(self)
                raise
            self.error = need.error
            if self.epoch:
                return
            self.done, self.result = need.state is NeedState.DONE, need.result
            self._unlock(forget=True)
            if not self.done:  # closed as failed by another process of this same run
                self.id = self._needs._join(*self._wanted)

    def _acquire(self, until: float | None, on_wait: Callable[[str], None] | None) -> Lock:
        pause, told = 0.005, ""
        while True:
            name = self._needs._lock_name(self.id)
            lock = self._needs._locks.try_hold(name)
            if lock is not None:
                if self._needs._lock_name(self.id) == name:
                    return lock
                lock.release()
                continue
            if self._alive is not None:
                self._alive()
            holder = self._needs.open(self.id).holder
            if holder and holder != told and on_wait:
                on_wait(holder)
            told = holder
            left = SLICE_S if until is None else until - time.monotonic()
            if left <= 0:
                raise Unavailable(
                    f"the run {holder or 'of another process'} still works on the same content",
                    code="need-busy",
                    need=self.id,
                    run=holder,
                    remedy=f"wait for it: dls status {holder}".rstrip(),
                )
            time.sleep(min(pause, left))
            pause = min(pause * 2, SLICE_S)

    def finish(self, result: dict[str, Any]) -> None:
        """The content is there: everybody who waits gets `result` (JSON, references only)."""
        self._must_hold()
        self._needs._finish(self, result)
        self.done, self.result = True, result
        self._unlock(forget=True)

    def failed(self, error: dict[str, Any]) -> None:
        """We could not: the next that waits tries for itself, and is shown why."""
        self._must_hold()
        closed = False
        try:
            closed = self._needs._fail(self, error)
        finally:
            self._unlock(forget=closed)

    def _must_hold(self) -> None:
        if not self.is_held:
            raise Conflict(f"the need {self.id} is not held by {self.run}", code="need-not-held", need=self.id)

    def _unlock(self, *, forget: bool = False) -> None:
        """A closed need is never opened again, so what its lock left behind may go."""
        self.epoch = 0
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.release(forget=forget)

    def __enter__(self) -> Self:
        self.wait(self._timeout, self._on_wait)
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, _: TracebackType | None) -> None:
        if not self.is_held:
            return
        if isinstance(exc, DlsError):
            self.failed(exc.to_json())
        else:
            name = "left unfinished" if kind is None else kind.__name__
            self.failed({"kind": "interrupted", "message": name})


_SELECT = "SELECT id, content, storage, state, holder, epoch, result, error, opened_ns, closed_ns FROM needs"
