"""What is created and not copied, once all files are there: links and further names of hard-linked files, then folders.

Folders come last and the deepest first, so that none is closed (mode 0555) while something is still made in it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Sequence
from dataclasses import replace

from dls.logistics.entry import FILE, FOLDER, LINK
from dls.logistics.manifest import Bitmap
from dls.logistics.segment import Segment
from dls.logistics.transfer.plan import sort
from dls.logistics.transfer.receipt import Receipt
from dls.logistics.transfer.transfer import Transfer


def make_rest(transfer: Transfer, numbers: Sequence[int], starts: Sequence[bytes]) -> None:
    """Create what segments `numbers` (ascending) lack; `starts` are the first names of all segments."""
    transfer.progress.phase = "linking"
    at, firsts = transfer.landing.at, dict[int, set[bytes]]()
    for number in numbers:
        segment = _load(transfer, number)
        todo, links = _missing(transfer, segment)
        before = at.stamps([segment.paths[i] for i in links])
        transfer.alive()
        at.make([segment.entry(i) for i in sorted([*links, *(i for i in todo if segment.kinds[i] == LINK)])])
        after = at.stamps([segment.paths[i] for i in links])
        for i, old, new in zip(links, before, after, strict=True):
            if old != new:  # one name more: the file's own stamp changed too
                first = segment.targets[i]
                firsts.setdefault(bisect_right(starts, first) - 1, set()).add(first)
        transfer.progress.settled(sum(1 for i in todo if segment.kinds[i] == FILE), 0)
    for number in reversed(numbers):
        segment = _load(transfer, number)
        if FOLDER in segment.kinds:
            transfer.alive()
            at.make([segment.entry(i) for i in reversed(_missing(transfer, segment)[0]) if segment.kinds[i] == FOLDER])
            transfer.tick()
    if numbers:  # after `bring`, which said that there is something to sync
        transfer.landing.sync()
    for number in sorted({*numbers, *firsts}):
        _restamp(transfer, _load(transfer, number), firsts.get(number, ()))


def _load(transfer: Transfer, number: int) -> Segment:
    return transfer.wanted.manifest.load(transfer.wanted.manifest.refs[number].digest)


def _receipt(transfer: Transfer, segment: Segment) -> Receipt:
    """What is proven of a segment: nothing, where its evidence was dropped meanwhile."""
    return transfer.evidence.receipt(segment) or transfer.evidence.receipt_of(segment, None, (), {})


def _missing(transfer: Transfer, segment: Segment) -> tuple[list[int], list[int]]:
    """What is to be made and is not proven to be; and all further names of hard-linked files: a receipt proves their
    bytes, not that their first name was not replaced since.  Making again what is right changes nothing."""
    made, receipt = sort(segment, transfer.landing.final.keeps).made, _receipt(transfer, segment)
    links = [i for i in made if segment.kinds[i] == FILE]
    now = transfer.landing.at.stamps([segment.paths[i] for i in made])
    proven = {i for i, s in zip(made, now, strict=True) if s and i in receipt.done and receipt.stamps[i] == s}
    return [i for i in made if i not in proven], links


def _restamp(transfer: Transfer, segment: Segment, firsts: Collection[bytes]) -> None:
    """Note the stamps of what was made, and those of the files whose number of names it changed."""
    made = sort(segment, transfer.landing.final.keeps).made
    ordinals = made + [i for i, path in enumerate(segment.paths) if path in firsts] if firsts else made
    receipt = _receipt(transfer, segment)
    done, stamps = Bitmap(len(segment), receipt.done.encode()), list(receipt.stamps)
    now = transfer.landing.at.stamps([segment.paths[i] for i in ordinals])
    for i, stamp in zip(ordinals, now, strict=True):
        if stamp:
            done.add(i)
            stamps[i] = stamp
    boot = "" if transfer.landing.settles() else transfer.evidence.boot
    transfer.evidence.record(replace(receipt, done=done, stamps=stamps, boot=boot))
