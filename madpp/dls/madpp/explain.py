"""Why not yet: what a run, its steps and its files wait for, since when, until when, and what would help.

Read from what is kept anyway: the run, the workers' slots, open needs, the figures of whoever carries it, receipts.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from dls.catalogue.model import Version
from dls.logistics import names, url
from dls.logistics.errors import DlsError, NotFound
from dls.logistics.frozen import frozen
from dls.logistics.need import Need
from dls.logistics.transfer.evidence import Evidence
from dls.logistics.transfer.listing import known
from dls.madpp import layout, source
from dls.madpp.action import Context
from dls.madpp.execution import Run, RunState
from dls.madpp.plan import plan_from
from dls.madpp.slots import SlotFacts

Figures = Mapping[str, Any]


@frozen
class Reason:
    """Why one thing is not done."""

    subject: str
    """`run`, `step NAME` or `file PATH`."""
    state: str
    waits_for: str = ""
    since_ns: int = 0
    until_ns: int = 0
    """When it is expected, or looked at again; 0 where nobody can say."""
    help: str = ""
    between_ns: tuple[int, int] = (0, 0)
    """When it is expected at the earliest and at the latest, where that is an estimate."""

    def to_json(self) -> dict[str, Any]:
        """The reason as programs read it."""
        names = ("subject", "state", "waits_for", "since_ns", "until_ns", "help")
        low, high = self.between_ns
        return {name: getattr(self, name) for name in names} | {"until_low_ns": low, "until_high_ns": high}


@frozen
class Around:
    """What is around a run now."""

    now_ns: int
    slots: Sequence[SlotFacts] = ()
    needs: Sequence[Need] = ()
    ahead: int = 0
    """Runs that a worker would take before it."""
    figures: Figures | None = None
    """How far it is, as its carrier says."""


def explain(run: Run, around: Around) -> list[Reason]:
    """The run first, then its steps in their order; those that are done are left out."""
    return [_run(run, around), *_steps(run, around)]


def _run(run: Run, around: Around) -> Reason:
    if run.state is RunState.QUEUED:
        return _queued(run, around)
    if run.state is RunState.BROKEN_OFF:
        help = f"dls resume {run.id} carries on where it stopped"
        return Reason("run", run.state.value, "somebody who carries it on", run.started_ns, help=help)
    if run.state in (RunState.FAILED, RunState.CANCELLED):
        why = f"{run.error.get('message', '')} [{run.error.get('code', '')}]"
        help = run.error.get("remedy") or f"dls resume {run.id} carries on where it stopped"
        return Reason("run", run.state.value, why, run.ended_ns, help=help)
    if run.state is RunState.DONE:
        return Reason("run", run.state.value, since_ns=run.ended_ns)
    if run.waits and run.wake_ns > around.now_ns:
        what = "; ".join(f"{one['step']}: {one['for']}" for one in run.waits)
        since = min(one["since_ns"] for one in run.waits)
        return Reason("run", "waiting", what, since, run.wake_ns, run.waits[0].get("help", ""))
    by = f"carried by {run.slot}" if run.slot else "carried by the process that asked"
    if run.cancelling:
        return Reason("run", run.state.value, f"{by}, which was told to stop", run.started_ns)
    return Reason("run", run.state.value, by, run.started_ns, *_expected(around))


def _queued(run: Run, around: Around) -> Reason:
    live = [slot for slot in around.slots if slot.state == "live" and slot.lease_ns >= around.now_ns]
    if not live:
        help = f"start one: dls worker (or carry it here: dls resume {run.id})"
        return Reason("run", run.state.value, "a worker; none lives", run.started_ns, help=help)
    count = f"{len(live)} live{'s' if len(live) == 1 else ''}"
    before = f", {around.ahead} run{'s' * (around.ahead != 1)} before it" if around.ahead else ""
    help = "more workers (dls worker)" if around.ahead else ""
    return Reason("run", run.state.value, f"a worker; {count}{before}", run.started_ns, help=help)


def _expected(around: Around) -> tuple[int, str, tuple[int, int]]:
    """(when, nothing that would help, between when and when), as the carrier's figures say."""
    figures = around.figures or {}
    left = figures.get("eta_s")
    if not left:
        return 0, "", (0, 0)
    low, high = figures.get("eta_low_s") or left, figures.get("eta_high_s") or left
    at, earliest, latest = (around.now_ns + int(float(s) * 1e9) for s in (left, low, high))
    return at, "", (earliest, latest)


