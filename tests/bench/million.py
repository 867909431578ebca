"""How cost grows: 10^4, 10^5 (full: 10^6) files of 1 KB registered, staged, found up to date; memory and slope."""

from __future__ import annotations

from contextlib import ExitStack

from bench import ours, peers
from bench.rounds import Bench, Place
from bench.verify import same_files
from components import tree

SIZE = 1_000
DATASET = "bench:million"


def benches(stack: ExitStack, place: Place, full: bool) -> list[Bench]:
    """List three works at each size."""
    return [bench for files in (10**4, 10**5, *((10**6,) if full else ())) for bench in _at(place, files)]


def _at(place: Place, files: int) -> list[Bench]:
    source = place.disk / f"million-source-{files}"
    size = tree.small(source, files, size=SIZE)
    url = f"file://{source}"
    check = same_files(source, lambda turn: turn.target)
    hashing = peers.floor("floor-hash-only", lambda turn: [source])
    copying = peers.floor("floor-hash-copy", lambda turn: [source, turn.target], check)
    scanning = peers.floor("floor-scan", lambda turn: [source])
    works = (
        ("million-register", [ours.register(DATASET, url), hashing], "process", False),
        ("million-stage", [ours.stage_dataset(DATASET, url, check), copying], "power", False),
        ("million-rerun", [ours.stage_dataset_again(DATASET, url), scanning], "process", True),
    )
    return [
        Bench(
            name,
            files,
            size,
            contenders,
            peer=contenders[1].name,
            floor=contenders[1].name,
            targets=place.disk,
            durability=durability,
            rerun=rerun,
        )
        for name, contenders, durability, rerun in works
    ]
