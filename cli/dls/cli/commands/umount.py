"""`dls umount`: end a mount."""

from __future__ import annotations

import click

from dls.cli.command import verb
from dls.cli.front import Front
from dls.cli.images import needs
from dls.cli.words import place


@verb("umount")
@click.argument("folder", metavar="FOLDER")
@click.option("--lazy", is_flag=True, help="Take it away even while it is used; who uses it may go on.")
def umount(front: Front, folder: str, lazy: bool) -> None:
    """Unmount an image."""
    needs()
    from dls.fuse import mounting

    mounting.unmount(folder, lazy=lazy)
    front.out.result({"action": "umount", "folder": folder}, folder, [f"{place(folder)} is unmounted"])
