"""Plans: a checked, acyclic intent.  A command, a file and a request all become one, and take the same way.

A step holds an action, which is a frozen record of what is wanted; its meaning depends on nothing else, so a plan goes
through JSON and back without loss.  Rules: specs/action.md.
"""

from __future__ import annotations

import dataclasses
import heapq
import sys
from collections.abc import Iterator, Mapping
from dataclasses import field
from importlib import import_module
from types import ModuleType
from typing import Any, get_args, get_origin, get_type_hints

from dls.logistics import names
from dls.logistics.errors import DlsError, Invalid, worst
from dls.logistics.frozen import frozen
from dls.madpp.action import Action, Context
from dls.madpp.actions import BUILT_IN
from dls.madpp.forecast import excused, promises


@frozen
class Step:
    """One action with a name, after others."""

    name: str
    action: Action
    after: tuple[str, ...] = ()
    line: int = field(default=0, compare=False)
    """Where a plan file says it; 0 where none does."""
    column: int = field(default=0, compare=False)

    def to_json(self) -> dict[str, Any]:
        """The step as it is kept with a run."""
        return {"name": self.name, "action": self.action.name, "with": asked(self.action), "after": list(self.after)}


@frozen
class Problem:
    """What a proof found, and where."""

    error: DlsError
    step: str
    line: int = 0
    column: int = 0

    def to_json(self) -> dict[str, Any]:
        """The problem as programs read it."""
        return {"step": self.step, "line": self.line, "column": self.column, **self.error.to_json()}


@frozen
class Plan:
    """Named steps; `order` is a way to take them."""

    steps: tuple[Step, ...]
    name: str = ""

    def __post_init__(self) -> None:
        seen = set[str]()
        for one in self.steps:
            if one.name in seen:
                raise _bad(f"two steps are named {one.name}", step=one.name)
            seen.add(one.name)
        for one in self.steps:
            for other in one.after:
                if other not in seen:
                    raise _bad(f"step {one.name} waits for {other}, which is not a step", step=one.name)
        if len(list(self.order())) < len(self.steps):
            circle = self._circle()
            raise _bad(f"these steps wait for each other: {' → '.join(circle)}", step=circle[0])

    def order(self) -> Iterator[Step]:
        """The steps, each after those it waits for, otherwise as written."""
        waits = [len(set(one.after)) for one in self.steps]
        then: dict[str, list[int]] = {}
        for i, one in enumerate(self.steps):
            for other in set(one.after):
                then.setdefault(other, []).append(i)
        ready = [i for i, count in enumerate(waits) if not count]
        while ready:
            one = self.steps[heapq.heappop(ready)]
            yield one
            for i in then.get(one.name, ()):
                waits[i] -= 1
                if not waits[i]:
                    heapq.heappush(ready, i)

    def _circle(self) -> list[str]:
        """The names of one circle, the first again at the end."""
        done = {one.name for one in self.order()}
        waiting = {one.name: one for one in self.steps if one.name not in done}
        path = [next(iter(waiting))]
        while path.count(path[-1]) == 1:
            path.append(next(other for other in waiting[path[-1]].after if other in waiting))
        return path[path.index(path[-1]) :]

    def to_json(self) -> dict[str, Any]:
        """The plan as it is kept with a run."""
        return {"name": self.name, "steps": [s.to_json() for s in self.steps]}


def single(action: Action) -> Plan:
    """The plan of one step that a command is."""
    return Plan((Step(action.name, action),), action.name)


def prove(plan: Plan, context: Context) -> list[Problem]:
    """Everything that is wrong with a plan, before anything is touched.  What is only missing because an earlier step
    will make it is no problem; the step is checked again when its turn comes."""
    made = promised(plan)
    return [
        Problem(error, s.name, s.line, s.column)
        for s in plan.order()
        for error in s.action.check(context)
        if not excused(error, made[s.name])
    ]


