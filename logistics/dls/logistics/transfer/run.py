"""Run a transfer: look, copy segment by segment, create what is not copied, publish; rerunnable from any point.

Order of each segment: bytes, sync (`power`), publish (`file`), sync, receipt.  Order of the whole (`whole`): all
receipts, links and folders, sync, one rename, sync.  So a receipt never precedes its bytes, and a name never shows
unproven ones.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from pathlib import Path

from dls.logistics import names
from dls.logistics.entry import FILE
from dls.logistics.errors import Invalid
from dls.logistics.manifest import Manifest
from dls.logistics.segment import Segment
from dls.logistics.store import SMALL, Store
from dls.logistics.transfer.adopting import look
from dls.logistics.transfer.bringing import bring
from dls.logistics.transfer.landing import SYNC_STALL, Mode
from dls.logistics.transfer.listing import Wanted
from dls.logistics.transfer.making import make_rest
from dls.logistics.transfer.plan import Sorts, plan_segment, sort, survey
from dls.logistics.transfer.progress import Progress
from dls.logistics.transfer.receipt import Place, Receipts
from dls.logistics.transfer.sharing import WORTH
from dls.logistics.transfer.small import Failures
from dls.logistics.transfer.threads import watched
from dls.logistics.transfer.transfer import Options, Transfer

__all__ = ["Options", "Outcome", "run_copies"]


@dataclass(slots=True)
class Outcome:
    """How a transfer ended."""

    manifest: Manifest
    """What was wanted, every digest known (where nothing failed)."""
    place: Place
    copied: int = 0
    """Files that were brought by this run."""
    kept: int = 0
    """Files that were proven already."""
    bytes: int = 0
    """Of both."""
    failures: Failures = field(default_factory=Failures)

    @property
    def complete(self) -> bool:
        """Whether everything is there, proven."""
        return self.failures.count == 0


def run_copies(
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
    box: list[Transfer] = []

    def work() -> Outcome:
        box.append(Transfer(source, target, root, wanted, receipts, logs, options, progress))
        return _go(box[0])

    return watched(
        work,
        lambda: progress.ticks,
        options.stall_s,
        lambda: box[0].give_up() if box else None,
        f"copying from {source.url}",
        lambda: SYNC_STALL if progress.syncing else 1.0,
        options.fence,
    )


def _go(transfer: Transfer) -> Outcome:
    try:
        return _whole(transfer)
    finally:
        transfer.helpers.close()
        transfer.ahead.end()
        transfer.logs.close()


def _whole(transfer: Transfer) -> Outcome:
    manifest, progress, landing = transfer.wanted.manifest, transfer.progress, transfer.landing
    outcome = Outcome(manifest, transfer.evidence.place)
    kept, size = progress.kept, progress.bytes
    small = manifest.size <= manifest.files * SMALL  # else helpers come once enough small ones are met
    if manifest.files >= WORTH and small and not (landing.was or landing.staged):
        transfer.helpers.call()  # they start while we look
    _refuse(transfer)
    settled = look(transfer) if landing.was and landing.mode is not Mode.WHOLE else set[int]()
    progress.phase = "copying"
    starts, unmade, linked = list[bytes](), list[int](), list[int]()
    for number, ref in enumerate(manifest.refs):
        segment = manifest.load(ref.digest)
        starts.append(segment.paths[0])
        sorts = sort(segment, landing.final.keeps)
        if number in settled or _segment(transfer, segment, sorts, outcome):
            _count_kept(transfer, segment, sorts)
            if segment.targets and any(segment.kinds[i] == FILE for i in sorts.made):
                linked.append(number)
        elif sorts.made:
            unmade.append(number)
    transfer.ahead.wait()
    outcome.kept, outcome.bytes = progress.kept - kept, progress.bytes - size
    if outcome.failures.count:
        return outcome
    # A file that was replaced is a new one: its further names still are names of the old.
    make_rest(transfer, sorted(unmade + linked) if landing.was and outcome.copied else unmade, starts)
    progress.phase = "publishing"
    transfer.alive()
    again = transfer.logs.published
    if landing.mode is Mode.WHOLE or landing.dirty:
        transfer.logs.publishing()
    landing.publish(again=again)
    if not transfer.wanted.known:
        outcome.manifest, outcome.place = transfer.evidence.named()
    transfer.alive()
    transfer.logs.done(landing.abort)
    progress.phase = "done"
    return outcome


def _refuse(transfer: Transfer) -> None:
    """What can be known to fail ends it before anything moves: names, and trees within themselves."""
    manifest, final = transfer.wanted.manifest, transfer.landing.final
    found = survey(manifest.segments(), final.keeps, final.names, final.room, 1)
    found.check(final.url)
    transfer.progress.files_total, transfer.progress.bytes_total = found.files, found.size
    here, there = transfer.source.url.rstrip("/"), final.url.rstrip("/")
    if here == there or not (f"{there}/".startswith(f"{here}/") or f"{here}/".startswith(f"{there}/")):
        inside = here == there
    else:
        longer, shorter = max(here, there, key=len), min(here, there, key=len)
        inside = transfer.wanted.name == f"from:{here}" and longer == there
        inside = inside or _holds(manifest, names.read(longer[len(shorter) :].lstrip("/")))
    if inside:
        raise Invalid(
            f"{there} and {here} lie within each other",
            code="same-place",
            store=there,
            remedy="choose a target outside the source",
        )


def _holds(manifest: Manifest, path: bytes) -> bool:
    """Whether an entry lies at, below or above a path."""
    for segment in manifest.segments():
        at = bisect_left(segment.paths, path)
        if at < len(segment) and (segment.paths[at] == path or segment.paths[at].startswith(path + b"/")):
            return True
        below = bisect_left(segment.paths, path + b"/")
        if below < len(segment) and segment.paths[below].startswith(path + b"/"):
            return True
        for folder in names.parents(path):
            up = bisect_left(segment.paths, folder)
            if up < len(segment) and segment.paths[up] == folder:
                return True
    return False


def _segment(transfer: Transfer, segment: Segment, sorts: Sorts, outcome: Outcome) -> bool:
    """Bring one segment and record it; True where it was there already, all of it."""
    landing, evidence = transfer.landing, transfer.evidence
    receipt = evidence.receipt(segment)
    looked = landing.was or (landing.staged and landing.mode is Mode.WHOLE)
    now = landing.at.stamps(segment.paths) if looked else [b""] * len(segment)
    wanted = sorted(sorts.small + sorts.large) if sorts.large else sorts.small
    copies = plan_segment(segment, wanted, receipt, now, evidence.boot)
    if copies.nothing:
        return True
    keep = copies.keep or frozenset()
    others = [i for i in sorts.made if receipt is not None and i in receipt.done and now[i] == receipt.stamps[i]]
    transfer.progress.settled(len(keep), sum(segment.sizes[i] for i in keep), kept=True)
    transfer.progress.settled(sum(1 for i in others if segment.kinds[i] == FILE), 0)
    found, copied, errors = bring(transfer, segment, sorts, [i for i in wanted if i not in keep], receipt)
    if landing.mode is Mode.FILE and found:
        transfer.alive()
        landing.publish_files(segment, found)
    outcome.copied += copied
    for i, error in sorted(errors.items()):
        outcome.failures.add(segment.paths[i], error)
        transfer.progress.failed += 1
    made = evidence.receipt_of(segment, receipt, [*keep, *others], found)
    for i in sorts.left:
        made.done.add(i)
    transfer.ahead.put((made, not errors))
    return False


def _count_kept(transfer: Transfer, segment: Segment, sorts: Sorts) -> None:
    size = segment.size - sum(segment.sizes[i] for i in sorts.made)
    transfer.progress.settled(len(sorts.small) + len(sorts.large), size, kept=True)
    transfer.progress.settled(sum(1 for i in sorts.made if segment.kinds[i] == FILE), 0)
