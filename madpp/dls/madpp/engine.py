"""The Engine seam: what carries a run.  This one carries it in the caller's own process, at once.

A durable engine (runs that any worker continues) and one of virtual time (the twin) will stand beside it.  What they
need is here already: a plan goes through JSON (`plan.plan_from`), a step is repeated without harm within its run (the
same `Context.run`), and answers are small JSON.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

from dls.logistics.errors import Conflict, DlsError, Unsupported, worst
from dls.madpp.action import Context, Facts, NotYet, bounded
from dls.madpp.plan import Plan, Step, gravest, prove
from dls.madpp.runs import Run, Runs, RunState
from dls.madpp.todo import needless


class Engine(Protocol):
    """Carries runs."""

    def submit(self, plan: Plan, context: Context) -> Run:
        """Prove the plan, then carry it out; the run as it ended.  The error that ended it is raised."""
        ...

    def cancel(self, run: str, context: Context) -> Run:
        """End a run before its end; what was proven stays.  Unsupported where this engine cannot reach it."""
        ...


class InPlace:
    """Carries a run here and now; steps one after the other.  Killed, the same plan submitted again continues its
    transfers and repeats no recorded fact."""

    def __init__(self, runs: Runs, sleep: Callable[[float], None] = time.sleep) -> None:
        self.runs = runs
        self.sleep = sleep

    def submit(self, plan: Plan, context: Context) -> Run:
        """Prove, run, record."""
        problem = gravest(prove(plan, context))
        if problem is not None:
            raise problem
        results: dict[str, Any] = {}
        with self.runs.begun(plan, context.actor) as id:
            here = replace(context, run=id)
            here.say("run", {"run": id, "plan": plan.name})
            try:
                for step in plan.order():
                    results[step.name] = bounded(self._taken(plan, step, here))
            except BaseException as exc:
                self.runs.end(id, results, _told(exc), context.actor)
                raise
            self.runs.end(id, results, {}, context.actor)
            return self.runs.get(id)

    def cancel(self, run: str, context: Context) -> Run:
        """Runs of this engine live in the process that asked for them: only that one can end them."""
        found = self.runs.get(run)
        if found.state is not RunState.RUNNING:
            raise Conflict(
                f"the run {found.id} does not run: it is {found.state.value}", code="run-ended", run=found.id
            )
        raise Unsupported(
            f"the run {found.id} lives in another process",
            code="cannot-cancel",
            run=found.id,
            remedy="press Ctrl-C where it runs, or send that process SIGTERM: what is proven is kept",
        )

    def _taken(self, plan: Plan, step: Step, here: Context) -> Facts:
        """What a step answers; where it waits for something, it is asked again and again."""
        why = needless(plan, step, here)
        if why:
            return {"skipped": why}
        problem = worst(step.action.check(here)) if step.after else None  # what earlier steps promised is there now
        if problem is not None:
            raise problem
        waits = False
        while True:
            try:
                return step.action.run(here)
            except NotYet as exc:
                if not waits:
                    here.note(f"{step.name} waits for {exc.what}")
                waits = True
                self.sleep(exc.look_again_s)


def _told(exc: BaseException) -> dict[str, Any]:
    """What is kept of the end of a run: our errors in full; of others their kind, for a text may hold a secret."""
    if isinstance(exc, DlsError):
        return bounded(exc.to_json())
    if isinstance(exc, KeyboardInterrupt | SystemExit):
        return {"kind": "interrupted", "code": "interrupted", "message": "interrupted"}
    return {"kind": "bug", "code": "bug", "message": type(exc).__name__, "remedy": "report it"}