def promised(plan: Plan) -> dict[str, frozenset[str]]:
    """What the steps before each step will have made."""
    made, before = dict[str, frozenset[str]](), dict[str, frozenset[str]]()
    for one in plan.order():
        before[one.name] = frozenset[str]().union(*(made[other] for other in one.after))
        made[one.name] = before[one.name] | promises(one.action.name, asked(one.action))
    return before


def gravest(problems: list[Problem]) -> DlsError | None:
    """The error that a command ends with, or None."""
    return worst([p.error for p in problems])


# ---------------------------------------------------------------------------------------- plans and JSON


def asked(action: Action) -> dict[str, Any]:
    """The fields of an action as JSON."""
    fields = {f.name: getattr(action, f.name) for f in dataclasses.fields(action)}  # type: ignore[arg-type]
    return {name: _plain(value) for name, value in fields.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return names.show(value)
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    return value


def action_from(name: str, fields: Mapping[str, Any], known: Mapping[str, str] = BUILT_IN) -> Action:
    """The action that `asked` wrote down; Invalid names what is unknown, missing or of another type.

    `known` maps verbs to `package.module:Class`: what runs is chosen from this list, never by the data."""
    if name not in known:
        raise _bad(f"no such action: {name}", remedy=f"one of {', '.join(sorted(known))}")
    module, _, kind = known[name].partition(":")
    made = getattr(import_module(module), kind)
    hints, given = get_type_hints(made), dict(fields)
    wanted = {f.name: f for f in dataclasses.fields(made)}
    for one in given:
        if one not in wanted:
            raise _bad(f"{name} has no field {one}", remedy=f"its fields: {', '.join(wanted)}")
    for one, how in wanted.items():
        if one not in given and how.default is dataclasses.MISSING and how.default_factory is dataclasses.MISSING:
            raise _bad(f"{name} needs the field {one}")
    action: Action = made(**{one: _typed(name, one, hints[one], value) for one, value in given.items()})
    return action


def _typed(name: str, field: str, kind: Any, value: Any) -> Any:
    """A JSON value as the type that an action's field has."""
    if get_origin(kind) is tuple and isinstance(value, list | tuple):
        return tuple(_typed(name, field, get_args(kind)[0], one) for one in value)
    if kind is bytes and isinstance(value, str):
        return names.read(value)
    if isinstance(kind, type) and type(value) is kind:
        return value
    raise _bad(f"{name}: the field {field} is not of type {getattr(kind, '__name__', kind)}")


def plan_from(data: Mapping[str, Any], known: Mapping[str, str] = BUILT_IN) -> Plan:
    """The plan that `Plan.to_json` wrote down; Invalid where it is none."""
    steps = data.get("steps")
    if not isinstance(steps, list) or not isinstance(data.get("name", ""), str):
        raise _bad("a plan has a name and a list of steps")
    return Plan(tuple(_step(one, known) for one in steps), data.get("name", ""))


def _step(data: Any, known: Mapping[str, str]) -> Step:
    if not isinstance(data, Mapping):
        raise _bad("a step is an object with name, action, with and after")
    name, verb, fields, after = (data.get(k) for k in ("name", "action", "with", "after"))
    after = [] if after is None else after
    if not (isinstance(name, str) and name and isinstance(verb, str) and isinstance(fields, Mapping)):
        raise _bad("a step has the texts name and action and the object with", step=str(name))
    if not (isinstance(after, list) and all(isinstance(one, str) for one in after)):
        raise _bad(f"step {name}: after is a list of names", step=name)
    return Step(name, action_from(verb, fields, known), tuple(after))


def _bad(message: str, **facts: Any) -> Invalid:
    return Invalid(message, code="bad-plan", **facts)


class _Module(ModuleType):
    """This module, which is also the word that begins a plan in Python: `from dls.madpp import plan`."""

    def __call__(self, name: str = "") -> Any:
        return import_module("dls.madpp.build").plan(name)


sys.modules[__name__].__class__ = _Module
