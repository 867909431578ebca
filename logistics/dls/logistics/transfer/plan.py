"""What a transfer would do: pure functions over manifests, receipts and stamps; nothing here touches a store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from dls.logistics import names
from dls.logistics.entry import FILE, FOLDER, LINK, NO_MODE, NO_TIME
from dls.logistics.errors import Unsupported
from dls.logistics.frozen import frozen
from dls.logistics.names import Names
from dls.logistics.segment import Segment
from dls.logistics.store import SMALL, Keeps
from dls.logistics.transfer.inodes import Inodes
from dls.logistics.transfer.receipt import Receipt

SHOWN = 20
"""How many refused names an error lists."""


@dataclass(slots=True)
class Survey:
    """One pass over what is wanted, against what a target can hold."""

    entries: int = 0
    files: int = 0
    size: int = 0
    """Sum of file sizes; further names of a hard-link group count only where the target keeps no hard links."""
    allocated: int = 0
    """Bytes that the target will allocate, by its block size."""
    inodes: int = 0
    """Files, links and folders that the target will make, without its root."""
    largest: int = 0
    lost: dict[str, int] = field(default_factory=dict)
    """What the target does not keep, by word: links, empty folders, modes, times, hard links."""
    refused: list[tuple[bytes, str]] = field(default_factory=list)
    """Names it cannot hold and why; the first twenty."""
    refusals: int = 0

    def check(self, where: str) -> None:
        """Raise Unsupported where a name cannot be held: nothing has moved yet."""
        if not self.refusals:
            return
        (key, why), more = self.refused[0], self.refusals - 1
        also = f" (and {more} more)" if more else ""
        raise Unsupported(
            f"{where} cannot hold the name {names.show(key)}: {why}{also}",
            code="name-not-held",
            store=where,
            keys=[names.show(k) for k, _ in self.refused],
            count=self.refusals,
            remedy="rename it at the source, pack the tree into one image, or choose another storage",
        )

    def losses(self) -> list[str]:
        """`1,204 links`, `modes of 33 files` …, in words."""
        return [f"{count:,} {word}" for word, count in self.lost.items()]

    def to_json(self) -> dict[str, Any]:
        """Counts for a dry run."""
        return {
            "entries": self.entries,
            "files": self.files,
            "bytes": self.size,
            "allocated": self.allocated,
            "inodes": self.inodes,
            "not_kept": dict(self.lost),
            "refused": [{"path": names.show(k), "why": w} for k, w in self.refused],
        }


class Surveyor:
    """The survey of one target, segment by segment."""

    def __init__(self, keeps: Keeps, held: Names, room: int, block: int) -> None:
        self.found = Survey()
        self._keeps, self._held, self._room, self._block = keeps, held, room, block
        self._inodes = Inodes(keeps)

    def add(self, segment: Segment) -> None:
        """One more segment, in order of name."""
        out = self.found
        out.entries += len(segment)
        self._inodes.add(segment)
        out.inodes = self._inodes.count
        out.files += segment.kinds.count(FILE)
        _sizes(out, segment, self._keeps, self._block)
        _lost(out, segment, self._keeps)
        _refused(out, segment, self._keeps, self._held, self._room)


def survey(segments: Iterable[Segment], keeps: Keeps, held: Names, room: int, block: int) -> Survey:
    """Count what is wanted and what the target would lose or refuse; `room` bytes are taken by its root, `block` bytes
    are its grain."""
    surveyor = Surveyor(keeps, held, room, block)
    for segment in segments:
        surveyor.add(segment)
    return surveyor.found


def _refused(out: Survey, segment: Segment, keeps: Keeps, held: Names, room: int) -> None:
    longest = max(map(len, segment.paths), default=0)
    shortest_limit = min(held.part_bytes or longest, (held.key_bytes or longest + room) - room)
    if longest <= shortest_limit and not held.utf8 and not held.forbidden and held.dots:
        return  # only lengths are limited here, and none comes near
    for i, path in enumerate(segment.paths):
        if segment.kinds[i] not in keeps.kinds:
            continue
        why = held.refuses(path, room)
        if why:
            out.refusals += 1
            if len(out.refused) < SHOWN:
                out.refused.append((path, why))


def _sizes(out: Survey, segment: Segment, keeps: Keeps, block: int) -> None:
    sizes: Sequence[int] = segment.sizes
    if keeps.hardlinks and segment.targets:
        sizes = [0 if i in segment.targets else size for i, size in enumerate(segment.sizes)]
    out.size += sum(sizes)
    out.largest = max(out.largest, max(sizes, default=0))
    out.allocated += sum(sizes) if block == 1 else sum(-(-size // block) for size in sizes) * block


def _lost(out: Survey, segment: Segment, keeps: Keeps) -> None:
    lost = out.lost

    def count(word: str, number: int) -> None:
        if number:
            lost[word] = lost.get(word, 0) + number

    kinds = segment.kinds
    if LINK not in keeps.kinds:
        count("links", kinds.count(LINK))
    if FOLDER not in keeps.kinds:
        count("folders (empty, or with a mode of their own)", kinds.count(FOLDER))
    if not keeps.hardlinks:
        count("hard links (copied as files)", sum(1 for i in segment.targets if kinds[i] == FILE))
    if not keeps.modes:
        count("modes", len(segment) - segment.modes.count(NO_MODE))
    if not keeps.mtimes:
        count("times", len(segment) - segment.mtimes.count(NO_TIME))


@frozen
class Copies:
    """What one segment still needs.  Ordinals are ascending."""

    keep: frozenset[int] | None
    """Proven by a receipt; None means all of them."""
    check: list[int]
    """Something lies at the name without proof: hash it before anything is fetched."""
    absent: list[int]
    """Nothing of the right size lies there: fetch."""

    @property
    def nothing(self) -> bool:
        """Whether the segment is up to date."""
        return self.keep is None


def plan_segment(
    segment: Segment, wanted: Sequence[int], receipt: Receipt | None, now: Sequence[bytes], boot: str
) -> Copies:
    """Decide for one segment, given our receipt for the place, the stamps that the `wanted` ordinals have there now
    (length n, b'' where absent) and this boot.  A stamp proves only with a receipt; size and time alone never do."""
    valid = receipt is not None and receipt.segment == segment.digest and receipt.boot in ("", boot)
    if valid and receipt is not None and receipt.done.complete and list(receipt.stamps) == list(now):
        return Copies(None, [], [])
    keep, check, absent = set[int](), list[int](), list[int]()
    for i in wanted:
        if not now[i]:
            absent.append(i)
        elif valid and receipt is not None and i in receipt.done and receipt.stamps[i] == now[i]:
            keep.add(i)
        else:
            check.append(i)
    return Copies(frozenset(keep), check, absent)


@frozen
class Sorts:
    """The ordinals of one segment by the way they travel."""

    small: list[int]
    """Files up to 1 MiB: whole, in batches."""
    large: list[int]
    """Larger files: by parts."""
    made: list[int]
    """Links, folders and further names of hard-link groups that the target keeps: created, not copied."""
    left: list[int]
    """What the target does not keep; the manifest keeps it."""


def sort(segment: Segment, keeps: Keeps) -> Sorts:
    """Which entries travel how."""
    small, large, made, left = list[int](), list[int](), list[int](), list[int]()
    kinds, sizes, targets = segment.kinds, segment.sizes, segment.targets
    if not targets and FOLDER not in kinds and LINK not in kinds and max(sizes, default=0) <= SMALL:
        return Sorts(list(range(len(segment))), large, made, left)
    for i, kind in enumerate(kinds):
        if kind not in keeps.kinds:
            left.append(i)
        elif kind != FILE or (keeps.hardlinks and i in targets):
            made.append(i)
        elif sizes[i] <= SMALL:
            small.append(i)
        else:
            large.append(i)
    return Sorts(small, large, made, left)
