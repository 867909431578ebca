"""What each change means: checks, the record that results, and the event that tells of it.  Rules: specs/catalogue.md.

Works on `Rows`, so that every catalogue decides alike.  A check that fails raises; the transaction around it undoes
what earlier changes of the same list had saved.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from dls.catalogue import placing
from dls.catalogue.changes import (
    AddActivity,
    AddReplica,
    AddVersion,
    Change,
    ClearFiles,
    MarkFiles,
    Outcome,
    PutDataset,
    Restore,
    SetReplica,
    Withdraw,
)
from dls.catalogue.fields import private, text
from dls.catalogue.files import SIZE_LIMIT, line_up
from dls.catalogue.known import ULID, active, dataset_key, seen, tell
from dls.catalogue.lineage import add_activity
from dls.catalogue.model import LOCAL, Dataset, Replica, State, Version
from dls.catalogue.rows import Rows
from dls.logistics.actor import Actor
from dls.logistics.errors import Conflict, Denied, Exists, Invalid
from dls.logistics.manifest import Manifest
from dls.logistics.segment import Segment

_DESCRIPTION_LIMIT = 100_000


def decide(rows: Rows, changes: Sequence[Change], actor: Actor, expected: Mapping[str, int] | None) -> list[Outcome]:
    """Carry out changes in order; raises at the first that cannot be."""
    text(actor.name, "actor")
    for what, serial in (expected or {}).items():
        have = _serial(rows, what, actor)
        if have != serial:
            raise Conflict(
                f"{what} has serial {have}, not {serial}: somebody changed it meanwhile",
                code="serial-differs",
                id=what,
                have=have,
                expected=serial,
                remedy="read it again, then decide again",
            )
    return [_HANDLERS[type(change)](rows, change, actor) for change in changes]


def _serial(rows: Rows, what: str, actor: Actor) -> int:
    """Of a dataset or replica; 0 where the actor knows of none."""
    record = rows.replica(what) if ULID.match(what) else rows.dataset(dataset_key(what))
    if isinstance(record, Replica):
        owner = rows.dataset(record.dataset)
        return record.serial if owner and actor.sees(owner.audience) else 0
    return record.serial if record and actor.sees(record.audience) else 0


def _save(rows: Rows, dataset: Dataset) -> Dataset:
    dataset = replace(dataset, serial=dataset.serial + 1, changed_ns=rows.now_ns)
    rows.save_dataset(dataset)
    return dataset


# ------------------------------------------------------------------------------------------ datasets


def _put_dataset(rows: Rows, change: PutDataset, actor: Actor) -> Outcome:
    key = dataset_key(change.dataset)
    old = rows.dataset(key)
    if old is not None and not actor.sees(old.audience):
        raise Exists(f"the name {key} is taken", code="name-taken", dataset=key, remedy="choose another name")
    wanted = {name: value for name in _TEXTS if (value := getattr(change, name)) is not None}
    for name, value in wanted.items():
        text(value, name, _TEXTS[name])
    if change.metadata is not None:
        wanted["metadata"] = private(change.metadata, "metadata")
    if not actor.sees(wanted.get("audience", LOCAL if old is None else old.audience)):
        raise Denied(
            f"{actor.name} does not belong to the audience {wanted.get('audience', LOCAL)}",
            code="not-your-audience",
            remedy=f"one of: {', '.join(sorted(actor.audiences))}",
        )
    if old is None:
        scope, _, name = key.partition(":")
        new = replace(Dataset(scope, name, origin=rows.origin, owner=actor.name, created_ns=rows.now_ns), **wanted)
        new = _save(rows, new)
        tell(rows, "dataset.added", key, actor, serial=new.serial)
        return Outcome(key, new.serial, changed=True)
    if wanted.get("origin", old.origin) != old.origin:
        raise Invalid(f"{key} is owned by the catalogue {old.origin}", code="other-origin", dataset=key)
    new = replace(old, **wanted)
    if new == old:
        return Outcome(key, old.serial, changed=False)
    changed = sorted(n for n in wanted if getattr(new, n) != getattr(old, n))
    new = _save(rows, new)
    tell(rows, "dataset.changed", key, actor, serial=new.serial, fields=changed)
    return Outcome(key, new.serial, changed=True)


_TEXTS: Final = {
    "title": 1_000,
    "description": _DESCRIPTION_LIMIT,
    "project": 200,
    "origin": 200,
    "owner": 1_000,
    "audience": 200,
}


def _withdraw(rows: Rows, change: Withdraw, actor: Actor) -> Outcome:
    dataset = seen(rows, change.dataset, actor)
    if not text(change.reason, "reason").strip():
        raise Invalid("a withdrawal gives its reason", code="bad-record", field="reason")
    return _turn(rows, dataset, actor, State.WITHDRAWN, change.reason)


def _restore(rows: Rows, change: Restore, actor: Actor) -> Outcome:
    return _turn(rows, seen(rows, change.dataset, actor), actor, State.ACTIVE, "")


def _turn(rows: Rows, old: Dataset, actor: Actor, state: State, reason: str) -> Outcome:
    if (old.state, old.reason) == (state, reason):
        return Outcome(old.key, old.serial, changed=False)
    new = _save(rows, replace(old, state=state, reason=reason))
    kind = "dataset.withdrawn" if state is State.WITHDRAWN else "dataset.restored"
    tell(rows, kind, old.key, actor, serial=new.serial, reason=reason[:500])
    return Outcome(old.key, new.serial, changed=True)


def _add_version(rows: Rows, change: AddVersion, actor: Actor) -> Outcome:
    dataset = active(rows, change.dataset, actor)
    refs = tuple(change.refs)
    line_up(refs, rows.segments([r.digest for r in refs]))
    manifest = Manifest(refs, _not_loaded)
    if manifest.size > SIZE_LIMIT:
        raise Invalid("over 2^63 bytes in all", code="bad-record", field="refs")
    newest = rows.version(dataset.key, 0)
    if newest is not None and newest.content == manifest.content:
        return Outcome(newest.id, dataset.serial, changed=False)
    version = Version(
        dataset.key,
        newest.number + 1 if newest else 1,
        manifest.content,
        manifest.digest,
        manifest.entries,
        manifest.files,
        manifest.size,
        rows.now_ns,
        actor.name,
        text(change.note, "note"),
    )
    serial = _save(rows, dataset).serial
    rows.save_version(version, [r.digest for r in refs])
    facts = {"version": version.number, "files": version.files, "bytes": version.size, "serial": serial}
    tell(rows, "version.added", dataset.key, actor, **facts)
    return Outcome(version.id, serial, changed=True)


def _not_loaded(digest: bytes) -> Segment:
    raise AssertionError(f"deciding opens no segment, not even {digest.hex()}")


_HANDLERS: Final[dict[type, Callable[[Rows, Any, Actor], Outcome]]] = {
    PutDataset: _put_dataset,
    AddVersion: _add_version,
    AddReplica: placing.add_replica,
    SetReplica: placing.set_replica,
    MarkFiles: placing.mark_files,
    ClearFiles: placing.clear_files,
    Withdraw: _withdraw,
    Restore: _restore,
    AddActivity: add_activity,
}
