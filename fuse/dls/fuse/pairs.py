"""Two trees side by side by name: what each has under one path, and what the bytes of the second are known to be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from dls.fuse.index import damaged
from dls.fuse.source import Item
from dls.logistics import digest as digests
from dls.logistics import names
from dls.logistics.entry import FILE, Entry


class Theirs(NamedTuple):
    """A name of the tree below: its item, and the digest of a file."""

    item: Item
    digest: bytes = digests.UNKNOWN


def joined(mine: Iterator[Item], theirs: Iterator[Theirs]) -> Iterator[tuple[Item | None, Theirs | None]]:
    """Two streams side by side by name."""
    one, other = next(mine, None), next(theirs, None)
    while one is not None or other is not None:
        if other is None or (one is not None and one.path < other.item.path):
            yield one, None
            one = next(mine, None)
        elif one is None or other.item.path < one.path:
            yield None, other
            other = next(theirs, None)
        else:
            yield one, other
            one, other = next(mine, None), next(theirs, None)


def with_digests(items: Iterator[Item], entries: Iterable[Entry]) -> Iterator[Theirs]:
    """The items of a tree with the digests of its manifest."""
    rest = iter(entries)
    for item in items:
        if item.mode >> 12 != 8:
            yield Theirs(item)
            continue
        for entry in rest:
            if entry.path == item.path and entry.kind == FILE:
                yield Theirs(item, entry.digest)
                break
        else:
            raise damaged("its manifest lacks a file", key=names.show(item.path))
