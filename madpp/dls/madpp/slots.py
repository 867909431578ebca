"""Slots: the places that workers work from, one process each, under a lease.

A worker holds its slot (`host-0`, `host-1`, …) twice: by a lock that the kernel frees at its death, and by a lease that
it renews.  A free lock says that it is dead, at once; a lease that ran out says that it hangs, or was cut off.  Either
way its runs go back to the queue and the slot's epoch rises; what it says later under the old one is refused.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from dls.logistics import event
from dls.logistics.database import Database, Tx
from dls.logistics.errors import Stop, Unavailable
from dls.logistics.event import Event
from dls.logistics.frozen import frozen
from dls.logistics.locks import Lock, Locks
from dls.madpp.runs import Runs

LEASE_S: Final = 15.0
_MOST: Final = 1000

MIGRATIONS = (
    """
    CREATE TABLE slots (
        name     TEXT PRIMARY KEY,       -- host-N
        epoch    INTEGER NOT NULL,       -- holds so far
        state    TEXT NOT NULL,          -- live | gone
        pid      INTEGER NOT NULL,
        taken_ns INTEGER NOT NULL,
        lease_ns INTEGER NOT NULL        -- by the database's clock: live until then unless it is renewed
    )
    """,
)


def clock() -> float:
    """Seconds that go on while the machine sleeps or the process is stopped."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(slots=True)
class Slot:
    """A slot that this process holds."""

    name: str
    epoch: int
    until: float
    """On `clock`: until then nobody else may have taken it."""
    lock: Lock


@frozen
class SlotFacts:
    """A slot as others see it."""

    name: str
    epoch: int
    state: str
    pid: int
    taken_ns: int
    lease_ns: int


class Slots:
    """The slots of one installation."""

    def __init__(self, database: Database, locks: Locks, lease_s: float = LEASE_S, patience_s: float = 0.0) -> None:
        """`patience_s`: how long a lock must be seen free until its holder counts as dead; the locks of a server come
        and go with it."""
        self._database, self._locks, self.lease_s, self._patience_s = database, locks, lease_s, patience_s
        self._free: dict[tuple[str, int], float] = {}
        event.prepare(database)
        database.migrate("slot", MIGRATIONS)

    def take(self, host: str, runs: Runs) -> Slot:
        """The first slot of this host that no process holds; what its last holder left is queued again."""
        for number in range(_MOST):
            name = f"{host}-{number}"
            lock = self._locks.try_hold(f"slot-{name}")
            if lock is None:
                continue
            try:
                began = clock()
                with self._database.transaction() as tx:
                    row = tx.one("SELECT epoch FROM slots WHERE name = ?", (name,))
                    epoch = (row[0] if row else 0) + 1
                    tx.run(
                        "INSERT INTO slots (name, epoch, state, pid, taken_ns, lease_ns) VALUES (?, ?, 'live', ?, ?, ?)"
                        " ON CONFLICT (name) DO UPDATE SET epoch = excluded.epoch, state = 'live', pid = excluded.pid,"
                        " taken_ns = excluded.taken_ns, lease_ns = excluded.lease_ns",
                        (name, epoch, os.getpid(), tx.now_ns, tx.now_ns + int(self.lease_s * 1e9)),
                    )
                    runs.orphan(tx, name)
                    event.record(tx, Event("worker.began", name, name, {"epoch": epoch}))
                return Slot(name, epoch, began + self.lease_s, lock)
            except BaseException:
                lock.release()
                raise
        raise Unavailable(f"all {_MOST} slots of {host} are held", code="no-slot", remedy="end a worker of this host")

    def renew(self, slot: Slot) -> None:
        """Hold it for another lease; `Stop` where it was taken from us."""
        began = clock()
        with self._database.transaction() as tx:
            until = tx.now_ns + int(self.lease_s * 1e9)
            sql = "UPDATE slots SET lease_ns = ? WHERE name = ? AND epoch = ? AND state = 'live'"
            if not tx.run(sql, (until, slot.name, slot.epoch)):
                raise Stop("taken-over")
        slot.until = max(slot.until, began + self.lease_s)
        if slot.lock.lost:  # the server was restarted: the slot is ours by its epoch, the lock has to be taken again
            slot.lock = self._locks.try_hold(f"slot-{slot.name}") or slot.lock

    def still(self, tx: Tx, slot: Slot) -> None:
        """Within a change: `Stop` where the slot was taken from us."""
        sql = "SELECT 1 FROM slots WHERE name = ? AND epoch = ? AND state = 'live'"
        if tx.one(sql, (slot.name, slot.epoch)) is None:
            raise Stop("taken-over")

    def tidy(self, slot: Slot, runs: Runs) -> list[str]:
        """Queue again what the records say that we carry, though we carry nothing: the answer to a claim was lost.
        Their ids."""
        if not runs.has(slot.name):
            return []
        with self._database.transaction() as tx:
            self.still(tx, slot)
            return runs.orphan(tx, slot.name)

    def leave(self, slot: Slot) -> None:
        """Give it back; idempotent."""
        try:
            with self._database.transaction() as tx:
                sql = "UPDATE slots SET state = 'gone' WHERE name = ? AND epoch = ? AND state = 'live'"
                if tx.run(sql, (slot.name, slot.epoch)):
                    event.record(tx, Event("worker.ended", slot.name, slot.name, {"epoch": slot.epoch}))
        finally:
            slot.lock.release()

    def bury(self, runs: Runs, by: str, freed: Callable[[Tx, list[str]], None] | None = None) -> list[str]:
        """Hand over what dead and hanging workers carried.  The ids of the runs; `freed` is told of them within the
        change, to free what else they hold."""
        sql = "SELECT name, epoch, lease_ns FROM slots WHERE state = 'live' AND name <> ? ORDER BY name"
        now, handed = self._database.now_ns(), list[str]()
        for name, epoch, lease_ns in self._database.all(sql, (by,)):
            if lease_ns >= now and not self._dead(name, epoch):
                continue
            with self._database.transaction() as tx:
                sql = "UPDATE slots SET state = 'gone' WHERE name = ? AND epoch = ? AND lease_ns = ? AND state = 'live'"
                if not tx.run(sql, (name, epoch, lease_ns)):
                    continue
                ids = runs.orphan(tx, name)
                if freed is not None:
                    freed(tx, ids)
                event.record(tx, Event("worker.lost", name, by, {"epoch": epoch, "runs": len(ids)}))
                handed += ids
        return handed

    def _dead(self, name: str, epoch: int) -> bool:
        if self._locks.is_held(f"slot-{name}"):
            self._free.pop((name, epoch), None)
            return False
        return clock() - self._free.setdefault((name, epoch), clock()) >= self._patience_s

    def list(self) -> list[SlotFacts]:
        """Slots that were ever held, by name."""
        sql = "SELECT name, epoch, state, pid, taken_ns, lease_ns FROM slots ORDER BY name"
        return [SlotFacts(*row) for row in self._database.all(sql)]
