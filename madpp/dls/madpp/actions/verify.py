"""verify: look whether replicas are what was recorded; with `deep`, read every byte; mark what is not."""

from __future__ import annotations

import shlex
from typing import ClassVar

from dls.catalogue.changes import AddActivity, Change, ClearFiles, MarkFiles, SetReplica
from dls.catalogue.model import FileState, Layout, Port, Replica, ReplicaState
from dls.logistics import names, url
from dls.logistics.buffer import LIVE
from dls.logistics.errors import Corrupt, DlsError, NotFound, worst
from dls.logistics.frozen import frozen
from dls.logistics.store import Store
from dls.logistics.transfer.listing import known
from dls.logistics.transfer.prove import Depth, Proof, prove
from dls.madpp.action import Context, Facts, bounded, checked
from dls.madpp.copying import estimate, failed
from dls.madpp.facts import hardware, software
from dls.madpp.layout import held_url, is_there, open_replica
from dls.madpp.places import containing
from dls.madpp.record import evidence, record
from dls.madpp.saved import condemn, withdraw
from dls.madpp.source import Wish, ends, shown, wish


@frozen
class Verify:
    """`dls verify DATASET [--at SITE] [--deep]`."""

    dataset: str
    at: str = ""
    deep: bool = False
    name: ClassVar[str] = "verify"

    def check(self, context: Context) -> list[DlsError]:
        """Are dataset and site known, and is there a replica to look at?"""
        return checked(
            lambda: context.sites.get(self.at) if self.at else None,
            lambda: wish(context, self.dataset),
            lambda: self._replicas(context, wish(context, self.dataset)),
        )

    def _replicas(self, context: Context, wanted: Wish) -> list[Replica]:
        storage = context.sites.get(self.at).id if self.at else ""
        every = context.catalogue.replicas(wanted.id, actor=context.actor, offered=False)
        live = [r for r in every if r.state is not ReplicaState.GONE and (not storage or r.storage == storage)]
        if not live:
            raise NotFound(
                f"no replica of {wanted.version.id}" + (f" at {self.at}" if self.at else ""),
                code="no-replica",
                dataset=wanted.version.id,
                remedy=f"see where it is: dls catalogue show {wanted.version.dataset}",
            )
        return live

    def preview(self, context: Context) -> Facts:
        """Which replicas, how many files and bytes."""
        wanted = wish(context, self.dataset)
        live = self._replicas(context, wanted)
        size, files = wanted.version.size * len(live), wanted.version.files * len(live)
        link = (ends(context, url.parse(live[0].url)), "hashing")
        facts = {
            "what": wanted.version.id,
            "route": [shown(url.parse(r.url)) for r in live],
            "files": files,
            "bytes": size,
            "eta": estimate(context, link, size, files),
        }
        return bounded(facts)

    def run(self, context: Context) -> Facts:
        """Prove each replica and record the findings; the gravest error where any is not right."""
        wanted = wish(context, self.dataset)
        rows, errors = list[Facts](), list[DlsError]()
        for replica in self._replicas(context, wanted):
            context.say("route", {"from": replica.url, "to": "", "what": wanted.version.id})
            try:
                row, error = self._one(context, wanted, replica)
            except DlsError as exc:  # one place that cannot be read keeps none of the others from being looked at
                row, error = {"replica": replica.id, "url": replica.url, "state": "not reached"}, exc
            rows.append(row)
            context.say("verified", row)
            if error is not None:
                errors.append(error)
        gravest = worst(errors)
        if gravest is not None:
            raise gravest
        return bounded({"dataset": wanted.version.id, "deep": self.deep, "replicas": rows})

    def _one(self, context: Context, wanted: Wish, replica: Replica) -> tuple[Facts, DlsError | None]:
        started = context.now()
        row: Facts = {"replica": replica.id, "url": replica.url, "storage": replica.storage}
        if wanted.manifest.refs and not is_there(context, replica, wanted.manifest):
            return {**row, "state": "lost", "missing": wanted.version.entries}, self._lost(context, wanted, replica)
        try:
            store = open_replica(context, replica)
        except (Corrupt, NotFound) as error:  # an image of which nothing can be read, or without what it lies on
            condemn(context, replica, error)
            self._save(context, wanted, replica, [], started)
            return {**row, "state": "damaged"}, _unreadable(wanted, replica, error)
        proof = self._proof(context, wanted, store)
        failed(proof.unread, f"reading {replica.url}")
        row.update(read=proof.read, trusted=proof.trusted, corrupt=proof.corrupt.count, missing=proof.missing.count)
        if not proof.good:
            withdraw(context, replica)
        self._save(context, wanted, replica, _findings(context, replica, proof), started)
        if proof.good:
            return {**row, "state": "complete"}, None
        mend = _mend(context, wanted, replica)
        return {**row, "state": "damaged"}, _damaged(replica, proof, mend)

    def _proof(self, context: Context, wanted: Wish, store: Store) -> Proof:
        return prove(
            store,
            known(wanted.manifest),
            context.receipts,
            depth=Depth.DEEP if self.deep else Depth.RECEIPTS,
            logs=context.folder,
            options=context.options,
            progress=context.progress,
        )

    def _lost(self, context: Context, wanted: Wish, replica: Replica) -> DlsError:
        mend = _mend(context, wanted, replica)
        withdraw(context, replica)
        inside = containing(context, replica.url)
        if inside is not None and (inside.state not in LIVE or held_url(context, inside) != replica.url):
            inside = None
        # To the place of a buffer that has ended nothing is ever brought again: nobody is to look there any more.
        state = ReplicaState.GONE if inside else ReplicaState.LOST
        gone = SetReplica(replica.id, state, evidence(context, "not found"))
        self._save(context, wanted, replica, [gone], context.now())
        if inside is not None:
            context.buffers.lost(inside.id, "nothing lies there any more", by=context.actor.name)
        return Corrupt(
            f"nothing lies at {replica.url} any more",
            code="replica-lost",
            replica=replica.id,
            store=replica.url,
            remedy=f"bring it again from another copy: {mend}",
        )

    def _save(self, context: Context, wanted: Wish, replica: Replica, changes: list[Change], started: int) -> None:
        seen = AddActivity(
            "verify",
            used=(Port(wanted.version.id), Port(replica.url, "at")),
            started_ns=started,
            where=replica.storage.partition("/")[0],
            software=software(),
            hardware=hardware(),
        )
        record(context, f"verify {replica.id} {self.deep}", changes, seen)


