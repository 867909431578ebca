"""The Engine seam: what carries a run.  This one carries it in the caller's own process, at once.

A durable engine (runs that any worker continues) and one of virtual time (the twin) will stand beside it.  What they
need is here already: a plan goes through JSON (`plan.plan_from`), a step is repeated without harm within its run (the
same `Context.run`), and answers are small JSON.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

from dls.logistics.errors import DlsError
from dls.madpp.action import Context, bounded
from dls.madpp.plan import Plan, gravest, prove
from dls.madpp.runs import Run, Runs


class Engine(Protocol):
    """Carries runs."""

    def submit(self, plan: Plan, context: Context) -> Run:
        """Prove the plan, then carry it out; the run as it ended.  The error that ended it is raised."""
        ...


class InPlace:
    """Carries a run here and now; steps one after the other.  Killed, the same plan submitted again continues its
    transfers and repeats no recorded fact."""

    def __init__(self, runs: Runs) -> None:
        self.runs = runs

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
                    results[step.name] = bounded(step.action.run(here))
            except BaseException as exc:
                self.runs.end(id, results, _told(exc), context.actor)
                raise
            self.runs.end(id, results, {}, context.actor)
            return self.runs.get(id)


def _told(exc: BaseException) -> dict[str, Any]:
    """What is kept of the end of a run: our errors in full; of others their kind, for a text may hold a secret."""
    if isinstance(exc, DlsError):
        return bounded(exc.to_json())
    if isinstance(exc, KeyboardInterrupt | SystemExit):
        return {"kind": "interrupted", "code": "interrupted", "message": "interrupted"}
    return {"kind": "bug", "code": "bug", "message": type(exc).__name__, "remedy": "report it"}
