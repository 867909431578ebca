"""register: read what lies at an address, and put it into the catalogue as a version of a dataset."""

from __future__ import annotations

from typing import ClassVar

from dls.catalogue.changes import AddActivity, AddReplica, AddVersion, PutDataset
from dls.catalogue.model import Layout, Port
from dls.logistics import url
from dls.logistics.errors import DlsError
from dls.logistics.frozen import frozen
from dls.logistics.store import Store
from dls.logistics.transfer.listing import Wanted, known, listed
from dls.logistics.transfer.prove import Depth, Proof, prove
from dls.madpp.action import Context, Facts, bounded, checked
from dls.madpp.copying import estimate, failed
from dls.madpp.facts import hardware, software
from dls.madpp.layout import open_image
from dls.madpp.places import apart, replica_id
from dls.madpp.record import counts, evidence, placed, record, versioned
from dls.madpp.saved import contradicted
from dls.madpp.source import address, ends, new_name, opened, shown, site_of, there


@frozen
class Register:
    """`dls catalogue add DATASET WHERE [--image]`; with `image` what the image there holds is registered."""

    dataset: str
    where: str
    title: str = ""
    note: str = ""
    image: bool = False
    name: ClassVar[str] = "register"

    def check(self, context: Context) -> list[DlsError]:
        """Is the id legal and free for versions, does something lie there, is it no buffer, which would go?"""
        return checked(
            lambda: new_name(context, self.dataset),
            lambda: self._place(context),
        )

    def _place(self, context: Context) -> None:
        at = address(context, self.where)
        apart(context, str(at), "register")
        if self.image:
            open_image(context, str(at))
        else:
            there(context, at)

    def _found(self, context: Context, at: url.Url) -> tuple[Store, Wanted, bool]:
        """What lies there as a store, what is to be read of it, and whether that is all of it."""
        if self.image:
            image = open_image(context, str(at))
            from dls.fuse.listed import proven as has_digests

            if has_digests(image.tree):
                return image, known(image.tree.manifest), True
            return image, listed(image, context.folder, tick=lambda: _alive(context)), True  # what others wrote
        store, only = opened(context, at)
        return store, listed(store, context.folder, only=only, tick=lambda: _alive(context)), not only

    def preview(self, context: Context) -> Facts:
        """What lies there, unread."""
        at = address(context, self.where)
        _, wanted, _ = self._found(context, at)
        found = wanted.manifest
        facts = {
            "what": self.dataset,
            "dataset": self.dataset,
            "route": [shown(at)],
            **counts(found),
            "eta": estimate(context, (ends(context, at), "hashing"), found.size, found.files),
        }
        return bounded(facts)

    def run(self, context: Context) -> Facts:
        """Hash everything, then record dataset, version, replica and lineage at once."""
        key = url.dataset(self.dataset).key
        at, started = address(context, self.where), context.now()
        store, wanted, whole = self._found(context, at)
        proof = prove(
            store,
            wanted,
            context.receipts,
            depth=Depth.RECEIPTS,
            logs=context.folder,
            options=context.options,
            progress=context.progress,
        )
        for failures in (proof.corrupt, proof.missing, proof.unread):
            failed(failures, f"reading {store.url}")
        facts = self._record(context, key, at, store.url, proof, whole=whole, started=started)
        return bounded({**facts, "read": proof.read, "trusted": proof.trusted, **counts(proof.manifest)})

    def _record(
        self, context: Context, key: str, at: url.Url, root: str, proof: Proof, *, whole: bool, started: int
    ) -> Facts:
        """Dataset, version, replica, lineage; what contradicts older records is taken back."""
        step = f"register {key} {at} {proof.manifest.content.hex()}"
        version, number = versioned(context, step, key, proof.manifest, self.note)
        inside = site_of(context, at)
        layout = Layout.IMAGE if self.image else Layout.SAME
        proven = evidence(context, "read in full")
        replica = AddReplica(key, root, number, inside.id if inside else "", layout, evidence=proven)
        done = record(
            context,
            step,
            [
                PutDataset(key, title=self.title or None),
                *version,
                *contradicted(context, root, proof.manifest, whole=whole),
                *placed(context, replica),
            ],
            AddActivity(
                "register",
                used=(Port(root),),
                generated=(Port(f"{key}@{number}" if number else key),),
                started_ns=started,
                software=software(),
                hardware=hardware(),
            ),
        )
        added = done.of(AddVersion)
        dataset = added.id or f"{key}@{number}"
        return {
            "dataset": dataset,
            "new": added.changed,
            "url": root,
            "layout": layout.value,
            "replica": replica_id(context, dataset, root),
            "activity": done.activity,
        }


def _alive(context: Context) -> None:
    context.progress.ticks += 1
