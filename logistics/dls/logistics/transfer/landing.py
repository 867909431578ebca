"""Where a transfer writes, and how what it wrote comes to show.

whole    a hidden folder beside the target, renamed once into a name that is free
file     a hidden folder inside the target, which is there already: each file renamed once it is verified
direct   a store without rename: keys are written at once and show when the caller says so (the replica's row)
"""

from __future__ import annotations

from contextlib import suppress
from enum import StrEnum

from dls.logistics.entry import FOLDER, Entry
from dls.logistics.errors import DlsError
from dls.logistics.names import HIDDEN
from dls.logistics.segment import Segment
from dls.logistics.store import Can, Store
from dls.logistics.transfer.evidence import Found
from dls.logistics.transfer.log import Opened
from dls.logistics.transfer.progress import Progress

SYNC_STALL = 10.0
"""A sync may be silent for this many times longer than anything else."""


class Mode(StrEnum):
    """How what is written comes to show."""

    WHOLE = "whole"
    FILE = "file"
    DIRECT = "direct"


class Landing:
    """The target of one transfer."""

    def __init__(self, target: Store, root: bytes, place: str, *, power: bool, progress: Progress) -> None:
        self._target, self._root, self._progress = target, root, progress
        self._power = power and Can.SYNC in target.can
        self.dirty = False
        """Whether something was written or renamed that may not be synced yet."""
        self.final = target.below(root) if root else target
        self.was = self.final.exists()
        """Whether something lay there before."""
        head, slash, self._name = root.rpartition(b"/")
        self._hidden = HIDDEN + place.encode()
        self._beside = target.below(head + slash + self._hidden, staging=True) if root else None
        if Can.MOVE not in target.can:
            self.mode, self.stage = Mode.DIRECT, self.final
        elif self._beside is not None and not self.was:
            self.mode, self.stage = Mode.WHOLE, self._beside
        else:
            self.mode, self.stage = Mode.FILE, self.final.below(self._hidden, staging=True)
        self.staged = self.mode is not Mode.DIRECT and self.stage.exists()
        """Whether an earlier run left something in staging."""
        self.at = self.stage if self.mode is Mode.WHOLE else self.final
        """Where receipts speak of."""

    def settles(self) -> bool:
        """Whether what was written survives a power cut once `sync` returned."""
        return self._power or Can.SYNC not in self._target.can

    def sync(self) -> None:
        """Where durability is `power`: return once everything written so far survives a power cut."""
        if self._power:
            with self._progress.sync():
                self.at.sync()

    def publish_files(self, segment: Segment, found: dict[int, Found]) -> None:
        """FILE: give verified files their names, one rename each, once their bytes are safe; renames change stamps."""
        self.sync()
        ordinals = sorted(found)
        keys = [segment.paths[i] for i in ordinals]
        self.final.move([(self._hidden + b"/" + key, key) for key in keys], over=True)
        for i, stamp in zip(ordinals, self.final.stamps(keys), strict=True):
            found[i] = (found[i][0], found[i][1], stamp)

    def publish(self, *, again: bool) -> None:
        """Let everything show; `again` where an earlier run may have got so far and not been synced."""
        if self.mode is Mode.WHOLE:
            self._publish_whole()
        elif self.mode is Mode.FILE:
            self.stage.wipe()
            if self._beside is not None:
                self._beside.wipe()
        if self._power and (self.dirty or again):
            with self._progress.sync():
                self.final.sync()

    def _publish_whole(self) -> None:
        head = self._root[: -len(self._name) - 1]
        above = self._target.below(head) if head else self._target
        self.dirty = True
        if self.stage.exists():
            self.sync()
            above.move([(self._hidden, self._name)])
        elif FOLDER in self.final.keeps.kinds:
            above.make([Entry(self._name, FOLDER)])

    def take_back(self, key: bytes) -> None:
        """DIRECT: remove what was written and turned out not to be right."""
        if self.mode is Mode.DIRECT:
            self.final.delete(key)

    def abort(self, opened: Opened) -> None:
        """Free an upload that nobody will continue, if it is still there."""
        with suppress(DlsError):
            self.stage.upload(opened.key, opened.size, token=opened.token).abort()
