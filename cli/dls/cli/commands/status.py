"""`dls status`: runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from dls.cli.command import verb
from dls.cli.front import Front
from dls.cli.render import Column
from dls.logistics.lease import iso


@verb("status")
@click.argument("run", required=False)
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many runs.")
def status(front: Front, run: str | None, limit: int) -> None:
    """The newest runs, or one RUN with its answer or its error."""
    if run:
        facts = front.dls.runs.get(run).to_json()
        front.out.result({"action": "status", **facts}, facts["state"], _lines(facts))
        return
    count = front.out.rows("run", _COLUMNS, [r.to_json() for r in front.dls.runs.list(limit)], none="nothing ran yet")
    front.out.result({"action": "status", "count": count}, "", ())


def _lines(run: Mapping[str, Any]) -> list[str]:
    lines = [f"{run['run']}  {run['plan']['name']}  {run['state']}", f"  asked by {run['actor']}, began {_time(run)}"]
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
    Column("ABOUT", _about),
    Column("ERROR", lambda r: r["error"].get("code", "")),
)
