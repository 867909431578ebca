"""`dls explain`: why not yet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from dls.cli import live
from dls.cli.command import verb
from dls.cli.front import Front
from dls.cli.render import Column
from dls.logistics import names
from dls.logistics.duration import show_duration
from dls.logistics.lease import iso
from dls.madpp.execution import RunState
from dls.madpp.explain import around, explain_file
from dls.madpp.explain import explain as reasons_of


@verb("explain")
@click.argument("run")
@click.argument("file", required=False)
def explain(front: Front, run: str, file: str | None) -> None:
    """Say of RUN and its steps (or of one FILE) what they wait for, since when, until when, and what would help."""
    dls = front.dls
    found = dls.runs.get(run)
    if file:
        reasons = explain_file(front.context, found, names.read(file))
    else:
        waiting = dls.runs.list(1000, [RunState.QUEUED])
        folder = front.settings.home / "locks"
        seen = around(front.context, waiting, found, dls.slots().list(), lambda id: live.read(folder, id))
        reasons = reasons_of(found, seen)
    now = front.context.now()
    rows = [{"now_ns": now, **one.to_json()} for one in reasons]
    count = front.out.rows("reason", _COLUMNS, rows)
    front.out.result({"action": "explain", "run": run, "count": count}, reasons[0].state, ())


def _since(row: Mapping[str, Any]) -> str:
    if not row["since_ns"]:
        return ""
    return f"{show_duration((row['now_ns'] - row['since_ns']) / 1e9)} ago"


def _until(row: Mapping[str, Any]) -> str:
    if not row["until_ns"]:
        return ""
    left = (row["until_ns"] - row["now_ns"]) / 1e9
    said = f"in {show_duration(left)}" if 0 < left < 86_400 else iso(row["until_ns"])
    low, high = ((row[k] - row["now_ns"]) / 1e9 for k in ("until_low_ns", "until_high_ns"))
    return f"{said} ({show_duration(max(0.0, low))} to {show_duration(high)})" if low < high else said


_COLUMNS = (
    Column("WHAT", lambda r: r["subject"]),
    Column("STATE", lambda r: r["state"]),
    Column("WAITS FOR", lambda r: r["waits_for"]),
    Column("SINCE", _since),
    Column("EXPECTED", _until),
    Column("WHAT WOULD HELP", lambda r: r["help"]),
)