def _steps(run: Run, around: Around) -> Iterator[Reason]:
    if run.state is RunState.DONE:
        return
    waits = {one["step"]: one for one in run.waits}
    try:
        order = [(step.name, step.after) for step in plan_from(run.plan).order()]
    except DlsError:  # of an action that this version does not know
        order = [(step["name"], tuple(step["after"])) for step in run.plan["steps"]]
    for name, after in order:
        kept = run.steps.get(name)
        if kept is not None and kept.state == "done":
            continue
        missing = [other for other in after if run.steps.get(other) is None or run.steps[other].state != "done"]
        if name in waits:
            one = waits[name]
            until = one["look_ns"] if not one["until_ns"] else min(one["look_ns"], one["until_ns"])
            yield Reason(f"step {name}", "waiting", one["for"], one["since_ns"], until, one.get("help", ""))
        elif missing:
            yield Reason(f"step {name}", "not begun", f"step {', '.join(missing)}", run.started_ns)
        elif kept is None:
            yield Reason(f"step {name}", "not begun", "its turn", run.started_ns)
        elif run.state is RunState.RUNNING:
            yield _under_way(run, name, kept.began_ns, around)
        else:
            yield Reason(f"step {name}", "begun", "the run to be carried on", kept.began_ns)


def _under_way(run: Run, name: str, since_ns: int, around: Around) -> Reason:
    for need in around.needs:
        if run.id in need.runs and need.holder not in ("", run.id):
            help = f"look at dls explain {need.holder}"
            what = f"run {need.holder}, which works on the same content at {need.storage}"
            return Reason(f"step {name}", "waiting", what, need.opened_ns, help=help)
    figures = around.figures or {}
    done, total = figures.get("files", 0), figures.get("files_total", 0)
    doing = str(figures.get("phase") or "its work")
    what = f"{doing}: {done:,} of {total:,} files" if total else doing
    return Reason(f"step {name}", "running", what, since_ns, *_expected(around))


# ------------------------------------------------------------------------------------------------ one file


def explain_file(context: Context, run: Run, path: bytes) -> list[Reason]:
    """The file in each step of the run that brings a dataset which holds it; NotFound where none does."""
    found = [reason for step in run.plan["steps"] for reason in _in_step(context, run, step, path)]
    if not found:
        raise NotFound(
            f"no dataset that {run.id} stages in has a file {names.show(path)}",
            code="no-such-file",
            run=run.id,
            key=names.show(path),
            remedy="dls catalogue files DATASET lists them",
        )
    return found


def _in_step(context: Context, run: Run, step: Mapping[str, Any], path: bytes) -> Iterator[Reason]:
    what = str(step["with"].get("what", ""))
    if step["action"] not in ("stage-in", "pack") or not url.is_dataset(what):
        return
    version = context.catalogue.version(url.dataset(what), actor=context.actor)
    manifest = context.catalogue.manifest(url.dataset(version.id), actor=context.actor)
    subject = f"file {names.show(path)}"
    for number, ref in enumerate(manifest.refs):
        segment = manifest.load(ref.digest)
        at = bisect_left(segment.paths, path)
        if at == len(segment) or segment.paths[at] != path:
            continue
        since = run.steps[step["name"]].began_ns if step["name"] in run.steps else run.started_ns
        part = f"segment {number + 1} of {len(manifest.refs)}"
        address, shown = _place(context, run, step, version)
        if not address:
            yield Reason(subject, "not begun", f"its buffer at {shown} ({part})", since)
            return
        receipt = Evidence(context.receipts, known(manifest), address, lambda: None).receipt(segment)
        if receipt is not None and at in receipt.done:
            yield Reason(subject, f"proven at {shown}")
        else:
            help = "" if run.state is RunState.RUNNING else f"dls explain {run.id} says why it does not go on"
            yield Reason(subject, "not proven yet", f"its turn: {part}", since, help=help)


def _place(context: Context, run: Run, step: Mapping[str, Any], version: Version) -> tuple[str, str]:
    """Where a step brings a version, as an address ('' where it has no buffer yet) and for people."""
    if step["action"] == "pack":
        at = url.parse(step["with"]["to"], run.cwd)
        return str(at), source.shown(at)
    storage = context.sites.get(step["with"]["to"])
    image = bool(step["with"].get("as_image"))
    buffer = context.buffers.find(storage.id, layout.as_image(version.content) if image else version.content)
    return (layout.held_url(context, buffer), context.buffers.path(buffer)) if buffer else ("", storage.id)


def around(
    context: Context,
    runs: Sequence[Run],
    run: Run,
    slots: Sequence[SlotFacts],
    figures: Callable[[str], Figures | None],
) -> Around:
    """Gather what is around a run."""
    ahead = sum(1 for one in runs if one.state is RunState.QUEUED and one.id < run.id)
    return Around(context.now(), slots, context.needs.list(), ahead, figures(run.id))


__all__ = ["Around", "Reason", "around", "explain", "explain_file"]
