"""Images: what their commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dls.logistics.errors import Invalid

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
    from dls.fuse import source
    from dls.fuse.pack import Options
    from dls.fuse.work import Form

    keep = {"user": source.user_attributes, "all": source.all_attributes, "none": source.no_attributes}[xattrs]
    return Options(
        form=Form(level=level), workers=-1 if workers is None else workers, owner=_owner(owner), attributes=keep,
        replace=replace,
    )  # fmt: skip


def _owner(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    user, _, group = text.partition(":")
    if not user.isdigit() or not (group or user).isdigit():
        raise Invalid(
            f"--owner {text!r}: two numbers are wanted",
            code="bad-usage",
            remedy="write --owner 0:0, or --owner 1000:1000",
        )
    return int(user), int(group or user)
