"""Images: what their commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dls.logistics.errors import Unsupported

if TYPE_CHECKING:
    from dls.fuse.image import Image


def needs() -> None:
    """Unsupported where the libraries of images, an extra, are not installed."""
    try:
        import dls.fuse.codec  # noqa: F401 - whether it can be imported is the question
    except ImportError as exc:
        raise Unsupported(
            f"images need {exc.name}, which is not installed", code="not-installed", remedy="pip install 'dls[images]'"
        ) from exc


def opened(image: str, *, cache_folder: str = "", cache_bytes: int = 0) -> Image:
    """The image in a file, or at an address (`s3://…`, `https://…`)."""
    needs()
    from dls.fuse.remote import LIMIT, open_at

    return open_at(image, cache_folder=cache_folder, cache_bytes=cache_bytes or LIMIT)
