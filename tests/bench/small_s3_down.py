"""Small: 20,000 × 10 KB (reduced 2,000), S3→disk, beside s5cmd and rclone, in memory at both ends."""

from __future__ import annotations

from contextlib import ExitStack

from bench import ours, peers
from bench.rounds import Bench, Place
from bench.scene import BUCKET, small_s3
from bench.verify import same_files


def benches(stack: ExitStack, place: Place, full: bool) -> list[Bench]:
    """Start the server and list who takes part."""
    scene = small_s3(stack, place, full)
    check = same_files(scene.source, lambda turn: turn.target)
    url, env = f"s3://{BUCKET}/{scene.prefix}", scene.server.env()
    first = ours.stage_dataset("bench:data", url, check, env)
    unknown = ours.stage_in(url, check, env, name="dls-url")
    return [
        Bench(
            "small-s3-down",
            scene.files,
            scene.bytes,
            [first, unknown, *peers.small_down(scene, check)],
            peer="s5cmd",
            floor="floor-obstore-get",
            targets=place.memory,
            keep=False,
            servers=scene.pids,
        )
    ]
