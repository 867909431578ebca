"""Images: what their commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dls.cli.front import Front, Tell
    from dls.fuse.pack import Options
    from dls.fuse.tree import Tree
    from dls.logistics.transfer.progress import Progress

NO_DIGESTS = "as its format can check: it holds no digests"


def needs() -> None:
    """Unsupported where the libraries of images, an extra, are not installed."""
    from dls.fuse import installed

    installed.check()


def opened(image: str, *, cache_folder: str = "", cache_bytes: int = 0, front: Front | None = None) -> Tree:
    """The image or archive in a file, or at an address (`s3://…`, `https://…`); a layer with all that it lies on.

    With a `front`, people see how the first reading of an archive goes on, and what is odd about it.
    """
    needs()
    from dls.fuse.layers import open_stack

    if front is None:
        return open_stack(image, cache_folder, cache_bytes)
    kept = cache_folder or str(front.own("cache") / "images")

    def work(progress: Progress, tell: Tell) -> Tree:
        return open_stack(image, cache_folder, cache_bytes, index_folder=kept, progress=progress)

    tree = front.watch(work)
    for note in tree.notes:
        front.out.tell("note", {"text": f"{image}: {note}"})
    return tree


def packing(
    *, owner: str, xattrs: str, level: int, workers: int | None, replace: bool, form: str = "squashfs"
) -> Options:
    """How to pack, from the words of a command."""
    needs()
    from dls.fuse.pack import asked

    count = -1 if workers is None else workers
    return asked(owner=owner, xattrs=xattrs, level=level, workers=count, replace=replace, form=form)
