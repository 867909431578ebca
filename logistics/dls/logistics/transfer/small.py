"""Small files on their way: fetched in batches, hashed, checked, put, each answered by a value."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from dls.logistics import digest as digests
from dls.logistics.errors import Denied, DlsError
from dls.logistics.segment import Segment
from dls.logistics.store import Batched, Done, Got, Item, Store, Want
from dls.logistics.transfer.listing import moving
from dls.logistics.transfer.parts import differs
from dls.logistics.transfer.progress import Progress
from dls.logistics.transfer.threads import ending, together

FATAL = frozenset(
    {
        "disk-full",
        "read-only",
        "service-down",
        "service-hangs",
        "wrong-credentials",
        "no-bucket",
        "stalled",
        "closed",
        "no-state",
        "state-damaged",
    }
)
"""Codes after which asking for the next file is pointless."""

RETRY_S = 0.3
_AT_ONCE = 64  # files of a batch,
_AT_ONCE_BYTES = 4 << 20  # and bytes: beyond these a batch ends
_SHOWN_EVERY = 16  # files, so that a bar moves and a lock is not taken for each


@dataclass(slots=True)
class Failures:
    """Which files could not be brought, and why; the first thousand are kept."""

    count: int = 0
    shown: list[tuple[bytes, DlsError]] = field(default_factory=list)

    def add(self, key: bytes, error: DlsError) -> None:
        """One more."""
        self.count += 1
        if len(self.shown) < 1000:
            self.shown.append((key, error))


def passes(error: DlsError) -> bool:
    """Whether trying once more may help."""
    return error.retryable or error.code == "content-differs"


def batched(source: Store, target: Store | None) -> bool:
    """Whether many files are brought in one call."""
    return all(one is None or (isinstance(one, Batched) and one.batches()) for one in (source, target))


def cut(segment: Segment, todo: Sequence[int], files: int, size: int) -> Iterator[Sequence[int]]:
    """A list of ordinals in pieces, each ended by so many files, or by the one with which it has so many bytes."""
    piece, filled = list[int](), 0
    for i in todo:
        piece.append(i)
        filled += segment.sizes[i]
        if len(piece) == files or filled >= size:
            yield piece
            piece, filled = [], 0
    if piece:
        yield piece


class Others(Protocol):
    """Those who take a part of the work (`dls.logistics.transfer.sharing`)."""

    def share(self, small: Small, todo: Sequence[int]) -> Sequence[int]:
        """Bring files together; those that are still to do are returned."""
        ...


@dataclass(slots=True)
class Small:
    """Brings small files of one segment from `source` to `target`; `target` None only hashes them."""

    source: Store
    target: Store | None
    segment: Segment
    progress: Progress
    alive: Callable[[], None]
    placed: Callable[[int, bytes, bytes], None] | None = None
    """Told of each file as it is placed: ordinal, digest, stamp at the target."""
    helpers: Others | None = None
    digests: dict[int, bytes] = field(default_factory=dict)
    stamps: dict[int, bytes] = field(default_factory=dict)
    """Of what was put (b'' where only hashed): these are done."""
    errors: dict[int, DlsError] = field(default_factory=dict)

    def run(self, ordinals: Sequence[int], retries: int = 1) -> None:
        """Bring them; what fails in a way that may pass is tried again.  A fatal error is raised."""
        self._once(ordinals)
        for attempt in range(1, retries + 1):
            todo = [i for i in ordinals if i in self.errors and passes(self.errors[i])]
            if not todo:
                return
            time.sleep(RETRY_S * attempt)
            for i in todo:
                del self.errors[i]
            self._once(todo)

    def _once(self, todo: Sequence[int]) -> None:
        if self.helpers is not None:
            todo = self.helpers.share(self, todo)
        if todo:
            self.alone(todo)

    def brought(
        self, ordinals: Sequence[int], done: Sequence[int], digests: Sequence[bytes], stamps: Sequence[bytes]
    ) -> None:
        """Somebody else brought some of these: which, by their place among the ordinals; digests and stamps of each."""
        sizes, size = self.segment.sizes, 0
        for n, digest, stamp in zip(done, digests, stamps, strict=True):
            i = ordinals[n]
            self.digests[i] = digest
            if self.placed is not None:
                self.placed(i, digest, stamp)
            self.stamps[i] = stamp
            size += sizes[i]
        self.progress.requests += len(ordinals)
        self.progress.settled(len(done), size)

    def in_batches(self, todo: Sequence[int], threads: int) -> Sequence[int]:
        """Bring many in one call each, where `batched` says so, by several threads: most of it is outside of Python.
        Those that could not be brought so are returned: `alone` does them, or tells why it cannot."""
        batches = deque(cut(self.segment, todo, _AT_ONCE, _AT_ONCE_BYTES))
        undone, first = list[int](), iter((True,))

        def work(stop: threading.Event) -> None:
            # From both ends, so that they seldom meet in one folder, where the kernel lets in one at a time.
            taken = batches.popleft if next(first, False) else batches.pop
            while not stop.is_set():
                try:
                    batch = taken()
                except IndexError:
                    return
                undone.extend(self._batch(batch))

        together(work, min(threads, len(batches)))
        return sorted(undone)

    def _batch(self, batch: Sequence[int]) -> Sequence[int]:
        """One batch; those that are not done."""
        self.alive()
        segment, source, target = self.segment, self.source, self.target
        paths, sizes, wanted, unknown = segment.paths, segment.sizes, segment.digests, digests.UNKNOWN
        right, bodies, found = list[int](), list[bytes](), list[bytes]()
        assert isinstance(source, Batched)
        for i, body in zip(batch, source.take([paths[i] for i in batch], [sizes[i] for i in batch]), strict=True):
            if body is not None and wanted[32 * i : 32 * i + 32] in (digest := digests.of(body), unknown):
                right.append(i)
                bodies.append(body)
                found.append(digest)
        stamps: Sequence[bytes | None] = [b""] * len(right)
        if target is not None:
            assert isinstance(target, Batched)
            modes, mtimes = [segment.modes[i] for i in right], [segment.mtimes[i] for i in right]
            stamps = target.give([paths[i] for i in right], bodies, modes, mtimes)
        done = size = 0
        for i, digest, stamp in zip(right, found, stamps, strict=True):
            if stamp is not None:
                self.digests[i] = digest
                if self.placed is not None and target is not None:
                    self.placed(i, digest, stamp)
                self.stamps[i] = stamp
                done, size = done + 1, size + sizes[i]
        self.progress.asked(done)
        self.progress.settled(done, size)
        return () if done == len(batch) else [i for i in batch if i not in self.stamps]

    def alone(self, todo: Sequence[int]) -> None:
        """Bring files in this process, once; what fails is in `errors`."""
        paths, sizes = self.segment.paths, self.segment.sizes
        with ending(self.source.fetch([Want(i, paths[i], sizes[i]) for i in todo])) as bodies:
            if self.target is None:
                for item in self._items(bodies):
                    self.stamps[item.i] = b""
                    self.progress.settled(1, sizes[item.i])
                return
            with ending(self.target.put(self._items(bodies))) as answers:
                self._put(answers)

    def _put(self, answers: Iterable[Done]) -> None:
        stamps, sizes, placed = self.stamps, self.segment.sizes, self.placed
        files = size = 0
        try:
            for i, stamp, error in answers:
                if error is not None:
                    self._fail(i, error, target=True)
                    continue
                if placed is not None:
                    placed(i, self.digests[i], stamp)
                stamps[i] = stamp
                files, size = files + 1, size + sizes[i]
                if files == _SHOWN_EVERY:
                    self.progress.settled(files, size)
                    files = size = 0
        finally:
            self.progress.settled(files, size)

    def _items(self, bodies: Iterable[Got]) -> Iterator[Item]:
        segment, progress, alive, found = self.segment, self.progress, self.alive, self.digests
        paths, sizes, modes, mtimes = segment.paths, segment.sizes, segment.modes, segment.mtimes
        wanted, unknown, hashed = segment.digests, digests.UNKNOWN, digests.of
        for i, body, error in bodies:
            alive()
            progress.requests += 1
            progress.ticks += 1
            if error is not None:
                self._fail(i, error)
                continue
            digest, expected = hashed(body), wanted[32 * i : 32 * i + 32]
            if len(body) != sizes[i]:
                self._fail(i, moving(self.source.url, paths[i]))
            elif expected not in (digest, unknown):
                self._fail(i, differs(self.source.url, segment.entry(i)))
            else:
                found[i] = digest
                yield Item(i, paths[i], body, modes[i], mtimes[i])

    def _fail(self, i: int, error: DlsError, *, target: bool = False) -> None:
        if error.code in FATAL or (target and isinstance(error, Denied)):
            raise error
        self.errors[i] = error
