"""Learns from what was read what will be read next: numbers of pieces in, numbers worth fetching ahead out.  Pure."""

from __future__ import annotations

from typing import Final

MOST: Final = 32
"""Pieces ahead of a reader that goes in order."""
_STREAMS: Final = 8
"""Readers that are told apart."""
_SLACK: Final = 4
"""Pieces by which one reader's requests overtake each other: a kernel asks for several at once, of several servers."""
_SURE: Final = 4
"""The window from which on anything is fetched ahead: at random, two pieces in order are an accident."""


class _Stream:
    """A reader that goes through pieces in order."""

    __slots__ = ("next", "until", "window")

    def __init__(self, following: int) -> None:
        self.next, self.until, self.window = following, following, 1


class Order:
    """Follows readers of pieces `0 … last`.  Not for several threads at once."""

    def __init__(self, last: int) -> None:
        self._last = last
        self._streams: list[_Stream] = []
        self._seen = (-1, -1)

    def ahead(self, first: int, last: int, room: int = MOST) -> range:
        """Pieces to fetch ahead, at most `room`, now that `first … last` are read.

        The third piece in order asks for four ahead, each further one for twice as much; what was asked for is not
        asked for again.
        """
        if (first, last) == self._seen:
            return range(0)
        self._seen = first, last
        stream = self._following(first)
        if stream is None:
            self._streams.insert(0, _Stream(last + 1))
            del self._streams[_STREAMS:]
            return range(0)
        if last >= stream.next:
            if first <= stream.next + 1:
                stream.window = min(stream.window * 2, MOST)
            stream.next = last + 1
            stream.until = max(stream.until, stream.next)
        if stream.window < _SURE:
            return range(0)
        stop = min(stream.next + stream.window, self._last + 1)
        if (stop - stream.until) * 2 < stream.window and stop <= self._last:
            return range(0)  # wait until a request is worth it
        start, stream.until = stream.until, max(stream.until, min(stop, stream.until + room))
        return range(start, stream.until)

    def _following(self, first: int) -> _Stream | None:
        for number, stream in enumerate(self._streams):
            if stream.next - _SLACK <= first <= stream.next + _SLACK:
                if number:
                    self._streams.insert(0, self._streams.pop(number))
                return stream
        return None
