"""A plan of ten steps, killed at each of its commits and carried on: the same end, nothing twice."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dls.madpp.execution import RunState
from dls.madpp.testing.world import World

pytestmark = [pytest.mark.fault, pytest.mark.timeout(3600)]
CHILD = str(Path(__file__).with_name("plan_child.py"))


def child(folder: Path, what: str, number: int = 0, when: str = "after") -> subprocess.CompletedProcess[str]:
    words = [sys.executable, CHILD, str(folder), what, str(number), when]
    return subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)


def end(folder: Path) -> dict[str, Any]:
    """What the world holds at the end, and what the run says of its steps."""
    world = World(folder, "ten")
    try:
        (run,) = world.runs.list(5)
        assert run.state is RunState.DONE, run.error
        assert world.untruths() == []
        activities = world.database.all("SELECT count(*) FROM activities WHERE run = ?", (run.id,))
        done = [name for name, one in run.steps.items() if one.state == "done"]
        leases = world.database.all("SELECT count(*) FROM buffer_leases")
        return {**world.state(), "activities": activities, "steps": sorted(done), "leases": leases}
    finally:
        world.close()


@pytest.mark.spec("RUN-7")
def test_killed_at_each_commit(tmp_path: Path, rng: random.Random, faults_full: bool) -> None:
    control = child(tmp_path / "control", "run")
    assert control.returncode == 0, control.stderr
    commits = int(control.stdout)
    assert commits > 40
    expected = end(tmp_path / "control")
    assert len(expected["steps"]) == 10
    points = [(n, when) for n in range(1, commits + 1) for when in ("before", "after")]
    for number, when in points if faults_full else rng.sample(points, 8):
        folder = tmp_path / f"{number}-{when}"
        killed = child(folder, "run", number, when)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        resumed = child(folder, "resume")
        assert resumed.returncode == 0, (number, when, resumed.stderr)
        assert end(folder) == expected, (number, when)
    print(f"{commits} commits")
