"""Nothing to do: 10^6 files of 1 KB (reduced 10^5) in place and staged again, beside rsync, rclone and a bare scan."""

from __future__ import annotations

import subprocess
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from bench import ours, peers
from bench.contender import Contender, Turn
from bench.rounds import Bench, Place
from components import tree

SIZE = 1_000


def benches(stack: ExitStack, place: Place, full: bool) -> list[Bench]:
    """Make source and copy (one copy serves all peers: none of them writes) and list who takes part."""
    files = 1_000_000 if full else 100_000
    source, copy = place.disk / "noop-source", place.disk / "noop-copy"
    size = tree.small(source, files, size=SIZE)
    subprocess.run(["cp", "-a", source, copy], check=True)
    return [
        Bench(
            "noop-rerun",
            files,
            size,
            [ours.stage_in_again(f"file://{source}"), *_peers(source, copy)],
            peer="rsync",
            floor="floor-scan",
            targets=place.disk,
            rerun=True,
        )
    ]


def _peers(source: Path, copy: Path) -> list[Contender]:
    def nothing_copied(turn: Turn) -> str:
        told = (turn.work / "log").read_text(errors="replace").strip()
        return f"was not idle: {told[:200]}" if told else ""

    both = ("--out-format=%n", f"{source}/", f"{copy}/")
    rclone = peers.rclone("rclone-checksum", lambda turn: [source, copy, "--checksum"], nothing_copied, {})
    return [
        # Both rsyncs print the names that they would have had to copy.
        Contender("rsync", lambda turn: ["rsync", "-a", *both], check=nothing_copied),
        Contender(
            "rsync-checksum",
            lambda turn: ["rsync", "-ac", *both],
            check=nothing_copied,
            verified=True,
        ),
        replace(rclone, env=peers.rclone_env()),
        peers.floor("floor-scan", lambda turn: [source]),
    ]
