"""What a tree has that another has not: a join of two streams in the order of manifests, settled by digests.

What differs in a kind, a size, an attribute or a time differs; of what does not, the bytes are hashed, and the digest
decides.  Nothing is held but open folders, hard-link groups, and a few files on their way; what differs goes to
spools.  A hard-link group is in a layer with all of its names or with none, so that it is one node there.
"""

from __future__ import annotations

import marshal
import struct
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from dls.fuse import whiteout
from dls.fuse.hashing import Hashing
from dls.fuse.origin import Origin
from dls.fuse.pairs import Theirs, joined
from dls.fuse.reading import File
from dls.fuse.source import Group, Item
from dls.fuse.spool import Spool
from dls.logistics.transfer.progress import Progress

BATCH_FILES: Final = 512
BATCH_BYTES: Final = 4 << 20
_EVENTS: Final = 4096
_ROW = struct.Struct("<QI")


@dataclass(slots=True)
class Counts:
    """What a comparison found."""

    added: int = 0
    changed: int = 0
    deleted: int = 0
    """Names that are gone, not counting what was inside."""
    same: int = 0


@dataclass(slots=True, eq=False)
class _Frame:
    """A folder that both streams may be inside of."""

    place: int
    """In the joined stream."""
    item: Item
    prefix: bytes
    above: _Frame | None
    below: bool
    """Whether the tree below has it too, as a folder."""
    kept: bool
    """Whether it is in the layer."""
    filled: bool = False
    """Whether something in it is."""
    leans: bool = False
    """Whether something in it is left to the tree below."""
    gone: list[tuple[int, bytes]] = field(default_factory=list)


@dataclass(slots=True)
class _Names:
    """The names of one inode, as far as they were met."""

    nodes: set[Any] = field(default_factory=set)
    """Inodes of the tree below that they are names of."""
    links: int = 0
    same: int = 0
    differ: int = 0


class _Event(NamedTuple):
    """Something that is decided in order: a file to hash, a name that differs, a folder that is over."""

    place: int
    item: Item
    frame: _Frame
    digest: bytes | None = None
    """What a file should have; None: nothing is hashed."""
    over: bool = False


