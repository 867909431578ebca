"""Inodes of several names (hard-link groups): a number for each; what is known of them lies in arrays and spools.

Copies of a backup that share files by links, or environments of a package store, have millions of them.  One takes 50
bytes of memory; as objects, what a packer has to know of it took 1,500.
"""

from __future__ import annotations

import marshal
import struct
from array import array
from collections.abc import Callable, Iterator
from typing import Any, Final

from dls.fuse.seen import Seen
from dls.fuse.source import Group, Item
from dls.fuse.spool import Row, Spool
from dls.logistics import digest as digests

_KEY: Final = struct.Struct("<QQ")
_WIDE: Final = (1 << 64) - 1


class Groups:
    """Numbers groups from 0, in the order in which they are met."""

    def __init__(self, spools: Callable[[], Spool]) -> None:
        self._spools = spools
        self._seen: Seen | None = None

    def number(self, group: Group) -> int:
        """Of one group."""
        if self._seen is None:  # most trees have none
            self._seen = Seen(self._spools())
        return self._seen.numbers(digests.of(_KEY.pack(group[0] & _WIDE, group[1] & _WIDE)))[0][0]

    def numbered(self, item: Item) -> Item:
        """An item whose group is (0, its number)."""
        return item._replace(group=(0, self.number(item.group))) if item.group is not None else item


class Tally:
    """A count for each number, 0 where nothing was counted."""

    __slots__ = ("_rows",)

    def __init__(self) -> None:
        self._rows = array("I")

    def __getitem__(self, number: int) -> int:
        return self._rows[number] if number < len(self._rows) else 0

    def __setitem__(self, number: int, count: int) -> None:
        if number >= len(self._rows):
            self._rows.frombytes(bytes(4 * (number + 1 - len(self._rows))))
        self._rows[number] = count

    def items(self) -> Iterator[tuple[int, int]]:
        """Numbers with their counts, where there are any."""
        return ((number, count) for number, count in enumerate(self._rows) if count)


class Kept:
    """A row for each number, in a spool."""

    __slots__ = ("_at", "_sizes", "_spool")

    def __init__(self, spool: Spool) -> None:
        self._spool, self._at, self._sizes = spool, array("Q"), Tally()

    def put(self, number: int, row: Row) -> None:
        """Keep a row of numbers, bytes and tuples; once for each number."""
        data = marshal.dumps(row)
        if number >= len(self._at):
            self._at.frombytes(bytes(8 * (number + 1 - len(self._at))))
        self._at[number], self._sizes[number] = len(self._spool), len(data)
        self._spool.add(data)

    def get(self, number: int) -> Any:
        """The row; None where there is none."""
        size = self._sizes[number]
        return marshal.loads(self._spool.at(self._at[number], size)) if size else None  # noqa: S302 - our own file
