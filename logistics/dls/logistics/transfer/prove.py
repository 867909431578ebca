"""Prove what lies at a place by reading it: the hashing of a registration, and every depth of verification."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from dls.logistics import digest as digests
from dls.logistics.database import boot_id
from dls.logistics.entry import FILE, FOLDER, LINK
from dls.logistics.errors import DlsError
from dls.logistics.manifest import Bitmap, Manifest, SegmentRef
from dls.logistics.segment import Segment
from dls.logistics.store import Store
from dls.logistics.transfer.listing import Wanted, moving
from dls.logistics.transfer.log import Log
from dls.logistics.transfer.parts import Large
from dls.logistics.transfer.plan import plan_segment, sort
from dls.logistics.transfer.progress import Progress
from dls.logistics.transfer.receipt import Place, Receipt, Receipts
from dls.logistics.transfer.run import Options, short
from dls.logistics.transfer.small import FATAL, Failures, Small
from dls.logistics.transfer.threads import watched


class Depth(StrEnum):
    """How much a proof trusts."""

    RECEIPTS = "receipts"
    """Our own receipts: what they do not cover is hashed."""
    DEEP = "deep"
    """Nothing: every byte is read."""


@dataclass(slots=True)
class Proof:
    """What was found."""

    manifest: Manifest
    """What lies there, every digest known (where nothing failed)."""
    place: Place
    read: int = 0
    """Files that were read and hashed."""
    trusted: int = 0
    """Files that a receipt vouched for."""
    missing: Failures = field(default_factory=Failures)
    """Names that are not there, or are of another kind."""
    corrupt: Failures = field(default_factory=Failures)
    """Files that hold other bytes."""
    unread: Failures = field(default_factory=Failures)
    """Files that could not be read: neither good nor bad."""

    @property
    def good(self) -> bool:
        """Whether everything is there and right."""
        return not (self.missing.count or self.corrupt.count or self.unread.count)


class _Proof:
    def __init__(
        self,
        store: Store,
        wanted: Wanted,
        receipts: Receipts,
        depth: Depth,
        logs: Path | None,
        options: Options,
        progress: Progress,
    ) -> None:
        self.store, self.wanted, self.receipts = store, wanted, receipts
        self.depth, self.options, self.progress = depth, options, progress
        self.place = Place(store.url, wanted.name)
        self.boot = boot_id()
        self.log = Log(logs / f"{self.place.id}.log" if logs is not None else None)
        self.out = Proof(wanted.manifest, self.place)
        self.over = False

    def alive(self) -> None:
        if self.over:
            raise moving(self.store.url, b"")

    def give_up(self) -> None:
        self.over = True

    def go(self) -> Proof:
        manifest, refs = self.wanted.manifest, list[SegmentRef]()
        self.progress.phase = "hashing"
        self.progress.files_total, self.progress.bytes_total = manifest.files, manifest.size
        full: dict[bytes, bytes] = {}
        for ref in manifest.refs:
            segment = self._segment(manifest.load(ref.digest))
            if not self.wanted.known:
                full[segment.digest] = ref.digest
                refs.append(SegmentRef.of(segment))
        if not self.wanted.known and self.out.good:
            self._name(full, tuple(refs))
        self.log.close(done=self.out.good)
        self.progress.phase = "done"
        return self.out

    def _segment(self, segment: Segment) -> Segment:
        sorts = sort(segment, self.store.keeps)
        receipt = self.receipts.get(self.place, segment.digest)
        listed = list(self.wanted.stamps(segment.digest)) if self.wanted.stamps is not None else []
        now = listed or self.store.stamps(segment.paths)
        trust = None if self.depth is Depth.DEEP else receipt
        files = sorted(sorts.small + sorts.large + [i for i in sorts.made if segment.kinds[i] == FILE])
        copies = plan_segment(segment, files, trust, now, self.boot)
        body = Segment.decode(receipt.body) if receipt is not None and receipt.body else None
        if copies.nothing:
            self._trusted(segment, files)
            return segment if self.wanted.known or body is None else body
        keep = copies.keep or frozenset()
        self._trusted(segment, keep)
        for i in copies.absent:
            self.out.missing.add(segment.paths[i], moving(self.store.url, segment.paths[i]))
        found = self._read(segment, copies.check, set(sorts.large))
        self._moved(segment, found, now, listed)
        good = set(found) | set(keep) | self._others(segment, sorts.made, now) | set(sorts.left)
        known = {i: (body.digests[32 * i : 32 * i + 32], body.blocks.get(i, b"")) for i in keep} if body else {}
        full = segment if self.wanted.known else segment.with_digests({**known, **found})
        self._record(segment, full, good, now, receipt)
        return full

    def _record(self, segment: Segment, full: Segment, good: set[int], now: list[bytes], old: Receipt | None) -> None:
        done, stamps = Bitmap(len(segment)), [b""] * len(segment)
        for i in good:
            done.add(i)
            stamps[i] = now[i]
        boot = old.boot if old is not None and list(old.stamps) == stamps else self.boot
        body = b"" if self.wanted.known else full.encode()
        self.alive()
        self.receipts.put(self.place, Receipt(segment.digest, done, stamps, boot, body))

    def _trusted(self, segment: Segment, ordinals: frozenset[int] | list[int]) -> None:
        count = sum(1 for i in ordinals if segment.kinds[i] == FILE)
        self.out.trusted += count
        self.progress.kept += count
        self.progress.files += count
        self.progress.bytes += sum(segment.sizes[i] for i in ordinals)
        self.progress.ticks += 1

    def _read(self, segment: Segment, ordinals: list[int], large: set[int]) -> dict[int, tuple[bytes, bytes]]:
        large |= {i for i in ordinals if segment.sizes[i] > 1 << 20}
        one = Small(self.store, None, segment, self.progress, self.alive)
        one.run([i for i in ordinals if i not in large], self.options.retries)
        found = {i: (digest, b"") for i, digest in one.digests.items() if i not in one.errors}
        errors = dict(one.errors)
        for i in ordinals:
            if i not in large:
                continue
            entry = segment.entry(i)
            many = self.options.streams if entry.size > digests.BIG else 1
            work = Large(self.store, entry, (short(segment), i), self.log, self.progress, self.alive, None, many)
            try:
                found[i] = work.run()
                self.progress.files += 1
            except DlsError as exc:
                if exc.code in FATAL:
                    raise
                errors[i] = exc
        self.out.read += len(found)
        for i, error in sorted(errors.items()):
            self._fail(segment.paths[i], error)
        return found

    def _fail(self, key: bytes, error: DlsError) -> None:
        self.progress.failed += 1
        if error.code in ("content-differs", "source-changed") and self.wanted.known:
            self.out.corrupt.add(key, error)
        elif error.code == "no-such-key":
            self.out.missing.add(key, error)
        else:
            self.out.unread.add(key, error)

    def _moved(
        self, segment: Segment, found: dict[int, tuple[bytes, bytes]], now: list[bytes], listed: list[bytes]
    ) -> None:
        """What was written while we read it proves nothing."""
        ordinals = sorted(found)
        after = self.store.stamps([segment.paths[i] for i in ordinals])
        for i, stamp in zip(ordinals, after, strict=True):
            if stamp != now[i]:
                del found[i]
                self.out.unread.add(segment.paths[i], moving(self.store.url, segment.paths[i]))

    def _others(self, segment: Segment, made: list[int], now: list[bytes]) -> set[int]:
        """Links and folders: what they are is what they say."""
        good = set[int]()
        for i in made:
            if segment.kinds[i] == FILE:
                continue
            entry = segment.entry(i)
            self.progress.ticks += 1
            if not now[i]:
                self.out.missing.add(entry.path, moving(self.store.url, entry.path))
                continue
            there = self.store.stat(entry.path).entry
            if there.kind != entry.kind or (entry.kind == LINK and there.target != entry.target):
                self.out.corrupt.add(entry.path, moving(self.store.url, entry.path))
            elif entry.kind in (LINK, FOLDER):
                good.add(i)
        return good

    def _name(self, full: dict[bytes, bytes], refs: tuple[SegmentRef, ...]) -> None:
        """Everything is hashed now: file the evidence under the content's name."""
        old = self.place
        manifest = Manifest(refs, lambda digest: Segment.decode(self._body(new, digest), digest))
        new = Place(old.where, f"blake3:{manifest.content.hex()}")
        for digest, listed in full.items():
            receipt = self.receipts.get(old, listed)
            if receipt is not None:
                self.receipts.put(new, replace(receipt, segment=digest, sources=()))
        self.receipts.drop(old)
        self.out.manifest, self.out.place = manifest, new

    def _body(self, place: Place, digest: bytes) -> bytes:
        receipt = self.receipts.get(place, digest)
        return receipt.body if receipt is not None else b""


def prove(
    store: Store,
    wanted: Wanted,
    receipts: Receipts,
    *,
    depth: Depth = Depth.RECEIPTS,
    logs: Path | None = None,
    options: Options | None = None,
    progress: Progress | None = None,
) -> Proof:
    """Read what lies at `store` and compare it with what is `wanted` (or learn its digests, where none are known).

    Findings are in the proof, not raised; receipts are written for what is right and taken back for what is not.
    """
    options, progress = options or Options(), progress or Progress()
    work = _Proof(store, wanted, receipts, depth, logs, options, progress)
    ticks: Callable[[], int] = lambda: progress.ticks  # noqa: E731 - a reading, not a function of its own
    return watched(work.go, ticks, options.stall_s, work.give_up, f"reading {store.url}")
