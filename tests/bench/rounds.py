"""A bench, and its rounds: A B C, A B C, …, each turn into a folder that never existed before."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from bench.contender import Contender, Sample, Turn, cpu_seconds, measure, sync_filesystem


@dataclass(frozen=True)
class Place:
    """Where one bench keeps its files.

    `memory` is tmpfs, for network benches. `disk` is a fresh ext4 image, for many files: a file system in use creates
    files up to ten times slower for minutes after thousands were deleted, by an earlier run too (measured: 10^5 files
    in 4.7 to 29 s). `large` is a folder of the real file system, for a few large files.
    """

    memory: Path
    disk: Path
    large: Path


@dataclass(frozen=True)
class Bench:
    """One work at one size. `peer` and `floor` name the contenders that the ratios refer to.

    `durability` is `power` (the clock stops after a sync of the target) or `process` (nobody syncs). With `rerun` each
    contender has one target for all rounds and is prepared once. Without `keep` a target goes as soon as it is
    checked: for a few large files only, since ext4 creates files slowly for minutes after thousands were deleted.
    """

    name: str
    files: int
    bytes: int
    contenders: Sequence[Contender]
    peer: str
    floor: str
    targets: Path
    durability: str = "process"
    cold: bool = False
    rerun: bool = False
    made: Callable[[Turn], Path] | None = None
    """What a turn makes elsewhere, removed after it unless `keep`."""
    keep: bool = True
    servers: Sequence[int] = ()


@dataclass
class Outcome:
    """What one contender did over all rounds; `problem` is the first failure, after which it has no further turn."""

    contender: Contender
    samples: list[Sample] = field(default_factory=list)
    server_cpu: list[float] = field(default_factory=list)
    problem: str = ""

    @property
    def wall(self) -> float:
        """Median seconds; infinite when it failed."""
        return median(sample.wall for sample in self.samples) if self.samples and not self.problem else float("inf")

    @property
    def cpu(self) -> float:
        """Median CPU seconds of the contender's processes."""
        return median(sample.cpu for sample in self.samples) if self.samples else 0.0

    @property
    def rss(self) -> int:
        """Largest memory over all rounds, bytes."""
        return max((sample.rss for sample in self.samples), default=0)


def run_rounds(bench: Bench, rounds: int) -> list[Outcome]:
    """Run every contender `rounds` times, interleaved; say on standard error what is going on."""
    outcomes = [Outcome(contender) for contender in bench.contenders]
    for number in range(rounds):
        for outcome in outcomes:
            if not outcome.problem:
                _turn(bench, outcome, number)
    return outcomes


def environment(turn: Turn, contender: Contender) -> dict[str, str]:
    """Return a small environment: nothing of the user's settings, a `DLS_HOME` of the turn's own."""
    return {
        "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '/usr/bin:/bin')}",
        "HOME": str(turn.work),
        "TMPDIR": str(turn.work),
        "LANG": "C.UTF-8",
        "DLS_HOME": str(turn.work / "dls-home"),
        "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
        **contender.env,
    }


def _turn(bench: Bench, outcome: Outcome, number: int) -> None:
    contender = outcome.contender
    tag = contender.name if bench.rerun else f"{contender.name}-{number}"
    work = bench.targets / f"{bench.name}-{bench.files}-{tag}.work"
    turn = Turn(bench.targets / f"{bench.name}-{bench.files}-{tag}", work, tag)
    work.mkdir(parents=True, exist_ok=True)
    print(f"  {bench.name} {bench.files} files, round {number + 1}: {contender.name}", file=sys.stderr, flush=True)
    try:
        if contender.prepare and not (bench.rerun and number):
            contender.prepare(turn)
        sync_filesystem(bench.targets)  # what others wrote is not this turn's to wait for
        before = cpu_seconds(bench.servers)
        sample = measure(
            contender.command(turn),
            env=environment(turn, contender),
            log=work / "log",
            cold=bench.cold,
            sync=turn.target if bench.durability == "power" else None,
        )
        outcome.samples.append(sample)
        outcome.server_cpu.append(cpu_seconds(bench.servers) - before)
        outcome.problem = sample.problem or (contender.check(turn) if contender.check else "")
    except (OSError, RuntimeError) as error:  # who cannot start is a row of the table, not the end of the bench
        outcome.problem = f"{type(error).__name__}: {error}"
    if outcome.problem:
        print(f"    failed: {outcome.problem}", file=sys.stderr, flush=True)
    if not bench.keep and not bench.rerun:
        for made in (turn.target, *([bench.made(turn)] if bench.made is not None else [])):
            shutil.rmtree(made, ignore_errors=True)
            if made.is_file():
                made.unlink()
