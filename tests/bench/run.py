"""Runs benches: `run.py --reduced` (all, small), `--full` (all), `--only NAME` (one, full, unless `--reduced`).

Tables go to standard output, JSON lines to build/bench/<name>.jsonl, what is going on to standard error.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT / "tests")  # `bench` and `components` are packages below tests/; this file is also a program

from bench import report  # noqa: E402 - needs the path above
from bench.rounds import Bench, Outcome, Place, run_rounds  # noqa: E402
from components.loopdisk import loop_disk  # noqa: E402
from components.process import NotReady  # noqa: E402

TRANSFER = ("small-s3-down", "small-s3-up", "big-s3-down", "big-s3-up", "small-http-down", "small-local", "big-local")
IMAGES = ("image-pack", "image-pack-usr", "image-mount", "image-remote")
BENCHES = (*TRANSFER, "noop-rerun", "million", "durability", "prediction", *IMAGES)
GROUPS = {"transfer": TRANSFER, "images": IMAGES}
MEMORY = Path("/dev/shm")
DISK = Path("/var/tmp")  # not in the checkout: a test session that ends there unmounts what came up meanwhile
RESULTS = ROOT / "build" / "bench"
DISK_MEGABYTES = 65_536  # sparse: takes what is written
DISK_INODES = 12_000_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for; exit 1 when a contender failed, after all tables were shown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", metavar="NAME", choices=[*BENCHES, *GROUPS], help=", ".join([*GROUPS, *BENCHES]))
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--reduced", action="store_true", help="2,000 × 10 KB, 512 MB, 10^5 entries")
    size.add_argument("--full", action="store_true", help="20,000 × 10 KB, 4 GB, 10^6 entries")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each contender (default 3)")
    asked = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers stop and scratch folders go
    if not (asked.only or asked.reduced or asked.full):
        parser.error("one of --reduced, --full, --only NAME")
    names = GROUPS.get(asked.only, (asked.only,)) if asked.only else BENCHES
    failed = False
    for name in names:
        for outcome in _run(name, full=not asked.reduced, rounds=asked.rounds):
            failed = failed or bool(outcome.problem)
    return 1 if failed else 0


def _run(name: str, *, full: bool, rounds: int) -> list[Outcome]:
    """Run one module of benches in scratch places of its own."""
    print(f"{name}: preparing", file=sys.stderr, flush=True)
    module = importlib.import_module(f"bench.{name.replace('-', '_')}")
    done: list[tuple[Bench, list[Outcome]]] = []
    version = _version()
    if hasattr(module, "run"):  # no contenders: figures of our own
        with _places() as place:
            rows = module.run(place, full, rounds)
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / f"{name}.jsonl").write_text("".join(f"{json.dumps({'version': version, **row})}\n" for row in rows))
        return []
    with _places() as place, ExitStack() as stack:
        for bench in module.benches(stack, place, full):
            outcomes = run_rounds(bench, rounds)
            done.append((bench, outcomes))
            print(report.table(bench, outcomes), flush=True)
            report.write_lines(RESULTS / f"{bench.name}.jsonl", bench, outcomes, version)
    grown = report.slopes(done)
    if grown:
        print(grown + "\n", flush=True)
    return [outcome for _, outcomes in done for outcome in outcomes]


@contextmanager
def _places() -> Iterator[Place]:
    """Scratch folders with our process id in their names; those of dead runs go first, ours at the end."""
    for old in (*MEMORY.glob("dls-bench-*"), *DISK.glob("dls-bench-*")):
        if not _is_running(old.name.rpartition("-")[2]):
            shutil.rmtree(old, ignore_errors=True)
    memory, large = MEMORY / f"dls-bench-{os.getpid()}", DISK / f"dls-bench-{os.getpid()}"
    try:
        memory.mkdir()
        large.mkdir()
        with ExitStack() as stack:
            try:
                disk = stack.enter_context(loop_disk(large, DISK_MEGABYTES, inodes=DISK_INODES)).folder
            except NotReady as reason:
                print(f"no disk image, many files go to {large}: {reason}", file=sys.stderr)
                disk = large
            yield Place(memory, disk, large)
    finally:
        shutil.rmtree(memory, ignore_errors=True)
        shutil.rmtree(large, ignore_errors=True)


def _is_running(pid: str) -> bool:
    """Tell whether that process is a run of benches (a zombie, or another program with its number, is not)."""
    try:
        return b"run.py" in Path("/proc", pid, "cmdline").read_bytes()
    except OSError:
        return False


def _version() -> str:
    """Name the state of the checkout: commit, `+` when files differ from it."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        words = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+"]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    return "unknown"


if __name__ == "__main__":
    sys.exit(main())
