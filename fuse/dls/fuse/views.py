"""Bytes of a file without a copy: where an image of this machine stores them as they are, in one stretch.

What does not compress (pictures, most compressed formats, noise) is stored so.  The sums are checked whenever a view
is taken; the view itself is the kernel's cache of the image, so it changes if somebody writes into the image later.
"""

from __future__ import annotations

import mmap
from typing import Any

from dls.fuse.codec import sum_of
from dls.fuse.image import Image, LocalFile
from dls.fuse.index import RAW
from dls.fuse.records import NO_TAIL, Attr
from dls.fuse.tree import Tree


class Views:
    """Views of the files of one tree; it is mapped when the first is taken."""

    def __init__(self, tree: Tree) -> None:
        self._image = tree if type(tree) is Image and isinstance(tree.source, LocalFile) else None
        self._map: memoryview | None = None

    def view(self, attr: Attr, start: int, stop: int) -> memoryview | None:
        """The bytes `start … stop-1` of a file, or None where they must be made."""
        image, stop = self._image, min(stop, attr.size)
        if image is None or start >= stop:
            return None
        block, own = image.block, attr.size if attr.b == NO_TAIL else attr.size // image.block * image.block
        if start < own < stop:
            return None  # in two places
        numbers = range(attr.a + start // block, attr.a + (stop - 1) // block + 1) if stop <= own else (attr.b,)
        rows = [image.index.blocks[number] for number in numbers]
        if not _in_a_row(rows, image.size):
            return None
        image.source.at(0, 0)  # told if it was written to
        whole = self._mapped(image)
        for at, stored, check in rows:
            if sum_of(whole[at : at + (stored & ~RAW)]) != check:
                return None  # whoever reads it in the usual way is told what is wrong
        inside = start - start // block * block if stop <= own else attr.c + start - own
        first = rows[0][0] + inside
        if first + stop - start > rows[-1][0] + (rows[-1][1] & ~RAW):
            return None
        return whole[first : first + stop - start]

    def _mapped(self, image: Image) -> memoryview:
        if self._map is None:
            source: Any = image.source
            self._map = memoryview(mmap.mmap(source.fd, 0, access=mmap.ACCESS_READ))
        return self._map


def _in_a_row(rows: list[tuple[int, ...]], size: int) -> bool:
    """Whether blocks are stored as they are, one behind the other."""
    at = rows[0][0]
    for where, stored, _ in rows:
        if not stored & RAW or where != at:
            return False
        at += stored & ~RAW
    return at <= size
