"""stage-in: bring a dataset, or what lies at an address, into a leased buffer of a site, proven."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from typing import ClassVar

from dls.logistics import digest as digests
from dls.logistics import duration, url
from dls.logistics.buffer import Buffer, State
from dls.logistics.errors import DlsError, Exists, NotFound, Unavailable
from dls.logistics.frozen import frozen
from dls.logistics.site import Storage
from dls.logistics.store import Can, Store
from dls.logistics.transfer.listing import Wanted, known, listed
from dls.logistics.transfer.plan import Survey
from dls.logistics.transfer.prove import prove
from dls.logistics.transfer.run import Options, Outcome
from dls.madpp import copying
from dls.madpp.action import Context, Facts, bounded, checked
from dls.madpp.actions import stage_image
from dls.madpp.actions.release import FROM, free_expired
from dls.madpp.actions.staged import Work, record_staged, short_name, staged_id
from dls.madpp.places import apart, replicas_at, root_url
from dls.madpp.record import counts
from dls.madpp.saved import NOTHING, OURS, blame, reached
from dls.madpp.source import From, Wish, address, ends, lifetime, new_name, opened, shown, sources, there, wish


@frozen
class StageIn:
    """`dls stage-in WHAT --to SITE [--lifetime P7D] [--as-image]`; WHAT is a dataset id or an address."""

    what: str
    to: str
    lifetime: str = ""
    as_image: bool = False
    """As one file: packed on the way, or copied where it is an image already."""
    name: ClassVar[str] = "stage-in"

    def check(self, context: Context) -> list[DlsError]:
        """Are site, lifetime and dataset (or address) there, is there a source, and does the site hold every name?"""
        return checked(
            lambda: context.sites.get(self.to),
            lambda: duration.read_duration(self.lifetime) if self.lifetime else None,
            lambda: lifetime(self.lifetime, context.sites.get(self.to)),
            lambda: self._source(context),
        )

    def _source(self, context: Context) -> None:
        if self.as_image:
            stage_image.prepared(context, self.what, context.sites.get(self.to))
            return
        if url.is_dataset(self.what):
            wanted = wish(context, self.what)
            storage = context.sites.get(self.to)
            _froms(context, wanted, storage, context.buffers.find(storage.id, wanted.version.content))
            copying.fit(known(wanted.manifest), context.open_store(storage.url))
            return
        at = address(context, self.what)
        _, only = there(context, at)
        if not only:
            apart(context, str(at), "stage in")
        new_name(context, staged_id(at))

    def preview(self, context: Context) -> Facts:
        """Files, bytes, route, room and time; whether a buffer there holds it already."""
        storage = context.sites.get(self.to)
        if self.as_image:
            return stage_image.preview(context, self.what, storage)
        work = _prepare(context, self.what, storage)
        found = copying.fit(work.wanted, work.target)
        here = context.buffers.find(storage.id, work.content)
        route = [work.froms[0].text, storage.url] if work.froms else [storage.url]
        facts = {
            "what": work.label,
            "to": storage.id,
            "files": found.files,
            "bytes": found.size,
            "allocated": found.allocated,
            "not_kept": found.lost,
            "route": route,
            "sources": [one.text for one in work.froms],
            "in_place": here is not None and here.state is State.READY,
            "eta": copying.estimate(
                context, (work.froms[0].end if work.froms else storage.id, storage.id), found.size, found.files
            ),
        }
        return bounded(facts)

    def run(self, context: Context) -> Facts:
        """Lease, copy, prove, publish, record."""
        storage = context.sites.get(self.to)
        lifetime_s = lifetime(self.lifetime, storage)
        if self.as_image:
            return stage_image.stage(context, self.what, storage, lifetime_s)
        free_expired(context, storage)
        work = _prepare(context, self.what, storage)
        found = copying.fit(work.wanted, work.target)
        with copying.alone(context, work.content, storage.id) as claim:
            buffer = _lease(context, storage, work, found, lifetime_s)
            facts = _fill(context, storage, work, found, buffer)
            claim.finish({"buffer": facts["buffer"], "run": context.run})
        return bounded(facts)


def _prepare(context: Context, what: str, storage: Storage) -> Work:
    target = context.open_store(storage.url)
    if url.is_dataset(what):
        wanted = wish(context, what)
        content = wanted.version.content
        froms = _froms(context, wanted, storage, context.buffers.find(storage.id, content))
        return Work(wanted.version.id, content, known(wanted.manifest), froms, target, wanted)
    at = address(context, what)
    store, only = opened(context, at)
    found = listed(store, context.folder, only=only)
    content = digests.of(found.name.encode("utf-8", "surrogateescape") + found.manifest.digest)
    label = short_name(at) + FROM + found.name.removeprefix("from:")
    one = From(shown(at), store.url, ends(context, at))
    return Work(label, content, found, [one], target, key=staged_id(at), store=store, only=only)


def _froms(context: Context, wanted: Wish, storage: Storage, here: Buffer | None) -> list[From]:
    """Places to copy from; none are needed where a buffer there holds all of it and the dataset is offered."""
    root = root_url(context, here) if here else ""
    try:
        return sources(context, wanted, to=root)
    except NotFound:
        if here is None or here.state is not State.READY or not sources(context, wanted):
            raise
        return []


def _lease(context: Context, storage: Storage, work: Work, found: Survey, lifetime_s: int) -> Buffer:
    """A lease in the buffer of this content, or in a new one; Unavailable where the disk itself has no room."""
    here = context.buffers.find(storage.id, work.content)
    if here is None and Can.SPACE in work.target.can:
        free = work.target.space()
        if free.bytes < found.allocated or 0 <= free.inodes < found.inodes:
            raise Unavailable(
                f"{storage.url} has {duration.show_size(free.bytes)} and {free.inodes} inodes free; "
                f"{duration.show_size(found.allocated)} and {found.inodes} inodes are needed",
                code="disk-full",
                site=storage.id,
                needed_bytes=found.allocated,
                free_bytes=free.bytes,
                remedy="free space there, or choose another site",
            )
    return context.buffers.reserve(
        storage.id,
        content=work.content,
        label=work.label,
        bytes=found.allocated,
        inodes=found.inodes + 1,  # the buffer's own folder
        lifetime_s=lifetime_s,
        user=context.actor.name,
        actor=context.actor,
    )


def _fill(context: Context, storage: Storage, work: Work, found: Survey, buffer: Buffer) -> Facts:
    """Copy into the buffer from the first source that serves, then record what is there."""
    ready, started = buffer.state is State.READY, context.now()
    root = root_url(context, buffer)
    damaged = _damaged(context, work, root)
    if not ready or damaged or not context.open_store(root).exists():
        context.buffers.filling(buffer.id, by=context.actor.name)
        context.buffers.revoke(NOTHING + buffer.id, by=context.actor.name)
    copying.tell_losses(context, found, work.target, kept=True)
    outcome, source = _bring(context, storage, work, buffer, copying.replacing(context.options, damaged))
    if outcome.copied or context.buffers.open(buffer.id).state is not State.READY:
        context.buffers.settle(buffer.id, found.allocated, found.inodes + 1, by=context.actor.name)
    facts = record_staged(context, storage, work, outcome, buffer, source, started)
    return {
        **facts,
        "buffer": buffer.id,
        "path": context.buffers.path(buffer),
        "site": storage.id,
        "from": source.text if source else "",
        "shared": buffer.shared and ready,
        "copied": outcome.copied,
        "kept": outcome.kept,
        **counts(outcome.manifest),
    }


def _damaged(context: Context, work: Work, root: str) -> Collection[bytes]:
    """Names in the buffer that verification found wrong: they may be replaced."""
    found = set[bytes]()
    for one in replicas_at(context, root, work.content):
        if one.state.value == "corrupt":
            return _all(work)  # too much is damaged to have been marked one by one
        found.update(mark.path for mark in context.catalogue.exceptions(one.id, actor=context.actor))
    return frozenset(found)


def _all(work: Work) -> Collection[bytes]:
    return frozenset(entry.path for entry in work.wanted.manifest)


def _bring(
    context: Context, storage: Storage, work: Work, buffer: Buffer, options: Options
) -> tuple[Outcome, From | None]:
    """From the first source that can give everything; what one gave is not fetched again from the next."""
    errors: list[DlsError] = []
    if not work.froms:
        here = context.open_store(root_url(context, buffer))
        return proven(context, work.wanted, here, work.label), None
    for number, one in enumerate(work.froms):
        context.say("route", {"from": one.text, "to": context.buffers.path(buffer), "what": work.label})
        try:
            store = work.store or reached(context, one)
            link = (one.end, storage.id)
            outcome = copying.copy(context, store, work.target, buffer.root, work.wanted, link, options)
            error = copying.failure(outcome.failures, f"copying from {store.url}")
            if error is None:
                return outcome, one
            if one.replica is not None:
                blame(context, one.replica, outcome.failures)
        except Exists as exc:
            raise _changed(context, buffer, exc) from exc
        except DlsError as exc:
            error = exc
        if error.code in OURS:
            raise error
        errors.append(error)
        if number + 1 < len(work.froms):
            context.note(f"{one.text} could not give everything ({error}); trying {work.froms[number + 1].text}")
    if work.wish is not None and buffer.state is State.READY:
        with suppress(DlsError):  # it is all there: nothing is needed of places that cannot be asked
            return proven(context, work.wanted, context.open_store(root_url(context, buffer)), work.label), None
    raise copying.gone_wrong(errors)


def proven(context: Context, wanted: Wanted, store: Store, label: str) -> Outcome:
    """No other place has it: what lies in the target already must do."""
    proof = prove(
        store, wanted, context.receipts, logs=context.folder, options=context.options, progress=context.progress
    )
    for failures in (proof.corrupt, proof.missing, proof.unread):
        copying.failed(failures, f"reading {store.url}, the only copy of {label}")
    return Outcome(proof.manifest, proof.place, 0, proof.manifest.files, proof.manifest.size)


def _changed(context: Context, buffer: Buffer, exc: Exists) -> DlsError:
    """Files in a buffer were changed by others: nothing is overwritten without a word."""
    path = context.buffers.path(buffer)
    return Exists(
        f"{exc.facts.get('count', 1)} files in the buffer {path} were changed since they were staged",
        code="buffer-changed",
        buffer=buffer.id,
        path=path,
        keys=exc.facts.get("keys"),
        remedy=f"keep the changes with dls stage-out {path} --to SITE --as scope:name; or, to have them replaced, "
        "run dls verify DATASET --at SITE --deep (it marks them) and stage in again",
    )
