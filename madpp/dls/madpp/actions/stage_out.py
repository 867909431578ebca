"""stage-out: save a path, a buffer or a dataset at a site or an address, proven, and record where it is."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from dls.catalogue.changes import AddActivity, AddReplica, AddVersion, Change, PutDataset
from dls.catalogue.model import Port, ReplicaState, Version
from dls.logistics import digest as digests
from dls.logistics import names, url
from dls.logistics.buffer import Buffer
from dls.logistics.database import boot_id
from dls.logistics.errors import DlsError, Invalid
from dls.logistics.frozen import frozen
from dls.logistics.manifest import Bitmap
from dls.logistics.store import Store
from dls.logistics.transfer.listing import Wanted, known, listed
from dls.logistics.transfer.receipt import Place, Receipt
from dls.logistics.transfer.run import Outcome
from dls.madpp import copying
from dls.madpp.action import Context, Facts, bounded, checked
from dls.madpp.actions.stage_in import proven
from dls.madpp.actions.staged import rested
from dls.madpp.facts import hardware, software
from dls.madpp.layout import held_url
from dls.madpp.places import apart, containing, replica_id, replicas_at, root_url
from dls.madpp.record import counts, evidence, placed, record, versioned
from dls.madpp.saved import OURS, blame, reached
from dls.madpp.source import (
    From,
    Wish,
    address,
    ends,
    is_site,
    new_name,
    opened,
    overlap,
    shown,
    sources,
    target,
    there,
    wish,
)


@frozen
class StageOut:
    """`dls stage-out WHAT --to SITE|URL [--as SCOPE:NAME]`; WHAT is a path, an address or a dataset id."""

    what: str
    to: str
    as_: str = ""
    name: ClassVar[str] = "stage-out"

    def check(self, context: Context) -> list[DlsError]:
        """Are source and target known and apart, is the new name legal, does the target hold every name?"""
        return checked(
            lambda: new_name(context, self.as_) if self.as_ else None,
            self._named_once,
            lambda: self._source(context),
            lambda: self._target(context, b"x"),
            lambda: self._apart(context),
        )

    def _named_once(self) -> None:
        if self.as_ and url.is_dataset(self.what):
            raise Invalid(
                f"{self.what} has a name already",
                code="named-twice",
                remedy="leave --as out, or give the path of a replica",
            )

    def _source(self, context: Context) -> None:
        if not url.is_dataset(self.what):
            there(context, address(context, self.what))
            return
        wanted = wish(context, self.what)
        sources(context, wanted)
        store, _, _ = self._target(context, _below(wanted.version.id))
        copying.fit(known(wanted.manifest), store)

    def _apart(self, context: Context) -> None:
        """A target within its source, or in a buffer, which would go with it."""
        if is_site(self.to):
            return
        to = str(address(context, self.to))
        apart(context, to, "save to")
        if not url.is_dataset(self.what) and overlap(to, str(address(context, self.what))):
            raise Invalid(
                f"{to} and {self.what} lie within each other",
                code="same-place",
                store=to,
                remedy="choose a target outside the source",
            )

    def _target(self, context: Context, below: bytes) -> tuple[Store, bytes, str]:
        """(store, root, storage id or ''): at a site under a name of its own, or exactly at the address."""
        if is_site(self.to):
            storage = context.sites.get(self.to)
            return context.open_store(storage.url), below, storage.id
        store, root = target(context, address(context, self.to))
        return store, root, ""

    def _work(self, context: Context) -> _Work:
        if url.is_dataset(self.what):
            wanted = wish(context, self.what)
            label = wanted.version.id
            work = _Work(label, known(wanted.manifest), [], *self._target(context, _below(label)), wanted)
            froms = [one for one in sources(context, wanted) if one.url != work.final]
            return replace(work, froms=froms)
        at = address(context, self.what)
        source, only = opened(context, at)
        found = listed(source, context.folder, only=only)
        label, below = names.show(at.parent[1]) or at.place, at.parent[1] or at.place.encode()
        if self.as_:
            label = f"{self.as_}@{digests.of(found.manifest.digest).hex()[:12]}"
            below = _below(label)
        one = From(shown(at), source.url, ends(context, at))
        return _Work(label, found, [one], *self._target(context, below), None, source, only)

    def preview(self, context: Context) -> Facts:
        """Files, bytes, route, what would be lost, and time."""
        work = self._work(context)
        found = copying.fit(work.wanted, work.store)
        there = work.storage or ends(context, url.parse(work.store.url))
        first = work.froms[0] if work.froms else From(work.final, work.final, there)
        facts = {
            "what": work.label,
            "to": work.storage or work.final,
            "files": found.files,
            "bytes": found.size,
            "not_kept": found.lost,
            "route": list(dict.fromkeys([first.text, work.final])),
            "eta": copying.estimate(context, (first.end, there), found.size, found.files),
        }
        return bounded(facts)

    def run(self, context: Context) -> Facts:
        """Copy, prove, publish, record; a buffer that was saved so is clean afterwards."""
        started = context.now()
        work = self._work(context)
        found = copying.fit(work.wanted, work.store)
        copying.tell_losses(context, found, work.store, kept=bool(work.wish or self.as_))
        place = digests.of(work.final.encode("utf-8", "surrogateescape"))
        with copying.alone(context, place, "stage-out") as claim:
            outcome, source = self._copy(context, work)
            facts = self._record(context, work, outcome, source, started)
            claim.finish({"url": work.final, "run": context.run})
        return bounded(facts)

    def _copy(self, context: Context, work: _Work) -> tuple[Outcome, From]:
        errors: list[DlsError] = []
        if not work.froms:
            final = context.open_store(work.final)
            return proven(context, work.wanted, final, work.label), From(shown(url.parse(work.final)), work.final, "")
        for one in work.froms:
            context.say("route", {"from": one.text, "to": work.final, "what": self.as_ or self.what})
            try:
                store = work.source or reached(context, one)
                link = (one.end, work.storage or ends(context, url.parse(work.store.url)))
                outcome = copying.copy(context, store, work.store, work.root, work.wanted, link)
                error = copying.failure(outcome.failures, f"copying from {store.url}")
                if error is None:
                    return outcome, one
                if one.replica is not None:
                    blame(context, one.replica, outcome.failures)
            except DlsError as exc:
                error = exc
            if error.code in OURS or error.code == "target-differs":
                raise error
            errors.append(error)
        raise copying.gone_wrong(errors)

    def _record(self, context: Context, work: _Work, outcome: Outcome, source: From, started: int) -> Facts:
        whole = _whole_buffer(context, work)
        if whole is not None:
            _attest(context, work, outcome)
        held = _registered(context, work, outcome) if whole is not None and not self.as_ else None
        wished = work.wish.version if work.wish else held
        key, number = (wished.dataset, wished.number) if wished else (self.as_, 0)
        step = f"stage-out {key or source.url} {outcome.manifest.content.hex()} {work.final}"
        changes: list[Change] = []
        if self.as_:
            version, number = versioned(context, step, key, outcome.manifest)
            changes = [PutDataset(key), *version]
        if key:
            proof = evidence(
                context, "hashed while copied", source=source.url, copied=outcome.copied, kept=outcome.kept
            )
            kept = context.options.durability
            changes += placed(
                context, AddReplica(key, work.final, number, work.storage, evidence=proof, durability=kept)
            )
        which = f"{key}@{number}" if number else key
        done = record(context, step, changes, self._activity(work, wished, which, source, started))
        named = done.of(AddVersion).id or which
        return {
            "dataset": named,
            "url": work.final,
            "site": work.storage,
            "from": source.text,
            "replica": replica_id(context, named, work.final) if named else "",
            "activity": done.activity,
            "saved_buffer": _saved(context, whole, work, source, named),
            "copied": outcome.copied,
            "kept": outcome.kept,
            **counts(outcome.manifest),
        }

    def _activity(self, work: _Work, wished: Version | None, which: str, source: From, started: int) -> AddActivity:
        used = (Port(which), Port(source.url, "from")) if wished else (Port(source.url, "from"),)
        made = (Port(which), Port(work.final, "to")) if self.as_ else (Port(work.final, "to"),)
        return AddActivity(
            "stage-out",
            used=used,
            generated=made,
            where=work.storage.partition("/")[0],
            started_ns=started,
            software=software(),
            hardware=hardware(),
        )


@frozen
class _Work:
    """What is to be saved, from where, to where."""

    label: str
    wanted: Wanted
    froms: list[From]
    store: Store
    root: bytes
    storage: str
    wish: Wish | None = None
    source: Store | None = None
    """The store at the address, where it is no dataset that is saved."""
    only: bytes = b""

    @property
    def final(self) -> str:
        """The address of the copy."""
        return str(url.parse(self.store.url).below(self.root)) if self.root else self.store.url


def _below(label: str) -> bytes:
    """`scope/name/vN`: where a version lies at a site."""
    id, _, version = label.partition("@")
    return f"{id.replace(':', '/', 1)}/v{version}".encode()


def _whole_buffer(context: Context, work: _Work) -> Buffer | None:
    """The buffer all of which was saved: not a folder or a single file in it."""
    if work.source is None or work.only:
        return None
    buffer = containing(context, work.source.url)
    return buffer if buffer is not None and root_url(context, buffer) == work.source.url else None


def _attest(context: Context, work: _Work, outcome: Outcome) -> None:
    """What was read of a buffer had these stamps and these digests: evidence for its place, so that releasing it reads
    nothing again."""
    if work.source is None or work.wanted.stamps is None or work.wanted.known:
        return
    place = Place(work.source.url, f"blake3:{outcome.manifest.content.hex()}")
    for before, after in zip(work.wanted.manifest.refs, outcome.manifest.refs, strict=True):
        stamps, full = work.wanted.stamps(before.digest), outcome.manifest.load(after.digest)
        context.receipts.put(place, Receipt(after.digest, Bitmap.full(len(full)), stamps, boot_id()))


def _registered(context: Context, work: _Work, outcome: Outcome) -> Version | None:
    """The version that a saved buffer is registered as, if it still is that version."""
    address, content = (work.source.url if work.source else ""), outcome.manifest.content
    for one in replicas_at(context, address, content):
        version = context.catalogue.version(url.dataset(f"{one.dataset}@{one.version}"), actor=context.actor)
        if one.state is ReplicaState.COMPLETE and version.content == content:
            return version
    return None


def _saved(context: Context, whole: Buffer | None, work: _Work, source: From, named: str) -> str:
    """A buffer whose whole contents now have another recorded copy is clean; its id, or ''."""
    if work.wish is not None:
        inside = containing(context, source.url)
        whole = inside if inside is not None and held_url(context, inside) == source.url else None
    elif whole is None:
        part = containing(context, work.source.url) if work.source else None
        if part is not None:
            context.note(f"only a part of the buffer {context.buffers.path(part)} was saved: it is kept")
    elif not named:
        path = context.buffers.path(whole)
        context.note(f"nothing is recorded without --as scope:name, so the buffer {path} is kept")
        return ""
    return whole.id if whole is not None and named and rested(context, whole, named) else ""
