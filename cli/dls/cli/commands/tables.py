"""How records of the catalogue are shown in tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dls.catalogue.model import Dataset
from dls.cli.render import Column
from dls.cli.words import files, place
from dls.logistics import digest as digests
from dls.logistics import names, url
from dls.logistics.duration import show_size
from dls.logistics.entry import FILE, NO_MODE, NO_TIME, Entry, Kind
from dls.logistics.errors import NotFound
from dls.logistics.lease import iso
from dls.madpp.action import Context

Row = Mapping[str, Any]


def with_size(context: Context, one: Dataset) -> dict[str, Any]:
    """A dataset with the sizes of its newest version."""
    facts = one.to_json()
    try:
        newest = context.catalogue.version(url.dataset(one.key), actor=context.actor)
    except NotFound:
        return {**facts, "version": 0, "files": 0, "bytes": 0}
    return {**facts, "version": newest.number, "files": newest.files, "bytes": newest.size}


def entry(one: Entry) -> dict[str, Any]:
    """One file, link or folder."""
    return {
        "path": names.show(one.path),
        "kind": Kind(one.kind).name.lower(),
        "bytes": one.size,
        "mode": None if one.mode == NO_MODE else f"{one.mode:04o}",
        "mtime_ns": None if one.mtime_ns == NO_TIME else one.mtime_ns,
        "digest": digests.text(one.digest) if one.kind == FILE and one.digest else "",
        "target": names.show(one.target) if one.target else "",
    }


def dataset(facts: Row) -> list[str]:
    """A dataset's record for people."""
    lines = [facts["id"] + (f"  {facts['title']}" if facts["title"] else "")]
    said = f", withdrawn: {facts['reason']}" if facts["state"] == "withdrawn" else ""
    lines.append(f"  owner {facts['owner']}, {facts['audience']}, since {iso(facts['created_ns'])}{said}")
    if facts["description"]:
        lines.append(f"  {facts['description']}")
    for v in facts["versions"]:
        note = f"  {v['note']}" if v["note"] else ""
        lines.append(f"  {v['id']}: {files(v['files'])}, {show_size(v['bytes'])}, {iso(v['created_ns'])}{note}")
    for r in facts["replicas"]:
        where = f" ({r['storage']})" if r["storage"] else ""
        kind = "image" if r["layout"] == "image" else "copy"
        but = ", ".join(f"{count:,} {what}" for what, count in r["marked"].items())
        state = f"{r['state']} but {but}" if but and r["state"] == "complete" else r["state"]
        lines.append(f"  {kind} {r['id']} of {r['version']}: {state}, {place(r['url'])}{where}")
    return lines


def _ports(ports: list[dict[str, Any]]) -> str:
    return ", ".join(place(p["ref"]) for p in ports) or "-"


DATASETS = (
    Column("DATASET", lambda r: r["id"]),
    Column("VERSION", lambda r: str(r["version"]), True),
    Column("FILES", lambda r: f"{r['files']:,}", True),
    Column("SIZE", lambda r: show_size(r["bytes"]), True),
    Column("STATE", lambda r: r["state"]),
    Column("TITLE", lambda r: r["title"]),
)
FILES = (
    Column("PATH", lambda r: r["path"] + (f" -> {r['target']}" if r["target"] else "")),
    Column("KIND", lambda r: r["kind"]),
    Column("BYTES", lambda r: f"{r['bytes']:,}", True),
    Column("DIGEST", lambda r: r["digest"]),
)
ACTIVITIES = (
    Column("ACTIVITY", lambda r: r["id"]),
    Column("TYPE", lambda r: r["type"]),
    Column("WHEN", lambda r: iso(r["started_ns"] or r["ended_ns"])),
    Column("USED", lambda r: _ports(r["used"])),
    Column("MADE", lambda r: _ports(r["generated"])),
    Column("COMMAND", lambda r: " ".join(r["command"])),
)
