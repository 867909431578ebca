"""Images: what their commands share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from dls.logistics.errors import Unsupported
from dls.logistics.url import parse

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
    at = parse(image, str(Path.cwd()))
    if at.scheme == "file":
        from dls.fuse.image import open_image

        return open_image(os.fsdecode(b"/" + at.path))
    from dls.fuse.remote import LIMIT, open_remote
    from dls.logistics.registry import open_store

    above, key = at.parent
    return open_remote(open_store(above), key, cache_folder=cache_folder, cache_bytes=cache_bytes or LIMIT)
