"""`dls events`: the outbox: what happened, in the order in which it was committed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import click

from dls.cli import render
from dls.cli.command import verb
from dls.cli.front import Front
from dls.cli.render import Column
from dls.logistics import duration, event
from dls.logistics.database import Database
from dls.logistics.errors import Invalid
from dls.logistics.event import Event
from dls.logistics.lease import iso

PAUSE_S = 0.25
"""How often a follower looks."""
_PAGE = 1000


@verb("events")
@click.option("--follow", "-f", is_flag=True, help="Go on with what happens from now, until Ctrl-C.")
@click.option("--since", default="", metavar="ID|TIME", help="After this id, or from 2026-01-31T12:00Z or P1D ago on.")
@click.option(
    "--limit", type=click.IntRange(0, 100_000), default=20, show_default=True, help="How many, without --since."
)
def events(front: Front, follow: bool, since: str, limit: int) -> None:
    """The newest events, or all since an id or a time; `--since 0` gives every one."""
    database = front.dls.database
    last = _start(database, since) if since else max(0, event.newest(database) - limit)
    found = event.follow(database, last, _pause) if follow else _until_now(database, last)
    count = front.out.rows("event", _COLUMNS, map(_facts, found), none="nothing happened", live=follow)
    front.out.result({"action": "events", "count": count}, "", ())


def _pause() -> None:
    time.sleep(PAUSE_S)
    if render.unread():
        raise BrokenPipeError


def _until_now(database: Database, last: int) -> Iterator[Event]:
    end = event.newest(database)
    while last < end:
        for one in event.since(database, last, min(_PAGE, end - last)):
            last = one.id
            yield one


def _start(database: Database, text: str) -> int:
    """The id after which to begin; Invalid says what is legal."""
    if text.isascii() and text.isdigit() and len(text) < 19:
        return int(text)
    try:
        if text.startswith("P"):
            return event.before(database, database.now_ns() - duration.read_duration(text) * 10**9)
        at = datetime.fromisoformat(text)
        at = at if at.tzinfo else at.replace(tzinfo=UTC)
        return event.before(database, int(at.timestamp()) * 10**9 + at.microsecond * 1000)
    except (ValueError, OverflowError) as exc:
        raise Invalid(
            f"neither an id nor a time: {text[:100]}",
            code="bad-time",
            remedy="write the id of an event, 2026-01-31T12:00:00Z (UTC where no zone is given), or P1D for a day ago",
        ) from exc


def _facts(one: Event) -> dict[str, Any]:
    return {
        "id": one.id,
        "time_ns": one.time_ns,
        "type": one.type,
        "subject": one.subject,
        "actor": one.actor,
        "data": one.data,
    }


_COLUMNS = (
    Column("ID", lambda r: str(r["id"]), True),
    Column("TIME", lambda r: iso(r["time_ns"])),
    Column("TYPE", lambda r: r["type"]),
    Column("SUBJECT", lambda r: r["subject"]),
    Column("ACTOR", lambda r: r["actor"]),
    Column("DATA", lambda r: ", ".join(f"{k} {v}" for k, v in r["data"].items() if v not in ("", None))),
)
