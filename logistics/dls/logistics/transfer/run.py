"""Run a transfer: look, copy segment by segment, create what is not copied, publish; rerunnable from any point.

Order of each segment: bytes, sync (`power`), publish (`file`), receipt.  Order of the whole (`whole`): all receipts,
links and folders, sync, one rename, sync.  So a receipt never precedes its bytes, and a name never shows unproven ones.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path

from dls.logistics import names
from dls.logistics.database import boot_id
from dls.logistics.entry import FILE, FOLDER
from dls.logistics.errors import DlsError, Exists, Unavailable
from dls.logistics.manifest import Bitmap, Manifest, SegmentRef
from dls.logistics.names import HIDDEN
from dls.logistics.segment import Segment
from dls.logistics.store import Can, Store
from dls.logistics.transfer.listing import Wanted, moving
from dls.logistics.transfer.log import Log
from dls.logistics.transfer.parts import Large
from dls.logistics.transfer.plan import SHOWN, Sorts, plan_segment, sort, survey
from dls.logistics.transfer.progress import Progress
from dls.logistics.transfer.receipt import Place, Receipt, Receipts
from dls.logistics.transfer.small import Failures, Small, proven, proven_large
from dls.logistics.transfer.threads import Ahead, together, watched

SYNC_STALL = 10.0
"""A sync may take this many times longer than any other sign of life."""


@dataclass(frozen=True, slots=True)
class Options:
    """How a transfer runs."""

    streams: int = 4
    """Ranges of large files in flight."""
    durability: str = "power"
    """`power`: synced before any fact is recorded; `process`: survives the end of the process only."""
    stall_s: float = 120.0
    retries: int = 1
    """How often a file that failed in a way that may pass is tried again."""
    replace: Collection[bytes] = ()
    """Names at the target that may be replaced although they hold something else."""


@dataclass(slots=True)
class Outcome:
    """How a transfer ended."""

    manifest: Manifest
    """What was wanted, every digest known (where nothing failed)."""
    place: Place
    copied: int = 0
    kept: int = 0
    bytes: int = 0
    failures: Failures = field(default_factory=Failures)

    @property
    def complete(self) -> bool:
        """Whether everything is there, proven."""
        return self.failures.count == 0


class _Run:
    def __init__(  # noqa: PLR0913 - the parts of one transfer
        self,
        source: Store,
        target: Store,
        root: bytes,
        wanted: Wanted,
        receipts: Receipts,
        logs: Path | None,
        options: Options,
        progress: Progress,
    ) -> None:
        self.source, self.target, self.wanted = source, target, wanted
        self.receipts, self.options, self.progress = receipts, options, progress
        self.final = target.below(root) if root else target
        self.place = Place(self.final.url, wanted.name)
        self.boot = boot_id()
        self.lock = threading.Lock()
        self.over = False
        self.failures = Failures()
        self.ahead = Ahead()
        self.starts: list[bytes] = []
        self.made: list[int] = []
        self.copied = 0
        self.log = Log(logs / f"{self.place.id}.log" if logs is not None else None)
        self.was = self.final.exists()
        self.root = root
        self.hidden = HIDDEN + self.place.id.encode()
        if Can.MOVE in target.can:
            above = root[: root.rfind(b"/") + 1]
            self.hidden = above + self.hidden
            self.stage: Store = target.below(self.hidden, staging=True)
            self.mode = "file" if self.was or not root else "whole"
            self.staged = self.stage.exists()
        else:
            self.stage, self.mode, self.staged = self.final, "direct", False
        self.at = self.stage if self.mode == "whole" else self.final
        """Where receipts speak of."""
        # A log saves second fetches where digests are not known, or where hashing what lies there means reading it back.
        self.logged = not wanted.known or self.mode == "direct"

    def alive(self) -> None:
        if self.over:
            raise Unavailable("this transfer was given up", code="stalled")

    def give_up(self) -> None:
        with self.lock:
            self.over = True

    def tick(self) -> None:
        self.progress.ticks += 1
        self.alive()

    # -- the whole -----------------------------------------------------------------------------------------------

    def go(self) -> Outcome:
        self._refuse()
        if self.was and self.mode != "whole":
            self._look()
        self.progress.phase = "copying"
        for number, ref in enumerate(self.wanted.manifest.refs):
            self._segment(number, self.wanted.manifest.load(ref.digest))
        self.ahead.wait()
        outcome = Outcome(self.wanted.manifest, self.place, self.copied, self.progress.kept, self.progress.bytes)
        outcome.failures = self.failures
        if self.failures.count:
            self.log.close()
            return outcome
        self._make()
        self._publish()
        if not self.wanted.known:
            outcome.manifest, outcome.place = self._name()
        self.log.close(done=True)
        self.progress.phase = "done"
        return outcome

    def _refuse(self) -> None:
        """Names that the target cannot hold end it before anything moves."""
        manifest = self.wanted.manifest
        found = survey(manifest.segments(), self.final.keeps, self.final.names, self.final.room, 1)
        found.check(self.final.url)
        self.progress.files_total, self.progress.bytes_total = found.files, found.size

    def _look(self) -> None:
        """Something lies at the target already: prove what is right, refuse what is not and may not be replaced."""
        self.progress.phase = "checking"
        clash, count = list[bytes](), 0
        for ref in self.wanted.manifest.refs:
            segment = self.wanted.manifest.load(ref.digest)
            others = self._adopt(segment)
            count += len(others)
            clash.extend(segment.paths[i] for i in others[: SHOWN - len(clash)])
            self.tick()
        if clash:
            raise Exists(
                f"{self.final.url}/{names.show(clash[0])} holds something else"
                + (f" (and {count - 1} more)" if count > 1 else ""),
                code="target-differs",
                store=self.final.url,
                keys=[names.show(k) for k in clash],
                count=count,
                remedy="nothing was changed; choose another target, or save and remove what lies there",
            )

    def _adopt(self, segment: Segment) -> list[int]:
        """Record what is already right at the final place; the ordinals that hold something else."""
        sorts = sort(segment, self.final.keeps)
        receipt = self._receipt(segment)
        now = self.final.stamps(segment.paths)
        copies = plan_segment(segment, sorts.small + sorts.large, receipt, now, self.boot)
        if copies.nothing or not copies.check:
            return []
        expected = self._expected(segment, copies.check, receipt)
        good = {i for i in copies.check if self._in_log(segment, i, now[i], expected.get(i))}
        ask = [i for i in copies.check if i not in good and i in expected]
        large = set(sorts.large)
        good |= proven(self.final, segment, [i for i in ask if i not in large], expected, self.tick)
        good |= {i for i in ask if i in large and proven_large(self.final, segment, i, expected[i], self.tick)}
        if good:
            done, stamps = self._base(segment, receipt, copies.keep or frozenset())
            for i in good:
                done.add(i)
                stamps[i] = now[i]
            body = self._full(segment, receipt, {i: (expected[i], b"") for i in good})
            self._record(segment, Receipt(segment.digest, done, stamps, self.boot, body, self._sources(segment)))
        return [i for i in copies.check if i not in good and segment.paths[i] not in self.options.replace]

    def _in_log(self, segment: Segment, i: int, now: bytes, expected: bytes | None) -> bool:
        said = self.log.placed(short(segment), i)
        return said is not None and self.mode == "direct" and said[0] == expected and said[1] == now

    # -- one segment ---------------------------------------------------------------------------------------------

    def _segment(self, number: int, segment: Segment) -> None:
        self.starts.append(segment.paths[0])
        sorts = sort(segment, self.final.keeps)
        if sorts.made:
            self.made.append(number)
        receipt = self._receipt(segment)
        looked = self.was or (self.staged and self.mode == "whole")
        now = self.at.stamps(segment.paths) if looked else [b""] * len(segment)
        wanted = sorted(sorts.small + sorts.large)
        copies = plan_segment(segment, wanted, receipt, now, self.boot)
        if copies.nothing:
            self._count_kept(segment, range(len(segment)))
            return
        done, stamps = self._base(segment, receipt, copies.keep or frozenset())
        self._count_kept(segment, copies.keep or frozenset())
        todo = [i for i in wanted if i not in done]
        found = self._bring(segment, sorts, todo, receipt)
        if self.mode == "file" and found:
            self._publish_files(segment, found)
        for i, (_, _, stamp) in found.items():
            done.add(i)
            stamps[i] = stamp
        for i in sorts.left:
            done.add(i)
        body = self._full(segment, receipt, {i: (d, b) for i, (d, b, _) in found.items()})
        made = Receipt(segment.digest, done, stamps, self.boot, body, self._sources(segment))
        self.ahead.put(lambda: self._commit(segment, made))

    def _commit(self, segment: Segment, receipt: Receipt) -> None:
        if self._power():
            self.stage.sync()
            receipt = replace(receipt, boot="")
        elif Can.SYNC not in self.target.can:
            receipt = replace(receipt, boot="")
        self._record(segment, receipt)

    def _power(self) -> bool:
        return self.options.durability == "power" and Can.SYNC in self.target.can

    def _record(self, segment: Segment, receipt: Receipt) -> None:
        with self.lock:
            self.alive()
            self.receipts.put(self.place, receipt)
        self.progress.ticks += 1

    def _bring(
        self, segment: Segment, sorts: Sorts, todo: list[int], receipt: Receipt | None
    ) -> dict[int, tuple[bytes, bytes, bytes]]:
        """Copy what is missing; {ordinal: (digest, blocks, stamp)} of what now lies, proven, in staging."""
        found: dict[int, tuple[bytes, bytes, bytes]] = {}
        large = set(sorts.large)
        small = [i for i in todo if i not in large]
        if self.staged:
            found = self._staged(segment, small, receipt)
            self._count_kept(segment, found)
            small = [i for i in small if i not in found]
        one = Small(self.source, self.stage, segment, self.progress, self.alive)
        if self.logged:
            listed, number = self._sources(segment), short(segment)
            one.placed = lambda i, digest, stamp: self.log.add_placed(
                number, i, digest, stamp, listed[i] if listed else b""
            )
        one.run(small, self.options.retries)
        found.update({i: (one.digests[i], b"", stamp) for i, stamp in one.stamps.items()})
        errors = dict(one.errors)
        found.update(self._large(segment, [i for i in todo if i in large], errors))
        self._unmoved(segment, found, errors)
        self.copied += len(one.stamps)
        for i, error in sorted(errors.items()):
            self.failures.add(segment.paths[i], error)
            self.progress.failed += 1
        return found

    def _staged(
        self, segment: Segment, small: list[int], receipt: Receipt | None
    ) -> dict[int, tuple[bytes, bytes, bytes]]:
        """What a killed run left in staging and is right: hashed where it lies."""
        now = self.stage.stamps([segment.paths[i] for i in small])
        there = {i: stamp for i, stamp in zip(small, now, strict=True) if stamp}
        expected = self._expected(segment, list(there), receipt)
        good = proven(self.stage, segment, sorted(expected), expected, self.tick)
        return {i: (expected[i], b"", there[i]) for i in good}

    def _expected(self, segment: Segment, ordinals: list[int], receipt: Receipt | None) -> dict[int, bytes]:
        """The digests that ordinals must have, as far as anything tells: the manifest, an older receipt, the log."""
        if self.wanted.known:
            return {i: segment.digests[32 * i : 32 * i + 32] for i in ordinals}
        out: dict[int, bytes] = {}
        listed, number = self._sources(segment), short(segment)
        full = Segment.decode(receipt.body) if receipt is not None and receipt.body else None
        for i in ordinals:
            said = self.log.placed(number, i)
            if receipt is not None and full is not None and i in receipt.done:
                out[i] = full.digests[32 * i : 32 * i + 32]
            elif said is not None and said[2] == listed[i]:
                out[i] = said[0]
        return out

    def _large(
        self, segment: Segment, todo: list[int], errors: dict[int, DlsError]
    ) -> dict[int, tuple[bytes, bytes, bytes]]:
        """Bring large files: those with blocks one after the other by several streams, the others several at once."""
        from dls.logistics.digest import BIG

        found: dict[int, tuple[bytes, bytes, bytes]] = {}
        queue = [i for i in todo if segment.sizes[i] <= BIG]
        turn, lock = iter(queue), threading.Lock()

        def work(stop: threading.Event) -> None:
            while not stop.is_set():
                with lock:
                    i = next(turn, None)
                if i is None:
                    return
                self._one_large(segment, i, 1, found, errors)

        together(work, min(self.options.streams, len(queue)))
        for i in todo:
            if segment.sizes[i] > BIG:
                self._one_large(segment, i, self.options.streams, found, errors)
        return found

    def _one_large(
        self,
        segment: Segment,
        i: int,
        streams: int,
        found: dict[int, tuple[bytes, bytes, bytes]],
        errors: dict[int, DlsError],
    ) -> None:
        from dls.logistics.transfer.small import FATAL

        entry, key, before = segment.entry(i), (short(segment), i), self.progress.bytes
        for attempt in range(self.options.retries + 1):
            upload = self.stage.upload(
                entry.path, entry.size, token=self.log.token(*key), mode=entry.mode, mtime_ns=entry.mtime_ns
            )
            try:
                if upload.token and upload.token != self.log.token(*key):
                    self.log.add_token(*key, upload.token)
                one = Large(self.source, entry, key, self.log, self.progress, self.alive, upload, streams)
                digest, blocks = one.run()
                self.alive()
                found[i] = (digest, blocks, upload.finish())
                self.progress.files += 1
                self.copied += 1
                errors.pop(i, None)
                return
            except DlsError as exc:
                upload.close()
                if exc.code in FATAL:
                    raise
                errors[i] = exc
                if streams > 1:
                    self.progress.bytes = before
                if attempt == self.options.retries or not (exc.retryable or exc.code == "content-differs"):
                    return
            finally:
                upload.close()

    def _unmoved(
        self, segment: Segment, found: dict[int, tuple[bytes, bytes, bytes]], errors: dict[int, DlsError]
    ) -> None:
        """Where digests were not known: the source must still be what was listed, or what we read may be a mixture."""
        listed = self._sources(segment)
        if not listed or not found:
            return
        ordinals = sorted(found)
        after = self.source.stamps([segment.paths[i] for i in ordinals])
        for i, stamp in zip(ordinals, after, strict=True):
            if stamp != listed[i]:
                del found[i]
                errors[i] = moving(self.source.url, segment.paths[i])

    def _publish_files(self, segment: Segment, found: dict[int, tuple[bytes, bytes, bytes]]) -> None:
        """Give verified files their names, one rename each; renames change stamps."""
        if self._power():
            self.stage.sync()
        ordinals = sorted(found)
        keys = [segment.paths[i] for i in ordinals]
        prefix = self.root + b"/" if self.root else b""
        self.alive()
        self.target.move([(self.hidden + b"/" + k, prefix + k) for k in keys], over=True)
        for i, stamp in zip(ordinals, self.final.stamps(keys), strict=True):
            found[i] = (found[i][0], found[i][1], stamp)

    # -- receipts ------------------------------------------------------------------------------------------------

    def _receipt(self, segment: Segment) -> Receipt | None:
        """Our receipt; where digests were not known, only for sources that are still the same."""
        receipt = self.receipts.get(self.place, segment.digest)
        listed = self._sources(segment)
        if receipt is None or self.wanted.known or list(receipt.sources) == list(listed):
            return receipt
        done = Bitmap(len(segment), receipt.done.encode())
        for i, stamp in enumerate(listed):
            if not receipt.sources or receipt.sources[i] != stamp:
                done.remove(i)
        return replace(receipt, done=done)

    def _sources(self, segment: Segment) -> list[bytes]:
        return list(self.wanted.stamps(segment.digest)) if self.wanted.stamps is not None else []

    @staticmethod
    def _base(segment: Segment, receipt: Receipt | None, keep: frozenset[int]) -> tuple[Bitmap, list[bytes]]:
        done, stamps = Bitmap(len(segment)), [b""] * len(segment)
        for i in keep:
            done.add(i)
            stamps[i] = receipt.stamps[i] if receipt is not None else b""
        return done, stamps

    def _full(self, segment: Segment, receipt: Receipt | None, found: dict[int, tuple[bytes, bytes]]) -> bytes:
        """The segment with the digests found so far, encoded; empty where they were known."""
        if self.wanted.known:
            return b""
        if receipt is not None and receipt.body:
            old = Segment.decode(receipt.body)
            kept = {
                i: (old.digests[32 * i : 32 * i + 32], old.blocks.get(i, b""))
                for i in range(len(old))
                if i in receipt.done
            }
            found = {**kept, **{i: v for i, v in found.items() if v[1] or i not in kept}}
        return segment.with_digests(found).encode()

    def _count_kept(self, segment: Segment, ordinals: Collection[int]) -> None:
        files = [i for i in ordinals if segment.kinds[i] == FILE]
        self.progress.files += len(files)
        self.progress.kept += len(files)
        self.progress.bytes += sum(segment.sizes[i] for i in files)
        self.progress.ticks += 1

    # -- the end -------------------------------------------------------------------------------------------------

    def _make(self) -> None:
        """Create links and further names of hard-linked files, then folders, so that no folder is closed too early."""
        self.progress.phase = "linking"
        refs = self.wanted.manifest.refs
        touched: dict[int, set[bytes]] = {}
        for folders in (False, True):
            for number in self.made:
                segment = self.wanted.manifest.load(refs[number].digest)
                missing = [i for i in sort(segment, self.final.keeps).made if not self._is_made(segment, i)]
                entries = [segment.entry(i) for i in missing if (segment.kinds[i] == FOLDER) == folders]
                self.alive()
                self.at.make(entries)
                for entry in entries:
                    touched.setdefault(number, set()).add(entry.path)
                    if entry.kind == FILE:
                        first = bisect_right(self.starts, entry.target) - 1
                        touched.setdefault(first, set()).add(entry.target)
                self.tick()
        if touched and self._power():
            self.at.sync()
        for number, paths in touched.items():
            self._restamp(self.wanted.manifest.load(refs[number].digest), paths)

    def _is_made(self, segment: Segment, i: int) -> bool:
        receipt = self.receipts.get(self.place, segment.digest)
        path = segment.paths[i]
        return (
            receipt is not None
            and i in receipt.done
            and bool(receipt.stamps[i])
            and self.at.stamps([path])[0] == receipt.stamps[i]
        )

    def _restamp(self, segment: Segment, paths: set[bytes]) -> None:
        """Links were made: note their stamps, and those of the files whose link count they changed."""
        receipt = self.receipts.get(self.place, segment.digest)
        ordinals = [i for i, path in enumerate(segment.paths) if path in paths]
        if receipt is None:
            done, stamps = self._base(segment, None, frozenset())
            receipt = Receipt(segment.digest, done, stamps, self.boot, self._full(segment, None, {}))
        done, stamps = Bitmap(len(segment), receipt.done.encode()), list(receipt.stamps)
        now = self.at.stamps([segment.paths[i] for i in ordinals])
        for i, stamp in zip(ordinals, now, strict=True):
            done.add(i)
            stamps[i] = stamp
        self._record(segment, replace(receipt, done=done, stamps=stamps))

    def _publish(self) -> None:
        self.progress.phase = "publishing"
        self.alive()
        if self.mode == "whole":
            if not self.wanted.manifest.refs:
                self.target.make([])
            if self._power():
                self.stage.sync()
            self.target.move([(self.hidden, self.root)])
        elif self.mode == "file":
            self.stage.wipe()
        if self._power():
            self.final.sync()

    def _name(self) -> tuple[Manifest, Place]:
        """Everything is hashed now: file the evidence under the content's name."""
        refs, old = list[SegmentRef](), self.place
        full: dict[bytes, bytes] = {}
        for ref in self.wanted.manifest.refs:
            receipt = self.receipts.get(old, ref.digest)
            segment = Segment.decode(receipt.body) if receipt is not None else self.wanted.manifest.load(ref.digest)
            refs.append(SegmentRef.of(segment))
            full[segment.digest] = ref.digest
        manifest = Manifest(tuple(refs), lambda digest: Segment.decode(self._body(new, digest), digest))
        new = Place(old.where, f"blake3:{manifest.content.hex()}")
        for digest, listed in full.items():
            receipt = self.receipts.get(old, listed)
            if receipt is not None:
                self.receipts.put(new, replace(receipt, segment=digest, sources=()))
        self.receipts.drop(old)
        return manifest, new

    def _body(self, place: Place, digest: bytes) -> bytes:
        receipt = self.receipts.get(place, digest)
        return receipt.body if receipt is not None else b""


def short(segment: Segment) -> int:
    """The number by which a log knows a segment."""
    return int.from_bytes(segment.digest[:8], "little")


def run_copies(  # noqa: PLR0913 - the parts of one transfer
    source: Store,
    target: Store,
    root: bytes,
    wanted: Wanted,
    receipts: Receipts,
    *,
    logs: Path | None = None,
    options: Options | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Bring what is `wanted` from `source` to `root` below `target` (b'': into the target itself).

    Run again after anything, it continues.  One process at a time may do so for one place (see `Need`).  Files that
    fail are in the outcome, and then nothing is published where publishing is whole; a fatal error is raised.
    """
    options, progress = options or Options(), progress or Progress()
    run = _Run(source, target, root, wanted, receipts, logs, options, progress)
    return watched(run.go, lambda: progress.ticks, options.stall_s, run.give_up, f"copying to {run.final.url}")