class Differences:
    """The items of a layer, in order, once `run` has compared everything."""

    def __init__(self, spools: Callable[[], Spool], whole: frozenset[Group] = frozenset()) -> None:
        self.counts = Counts()
        self._whole = whole
        """Hard-link groups that go into the layer, whatever is found."""
        self._rows, self._late = spools(), spools()
        self._late_places, self._late_at = array("Q"), array("Q")
        self.borrowed: set[bytes] = set()
        """Names that are in the layer with the bytes that they have below."""
        self._groups: dict[Group, _Names] = {}
        self._stack: list[_Frame] = []
        self._pending: dict[bytes, _Frame] = {}
        self._events: list[_Event] = []
        self._files, self._bytes = 0, 0

    # --------------------------------------------------------------------------------------------- joining

    def run(
        self, mine: Iterator[Item], theirs: Iterator[Theirs], origin: Origin, where: str, *, keeps: Keeps,
        workers: int, progress: Progress, alive: Callable[[], None],
    ) -> None:  # fmt: skip
        """Compare; `keeps` says of a name that only the tree below has whether it stays."""
        hashing = Hashing[_Event](origin, workers)
        try:
            for place, (one, other) in enumerate(joined(mine, theirs)):
                kept = one is None and other is not None and keeps(other.item)
                if kept and other is not None:
                    one = _of_below(other.item)
                self._step(place, one, other, where, kept=kept)
                if self._files >= BATCH_FILES or self._bytes >= BATCH_BYTES or len(self._events) >= _EVENTS:
                    alive()
                    self._settle(hashing.swap(*self._batch()), progress)
            while self._stack:
                self._close()
            assert not self._pending, list(self._pending)[:3]
            for found in (hashing.swap(*self._batch()), *hashing.rest()):
                self._settle(found, progress)
        finally:
            hashing.close()

    def _step(self, place: int, one: Item | None, other: Theirs | None, where: str, *, kept: bool) -> None:
        path = one.path if one is not None else other.item.path  # type: ignore[union-attr]
        above = self._above(path) if path else None
        if path and above is None:
            return  # inside of something that is gone or no folder any more
        if one is None:
            assert above is not None
            above.gone.append((place, path))
            return
        if not kept:
            whiteout.check(one, where)
        below = other.item if other is not None else None
        if one.mode >> 12 == 4:
            self._begun(place, one, below, above)
        else:
            assert above is not None
            self._other(place, one, other, above, kept)

    def _begun(self, place: int, item: Item, below: Item | None, above: _Frame | None) -> None:
        both = below is not None and below.mode >> 12 == 4
        kept = above is None or not both or _differ(item, below)
        frame = _Frame(place, item, item.path + b"/" if item.path else b"", above, both, kept)
        if above is None:
            self._stack.append(frame)
        elif item.empty and not (both and below is not None and not below.empty):
            self._events.append(_Event(place, item, frame, over=True))
        else:
            self._pending[frame.prefix] = frame

    def _other(self, place: int, item: Item, other: Theirs | None, frame: _Frame, kept: bool) -> None:
        group = self._groups.setdefault(item.group, _Names()) if item.group is not None else None
        if other is None or _differ(item, other.item) or item.group in self._whole:
            if other is None:
                self.counts.added += 1
            else:
                self.counts.changed += 1
            if group is not None:
                group.differ += 1
            if kept:
                self.borrowed.add(item.path)
            self._events.append(_Event(place, item, frame))
            return
        if group is not None:
            group.nodes.add(other.item.group or item.path)
            group.links = other.item.nlink
        if kept or item.mode >> 12 != 8 or not item.size:
            self._same(item, frame)
            return
        self._files += 1
        self._bytes += item.size
        self._events.append(_Event(place, item, frame, other.digest))

    def _same(self, item: Item, frame: _Frame) -> None:
        frame.leans = True
        self.counts.same += 1
        if item.group in self._groups:
            self._groups[item.group].same += 1

    def _above(self, path: bytes) -> _Frame | None:
        """The folder of a path; those that are over are closed."""
        stack, prefix = self._stack, path[: path.rfind(b"/") + 1]
        while stack[-1].prefix != prefix:
            if prefix.startswith(stack[-1].prefix):
                frame = self._pending.pop(prefix, None)
                if frame is not None:
                    stack.append(frame)
                return frame
            self._close()
        return stack[-1]

    def _close(self) -> None:
        frame = self._stack.pop()
        self._events.append(_Event(frame.place, frame.item, frame, over=True))

    # -------------------------------------------------------------------------------------------- settling

    def _batch(self) -> tuple[list[_Event], list[File]]:
        events, self._events = self._events, []
        self._files = self._bytes = 0
        return events, [File(e.item.path, e.item.size, e.item.mtime_ns) for e in events if e.digest is not None]

    def _settle(self, batch: tuple[list[_Event], list[bytes]], progress: Progress) -> None:
        events, found = batch
        digest_of, files, size = iter(found), 0, 0
        for event in events:
            item, frame = event.item, event.frame
            if event.over:
                self._over(frame)
                continue
            if event.digest is not None:
                if next(digest_of) == event.digest:
                    files, size = files + 1, size + item.size
                    self._same(item, frame)
                    continue
                self.counts.changed += 1
                if item.group in self._groups:
                    self._groups[item.group].differ += 1
            frame.filled = frame.kept = True
            data = marshal.dumps(tuple(item))
            self._rows.add(_ROW.pack(event.place, len(data)) + data)
        progress.settled(files, size, kept=True)

    def _over(self, frame: _Frame) -> None:
        """All in a folder is known: is it in the layer, and what does it hide?"""
        item, above = frame.item, frame.above
        if frame.gone:
            self.counts.deleted += len(frame.gone)
            frame.kept = True
            if frame.below and not frame.leans and above is not None:
                item = whiteout.opaque(item)
            else:
                frame.filled = True
                for place, path in frame.gone:
                    self._add_late(place, whiteout.item(path))
        if frame.kept:
            self._add_late(frame.place, item._replace(empty=not frame.filled))
        if above is not None:
            above.leans = above.leans or (frame.below and (frame.leans or not frame.kept))
            if frame.kept:
                above.filled = above.kept = True

    def _add_late(self, place: int, item: Item) -> None:
        self._late_places.append(place)
        self._late_at.append(len(self._late))
        data = marshal.dumps(tuple(item))
        self._late.add(len(data).to_bytes(4, "little") + data)

    # --------------------------------------------------------------------------------------------- results

    def broken(self) -> frozenset[Group]:
        """Hard-link groups of which a part would be in the layer and a part not."""
        return frozenset(
            group
            for group, names in self._groups.items()
            if names.same and (names.differ or len(names.nodes) != 1 or names.links != names.same)
        )

    def items(self) -> Iterator[Item]:
        """What differs, in order."""
        places = self._late_places
        order = sorted(range(len(places)), key=places.__getitem__)
        next_, count = 0, len(order)
        for place, data in _rows(self._rows):
            while next_ < count and places[order[next_]] < place:
                yield self._late_item(order[next_])
                next_ += 1
            yield _item(data)
        for one in order[next_:]:
            yield self._late_item(one)

    def _late_item(self, number: int) -> Item:
        at = self._late_at[number]
        return _item(self._late.at(at + 4, int.from_bytes(self._late.at(at, 4), "little")))


def _item(data: bytes) -> Item:
    return Item(*marshal.loads(data))  # noqa: S302 - written by this process


Keeps = Callable[[Item], bool]


def _rows(spool: Spool) -> Iterator[tuple[int, bytes]]:
    rest = b""
    for chunk in spool:
        data, at = rest + chunk, 0
        while at + _ROW.size <= len(data):
            place, size = _ROW.unpack_from(data, at)
            if at + _ROW.size + size > len(data):
                break
            yield place, data[at + _ROW.size : at + _ROW.size + size]
            at += _ROW.size + size
        rest = data[at:]


def _differ(one: Item, other: Item | None) -> bool:
    """Whether two names of one path differ before a byte is read."""
    assert other is not None
    return (
        one.mode != other.mode
        or one.mtime_ns != other.mtime_ns
        or one.uid != other.uid
        or one.gid != other.gid
        or one.size != other.size
        or one.text != other.text
        or one.device != other.device
        or one.xattrs != other.xattrs
        or (one.group is None and other.group is not None)
    )


def _of_below(item: Item) -> Item:
    """An item that stays as it is below; its hard-link group is none of the source."""
    return item._replace(group=(-1, item.group[1])) if item.group is not None else item
