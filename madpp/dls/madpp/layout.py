"""Layout: how a version lies in its place.  The only module that asks: one key for each entry, or all in one image.

A replica is read as a store in either case, so an image serves, is verified and vouches like any other copy.
A buffer that was staged as an image is a folder with that image and nothing else; its label says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dls.catalogue.model import Layout, Replica
from dls.logistics import digest as digests
from dls.logistics import url
from dls.logistics.buffer import Buffer
from dls.logistics.errors import Conflict, Corrupt, Invalid
from dls.logistics.manifest import Manifest
from dls.logistics.store import Store
from dls.madpp.action import Context

if TYPE_CHECKING:
    from dls.fuse.store import ImageStore

IMAGE: Final = b"image.sqfs"
"""Name of the image in a buffer."""
_AS_IMAGE: Final = " as image"


def open_replica(context: Context, replica: Replica) -> Store:
    """A replica as a store whose keys are the version's entries.

    An image that is not there is NotFound, one that is no image (any more), or whose index is damaged, is Corrupt.
    """
    if replica.layout is not Layout.IMAGE:
        return context.open_store(replica.url)
    return open_known(context, replica.url)


def open_known(context: Context, address: str) -> ImageStore:
    """What is on record as an image: Corrupt where it is none any more."""
    try:
        return open_image(context, address)
    except Corrupt:
        return open_image(context, address)  # once more: it may have been the way here
    except (Invalid, Conflict) as exc:
        if exc.code not in ("not-an-image", "wrong-base"):
            raise
        raise Corrupt(exc.message, code="bad-image", store=address, remedy="get the image again") from exc


def open_image(context: Context, address: str) -> ImageStore:
    """The image at an address, as a store."""
    from dls.fuse import installed

    installed.check()
    from dls.fuse.store import open_image_store

    return open_image_store(*_split(context, address))


def by_itself(store: Store) -> bool:
    """Whether a store is an image that needs no other beside it, as a layer does."""
    from dls.fuse.image import Image
    from dls.fuse.store import ImageStore

    return isinstance(store, ImageStore) and isinstance(store.tree, Image)


def is_there(context: Context, replica: Replica, manifest: Manifest) -> bool:
    """Whether anything of a manifest lies at a replica's place, or nothing can: of links alone S3 keeps none."""
    if replica.layout is Layout.IMAGE:
        return bool(stamp_of(context, replica.url))
    store = context.open_store(replica.url)
    return store.exists() or all(store.keeps.kinds.isdisjoint(one.kinds) for one in manifest.segments())


def stamp_of(context: Context, address: str) -> bytes:
    """The stamp of the one file at an address, b'' where there is none."""
    above, key = _split(context, address)
    return above.stamps([key])[0]


def _split(context: Context, address: str) -> tuple[Store, bytes]:
    """The store above the one file at an address, and its name there."""
    above, key = url.parse(address).parent
    if not key:
        raise Invalid(f"{address} names no file", code="bad-url", remedy="write the address of the image: …/NAME.sqfs")
    return context.open_store(str(above)), key


# ------------------------------------------------------------------------------------------------- buffers


def as_image(content: bytes) -> bytes:
    """What stands for a content where it is wanted as an image: other bytes, so another need and another buffer."""
    return digests.of(b"image\n" + content)


def image_label(label: str) -> str:
    """The label of a buffer that holds an image of what `label` names."""
    return label + _AS_IMAGE


def is_image(buffer: Buffer) -> bool:
    """Whether a buffer was made for an image."""
    what = buffer.label.removesuffix(_AS_IMAGE)
    return what != buffer.label and " " not in what  # no id holds a blank; the label of an address does


def image_wanted(address: str) -> str:
    """What is wanted at the address of an image, as places name it, whatever it is copied from."""
    return f"image:{digests.of(address.encode('utf-8', 'surrogateescape')).hex()[:32]}"


def held_url(context: Context, buffer: Buffer) -> str:
    """The address of what a buffer holds: its root, or the image in it."""
    root = url.parse(context.sites.get(buffer.storage).url).below(buffer.root)
    return str(root.below(IMAGE) if is_image(buffer) else root)


def open_held(context: Context, buffer: Buffer) -> Store:
    """What a buffer holds, as a store whose keys are the version's entries."""
    address = held_url(context, buffer)
    return open_known(context, address) if is_image(buffer) else context.open_store(address)
