"""Previews: what each step of a plan would change now, against the world as it is."""

from __future__ import annotations

from collections.abc import Iterator

from dls.logistics.errors import DlsError
from dls.madpp.action import Context, Facts
from dls.madpp.forecast import excused, promises
from dls.madpp.plan import Plan, Step, asked, promised
from dls.madpp.todo import needless


def previews(plan: Plan, context: Context) -> Iterator[Facts]:
    """One row a step, in their order: `state` is `todo` (with files, bytes, route, eta), `done` (with why), `later`
    (with the step after which it can tell) or `wrong` (with the error)."""
    made = promised(plan)
    for step in plan.order():
        row: Facts = {"step": step.name, "verb": step.action.name, "line": step.line, "after": list(step.after)}
        yield {**row, **_one(plan, step, made[step.name], context)}


def _one(plan: Plan, step: Step, made: frozenset[str], context: Context) -> Facts:
    errors = step.action.check(context)
    wrong = [error for error in errors if not excused(error, made)]
    if wrong:
        return {"state": "wrong", **wrong[0].to_json()}
    if errors:
        return {"state": "later", "until": _maker(plan, step, errors)}
    try:
        why = needless(plan, step, context)
        return {"state": "done", "why": why} if why else {"state": "todo", **step.action.preview(context)}
    except DlsError as exc:  # what an earlier step will make is not there yet in another way
        if step.after:
            return {"state": "later", "until": step.after[-1]}
        return {"state": "wrong", **exc.to_json()}


def _maker(plan: Plan, step: Step, errors: list[DlsError]) -> str:
    """The last step before this one whose promise excuses one of the errors."""
    before, maker = set(step.after), step.after[-1] if step.after else ""
    steps = {one.name: one for one in plan.steps}
    waiting = list(step.after)
    while waiting:
        for one in steps[waiting.pop()].after:
            if one not in before:
                before.add(one)
                waiting.append(one)
    for found in plan.order():
        made = promises(found.action.name, asked(found.action))
        if found.name in before and any(excused(error, made) for error in errors):
            maker = found.name
    return maker
