"""What vouches for an image: receipts written when it was packed, and a look at what lies at an address.

A receipt for an image ties each segment to the stamp that the image had.  Where it was packed from what was only
listed, a second one, by the listing's name, holds the stamps that were listed: the same listing is not packed again.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

from dls.logistics.database import boot_id
from dls.logistics.errors import Corrupt, Invalid, Unsupported
from dls.logistics.frozen import frozen
from dls.logistics.manifest import Bitmap, Manifest, diff
from dls.logistics.store import Store
from dls.logistics.transfer.evidence import Evidence
from dls.logistics.transfer.listing import Wanted, known, moving
from dls.logistics.transfer.parts import differs
from dls.logistics.transfer.prove import Proof, prove
from dls.logistics.transfer.receipt import Place, Receipt
from dls.logistics.transfer.small import Failures
from dls.madpp.action import Context
from dls.madpp.layout import open_image, stamp_of


class State(StrEnum):
    """What lies where an image shall be."""

    ABSENT = "absent"
    RIGHT = "right"
    """An image of what is wanted, every byte of it proven."""
    DAMAGED = "damaged"
    """An image of what is wanted of which not all can be read."""
    OTHER = "other"


@frozen
class Found:
    """What was found at an address."""

    state: State
    manifest: Manifest | None = None
    """What the image holds, where it was looked at."""
    proof: Proof | None = None
    """Where something was read."""


def look(context: Context, address: str, wanted: Wanted, source: Store | None = None) -> Found:
    """Compare what lies at an address with what is wanted there.  Where receipts vouch for it nothing is read.  Of a
    listing that none vouches for the `source` is read to learn its digests; without one it counts as other."""
    stamp = stamp_of(context, address)
    if not stamp:
        return Found(State.ABSENT)
    vouched = _vouched(context, address, wanted, stamp)
    if vouched and wanted.known:
        return Found(State.RIGHT, wanted.manifest)
    try:
        image = open_image(context, address)
        held = image.tree.manifest
    except (Invalid, Corrupt, Unsupported):  # no image, none of ours, or an archive that knows no digests
        return Found(State.OTHER)
    if not wanted.known:
        if vouched and len(held.refs) == len(wanted.manifest.refs):
            return Found(State.RIGHT, held)
        read = proven(context, source, wanted) if source is not None else None
        if read is None or not read.good:
            return Found(State.OTHER, held)
        wanted = known(read.manifest)
    if held.content != wanted.manifest.content:
        return Found(State.OTHER, held)
    proof = proven(context, image, wanted)
    return Found(State.RIGHT if proof.good else State.DAMAGED, held, proof)


def proven(context: Context, store: Store, wanted: Wanted) -> Proof:
    """Read what receipts do not cover."""
    return prove(
        store, wanted, context.receipts, logs=context.folder, options=context.options, progress=context.progress
    )


def _vouched(context: Context, address: str, wanted: Wanted, stamp: bytes) -> bool:
    """Whether our receipts say that the image of this stamp holds what is wanted: packed from this very listing, or
    proven to hold this very content."""
    from dls.fuse.store import mark_of

    evidence, mark = Evidence(context.receipts, wanted, address, context.options.fence), mark_of(stamp)
    for ref in wanted.manifest.refs:
        receipt = evidence.receipt(wanted.manifest.load(ref.digest))
        if receipt is None or not receipt.done.complete or receipt.boot not in ("", evidence.boot):
            return False
        if set(receipt.stamps) != {mark}:
            return False
    return bool(wanted.manifest.refs)


def attest(context: Context, address: str, wanted: Wanted, packed: Manifest) -> None:
    """Write the receipts of an image that was packed from what was wanted, and has its name now."""
    from dls.fuse.store import mark_of

    mark = mark_of(stamp_of(context, address))
    lasting = not address.startswith("file:") or context.options.durability == "power"
    boot = "" if lasting else boot_id()
    place = Place(address, f"blake3:{packed.content.hex()}")
    for ref in {*packed.refs, *(wanted.manifest.refs if wanted.known else ())}:  # the same content by other segments
        context.receipts.put(place, Receipt(ref.digest, Bitmap.full(ref.entries), [mark] * ref.entries, boot))
    if wanted.stamps is None:
        return
    listing = Place(address, wanted.name)
    for ref in wanted.manifest.refs:
        marks = [mark] * ref.entries
        context.receipts.put(
            listing, Receipt(ref.digest, Bitmap.full(ref.entries), marks, boot, sources=wanted.stamps(ref.digest))
        )


# --------------------------------------------------------------------------------- what a packed image must be


def registered(wanted: Manifest, source: str, wrong: Failures) -> Callable[[Manifest], None]:
    """Accepts an image of just this content; puts the files that differ into `wrong`."""

    def accept(packed: Manifest) -> None:
        if packed.content == wanted.content:
            return
        for change in diff(wanted, packed):
            if change.before is not None:
                wrong.add(change.path, differs(source, change.before))
        first = wrong.shown[0][1] if wrong.shown else None
        raise first or Corrupt(
            f"what was packed from {source} is not what was registered",
            code="content-differs",
            store=source,
            remedy="take another replica, or register what lies there now with dls catalogue add",
        )

    return accept


def unmoved(wanted: Wanted, source: Store) -> Callable[[Manifest], None]:
    """Accepts an image of what was listed, if that is what still lies there."""

    def accept(packed: Manifest) -> None:
        for number, ref in enumerate(wanted.manifest.refs):
            segment = wanted.manifest.load(ref.digest)
            there = packed.load(packed.refs[number].digest).paths if number < len(packed.refs) else ()
            if list(there) != list(segment.paths):
                raise moving(source.url, segment.paths[0])
            listed = wanted.stamps(ref.digest) if wanted.stamps is not None else ()
            for path, before, now in zip(segment.paths, listed, source.stamps(segment.paths), strict=True):
                if before != now:
                    raise moving(source.url, path)
        if len(packed.refs) != len(wanted.manifest.refs):
            raise moving(source.url, b"")

    return accept
