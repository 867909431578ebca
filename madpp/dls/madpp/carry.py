"""Carrying a run: its steps one after the other, each answer kept before the next step begins.

A step may be taken again (its process died after the work and before the answer was kept) and then changes nothing, by
the rules of actions.  A step that is `NotYet` possible does not hold up the others; where nothing else is left to do,
the run rests until the earliest of them is worth another look.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from dls.logistics.errors import DlsError, Unavailable, worst
from dls.madpp.action import Context, Facts, NotYet, bounded
from dls.madpp.execution import Hold
from dls.madpp.plan import Plan, Step
from dls.madpp.runs import Runs
from dls.madpp.todo import needless


class Patience(Protocol):
    """What whoever carries a run does about time."""

    def again(self, error: DlsError, failures: int) -> float | None:
        """Seconds after which a step that failed `failures` times is tried again; None: it has failed."""
        ...

    def rest(self, wake_ns: int) -> bool:
        """Nothing can be done before `wake_ns`: wait for it (True), or leave the run to whoever claims it then."""
        ...


@dataclass(slots=True)
class _Wait:
    """Why a step is not done."""

    step: str
    what: str
    help: str
    since_ns: int
    look_ns: int
    until_ns: int
    failures: int = 0

    def to_json(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "for": self.what,
            "since_ns": self.since_ns,
            "look_ns": self.look_ns,
            "until_ns": self.until_ns,
            "help": self.help,
            "failures": self.failures,
        }


@dataclass(slots=True)
class Carried:
    """One run in the hands of one holder."""

    runs: Runs
    hold: Hold
    plan: Plan
    context: Context
    patience: Patience
    answers: dict[str, Facts] = field(default_factory=dict)
    _waits: dict[str, _Wait] = field(default_factory=dict)
    _told: tuple[str, Facts] | None = None
    """An answer that is kept together with the next word."""

    def go(self) -> bool:
        """Take what steps there are; False where the run rests, True where it is done.  The error of a step ends it and
        is raised, not recorded."""
        run = self.runs.get(self.hold.run)
        self.answers = {name: one.answer for name, one in run.steps.items() if one.state == "done"}
        begun = {name for name, one in run.steps.items() if one.state != "done" and run.epoch == 1 and not run.detached}
        for one in run.waits:
            words = (one["step"], one["for"], one["help"], one["since_ns"], one["look_ns"], one["until_ns"])
            self._waits[one["step"]] = _Wait(*words, one["failures"])
        while True:
            for step in self.plan.order():
                if step.name not in self.answers and all(other in self.answers for other in step.after):
                    self._take(step, fresh=step.name in begun)
                    begun.discard(step.name)
            if len(self.answers) == len(self.plan.steps):
                self.runs.end(self.hold, self.context.actor, None, self._told)
                return True
            if not self._rest():
                return False

    def _take(self, step: Step, *, fresh: bool) -> None:
        wait = self._waits.get(step.name)
        if wait is not None and wait.look_ns > self.context.now():
            return
        if not fresh:  # else the run began with this step in the same change
            self.runs.turn(self.hold, self._told, step.name)
            self._told = None
        self.context.options.fence()
        try:
            answer = bounded(self._answer(step))
        except NotYet as not_yet:
            self._later(step, not_yet.what, not_yet.help, not_yet.look_again_s, not_yet.until_ns, wait, 0)
            return
        except DlsError as error:
            failures = (wait.failures if wait else 0) + 1
            seconds = self.patience.again(error, failures)
            if seconds is None:
                raise
            self._later(step, f"another try after: {error.message}", error.remedy, seconds, 0, wait, failures)
            return
        self._waits.pop(step.name, None)
        self.answers[step.name] = answer
        self._told = (step.name, answer)

    def _answer(self, step: Step) -> Facts:
        """What a step answers, or why it has nothing to do; what earlier steps promised is there now, or is missed."""
        here = replace(self.context, run=self.hold.run, step=step.name)
        here.say("step", {"step": step.name})
        why = needless(self.plan, step, here)
        if why:
            return {"skipped": why}
        problem = worst(step.action.check(here)) if step.after else None
        if problem is not None:
            raise problem
        return step.action.run(here)

    def _later(
        self, step: Step, what: str, help: str, seconds: float, until_ns: int, wait: _Wait | None, failures: int
    ) -> None:
        now = self.context.now()
        if until_ns and now >= until_ns:
            raise Unavailable(
                f"step {step.name} waited in vain for {what}",
                code="not-in-time",
                step=step.name,
                remedy=help or "ask again with a later time",
            )
        since = wait.since_ns if wait else now
        if wait is None:
            self.context.note(f"{step.name} waits for {what}")
        look = now + int(seconds * 1e9)
        look = min(look, until_ns) if until_ns else look
        self._waits[step.name] = _Wait(step.name, what, help, since, look, until_ns, failures)

    def _rest(self) -> bool:
        """Keep what is waited for, then wait, or leave the run for later."""
        waits = sorted(self._waits.values(), key=lambda one: one.look_ns)
        words: list[Mapping[str, Any]] = [one.to_json() for one in waits]
        if waits[0].look_ns <= self.context.now():
            return True
        self.runs.park(self.hold, words, waits[0].look_ns, self._told)
        self._told = None
        self.context.say("waits", {"for": words})
        return self.patience.rest(waits[0].look_ns)
