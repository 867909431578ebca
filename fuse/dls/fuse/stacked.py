"""The manifest of a union: those of its trees, merged, without what is hidden.

A file or link of a tree is an entry of the union where it is what the union shows.  Folders of the lowest tree that no
other has are as they were; all others are looked at, as what is in them is another than any one tree says.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import merge
from operator import itemgetter
from typing import TYPE_CHECKING, Final

from dls.fuse import records
from dls.fuse.listings import LAYERS
from dls.logistics import digest as digests
from dls.logistics.entry import FILE, FOLDER, NO_TIME, Entry
from dls.logistics.errors import NotFound

if TYPE_CHECKING:
    from dls.fuse.union import Parts, Union

_KEPT: Final = 4096
"""Folders whose parts are remembered."""


def entries(union: Union) -> Iterator[Entry]:
    """All entries, in order.  Memory: a segment of each tree, and folders of upper trees that matter by themselves."""
    seen = _Seen(union)
    streams = [seen.of(number) for number in range(len(union.trees))]
    streams.append(iter(sorted(((entry.path, -1, entry) for entry in _folders(union)), key=itemgetter(0))))
    for _, _, entry in merge(*streams, key=itemgetter(0)):
        yield entry


class _Seen:
    """Whether what a tree has is what the union shows."""

    def __init__(self, union: Union) -> None:
        self._union = union
        self._folders: dict[bytes, Parts] = {}
        self._first: dict[tuple[int, bytes], bytes] = {}
        """Names of hard-link groups whose first name is hidden: which one is now the first."""

    def of(self, number: int) -> Iterator[tuple[bytes, int, Entry]]:
        """The entries of a tree that are shown."""
        for entry in self._union.trees[number].manifest:
            if entry.kind == FOLDER and number:
                continue
            if not self._shown(number, entry.path, entry.kind):
                continue
            if entry.kind == FILE and entry.target and not self._shown(number, entry.target, FILE):
                first = self._first.setdefault((number, entry.target), entry.path)
                entry = entry._replace(target=b"" if first == entry.path else first)
            yield entry.path, number, entry

    def _shown(self, number: int, path: bytes, kind: int) -> bool:
        above, _, name = path.rpartition(b"/")
        parts = self._folders.get(above)
        if parts is None:
            parts = self._parts(above)
        for other, node in parts:
            if other == number:
                return True
            if self._union.trees[other].lookup(node, name):
                return False
        return False

    def _parts(self, path: bytes) -> Parts:
        try:
            attr = self._union.find(path)
            found = self._union.parts(attr.node) if attr.mode >> 12 == 4 else ()
        except NotFound:
            found = ()
        if len(self._folders) >= _KEPT:
            self._folders.clear()
        self._folders[path] = found
        return found


def _folders(union: Union) -> Iterator[Entry]:
    """The folders that upper trees have a part in and that matter by themselves: empty, or with an odd mode."""
    todo = [(b"", union.root)]
    while todo:
        above, node = todo.pop()
        for name in _inner(union, node):
            found = union.lookup(node, name)
            if not found:
                continue
            attr = records.unpack(found)
            if attr.mode >> 12 != 4 or not (attr.node >> LAYERS.shift):
                continue
            path = above + name
            mode = attr.mode & 0o7777
            if next(union.rows(attr), None) is None:
                yield Entry(path, FOLDER, 0, digests.UNKNOWN, mode, attr.mtime_ns)
            elif mode != 0o755:
                yield Entry(path, FOLDER, 0, digests.UNKNOWN, mode, NO_TIME)
            todo.append((path + b"/", attr.node))


def _inner(union: Union, node: int) -> set[bytes]:
    """Names of folders that upper trees have in a folder."""
    out = set[bytes]()
    for number, inside in union.parts(node):
        if number:
            tree = union.trees[number]
            out |= {name for name, attr in tree.rows(tree.attr(inside)) if attr.mode >> 12 == 4}
    return out
