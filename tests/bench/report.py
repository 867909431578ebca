"""One table and some JSON lines per bench: times with their spread, ratios to peer and floor, CPU and memory."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from bench.rounds import Bench, Outcome


def table(bench: Bench, outcomes: Sequence[Outcome]) -> str:
    """Lay a bench out as text. A ratio is a rate: 2.0 is twice as fast as the peer or floor."""
    unit = "CPU s/GB" if _is_large(bench) else "CPU s/1000"
    head = ["contender", "wall s (min–max)", f"× {bench.peer}", f"× {bench.floor}", unit, "server", "MB", "verified"]
    peer, floor = (_wall(outcomes, name) for name in (bench.peer, bench.floor))
    rows = []
    for outcome in outcomes:
        walls = [sample.wall for sample in outcome.samples]
        time = f"{outcome.wall:.2f} ({min(walls):.2f}–{max(walls):.2f})" if walls and not outcome.problem else "failed"
        server = sorted(outcome.server_cpu)[len(outcome.server_cpu) // 2] if outcome.server_cpu else 0.0
        rows.append(
            [
                outcome.contender.name,
                time,
                _ratio(peer, outcome.wall),
                _ratio(floor, outcome.wall),
                f"{outcome.cpu / _work(bench):.2f}" if walls else "–",
                f"{server / _work(bench):.2f}" if bench.servers and walls else "–",
                f"{outcome.rss / 1e6:.0f}" if walls else "–",
                "yes" if outcome.contender.verified else "no",
            ]
        )
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = [_line(row, widths) for row in (head, ["-" * width for width in widths], *rows)]
    title = f"{bench.name}: {bench.files:,} files, {bench.bytes / 1e6:,.0f} MB, durability {bench.durability}"
    failed = [f"  {o.contender.name} failed: {o.problem}" for o in outcomes if o.problem]
    return "\n".join([title + (", cold" if bench.cold else ""), *lines, *failed, ""])


def slopes(done: Sequence[tuple[Bench, Sequence[Outcome]]]) -> str:
    """Say how each contender's time grows with the number of files, where a bench ran at several sizes.

    The slope is the exponent: 1.00 is linear; above 1.05 over a decade is a defect.
    """
    lines = []
    for name in sorted({bench.name for bench, _ in done}):
        walls: dict[str, list[tuple[int, float]]] = {}
        for bench, outcomes in done:
            if bench.name == name:
                for outcome in outcomes:
                    walls.setdefault(outcome.contender.name, []).append((bench.files, outcome.wall))
        for contender, points in walls.items():
            points.sort()
            steps = [
                f"{n1:,}→{n2:,}: {math.log(t2 / t1) / math.log(n2 / n1):.2f}"
                for (n1, t1), (n2, t2) in pairwise(points)
                if math.isfinite(t1) and math.isfinite(t2)
            ]
            if steps:
                lines.append(f"slope of {name}, {contender}: {', '.join(steps)}")
    return "\n".join(lines)


def write_lines(path: Path, bench: Bench, outcomes: Sequence[Outcome], version: str) -> None:
    """Append one JSON object per contender to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        for outcome in outcomes:
            record = {
                "bench": bench.name,
                "files": bench.files,
                "bytes": bench.bytes,
                "contender": outcome.contender.name,
                "wall_s": [round(sample.wall, 4) for sample in outcome.samples],
                "cpu_s": round(outcome.cpu, 4),
                "server_cpu_s": [round(seconds, 3) for seconds in outcome.server_cpu] if bench.servers else None,
                "rss_mb": round(outcome.rss / 1e6, 1),
                "verified": outcome.contender.verified,
                "durability": bench.durability,
                "problem": outcome.problem or None,
                "version": version,
            }
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def _is_large(bench: Bench) -> bool:
    return bench.files < 100


def _work(bench: Bench) -> float:
    """Return what CPU time is divided by: gigabytes of large files, thousands of small ones."""
    return bench.bytes / 1e9 if _is_large(bench) else bench.files / 1000


def _wall(outcomes: Sequence[Outcome], name: str) -> float:
    return next((outcome.wall for outcome in outcomes if outcome.contender.name == name), float("inf"))


def _ratio(reference: float, wall: float) -> str:
    return f"{reference / wall:.2f}" if math.isfinite(reference) and math.isfinite(wall) else "–"


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    first = row[0].ljust(widths[0])
    return "  ".join([first, *(word.rjust(width) for word, width in zip(row[1:], widths[1:], strict=True))])
