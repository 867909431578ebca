"""Makes ready what is likely asked next, while there is nothing else to do: the bytes of the file looked up last.

Whoever looks a file up mostly reads it next, and needs longer to ask than its bytes need to be decoded.  Where files
are only looked at (`stat`, `test -e`), this soon shows, and nothing is made ready any more.
"""

from __future__ import annotations

from typing import Final

from dls.fuse.tree import Tree

_SURE: Final = 8
"""Trust from which on something is made ready; a read after a look-up gives TRUE, one that does not come costs 1."""
_MOST: Final = 32
_TRUE: Final = 2
_NOTHING: Final[tuple[int, list[bytes | memoryview]]] = (0, [])


class Guess:
    """Of one server.  Used by the thread that takes requests; others may only ask for what is there."""

    def __init__(self, tree: Tree) -> None:
        self._tree, self._trust, self._last = tree, 0, 0
        self._made = _NOTHING
        self.open = False
        """Whether there is something to be made ready."""

    def looked(self, node: int) -> None:
        """A file was looked up."""
        if self._last:  # the one before was not read
            self._trust = max(0, self._trust - 1)
        self._last = node
        self.open = self._trust >= _SURE

    def prepare(self) -> None:
        """Make the bytes of the last one ready."""
        self.open = False
        try:
            found = self._tree.likely(self._last)
        except Exception:  # noqa: BLE001 - nobody has asked: whoever reads it is told, and the server goes on
            return
        if found is not None:
            self._made = self._last, found

    def taken(self, node: int, size: int) -> list[bytes | memoryview] | None:
        """What was made ready, if it is this file and `size` bytes are enough for it."""
        if node == self._last:
            self._last, self.open = 0, False
            self._trust = min(_MOST, self._trust + _TRUE)
        made = self._made
        if made[0] != node or sum(map(len, made[1])) > size:
            return None
        self._made = _NOTHING
        return made[1]
