"""release: give a lease back; the last one frees the buffer, unless that would lose bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ClassVar

from dls.catalogue.changes import AddActivity, Change, SetReplica
from dls.catalogue.model import Port, ReplicaState
from dls.logistics import names, url
from dls.logistics.buffer import ALL, HOLDING, LIVE, Buffer, Contents, Freeing, State, free
from dls.logistics.errors import Conflict, DlsError, NotFound, Unavailable
from dls.logistics.frozen import frozen
from dls.logistics.site import Storage
from dls.logistics.transfer.receipt import Place
from dls.madpp.action import AT_ONCE, Context, Facts, bounded, checked
from dls.madpp.actions.staged import staged_id
from dls.madpp.facts import software
from dls.madpp.layout import held_url, image_wanted, is_image
from dls.madpp.places import replicas_at, root_url
from dls.madpp.record import record, recorded
from dls.madpp.saved import NOTHING, held_by_others, secure, withdraw

FROM = " from "
"""Between a buffer's short name and the address whose content it was made for."""


@frozen
class Release:
    """`dls buffer release BUFFER`; an id, or the path that stage-in gave.  In plans also a dataset (or the address it
    was staged from) and a site: then it is no error where no such buffer is held any more."""

    buffer: str
    at: str = ""
    as_image: bool = False
    """Of a dataset: the buffer in which it is an image."""
    name: ClassVar[str] = "release"

    def check(self, context: Context) -> list[DlsError]:
        """Is there such a buffer, and does the actor hold a lease on it?"""
        return checked(lambda: self._found(context) if self.at else self._lease(context))

    def _found(self, context: Context) -> Buffer | None:
        if self.at:
            return held_for(context, self.buffer, self.at, as_image=self.as_image)
        return find(context, self.buffer)

    def _lease(self, context: Context) -> None:
        buffer, user = find(context, self.buffer), context.actor.name
        if buffer.state in LIVE and user not in {lease.user for lease in buffer.leases}:
            raise NotFound(
                f"{user} holds no lease on the buffer {buffer.id}",
                code="no-lease",
                buffer=buffer.id,
                remedy=f"held by: {', '.join(lease.user for lease in buffer.leases) or 'nobody'}",
            )

    def preview(self, context: Context) -> Facts:
        """What would be freed."""
        buffer = self._found(context)
        if buffer is None:
            return bounded({"what": self.buffer, "route": [self.at], "files": 0, "bytes": 0, "eta": AT_ONCE})
        path = context.buffers.path(buffer)
        return {
            "what": buffer.label,
            "buffer": buffer.id,
            "path": path,
            "route": [path],
            "files": 0,
            "bytes": buffer.reserved_bytes,
            "contents": buffer.contents.value,
            "others": sum(lease.user != context.actor.name for lease in buffer.leases),
            "eta": AT_ONCE,
        }

    def run(self, context: Context) -> Facts:
        """Look whether anything in it is unsaved, drop the lease, free the bytes where it was the last."""
        buffer, user = self._found(context), context.actor.name
        if buffer is None:
            return bounded({"buffer": "", "path": "", "freed": False, "bytes": 0, "others": 0})
        path, size = context.buffers.path(buffer), buffer.used_bytes
        if buffer.state is State.FREED:
            return bounded({"buffer": buffer.id, "path": path, "freed": True, "bytes": size})
        step = let_go(context, buffer, user)
        if step is None:
            return bounded({"buffer": buffer.id, "path": path, "freed": False, "others": len(buffer.leases) - 1})
        finish(context, step)
        return bounded({"buffer": buffer.id, "path": path, "freed": True, "bytes": size})


def let_go(context: Context, buffer: Buffer, user: str) -> Freeing | None:
    """Drop a user's lease.  With the last one it is looked whether anything in the buffer is nowhere else; what is left
    to do then, or Conflict `buffer-dirty`."""
    if buffer.state in LIVE and held_by_others(buffer, user, context.now()):
        return context.buffers.release(buffer.id, user, by=context.actor.name)
    with unused(context, buffer):
        if buffer.state in LIVE:
            secure(context, buffer)
        try:
            return context.buffers.release(buffer.id, user, by=context.actor.name)
        finally:
            context.buffers.revoke(NOTHING + buffer.id, by=context.actor.name)  # of a buffer that lives on


@contextmanager
def unused(context: Context, buffer: Buffer) -> Iterator[None]:
    """Hold the need of a buffer's content, so that nobody fills it meanwhile; Unavailable `need-busy` where a run does.

    Nothing is asked for a content that is not known: then nobody else can come to it."""
    if not buffer.content:
        yield
        return
    with context.needs.claim(buffer.content, buffer.storage, context.run, timeout=0.0) as claim:
        if not claim.is_held:
            raise Unavailable("another run has just worked on it", code="need-busy", remedy="run the same again")
        yield
        claim.finish({})


