"""Small: 20,000 × 10 KB (reduced 2,000), disk→disk, beside cp, rsync and rclone; every clock stops after a sync."""

from __future__ import annotations

from contextlib import ExitStack

from bench import ours, peers
from bench.rounds import Bench, Place
from bench.scene import SMALL, small_count
from bench.verify import same_files
from components import tree


def benches(stack: ExitStack, place: Place, full: bool) -> list[Bench]:
    """Make the source and list who takes part."""
    source = place.disk / "small-local-source"
    files = small_count(full)
    size = tree.small(source, files, size=SMALL)
    check = same_files(source, lambda turn: turn.target)
    return [
        Bench(
            "small-local",
            files,
            size,
            [
                ours.stage_dataset("bench:data", f"file://{source}", check),
                ours.stage_in(f"file://{source}", check, name="dls-url"),
                *peers.local(source, check),
            ],
            peer="cp",
            floor="floor-hash-copy",
            targets=place.disk,
            durability="power",
            keep=True,
        )
    ]
