"""`dls status`: runs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import click

from dls.cli import bars, live, render
from dls.cli.command import verb
from dls.cli.front import Front
from dls.cli.render import Column
from dls.cli.words import place
from dls.logistics.duration import show_duration
from dls.logistics.lease import iso
from dls.madpp.execution import Run, RunState

PAUSE_S = 1.0
_ALL = 1000


@verb("status")
@click.argument("run", required=False)
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many runs.")
@click.option("--follow", "-f", is_flag=True, help="Look every second, until nothing runs (or RUN has ended).")
def status(front: Front, run: str | None, limit: int, follow: bool) -> None:
    """The newest runs, or one RUN with its answer or its error.

    Of runs that are running, also in other processes: how far they are, how fast, and how long it will take.
    """
    look = _Look(front)
    if follow:
        ended = look.follow(run)
        if not run:
            front.out.result({"action": "status", "count": ended}, "", ["nothing runs" if not ended else ""])
            return
    if run:
        facts = look.facts(front.dls.runs.get(run))
        front.out.result({"action": "status", **facts}, facts["state"], _lines(facts))
        return
    count = front.out.rows("run", _COLUMNS, [look.facts(r) for r in front.dls.runs.list(limit)], none="nothing ran yet")
    front.out.result({"action": "status", "count": count}, "", ())


class _Look:
    """Runs with their figures."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self._leases: dict[str, str] = {}

    def facts(self, run: Run) -> dict[str, Any]:
        """A run as programs read it, with its progress while it runs."""
        facts = run.to_json()
        progress = live.read(self._front.settings.home / "locks", run.id) if run.state is RunState.RUNNING else None
        if progress is not None:
            progress = {**progress, "leased_until": self._lease(str(progress.get("to", "")))}
        return {**facts, "progress": progress}

    def _lease(self, path: str) -> str:
        """Until when the buffer is leased that is being filled; '' where it is none."""
        if path and path not in self._leases:
            buffers = self._front.context.buffers
            self._leases[path] = next((b.expires for b in buffers.list() if buffers.path(b) == path), "")
        return self._leases.get(path, "")

    def follow(self, run: str | None) -> int:
        """Show what runs, every second, until nothing does; each run once more as it ended.  Returns how many ended."""
        runs, before, ended = self._front.dls.runs, set[str](), 0
        while True:
            found = [runs.get(run)] if run else runs.list(_ALL)
            running = {one.id for one in found if one.state is RunState.RUNNING}
            self._front.out.view(
                "run", _COLUMNS, [_short(self.facts(one)) for one in found if one.id in running | before]
            )
            ended += len(before - running)
            if not running:
                return ended
            before = running
            time.sleep(PAUSE_S)
            if render.unread():
                raise BrokenPipeError


def _short(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in facts.items() if key not in ("results", "on_behalf_of", "project")}


def _lines(run: Mapping[str, Any]) -> list[str]:
    lines = [f"{run['run']}  {run['plan']['name']}  {run['state']}", f"  asked by {run['actor']}, began {_time(run)}"]
    lines += _progress(run["progress"]) if run["progress"] else []
    for step in run["plan"]["steps"]:
        asked = ", ".join(f"{k} {_shown(v)}" for k, v in step["with"].items() if v not in ("", [], False))
        lines.append(f"  step {step['name']}: {asked}")
    for name, facts in run["results"].items():
        lines += [f"  {name} {key}: {_shown(value)}" for key, value in facts.items()]
    if run["error"]:
        lines.append(f"  error: {run['error'].get('message', '')} [{run['error'].get('code', '')}]")
        lines.append(f"  what to do: {run['error'].get('remedy') or 'run the same again: it continues'}")
    elif run["state"] == "broken off":
        lines.append("  its process ended without a word; run the same again: it continues")
    return lines


def _progress(facts: Mapping[str, Any]) -> list[str]:
    lines = [f"  now: {_figures(facts)}"]
    if facts.get("to"):
        until = f", leased until {facts['leased_until']}" if facts["leased_until"] else ""
        lines.append(f"  route: {place(facts['from'])} → {place(facts['to'])}{until}")
    return lines


def _figures(facts: Mapping[str, Any]) -> str:
    """How far a run is, in one line."""
    old_s = (time.time_ns() - facts["at_ns"]) / 1e9
    text = facts["phase"] + ", " + bars.counted(bars.Figures(**{name: facts[name] for name in bars.FIGURES}))
    if facts["step"]:
        text = f"{facts['step']}: {text}"
    if facts["waits_for"]:
        text = f"waits for run {facts['waits_for']}"
    return text if old_s < live.SILENT_S else f"{text} (no word for {show_duration(old_s)})"


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _time(run: Mapping[str, Any]) -> str:
    return iso(run["started_ns"]) + (f", ended {iso(run['ended_ns'])}" if run["ended_ns"] else "")


def _about(run: Mapping[str, Any]) -> str:
    words = run["plan"]["steps"][0]["with"] if run["plan"]["steps"] else {}
    about = next((words[k] for k in ("what", "dataset", "output", "buffer", "command") if words.get(k)), "")
    return _shown(about) + (f" to {words['to']}" if words.get("to") else "")


_COLUMNS = (
    Column("RUN", lambda r: r["run"]),
    Column("VERB", lambda r: r["plan"]["name"]),
    Column("STATE", lambda r: r["state"]),
    Column("BEGAN", lambda r: iso(r["started_ns"])),
    Column("PROGRESS", lambda r: _figures(r["progress"]) if r["progress"] else ""),
    Column("ABOUT", _about),
    Column("ERROR", lambda r: r["error"].get("code", "")),
)
