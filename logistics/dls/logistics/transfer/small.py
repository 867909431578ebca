"""Small files on their way: fetched in batches, hashed, checked, put, each answered by a value."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from dls.logistics import digest as digests
from dls.logistics.errors import Denied, DlsError
from dls.logistics.segment import Segment
from dls.logistics.store import Done, Got, Item, Store, Want
from dls.logistics.transfer.listing import moving
from dls.logistics.transfer.parts import differs
from dls.logistics.transfer.progress import Progress
from dls.logistics.transfer.threads import ending

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
