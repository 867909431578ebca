"""Where packed bytes come from: a folder of this machine, or any tree.  Others are made by whoever needs them.

An origin lists items; each worker of a packer opens a reader of its own for the bytes (`dls.fuse.reading`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

from dls.fuse.reading import STEP, Description, File, FolderReader, opened
from dls.fuse.source import Attributes, Group, Item, changed, links, walk
from dls.fuse.tree import Tree


class Origin(Protocol):
    """Something that can be packed."""

    name: str

    def items(self, keep: Attributes) -> Iterator[Item]:
        """Everything in the order of manifests, folders before what is in them, the root (b'') first."""
        ...

    def links(self) -> Iterable[Group]:
        """The `Item.group` of each name whose inode has several; nothing: they are as many as `Item.nlink` says."""
        ...

    def reader(self) -> Description:
        """What a worker calls for its reader."""
        ...


class FolderOrigin:
    """A folder of this machine."""

    def __init__(self, root: bytes) -> None:
        self.name, self._root = os.fsdecode(root), root

    def items(self, keep: Attributes) -> Iterator[Item]:
        """As they lie there."""
        return walk(self._root, keep)

    def links(self) -> Iterable[Group]:
        """To be counted: of a folder, some names may lie elsewhere."""
        return links(self._root)

    def reader(self) -> Description:
        """Reads them there."""
        return f"{FolderReader.__module__}:{FolderReader.__name__}", (self._root,)


class TreeOrigin:
    """A tree that is open here, and how a worker opens it."""

    def __init__(self, tree: Tree, opener: Description) -> None:
        self.name, self._tree, self._opener = tree.name, tree, opener

    def items(self, keep: Attributes) -> Iterator[Item]:
        """As the tree has them, with all attributes that it has."""
        return self._tree.items()

    def links(self) -> Iterable[Group]:
        """As the tree says."""
        return ()

    def reader(self) -> Description:
        """Reads them from the tree."""
        return f"{__name__}:{TreeReader.__name__}", self._opener


class TreeReader:
    """Reads files of a tree, which a function opens."""

    def __init__(self, function: str, arguments: tuple[Any, ...]) -> None:
        self._tree: Tree = opened((function, arguments))

    def bodies(self, files: Sequence[File]) -> list[bytes]:
        """Each of the files, whole."""
        return [self._checked(file, 0, file.size) for file in files]

    def stretch(self, file: File) -> Iterator[bytes]:
        """The bytes `start … stop-1` of a file."""
        for at in range(file.start, file.stop, STEP):
            yield self._checked(file, at, min(at + STEP, file.stop))

    def _checked(self, file: File, start: int, stop: int) -> bytes:
        attr = self._tree.find(file.path)
        body = self._tree.read(attr, start, stop)
        if attr.size != file.size or len(body) != stop - start:
            raise changed(self._tree.name, file.path)
        return body
