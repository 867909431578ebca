"""`dls mount`: an image, or a dataset wherever it lies, as a folder."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from dls.cli.command import verb
from dls.cli.front import Front
from dls.cli.images import needs, opened
from dls.cli.words import place
from dls.logistics import digest as digests
from dls.logistics import url
from dls.logistics.duration import read_duration, read_size

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dls.fuse.mounting import MountOptions
    from dls.fuse.tree import Tree


@verb("mount")
@click.argument("images", metavar="IMAGE|SCOPE:NAME[@VERSION]...", nargs=-1, required=True)
@click.argument("folder", metavar="FOLDER")
@click.option("--foreground", "-f", is_flag=True, help="Serve until it is unmounted; messages to standard error.")
@click.option("--allow-other", is_flag=True, help="Other users may look too, as far as modes and owners let them.")
@click.option("--union", is_flag=True, help="Several images as one tree, the first one on top.")
@click.option(
    "--servers", type=click.IntRange(1, 64), help="Processes that answer; else one, and one more while it is busy."
)
@click.option(
    "--cache", default="", metavar="PATH", help="Where pieces of remote images are kept; shared by all mounts."
)
@click.option("--cache-size", default="10GB", metavar="SIZE", help="How much of them, of all images together.")
@click.option("--idle-timeout", default="", metavar="PT10M", help="Unmount once nobody used it for so long.")
@click.option(
    "--with",
    "how",
    type=click.Choice(["auto", "kernel-wire", "libfuse"]),
    default="auto",
    help="Our own server, or libfuse, where only that can mount.",
)
def mount(
    front: Front,
    images: tuple[str, ...],
    folder: str,
    foreground: bool,
    allow_other: bool,
    union: bool,
    servers: int | None,
    cache: str,
    cache_size: str,
    idle_timeout: str,
    how: str,
) -> None:
    """Mount an image on a folder; needs no root (fusermount3).  Every byte is checked when it is read.

    IMAGE is a file, or an address (s3://…, https://…): then only what is read is fetched.  Of a dataset the best copy
    is mounted: an image of this machine, one elsewhere, else its files as they lie.

    A layer (dls layer) finds what it lies on beside it; BASE.sqfs+LAYER.sqfs names all, the lowest first.  Several
    IMAGEs are shown side by side, each in a folder of its own: NAME=IMAGE, or the name of the image.

    Archives of other tools (SquashFS, tar, zip, rar, ext) are mounted too, with the checks that their format has.
    """
    needs()
    from dls.fuse import libfuse, mounting

    by_libfuse = libfuse.wanted(how)
    idle = read_duration(idle_timeout) if idle_timeout else 0
    options = mounting.MountOptions(allow_other or None, servers or 0, float(idle))
    folder = os.path.abspath(folder)  # noqa: PTH100 - links stay as they are written
    kept: dict[str, Any] = {
        "cache_folder": cache or str(front.own("cache") / "images"),
        "cache_bytes": read_size(cache_size),
    }
    name, opener, dataset = _shown(front, images, union, kept)
    started = time.monotonic()
    if foreground:
        _here(front, name, opener, folder, options, by_libfuse)
        return
    keeper = (libfuse if by_libfuse else mounting).in_background(name, opener, folder, options, _log(front, folder))
    facts = {"action": "mount", "image": name, "dataset": dataset, "folder": folder, "keeper": keeper}
    took = time.monotonic() - started
    what = f"{dataset} ({place(name)})" if dataset else place(name)
    front.out.result({**facts, "seconds": round(took, 3)}, folder, [f"{what} is mounted on {place(folder)}"])


def _here(
    front: Front, name: str, opener: Callable[[], Tree], folder: str, options: MountOptions, by_libfuse: bool
) -> None:
    """Serve a mount by this process until it is gone."""
    from dls.fuse import libfuse, mounting

    def tell(text: str) -> None:
        front.out.tell("note", {"text": text})

    if by_libfuse:
        libfuse.check(options)
        libfuse.serve(name, opener, folder, options, tell)
        return
    tree = mounting.looked(opener)
    fd = mounting.mount(name, folder, options)
    tell(f"{folder} is mounted; end it with dls umount or Ctrl-C")
    mounting.serve(opener, folder, fd, options, tell, tree)


class _Shown(NamedTuple):
    """What is mounted: how it is called, how a process opens it, which dataset it is."""

    name: str
    opener: Callable[[], Tree]
    dataset: str = ""


def _shown(front: Front, images: Sequence[str], union: bool, kept: dict[str, Any]) -> _Shown:
    """One image, several on top of one another, or several side by side."""
    if len(images) == 1 and "=" not in images[0] and not union:
        return _one(front, images[0], kept)
    from dls.fuse import beside, layers

    if union:
        shown = [_one(front, image, kept) for image in images]
        return _Shown(" over ".join(one.name for one in shown), partial(layers.open_over, [s.opener for s in shown]))
    named = [beside.named_of(image) for image in images]
    if [image for _, image in named] == [images[0]]:
        return _one(front, images[0], kept)
    pairs = [(name, _one(front, image, kept)) for name, image in named]
    openers = [(name, one.opener) for name, one in pairs]
    return _Shown(", ".join(one.name for _, one in pairs), partial(beside.open_beside, openers))


def _one(front: Front, image: str, kept: dict[str, Any]) -> _Shown:
    if url.is_dataset(image):
        from dls.cli import views

        view = views.best(front, image, kept)
        return _Shown(view.name, view.opener, view.dataset)
    from dls.fuse.layers import absolute

    name, watching = absolute(image), [front]

    def opener() -> Tree:
        """The first reading of an archive takes its time, and is shown to whoever asked."""
        return opened(name, front=watching.pop() if watching else None, **kept)

    return _Shown(name, opener)


def _log(front: Front, folder: str) -> str:
    """Where a mount writes what goes wrong; '' where it cannot."""
    where = front.own("mounts")
    with suppress(OSError):
        where.mkdir(parents=True, exist_ok=True)
        return str(where / f"{digests.of(os.fsencode(folder)).hex()[:16]}.log")
    return ""
