"""`dls mounts`: what is mounted on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dls.cli.command import verb
from dls.cli.front import Front
from dls.cli.images import needs
from dls.cli.render import Column
from dls.cli.words import place


@verb("mounts")
def mounts(front: Front) -> None:
    """Images that are mounted on this machine.

    A mount that is dead, or stays silent, is taken away with dls umount --lazy.
    """
    needs()
    from dls.fuse import mounting

    columns = [
        Column("folder", lambda row: place(row["folder"])),
        Column("image", lambda row: place(row["image"])),
        Column("state", lambda row: row["state"]),
    ]
    front.out.rows("mount", columns, _rows(mounting.mounted()), none="nothing is mounted")


def _rows(found: list[Any]) -> Iterator[dict[str, Any]]:
    for one in found:
        yield {"folder": one.folder, "image": one.image, "state": one.state()}
