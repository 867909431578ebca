"""`dls pack`, `unpack`, `cat`, `mount`, `umount`, `mounts`: many files in one image."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from dls.cli.command import verb
from dls.cli.front import Front
from dls.cli.render import Column
from dls.cli.words import files, place
from dls.logistics import digest as digests
from dls.logistics.duration import read_duration, show_size
from dls.logistics.errors import Invalid, Unsupported

if TYPE_CHECKING:
    from dls.fuse.image import Image

MISSING = "pip install 'dls[images]'"


def _needs() -> None:
    """The libraries of images are an extra."""
    try:
        import dls.fuse.codec  # noqa: F401 - whether it can be imported is the question
    except ImportError as exc:
        raise Unsupported(f"images need {exc.name}", code="missing-extra", remedy=MISSING) from exc


def opened(path: str) -> Image:
    """The image in a file."""
    _needs()
    from dls.fuse.image import open_image

    return open_image(path)


def _owner(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    user, _, group = text.partition(":")
    if not user.isdigit() or not (group or user).isdigit():
        raise Invalid(
            f"--owner {text!r}: two numbers are wanted",
            code="bad-usage",
            remedy="write --owner 0:0, or --owner 1000:1000",
        )
    return int(user), int(group or user)


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
    _needs()
    from dls.fuse import source as sources
    from dls.fuse.pack import Options, pack
    from dls.fuse.work import Form

    keep = {"user": sources.user_attributes, "all": sources.all_attributes, "none": sources.no_attributes}[xattrs]
    options = Options(
        form=Form(level=level),
        workers=-1 if workers is None else workers,
        owner=_owner(owner),
        attributes=keep,
        replace=replace,
    )

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


@verb("unpack")
@click.argument("image", metavar="IMAGE")
@click.argument("folder", metavar="FOLDER")
def unpack(front: Front, image: str, folder: str) -> None:
    """Write what an image holds into a folder, every file compared with what was packed."""
    with opened(image) as found:
        from dls.fuse.unpack import unpack

        def work(progress: Any, tell: Any) -> Any:
            progress.phase = "copying"
            progress.files_total, progress.bytes_total = found.manifest.files, found.manifest.size
            return unpack(found, folder, progress=progress)

        done = front.watch(work)
    facts = {"action": "unpack", "folder": folder, "files": done.files, "bytes": done.bytes}
    front.out.result(facts, folder, [f"{place(folder)}: {files(done.files)}, {show_size(done.bytes)}, all as packed"])


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
    _needs()
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


@verb("umount")
@click.argument("folder", metavar="FOLDER")
@click.option("--lazy", is_flag=True, help="Take it away even while it is used; who uses it may go on.")
def umount(front: Front, folder: str, lazy: bool) -> None:
    """Unmount an image."""
    _needs()
    from dls.fuse import mounting

    mounting.unmount(folder, lazy=lazy)
    front.out.result({"action": "umount", "folder": folder}, folder, [f"{place(folder)} is unmounted"])


@verb("mounts")
def mounts(front: Front) -> None:
    """Images that are mounted on this machine."""
    _needs()
    from dls.fuse import mounting

    columns = [
        Column("folder", lambda row: place(row["folder"])),
        Column("image", lambda row: place(row["image"])),
        Column("state", lambda row: "answers" if row["alive"] else "dead: dls umount it"),
    ]
    front.out.rows("mount", columns, _rows(mounting.mounted()), none="nothing is mounted")


def _rows(found: list[Any]) -> Iterator[dict[str, Any]]:
    for one in found:
        yield {"folder": one.folder, "image": one.image, "alive": one.alive}
