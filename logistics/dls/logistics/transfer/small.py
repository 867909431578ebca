"""Small files on their way: fetched in batches, hashed, checked, put, each answered by a value."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from dls.logistics import digest as digests
from dls.logistics.errors import DlsError
from dls.logistics.segment import Segment
from dls.logistics.store import Item, Store, Want
from dls.logistics.transfer.parts import differs
from dls.logistics.transfer.progress import Progress

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


@dataclass(slots=True)
class Small:
    """Brings small files of one segment from `source` to `target`; `target` None only hashes them."""

    source: Store
    target: Store | None
    segment: Segment
    progress: Progress
    alive: Callable[[], None]
    placed: Callable[[int, bytes, bytes], None] = lambda i, digest, stamp: None
    """Told of each file as it is placed: ordinal, digest, stamp at the target."""
    digests: dict[int, bytes] = field(default_factory=dict)
    stamps: dict[int, bytes] = field(default_factory=dict)
    errors: dict[int, DlsError] = field(default_factory=dict)

    def run(self, ordinals: Sequence[int], retries: int = 1) -> None:
        """Bring them; what fails in a way that may pass is tried once more.  A fatal error is raised."""
        todo = list(ordinals)
        for attempt in range(retries + 1):
            if attempt:
                todo = [i for i in todo if i in self.errors and self._again(self.errors[i])]
                if not todo:
                    return
                time.sleep(RETRY_S * attempt)
                for i in todo:
                    del self.errors[i]
            self._once(todo)

    @staticmethod
    def _again(error: DlsError) -> bool:
        return error.retryable or error.code == "content-differs"

    def _once(self, todo: list[int]) -> None:
        if self.target is None:
            for item in self._bodies(todo):
                self._settle(item.i, b"")
            return
        for done in self.target.put(self._bodies(todo)):
            self.alive()
            if done.error is not None:
                self._fail(done.i, done.error)
            else:
                self.placed(done.i, self.digests[done.i], done.stamp)
                self._settle(done.i, done.stamp)

    def _bodies(self, todo: list[int]) -> Iterator[Item]:
        segment, progress = self.segment, self.progress
        paths, sizes, wanted, unknown = segment.paths, segment.sizes, segment.digests, digests.UNKNOWN
        hashed = digests.of
        for i, body, error in self.source.fetch([Want(i, paths[i], sizes[i]) for i in todo]):
            self.alive()
            progress.requests += 1
            progress.ticks += 1
            if error is not None:
                self._fail(i, error)
                continue
            found, expected = hashed(body), wanted[32 * i : 32 * i + 32]
            if len(body) != sizes[i] or (expected not in (unknown, found)):
                self._fail(i, differs(self.source.url, segment.entry(i)))
                continue
            self.digests[i] = found
            yield Item(i, paths[i], body, segment.modes[i], segment.mtimes[i])

    def _settle(self, i: int, stamp: bytes) -> None:
        self.stamps[i] = stamp
        progress = self.progress
        progress.files += 1
        progress.bytes += self.segment.sizes[i]
        progress.ticks += 1

    def _fail(self, i: int, error: DlsError) -> None:
        if error.code in FATAL:
            raise error
        self.errors[i] = error


def proven(
    store: Store, segment: Segment, ordinals: Sequence[int], expected: dict[int, bytes], tick: Callable[[], None]
) -> set[int]:
    """Which small files that lie at `store` have the expected digests: read where they lie, hashed, compared."""
    good = set[int]()
    wants = [Want(i, segment.paths[i], segment.sizes[i]) for i in ordinals]
    for i, body, error in store.fetch(wants):
        tick()
        if error is None and digests.of(body) == expected[i]:
            good.add(i)
        elif error is not None and error.code in FATAL:
            raise error
    return good


def proven_large(store: Store, segment: Segment, i: int, expected: bytes, tick: Callable[[], None]) -> bool:
    """Whether the large file that lies at `store` has the expected digest."""
    hasher = digests.Hasher(0)
    try:
        for chunk in store.read(segment.paths[i]):
            hasher.update(chunk)
            tick()
            if hasher.length > segment.sizes[i]:
                return False
    except DlsError as exc:
        if exc.code in FATAL:
            raise
        return False
    return hasher.length == segment.sizes[i] and hasher.digest() == expected
