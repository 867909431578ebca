"""Makes layers, and one image of a stack: who compares, who packs, what a layer says of itself.

layer("base.sqfs", "/data/tree", "v2.sqfs")          # what /data/tree has that base.sqfs has not, and what it lacks
layer("base.sqfs", "/data/new", "v2.sqfs", edits=Edits(add=True, delete=(b"old",)))
compact("v2.sqfs", "whole.sqfs")
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import NamedTuple

from dls.fuse.compare import Counts, Differences
from dls.fuse.image import Image
from dls.fuse.layers import absolute, recorded, split
from dls.fuse.layers import opened as opened_stack
from dls.fuse.origin import FolderOrigin, Origin, TreeOrigin
from dls.fuse.pack import Options, Result, pack, refuse_taken
from dls.fuse.pairs import with_digests
from dls.fuse.reading import Description, File, Reader, opened
from dls.fuse.source import Attributes, Group, Item
from dls.fuse.spool import Spool
from dls.fuse.tree import Tree
from dls.fuse.union import Union
from dls.logistics import names
from dls.logistics.errors import Exists
from dls.logistics.stores.posix_errors import ours
from dls.logistics.transfer.progress import Progress

_PLAIN = Options()
_STACK = "dls.fuse.layers:open_stack"


class Edits(NamedTuple):
    """What a layer is made of, where the source is not the whole tree as it shall be."""

    add: bool = False
    """The source is laid over what is there; what it lacks stays."""
    delete: tuple[bytes, ...] = ()
    """Names that go, with all that is in them, before the source is laid over."""


_WHOLE = Edits()


class Layered(NamedTuple):
    """What was made."""

    packed: Result
    counts: Counts


class LayerOrigin:
    """The items of a layer: what a comparison found, with the bytes of the source or of the tree below."""

    def __init__(self, found: Differences, source: Description, below: Description) -> None:
        self.name = "what differs"
        self._found, self._source, self._below = found, source, below

    def items(self, keep: Attributes) -> Iterator[Item]:
        """What differs, in order."""
        return self._found.items()

    def links(self) -> Iterable[Group]:
        """As the items say; names outside of the source are found while it is packed."""
        return ()

    def reader(self) -> Description:
        """That of the source; a reader of both where some bytes come from below."""
        borrowed = self._found.borrowed
        return (f"{__name__}:{_Both.__name__}", (self._source, self._below, borrowed)) if borrowed else self._source


class _Both:
    """Reads some files from the tree below, the others from the source."""

    def __init__(self, source: Description, below: Description, borrowed: set[bytes]) -> None:
        self._source: Reader = opened(source)
        self._below: Reader = opened(below)
        self._borrowed = borrowed

    def _reader(self, file: File) -> Reader:
        return self._below if file.path in self._borrowed else self._source

    def bodies(self, files: Sequence[File]) -> list[bytes]:
        """Each of the files, whole."""
        return [self._reader(file).bodies([file])[0] for file in files]

    def stretch(self, file: File) -> Iterator[bytes]:
        """The bytes `start … stop-1` of a file."""
        return self._reader(file).stretch(file)


def layer(
    onto: str,
    source: str | bytes | Origin | None,
    image: str | bytes,
    options: Options = _PLAIN,
    edits: Edits = _WHOLE,
    progress: Progress | None = None,
    alive: Callable[[], None] = lambda: None,
) -> Layered:
    """Make `image` a layer over the stack `onto`: what the source has that the stack has not.

    As `pack` in all else.  NotFound where a name to delete is not there.
    """
    progress, path = progress or Progress(), os.path.abspath(os.fsencode(image))
    refuse_taken(path, options)
    origin = FolderOrigin(os.path.abspath(os.fsencode(source))) if isinstance(source, str | bytes) else source
    onto = absolute(onto)
    images = opened_stack(split(onto))
    tree: Tree = images[0] if len(images) == 1 else Union(onto, images)
    collects = gc.isenabled()
    gc.disable()  # as packing does: millions of small tuples, none in a cycle
    with tree, ExitStack() as after:
        if collects:
            after.callback(gc.enable)
        _refuse_below(images, os.fsdecode(path))
        for name in edits.delete:
            tree.find(names.check(name))
        try:
            found = _compared(tree, origin, os.path.dirname(path), options, edits, progress, alive)
        except OSError as exc:
            raise ours(exc, os.fsdecode(path)) from exc
        progress.phase = "packing"
        below = TreeOrigin(tree, (_STACK, (onto,))).reader()
        differences = LayerOrigin(found, (origin or TreeOrigin(tree, (_STACK, (onto,)))).reader(), below)
        options = options._replace(owner=None, below=tuple(recorded(images, os.fsdecode(path))))
        return Layered(pack(differences, image, options, progress, alive), found.counts)


def _refuse_below(images: Sequence[Image], path: str) -> None:
    """Exists where the layer would take the place of an image that it lies on."""
    for image in images:
        if "://" not in image.name and os.path.exists(path) and os.path.samefile(path, image.name):
            raise Exists(
                f"{path} is an image that the layer lies on: nothing would be left to lie on",
                code="key-exists", store=path, remedy="choose another name; dls compact makes one image of both",
            )  # fmt: skip


def _compared(
    tree: Tree, origin: Origin | None, folder: bytes, options: Options, edits: Edits, progress: Progress,
    alive: Callable[[], None],
) -> Differences:  # fmt: skip
    """Once, or twice where hard links were made or taken away: then it is known which groups go in whole."""
    progress.phase = "comparing"
    keeps = _keeps(edits) if edits.add or edits.delete else lambda item: False
    where = origin.name if origin is not None else tree.name
    reader: Origin = origin if origin is not None else TreeOrigin(tree, (_STACK, (tree.name,)))
    whole = frozenset[Group]()
    while True:
        found = Differences(lambda: Spool(folder), whole)
        entries = tree.entries() if isinstance(tree, Union) else tree.manifest
        workers = options.workers if options.workers >= 0 else len(os.sched_getaffinity(0))
        found.run(
            _source(tree, origin, options, edits), with_digests(tree.items(), entries), reader, where,
            keeps=keeps, workers=workers, progress=progress, alive=alive,
        )  # fmt: skip
        more = found.broken()
        if not more:
            return found
        whole |= more


def _source(tree: Tree, origin: Origin | None, options: Options, edits: Edits) -> Iterator[Item]:
    """The items of the source; where it is laid over, the root stays what it is."""
    items = origin.items(options.attributes) if origin is not None else iter([next(tree.items())])
    if options.owner is not None:
        uid, gid = options.owner
        items = (item._replace(uid=uid, gid=gid) for item in items)
    if edits.add or edits.delete:
        next(items, None)
        yield next(tree.items())
    yield from items


def _keeps(edits: Edits) -> Callable[[Item], bool]:
    """Whether a name that only the tree below has stays."""
    gone = frozenset(edits.delete)

    def keeps(item: Item) -> bool:
        return item.path not in gone and not any(above in gone for above in names.parents(item.path))

    return keeps


def compact(
    stack: str,
    image: str | bytes,
    options: Options = _PLAIN,
    progress: Progress | None = None,
    alive: Callable[[], None] = lambda: None,
) -> Result:
    """Make one image of a stack: the same bytes as packing the tree that it shows."""
    stack = absolute(stack)
    images = opened_stack(split(stack))
    with images[0] if len(images) == 1 else Union(stack, images) as tree:
        return pack(TreeOrigin(tree, (_STACK, (stack,))), image, options, progress, alive)
