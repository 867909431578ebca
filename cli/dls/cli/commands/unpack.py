"""`dls unpack`: the tree of an image into a folder."""

from __future__ import annotations

from typing import Any

import click

from dls.cli.command import verb
from dls.cli.front import Front
from dls.cli.images import NO_DIGESTS, opened
from dls.cli.words import files, place
from dls.logistics.duration import show_size


@verb("unpack")
@click.argument("image", metavar="IMAGE")
@click.argument("folder", metavar="FOLDER")
def unpack(front: Front, image: str, folder: str) -> None:
    """Write what an image holds into a folder, every file compared with what was packed.

    Archives of other tools (SquashFS, tar, zip, rar, ext) are unpacked with the checks that their format has.
    """
    with opened(image, front=front) as found:
        from dls.fuse.listed import proven
        from dls.fuse.unpack import unpack

        sure = proven(found)

        def work(progress: Any, tell: Any) -> Any:
            progress.phase = "copying"
            progress.files_total, progress.bytes_total = found.counts["files"], found.manifest.size if sure else 0
            return unpack(found, folder, progress=progress)

        done = front.watch(work)
    facts = {"action": "unpack", "folder": folder, "files": done.files, "bytes": done.bytes, "proven": sure}
    how = "all as packed" if sure else NO_DIGESTS
    front.out.result(facts, folder, [f"{place(folder)}: {files(done.files)}, {show_size(done.bytes)}, {how}"])
