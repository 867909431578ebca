"""Workers: processes that carry queued runs, one at a time each, any number on any machine that reaches the state.

What a worker writes is fenced: every write transaction asks first whether the run is still its own, and every transfer
asks before it publishes.  After a run that was taken away (or that left a hanging thread behind) the process begins
anew from its first instruction, so that nothing of the old run is left in it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from dls.logistics.actor import Actor
from dls.logistics.database import Database, Tx
from dls.logistics.errors import Conflict, DlsError, Stop
from dls.logistics.transfer.progress import Progress
from dls.madpp.action import Context, bounded
from dls.madpp.carry import Carried
from dls.madpp.engine import told
from dls.madpp.execution import Hold
from dls.madpp.plan import plan_from
from dls.madpp.runs import Runs, check
from dls.madpp.slots import Slot, Slots, clock

AWAY: Final = frozenset({"no-state", "commit-unknown", "state-busy"})
"""The database could not be asked, or its answer was lost."""
POLL_S: Final = 0.05
TRIES: Final = 8
"""How often a step that fails in a way that may pass is tried; 1, 2, 4 … 60 s apart, about three minutes in all."""
_LONGEST_S: Final = 60.0
PRUNE_S: Final = 3600.0
KEEP_STEPS_NS: Final = 30 * 86_400 * 10**9

Tell = Callable[[str, Mapping[str, Any]], None]


class Fence:
    """The right of this process to go on with one run."""

    def __init__(self, worker: Worker, hold: Hold) -> None:
        self._worker, self._hold = worker, hold
        self.why = ""
        """Why it has to stop."""

    def __call__(self) -> None:
        """Raise `Stop` where the right is lost; cheap enough to be asked for every chunk."""
        if self.why:
            raise Stop(self.why)
        if clock() >= self._worker.slot.until:
            self._ask()

    def _ask(self) -> None:
        """The lease may have run out while we were stopped: nothing is done until the database says that we hold it."""
        while True:
            try:
                self._worker.slots.renew(self._worker.slot)
                return
            except Stop as stop:
                self.why = stop.why
                raise
            except DlsError:  # the database is away: nobody can have taken anything meanwhile that we may not wait for
                time.sleep(POLL_S)
            if self.why:
                raise Stop(self.why)

    def guard(self, tx: Tx) -> None:
        """Asked within each write transaction.  Cancelled or draining, it is still ours: what is let go says so."""
        check(tx, self._hold)


@dataclass
class Worker:
    """One worker process.  `database` is that which `context` and `runs` write to; `slots` uses another one."""

    database: Database
    runs: Runs
    slots: Slots
    context: Context
    host: str
    tell: Tell
    own: Runs
    """Runs by the other database, for the thread that keeps the lease."""
    opened: Callable[[Context], Any]
    """Context manager: the context with stores that are closed at its end."""
    freed: Callable[[Tx, list[str]], None] | None = None
    grace_s: float = 20.0
    """How long the run under way may go on after `drain`."""
    slot: Slot = field(init=False)
    _drain: float = field(default=0.0, init=False)
    _lost: bool = field(default=False, init=False)
    _fence: Fence | None = field(default=None, init=False)
    _hold: Hold | None = field(default=None, init=False)
    _over: threading.Event = field(default_factory=threading.Event, init=False)
    _renewed: float = field(default=0.0, init=False)
    _pruned: float = field(default=-PRUNE_S, init=False)

    def drain(self) -> None:
        """Take nothing new; end when what is under way has ended, or after the grace (called by a signal)."""
        self._drain = self._drain or clock() + self.grace_s

    @property
    def draining(self) -> bool:
        """Whether it was told to end."""
        return self._drain > 0

    def work(self, *, once: bool = False) -> bool:
        """Carry runs until drained, or with `once` until none is left that could go on now.  True where the process has
        to begin anew."""
        self.slot = self.slots.take(self.host, self.own)
        self._renewed = clock()
        self.tell("worker", {"slot": self.slot.name, "text": f"works as {self.slot.name}"})
        keeper = threading.Thread(target=self._keep, name="dls-lease", daemon=True)
        keeper.start()
        try:
            again = self._work(once)
        except Stop:  # the slot was taken
            again = True
        finally:
            self._over.set()
            keeper.join()
            self.slots.leave(self.slot)
        return again and not self._drain

    def _work(self, once: bool) -> bool:
        bury = 0.0
        while not self._drain and not self._lost:
            try:
                if clock() >= bury:
                    bury = clock() + self.slots.lease_s / 5
                    self._bury()
                hold = self.runs.claim(self.slot.name, lambda tx: self.slots.still(tx, self.slot))
            except DlsError as exc:
                self.tell("note", {"text": f"the state cannot be reached: {exc.message}", "code": exc.code})
                time.sleep(1.0)
                continue
            if hold is None:
                if once:
                    return False
                time.sleep(POLL_S)
            elif not self._carry(hold):
                return True
        return self._lost

    def _bury(self) -> None:
        self.slots.tidy(self.slot, self.own)
        for id in self.slots.bury(self.own, self.slot.name, self.freed):
            self.tell("handed-over", {"run": id, "text": f"run {id} was left by a worker that is gone; queued again"})
        if clock() >= self._pruned + PRUNE_S:
            self._pruned = clock()
            self.own.prune(self.context.now() - KEEP_STEPS_NS)

    # -------------------------------------------------------------------------------------------- one run

    def _carry(self, hold: Hold) -> bool:
        """One run; False where something of it may be left in this process."""
        fence = Fence(self, hold)
        self._fence, self._hold, self.database.guard = fence, hold, fence.guard
        began, error, clean = clock(), {}, True
        state = "gone"
        try:
            run = self.runs.get(hold.run)
            options = replace(self.context.options, fence=fence)
            actor = replace(self.context.actor, name=run.actor, on_behalf_of=run.on_behalf_of)
            here = replace(self.context, run=run.id, actor=actor, cwd=run.cwd, options=options, progress=Progress())
            try:
                with self.opened(here) as context:
                    context.say("run", {"run": run.id, "plan": run.plan["name"], "epoch": hold.epoch})
                    done = Carried(self.runs, hold, plan_from(run.plan), context, Retries()).go()
                state = "done" if done else "waiting"
            except Exception as exc:  # noqa: BLE001 - a bug in one run must not end the others
                error = told(exc)
                clean = error.get("code") != "stalled"
                if error.get("code") in AWAY:  # not of a step: those are tried again
                    self._insist(lambda: self.runs.hand_back(hold))
                    state = "handed back"
                else:
                    self._insist(lambda: self.runs.end(hold, actor, error))
                    state = "failed"
        except Stop as stop:
            clean, state = False, self._stopped(stop, hold)
        except DlsError as exc:  # the state could not be reached for long, or somebody ended the run
            error, clean = told(exc), False
        finally:
            self.database.guard = self._fence = self._hold = None
        seconds = round(clock() - began, 3)
        self.tell("ended", {"run": hold.run, "state": state, "code": error.get("code", ""), "seconds": seconds})
        return clean

    def _stopped(self, stop: Stop, hold: Hold) -> str:
        """What becomes of a run that was stopped; the guard is taken away, for the fence lets nothing through."""
        self.database.guard = None
        if stop.why == "draining":
            self._insist(lambda: self.runs.hand_back(hold))
            return "handed back"
        if stop.why == "cancelled":
            error = Conflict(
                f"the run {hold.run} was cancelled",
                code="cancelled",
                run=hold.run,
                remedy=f"dls resume {hold.run} carries on where it stopped",
            )
            self._insist(lambda: self.runs.end(hold, Actor(self.slot.name), bounded(error.to_json())))
            return "cancelled"
        return "taken over"

    def _insist(self, say: Callable[[], None]) -> None:
        """Say it until the database has heard it, or somebody else has the run."""
        while True:
            try:
                say()
                return
            except Conflict:  # said already, and the answer was lost
                return
            except DlsError as exc:
                if self._drain and clock() > self._drain:
                    raise
                self.tell("note", {"text": f"the state cannot be reached: {exc.message}", "code": exc.code})
                time.sleep(1.0)

    # ------------------------------------------------------------------------------------------- the lease

    def _keep(self) -> None:
        """Renew the lease, hear of cancellations, see to it that draining ends.  In a thread of its own."""
        third = self.slots.lease_s / 3
        while not self._over.wait(min(0.5, third / 2)):
            fence, hold = self._fence, self._hold
            if self._drain and clock() > self._drain and fence is not None:
                fence.why = fence.why or "draining"
            try:
                if clock() >= self._renewed + third:
                    began = clock()
                    self.slots.renew(self.slot)
                    self._renewed = began
                if fence is not None and hold is not None and self.own.cancelling(hold.run):
                    fence.why = fence.why or "cancelled"
            except Stop as stop:
                if fence is not None:
                    fence.why = fence.why or stop.why
                self._lost = True
                return
            except DlsError:
                continue  # the database is away: the fence holds the work where the lease runs out


class Retries:
    """Nobody sits there: what may pass is tried again, what waits is left for later."""

    def again(self, error: DlsError, failures: int) -> float | None:
        """1, 2, 4 … seconds."""
        if not error.retryable or error.code == "command-failed" or failures >= TRIES:
            return None  # a command that fails does so for reasons of its own
        return min(_LONGEST_S, 2.0 ** (failures - 1))

    def rest(self, wake_ns: int) -> bool:
        """Never."""
        return False
