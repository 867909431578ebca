"""The Engine seam: what carries runs.  `Durable` carries them through whatever happens, with the house's own database
as its only memory (why not a workflow library: decision 0007); one of virtual time (the twin) will stand beside it.

A plan goes through JSON (`plan.plan_from`), a step is repeated without harm within its run (the same `Context.run` and
`Context.step`), answers are small JSON, and what runs is chosen from a list that the code has.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

from dls.logistics.actor import Actor
from dls.logistics.errors import Conflict, DlsError, Stop
from dls.madpp.action import Context, bounded
from dls.madpp.carry import Carried
from dls.madpp.execution import Hold, Run, RunState
from dls.madpp.plan import Plan, gravest, plan_from, prove
from dls.madpp.runs import Runs

SLICE_S = 0.2


class Engine(Protocol):
    """Carries runs."""

    def submit(self, plan: Plan, context: Context) -> Run:
        """Prove the plan, then carry it out here; the run as it ended.  The error that ended it is raised."""
        ...

    def enqueue(self, plan: Plan, context: Context) -> Run:
        """Prove the plan and leave it to the workers; the run as it is queued."""
        ...

    def resume(self, id: str, context: Context) -> Run:
        """Carry on here a run that nobody carries; the run as it ended."""
        ...

    def cancel(self, id: str, actor: Actor) -> RunState:
        """Ask a run to end; its state now."""
        ...


class Durable:
    """Runs in the database.  Killed anywhere, a run goes on where its last answer was kept."""

    def __init__(self, runs: Runs, sleep: Callable[[float], None] | None = None) -> None:
        """`sleep` waits for some seconds; the default wakes often to hear whether the run was cancelled."""
        self.runs, self.sleep = runs, sleep

    def submit(self, plan: Plan, context: Context) -> Run:
        """Prove, record, run, record."""
        _proven(plan, context)
        first = next((step.name for step in plan.order() if not step.after), "")
        with self.runs.begun(plan, context.actor, context.cwd, first) as hold:
            return self._here(hold, plan, context)

    def enqueue(self, plan: Plan, context: Context) -> Run:
        """Prove and queue."""
        _proven(plan, context)
        return self.runs.get(self.runs.add(plan, context.actor, context.cwd))

    def resume(self, id: str, context: Context) -> Run:
        """Take it up again where its last answer was kept."""
        with self.runs.resumed(id, context.actor) as hold:
            run = self.runs.get(id)
            return self._here(hold, plan_from(run.plan), replace(context, cwd=run.cwd))

    def cancel(self, id: str, actor: Actor) -> RunState:
        """At once where nobody carries it."""
        return self.runs.cancel(id, actor)

    def _here(self, hold: Hold, plan: Plan, context: Context) -> Run:
        here = replace(context, run=hold.run, options=replace(context.options, fence=self._fence(hold.run)))
        here.say("run", {"run": hold.run, "plan": plan.name})
        try:
            Carried(self.runs, hold, plan, here, _Waits(here, self.sleep)).go()
        except Stop as stop:
            if stop.why != "cancelled":
                raise
            error = Conflict(
                f"the run {hold.run} was cancelled",
                code="cancelled",
                run=hold.run,
                remedy=f"dls resume {hold.run} carries on where it stopped",
            )
            self.runs.end(hold, context.actor, bounded(error.to_json()))
            raise error from None
        except BaseException as exc:
            self.runs.end(hold, context.actor, told(exc))
            raise
        return self.runs.get(hold.run)

    def _fence(self, id: str) -> Callable[[], None]:
        """Asks at most once a second whether the run is to end."""
        due = [time.monotonic() + 1.0]

        def fence() -> None:
            if time.monotonic() >= due[0]:
                due[0] = time.monotonic() + 1.0
                if self.runs.cancelling(id):
                    raise Stop("cancelled")

        return fence


class _Waits:
    """Whoever asked sits there and waits; an error is theirs to judge."""

    def __init__(self, context: Context, sleep: Callable[[float], None] | None) -> None:
        self._context, self._sleep = context, sleep

    def again(self, error: DlsError, failures: int) -> float | None:
        return None

    def rest(self, wake_ns: int) -> bool:
        while (left := (wake_ns - self._context.now()) / 1e9) > 0:
            self._context.options.fence()
            if self._sleep is None:
                time.sleep(min(left, SLICE_S))
            else:
                self._sleep(left)
        return True


def _proven(plan: Plan, context: Context) -> None:
    problem = gravest(prove(plan, context))
    if problem is not None:
        raise problem


def told(exc: BaseException) -> dict[str, Any]:
    """What is kept of the end of a run: our errors in full; of others their kind, for a text may hold a secret."""
    if isinstance(exc, DlsError):
        return bounded(exc.to_json())
    if isinstance(exc, KeyboardInterrupt | SystemExit):
        return {"kind": "interrupted", "code": "interrupted", "message": "interrupted"}
    return {"kind": "bug", "code": "bug", "message": type(exc).__name__, "remedy": "report it"}
