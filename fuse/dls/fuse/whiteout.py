"""Whiteouts: how a layer says that a name is gone, in the words of the kernel's overlayfs.

A name that is gone is a character device 0/0; a folder that shows nothing of what lies below it has the attribute
`trusted.overlay.opaque` (or `user.overlay.opaque`) with the value `y`: Documentation/filesystems/overlayfs.rst.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Final

from dls.fuse.records import MODE, RDEV, U32, Attr
from dls.fuse.source import Item
from dls.logistics import names
from dls.logistics.errors import Unsupported

OPAQUE: Final = (b"trusted.overlay.opaque", b"y")
"""What a layer of ours says of a folder."""
_OPAQUE: Final = frozenset({b"trusted.overlay.opaque", b"user.overlay.opaque"})
_MOVED: Final = frozenset({b"trusted.overlay.redirect", b"user.overlay.redirect"})
_PRIVATE: Final = (b"trusted.overlay.", b"user.overlay.")
_DEVICE: Final = 0o020000


def hides(attr: Attr) -> bool:
    """Whether this is a whiteout."""
    return attr.mode >> 12 == 2 and not attr.rdev


def record_hides(record: bytes) -> bool:
    """The same of a record."""
    return U32.unpack_from(record, MODE)[0] >> 12 == 2 and not U32.unpack_from(record, RDEV)[0]


def item(path: bytes) -> Item:
    """What stands in a layer for a name that is gone: the same for all of them."""
    return Item(path, _DEVICE, 0, 0, 0)


def opaque(folder: Item) -> Item:
    """The folder, hiding what lies below it."""
    return folder._replace(xattrs=tuple(sorted((*folder.xattrs, OPAQUE))))


def covers(xattrs: Iterable[tuple[bytes, bytes]], where: str) -> bool:
    """Whether a folder with these attributes hides what lies below it; Unsupported where it was moved by overlayfs."""
    found = False
    for name, value in xattrs:
        if name in _MOVED:
            raise Unsupported(
                f"a layer in {where} was written with redirect_dir, which only the kernel follows", code="moved-folder",
                remedy="mount it by the kernel's overlayfs, and pack what is shown there",
            )  # fmt: skip
        found = found or (name in _OPAQUE and value == b"y")
    return found


def shown(xattrs: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """Without those that overlayfs keeps for itself."""
    return {name: value for name, value in xattrs.items() if not name.startswith(_PRIVATE)}


def check(one: Item, where: str) -> None:
    """Unsupported where a layer with this item would say something else than is meant."""
    kind = one.mode & 0o170000
    odd = kind == _DEVICE and one.device == os.makedev(0, 0)
    if odd or (one.xattrs and any(name.startswith(_PRIVATE) for name, _ in one.xattrs)):
        shown = names.show(one.path)
        what = "is a character device 0/0" if odd else "has an attribute of overlayfs"
        raise Unsupported(
            f"{where}/{shown} {what}: in a layer that means that something is gone", code="reads-as-deleted",
            key=shown, store=where, remedy="remove it, or pack the whole with dls pack",
        )  # fmt: skip
