"""stage-in as an image: a dataset into a leased buffer as one file, packed on the way, or copied where it is one."""

from __future__ import annotations

from dataclasses import replace

from dls.catalogue.changes import AddActivity, AddReplica
from dls.catalogue.model import Layout, Port, ReplicaState
from dls.logistics import duration, names, url
from dls.logistics.buffer import Buffer, State
from dls.logistics.errors import Corrupt, DlsError, Exists, NotFound, Unavailable, Unsupported
from dls.logistics.frozen import frozen
from dls.logistics.site import Storage
from dls.logistics.space import allocated
from dls.logistics.store import Can, Store
from dls.logistics.stores.one import OneStore
from dls.logistics.transfer.listing import known, listed
from dls.logistics.transfer.small import Failures
from dls.madpp import attested, copying, imaging, layout
from dls.madpp.action import Context, Facts, bounded
from dls.madpp.actions.release import free_expired
from dls.madpp.actions.staged import rested
from dls.madpp.facts import hardware, software
from dls.madpp.places import replica_id, replicas_at, root_url
from dls.madpp.reading import places
from dls.madpp.record import counts, evidence, placed, record
from dls.madpp.saved import NOTHING, OURS, blame, reached
from dls.madpp.source import From, Wish, lies_in, wish


@frozen
class _Work:
    """What is wanted, and the places that have it."""

    wish: Wish
    storage: Storage
    content: bytes
    """Stands for the content as an image."""
    froms: list[From]
    """Images first; none where only the buffer itself has it."""
    target: Store
    most: int
    """Bytes that it may take."""


def asked(context: Context, what: str) -> Wish:
    """The version that shall be staged as an image; Unsupported for what is no dataset."""
    from dls.fuse import installed

    installed.check()
    if not url.is_dataset(what):
        raise Unsupported(
            f"{what} is no dataset: only datasets are staged as images",
            code="no-dataset-to-pack",
            remedy=f"pack it: dls pack {what} IMAGE --as scope:name",
        )
    return wish(context, what)


def prepared(context: Context, what: str, storage: Storage) -> _Work:
    """Which places have it, and what it takes; NotFound where none is offered."""
    wanted = asked(context, what)
    content = layout.as_image(wanted.version.content)
    here = context.buffers.find(storage.id, content)
    root = root_url(context, here) if here else ""
    froms = [one for one in places(context, wanted) if not (root and lies_in(one.url, root))]
    if not froms and (here is None or here.state is not State.READY):
        raise NotFound(
            f"no other replica of {wanted.version.id} is offered",
            code="no-replica",
            dataset=wanted.version.id,
            remedy="register a copy with dls catalogue add",
        )
    image = next((one for one in froms if _is_image(one)), None)
    most = imaging.size_of(wanted.manifest)
    if image is not None and layout.stamp_of(context, image.url):
        most = imaging.stored(context, image.url)  # if another serves in the end, settling counts what it took
    return _Work(wanted, storage, content, froms, context.open_store(storage.url), most)


def preview(context: Context, what: str, storage: Storage) -> Facts:
    """Files, bytes, route, room and time."""
    work = prepared(context, what, storage)
    here, found = context.buffers.find(storage.id, work.content), work.wish.version
    route = [work.froms[0].text, storage.url] if work.froms else [storage.url]
    end = work.froms[0].end if work.froms else storage.id
    return bounded(
        {
            "what": found.id,
            "to": storage.id,
            "layout": Layout.IMAGE.value,
            "files": found.files,
            "bytes": found.size,
            "allocated": work.most,
            "not_kept": {},
            "route": route,
            "sources": [one.text for one in work.froms],
            "in_place": here is not None and here.state is State.READY,
            "eta": copying.estimate(context, (end, storage.id), found.size, found.files),
        }
    )


