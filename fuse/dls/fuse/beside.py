"""Trees side by side, each in a folder of its own: several datasets in one mount.

open_beside(["tiles.sqfs", "masks=s3://bucket/2024/v3.sqfs"])      # folders `tiles` and `masks`
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from heapq import merge
from operator import itemgetter
from typing import Final

from dls.fuse import records
from dls.fuse.joined import Joined
from dls.fuse.layers import ENDINGS, split
from dls.fuse.listings import BLOCK, PLACES, Block, named, shift
from dls.fuse.records import Attr
from dls.fuse.tree import Tree
from dls.logistics import digest as digests
from dls.logistics import names
from dls.logistics import url as urls
from dls.logistics.entry import FILE, FOLDER, NO_TIME, Entry
from dls.logistics.errors import Conflict, Invalid

MOST: Final = 100


class Beside(Joined):
    """Trees under names.  They are closed with it."""

    def __init__(self, name: str, named_trees: Sequence[tuple[bytes, Tree]]) -> None:
        pairs = sorted(named_trees, key=itemgetter(0))
        super().__init__(name, [tree for _, tree in pairs], PLACES, MOST)
        self._names = [one for one, _ in pairs]
        for one, other in zip(self._names, [*self._names[1:], b""], strict=True):
            if one == other:
                shown = names.show(one)
                raise Conflict(
                    f"two of them would be shown as {shown}", code="name-clash", key=shown,
                    remedy=f"give one another name: NAME={shown}.sqfs",
                )  # fmt: skip
        self.root = PLACES.made | 1
        self.counts["folders"] += 1
        self._top = self._root()
        rows = [named(self._top, b"."), named(self._top, b"..")]
        rows += [named(self._record(number), one) for number, one in enumerate(self._names)]
        self._block = Block.of(iter(rows))

    def _root(self) -> bytes:
        tops = [tree.attr(tree.root) for tree in self.trees]
        newest = max(top.mtime_ns for top in tops)
        return records.pack(
            b"", self.root, 0, 0, 0, self.root, 0, 0, newest, 0o040755, 2 + len(tops), tops[0].uid, tops[0].gid, 0,
            self.block,
        )  # fmt: skip

    def _record(self, number: int) -> bytes:
        tree = self.trees[number]
        return shift(tree.record(tree.root)[: records.HEAD], number, PLACES)

    def made(self, node: int) -> bytes:
        """The record of the folder above them."""
        return self._top

    def made_lookup(self, node: int, name: bytes) -> bytes:
        """The root of a tree."""
        return self._record(self._names.index(name)) if name in self._names else b""

    def made_listing(self, node: int, offset: int, size: int) -> list[bytes]:
        """The names of the trees."""
        data = self._block.part(offset & ~BLOCK, size)
        return [data] if data else []

    def made_rows(self, node: int) -> Iterator[tuple[bytes, Attr]]:
        """The roots of the trees."""
        return ((name, records.unpack(self._record(number))) for number, name in enumerate(self._names))

    def entries(self) -> Iterator[Entry]:
        """Those of the trees, each below its name."""
        streams = [_below(name, tree) for name, tree in zip(self._names, self.trees, strict=True)]
        for _, entry in merge(*streams, key=itemgetter(0)):
            yield entry


def _below(name: bytes, tree: Tree) -> Iterator[tuple[bytes, Entry]]:
    top, rest = tree.attr(tree.root), iter(tree.manifest)
    mode, first = top.mode & 0o7777, next(tree.rows(top), None)
    if first is None or mode != 0o755:
        yield name, Entry(name, FOLDER, 0, digests.UNKNOWN, mode, top.mtime_ns if first is None else NO_TIME)
    for entry in rest:
        path = name + b"/" + entry.path
        if entry.kind == FILE and entry.target:
            entry = entry._replace(target=name + b"/" + entry.target)
        yield path, entry._replace(path=path)


def named_of(text: str) -> tuple[bytes, str]:
    """The name and the image in `name=image`, or in an image alone: then its own name without the ending."""
    name, sign, image = text.partition("=")
    if sign and not os.path.lexists(text) and "/" not in name and ":" not in name:
        return _checked(os.fsencode(name), text), image
    if urls.is_dataset(text):
        return os.fsencode(urls.dataset(text).name), text
    highest = split(text)[-1]
    last = highest.rstrip("/").rpartition("/")[2]
    found = names.read(last) if "://" in highest else os.fsencode(last)
    for ending in ENDINGS:
        found = found.removesuffix(ending.encode())
    return _checked(found, text), text


def _checked(name: bytes, text: str) -> bytes:
    if not name or name in (b".", b"..") or names.is_hidden(name):
        raise Invalid(
            f"{text!r} cannot be shown under the name {names.show(name)!r}", code="bad-name", remedy="write NAME=IMAGE"
        )
    return name


def open_beside(named_openers: Sequence[tuple[bytes, Callable[[], Tree]]]) -> Tree:
    """Whatever each opens, side by side, under its name."""
    found: list[tuple[bytes, Tree]] = []
    try:
        for name, opener in named_openers:
            found.append((name, opener()))
        return Beside(", ".join(tree.name for _, tree in found), found)
    except BaseException:
        for _, tree in found:
            tree.close()
        raise
