"""Decides how much comes around a piece that is missing, where waiting costs more than bringing: numbers in and out.

A request waits for one round trip, however little it brings.  Where the line carries two pieces or more in that time
(rate × delay), TIMES as much is brought from around a missing piece, in the hope that it is read, too: images are
packed in the order of names, jobs read neighbours, and who reads a thousand files by chance soon needs every piece.
Hope is bounded: what was brought unasked never exceeds `START` pieces, `EACH` for every piece that somebody read, and
for every miss as many as the line carried while it was waited for: so hope takes no longer than waiting did.  Pure.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

START: Final = 256
"""Pieces that may be brought before anybody proved that it pays: 64 MiB."""
EACH: Final = 8
"""Pieces that may be brought besides, for each that was read; for each miss a round trip of the line, if more."""
TIMES: Final = 4
"""Round trips of the line's time that one miss may cost: whoever misses next waits behind what is brought."""
MOST: Final = 64
"""Pieces around one: 16 MiB."""
SURE: Final = 1
"""Misses before anything is brought unasked: one file is often all that is wanted."""
RATE: Final = 64e6
"""Bytes a second, until a request was long enough to tell."""
_TELLING: Final = 256 << 10
"""Bytes that say something about a rate."""


class Width:
    """Follows the requests of one object of `pieces` pieces of `piece` bytes, of which `kept` have room at once.

    Not for several threads at once.
    """

    def __init__(self, pieces: int, piece: int, kept: int) -> None:
        self._pieces, self._piece, self._most = pieces, piece, min(MOST, kept // 6)
        self._credit, self._misses = min(START, kept // 2), 0
        self._delay, self._rate, self._told = 0.0, RATE, False
        self._unread: set[int] = set()

    def told(self, delay_s: float, size: int, seconds: float, sharing: float = 1) -> None:
        """A request answered after `delay_s`; `size` bytes more came in the `seconds` after that, over a line that
        `sharing` requests shared."""
        if delay_s > 0:
            self._delay = min(delay_s, 0.9 * self._delay + 0.1 * delay_s) if self._delay else delay_s
        if size >= _TELLING and seconds > 0:
            self._rate += (0.3 if self._told else 1.0) * (sharing * size / seconds - self._rate)
            self._told = True

    def read(self, first: int, last: int) -> None:
        """Pieces that somebody reads: those that came unasked have paid."""
        for number in range(first, last + 1):
            if number in self._unread:
                self._unread.remove(number)
                self._credit += EACH + 1

    def missed(self, first: int, last: int) -> range:
        """What to bring besides `first … last`, which are missing: the pieces of an aligned stretch around them."""
        self._misses += 1
        line = int(self._delay * self._rate) // self._piece
        self._credit += max(EACH * (last - first + 1), line)
        if self._misses <= SURE:
            return range(0)
        width = min(TIMES * line, self._most, self._credit)
        if line < 2 or width < 2:
            return range(0)
        width = 1 << (width.bit_length() - 1)
        start = first // width * width
        return range(start, min(start + width, self._pieces))

    def bring(self, numbers: Collection[int]) -> None:
        """These are brought unasked."""
        self._unread.update(numbers)
        self._credit -= len(numbers)