def _findings(context: Context, replica: Replica, proof: Proof) -> list[Change]:
    how = evidence(context, "verified", read=proof.read, trusted=proof.trusted)
    if proof.corrupt.count + proof.missing.count > len(proof.corrupt.shown) + len(proof.missing.shown):
        return [SetReplica(replica.id, ReplicaState.CORRUPT, how)]  # too many to mark them one by one
    changes: list[Change] = [SetReplica(replica.id, ReplicaState.COMPLETE, how), ClearFiles(replica.id)]
    marks = {key: FileState.CORRUPT for key, _ in proof.corrupt.shown}
    marks.update({key: FileState.LOST for key, _ in proof.missing.shown})
    if marks:
        changes.append(MarkFiles(replica.id, marks))
    return changes


def _unreadable(wanted: Wish, replica: Replica, error: DlsError) -> Corrupt:
    return Corrupt(
        f"{replica.url}: nothing of it can be read: {error.message}",
        code="replica-damaged",
        replica=replica.id,
        store=replica.url,
        count=wanted.version.entries,
        remedy=f"it is marked; stage {wanted.version.dataset} in from another replica, or pack it anew",
    )


def _mend(context: Context, wanted: Wish, replica: Replica) -> str:
    """The command that brings again what is not there: only buffers are staged into."""
    what, image = wanted.version.id, replica.layout is Layout.IMAGE
    if containing(context, replica.url) is not None:
        return f"dls stage-in {what} --to {replica.storage.partition('/')[0]}{' --as-image' if image else ''}"
    there = shlex.quote(shown(url.parse(replica.url)))
    return f"dls pack {what} {there}" if image else f"dls stage-out {what} --to {there}"


def _damaged(replica: Replica, proof: Proof, mend: str) -> Corrupt:
    both = [*proof.corrupt.shown, *proof.missing.shown]
    first = "" if mend.startswith("dls stage-in ") else "remove what is wrong there, then "
    words = []
    if proof.corrupt.count:
        words.append(f"{proof.corrupt.count} files hold other bytes")
    if proof.missing.count:
        words.append(f"{proof.missing.count} files are missing")
    return Corrupt(
        f"{replica.url}: {' and '.join(words)}; first {names.show(both[0][0])}",
        code="replica-damaged",
        replica=replica.id,
        store=replica.url,
        keys=[names.show(key) for key, _ in both[:20]],
        count=proof.corrupt.count + proof.missing.count,
        remedy=f"they are marked; {first}{mend}",
    )
