"""Several trees under one roof: which tree a number belongs to, and what that tree says of it.

Numbers of tree *n* have n in their upper bits (`dls.fuse.listings`); those with the highest bit set are folders that
no tree has as they are shown: what they mean is up to `Union` and `Beside`.
"""

from __future__ import annotations

import os
import tempfile
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Final

from dls.fuse import records, whiteout
from dls.fuse.index import damaged
from dls.fuse.listings import INSIDE, SHIFT, Cut, cookie_of, shift, shifted, without
from dls.fuse.records import Attr
from dls.fuse.spool import Spool
from dls.fuse.tree import Tree
from dls.logistics.entry import Entry
from dls.logistics.errors import Unsupported
from dls.logistics.manifest import Manifest, SegmentRef
from dls.logistics.segment import Segment, cut

MADE: Final = 1 << 63
"""Set in the number of a folder that is made up here."""
MOST: Final = 256
"""Trees at once; each keeps two files open."""
_NUMBER: Final = 0x7FFF


def number_of(node: int) -> int:
    """Which tree a number belongs to."""
    return node >> SHIFT & _NUMBER


class Joined(Tree):
    """Several trees; `trees[0]` is the one whose numbers stay as they are.  They are closed with it."""

    def __init__(self, name: str, trees: Sequence[Tree]) -> None:
        if len(trees) > MOST:
            raise Unsupported(
                f"{name}: {len(trees)} images at once, at most {MOST} can be", code="too-many-layers",
                remedy="make one of them: dls compact",
            )  # fmt: skip
        self.name, self.trees = name, list(trees)
        self.block = max(tree.block for tree in trees)
        self.size = sum(tree.size for tree in trees)
        self.counts = {
            kind: sum(tree.counts.get(kind, 0) for tree in trees) for kind in ("files", "folders", "links", "others")
        }
        self.attributed = any(tree.attributed for tree in trees)

    # ------------------------------------------------------------------------------- made up by each kind

    @abstractmethod
    def made(self, node: int) -> bytes:
        """The first HEAD bytes of the record of a folder that is made up."""

    @abstractmethod
    def made_lookup(self, node: int, name: bytes) -> bytes:
        """The record of a name in it."""

    @abstractmethod
    def made_listing(self, node: int, offset: int, size: int) -> list[bytes]:
        """Its listing."""

    @abstractmethod
    def made_rows(self, node: int) -> Iterator[tuple[bytes, Attr]]:
        """What is in it."""

    @abstractmethod
    def entries(self) -> Iterator[Entry]:
        """Those of the manifest."""

    # -------------------------------------------------------------------------------------------- nodes

    def record(self, node: int) -> bytes:
        """The record of a node."""
        number = node >> SHIFT
        if not number:
            return self.trees[0].record(node)
        if node & MADE:
            return self.made(node)
        return shift(self.trees[number].record(node & INSIDE), number)

    def attr(self, node: int) -> Attr:
        """The attributes of a node."""
        number = node >> SHIFT
        if not number:
            return self.trees[0].attr(node)
        if node & MADE:
            return records.unpack(self.made(node))
        return self.lifted(number, self.trees[number].attr(node & INSIDE))

    @staticmethod
    def lifted(number: int, attr: Attr) -> Attr:
        """Attributes from tree `number`."""
        up = number << SHIFT
        return attr._replace(node=attr.node | up, ino=attr.ino | up) if number else attr

    def _own(self, attr: Attr) -> tuple[Tree, Attr]:
        """The tree of a node and the attributes as that tree gave them."""
        number = number_of(attr.node)
        if not number:
            return self.trees[0], attr
        return self.trees[number], attr._replace(node=attr.node & INSIDE, ino=attr.ino & INSIDE)

    def lookup(self, folder: int, name: bytes) -> bytes:
        """The record of a name in a folder, b'' where there is none."""
        number = folder >> SHIFT
        if not number:
            return self.trees[0].lookup(folder, name)
        if folder & MADE:
            return self.made_lookup(folder, name)
        found = self.trees[number].lookup(folder & INSIDE, name)
        return shift(found, number) if found and not whiteout.record_hides(found) else b""

    def listing(self, folder: int, offset: int, size: int) -> list[bytes]:
        """Whole records of a folder from `offset` on, at most `size` bytes."""
        number = folder >> SHIFT
        if not number:
            return self.trees[0].listing(folder, offset, size)
        if folder & MADE:
            return self.made_listing(folder, offset, size)
        return self.part(number, folder & INSIDE, offset & INSIDE, size, ())[0]

    def part(self, number: int, node: int, offset: int, size: int, cuts: Sequence[Cut]) -> tuple[list[bytes], int]:
        """A listing of one tree from `offset` on without what is cut out, [] at its end; the offset of what follows."""
        tree, out = self.trees[number], list[bytes]()
        while not out and (pieces := tree.listing(node, offset, size)):
            for piece in pieces:
                for rest in without(piece, cuts) if cuts else [piece]:
                    if found := shifted(rest, number) if number else rest:
                        out.append(found)
            behind = cookie_of(pieces[-1])[0] + len(pieces[-1])
            if behind <= offset:
                raise damaged("a listing goes backwards")
            offset = behind
        return out, offset

    def rows(self, folder: Attr) -> Iterator[tuple[bytes, Attr]]:
        """The names in a folder, in order of the listing."""
        number = folder.node >> SHIFT
        if not number:
            return self.trees[0].rows(folder)
        if folder.node & MADE:
            return self.made_rows(folder.node)
        tree, own = self._own(folder)
        return ((name, self.lifted(number, attr)) for name, attr in tree.rows(own) if not whiteout.hides(attr))

    # -------------------------------------------------------------------------------------------- bytes

    def pieces(self, attr: Attr, start: int, stop: int) -> list[bytes | memoryview]:
        """The bytes `start … stop-1` of a file."""
        tree, own = self._own(attr)
        return tree.pieces(own, start, stop)

    def text(self, link: Attr) -> bytes:
        """The text of a symbolic link."""
        tree, own = self._own(link)
        return tree.text(own)

    def xattrs(self, attr: Attr) -> dict[bytes, bytes]:
        """The extended attributes of a node, without those that overlayfs keeps for itself."""
        tree, own = self._own(attr)
        found = tree.xattrs(own)
        return whiteout.shown(found) if found and attr.node >> SHIFT else found

    # ----------------------------------------------------------------------------------------- manifest

    @cached_property
    def manifest(self) -> Manifest:
        """What is shown; made when it is first asked for, by one pass over the manifests of the trees."""
        return _kept(self.entries())

    def close(self) -> None:
        """Let go of all trees.  Idempotent."""
        for tree in self.trees:
            tree.close()


def _kept(entries: Iterable[Entry]) -> Manifest:
    """A manifest whose segments go to a nameless file."""
    spool, rows, refs = Spool(os.fsencode(tempfile.gettempdir())), dict[bytes, tuple[int, int]](), list[SegmentRef]()
    for segment in cut(entries):
        data = segment.encode()
        rows[segment.digest] = len(spool), len(data)
        spool.add(data)
        refs.append(SegmentRef.of(segment))
    return Manifest(tuple(refs), lambda digest: Segment.decode(spool.at(*rows[digest]), expect=digest))
