"""`dls buffer`: leases."""

from __future__ import annotations

from typing import Any

import click

from dls.cli.command import Verbs, verb
from dls.cli.front import Answer, Front
from dls.cli.render import Column
from dls.logistics import duration
from dls.logistics.lease import Buffer
from dls.madpp.action import Context, Facts
from dls.madpp.actions.release import Release, find

buffer = Verbs("buffer", help="Leased buffers: what lies where, until when, and for whom.")


@verb("list", buffer)
@click.argument("site", required=False, default="")
def list_(front: Front, site: str) -> None:
    """Buffers that hold space, at one SITE or everywhere."""
    if site:
        front.context.sites.get(site)
    rows = [_facts(front.context, one) for one in front.context.buffers.list(site)]
    count = front.out.rows("buffer", _COLUMNS, rows, none="no buffers")
    front.out.result({"action": "buffer-list", "count": count}, "", ())


@verb("renew", buffer)
@click.argument("buffer", metavar="BUFFER|PATH")
@click.option("--lifetime", required=True, metavar="P7D", help="The lease ends so long from now.")
def renew(front: Front, buffer: str, lifetime: str) -> None:
    """Let your lease of a buffer end later, or sooner."""
    context = front.context
    seconds = duration.read_duration(lifetime)
    after = context.buffers.renew(find(context, buffer).id, context.actor.name, seconds)
    facts = _facts(context, after)
    front.out.result(
        {"action": "buffer-renew", **facts}, after.expires, [f"{facts['path']} is leased until {after.expires}"]
    )


@verb("release", buffer)
@click.argument("buffer", metavar="BUFFER|PATH")
def release(front: Front, buffer: str) -> None:
    """Give your lease back; with the last one the buffer is removed, unless that would lose bytes."""
    front.take(Release(buffer), _released)


def _released(facts: Facts) -> Answer:
    if facts["freed"]:
        return Answer(facts["buffer"], [f"{facts['path']} is freed ({duration.show_size(facts['bytes'])})"])
    return Answer(facts["buffer"], [f"your lease of {facts['path']} is over; {facts['others']} others hold it"])


def _facts(context: Context, one: Buffer) -> dict[str, Any]:
    return {
        "buffer": one.id,
        "storage": one.storage,
        "label": one.label,
        "state": one.state.value,
        "contents": one.contents.value,
        "why": one.why,
        "bytes": one.reserved_bytes,
        "inodes": one.reserved_inodes,
        "expires": one.expires,
        "users": [lease.user for lease in one.leases],
        "path": context.buffers.path(one),
    }


_COLUMNS = (
    Column("BUFFER", lambda r: r["buffer"]),
    Column("SITE", lambda r: r["storage"].removesuffix("/default")),
    Column("FOR", lambda r: r["label"]),
    Column("STATE", lambda r: f"{r['state']}, {r['contents']}"),
    Column("SIZE", lambda r: duration.show_size(r["bytes"]), True),
    Column("UNTIL", lambda r: r["expires"] if r["users"] else "free to go"),
    Column("PATH", lambda r: r["path"]),
)
