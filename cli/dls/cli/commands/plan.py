"""`dls plan`: many steps in one document."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from dls.cli.command import Verbs, detach, dry_run, durability, verb
from dls.cli.front import Front
from dls.cli.render import Column
from dls.cli.words import files, place
from dls.logistics.duration import show_duration, show_size
from dls.logistics.errors import DlsError, Invalid, NotFound
from dls.logistics.lease import iso
from dls.madpp.document import schema as schemas
from dls.madpp.document.read import Reading, read
from dls.madpp.document.text import LARGEST
from dls.madpp.document.write import write as written
from dls.madpp.execution import Run
from dls.madpp.plan import Plan, Problem

plan = Verbs("plan", help="Plans: steps with dependencies, in a YAML or Python file (specs/plan.md).")
_FILE = click.argument("file", metavar="FILE", type=click.Path(path_type=Path))


@verb("check", plan)
@click.argument("names", metavar="FILE...", nargs=-1, required=True)
@click.option("--form", is_flag=True, help="Look at the form alone, not whether sites and datasets are there.")
def check(front: Front, names: tuple[str, ...], form: bool) -> None:
    """Tell every fault of plans, each with its line and what to write instead; change nothing."""
    counts = {name: _faults_of(front, name, form) for name in names}
    for name, count in counts.items():
        if len(names) > 1 or not count:
            said = f"{name}: {count or 'no'} fault{'s' * (count != 1)}"
            front.out.tell("checked", {"file": name, "faults": count, "text": said})
    total, wrong = sum(counts.values()), [name for name, count in counts.items() if count]
    if wrong:
        raise Invalid(
            f"{', '.join(wrong[:5])}: {total} fault{'s' * (total != 1)}",
            code="bad-plan-file",
            files=wrong,
            count=total,
            remedy="mend what is told above",
        )
    front.out.result({"action": "plan-check", "count": len(names)}, "ok", ())


@verb("show", plan)
@_FILE
@click.option("--yaml", "as_yaml", is_flag=True, help="Write the plan itself as a YAML document.")
def show(front: Front, file: Path, as_yaml: bool) -> None:
    """Say what a plan would change now: files, bytes, route and time of each step; change nothing."""
    found = _sound(front, file)
    if as_yaml:
        text = written(found)
        front.out.result({"action": "plan-show", "yaml": text}, text.rstrip("\n"), text.rstrip("\n").split("\n"))
        return
    _show(front, found)


@verb("apply", plan)
@_FILE
@dry_run
@detach
@durability
def apply(front: Front, file: Path, dry_run: bool, detach: bool, durability: str | None) -> None:
    """Carry a plan out, step by step.  Applied again, or after an interruption, only what is missing is done."""
    found = _sound(front, file)
    if dry_run:
        _show(front, found)
        return
    how = {"options": replace(front.context.options, durability=durability)} if durability else {}
    problems = front.dls.prove(found)
    if problems:
        _tell_problems(front, str(file), problems)
    if detach:
        front.detach(found, "plan-apply", durability)
        return
    started = time.monotonic()
    run: Run = front.watch(lambda progress, tell: front.dls.apply(found, progress=progress, tell=tell, **how))
    seconds = round(time.monotonic() - started, 3)
    facts = {"action": "plan-apply", "run": run.id, "plan": found.name, "seconds": seconds, "steps": run.results}
    front.out.result(facts, run.id, [f"run {run.id}", *(f"  {row['text']}" for row in _steps(run.to_json()))])


@verb("status", plan)
@click.argument("run", required=False)
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many runs.")
def status(front: Front, run: str | None, limit: int) -> None:
    """The newest runs of plans, or how far each step of one RUN is."""
    if run:
        facts = front.dls.runs.get(run).to_json()
        rows = _steps(facts)
        count = front.out.rows("step", _STEPS, rows)
        more = {"state": facts["state"], "error": facts["error"], "count": count}
        front.out.result({"action": "plan-status", "run": run, **more}, facts["state"], ())
        return
    runs = [one.to_json() for one in front.dls.runs.list(1000)]
    plans = [
        one for one in runs if len(one["plan"]["steps"]) > 1 or one["plan"]["steps"][0]["action"] != one["plan"]["name"]
    ]
    count = front.out.rows("run", _RUNS, plans[:limit], none="no plan was applied yet")
    front.out.result({"action": "plan-status", "count": count}, "", ())


@verb("cancel", plan)
@click.argument("run")
def cancel(front: Front, run: str) -> None:
    """End a run before its end; what is proven stays, and applying the plan again continues."""
    state = front.dls.engine.cancel(run, front.context.actor)
    said = "is cancelled" if state.value == "cancelled" else "is told to stop"
    front.out.result({"action": "plan-cancel", "run": run, "state": state.value}, run, (f"{run} {said}",))


@verb("schema", plan)
def schema(front: Front) -> None:
    """The JSON Schema of plans, for editors."""
    text = schemas.text().rstrip("\n")
    front.out.result({"action": "plan-schema", "schema": schemas.schema()}, text, text.split("\n"))


# ------------------------------------------------------------------------------------------------ loading


def _faults_of(front: Front, name: str, form: bool) -> int:
    """How many faults a file has; they are told."""
    try:
        found = _load(front, Path(name))
    except _Faulty as exc:
        return exc.count
    return 0 if form else _tell_problems(front, name, front.dls.prove(found))


class _Faulty(Exception):
    """Faults were told."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.count = count


def _sound(front: Front, file: Path) -> Plan:
    try:
        return _load(front, file)
    except _Faulty as exc:
        said = f"{file}: {exc.count} fault{'s' * (exc.count != 1)}"
        raise Invalid(
            said, code="bad-plan-file", file=str(file), count=exc.count, remedy="mend what is told above"
        ) from exc


