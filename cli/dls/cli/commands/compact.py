"""`dls compact`: one image of layers."""

from __future__ import annotations

import click

from dls.cli.command import verb
from dls.cli.front import Front
from dls.cli.images import packing
from dls.cli.words import files, place
from dls.logistics import digest as digests
from dls.logistics.duration import show_size


@verb("compact")
@click.argument("stack", metavar="LAYER")
@click.argument("image", metavar="IMAGE")
@click.option("--owner", default="", metavar="UID:GID", help="Who owns everything inside; as it is else.")
@click.option("--level", type=click.IntRange(1, 19), default=2, help="Effort of the compression (zstd).")
@click.option("--workers", type=click.IntRange(0), default=None, help="Processes; as many as this machine has else.")
@click.option("--replace", is_flag=True, help="Take the place of an image that is there.")
def compact(front: Front, stack: str, image: str, owner: str, level: int, workers: int | None, replace: bool) -> None:
    """Make one image of a layer and all that it lies on: the same bytes as packing the tree that they show."""
    options = packing(owner=owner, xattrs="all", level=level, workers=workers, replace=replace)
    from dls.fuse.layering import compact

    made = front.watch(lambda progress, tell: compact(stack, image, options, progress))
    facts = {
        "action": "compact",
        "image": image,
        "of": stack,
        "files": made.files,
        "bytes": made.manifest.size,
        "stored": made.bytes,
        "content": digests.text(made.manifest.content),
        "seconds": round(made.seconds, 3),
    }
    lines = [
        f"{image}: {files(made.files)}, {show_size(made.manifest.size)} in {show_size(made.bytes)}",
        f"  it needs nothing below it: dls mount {place(image)} FOLDER",
    ]
    front.out.result(facts, image, lines)
