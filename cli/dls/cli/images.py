"""Images: what their commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dls.fuse.image import Image


def needs() -> None:
    """Unsupported where the libraries of images, an extra, are not installed."""
    from dls.fuse import installed

    installed.check()


def opened(image: str, *, cache_folder: str = "", cache_bytes: int = 0) -> Image:
    """The image in a file, or at an address (`s3://…`, `https://…`)."""
    needs()
    from dls.fuse.remote import LIMIT, open_at

    return open_at(image, cache_folder=cache_folder, cache_bytes=cache_bytes or LIMIT)
