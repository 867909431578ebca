"""Jobs on their way from the source into an image: cut, read, known, packed, placed, written, recorded.

Each step is taken in the order of the jobs, so what is decided hangs on the tree alone, never on who was faster.
"""

from __future__ import annotations

import os
import struct
import threading
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, starmap
from typing import Any, Final

from dls.fuse import records, squashfs
from dls.fuse.blocks import ROW, Form, Packed
from dls.fuse.codec import BYTES, PARTS
from dls.fuse.groups import Kept, Tally
from dls.fuse.hands import Hand, Inline, Process, heard
from dls.fuse.index import EXTENT
from dls.fuse.layout import NOWHERE, Layout, Place
from dls.fuse.reading import Description, File, Reader, opened
from dls.fuse.seen import Seen
from dls.fuse.source import Item
from dls.fuse.spool import Spool
from dls.fuse.work import Worker, untold
from dls.logistics import digest as digests
from dls.logistics.entry import FILE, FOLDER, LINK, NO_MODE, NO_TIME, Entry
from dls.logistics.errors import DlsError
from dls.logistics.transfer.progress import Progress

BATCH_FILES: Final = 512
BATCH_BYTES: Final = 4 << 20
STRETCH: Final = digests.BLOCK
"""A file larger than this is packed by stretches of it."""
_AHEAD: Final = 4
"""Jobs under way for each worker."""
_FEW_AHEAD: Final = 16
"""Jobs under way where two to four work: one of them is slower whenever the one who decides takes its processor."""
_BYTES_AHEAD: Final = 6 * STRETCH
"""Bytes under way for two workers: what a job holds is as large as what it read."""
_PLACE = struct.Struct("<QQQIIIII")
_EMPTY = digests.of(b"")


@dataclass(slots=True)
class _Job:
    """Items that go on together, and what is known of them."""

    number: int
    items: list[Item]
    files: list[File]
    hand: Any = None
    digests: bytes | None = None
    known: list[int] = field(default_factory=list)
    """For each file: the number of its content."""
    places: list[Place] = field(default_factory=list)
    """Of the contents that this job brings, in order."""
    fresh: bytes = b""
    """For each file: whether this job brings its content."""
    packed: Packed | None = None
    block: bytes = b""
    """Digest of a stretch."""
    written: bool = False
    large: _Large | None = None
    """The file that this is a stretch of."""

    @property
    def size(self) -> int:
        """Bytes that it reads."""
        return sum((file.stop if file.stop >= 0 else file.size) - file.start for file in self.files)


@dataclass(slots=True)
class _Large:
    """A file that comes by stretches."""

    item: Item
    whole: _Whole
    place: Place = NOWHERE
    blocks: bytes = b""
    left: int = 0
    """Stretches not recorded yet."""


class _Whole(threading.Thread):
    """Hashes a large file beside those who compress its stretches; the bytes come from the kernel's cache."""

    def __init__(self, reader: Reader, file: File) -> None:
        super().__init__(name="image-pack-hash", daemon=True)
        self._reader, self._file = reader, file
        self.digest = b""
        self.error: DlsError | None = None
        self.start()

    def run(self) -> None:
        hasher = digests.Hasher(0)
        try:
            for body in self._reader.stretch(self._file._replace(stop=self._file.size)):
                hasher.update(body)
            self.digest = hasher.digest()
        except DlsError as error:
            self.error = error

    def wait(self) -> bytes:
        """The digest."""
        self.join()
        if self.error is not None:
            raise self.error
        return self.digest