def stage(context: Context, what: str, storage: Storage, lifetime_s: int) -> Facts:
    """Lease, pack or copy, prove, record."""
    free_expired(context, storage)
    work = prepared(context, what, storage)
    with copying.alone(context, work.content, storage.id) as claim:
        buffer = _lease(context, work, lifetime_s)
        facts = _fill(context, work, buffer)
        claim.finish({"buffer": facts["buffer"], "run": context.run})
    return bounded(facts)


def _is_image(one: From) -> bool:
    return one.replica is not None and one.replica.layout is Layout.IMAGE


def _lease(context: Context, work: _Work, lifetime_s: int) -> Buffer:
    here = context.buffers.find(work.storage.id, work.content)
    if here is None and Can.SPACE in work.target.can:
        free = work.target.space()
        if free.bytes < work.most:
            raise Unavailable(
                f"{work.storage.url} has {duration.show_size(free.bytes)} free; an image of {work.wish.version.id} may "
                f"take {duration.show_size(work.most)}",
                code="disk-full",
                site=work.storage.id,
                needed_bytes=work.most,
                free_bytes=free.bytes,
                remedy="free space there, or choose another site",
            )
    return context.buffers.reserve(
        work.storage.id,
        content=work.content,
        label=layout.image_label(work.wish.version.id),
        bytes=work.most,
        inodes=2,  # the image, and the buffer's own folder
        lifetime_s=lifetime_s,
        user=context.actor.name,
        actor=context.actor,
    )


def _fill(context: Context, work: _Work, buffer: Buffer) -> Facts:
    """What lies there is proven; what is not there is brought from the first source that serves."""
    ready, started = buffer.state is State.READY, context.now()
    address, wanted = layout.held_url(context, buffer), known(work.wish.manifest)
    found = attested.look(context, address, wanted)
    source = work.froms[0] if work.froms else None
    brought = found.state is not attested.State.RIGHT
    if brought:
        _may_go(context, buffer, address, found.state, ready=ready)
        context.buffers.filling(buffer.id, by=context.actor.name)
        context.buffers.revoke(NOTHING + buffer.id, by=context.actor.name)
        source = _bring(context, work, buffer, over=found.state is not attested.State.ABSENT)
    size = imaging.stored(context, address)
    if brought or context.buffers.open(buffer.id).state is not State.READY:
        if context.buffers.open(buffer.id).state is State.RESERVED:
            context.buffers.filling(buffer.id, by=context.actor.name)
        taken = allocated(size, work.target.space().block if Can.SPACE in work.target.can else 4096)
        context.buffers.settle(buffer.id, taken, 2, by=context.actor.name)
    facts = _record(context, work, buffer, address, source, started)
    return {
        **facts,
        "buffer": buffer.id,
        "path": f"{context.buffers.path(buffer)}/{layout.IMAGE.decode()}",
        "site": work.storage.id,
        "layout": Layout.IMAGE.value,
        "from": source.text if source else "",
        "shared": buffer.shared and ready,
        "copied": work.wish.version.files if brought else 0,
        "kept": 0 if brought else work.wish.version.files,
        "stored": size,
        **counts(work.wish.manifest),
    }


def _may_go(context: Context, buffer: Buffer, address: str, state: attested.State, *, ready: bool) -> None:
    """Exists where somebody changed the image of a buffer, and no verification has marked it: it is theirs."""
    if state is attested.State.ABSENT or not ready:
        return
    rows = replicas_at(context, address)
    if any(
        r.state in (ReplicaState.CORRUPT, ReplicaState.LOST)
        or context.catalogue.exceptions(r.id, actor=context.actor, limit=1)
        for r in rows
    ):
        return
    path = context.buffers.path(buffer)
    raise Exists(
        f"the image in the buffer {path} was changed since it was staged",
        code="buffer-changed",
        buffer=buffer.id,
        path=path,
        remedy="run dls verify DATASET --at SITE --deep (it marks it) and stage in again, or release the buffer",
    )


