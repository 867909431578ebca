"""pack: a dataset, a folder or what lies at an address into one image, proven, and recorded as a replica."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from dls.catalogue.changes import AddActivity, AddReplica, AddVersion, Change, PutDataset, SetReplica
from dls.catalogue.model import Layout, Port, ReplicaState
from dls.logistics import digest as digests
from dls.logistics import names, url
from dls.logistics.errors import DlsError, Invalid, NotFound, Unsupported
from dls.logistics.frozen import frozen
from dls.logistics.manifest import Manifest
from dls.logistics.store import Store
from dls.logistics.transfer.listing import Wanted, known, listed
from dls.logistics.transfer.small import Failures
from dls.madpp import attested, copying, imaging
from dls.madpp.action import Context, Facts, bounded, checked
from dls.madpp.actions.staged import rested
from dls.madpp.attested import State
from dls.madpp.facts import hardware, software
from dls.madpp.layout import held_url
from dls.madpp.places import apart, containing, replica_id, replicas_at
from dls.madpp.record import counts, evidence, facts_of, placed, record, versioned
from dls.madpp.saved import OURS, blame, contradicted, reached, withdraw
from dls.madpp.source import (
    From,
    Wish,
    address,
    ends,
    lies_in,
    new_name,
    opened,
    shown,
    site_of,
    sources,
    there,
    wish,
)

if TYPE_CHECKING:
    from dls.fuse.pack import Options


@frozen
class Pack:
    """`dls pack WHAT IMAGE [--as SCOPE:NAME]`; WHAT is a dataset id, a path or an address."""

    what: str
    to: str
    as_: str = ""
    owner: str = ""
    """`UID:GID` of everything inside; as at the source, or 0:0 where that keeps no owners."""
    xattrs: str = "user"
    """Of a folder of this machine: which extended attributes are kept: user, all, none."""
    level: int = 2
    """Effort of the compression (zstd), 1 to 19."""
    replace: bool = False
    """Whether what lies there may be replaced."""
    form: str = "squashfs"
    """`squashfs`, or `erofs`, which is not compressed."""
    name: ClassVar[str] = "pack"

    def check(self, context: Context) -> list[DlsError]:
        """Are the words legal, is there a source, is the target a name apart from it?"""
        return checked(
            self._options,
            lambda: new_name(context, self.as_) if self.as_ else None,
            self._named_once,
            lambda: self._source(context),
            lambda: self._target(context),
        )

    def _named_once(self) -> None:
        if self.as_ and url.is_dataset(self.what):
            raise Invalid(f"{self.what} has a name already", code="named-twice", remedy="leave --as out")

    def _source(self, context: Context) -> None:
        if url.is_dataset(self.what):
            wanted = wish(context, self.what)
            sources(context, wanted)
        else:
            there(context, address(context, self.what))

    def _target(self, context: Context) -> None:
        at = address(context, self.to)
        if not at.parent[1]:
            raise Invalid(f"{self.to} names no file", code="bad-url", remedy="write the name of an image: …/NAME.sqfs")
        apart(context, str(at), "pack into")
        if not url.is_dataset(self.what) and lies_in(str(at), str(address(context, self.what))):
            raise Invalid(
                f"{self.to} lies within {self.what}",
                code="same-place",
                store=str(at),
                remedy="choose a target outside the source",
            )
        if at.scheme in ("http", "https"):
            raise Unsupported(
                f"{at} cannot be written: over HTTP it is only read",
                code="no-such-verb",
                store=str(at),
                remedy="choose a folder or an S3 bucket as target",
            )

    def _options(self) -> Options:
        from dls.fuse import installed

        installed.check()
        from dls.fuse.pack import asked

        return asked(owner=self.owner, xattrs=self.xattrs, level=self.level, form=self.form)

    # --------------------------------------------------------------------------------------------- doing

    def _work(self, context: Context) -> _Work:
        final = str(address(context, self.to))
        if url.is_dataset(self.what):
            wanted = wish(context, self.what)
            froms = [one for one in sources(context, wanted) if one.url != final]
            return _Work(wanted.version.id, final, known(wanted.manifest), froms, wanted)
        at = address(context, self.what)
        store, only = opened(context, at)
        found = listed(store, context.folder, only=only)
        one = From(shown(at), store.url, ends(context, at))
        return _Work(names.show(at.parent[1]) or at.place, final, found, [one], None, store, whole=not only)

    def preview(self, context: Context) -> Facts:
        """Files, bytes, route and time, and what the image will take at most."""
        work = self._work(context)
        found = work.wanted.manifest
        first = work.froms[0] if work.froms else From(work.final, work.final, "")
        facts = {
            "what": work.label,
            "to": work.final,
            "files": found.files,
            "bytes": found.size,
            "most": imaging.size_of(found, self.form),
            "route": list(dict.fromkeys([first.text, shown(url.parse(work.final))])),
            "in_place": attested.look(context, work.final, work.wanted).state is State.RIGHT,
            "eta": copying.estimate(context, (first.end, "packing"), found.size, found.files),
        }
        return bounded(facts)

    def run(self, context: Context) -> Facts:
        """Pack from the first source that serves, compare, show, record; what is there already is proven."""
        started, options = context.now(), self._options()
        work = self._work(context)
        place = digests.of(work.final.encode("utf-8", "surrogateescape"))
        with copying.alone(context, place, "pack") as claim:
            context.progress.files_total = work.wanted.manifest.files
            context.progress.bytes_total = work.wanted.manifest.size
            found = attested.look(context, work.final, work.wanted, work.source)
            packed, source = found.manifest, work.froms[0] if work.froms else None
            done = found.state is State.RIGHT and packed is not None
            if done and packed is not None:
                if not work.wanted.known and found.proof is not None:  # it was read: the listing's receipt is missing
                    attested.attest(context, work.final, work.wanted, packed)
            else:
                self._clear(context, work, found.state)
                packed, source = self._pack(context, work, options, over=found.state is not State.ABSENT)
            facts = self._record(context, work, packed, source, started)
            claim.finish({"url": work.final, "run": context.run})
        return bounded({**facts, "copied": 0 if done else packed.files, "kept": packed.files if done else 0})

    def _clear(self, context: Context, work: _Work, state: State) -> None:
        """What lies at the target goes only where it was asked for, or is a damaged copy of the same; before it goes
        nothing rests on it any more."""
        if not work.froms:
            raise NotFound(
                f"{work.label} lies at {work.final} alone, where it is damaged",
                code="no-replica",
                dataset=work.label,
                remedy="register another copy with dls catalogue add",
            )
        if state is State.ABSENT:
            return
        rows = [r for r in replicas_at(context, work.final) if r.state is not ReplicaState.GONE]
        marked = [r for r in rows if r.state is ReplicaState.CORRUPT or _marked(context, r.id)]
        if not self.replace and not (state is State.DAMAGED and marked):
            raise imaging.taken(work.final)
        for one in rows:
            withdraw(context, one)
        gone = evidence(context, "replaced by another image")
        facts_of(context, [SetReplica(one.id, ReplicaState.GONE, gone) for one in rows])

    def _pack(self, context: Context, work: _Work, options: Options, *, over: bool) -> tuple[Manifest, From]:
        errors = list[DlsError]()
        for number, one in enumerate(work.froms):
            context.say("route", {"from": one.text, "to": work.final, "what": work.label})
            began, before = context.now(), context.progress.bytes
            try:
                made = self._from(context, work, one, options._replace(replace=over))
            except DlsError as error:
                if error.code in OURS or error.code == "target-differs":
                    raise
                errors.append(error)
                if number + 1 < len(work.froms):
                    context.note(
                        f"{one.text} could not give everything ({error}); trying {work.froms[number + 1].text}"
                    )
                continue
            moved = max(0, context.progress.bytes - before)
            link = context.sites.link(one.end, "packing")
            context.sites.observe(link, moved, made.manifest.files, (context.now() - began) / 1e9)
            return made.manifest, one
        raise copying.gone_wrong(errors)

    def _from(self, context: Context, work: _Work, one: From, options: Options) -> imaging.Made:
        """From one place; a replica that did not give what was registered is marked."""
        store = work.source or reached(context, one)
        origin = imaging.origin_of(store, work.wanted.manifest)
        options = options._replace(workers=imaging.workers_for(store.url))
        wrong = Failures()
        if work.wish is not None:
            accept = attested.registered(work.wish.manifest, store.url, wrong)
        else:
            accept = attested.unmoved(work.wanted, store)
            if work.whole and store.url.startswith("file:"):
                from dls.fuse.origin import FolderOrigin

                origin = FolderOrigin(b"/" + url.parse(store.url).path)  # owners and attributes too
        try:
            made = imaging.make(context, origin, work.final, options, accept)
        except DlsError as error:
            if one.replica is not None:
                if not wrong.count and error.facts.get("store") == store.url and error.facts.get("key"):
                    wrong.add(names.read(str(error.facts["key"])), error)
                blame(context, one.replica, wrong)
            raise
        attested.attest(context, work.final, work.wanted, made.manifest)
        return made

    def _record(self, context: Context, work: _Work, packed: Manifest, source: From | None, started: int) -> Facts:
        at = url.parse(work.final)
        inside = site_of(context, at)
        wished = work.wish.version if work.wish else None
        key, number = (wished.dataset, wished.number) if wished else (self.as_, 0)
        step = f"pack {key} {packed.content.hex()} {work.final}"
        changes: list[Change] = []
        if self.as_:
            version, number = versioned(context, step, key, packed)
            changes = [PutDataset(key), *version]
        if key:
            changes += contradicted(context, work.final, packed, whole=True)
            proof = evidence(context, "hashed while packed", source=source.url if source else "")
            kept = context.options.durability if at.scheme == "file" else "power"
            storage = inside.id if inside else ""
            changes += placed(
                context,
                AddReplica(key, work.final, number, storage, Layout.IMAGE, evidence=proof, durability=kept),
            )
        which = f"{key}@{number}" if number else key
        came = source.url if source else work.froms[0].url if work.froms else work.final
        used = (Port(which), Port(came, "from")) if wished else (Port(came, "from"),)
        activity = AddActivity(
            "pack",
            used=used,
            generated=(*((Port(which),) if self.as_ else ()), Port(work.final, "image")),
            where=inside.site if inside else "",
            started_ns=started,
            software=software(),
            hardware=hardware(),
        )
        done = record(context, step, changes, activity)
        named = done.of(AddVersion).id or which
        return {
            "dataset": named,
            "new": done.of(AddVersion).changed,
            "url": work.final,
            "layout": Layout.IMAGE.value,
            "from": source.text if source else "",
            "stored": imaging.stored(context, work.final),
            "content": digests.text(packed.content),
            "replica": replica_id(context, named, work.final) if named else "",
            "activity": done.activity,
            "saved_buffer": _saved(context, work, named),
            **counts(packed),
        }


@frozen
class _Work:
    """What is packed, from where, to where."""

    label: str
    final: str
    wanted: Wanted
    froms: list[From]
    wish: Wish | None = None
    source: Store | None = None
    """The store at the address, where it is no dataset that is packed."""
    whole: bool = True
    """Whether it is all of that store."""


def _marked(context: Context, replica: str) -> bool:
    return bool(context.catalogue.exceptions(replica, actor=context.actor, limit=1))


def _saved(context: Context, work: _Work, named: str) -> str:
    """A buffer all of which is in the image now, and recorded, is clean; its id, or ''."""
    address = work.source.url if work.source is not None and work.whole else ""
    whole = containing(context, address) if address else None
    if whole is None or held_url(context, whole) != address or not named:
        return ""
    return whole.id if rested(context, whole, named) else ""
