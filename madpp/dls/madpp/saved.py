"""What of a buffer's contents is also elsewhere: the only place that calls a buffer clean.  Rules: specs/action.md.

A buffer may be freed when every byte in it has another verified copy.  Two facts are looked at: that the buffer holds
nothing beyond a version of the catalogue, and that a complete replica of that version lies where freeing does not
reach.  A copy in another buffer is evidence only by that buffer's id (`buffer:ID`), which the statement that begins to
free it withdraws: two buffers that vouch for each other never both go.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from dls.catalogue.changes import Change, MarkFiles, SetReplica
from dls.catalogue.model import FileState, Layout, Replica, ReplicaState, Version
from dls.logistics import names, url
from dls.logistics.buffer import Buffer, Contents, State
from dls.logistics.entry import FILE, FOLDER
from dls.logistics.errors import Corrupt, DlsError, NotFound, Unavailable
from dls.logistics.frozen import frozen
from dls.logistics.manifest import Manifest, diff, merge
from dls.logistics.store import Store
from dls.logistics.transfer.listing import known
from dls.logistics.transfer.progress import Progress
from dls.logistics.transfer.prove import prove
from dls.logistics.transfer.small import Failures
from dls.madpp.action import Context
from dls.madpp.layout import (
    IMAGE,
    held_url,
    is_image,
    is_there,
    open_held,
    open_known,
    open_replica,
    stamp_of,
)
from dls.madpp.places import containing, replicas_at, root_url
from dls.madpp.record import evidence, facts_of
from dls.madpp.source import From, overlap

NOTHING = "nothing:"
"""Evidence for a buffer in which no bytes lie; it holds until something is written."""
_MARKS = 10_000
"""More files than this are not marked one by one: the replica as a whole is corrupt."""


# ------------------------------------------------------------------------------- what contradicts the record


def contradicted(context: Context, address: str, now: Manifest, *, whole: bool) -> list[Change]:
    """What was read at an address against what the catalogue says of it: marks for the files of older replicas there
    that are no longer so, and evidence that rests on them withdrawn.  `whole`: all that lies there was read."""
    changes: list[Change] = []
    for old in replicas_at(context, address):
        if old.state in (ReplicaState.GONE, ReplicaState.CORRUPT, ReplicaState.LOST):
            continue
        then = context.catalogue.manifest(url.dataset(f"{old.dataset}@{old.version}"), actor=context.actor)
        marks: dict[bytes, FileState] = {}
        for change in diff(then, now) if then.content != now.content else ():
            if change.before is not None and (change.after is not None or whole) and len(marks) < _MARKS:
                marks[change.path] = FileState.CORRUPT if change.after is not None else FileState.LOST
        if not marks:
            continue
        withdraw(context, old)
        why = evidence(context, "what lies there was read again and is not this version any more")
        if len(marks) == _MARKS:
            changes.append(SetReplica(old.id, ReplicaState.CORRUPT, why))
        else:
            changes += [SetReplica(old.id, None, why), MarkFiles(old.id, marks)]
    return changes


OURS = frozenset({"disk-full", "read-only", "name-not-held", "no-state", "state-damaged", "stalled", "same-place"})
"""Troubles of the target, or of our own: another source does not help."""


def blame(context: Context, replica: Replica, failures: Failures) -> None:
    """A source did not give what was recorded: mark the files, and let nothing rest on it.  What another place did, as
    the target, is not held against it."""
    marks: dict[bytes, FileState] = {}
    # What a layer lies on is an image beside it.
    root = replica.url.rpartition("/")[0] if replica.layout is Layout.IMAGE else replica.url
    for key, error in failures.shown:
        where = str(error.facts.get("store", ""))
        if "://" in where and not overlap(where, root):  # of an image's inside a path is told
            continue
        if isinstance(error, Corrupt | NotFound) or error.code in ("source-changed", "size-changed"):
            marks[key] = FileState.LOST if isinstance(error, NotFound) else FileState.CORRUPT
    if not marks:
        return
    withdraw(context, replica)
    why = evidence(context, "found while it was copied from")
    if failures.count > len(failures.shown) == len(marks):
        facts_of(context, [SetReplica(replica.id, ReplicaState.CORRUPT, why)])
    else:
        facts_of(context, [SetReplica(replica.id, None, why), MarkFiles(replica.id, marks)])


def reached(context: Context, one: From) -> Store:
    """A place to copy from, opened.  A replica of which nothing can be read is recorded as lost or corrupt."""
    if one.replica is None:
        return context.open_store(one.url)
    try:
        return open_replica(context, one.replica)
    except (Corrupt, NotFound) as error:
        condemn(context, one.replica, error)
        raise


def condemn(context: Context, replica: Replica, error: DlsError) -> None:
    """Nothing of a replica can be read: it is no source any more, and nothing rests on it."""
    withdraw(context, replica)
    state = ReplicaState.LOST if isinstance(error, NotFound) else ReplicaState.CORRUPT
    facts_of(context, [SetReplica(replica.id, state, evidence(context, f"not readable: {error.message}"[:500]))])


# ------------------------------------------------------------------------------------------------ evidence


def withdraw(context: Context, replica: Replica) -> list[Buffer]:
    """Nothing rests on this replica any more; the buffers that are dirty through it."""
    bare = [*context.buffers.revoke(f"replica:{replica.id}", by=context.actor.name)]
    inside = containing(context, replica.url)
    if inside is not None:
        bare += context.buffers.revoke(f"buffer:{inside.id}", by=context.actor.name)
    return bare


def refs(context: Context, buffer: Buffer, version: Version, *, sure: bool) -> list[str]:
    """Evidence of complete copies of a version outside this buffer.  `sure`: look whether they are still there."""
    root, found, lent = root_url(context, buffer), list[str](), list[tuple[Buffer, Replica]]()
    for one in context.catalogue.replicas(url.dataset(version.id), actor=context.actor):
        if overlap(one.url, root) or _damaged(context, one):
            continue
        inside = containing(context, one.url)
        if inside is not None:
            if inside.state is State.READY:
                lent.append((inside, one))
        elif not sure or _still(context, one, buffer, version):
            found.append(f"replica:{one.id}")
    for other, one in lent if not found else ():
        if not sure or not _lacks(context, one, version):
            found.append(f"buffer:{other.id}")
    return found


def _lacks(context: Context, replica: Replica, version: Version) -> bool:
    """Whether a replica in a buffer is not all of a version any more."""
    try:
        return bool(beyond(context, open_replica(context, replica), version, missing=True))
    except (Corrupt, NotFound):
        return True


def _damaged(context: Context, replica: Replica) -> bool:
    marks = context.catalogue.exceptions(replica.id, actor=context.actor)
    return any(mark.state is not FileState.OFFLINE for mark in marks)


def _still(context: Context, replica: Replica, buffer: Buffer, version: Version) -> bool:
    """Whether a replica's place is still there and is not the buffer by another name; a service that cannot be asked
    now refutes nothing."""
    try:
        manifest = context.catalogue.manifest(url.dataset(version.id), actor=context.actor)
        if version.entries and not is_there(context, replica, manifest):
            withdraw(context, replica)
            gone = SetReplica(replica.id, ReplicaState.LOST, evidence(context, "not found"))
            facts_of(context, [gone])
            return False
        return not _same_bytes(context, replica, buffer, version)
    except Unavailable:
        return True


def _same_bytes(context: Context, replica: Replica, buffer: Buffer, version: Version) -> bool:
    """Whether two places of this machine are one, by way of links: then a file in both has one stamp."""
    held = held_url(context, buffer)
    if not (replica.url.startswith("file:") and held.startswith("file:")):
        return False
    if (replica.layout is Layout.IMAGE) != is_image(buffer):
        return False  # a file of its own, or many
    if is_image(buffer):
        here, there = stamp_of(context, replica.url), stamp_of(context, held)
        return bool(here) and here == there
    manifest = context.catalogue.manifest(url.dataset(version.id), actor=context.actor)
    first = next((e.path for e in manifest if e.kind == FILE), None)
    if first is None:
        return False
    (here,), (there,) = (context.open_store(one).stamps([first]) for one in (replica.url, held))
    return bool(here) and here == there


def rest(context: Context, buffer: Buffer, version: Version, found: list[str]) -> None:
    """Call a buffer clean whose contents are (a part of) a version, by the evidence that `refs` found."""
    for ref in found:
        context.buffers.mark_clean(buffer.id, ref, by=context.actor.name)
    for ref in found:  # a copy that was withdrawn between the two looks must not count
        if ref.startswith("replica:") and not _offered(context, ref.removeprefix("replica:"), version):
            context.buffers.revoke(ref, by=context.actor.name)


def _offered(context: Context, replica: str, version: Version) -> bool:
    offered = context.catalogue.replicas(url.dataset(version.id), actor=context.actor)
    return any(r.id == replica and not _damaged(context, r) for r in offered)


# ------------------------------------------------------------------------------------- what is nowhere else


@frozen
class Beyond:
    """What lies in a place and is not what a version says; false where nothing."""

    words: str
    differ: tuple[bytes, ...] = ()
    """Names of the version that hold something else, the first thousand."""
    count: int = 0
    """How many in all."""

    def __bool__(self) -> bool:
        return bool(self.words)


def beyond(context: Context, store: Store, version: Version, *, missing: bool = False) -> Beyond:
    """Compare what lies in a store with a version; names that are not there do not count, unless `missing`."""
    manifest = context.catalogue.manifest(url.dataset(version.id), actor=context.actor)
    extra, first = 0, b""
    for want, have in merge(manifest, store.list()):
        if want is None and have is not None and have.kind != FOLDER:
            extra, first = extra + 1, first or have.path
    proof = prove(
        store, known(manifest), context.receipts, logs=context.folder, options=context.options, progress=Progress()
    )
    wrong = [*proof.corrupt.shown, *proof.unread.shown, *(proof.missing.shown if missing else ())]
    count = proof.corrupt.count + proof.unread.count + (proof.missing.count if missing else 0)
    words = [f"{extra} files are not of {version.id}, first {names.show(first)}"] if extra else []
    words += [f"{count} files differ from {version.id}, first {names.show(wrong[0][0])}"] if count else []
    return Beyond(" and ".join(words), tuple(key for key, _ in wrong), count)


def _held(context: Context, buffer: Buffer, version: Version) -> Beyond:
    """What a buffer holds, and is not a version.  An image counts as what is in it, or as the file that it is."""
    if not is_image(buffer):
        return beyond(context, open_held(context, buffer), version)
    folder = context.open_store(root_url(context, buffer))
    try:
        image = open_known(context, held_url(context, buffer))
        if image.tree.manifest.content != version.content:
            return beyond(context, folder, version)
        found = beyond(context, image, version)
    except NotFound:  # what was removed is not missed
        found = Beyond("")
    except Corrupt as error:
        found = Beyond(error.message, (), 1)
    beside = [name for name in _bytes_in(folder) if name != IMAGE]
    words = f"{len(beside)} files lie beside the image, first {names.show(beside[0])}" if beside else ""
    return Beyond(" and ".join(filter(None, (words, found.words))), found.differ, found.count)


def candidates(context: Context, buffer: Buffer) -> Iterator[Version]:
    """The versions that a buffer may hold: of its content, recorded where it lies, or copied from it."""
    found: dict[str, Version] = {}
    content = _content(context, buffer)
    if content:
        found = {v.id: v for v in context.catalogue.by_content(content, actor=context.actor)}
    for one in [*replicas_at(context, held_url(context, buffer)), *_vouching(context, buffer)]:
        id = f"{one.dataset}@{one.version}"
        if id not in found:
            found[id] = context.catalogue.version(url.dataset(id), actor=context.actor)
    return iter(found.values())


def _content(context: Context, buffer: Buffer) -> bytes:
    """The content that a buffer was made for, as a version names it; b'' where nobody can tell."""
    if not is_image(buffer):
        return buffer.content
    try:
        return open_known(context, held_url(context, buffer)).tree.manifest.content
    except (Corrupt, NotFound):
        return b""


def _vouching(context: Context, buffer: Buffer) -> Iterator[Replica]:
    for ref in buffer.evidence:
        if ref.startswith("replica:"):
            try:
                yield context.catalogue.replica(ref.removeprefix("replica:"), actor=context.actor)
            except NotFound:
                continue


def secure(context: Context, buffer: Buffer) -> str:
    """Look whether all that a buffer holds is elsewhere.  '' where so, and then it is clean; else what is not, in
    words, and then it is dirty.  The caller holds the need of its content."""
    store = context.open_store(root_url(context, buffer))
    if next(_bytes_in(store), None) is None:
        context.buffers.mark_clean(buffer.id, NOTHING + buffer.id, "nothing lies in it", by=context.actor.name)
        return ""
    why, held = "", Beyond("")
    for version in candidates(context, buffer):
        found = refs(context, buffer, version, sure=True)
        if not found:
            why = why or f"no other copy of {version.id} is known"
            continue
        held = _held(context, buffer, version)
        if not held:
            rest(context, buffer, version, found)
            return ""
        why = held.words
    rows = replicas_at(context, held_url(context, buffer))
    marks = any(context.catalogue.exceptions(r.id, actor=context.actor) for r in rows)
    if held and not marks and buffer.content:
        spoiled(context, buffer, held)
    elif buffer.contents is Contents.CLEAN:
        context.buffers.mark_dirty(buffer.id, why or "no other copy is known", by=context.actor.name)
    return why or buffer.why


def _bytes_in(store: Store) -> Iterator[bytes]:
    if store.exists():
        yield from (entry.path for entry in store.list() if entry.kind != FOLDER)


def spoiled(context: Context, buffer: Buffer, held: Beyond) -> None:
    """Somebody changed what was staged into a buffer: it is theirs from now on, and no source of what differs."""
    context.buffers.mark_dirty(buffer.id, held.words, changed=True, by=context.actor.name)
    if not held.count:
        return
    why = evidence(context, f"changed in the buffer: {held.words}"[:500])
    for one in replicas_at(context, held_url(context, buffer)):
        if one.state is not ReplicaState.COMPLETE:
            continue
        withdraw(context, one)
        changes: list[Change] = [SetReplica(one.id, None, why)]
        if held.count > len(held.differ):
            changes = [SetReplica(one.id, ReplicaState.CORRUPT, why)]
        else:
            changes.append(MarkFiles(one.id, dict.fromkeys(held.differ, FileState.CORRUPT)))
        facts_of(context, changes)


def held_by_others(buffer: Buffer, user: str, now_ns: int) -> bool:
    """Whether somebody else's lease runs."""
    return replace(buffer, leases=tuple(x for x in buffer.leases if x.user != user)).is_held(now_ns)
