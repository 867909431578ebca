"""The entries of a tree: as its manifest has them, or, where digests are not known, as its names say."""

from __future__ import annotations

from collections.abc import Iterator

from dls.fuse.tree import Tree
from dls.logistics.entry import FILE, LINK, Entry
from dls.logistics.errors import Unsupported


def proven(tree: Tree) -> bool:
    """Whether the tree knows the digest of each of its files."""
    try:
        return tree.manifest is not None
    except Unsupported:
        return False


def forwards(tree: Tree) -> Iterator[Entry]:
    """Every entry in order."""
    return iter(tree.manifest) if proven(tree) else _made(tree)


def backwards(tree: Tree) -> Iterator[Entry]:
    """Every entry, the last one first.  Memory: a segment, or the links of a tree without digests, which are all."""
    if not proven(tree):
        yield from reversed([entry for entry in _made(tree) if entry.kind == LINK])
        return
    manifest = tree.manifest
    for ref in reversed(manifest.refs):
        yield from reversed(list(manifest.load(ref.digest)))


def _made(tree: Tree) -> Iterator[Entry]:
    first: dict[object, bytes] = {}
    for item in tree.items():
        kind = item.mode >> 12
        if kind == 10:
            yield Entry(item.path, LINK, target=item.text)
        elif kind == 8:
            target = first.setdefault(item.group, item.path) if item.group is not None else item.path
            yield Entry(item.path, FILE, item.size, target=b"" if target == item.path else target)
