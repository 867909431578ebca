"""`dls layer`: what changed, in a small image on top of others."""

from __future__ import annotations

import os
from typing import Any

import click

from dls.cli.command import verb
from dls.cli.front import Front
from dls.cli.images import packing
from dls.cli.words import files, place
from dls.logistics import digest as digests
from dls.logistics.duration import show_size
from dls.logistics.errors import Invalid


@verb("layer")
@click.argument("words", metavar="[FOLDER] IMAGE", nargs=-1, required=True)
@click.option("--onto", required=True, metavar="BASE", help="The image, or layer, that the new one lies on.")
@click.option("--add", is_flag=True, help="Lay FOLDER over what is there; what FOLDER lacks stays.")
@click.option("--delete", multiple=True, metavar="PATH", help="Take this name away, with all that is in it.")
@click.option("--owner", default="", metavar="UID:GID", help="Who owns everything inside; as at the source else.")
@click.option("--xattrs", type=click.Choice(["user", "all", "none"]), default="user", help="Which attributes are kept.")
@click.option("--level", type=click.IntRange(1, 19), default=2, help="Effort of the compression (zstd).")
@click.option("--workers", type=click.IntRange(0), default=None, help="Processes; as many as this machine has else.")
@click.option("--replace", is_flag=True, help="Take the place of an image that is there.")
def layer(
    front: Front, words: tuple[str, ...], onto: str, add: bool, delete: tuple[str, ...], owner: str, xattrs: str,
    level: int, workers: int | None, replace: bool,
) -> None:  # fmt: skip
    """Put what FOLDER has and BASE has not into IMAGE, and what FOLDER lacks, as gone: FOLDER is the whole tree as it
    shall be.  With --add it is laid over BASE; with --delete alone no FOLDER is needed.

    IMAGE is mounted as BASE is, and finds BASE by itself where both lie together: keep each, and each is a version.
    The kernel's overlayfs shows the same of the two.
    """
    if len(words) > 2 or (len(words) < 2 and not delete) or (add and len(words) < 2):
        raise Invalid(
            "a folder and an image are wanted", code="bad-usage",
            remedy="dls layer FOLDER IMAGE --onto BASE, or dls layer IMAGE --onto BASE --delete PATH",
        )  # fmt: skip
    folder, image = words if len(words) == 2 else (None, words[0])
    options = packing(owner=owner, xattrs=xattrs, level=level, workers=workers, replace=replace)
    from dls.fuse.layering import Edits, layer

    edits = Edits(add or folder is None, tuple(os.fsencode(path.strip("/")) for path in delete))
    made = front.watch(lambda progress, tell: layer(onto, folder, image, options, edits, progress))
    counts, packed = made.counts, made.packed
    facts: dict[str, Any] = {
        "action": "layer",
        "image": image,
        "onto": onto,
        "added": counts.added,
        "changed": counts.changed,
        "deleted": counts.deleted,
        "same": counts.same,
        "files": packed.files,
        "bytes": packed.manifest.size,
        "stored": packed.bytes,
        "content": digests.text(packed.manifest.content),
        "seconds": round(packed.seconds, 3),
    }
    edits_made = f"{counts.added:,} added, {counts.changed:,} changed, {counts.deleted:,} deleted"
    lines = [
        f"{image}: {edits_made}; {files(packed.files)}, {show_size(packed.manifest.size)} in {show_size(packed.bytes)}",
        f"  mount it with dls mount {place(image)} FOLDER; it needs {place(onto)} beside it",
    ]
    front.out.result(facts, image, lines)
