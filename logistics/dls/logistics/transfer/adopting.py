"""Looking at a target that is there already: what is right is proven by hash and kept, what is not is refused before
anything moves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from dls.logistics import digest as digests
from dls.logistics import names
from dls.logistics.entry import FILE, FOLDER, LINK
from dls.logistics.errors import DlsError, Exists, NotFound
from dls.logistics.segment import Segment
from dls.logistics.transfer.bringing import moved, proven
from dls.logistics.transfer.evidence import Found, Known
from dls.logistics.transfer.landing import Mode
from dls.logistics.transfer.log import Log
from dls.logistics.transfer.parts import Large
from dls.logistics.transfer.plan import SHOWN, Sorts, plan_segment, sort
from dls.logistics.transfer.progress import Progress
from dls.logistics.transfer.receipt import Receipt
from dls.logistics.transfer.small import FATAL, Small
from dls.logistics.transfer.transfer import Transfer


def look(transfer: Transfer) -> set[int]:
    """Prove what lies at the final place.  The numbers of the segments that are up to date; Exists where something
    else lies there that may not be replaced."""
    transfer.progress.phase = "checking"
    settled, unsynced = set[int](), list[int]()
    clashes, count = list[bytes](), 0
    for number, ref in enumerate(transfer.wanted.manifest.refs):
        segment = transfer.wanted.manifest.load(ref.digest)
        receipt = transfer.evidence.receipt(segment)
        now = transfer.landing.final.stamps(segment.paths)
        transfer.tick()
        sorts = sort(segment, transfer.landing.final.keeps)
        copies = plan_segment(segment, sorted(sorts.small + sorts.large), receipt, now, transfer.evidence.boot)
        if copies.nothing:
            settled.add(number)
            if receipt is not None and receipt.boot:
                unsynced.append(number)
            continue
        others = _others(transfer, segment, sorts, receipt, now, copies.check)
        others += _blocked(transfer, segment, copies.absent + [i for i in sorts.made if not now[i]])
        count += len(others)
        clashes.extend(segment.paths[i] for i in others[: SHOWN - len(clashes)])
        transfer.logs.shut(segment.digest)
    if count:
        raise _differs(transfer.landing.final.url, clashes, count)
    _harden(transfer, unsynced)
    return settled


def _others(
    transfer: Transfer,
    segment: Segment,
    sorts: Sorts,
    receipt: Receipt | None,
    now: Sequence[bytes],
    check: Sequence[int],
) -> list[int]:
    """Record what is right of what lies there without proof; the ordinals that hold something else."""
    log = transfer.logs.of(segment.digest)
    expected = transfer.evidence.expected(segment, check, receipt, log)
    # What we wrote ourselves just before a kill has the stamp that we noted then: a remote store is not read back.
    direct = transfer.landing.mode is Mode.DIRECT
    good = {i: expected[i] for i in check if direct and i in expected and _noted(log, i, now[i])}
    allowed = {i for i in check if segment.paths[i] in transfer.replace}
    if transfer.wanted.stamps is not None:
        expected.update(_learn(transfer, segment, [i for i in check if i not in expected and i not in allowed]))
    ask = [i for i in check if i in expected and i not in good]
    good.update(proven(transfer.landing.final, segment, ask, expected, transfer.tick))
    if good:
        found: dict[int, Found] = {i: (*known, now[i]) for i, known in good.items()}
        keep = [i for i in range(len(segment)) if receipt is not None and i in receipt.done and i not in found]
        keep = [i for i in keep if receipt is not None and now[i] == receipt.stamps[i]]
        transfer.evidence.record(transfer.evidence.receipt_of(segment, receipt, keep, found))
    others = [i for i in check if i not in good and i not in allowed]
    return others + _kinds(transfer, segment, sorts.made, receipt, now)


def _noted(log: Log, i: int, now: bytes) -> bool:
    said = log.placed(i)
    return said is not None and said.stamp == now


def _learn(transfer: Transfer, segment: Segment, ordinals: list[int]) -> dict[int, Known]:
    """Digests that nothing tells: read from the source, without writing anything."""
    if not ordinals:
        return {}
    quiet, large = Progress(), set(sort(segment, transfer.source.keeps).large)
    one = Small(transfer.source, None, segment, quiet, transfer.tick)
    one.run([i for i in ordinals if i not in large], transfer.options.retries)
    found: dict[int, Known] = {i: (one.digests[i], b"") for i in one.stamps}
    for i in large.intersection(ordinals):
        try:
            found[i] = Large(transfer.source, segment.entry(i), i, Log(None), quiet, transfer.tick).run()
        except DlsError as exc:
            if exc.code in FATAL:
                raise
    transfer.progress.requests += quiet.requests
    for i in moved(transfer.source, segment, found, transfer.evidence.sources(segment)):
        del found[i]
    return found


def _kinds(
    transfer: Transfer, segment: Segment, made: Iterable[int], receipt: Receipt | None, now: Sequence[bytes]
) -> list[int]:
    """Those of the links, folders and further names that something else stands in the way of."""
    final, others = transfer.landing.final, list[int]()
    for i in made:
        if not now[i] or segment.paths[i] in transfer.replace:
            continue
        if receipt is not None and i in receipt.done and receipt.stamps[i] == now[i]:
            continue
        there, wanted = final.stat(segment.paths[i]).entry, segment.entry(i)
        transfer.tick()
        if wanted.kind == FILE:
            if there.kind != FILE or there.size != wanted.size or not _same_content(transfer, segment, i):
                others.append(i)
        elif there.kind != wanted.kind or (wanted.kind == LINK and there.target != wanted.target):
            others.append(i)
    return others


def _same_content(transfer: Transfer, segment: Segment, i: int) -> bool:
    """Whether a further name of a hard-link group holds what it shall, as a file of its own or as a name already."""
    expected: dict[int, Known] = {i: (segment.digests[32 * i : 32 * i + 32], segment.blocks.get(i, b""))}
    if expected[i][0] == digests.UNKNOWN:
        expected = _learn(transfer, segment, [i])
    return bool(expected) and bool(proven(transfer.landing.final, segment, [i], expected, transfer.tick))


def _blocked(transfer: Transfer, segment: Segment, absent: Iterable[int]) -> list[int]:
    """Those of the absent names above which a file or a link stands where a folder is needed."""
    final, folders = transfer.landing.final, dict[bytes, bool]()
    if FOLDER not in final.keeps.kinds:
        return []

    def fits(folder: bytes) -> bool:
        if folder not in folders:
            try:
                folders[folder] = final.stat(folder).entry.kind == FOLDER
            except NotFound:
                above = next(names.parents(folder), b"")
                folders[folder] = not above or fits(above)
            transfer.tick()
        return folders[folder]

    return [i for i in absent if (above := next(names.parents(segment.paths[i]), b"")) and not fits(above)]


def _harden(transfer: Transfer, numbers: list[int]) -> None:
    """Evidence of a run that did not sync becomes lasting, where this one does."""
    if not numbers or not transfer.landing.settles():
        return
    transfer.landing.sync()
    for number in numbers:
        segment = transfer.wanted.manifest.load(transfer.wanted.manifest.refs[number].digest)
        receipt = transfer.evidence.receipt(segment)
        if receipt is not None:
            transfer.evidence.record(replace(receipt, boot=""))


def _differs(where: str, clashes: list[bytes], count: int) -> Exists:
    also = f" (and {count - 1} more)" if count > 1 else ""
    return Exists(
        f"{where}/{names.show(clashes[0])} holds something else{also}",
        code="target-differs",
        store=where,
        keys=[names.show(k) for k in clashes],
        count=count,
        remedy="nothing was changed; choose another target, or save and remove what lies there",
    )
