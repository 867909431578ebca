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


def opened(path: str) -> Image:
    """The image in a file."""
    needs()
    from dls.fuse.image import open_image

    return open_image(path)