def find(context: Context, text: str) -> Buffer:
    """The buffer by its id, or by the path or URL that it has, or had: none is given twice; NotFound."""
    if "/" not in text:
        return context.buffers.open(text)
    wanted = str(url.parse(text, context.cwd))
    for buffer in context.buffers.list(states=ALL):
        if wanted in (root_url(context, buffer), held_url(context, buffer)):
            return buffer
    raise NotFound(f"no buffer at {text}", code="no-buffer", path=text, remedy="look at dls buffer list")


def held_for(context: Context, what: str, at: str, *, as_image: bool = False) -> Buffer | None:
    """The buffer at a site that holds a dataset, or what was staged from an address, and on which the actor has a
    lease, or whose freeing was interrupted, or which this run has freed; None where there is none."""
    storage = context.sites.get(at)
    id = url.dataset(what) if url.is_dataset(what) else url.dataset(staged_id(url.parse(what, context.cwd)))
    try:
        version = context.catalogue.version(id, actor=context.actor)
    except NotFound:
        return None
    roots = {r.url for r in context.catalogue.replicas(url.dataset(version.id), actor=context.actor, offered=False)}
    for states in (HOLDING, {State.FREED}):
        for one in context.buffers.list(storage.id, states=frozenset(states)):
            if is_image(one) is as_image and (one.content == version.content or held_url(context, one) in roots):
                mine = context.actor.name in {lease.user for lease in one.leases}
                if mine or one.state is State.FREEING or recorded(context, f"free {one.id}"):
                    return one
    return None


def finish(context: Context, step: Freeing) -> None:
    """The bytes part of freeing; the catalogue stops offering them first.  Harmless to repeat."""
    buffer, storage = step.buffer, context.sites.get(step.buffer.storage)
    root = root_url(context, buffer)
    changes: list[Change] = []
    held = held_url(context, buffer)
    places = _places(root, buffer) if held == root else [Place(root, image_wanted(held))]
    for one in replicas_at(context, held, buffer.content):
        withdraw(context, one)
        if held != root:
            version = context.catalogue.version(url.dataset(f"{one.dataset}@{one.version}"), actor=context.actor)
            places.append(Place(held, f"blake3:{version.content.hex()}"))
        if one.state is not ReplicaState.GONE:
            changes.append(SetReplica(one.id, ReplicaState.GONE, {"how": "buffer freed", "buffer": buffer.id}))
    if changes:
        freed = AddActivity("release", used=(Port(held, "buffer"),), where=storage.site, software=software())
        record(context, f"free {buffer.id}", changes, freed)
    store = context.open_store(storage.url)
    free(store, step)
    above = buffer.root.rpartition(b"/")[0]
    for place in places:
        store.below(above + b"/" + names.HIDDEN + place.id.encode(), staging=True).wipe()  # of a copy never finished
        context.receipts.drop(place)
        for left in context.folder.glob(f"{place.id}.*"):
            left.unlink(missing_ok=True)
    context.buffers.freed(buffer.id, by=context.actor.name)


def _places(root: str, buffer: Buffer) -> list[Place]:
    """What evidence was kept for a buffer's root: by its content, and by the address that it was copied from."""
    found = [Place(root, f"blake3:{buffer.content.hex()}")] if buffer.content else []
    address = buffer.label.partition(FROM)[2]
    return [*found, Place(root, f"from:{address}"), Place(root, f"from:{root}")] if address else found


def free_expired(context: Context, storage: Storage) -> int:
    """Free what nobody holds any more at a storage and is elsewhere, and end what a crash interrupted; the number of
    buffers freed.  Contents that are nowhere else stay, and are told of.  Trouble with one ends nothing else."""
    freed = 0
    for step in context.buffers.unfinished(storage.id):
        freed += _tried(context, step.buffer, lambda step=step: _continue(context, step))  # type: ignore[misc]
    for buffer in _idle(context, storage):
        if buffer.content or buffer.contents is Contents.CLEAN:
            freed += _tried(context, buffer, lambda buffer=buffer: _reclaim(context, buffer))  # type: ignore[misc]
    if not any(buffer.contents is Contents.CLEAN for buffer in _idle(context, storage)):
        context.buffers.expire(storage.id)  # frees nothing then: warns, once, of what is unsaved
    return freed


def _continue(context: Context, step: Freeing) -> None:
    with unused(context, step.buffer):
        finish(context, step)


def _idle(context: Context, storage: Storage) -> list[Buffer]:
    return [b for b in context.buffers.list(storage.id, states=LIVE) if not b.is_held(context.now())]


def _reclaim(context: Context, buffer: Buffer) -> None:
    with unused(context, buffer):
        words = secure(context, buffer)
        if words:
            raise Conflict(f"its contents are nowhere else ({words})", code="buffer-dirty", buffer=buffer.id)
        try:
            step = context.buffers.evict(buffer.id, by=context.actor.name)
        except DlsError:
            context.buffers.revoke(NOTHING + buffer.id, by=context.actor.name)
            raise
    finish(context, step)


def _tried(context: Context, buffer: Buffer, work: Callable[[], None]) -> bool:
    try:
        work()
    except DlsError as exc:
        if exc.code != "need-busy":
            context.note(f"the lease of {context.buffers.path(buffer)} has ended, but it is kept: {exc}")
        return False
    return True
