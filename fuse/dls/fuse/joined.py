"""Several trees under one roof: which tree a number belongs to, and what that tree says of it.

Numbers of tree *n* have n in their upper bits (`dls.fuse.listings`); those with a certain bit set are folders that no
tree has as they are shown: what they mean is up to `Union` and `Beside`.
"""

from __future__ import annotations

import os
import tempfile
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Final, TypeVar

from dls.fuse import records, whiteout
from dls.fuse.image import Image
from dls.fuse.index import damaged
from dls.fuse.listings import Tag, shift, shifted
from dls.fuse.records import Attr
from dls.fuse.source import Item
from dls.fuse.spool import Spool
from dls.fuse.tree import Tree
from dls.logistics.entry import Entry
from dls.logistics.errors import Unsupported
from dls.logistics.manifest import Manifest, SegmentRef
from dls.logistics.segment import Segment, cut
from dls.logistics.stores.posix_errors import ours

MOST: Final = 256
"""Trees at once; each keeps two files open."""
_FOLDERS_KEPT: Final = 4096

T = TypeVar("T")


class Joined(Tree):
    """Several trees; `trees[0]` is the one whose numbers stay as they are.  They are closed with it."""

    def __init__(self, name: str, trees: Sequence[Tree], tag: Tag, most: int = MOST) -> None:
        if len(trees) > most:
            raise Unsupported(
                f"{name}: {len(trees)} images at once, at most {most} can be", code="too-many-layers",
                remedy="make one of them: dls compact",
            )  # fmt: skip
        self.name, self.trees, self.tag = name, list(trees), tag
        self._shift, self._mask, self._made = tag.shift, tag.inside, tag.made
        self._above: dict[bytes, int] = {}
        """Folders of which something was looked for by its path."""
        self.block = max(tree.block for tree in trees)
        self.size = sum(tree.size for tree in trees)
        self.counts = {
            kind: sum(tree.counts.get(kind, 0) for tree in trees) for kind in ("files", "folders", "links", "others")
        }
        self.attributed = any(tree.attributed for tree in trees)
        self.forks = all(tree.forks for tree in trees)
        self.far = any(tree.far for tree in trees)

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
        number = node >> self._shift
        if not number:
            return self.trees[0].record(node)
        if node & self._made:
            return self.made(node)
        return shift(self._tree(number).record(node & self._mask), number, self.tag)

    def attr(self, node: int) -> Attr:
        """The attributes of a node."""
        number = node >> self._shift
        if not number:
            return self.trees[0].attr(node)
        if node & self._made:
            return records.unpack(self.made(node))
        return self.lifted(number, self._tree(number).attr(node & self._mask))

    def number_of(self, node: int) -> int:
        """Which tree a number belongs to."""
        return (node & ~self._made) >> self._shift

    def lifted(self, number: int, attr: Attr) -> Attr:
        """Attributes from tree `number`."""
        if attr.node >> self._shift:
            raise damaged("a node has a number that no image gives")
        up = number << self._shift
        return attr._replace(node=attr.node | up, ino=attr.ino | up) if number else attr

    def _tree(self, number: int) -> Tree:
        """A tree by its number."""
        if number >= len(self.trees):
            raise damaged("a node has a number that no image gives")
        return self.trees[number]

    def _own(self, attr: Attr) -> tuple[Tree, Attr]:
        """The tree of a node and the attributes as that tree gave them."""
        number = self.number_of(attr.node)
        if not number:
            return self.trees[0], attr
        return self._tree(number), attr._replace(node=attr.node & self._mask, ino=attr.ino & self._mask)

    def lookup(self, folder: int, name: bytes) -> bytes:
        """The record of a name in a folder, b'' where there is none."""
        number = folder >> self._shift
        if not number:
            return self.trees[0].lookup(folder, name)
        if folder & self._made:
            return self.made_lookup(folder, name)
        found = self._tree(number).lookup(folder & self._mask, name)
        gone = not found or (self.tag.layers and whiteout.record_hides(found))
        return b"" if gone else shift(found, number, self.tag)

    def find(self, path: bytes) -> Attr:
        """The node of a path; NotFound with the path."""
        above, _, name = path.rpartition(b"/")
        folder = self._above.get(above) if name else None
        if folder is not None and (record := self.lookup(folder, name)):
            return records.unpack(record)
        found = super().find(path)
        if above and folder is None:
            if len(self._above) >= _FOLDERS_KEPT:
                self._above.clear()
            self._above[above] = super().find(above).node
        return found

    def listing(self, folder: int, offset: int, size: int) -> list[bytes]:
        """Whole records of a folder from `offset` on, at most `size` bytes."""
        number = folder >> self._shift
        if not number:
            return self.trees[0].listing(folder, offset, size)
        if folder & self._made:
            return self.made_listing(folder, offset, size)
        return self.part(number, folder & self._mask, offset, size)

    def part(self, number: int, node: int, offset: int, size: int) -> list[bytes]:
        """The same of a folder that tree `number` alone has."""
        return [shifted(piece, number, self.tag) for piece in self._tree(number).listing(node, offset, size)]

    def rows(self, folder: Attr) -> Iterator[tuple[bytes, Attr]]:
        """The names in a folder, in order of the listing."""
        number = folder.node >> self._shift
        if not number:
            return self.trees[0].rows(folder)
        if folder.node & self._made:
            return self.made_rows(folder.node)
        tree, own = self._own(folder)
        layers = self.tag.layers
        return (
            (name, self.lifted(number, attr)) for name, attr in tree.rows(own) if not (layers and whiteout.hides(attr))
        )

    def walk(self, path: bytes = b"") -> Iterator[tuple[bytes, Attr]]:
        """Everything below a folder, folders before what is in them."""
        return _bounded(super().walk(path), _most(self))

    def items(self) -> Iterator[Item]:
        """Everything as a packer takes it."""
        return _bounded(super().items(), _most(self))

    # -------------------------------------------------------------------------------------------- bytes

    def pieces(self, attr: Attr, start: int, stop: int) -> list[bytes | memoryview]:
        """The bytes `start … stop-1` of a file."""
        tree, own = self._own(attr)
        return tree.pieces(own, start, stop)

    def ready(self, node: int, start: int) -> bool:
        """Whether bytes of a file from `start` on come without waiting."""
        number = node >> self._shift
        if not number:
            return self.trees[0].ready(node, start)
        return bool(node & self._made) or self._tree(number).ready(node & self._mask, start)

    def text(self, link: Attr) -> bytes:
        """The text of a symbolic link."""
        tree, own = self._own(link)
        return tree.text(own)

    def xattrs(self, attr: Attr) -> dict[bytes, bytes]:
        """The extended attributes of a node, without those that overlayfs keeps for itself."""
        tree, own = self._own(attr)
        found = tree.xattrs(own)
        return whiteout.shown(found) if found and self.tag.layers and attr.node >> self._shift else found

    # ----------------------------------------------------------------------------------------- manifest

    @cached_property
    def manifest(self) -> Manifest:
        """What is shown; made when it is first asked for, by one pass over the manifests of the trees."""
        return _kept(self.entries())

    def close(self) -> None:
        """Let go of all trees.  Idempotent."""
        for tree in self.trees:
            tree.close()


def _bounded(rows: Iterator[T], most: float) -> Iterator[T]:
    for number, row in enumerate(rows):
        if number > most:
            raise damaged("it shows more names than it holds")
        yield row


def _most(tree: Tree) -> float:
    """Names that a tree can have at most."""
    if isinstance(tree, Joined):
        return sum(map(_most, tree.trees)) + len(tree.trees)
    return tree.index.names.count if isinstance(tree, Image) else float("inf")


def _kept(entries: Iterable[Entry]) -> Manifest:
    """A manifest whose segments go to a nameless file."""
    folder = tempfile.gettempdir()
    spool, rows, refs = Spool(os.fsencode(folder)), dict[bytes, tuple[int, int]](), list[SegmentRef]()
    try:
        for segment in cut(entries):
            data = segment.encode()
            rows[segment.digest] = len(spool), len(data)
            spool.add(data)
            refs.append(SegmentRef.of(segment))
    except OSError as exc:
        raise ours(exc, folder) from exc
    return Manifest(tuple(refs), lambda digest: Segment.decode(spool.at(*rows[digest]), expect=digest))