class Road:
    """Packs items; `entries` walks all the way."""

    def __init__(
        self, reader: Description, layout: Layout, hands: Sequence[Hand], blocks: Spool, spools: Callable[[], Spool], *,
        form: Form, duplicates: bool, progress: Progress, alive: Callable[[], None],
    ) -> None:  # fmt: skip
        self._reader, self._layout, self._hands, self._blocks = reader, layout, hands, blocks
        self._form, self._duplicates, self._progress, self._alive = form, duplicates, progress, alive
        self.twice = 0
        """Files whose content was there already."""
        self._seen, self._places = Seen(spools()), spools()
        self._jobs: deque[_Job] = deque()
        self._under_way: dict[int, _Job] = {}
        self._to_know: deque[_Job] = deque()
        self._to_place: deque[_Job] = deque()
        self._load = dict.fromkeys(map(id, hands), 0)
        self._number = self._held = 0
        self.at = max(form.align, squashfs.SUPER.size)
        """Where the next block goes."""
        self.count = 0
        """Blocks so far."""
        self._met, self._group_entries = Tally(), Kept(spools())
        """Of groups by number: whether one was cut already; digest and blocks, once it is done."""
        self._large_sizes: set[int] = set()
        self._large: dict[bytes, tuple[Place, bytes]] = {}

    def entries(self, items: Iterator[Item]) -> Iterator[list[Entry]]:
        """Pack the items; the entries of the manifest, in order, a few hundred at a time, as they are done."""
        count = len(self._hands)
        most, size = max(_AHEAD * count, min(_FEW_AHEAD, 2 * _AHEAD * count)), _BYTES_AHEAD * count // 2
        for job in self._cut(items):
            if job is None:
                yield from self._until(0, 0)
                continue
            self._start(job)
            yield from self._until(most, size)
        yield from self._until(0, 0)

    # ------------------------------------------------------------------------------------------- cutting

    def _cut(self, items: Iterator[Item]) -> Iterator[_Job | None]:
        """Jobs, whose borders hang on the items alone; None: what was given must be done before the next is made."""
        some: list[Item] = []
        files: list[File] = []
        size, new = 0, tuple.__new__
        for item in items:
            path, mode, _, _, mtime_ns, bytes_, group, _, _, _, _, _ = item
            if mode >> 12 != 8:
                bytes_ = 0
            elif bytes_ and group is not None:
                if self._met[group[1]]:
                    bytes_ = 0
                self._met[group[1]] = 1
            if bytes_ > STRETCH:
                if some:
                    yield self._job(some, files)
                    some, files, size = [], [], 0
                yield from self._stretches(item)
                continue
            some.append(item)
            if bytes_:
                files.append(new(File, (path, bytes_, mtime_ns, 0, -1)))
                size += bytes_
            if len(some) >= BATCH_FILES or size >= BATCH_BYTES:
                yield self._job(some, files)
                some, files, size = [], [], 0
        if some:
            yield self._job(some, files)

    def _job(self, items: list[Item], files: list[File]) -> _Job:
        self._number += 1
        return _Job(self._number, items, files)

    def _stretches(self, item: Item) -> Iterator[_Job | None]:
        file = File(item.path, item.size, item.mtime_ns)
        large = _Large(item, _Whole(opened(self._reader), file))
        if self._duplicates and item.size in self._large_sizes:
            yield None
            if (known := self._large.get(large.whole.wait())) is not None:
                large.place, large.blocks = known
                large.left = 1
                self.twice += 1
                job = self._job([item], [])
                job.large = large
                yield job
                return
        self._large_sizes.add(item.size)
        starts = range(0, item.size, STRETCH)
        large.left = len(starts)
        for start in starts:
            job = self._job([], [file._replace(start=start, stop=min(item.size, start + STRETCH))])
            job.large = large
            yield job

    # -------------------------------------------------------------------------------------------- moving

    def _start(self, job: _Job) -> None:
        self._jobs.append(job)
        if not job.files:
            job.written = True
            return
        hand = job.hand = min(self._hands, key=lambda one: self._load[id(one)])
        self._load[id(hand)] += 1
        self._under_way[job.number] = job
        self._held += job.size
        self._to_know.append(job)
        self._to_place.append(job)
        hand.send("read", job.number, list(map(tuple, job.files)))

    def _until(self, most: int, size: int) -> Iterator[list[Entry]]:
        """Go on until at most `most` jobs with at most `size` bytes are under way; the entries of the done."""
        while True:
            while self._jobs and self._jobs[0].written:
                yield self._done(self._jobs.popleft())
            if len(self._under_way) <= most and self._held <= size:
                return
            self._alive()
            for verb, number, found in heard(self._hands):
                if verb == "error":
                    raise untold(found)
                if verb == "failed":
                    raise OSError(found, os.strerror(found))
                self._take(verb, self._under_way[number], found)

    def _take(self, verb: str, job: _Job, found: Any) -> None:
        if verb == "read":
            job.digests = found
            while self._to_know and self._to_know[0].digests is not None:
                self._know(self._to_know.popleft())
        elif verb == "pack":
            packed, job.block = found
            job.packed = Packed(*packed)
            while self._to_place and self._to_place[0].packed is not None:
                self._place(self._to_place.popleft())
        else:
            job.written = True
            self._load[id(job.hand)] -= 1
            del self._under_way[job.number]
            self._held -= job.size

    def _know(self, job: _Job) -> None:
        """Digests are there: which contents are new?"""
        if job.large is None:
            found = job.digests or b""
            if self._duplicates:
                job.known, job.fresh = self._seen.numbers(found)
            else:
                job.known, job.fresh = self._seen.new(len(found) // 32), b"\1" * (len(found) // 32)
        job.hand.send("pack", job.number, job.fresh)

    def _place(self, job: _Job) -> None:
        """Stored sizes are there: say where the blocks lie."""
        packed = job.packed
        assert packed is not None
        start, at, base = self.at, self.at, self.count
        sizes, sums, shared = array("I", packed.stored), array("I", packed.sums), array("I", packed.shared)
        pad = self._form.align - 1
        starts = list(accumulate([(stored & BYTES) + (-stored & pad) for stored in sizes], initial=at))
        at = starts.pop()
        self._blocks.add(b"".join(map(EXTENT.pack, starts, sizes, sums)))
        self.at, self.count = at, base + len(sizes)
        job.hand.send("write", job.number, start)
        if job.large is not None:
            large, size = job.large, job.files[0].stop - job.files[0].start
            if not job.files[0].start:
                large.place = NOWHERE._replace(start=start, first=base)
            holes = self._holes(sizes, size)
            large.place = large.place._replace(holes=large.place.holes + holes, own=large.place.own + len(sizes))
            large.blocks += job.block
            return
        fragments = {n: self._layout.tables.fragment(starts[n], sizes[n] & ~PARTS) for n in shared}
        none, no_tail, new, add = squashfs.NONE, records.NO_TAIL, tuple.__new__, job.places.append
        for number, own, offset, inside, check, holes in ROW.iter_unpack(packed.files):
            if own:
                add(new(Place, (starts[number], base + number, holes, none, no_tail, 0, 0, own)))
            else:
                add(new(Place, (0, check, 0, fragments[number], base + number, offset, inside, 0)))
        if self._duplicates:
            self._places.add(b"".join(starmap(_PLACE.pack, job.places)))

    def _holes(self, stored: Sequence[int], size: int) -> int:
        """Bytes that are not stored."""
        block = self._form.block
        return sum(min(block, size - i * block) for i, one in enumerate(stored) if not one)

    # ------------------------------------------------------------------------------------------ recorded

    def _done(self, job: _Job) -> list[Entry]:
        if job.large is not None:
            large = job.large
            large.left -= 1
            self._progress.moved(job.size)
            return [] if large.left else [self._large_done(large)]
        number, files, size, out = 0, 0, 0, list[Entry]()
        found, places, fresh, new = job.digests or b"", iter(job.places), job.fresh, tuple.__new__
        ready = list[tuple[Item, Place]]()
        """What the layout gets at once: files with one name and a content of their own, as most are."""
        for item in job.items:
            path, mode, _, _, mtime_ns, bytes_, group, _, _, _, _, _ = item
            if mode >> 12 == 8:
                files, size = files + 1, size + bytes_
                if group is None and bytes_ and fresh[number]:
                    ready.append((item, next(places)))
                    digest = found[32 * number : 32 * number + 32]
                    number += 1
                    out.append(new(Entry, (path, FILE, bytes_, digest, mode & 0o7777, mtime_ns, b"", b"")))
                    continue
            self._layout.extend(ready)
            ready.clear()
            if mode >> 12 != 8:
                if (entry := self._other(item)) is not None:
                    out.append(entry)
                continue
            place, digest, blocks = NOWHERE, _EMPTY, b""
            if group is not None and (known := self._group_entries.get(group[1])) is not None:
                digest, blocks = known
            elif bytes_:
                place = next(places) if fresh[number] else self._again(job.known[number])
                digest = found[32 * number : 32 * number + 32]
                number += 1
            out.append(self._file(item, place, digest, blocks))
        self._layout.extend(ready)
        self._progress.settled(files, size)
        return out

    def _again(self, number: int) -> Place:
        """Where the content lies that has this number and was met before."""
        self.twice += 1
        return Place(*_PLACE.unpack(self._places.at(number * _PLACE.size, _PLACE.size)))

    def _file(self, item: Item, place: Place, digest: bytes, blocks: bytes) -> Entry:
        first = self._layout.add(item, place)
        if item.group is not None and not first:
            self._group_entries.put(item.group[1], (digest, blocks))
        return Entry(item.path, FILE, item.size, digest, item.mode & 0o7777, item.mtime_ns, first, blocks)

    def _large_done(self, large: _Large) -> Entry:
        digest, item = large.whole.wait(), large.item
        self._large[digest] = large.place, large.blocks
        self._progress.settled(1, 0)
        return self._file(item, large.place, digest, large.blocks if item.size > digests.BIG else b"")

    def _other(self, item: Item) -> Entry | None:
        self._layout.add(item)
        path, kind, mode = item.path, item.mode >> 12, item.mode & 0o7777
        if kind == 4 and path and item.empty:
            return Entry(path, FOLDER, 0, digests.UNKNOWN, mode, item.mtime_ns)
        if kind == 4 and path and mode != 0o755:
            return Entry(path, FOLDER, 0, digests.UNKNOWN, mode, NO_TIME)
        if kind == 10:
            return Entry(path, LINK, 0, digests.UNKNOWN, NO_MODE, item.mtime_ns, item.text)
        return None


def hands_for(count: int, reader: Description, fd: int, form: Form) -> Sequence[Hand]:
    """So many processes; 0: this one."""
    if not count:
        return [Inline(Worker(opened(reader), fd, form))]
    return [Process(reader, fd, form) for _ in range(count)]
