"""`dls pack`: many files into one image."""

from __future__ import annotations

from typing import Any

import click

from dls.cli.command import verb
from dls.cli.front import Front
from dls.cli.images import packing
from dls.cli.words import files, place
from dls.logistics import digest as digests
from dls.logistics.duration import show_size


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
    options = packing(owner=owner, xattrs=xattrs, level=level, workers=workers, replace=replace)
    from dls.fuse.pack import pack

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
