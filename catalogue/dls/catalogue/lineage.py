"""Lineage: recording an activity with its ports resolved, and showing one to an actor without what it may not see.

A port's audience is that of its dataset; a URL's is that of the activity.  An activity is shown to whoever sees its
audience or one of its datasets; ports that the actor does not see read `hidden`, and then the command, the site and
the facts, which might name them, are hidden too.  Walks pass only through ports that the actor sees.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Final

from dls.catalogue.changes import AddActivity, Outcome
from dls.catalogue.fields import packed, private, text
from dls.catalogue.known import ACTIVITY_EVENT, ULID, no_version, present, seen, tell
from dls.catalogue.model import HIDDEN, Activity, Port
from dls.catalogue.rows import Edge, Rows
from dls.logistics import ids, names, url
from dls.logistics.actor import Actor
from dls.logistics.errors import Conflict, Denied, Invalid

USED: Final = "used"
GENERATED: Final = "generated"
_UP, _DOWN = (GENERATED, USED), (USED, GENERATED)
DIRECTIONS: Final = {"up": (_UP,), "down": (_DOWN,), "both": (_UP, _DOWN)}
"""Which side of an activity each walk enters by, and which it leaves by."""
DEPTH_LIMIT: Final = 100
_PORTS_LIMIT = 10_000


def directions(direction: str, depth: int) -> tuple[tuple[str, str], ...]:
    """(enter, leave) of each walk; Invalid for an unknown direction or a depth outside 1 … 100."""
    if direction not in DIRECTIONS or not 1 <= depth <= DEPTH_LIMIT:
        raise Invalid(
            f"lineage goes up, down or both, 1 to {DEPTH_LIMIT} deep, not {direction!r}, {depth}", code="bad-lineage"
        )
    return DIRECTIONS[direction]


def is_place(ref: str) -> bool:
    """Whether a reference is a URL or an absolute path, rather than a dataset's or a record's id."""
    return "://" in ref or ref.startswith("/")


def add_activity(rows: Rows, change: AddActivity, actor: Actor) -> Outcome:
    """Record an activity; the same id again is harmless if it says the same."""
    if change.id and not ULID.match(change.id):
        raise Invalid(f"not a ULID: {change.id[:40]!r}", code="bad-record", field="id")
    if len(change.used) + len(change.generated) > _PORTS_LIMIT:
        raise Invalid(f"over {_PORTS_LIMIT} ports", code="bad-record", field="used", remedy="name a dataset, not files")
    edges = [_edge(rows, actor, USED, *port) for port in change.used]
    edges += [_edge(rows, actor, GENERATED, *port) for port in change.generated]
    activity = _activity(rows, change, actor, edges)
    old = rows.activity(activity.id)
    if old is not None:
        if _asked(old) != _asked(activity):
            raise Conflict(f"activity {old.id} says something else", code="activity-differs", activity=old.id)
        return Outcome(old.id, 0, changed=False)
    rows.save_activity(activity, edges)
    tell(rows, ACTIVITY_EVENT, activity.id, actor, type=activity.type, run=activity.run)
    return Outcome(activity.id, 0, changed=True)


def _activity(rows: Rows, change: AddActivity, actor: Actor, edges: Sequence[Edge]) -> Activity:
    if not change.type:
        raise Invalid("an activity has a type", code="bad-record", field="type")
    if not actor.sees(change.audience):
        raise Denied(f"{actor.name} does not belong to the audience {change.audience}", code="not-your-audience")
    ended = change.ended_ns or rows.now_ns
    started = change.started_ns or ended
    if started > ended:
        raise Invalid("an activity ends before it starts", code="bad-record", field="ended_ns")
    command = tuple(text(word, "command", 100_000) for word in change.command)
    packed({"command": list(command)}, "command")
    behalf = actor.on_behalf_of if change.on_behalf_of is None else change.on_behalf_of
    return Activity(
        change.id or ids.ulid(),
        text(change.type, "type", 40),
        actor.name,
        text(behalf, "on_behalf_of"),
        text(change.run, "run", 200),
        text(change.audience, "audience", 200),
        started,
        ended,
        command,
        text(change.where, "where", 200),
        tuple(Port(e.ref, e.role) for e in edges if e.side == USED),
        tuple(Port(e.ref, e.role) for e in edges if e.side == GENERATED),
        private(change.software, "software"),
        private(change.hardware, "hardware"),
    )


def _asked(activity: Activity) -> Activity:
    """An activity without what was measured (`changes.MEASURED`)."""
    return replace(activity, started_ns=0, ended_ns=0, software={}, hardware={})


def _edge(rows: Rows, actor: Actor, side: str, ref: str, role: str = "") -> Edge:
    role = text(role, "role", 200)
    if is_place(ref):
        place = str(url.parse(ref))
        return Edge(side, role, place, place, "")
    if ULID.match(ref):
        replica = present(rows, ref, actor)
        return Edge(side, role, ref, f"{replica.dataset}@{replica.version}", replica.dataset)
    found = url.dataset(ref)
    dataset = seen(rows, found.key, actor)
    version = rows.version(dataset.key, found.version)
    if version is None:
        raise no_version(dataset.key, found.version)
    path = f"/{names.show(found.path)}" if found.path else ""
    return Edge(side, role, version.id + path, version.id, dataset.key)


def shown(activity: Activity, actor: Actor, hidden: Collection[tuple[str, int]]) -> Activity:
    """The activity as this actor sees it; `hidden` holds (side, position) of the ports that it does not."""
    if not hidden and actor.sees(activity.audience):
        return activity
    return replace(
        activity,
        command=(HIDDEN,) if activity.command else (),
        where=HIDDEN if activity.where else "",
        used=_covered(activity.used, USED, hidden),
        generated=_covered(activity.generated, GENERATED, hidden),
        software={},
        hardware={},
    )


def _covered(ports: Sequence[Port], side: str, hidden: Collection[tuple[str, int]]) -> tuple[Port, ...]:
    return tuple(Port(HIDDEN, p.role) if (side, i) in hidden else p for i, p in enumerate(ports))
