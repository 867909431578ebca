"""Big: one file of 4 GB (reduced 512 MB), disk→disk, beside cp, rsync and rclone; every clock stops after a sync."""

from __future__ import annotations

from contextlib import ExitStack

from bench import ours, peers
from bench.rounds import Bench, Place
from bench.scene import big_size
from bench.verify import same_files
from components import tree


def benches(stack: ExitStack, place: Place, full: bool) -> list[Bench]:
    """Make the source and list who takes part."""
    source = place.large / "big-local-source"
    files, size = 1, tree.large(source / "big", big_size(full))
    check = same_files(source, lambda turn: turn.target)
    return [
        Bench(
            "big-local",
            files,
            size,
            [
                ours.stage_dataset("bench:data", f"file://{source}", check),
                ours.stage_in(f"file://{source}", check, name="dls-url"),
                *peers.local(source, check),
            ],
            peer="cp",
            floor="floor-hash-copy",
            targets=place.large,
            durability="power",
            keep=False,
        )
    ]
