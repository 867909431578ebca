"""Packing 10^5 (reduced) or 10^6 small files into one image, beside mksquashfs, gensquashfs, mkfs.erofs and tar.

The files have log-normal sizes (100 B to 64 KB), every second one is text.  The others compress with zstd 3 (tar
and mkfs.erofs do not compress), ours with its default, 2; the size of each image is shown.  Ours hashes every file,
decodes every block again and reads back what it wrote.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

from bench import ours
from bench.contender import Contender, Turn
from bench.rounds import Bench, Place
from components import tree


def benches(stack: ExitStack, place: Place, full: bool) -> list[Bench]:
    """Make the source and list who takes part."""
    files = 1_000_000 if full else 100_000
    source = place.disk / "image-source"
    return [bench("image-pack", source, files, tree.mixed(source, files), place)]


def bench(name: str, source: Path, files: int, size: int, place: Place) -> Bench:
    """Who packs one tree."""

    def told(turn: Turn) -> str:
        """The size of the image is part of the result."""
        out = turn.target
        if not out.exists() or out.stat().st_size < size // 8:
            return f"{out} is not an image of it"
        print(f"  {out.stat().st_size / 1e6:,.1f} MB", flush=True)
        return ""

    def peer(name: str, *words: str) -> Contender:
        return Contender(name, lambda turn: [_filled(word, source, turn.target) for word in words], check=told)

    gensquashfs = ("gensquashfs", "-q", "-c", "zstd", "-X", "level=3", "-D", "{source}", "-f", "{image}")
    mksquashfs = ("mksquashfs", "{source}", "{image}", "-quiet", "-no-progress", "-comp", "zstd")
    return Bench(
        name,
        files,
        size,
        [
            ours.contender("dls", lambda turn: ours.dls("pack", source, turn.target), check=told),
            peer("gensquashfs", *gensquashfs),
            peer("mksquashfs", *mksquashfs, "-Xcompression-level", "3"),
            peer("mkfs.erofs", "mkfs.erofs", "--quiet", "{image}", "{source}"),
            peer("floor-tar", "tar", "cf", "{image}", "-C", "{source}", "."),
        ],
        peer="gensquashfs",
        floor="floor-tar",
        targets=place.large,
        durability="power",
    )


def _filled(word: str, source: Path, image: Path) -> str:
    return word.replace("{source}", os.fspath(source)).replace("{image}", os.fspath(image))
