"""What is proven of one place: receipts read and written for what is wanted there, and what files must hash to."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from dls.logistics import digest as digests
from dls.logistics.database import boot_id
from dls.logistics.entry import FILE
from dls.logistics.manifest import Bitmap, Manifest, SegmentRef
from dls.logistics.segment import Segment
from dls.logistics.transfer.listing import Wanted
from dls.logistics.transfer.log import Log, blocks_of
from dls.logistics.transfer.receipt import Place, Receipt, Receipts

Known = tuple[bytes, bytes]
"""Digest (UNKNOWN where only the blocks are known) and block digests of one file."""
Found = tuple[bytes, bytes, bytes]
"""Digest, block digests and stamp of one file that was proven."""


class Evidence:
    """The receipts of one place, for what is wanted there."""

    def __init__(self, receipts: Receipts, wanted: Wanted, where: str, alive: Callable[[], None]) -> None:
        self._receipts, self._wanted, self._alive = receipts, wanted, alive
        self.place = Place(where, wanted.name)
        self.boot = boot_id()

    def sources(self, segment: Segment) -> Sequence[bytes]:
        """The stamps that were listed at the source, or () where digests were known."""
        return self._wanted.stamps(segment.digest) if self._wanted.stamps is not None else ()

    def receipt(self, segment: Segment) -> Receipt | None:
        """Our receipt; where digests were not known, only for sources that are still the same."""
        receipt = self._receipts.get(self.place, segment.digest)
        if receipt is None or self._wanted.stamps is None:
            return receipt
        listed = list(self.sources(segment))
        if list(receipt.sources) == listed:
            return receipt
        done = Bitmap(len(segment), receipt.done.encode())
        for i, stamp in enumerate(listed):
            if not receipt.sources or receipt.sources[i] != stamp:
                done.remove(i)
        return replace(receipt, done=done)

    def expected(
        self, segment: Segment, ordinals: Collection[int], receipt: Receipt | None, log: Log
    ) -> dict[int, Known]:
        """What ordinals must hash to, as far as anything tells: the manifest, an older receipt, the log."""
        if self._wanted.known:
            columns, blocks = segment.digests, segment.blocks
            return {i: (columns[32 * i : 32 * i + 32], blocks.get(i, b"")) for i in ordinals}
        out: dict[int, Known] = {}
        listed = self.sources(segment)
        full = Segment.decode(receipt.body) if receipt is not None and receipt.body else None
        for i in ordinals:
            size = segment.sizes[i]
            said, parts = log.placed(i), log.blocks(i, 0, blocks_of(size)) if size else None
            if full is not None and receipt is not None and i in receipt.done:
                out[i] = full.digests[32 * i : 32 * i + 32], full.blocks.get(i, b"")
            elif said is not None and said.source == listed[i]:
                out[i] = said.digest, b"".join(parts) if parts and size > digests.BIG else b""
            elif parts and log.begin(i, listed[i]):
                out[i] = digests.UNKNOWN, b"".join(parts)
        return out

    def receipt_of(
        self, segment: Segment, old: Receipt | None, keep: Collection[int], found: Mapping[int, Found]
    ) -> Receipt:
        """A receipt, not synced yet, for what an old one covers (`keep`) and what was `found` now."""
        done, stamps = Bitmap(len(segment)), [b""] * len(segment)
        if old is not None:
            for i in keep:
                done.add(i)
                stamps[i] = old.stamps[i]
        for i, (_, _, stamp) in found.items():
            done.add(i)
            stamps[i] = stamp
        body = self._body(segment, old, {i: (digest, blocks) for i, (digest, blocks, _) in found.items()})
        return Receipt(segment.digest, done, stamps, self.boot, body, self.sources(segment))

    def _body(self, segment: Segment, old: Receipt | None, found: dict[int, Known]) -> bytes:
        """The segment with the digests found so far, encoded; where they were known, what was kept here before (a
        manifest that `named` gave out is read from it)."""
        if self._wanted.known:
            return old.body if old is not None else b""
        if old is not None and old.body:
            full = Segment.decode(old.body)
            kept = {
                i: (full.digests[32 * i : 32 * i + 32], full.blocks.get(i, b""))
                for i in range(len(full))
                if i in old.done
            }
            found = {**kept, **found}
        return segment.with_digests(found).encode()

    def record(self, receipt: Receipt) -> None:
        """Write one down, unless the transfer was given up meanwhile."""
        self._alive()
        self._receipts.put(self.place, receipt)

    def named(self) -> tuple[Manifest, Place]:
        """Everything is hashed now: file the evidence under the content's name too."""
        full, refs = _Full(self._receipts, self.place, self._wanted.manifest), list[SegmentRef]()
        listed = self._wanted.manifest.refs
        for number in range(len(listed)):
            refs.append(SegmentRef.of(full.complete(number)))
        new = Place(self.place.where, f"blake3:{Manifest(tuple(refs), full.load).content.hex()}")
        for number, one in enumerate(refs):
            receipt = self._receipts.get(self.place, listed[number].digest)
            if receipt is not None:
                self._alive()
                body = full.complete(number).encode() if number in full.filled else receipt.body
                self._receipts.put(new, replace(receipt, segment=one.digest, body=body, sources=()))
        receipts = self._receipts

        def load(digest: bytes) -> Segment:
            receipt = receipts.get(new, digest)
            return Segment.decode(receipt.body if receipt is not None else b"", digest)

        return Manifest(tuple(refs), load), new


class _Full:
    """The segments of a listing with all digests that were found; those of further names of hard-link groups are
    their first name's."""

    def __init__(self, receipts: Receipts, place: Place, listing: Manifest) -> None:
        self._receipts, self._place, self._listing = receipts, place, listing
        self._starts: list[bytes] = []
        self._last: tuple[int, Segment] | None = None
        self.filled: set[int] = set()
        """Segments that had digests to fill in."""

    def load(self, digest: bytes) -> Segment:
        """The segment as listed."""
        receipt = self._receipts.get(self._place, digest)
        return Segment.decode(receipt.body) if receipt is not None and receipt.body else self._listing.load(digest)

    def complete(self, number: int) -> Segment:
        """One segment, with every digest; those before it were asked for before."""
        segment = self.load(self._listing.refs[number].digest)
        if number == len(self._starts):
            self._starts.append(segment.paths[0])
        found: dict[int, Known] = {}
        for i, first in segment.targets.items():
            if segment.kinds[i] == FILE and segment.digests[32 * i : 32 * i + 32] == digests.UNKNOWN:
                found[i] = self._of(first, number, segment)
        if not found:
            return segment
        self.filled.add(number)
        return segment.with_digests(found)

    def _of(self, first: bytes, number: int, here: Segment) -> Known:
        home = bisect_right(self._starts, first) - 1
        segment = here
        if home != number:
            if self._last is None or self._last[0] != home:
                self._last = home, self.load(self._listing.refs[home].digest)
            segment = self._last[1]
        i = bisect_left(segment.paths, first)
        return segment.digests[32 * i : 32 * i + 32], segment.blocks.get(i, b"")