def _load(front: Front, file: Path) -> Plan:
    """The plan of a file; its faults are told."""
    if file.suffix == ".py":
        from dls.madpp.pyfile import load

        _bytes(file)
        return load(front.told(), file)
    reading = read(_bytes(file))
    if reading.plan is None:
        raise _Faulty(_tell_faults(front, str(file), reading))
    return reading.plan


def _bytes(file: Path) -> bytes:
    """The beginning of a file: a byte more than a plan may have."""
    try:
        with file.open("rb") as opened:
            return opened.read(LARGEST + 1)
    except OSError as exc:
        raise NotFound(
            f"cannot read {file}: {exc.strerror}", code="no-plan-file", file=str(file), remedy="check the path"
        ) from exc


def _tell_faults(front: Front, name: str, reading: Reading) -> int:
    for one in reading.faults:
        text = "\n".join(replace(reading, faults=(one,), more=0).shown(name))
        facts = {"file": name, **one.to_json(), "offending": reading.line(one)[:200]}
        front.out.tell("fault", {**facts, "text": text})
    if reading.more:
        front.out.tell("note", {"text": f"and {reading.more} more"})
    return len(reading.faults) + reading.more


def _tell_problems(front: Front, name: str, problems: Sequence[Problem]) -> int:
    for one in problems:
        where = f"{name}:{one.line}:{one.column or 1}: " if one.line else f"{name}: "
        text = f"{where}step {one.step}: {one.error.message}" + (f"\n  {one.error.remedy}" if one.error.remedy else "")
        front.out.tell("fault", {"file": name, **one.to_json(), "text": text})
    return len(problems)


# ------------------------------------------------------------------------------------------------ showing


def _show(front: Front, found: Plan) -> None:
    rows = front.dls.show(found)
    count = front.out.rows("step", _SHOW, rows, none="no steps")
    todo = [row for row in rows if row["state"] == "todo"]
    facts = {
        "action": "plan-show",
        "plan": found.name,
        "count": count,
        "files": sum(row["files"] for row in todo),
        "bytes": sum(row["bytes"] for row in todo),
        **{state: sum(row["state"] == state for row in rows) for state in _STATES},
    }
    wrong = [row for row in rows if row["state"] == "wrong"]
    counts = ", ".join(f"{facts[state]} {word}" for state, word in _STATES.items())
    front.out.result(facts, "", [f"{counts}; nothing was changed"])
    if wrong:
        raise Invalid(
            f"step {wrong[0]['step']}: {wrong[0]['message']}",
            code="bad-plan",
            step=wrong[0]["step"],
            remedy=wrong[0]["remedy"],
        )


def _would(row: Mapping[str, Any]) -> str:
    if row["state"] == "done":
        return f"nothing to do: {row['why']}"
    if row["state"] == "later":
        return f"can be told after {row['until']}"
    if row["state"] == "wrong":
        return str(row["message"])
    if row.get("in_place") or row.get("new") is False:
        return "in place already"
    if row["eta"]["high"] == 0 and not row["bytes"]:
        return str(row["what"])
    return (
        f"{row['what']}: {files(row['files'])}, {show_size(row['bytes'])}, about {show_duration(row['eta']['seconds'])}"
    )


def _steps(run: Mapping[str, Any]) -> list[dict[str, Any]]:
    """How far each step of a run is."""
    rows, reached = list[dict[str, Any]](), True
    for one in _ordered(run):
        name, facts = one["name"], run["results"].get(one["name"])
        if facts is not None:
            state, about = ("skipped", facts["skipped"]) if "skipped" in facts else ("done", _about(facts))
        else:
            state = run["state"] if reached and run["state"] != "done" else "not reached"
            about = run["error"].get("message", "") if reached else ""
            reached = False
        rows.append({"step": name, "verb": one["action"], "state": state, "about": about})
        rows[-1]["text"] = f"{name}: {state}" + (f", {about}" if about else "")
    return rows


def _ordered(run: Mapping[str, Any]) -> list[dict[str, Any]]:
    from dls.madpp.plan import plan_from

    try:
        steps = {one["name"]: one for one in run["plan"]["steps"]}
        return [steps[one.name] for one in plan_from(run["plan"]).order()]
    except DlsError:  # a plan of an action that this version does not know
        return list(run["plan"]["steps"])


def _about(facts: Mapping[str, Any]) -> str:
    return str(next((facts[k] for k in ("dataset", "site", "buffer") if facts.get(k)), ""))


_STATES = {"todo": "to do now", "later": "later", "done": "done", "wrong": "wrong"}
_SHOW = (
    Column("STEP", lambda r: r["step"]),
    Column("VERB", lambda r: r["verb"]),
    Column("STATE", lambda r: r["state"]),
    Column("WHAT", _would),
    Column("ROUTE", lambda r: " → ".join(map(place, r.get("route", ())))),
)
_STEPS = (
    Column("STEP", lambda r: r["step"]),
    Column("VERB", lambda r: r["verb"]),
    Column("STATE", lambda r: r["state"]),
    Column("ABOUT", lambda r: r["about"]),
)
_RUNS = (
    Column("RUN", lambda r: r["run"]),
    Column("PLAN", lambda r: r["plan"]["name"]),
    Column("STATE", lambda r: r["state"]),
    Column("BEGAN", lambda r: iso(r["started_ns"])),
    Column("STEPS", lambda r: f"{len(r['results'])} of {len(r['plan']['steps'])}"),
    Column("ERROR", lambda r: r["error"].get("code", "")),
)
