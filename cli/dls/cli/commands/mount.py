"""`dls mount`: an image as a folder."""

from __future__ import annotations

import os
import time
from contextlib import suppress

import click

from dls.cli.command import verb
from dls.cli.front import Front
from dls.cli.images import needs, opened
from dls.cli.words import place
from dls.logistics import digest as digests
from dls.logistics.duration import read_duration


@verb("mount")
@click.argument("image", metavar="IMAGE")
@click.argument("folder", metavar="FOLDER")
@click.option("--foreground", "-f", is_flag=True, help="Serve until it is unmounted; messages to standard error.")
@click.option("--allow-other", is_flag=True, help="Other users may look too, as far as modes and owners let them.")
@click.option("--servers", type=click.IntRange(1, 64), default=1, help="Processes that answer.")
@click.option("--idle-timeout", default="", metavar="PT10M", help="Unmount once nobody used it for so long.")
def mount(
    front: Front, image: str, folder: str, foreground: bool, allow_other: bool, servers: int, idle_timeout: str
) -> None:
    """Mount an image on a folder; needs no root (fusermount3).  Every byte is checked when it is read."""
    needs()
    from dls.fuse import mounting

    idle = read_duration(idle_timeout) if idle_timeout else 0
    options = mounting.MountOptions(allow_other or None, servers, float(idle))
    path, folder = os.path.abspath(image), os.path.abspath(folder)  # noqa: PTH100 - links stay as they are written
    started = time.monotonic()
    if foreground:
        with opened(path):
            pass
        fd = mounting.mount(path, folder, options)
        front.out.tell("note", {"text": f"{folder} is mounted; end it with dls umount or Ctrl-C"})
        mounting.serve(path, folder, fd, options, lambda text: front.out.tell("note", {"text": text}))
        return
    keeper = mounting.in_background(path, folder, options, _log(front, folder))
    facts = {"action": "mount", "image": path, "folder": folder, "keeper": keeper}
    took = time.monotonic() - started
    front.out.result({**facts, "seconds": round(took, 3)}, folder, [f"{place(path)} is mounted on {place(folder)}"])


def _log(front: Front, folder: str) -> str:
    """Where a mount writes what goes wrong; '' where it cannot."""
    where = front.folder / "mounts"
    with suppress(OSError):
        where.mkdir(parents=True, exist_ok=True)
        return str(where / f"{digests.of(os.fsencode(folder)).hex()[:16]}.log")
    return ""
