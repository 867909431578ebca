"""Prove what lies at a place by reading it: the hashing of a registration, and every depth of verification."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from dls.logistics import digest as digests
from dls.logistics import names
from dls.logistics.entry import FILE, LINK
from dls.logistics.errors import Conflict, Corrupt, DlsError, NotFound, Unavailable, Unsupported
from dls.logistics.manifest import Manifest
from dls.logistics.segment import Segment
from dls.logistics.store import SMALL, Can, Store
from dls.logistics.transfer.bringing import moved
from dls.logistics.transfer.evidence import Evidence, Found, Known
from dls.logistics.transfer.listing import Wanted, moving
from dls.logistics.transfer.log import Log
from dls.logistics.transfer.parts import Large, differs
from dls.logistics.transfer.plan import plan_segment, sort
from dls.logistics.transfer.progress import Progress
from dls.logistics.transfer.receipt import Place, Receipt, Receipts
from dls.logistics.transfer.sharing import Helpers
from dls.logistics.transfer.small import FATAL, Failures, Small
from dls.logistics.transfer.threads import watched
from dls.logistics.transfer.transfer import Options


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
        self, store: Store, wanted: Wanted, receipts: Receipts, depth: Depth, options: Options, progress: Progress
    ) -> None:
        self.store, self.wanted = store, wanted
        self.depth, self.options, self.progress = depth, options, progress
        self.evidence = Evidence(receipts, wanted, store.url, self.alive)
        self.out = Proof(wanted.manifest, self.evidence.place)
        self._helpers = Helpers(store, None, options.processes)
        self._over = False

    def alive(self) -> None:
        if self._over:
            raise Unavailable("this proof was given up", code="stalled")
        self.options.fence()

    def give_up(self) -> None:
        self._over = True

    def go(self) -> Proof:
        manifest, progress = self.wanted.manifest, self.progress
        progress.phase = "hashing"
        progress.files_total, progress.bytes_total = manifest.files, manifest.size
        with closing(self._helpers):
            for ref in manifest.refs:
                self._segment(manifest.load(ref.digest))
        if not self.wanted.known and self.out.good:
            self.out.manifest, self.out.place = self.evidence.named()
        progress.phase = "done"
        return self.out

    def _segment(self, segment: Segment) -> None:
        sorts = sort(segment, self.store.keeps)
        receipt = self.evidence.receipt(segment)
        listed = list(self.evidence.sources(segment))
        now = listed or self.store.stamps(segment.paths)
        trust = None if self.depth is Depth.DEEP else receipt
        files = sorted(sorts.small + sorts.large + [i for i in sorts.made if segment.kinds[i] == FILE])
        copies = plan_segment(segment, files, trust, now, self.evidence.boot)
        if copies.nothing:
            self._trusted(segment, files)
            return
        keep = copies.keep or frozenset()
        self._trusted(segment, keep)
        for i in copies.absent:
            self.out.missing.add(segment.paths[i], _absent(self.store.url, segment.paths[i]))
        found = self._read(segment, copies.check)
        for i in moved(self.store, segment, found, now):
            del found[i]
            self.out.unread.add(segment.paths[i], moving(self.store.url, segment.paths[i]))
        good: dict[int, Found] = {i: (*known, now[i]) for i, known in found.items()}
        others = self._others(segment, sorts.made, now) | set(sorts.left)
        self._record(segment, good, keep, others, now, receipt)

    def _record(
        self,
        segment: Segment,
        found: dict[int, Found],
        keep: frozenset[int],
        others: set[int],
        now: Sequence[bytes],
        old: Receipt | None,
    ) -> None:
        made = self.evidence.receipt_of(segment, old, keep, found)
        stamps = list(made.stamps)
        for i in others:
            made.done.add(i)
            stamps[i] = now[i]
        boot = self.evidence.boot
        if Can.SYNC not in self.store.can:
            boot = ""
        elif self.options.durability == "power":  # what we read may not be on the medium yet
            with self.progress.sync():
                self.store.sync()
            boot = ""
        self.evidence.record(replace(made, stamps=stamps, boot=boot))

    def _trusted(self, segment: Segment, ordinals: Collection[int]) -> None:
        files = [i for i in ordinals if segment.kinds[i] == FILE]
        self.out.trusted += len(files)
        self.progress.settled(len(files), sum(segment.sizes[i] for i in files), kept=True)

    def _read(self, segment: Segment, ordinals: Sequence[int]) -> dict[int, Known]:
        one = Small(self.store, None, segment, self.progress, self.alive, helpers=self._helpers)
        one.run([i for i in ordinals if segment.sizes[i] <= SMALL], self.options.retries)
        found: dict[int, Known] = {i: (one.digests[i], b"") for i in one.stamps}
        errors = dict(one.errors)
        for i in ordinals:
            if segment.sizes[i] <= SMALL:
                continue
            entry = segment.entry(i)
            streams = self.options.streams if entry.size > digests.BIG else 1
            work = Large(self.store, entry, i, Log(None), self.progress, self.alive, None, streams)
            try:
                found[i] = work.run()
                self.progress.settled(1, 0)
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
        if isinstance(error, NotFound):
            self.out.missing.add(key, error)
        elif isinstance(error, Corrupt | Conflict | Unsupported) and self.wanted.known:
            self.out.corrupt.add(key, error)
        else:
            self.out.unread.add(key, error)

    def _others(self, segment: Segment, made: Sequence[int], now: Sequence[bytes]) -> set[int]:
        """Links and folders: what they are is what they say."""
        good = set[int]()
        for i in made:
            if segment.kinds[i] == FILE:
                continue
            entry = segment.entry(i)
            self.progress.ticks += 1
            if not now[i]:
                self.out.missing.add(entry.path, _absent(self.store.url, entry.path))
                continue
            there = self.store.stat(entry.path).entry
            if there.kind != entry.kind or (entry.kind == LINK and there.target != entry.target):
                self.out.corrupt.add(entry.path, differs(self.store.url, entry))
            else:
                good.add(i)
        return good


def _absent(where: str, key: bytes) -> NotFound:
    return NotFound(
        f"{where}/{names.show(key)} is not there any more",
        code="no-such-key",
        store=where,
        key=names.show(key),
        remedy="stage it in again, or take another replica",
    )


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
    Killed and run again, it goes on after the last receipt; `logs` are not needed for that.
    """
    options, progress = options or Options(), progress or Progress()
    work = _Proof(store, wanted, receipts, depth, options, progress)
    what = f"reading {store.url}"
    return watched(work.go, lambda: progress.ticks, options.stall_s, work.give_up, what, fence=options.fence)