def _bring(context: Context, work: _Work, buffer: Buffer, *, over: bool) -> From:
    """From the first source that can give everything."""
    errors = list[DlsError]()
    for number, one in enumerate(work.froms):
        context.say("route", {"from": one.text, "to": context.buffers.path(buffer), "what": work.wish.version.id})
        try:
            store = reached(context, one)
            if _is_image(one) and layout.by_itself(store):
                _copy(context, work, one, buffer, over=over)
            else:
                _pack(context, work, one, store, buffer, over=over)
        except DlsError as error:
            if error.code in OURS:
                raise
            errors.append(error)
            if number + 1 < len(work.froms):
                context.note(f"{one.text} could not give everything ({error}); trying {work.froms[number + 1].text}")
        else:
            return one
    raise (
        copying.gone_wrong(errors)
        if errors
        else Corrupt(
            f"the image in {context.buffers.path(buffer)} is damaged, and no other copy is known",
            code="replica-damaged",
            buffer=buffer.id,
            remedy="register another copy with dls catalogue add",
        )
    )


def _copy(context: Context, work: _Work, one: From, buffer: Buffer, *, over: bool) -> None:
    """An image as the file that it is; then every byte of what arrived is compared with the version."""
    address = layout.held_url(context, buffer)
    above, key = url.parse(one.url).parent
    source = OneStore(context.open_store(str(above)), key, layout.IMAGE)
    wanted = replace(listed(source, context.folder), name=layout.image_wanted(address))
    may = copying.replacing(context.options, {layout.IMAGE} if over else ())
    outcome = copying.copy(context, source, work.target, buffer.root, wanted, (one.end, work.storage.id), may)
    copying.failed(outcome.failures, f"copying {one.url}")
    proof = attested.proven(context, layout.open_known(context, address), known(work.wish.manifest))
    copying.failed(proof.unread, f"reading {address}")
    if proof.good:
        return
    work.target.below(buffer.root).delete(layout.IMAGE)
    wrong = Failures()
    for failures in (proof.corrupt, proof.missing):
        for key, error in failures.shown:
            wrong.add(key, error)
        wrong.count += failures.count - len(failures.shown)
    if one.replica is not None:
        blame(context, one.replica, wrong)
    copying.failed(wrong, f"copying {one.url}")


def _pack(context: Context, work: _Work, one: From, store: Store, buffer: Buffer, *, over: bool) -> None:
    """Packed on the way."""
    from dls.fuse.pack import Options

    address, wrong = layout.held_url(context, buffer), Failures()
    options = Options(workers=imaging.workers_for(store.url), replace=over)
    context.progress.files_total, context.progress.bytes_total = work.wish.version.files, work.wish.version.size
    try:
        made = imaging.make(
            context,
            imaging.origin_of(store, work.wish.manifest),
            address,
            options,
            attested.registered(work.wish.manifest, store.url, wrong),
        )
    except DlsError as error:
        if one.replica is not None:
            if not wrong.count and error.facts.get("store") == store.url and error.facts.get("key"):
                wrong.add(names.read(str(error.facts["key"])), error)
            blame(context, one.replica, wrong)
        raise
    attested.attest(context, address, known(work.wish.manifest), made.manifest)


def _record(context: Context, work: _Work, buffer: Buffer, address: str, source: From | None, started: int) -> Facts:
    version, storage = work.wish.version, work.storage
    came = source.url if source else address
    proof = evidence(context, "compared with the version", source=came)
    kept = context.options.durability
    change = AddReplica(
        version.dataset, address, version.number, storage.id, Layout.IMAGE, evidence=proof, durability=kept
    )
    activity = AddActivity(
        "stage-in",
        used=(Port(version.id), Port(came, "from")),
        generated=(Port(address, "buffer"),),
        where=storage.site,
        started_ns=started,
        software=software(),
        hardware=hardware(),
    )
    done = record(context, f"stage-in {version.id} {address}", placed(context, change), activity)
    if not rested(context, buffer, version.id):
        context.note(
            f"no other copy of {version.id} is known: {context.buffers.path(buffer)} is kept until it is saved"
        )
    return {"dataset": version.id, "replica": replica_id(context, version.id, address), "activity": done.activity}
