"""Bytes of a file without a copy: where an image of this machine stores them as they are, in one stretch.

What does not compress (pictures, most compressed formats, noise) is stored so.  The sums are checked whenever a view
is taken; the view itself is the kernel's cache of the image, so it changes if somebody writes into the image later.
"""

from __future__ import annotations

import mmap
from typing import Any

from dls.fuse.blocks import INSIDE, INSIDE_AT
from dls.fuse.codec import BYTES, PARTS, RAW, sum_of
from dls.fuse.image import Image, LocalFile
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
        image.source.same()  # told if it was written to
        whole = self._mapped(image)
        block, own = image.block, attr.size if attr.b == NO_TAIL else attr.size // image.block * image.block
        if start >= own:
            return _shared(image, whole, attr, start - own, stop - own)
        if stop > own:
            return None  # in two places
        rows = [image.index.blocks[n] for n in range(attr.a + start // block, attr.a + (stop - 1) // block + 1)]
        at = rows[0][0]
        for where, stored, check in rows:
            size = stored & BYTES
            if not stored & RAW or where != at or sum_of(whole[at : at + size]) != check:
                return None  # whoever reads it in the usual way is told if something is wrong
            at += size
        first = rows[0][0] + start % block
        return whole[first : first + stop - start] if first + stop - start <= at else None

    def _mapped(self, image: Image) -> memoryview:
        if self._map is None:
            source: Any = image.source
            self._map = memoryview(mmap.mmap(source.fd, 0, access=mmap.ACCESS_READ))
        return self._map


def _shared(image: Image, whole: memoryview, attr: Attr, start: int, stop: int) -> memoryview | None:
    """Of a file that is in a block with others."""
    at, stored, check = image.index.blocks[attr.b]
    if not stored & RAW:
        return None
    if stored & PARTS:
        at, size, check = at + (attr.c & INSIDE), (attr.c >> INSIDE_AT) + 1, attr.a
        inside = 0
    else:
        size, inside = stored & BYTES, attr.c
    if inside + stop > size or sum_of(whole[at : at + size]) != check:
        return None
    return whole[at + inside + start : at + inside + stop]
