"""Recording: what a step did becomes facts and lineage, once for each run, however often the step is repeated.

The activity of a step has an id made from the run and the step, so a repetition within the run finds it.  Versions and
replicas need no such key: the same content makes no version, the same place makes no second row.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from dls.catalogue.changes import AddActivity, AddReplica, AddVersion, Change, MarkFiles, Outcome, SetReplica
from dls.catalogue.model import Activity, ReplicaState
from dls.logistics import digest as digests
from dls.logistics import url
from dls.logistics.database import boot_id
from dls.logistics.errors import NotFound
from dls.logistics.frozen import frozen
from dls.logistics.manifest import Manifest
from dls.madpp.action import Context, Facts

_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_NO_EVIDENCE: Final = frozenset({ReplicaState.LOST, ReplicaState.CORRUPT, ReplicaState.GONE, ReplicaState.PARTIAL})
_TIME: Final = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{9}")


def activity_id(run: str, step: str) -> str:
    """The ULID of what `step` did in `run`: the run's time, then 80 bits that name both."""
    time = _TIME.match(run)
    value = int.from_bytes(digests.of(f"{run}\n{step}".encode())[:10])
    tail = "".join(_ALPHABET[value >> shift & 31] for shift in range(75, -1, -5))
    return (time[0] if time else "0" * 10) + tail


def _activity(context: Context, step: str) -> str:
    """Two steps of one plan that do the same are two activities."""
    return activity_id(context.run, f"{context.step}\n{step}" if context.step else step)


def recorded(context: Context, step: str) -> Activity | None:
    """What this run has already recorded for a step."""
    try:
        return context.catalogue.activity(_activity(context, step), actor=context.actor)
    except NotFound:
        return None


@frozen
class Recorded:
    """What became of the changes of a step."""

    changes: tuple[Change, ...]
    outcomes: tuple[Outcome, ...]
    activity: str
    """Id of the step's activity."""

    def of(self, kind: type[Change], **fields: Any) -> Outcome:
        """The outcome of the first change of this kind with these fields; one of id '' where there is none."""
        for change, outcome in zip(self.changes, self.outcomes, strict=True):
            if isinstance(change, kind) and all(getattr(change, k) == v for k, v in fields.items()):
                return outcome
        return Outcome("", 0, changed=False)


def record(context: Context, step: str, changes: Sequence[Change], activity: AddActivity) -> Recorded:
    """Apply the facts of a step and its activity, all or none; the activity only the first time in this run."""
    id, ended = _activity(context, step), max(context.now(), activity.started_ns)
    wanted = [*changes]
    if recorded(context, step) is None:
        began = activity.started_ns or ended
        wanted.append(replace(activity, id=id, run=context.run, started_ns=began, ended_ns=activity.ended_ns or ended))
    return Recorded(tuple(wanted), facts_of(context, wanted), id)


def facts_of(context: Context, changes: Sequence[Change]) -> tuple[Outcome, ...]:
    """Apply changes; afterwards no buffer rests on a replica that they call damaged, whoever looked meanwhile."""
    done = context.catalogue.apply(changes, actor=context.actor)
    for change in changes:
        if isinstance(change, MarkFiles) or (isinstance(change, SetReplica) and change.state in _NO_EVIDENCE):
            context.buffers.revoke(f"replica:{change.replica}", by=context.actor.name)
    return done.outcomes


def versioned(context: Context, step: str, key: str, manifest: Manifest, note: str = "") -> tuple[list[Change], int]:
    """The changes that make a manifest a version of `key`, and the version's number where there are none: this run has
    recorded it already, whatever was added since."""
    past = recorded(context, step)
    for port in past.generated if past else ():
        if url.is_dataset(port.ref):
            id = url.dataset(port.ref)
            if id.key == key and context.catalogue.version(id, actor=context.actor).content == manifest.content:
                return [], id.version
    refs = context.catalogue.put_segments(segment.encode() for segment in manifest.segments())
    return [AddVersion(key, tuple(refs), note)], 0


def placed(context: Context, change: AddReplica) -> list[Change]:
    """Say that a version lies in a place; nothing where this run has said just that."""
    id = url.dataset(f"{change.dataset}@{change.version}")
    if change.version:
        for old in context.catalogue.replicas(id, actor=context.actor):
            same = (old.url, old.storage, old.state) == (change.url, change.storage, change.state)
            if same and old.evidence.get("run") == context.run and old.durability == change.durability:
                return [change] if context.catalogue.exceptions(old.id, actor=context.actor, limit=1) else []
    return [change]


def evidence(context: Context, how: str, **more: Any) -> dict[str, Any]:
    """How and when a replica was proven, and by which run."""
    return {"how": how, "run": context.run, "time_ns": context.now(), "boot": boot_id(), **more}


def counts(manifest: Manifest) -> Facts:
    """Sizes of a manifest as an answer shows them."""
    return {"files": manifest.files, "entries": manifest.entries, "bytes": manifest.size}
