"""Which contents were met: 8 bytes a slot in memory, 32 a content in a spool."""

from __future__ import annotations

import struct
from array import array
from typing import Final

from dls.fuse.spool import Spool

_LOW: Final = (1 << 40) - 1
_WORDS: Final = struct.Struct("<QQ16x")
"""Of a digest: where it is looked for first, and (24 bits) its mark."""


class Seen:
    """Numbers contents by their digests, from 0.  A digest is compared whole before two are called the same."""

    def __init__(self, spool: Spool) -> None:
        self._spool, self._count = spool, 0
        self._slots = array("Q", bytes(8 << 18))

    def new(self, many: int) -> list[int]:
        """The next numbers, for contents that are not looked for."""
        self._count += many
        self._spool.add(bytes(32 * many))
        return list(range(self._count - many, self._count))

    def numbers(self, digests: bytes) -> tuple[list[int], bytes]:
        """Of each content its number, and whether (1) it is new."""
        numbers, fresh = list[int](), bytearray()
        slots, count, fresh_digests = self._slots, self._count, bytearray()
        mask = len(slots) - 1
        for which, (low, high) in enumerate(_WORDS.iter_unpack(digests)):
            mark, at = high & 0xFFFFFF, low & mask
            found = -1
            while slot := slots[at]:
                if slot >> 40 == mark:
                    number = (slot & _LOW) - 1
                    if self._digest(number, fresh_digests) == digests[32 * which : 32 * which + 32]:
                        found = number
                        break
                at = at + 1 & mask
            if found < 0:
                found = count
                count += 1
                slots[at] = mark << 40 | count
                fresh_digests += digests[32 * which : 32 * which + 32]
                fresh.append(1)
                if count * 3 > mask * 2:
                    self._keep(count, fresh_digests)
                    self._grow()
                    slots = self._slots
                    mask = len(slots) - 1
            else:
                fresh.append(0)
            numbers.append(found)
        self._keep(count, fresh_digests)
        return numbers, bytes(fresh)

    def _digest(self, number: int, fresh: bytearray) -> bytes:
        at = 32 * number - len(self._spool)
        return self._spool.at(32 * number, 32) if at < 0 else bytes(fresh[at : at + 32])

    def _keep(self, count: int, fresh: bytearray) -> None:
        self._spool.add(fresh)
        self._count = count
        fresh.clear()

    def _grow(self) -> None:
        slots = array("Q", bytes(16 * len(self._slots)))
        mask, number = len(slots) - 1, 0
        for chunk in self._spool:
            for low, high in _WORDS.iter_unpack(chunk):
                number += 1
                at = low & mask
                while slots[at]:
                    at = at + 1 & mask
                slots[at] = (high & 0xFFFFFF) << 40 | number
        self._slots = slots
