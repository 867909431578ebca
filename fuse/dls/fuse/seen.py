"""Which contents were met: 8 bytes a slot in memory, 32 a content in a spool."""

from __future__ import annotations

from array import array
from typing import Final

from dls.fuse.spool import Spool

_LOW: Final = (1 << 40) - 1


class Seen:
    """Numbers contents by their digests, from 0.  A digest is compared whole before two are called the same."""

    def __init__(self, spool: Spool) -> None:
        self._spool, self._count = spool, 0
        self._slots = array("Q", bytes(8 << 16))

    def new(self) -> int:
        """The next number, for a content that is not looked for."""
        self._count += 1
        self._spool.add(bytes(32))
        return self._count - 1

    def number(self, digest: bytes) -> tuple[int, bool]:
        """(number of this content, whether it is new)."""
        slots = self._slots
        mask = len(slots) - 1
        mark = int.from_bytes(digest[8:11], "little") << 40
        at = int.from_bytes(digest[:8], "little") & mask
        while slot := slots[at]:
            if slot & ~_LOW == mark:
                number = (slot & _LOW) - 1
                if self._spool.at(32 * number, 32) == digest:
                    return number, False
            at = at + 1 & mask
        self._count += 1
        slots[at] = mark | self._count
        self._spool.add(digest)
        if self._count * 3 > len(slots) * 2:
            self._grow()
        return self._count - 1, True

    def _grow(self) -> None:
        slots = array("Q", bytes(16 * len(self._slots)))
        mask, number = len(slots) - 1, 0
        for chunk in self._spool:
            for i in range(0, len(chunk), 32):
                number += 1
                at = int.from_bytes(chunk[i : i + 8], "little") & mask
                while slots[at]:
                    at = at + 1 & mask
                slots[at] = int.from_bytes(chunk[i + 8 : i + 11], "little") << 40 | number
        self._slots = slots
