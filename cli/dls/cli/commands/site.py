"""`dls site`: places where data may lie."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from dls.cli.command import Verbs, verb
from dls.cli.front import Front
from dls.cli.render import Column
from dls.cli.words import place
from dls.logistics import duration
from dls.logistics.registry import schemes
from dls.logistics.site import Storage
from dls.madpp.action import Context
from dls.madpp.source import address

site = Verbs("site", help="Places where data may lie: a name, an address, and the limits that hold there.")


@verb("add", site)
@click.argument("name")
@click.argument("url")
@click.option("--capacity", metavar="SIZE", help="What buffers may hold there in sum, such as 10GB.")
@click.option("--inodes", type=click.IntRange(min=0), help="How many files and folders they may hold.")
@click.option("--tier", default="disk", show_default=True, help="What kind of place: disk, object, scratch, tape.")
@click.option("--lifetime", metavar="P7D", default="P7D", show_default=True, help="How long a lease lasts by default.")
@click.option(
    "--block", type=click.IntRange(min=1), default=4096, show_default=True, help="Grain of allocation, bytes."
)
def add(
    front: Front, name: str, url: str, capacity: str | None, inodes: int | None, tier: str, lifetime: str, block: int
) -> None:
    """Make the site NAME, whose data lie at URL (a folder, or s3://bucket/prefix)."""
    limits: dict[str, Any] = {
        "capacity_bytes": duration.read_size(capacity) if capacity else None,
        "capacity_inodes": inodes,
        "lifetime_s": duration.read_duration(lifetime),
        "block": block,
        "tier": tier,
    }
    at = address(front.context, url)
    if at.scheme not in schemes():
        front.context.open_store(str(at))  # says what there is
    storage = front.context.sites.add_site(name, str(at), by=front.context.actor.name, **limits)
    facts = _facts(front.context, storage)
    front.out.result({"action": "site-add", **facts}, storage.site, [f"site {storage.site} is {place(storage.url)}"])


@verb("list", site)
def list_(front: Front) -> None:
    """Sites, what is held there, and what is free."""
    rows = [_facts(front.context, one) for one in front.context.sites.all()]
    count = front.out.rows("site", _COLUMNS, rows, none="no sites")
    front.out.result({"action": "site-list", "count": count}, "", ())


def _facts(context: Context, storage: Storage) -> dict[str, Any]:
    room = context.buffers.room(storage.id)
    return {
        "site": storage.site,
        "storage": storage.id,
        "url": storage.url,
        "tier": storage.tier,
        "capacity_bytes": storage.capacity_bytes,
        "capacity_inodes": storage.capacity_inodes,
        "held_bytes": room.held_bytes,
        "held_inodes": room.held_inodes,
        "lifetime": duration.write_duration(storage.lifetime_s),
        "block": storage.block,
    }


def _limit(row: Mapping[str, Any]) -> str:
    return "no limit" if row["capacity_bytes"] is None else duration.show_size(row["capacity_bytes"])


_COLUMNS = (
    Column("SITE", lambda r: r["storage"].removesuffix("/default")),
    Column("TIER", lambda r: r["tier"]),
    Column("HELD", lambda r: duration.show_size(r["held_bytes"]), True),
    Column("CAPACITY", _limit, True),
    Column("FILES", lambda r: f"{r['held_inodes']:,}", True),
    Column("LEASE", lambda r: r["lifetime"]),
    Column("URL", lambda r: place(r["url"])),
)
