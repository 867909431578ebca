"""Big: one file of 4 GB (reduced 512 MB), S3→disk, beside s5cmd and rclone, in memory at both ends."""

from __future__ import annotations

from contextlib import ExitStack

from bench import ours, peers
from bench.rounds import Bench, Place
from bench.scene import BUCKET, big_s3
from bench.verify import same_files


def benches(stack: ExitStack, place: Place, full: bool) -> list[Bench]:
    """Start the server and list who takes part."""
    scene = big_s3(stack, place, full)
    check = same_files(scene.source, lambda turn: turn.target)
    url, env = f"s3://{BUCKET}/{scene.prefix}", scene.server.env()
    first = ours.stage_dataset("bench:data", url, check, env)
    unknown = ours.stage_in(url, check, env, name="dls-url")
    return [
        Bench(
            "big-s3-down",
            scene.files,
            scene.bytes,
            [first, unknown, *peers.big_down(scene, check)],
            peer="s5cmd",
            floor="floor-ranges",
            targets=place.memory,
            keep=False,
            servers=scene.pids,
        )
    ]
