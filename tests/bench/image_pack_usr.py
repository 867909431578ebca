"""Packing a real tree, `/usr`, beside the same as in `bench.image_pack`; at full size only."""

from __future__ import annotations

import stat
from contextlib import ExitStack
from pathlib import Path

from bench import image_pack
from bench.rounds import Bench, Place
from components import tree

REAL = Path("/usr")


def benches(stack: ExitStack, place: Place, full: bool) -> list[Bench]:
    """List who takes part; nobody does in a reduced run, since the tree is as large as it is."""
    if not full:
        return []
    found = [info for _, info in tree.walk(REAL) if stat.S_ISREG(info.st_mode)]
    return [image_pack.bench("image-pack-usr", REAL, len(found), sum(info.st_size for info in found), place)]
