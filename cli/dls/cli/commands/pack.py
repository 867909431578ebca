"""`dls pack`: many files into one image."""

from __future__ import annotations

from typing import Any

import click

from dls.cli.command import verb
from dls.cli.front import Front
from dls.cli.images import needs
from dls.cli.words import files, place
from dls.logistics import digest as digests
from dls.logistics.duration import show_size
from dls.logistics.errors import Invalid


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


@verb("pack")
@click.argument("source", metavar="FOLDER")
@click.argument("image", metavar="IMAGE")
@click.option("--owner", default="", metavar="UID:GID", help="Who owns everything inside; as at the source else.")
@click.option("--xattrs", type=click.Choice(["user", "all", "none"]), default="user", help="Which attributes are kept.")
@click.option("--level", type=click.IntRange(1, 19), default=3, help="Effort of the compression (zstd).")
@click.option("--workers", type=click.IntRange(0), default=None, help="Processes; as many as this machine has else.")
@click.option("--replace", is_flag=True, help="Take the place of an image that is there.")
def pack(
    front: Front, source: str, image: str, owner: str, xattrs: str, level: int, workers: int | None, replace: bool
) -> None:
    """Put a folder into one file that any kernel mounts (SquashFS), with an index for `dls mount`.

    The same tree gives the same bytes.  The image appears when it is complete and was read back.
    """
    needs()
    from dls.fuse import source as sources
    from dls.fuse.pack import Options, pack
    from dls.fuse.work import Form

    keep = {"user": sources.user_attributes, "all": sources.all_attributes, "none": sources.no_attributes}[xattrs]
    options = Options(
        form=Form(level=level),
        workers=-1 if workers is None else workers,
        owner=_owner(owner),
        attributes=keep,
        replace=replace,
    )

    def work(progress: Any, tell: Any) -> Any:
        progress.phase = "packing"
        return pack(source, image, options, progress)

    made = front.watch(work)
    facts = {
        "action": "pack",
        "image": image,
        "files": made.files,
        "bytes": made.manifest.size,
        "stored": made.bytes,
        "index": made.index_bytes,
        "duplicates": made.duplicates,
        "content": digests.text(made.manifest.content),
        "seconds": round(made.seconds, 3),
    }
    lines = [
        f"{image}: {files(made.files)}, {show_size(made.manifest.size)} in {show_size(made.bytes)}",
        f"  {made.duplicates:,} of them stored once with others; {made.seconds:.1f} s",
        f"  mount it with dls mount {place(image)} FOLDER, or as any SquashFS",
    ]
    front.out.result(facts, image, lines)
