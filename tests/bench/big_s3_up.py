"""Big: one file of 4 GB (reduced 512 MB), disk→S3, beside s5cmd and rclone, in memory at both ends."""

from __future__ import annotations

from contextlib import ExitStack

from bench import ours, peers
from bench.rounds import Bench, Place
from bench.scene import BUCKET, big_s3
from bench.verify import same_files


def benches(stack: ExitStack, place: Place, full: bool) -> list[Bench]:
    """Start the server and list who takes part."""
    scene = big_s3(stack, place, full)
    check = same_files(scene.source, lambda turn: scene.stored(f"up/{turn.tag}"))
    first = ours.stage_out(scene.source, lambda turn: f"s3://{BUCKET}/up/{turn.tag}", check, scene.server.env())
    return [
        Bench(
            "big-s3-up",
            scene.files,
            scene.bytes,
            [first, *peers.big_up(scene, check)],
            peer="s5cmd",
            floor="floor-obstore-multipart",
            targets=place.memory,
            keep=False,
            made=lambda turn: scene.stored(f"up/{turn.tag}"),
            servers=scene.pids,
        )
    ]
