"""One transfer under way: what its parts share."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Final

from dls.logistics.errors import Unavailable
from dls.logistics.frozen import frozen
from dls.logistics.store import Store
from dls.logistics.transfer.evidence import Evidence
from dls.logistics.transfer.landing import Landing, Mode
from dls.logistics.transfer.listing import Wanted
from dls.logistics.transfer.log import Logs
from dls.logistics.transfer.progress import Progress
from dls.logistics.transfer.receipt import Place, Receipt, Receipts
from dls.logistics.transfer.sharing import Helpers
from dls.logistics.transfer.threads import Ahead

_OUTSTANDING: Final = 8
"""Segments at most that are brought and not recorded: a megabyte each, and what a power cut costs."""


def _go_on() -> None:
    """Nobody says stop."""


@frozen
class Options:
    """How a transfer runs."""

    streams: int = 4
    """Ranges of large files in flight."""
    durability: str = "power"
    """`power`: synced before any fact is recorded; `process`: survives the end of the process only."""
    stall_s: float = 120.0
    """Silence that counts as hanging, seconds."""
    settle_s: float = 1.0
    """Segments are synced and recorded together, not sooner than so many seconds after those before; 0: each alone."""
    retries: int = 1
    """How often a file that failed in a way that may pass is tried again."""
    replace: Collection[bytes] = ()
    """Names at the target that may be replaced although they hold something else."""
    fence: Callable[[], None] = _go_on
    """Asked often, from any thread, and before anything is published or recorded: raises `Stop` where the right to go
    on is lost."""
    processes: int = 0
    """At most so many at work on small files where source and target allow it; 0: as many as there are processors, up
    to four."""


class Transfer:
    """From one source to one place."""

    def __init__(
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
        self.source, self.wanted, self.options, self.progress = source, wanted, options, progress
        final = target.below(root) if root else target
        self.evidence = Evidence(receipts, wanted, final.url, self.alive)
        place: Place = self.evidence.place
        self.landing = Landing(target, root, place.id, power=options.durability == "power", progress=progress)
        self.logs = Logs(logs, place.id)
        # A log saves second fetches where digests are unknown, or where hashing what lies there means reading it back.
        self.logged = not wanted.known or self.landing.mode is Mode.DIRECT
        self.replace = frozenset(options.replace)
        self.ahead = Ahead(self._settle, options.settle_s, _OUTSTANDING if options.settle_s else 1)
        self.helpers = Helpers(source, self.landing.stage, options.processes)
        self._over = False

    def alive(self) -> None:
        """Raise where the transfer was given up, or may not go on."""
        if self._over:
            raise Unavailable("this transfer was given up", code="stalled")
        self.options.fence()

    def _settle(self, receipts: list[tuple[Receipt, bool]]) -> None:
        """Make facts of what was brought: one sync, then each segment's receipt; True where nothing of it failed."""
        self.landing.sync()
        for receipt, whole in receipts:
            self.evidence.record(replace(receipt, boot="") if self.landing.settles() else receipt)
            if whole:
                self.logs.settled(receipt.segment, self.landing.abort)

    def give_up(self) -> None:
        """Nothing more shall be written or recorded."""
        self._over = True

    def tick(self) -> None:
        """A sign of life."""
        self.progress.ticks += 1
        if self._over:
            self.alive()
