"""`dls cat`: one file of an image, or of a dataset wherever it lies."""

from __future__ import annotations

import os

import click

from dls.cli.command import verb
from dls.cli.front import Front
from dls.cli.images import opened
from dls.logistics import names, url
from dls.logistics.errors import Invalid


@verb("cat")
@click.argument("what", metavar="IMAGE|SCOPE:NAME[@VERSION]")
@click.argument("path", metavar="PATH", default="")
def cat(front: Front, what: str, path: str) -> None:
    """Write one file of an image, or of a dataset, to standard output, without a mount; every byte is checked.

    IMAGE is a file or an address.  SCOPE:NAME/PATH in one word will do, too.
    """
    if url.is_dataset(what):
        _of_dataset(front, what, path)
        return
    if not path:
        raise Invalid("which file of the image?", code="bad-usage", remedy="write dls cat IMAGE PATH")
    with opened(what, front=front) as found:
        attr = found.find(os.fsencode(path))
        if attr.mode >> 12 != 8:
            raise Invalid(f"{path} is no file", code="not-a-file", remedy="name a file in the image")
        for at in range(0, attr.size, 1 << 20):
            front.raw(found.read(attr, at, at + (1 << 20)))


def _of_dataset(front: Front, what: str, path: str) -> None:
    from dls.madpp import reading
    from dls.madpp.action import Context

    id = url.dataset(what)
    if bool(path) == bool(id.path):
        raise Invalid("which file of the dataset?", code="bad-usage", remedy="write dls cat SCOPE:NAME PATH")
    key = names.read(path) if path else id.path

    def work(context: Context) -> None:
        wanted = reading.found(context, what)
        for piece in reading.pieces(context, wanted, reading.entry_of(context, wanted, key)):
            front.raw(piece)

    front.dls.look(work, tell=front.out.tell)
