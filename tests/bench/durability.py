"""Durability: what a kept step costs beside bare DBOS and a native Prefect flow, and a one-file stage-in as a whole.

The peers get interpreters of their own in build/bench/venv-*, for their pins are not ours.
"""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from contextlib import ExitStack
from pathlib import Path

from bench import ours
from bench.contender import Contender, Turn, Words
from bench.rounds import Bench, Place

STEPS = str(Path(__file__).with_name("steps.py"))
VENVS = Path(__file__).resolve().parents[2] / "build" / "bench"
PINS = {"dbos": ("dbos>=3.4,<4",), "prefect": ("prefect==3.8.8", "fastapi==0.139.*", "starlette<1.3")}
# Prefect keeps a task in about fifteen times the time of the others: it gets fewer and the table says so.


def benches(stack: ExitStack, place: Place, full: bool) -> list[Bench]:
    """Install the peers and list who takes part."""
    count = 5000 if full else 1000
    few = 300 if full else 100
    one = place.large / "one-file"
    one.mkdir()
    (one / "file").write_bytes(b"one" * 1000)
    dbos = _python("dbos")
    return [
        Bench(
            "durable-steps",
            count,
            0,
            [
                _steps("dls", sys.executable, "ours", count),
                _steps("dbos", dbos, "dbos", count),
                _steps("floor-commits", sys.executable, "commits", count),
            ],
            peer="dbos",
            floor="floor-commits",
            targets=place.large,
        ),
        Bench(
            "durable-few-steps",
            few,
            0,
            [_steps("dls", sys.executable, "ours", few), _steps("prefect", _python("prefect"), "prefect", few)],
            peer="prefect",
            floor="dls",
            targets=place.large,
        ),
        Bench(
            "one-file",
            1,
            3000,
            [
                ours.stage_in(f"file://{one}", _arrived),
                Contender("import-dbos", lambda turn: [dbos, "-c", "import dbos"]),
                Contender("floor-python", lambda turn: [sys.executable, "-c", "pass"]),
            ],
            peer="import-dbos",
            floor="floor-python",
            targets=place.large,
            durability="process",
        ),
    ]


def _python(name: str) -> Path:
    """The interpreter of a peer, installed where it is missing; a peer that cannot be is a row that failed."""
    folder = VENVS / f"venv-{name}"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        print(f"durability: {name} into {folder}", file=sys.stderr, flush=True)
        venv.create(folder, with_pip=True, clear=True)
        if subprocess.run([python, "-m", "pip", "install", "-q", *PINS[name]], check=False).returncode == 0:
            (folder / "ready").touch()
    return python


def _steps(name: str, python: str | Path, who: str, count: int) -> Contender:
    def words(turn: Turn) -> Words:
        return [python, STEPS, who, turn.target, str(count)]

    def told(turn: Turn) -> str:
        lines = [line for line in (turn.work / "log").read_text().splitlines() if line.startswith("{")]
        took = json.loads(lines[-1])["seconds"] if lines else 0.0
        print(f"    {name}: {1000 * took / count:.2f} ms a step, start and end apart", file=sys.stderr, flush=True)
        return "" if lines else "told nothing"

    return Contender(name, words, check=told)


def _arrived(turn: Turn) -> str:
    found = [path for path in turn.target.rglob("file") if path.is_file()]
    return "" if len(found) == 1 else f"{len(found)} files arrived"
