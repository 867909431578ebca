"""`dls pack`: many files into one image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from dls.cli.command import detach, dry_run, durability, verb
from dls.cli.front import Answer, Front
from dls.cli.images import packing
from dls.cli.words import files, place
from dls.logistics import digest as digests
from dls.logistics import url
from dls.logistics.duration import show_size
from dls.logistics.errors import Invalid

if TYPE_CHECKING:
    from dls.fuse.pack import Options


@verb("pack")
@click.argument("source", metavar="FOLDER|URL|SCOPE:NAME[@VERSION]")
@click.argument("image", metavar="IMAGE|URL")
@click.option("--as", "as_", default="", metavar="SCOPE:NAME", help="Register what is packed as this dataset.")
@click.option("--owner", default="", metavar="UID:GID", help="Who owns everything inside; as at the source else.")
@click.option("--xattrs", type=click.Choice(["user", "all", "none"]), default="user", help="Which attributes are kept.")
@click.option("--format", "form", type=click.Choice(["squashfs", "erofs"]), default="squashfs", help="Of the image.")
@click.option("--level", type=click.IntRange(1, 19), default=2, help="Effort of the compression (zstd).")
@click.option("--workers", type=click.IntRange(0), default=None, help="Processes; as many as this machine has else.")
@click.option("--replace", is_flag=True, help="Take the place of an image that is there.")
@dry_run
@detach
@durability
def pack(
    front: Front,
    source: str,
    image: str,
    as_: str,
    owner: str,
    xattrs: str,
    form: str,
    level: int,
    workers: int | None,
    replace: bool,
    dry_run: bool,
    detach: bool,
    durability: str | None,
) -> None:
    """Put many files into one that any kernel mounts (SquashFS), with an index for `dls mount`.

    The same tree gives the same bytes.  The image appears when it is complete and was read back.  Of a dataset, or with
    --as, it is compared with what was registered and recorded as a replica; a folder into a file of this machine needs
    no catalogue.  With --format erofs it is an EROFS whose data are not compressed: larger, and quicker for the kernel.
    """
    far = "://" in source or "://" in image
    if url.is_dataset(source) or as_ or far or dry_run or detach or durability:
        from dls.madpp.actions.pack import Pack

        if workers is not None:
            raise Invalid(
                "--workers is for packing a folder into a file of this machine, without --as",
                code="bad-usage",
                remedy="leave --workers out",
            )
        action = Pack(source, image, as_, owner, xattrs, level, replace, form)
        front.take(action, _answer, dry_run=dry_run, detach=detach, durability=durability)
        return
    options = packing(owner=owner, xattrs=xattrs, level=level, workers=workers, replace=replace, form=form)
    _plain(front, source, image, options)


def _plain(front: Front, source: str, image: str, options: Options) -> None:
    """A folder into a file: nobody is asked, nothing is recorded."""
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
        f"  mount it with dls mount {place(image)} FOLDER, or as any {options.form.shown}",
    ]
    front.out.result(facts, image, lines)


def _answer(facts: dict[str, Any]) -> Answer:
    what = facts["dataset"] or place(facts["from"])
    there = ", which was there already" if facts["kept"] else ""
    size = f"  {files(facts['files'])}, {show_size(facts['bytes'])} in {show_size(facts['stored'])}"
    saved = f"  the buffer {facts['saved_buffer']} is clean now" if facts["saved_buffer"] else ""
    return Answer(facts["url"], (f"{what} is packed in {place(facts['url'])}{there}", size, saved))
