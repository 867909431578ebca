"""Making an image at a place: packed beside its name (or spooled and sent), compared with what it shall hold, shown.

An image appears under its name complete, or not at all; what comes before is hidden, or lies in DLS_HOME/transfers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dls.logistics import digest as digests
from dls.logistics import url
from dls.logistics.entry import FOLDER, Entry
from dls.logistics.errors import Exists
from dls.logistics.frozen import frozen
from dls.logistics.manifest import Manifest
from dls.logistics.store import Store
from dls.logistics.stores.posix import PosixStore
from dls.logistics.transfer.listing import listed
from dls.logistics.url import Url
from dls.madpp import copying
from dls.madpp.action import Context
from dls.madpp.layout import image_wanted

if TYPE_CHECKING:
    from dls.fuse.origin import Origin
    from dls.fuse.pack import Options

_NAME: Final = 195
"""The most a record of a name takes in an image, about, beside the name: 152 bytes of it before compression."""


_PAGE: Final = 4096
"""What the end of a file and a folder take in an EROFS at most, each."""


def size_of(manifest: Manifest, form: str = "squashfs") -> int:
    """A bound for the bytes of an image of this: nothing compressed, every name as long as names are."""
    name = _NAME + (2 * _PAGE if form == "erofs" else 0)  # every file in a folder of its own, as far as is known
    return manifest.size + name * manifest.entries + (1 << 20)


@frozen
class Made:
    """An image that has its name now."""

    manifest: Manifest
    bytes: int
    """Stored, the index included."""


def origin_of(store: Store, manifest: Manifest) -> Origin:
    """What a manifest names in a store, to be packed; every worker opens the store for itself."""
    from dls.fuse.origin_store import StoreOrigin
    from dls.fuse.store import ImageStore

    if isinstance(store, ImageStore):
        above, key = url.parse(store.url).parent
        return StoreOrigin(store, manifest, ("dls.fuse.origin_store:image_store", (str(above), key)))
    return StoreOrigin(store, manifest, ("dls.logistics.registry:open_store", (store.url,)))


def workers_for(address: str) -> int:
    """How many processes may pack from there: none but this one where the bytes are in its memory."""
    return 0 if url.parse(address).scheme == "memory" else -1


def make(context: Context, origin: Origin, address: str, options: Options, accept: Callable[[Manifest], None]) -> Made:
    """Pack `origin` into the file at `address`.  `accept` is shown the manifest before anybody sees the image, and
    raises where it is not what was wanted.  Exists where something lies there and `options` do not replace it."""
    at = url.parse(address)
    above, leaf = at.parent
    store = context.open_store(str(above))
    if store.stamps([leaf])[0] and not options.replace:
        raise taken(address)
    if at.scheme == "file":
        return _beside(context, origin, at, store, options, accept)
    return _sent(context, origin, at, store, options, accept)


def _beside(
    context: Context, origin: Origin, at: Url, store: Store, options: Options, accept: Callable[[Manifest], None]
) -> Made:
    """In the folder where it shall be, under a hidden name; what a killed run leaves there the next one removes."""
    from dls.fuse import leftovers

    above, leaf = at.parent
    folder = b"/" + above.path
    hidden = leftovers.PREFIX + _id(at).encode()
    if above.path and not store.exists():
        parent, name = above.parent
        context.open_store(str(parent)).make([Entry(name, FOLDER)])

    def show(path: Path) -> None:
        store.move([(hidden, leaf)], over=options.replace)
        if context.options.durability == "power":
            with context.progress.sync():
                store.sync()

    with _gone(Path(os.fsdecode(folder + b"/" + hidden))) as path:
        return _packed(context, origin, path, options, accept, show)


def _sent(
    context: Context, origin: Origin, at: Url, store: Store, options: Options, accept: Callable[[Manifest], None]
) -> Made:
    """Spooled here, then copied there like any file, hashed on the way.  Killed, it is packed and sent anew."""
    leaf = at.parent[1]
    folder = context.folder / f"{_id(at)}.image"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def show(path: Path) -> None:
        source = PosixStore(folder)
        wanted = replace(listed(source, context.folder, only=leaf), name=image_wanted(str(at)))
        link = (f"file://{folder}", f"{at.scheme}://{at.place}")
        may = copying.replacing(context.options, {leaf} if options.replace else ())
        outcome = copying.copy(context, source, store, b"", wanted, link, may)
        copying.failed(outcome.failures, f"sending {at}")

    try:
        with _gone(Path(folder, os.fsdecode(leaf))) as path:
            return _packed(context, origin, path, options, accept, show)
    finally:
        with suppress(OSError):
            folder.rmdir()


def _packed(
    context: Context,
    origin: Origin,
    path: Path,
    options: Options,
    accept: Callable[[Manifest], None],
    show: Callable[[Path], None],
) -> Made:
    """Pack, look at what came of it, and show it; nobody sweeps it away meanwhile."""
    from dls.fuse import leftovers
    from dls.fuse.image import open_image as opened
    from dls.fuse.pack import pack

    context.progress.phase = "packing"
    result = pack(origin, str(path), options._replace(replace=True), context.progress, context.options.fence)
    with path.open("rb") as mine:
        leftovers.hold(mine.fileno())
        manifest = opened(str(path)).manifest  # what is mapped stays readable under any name
        accept(manifest)
        context.options.fence()
        show(path)
    return Made(manifest, result.bytes)


@contextmanager
def _gone(path: Path) -> Iterator[Path]:
    """A file of ours that is not there any more afterwards, whatever an earlier run left."""
    try:
        yield path
    finally:
        with suppress(OSError):
            path.unlink()


def _id(at: Url) -> str:
    return digests.of(f"image at {at}".encode("utf-8", "surrogateescape")).hex()[:32]


def stored(context: Context, address: str) -> int:
    """Bytes of the one file at an address."""
    above, leaf = url.parse(address).parent
    return context.open_store(str(above)).stat(leaf).entry.size


def taken(address: str) -> Exists:
    """The error of a name at which something else lies."""
    return Exists(
        f"{address} holds something else",
        code="target-differs",
        store=address,
        remedy="nothing was changed; choose another name, or let it be replaced (--replace)",
    )
