"""`dls cat`: one file of an image."""

from __future__ import annotations

import os

import click

from dls.cli.command import verb
from dls.cli.front import Front
from dls.cli.images import opened
from dls.logistics.errors import Invalid


@verb("cat")
@click.argument("image", metavar="IMAGE")
@click.argument("path", metavar="PATH")
def cat(front: Front, image: str, path: str) -> None:
    """Write one file of an image to standard output, without a mount."""
    with opened(image) as found:
        attr = found.find(os.fsencode(path))
        if attr.mode >> 12 != 8:
            raise Invalid(f"{path} is no file", code="not-a-file", remedy="name a file in the image")
        for at in range(0, attr.size, 1 << 20):
            front.raw(found.read(attr, at, at + (1 << 20)))
