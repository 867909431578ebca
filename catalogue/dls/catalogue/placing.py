"""What changes to replicas mean: added, set, single files marked and cleared."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dls.catalogue.changes import AddReplica, ClearFiles, MarkFiles, Outcome, SetReplica
from dls.catalogue.fields import private, text
from dls.catalogue.known import ULID, active, no_version, present, tell
from dls.catalogue.model import FileState, Json, Replica, ReplicaState
from dls.catalogue.rows import Rows
from dls.logistics import ids, names, url
from dls.logistics.actor import Actor
from dls.logistics.errors import Conflict, Corrupt, Exists, Invalid, NotFound


def _proven(state: ReplicaState, evidence: Json) -> None:
    if state is ReplicaState.COMPLETE and not evidence:
        raise Invalid(
            "a complete replica needs evidence",
            code="no-evidence",
            remedy="say how and when it was proven, by which run",
        )


def add_replica(rows: Rows, change: AddReplica, actor: Actor) -> Outcome:
    dataset = active(rows, change.dataset, actor)
    version = rows.version(dataset.key, change.version)
    if version is None:
        raise no_version(dataset.key, change.version)
    place = str(url.parse(change.url))
    storage = text(change.storage, "storage", 200)
    evidence = private(change.evidence, "evidence")
    state = ReplicaState(change.state)
    _proven(state, evidence)
    old = rows.replica_at(dataset.key, version.number, storage, place)
    if old is None:
        if change.id and (not ULID.match(change.id) or rows.replica(change.id)):
            raise Exists(f"the id {change.id} is taken, or no ULID", code="id-taken", replica=change.id)
        ident = change.id or ids.ulid()
        new = Replica(ident, dataset.key, version.number, storage, place, created_ns=rows.now_ns)
    else:
        new = old
    durability = text(change.durability, "durability", 40)
    new = replace(new, layout=change.layout, state=state, evidence=evidence, durability=durability)
    cleared = rows.clear(new.id, None) if old else 0
    if new == old and not cleared:
        return Outcome(new.id, new.serial, changed=False)
    return _keep(rows, new, actor, "replica.changed" if old else "replica.added")


def _keep(rows: Rows, replica: Replica, actor: Actor, kind: str, **more: Any) -> Outcome:
    replica = replace(replica, serial=replica.serial + 1, changed_ns=rows.now_ns)
    rows.save_replica(replica)
    facts = {"replica": replica.id, "version": replica.version, "storage": replica.storage, "serial": replica.serial}
    tell(rows, kind, replica.dataset, actor, **facts, state=replica.state.value, **more)
    return Outcome(replica.id, replica.serial, changed=True)


def _not_gone(replica: Replica) -> None:
    if replica.state is ReplicaState.GONE:
        raise Conflict(
            f"replica {replica.id} is gone",
            code="replica-gone",
            replica=replica.id,
            remedy="add the replica again once the bytes are there",
        )


def set_replica(rows: Rows, change: SetReplica, actor: Actor) -> Outcome:
    old = present(rows, change.replica, actor)
    new = replace(
        old,
        state=old.state if change.state is None else ReplicaState(change.state),
        evidence=old.evidence if change.evidence is None else private(change.evidence, "evidence"),
        durability=old.durability if change.durability is None else text(change.durability, "durability", 40),
    )
    if new == old:
        return Outcome(old.id, old.serial, changed=False)
    _not_gone(old)
    _proven(new.state, new.evidence)
    if new.state is ReplicaState.GONE:
        rows.clear(old.id, None)
    return _keep(rows, new, actor, "replica.changed")


def mark_files(rows: Rows, change: MarkFiles, actor: Actor) -> Outcome:
    replica = present(rows, change.replica, actor)
    _not_gone(replica)
    version = rows.version(replica.dataset, replica.version)
    if version is None:
        raise Corrupt(f"replica {replica.id} has no version", code="state-damaged")
    absent = rows.lacking(version, sorted(change.files))
    if absent is not None:
        key = names.show(absent)
        raise NotFound(
            f"{version.id} has no entry {key}", code="no-entry", key=key, remedy=f"dls catalogue files {version.id}"
        )
    count = rows.mark(replica.id, {path: FileState(state) for path, state in change.files.items()})
    if not count:
        return Outcome(replica.id, replica.serial, changed=False)
    return _keep(rows, replica, actor, "replica.marked", files=count)


def clear_files(rows: Rows, change: ClearFiles, actor: Actor) -> Outcome:
    replica = present(rows, change.replica, actor)
    count = rows.clear(replica.id, change.paths)
    if not count:
        return Outcome(replica.id, replica.serial, changed=False)
    return _keep(rows, replica, actor, "replica.cleared", files=count)
