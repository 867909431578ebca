"""What a stage-in leaves on record: the buffer's replica, what it rests on, and the lineage."""

from __future__ import annotations

import re

from dls.catalogue.changes import AddActivity, AddReplica, AddVersion, Change, PutDataset
from dls.catalogue.model import Port
from dls.logistics import digest as digests
from dls.logistics import names, url
from dls.logistics.buffer import Buffer
from dls.logistics.errors import NotFound
from dls.logistics.frozen import frozen
from dls.logistics.site import Storage
from dls.logistics.store import Store
from dls.logistics.transfer.listing import Wanted
from dls.logistics.transfer.run import Outcome
from dls.logistics.url import Url
from dls.madpp.action import Context, Facts
from dls.madpp.facts import hardware, software
from dls.madpp.places import replica_id, root_url
from dls.madpp.record import evidence, placed, record, versioned
from dls.madpp.saved import contradicted, refs, rest
from dls.madpp.source import From, Wish


@frozen
class Work:
    """What is to be brought, and the places that have it."""

    label: str
    content: bytes
    """Names the content: its digest, or that of the listing while nothing is hashed."""
    wanted: Wanted
    froms: list[From]
    """Best first; none where only the buffer itself has it."""
    target: Store
    wish: Wish | None = None
    key: str = ""
    """The dataset that stands for what lies at an address."""
    store: Store | None = None
    """The store at that address."""
    only: bytes = b""


def short_name(at: Url) -> str:
    """The last part of an address, in letters that every store holds."""
    leaf = names.show(at.path.rpartition(b"/")[2])
    return re.sub(r"[^A-Za-z0-9._-]+", "-", leaf).strip("-._")[:80] or re.sub(r"[^a-z0-9]+", "-", at.scheme)


def staged_id(at: Url) -> str:
    """The dataset that stands for what lies at an address: `staged:<last part>-<eight digits of the address>`."""
    return f"staged:{short_name(at)}-{digests.of(str(at).encode('utf-8', 'surrogateescape')).hex()[:8]}"


def record_staged(
    context: Context,
    storage: Storage,
    work: Work,
    outcome: Outcome,
    buffer: Buffer,
    source: From | None,
    started: int,
) -> Facts:
    """Record a stage-in, then say what the buffer rests on."""
    root = root_url(context, buffer)
    came = source.url if source else root
    changes: list[Change] = []
    if work.wish is not None:
        key, number = work.wish.version.dataset, work.wish.version.number
        step = f"stage-in {key}@{number} {root}"
    else:
        key, step = work.key, f"stage-in {outcome.manifest.content.hex()} {root}"
        version, number = versioned(context, step, key, outcome.manifest)
        read = evidence(context, "read in full")
        changes = [
            *_named(context, key, came),
            *version,
            *contradicted(context, came, outcome.manifest, whole=not work.only),
            *placed(context, AddReplica(key, came, number, evidence=read)),
        ]
    proof = evidence(context, "hashed while copied", source=came, copied=outcome.copied, kept=outcome.kept)
    kept = context.options.durability
    changes += placed(context, AddReplica(key, root, number, storage.id, evidence=proof, durability=kept))
    which = f"{key}@{number}" if number else key
    activity = AddActivity(
        "stage-in",
        used=(Port(which), Port(came, "from")),
        generated=(Port(which), Port(root, "buffer")) if work.wish is None else (Port(root, "buffer"),),
        where=storage.site,
        started_ns=started,
        software=software(),
        hardware=hardware(),
    )
    done = record(context, step, changes, activity)
    which = done.of(AddVersion).id or which
    staged = context.catalogue.version(url.dataset(which), actor=context.actor)
    if not rested(context, buffer, staged.id):
        context.note(f"no other copy of {which} is known: {context.buffers.path(buffer)} is kept until it is saved")
    return {"dataset": staged.id, "replica": replica_id(context, staged.id, root), "activity": done.activity}


def rested(context: Context, buffer: Buffer, which: str) -> bool:
    """Whether a buffer that holds a version is clean."""
    version = context.catalogue.version(url.dataset(which), actor=context.actor)
    found = refs(context, buffer, version, sure=False)
    rest(context, buffer, version, found)
    return bool(found)


def _named(context: Context, key: str, came: str) -> list[Change]:
    """The dataset that stands for an address, titled where it is new."""
    try:
        context.catalogue.dataset(url.dataset(key), actor=context.actor)
    except NotFound:
        return [PutDataset(key, title=f"What was staged from {came}"[:1000])]
    return []
