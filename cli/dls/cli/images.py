"""Images: what their commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dls.fuse.pack import Options
    from dls.fuse.tree import Tree


def needs() -> None:
    """Unsupported where the libraries of images, an extra, are not installed."""
    from dls.fuse import installed

    installed.check()


def opened(image: str, *, cache_folder: str = "", cache_bytes: int = 0) -> Tree:
    """The image in a file, or at an address (`s3://…`, `https://…`); a layer with all that it lies on."""
    needs()
    from dls.fuse.layers import open_stack

    return open_stack(image, cache_folder, cache_bytes)


def packing(*, owner: str, xattrs: str, level: int, workers: int | None, replace: bool) -> Options:
    """How to pack, from the words of a command."""
    needs()
    from dls.fuse.pack import asked

    return asked(owner=owner, xattrs=xattrs, level=level, workers=-1 if workers is None else workers, replace=replace)
