"""Files of the working folder, and of the data, that have the names of Python's modules are never run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.service
DLS = Path(sys.executable).parent / "dls"
NAMES = ("json", "struct", "random", "types", "socket", "zstandard", "dls/__init__", "sitecustomize", "runpy", "csv")

PLAN = """
from beside import COUNT
from dls.madpp import dataset, plan, site, step

@step("x:data", out="x:mean", at="fast")
def mean(data, out):
    import csv
    assert csv.reader
    (out / "mean").write_bytes(b"7" * COUNT)

with plan("mine") as p:
    site("fast", "$W/fast")
    dataset("x:data", "$W/tree")
    mean()
"""


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    """A folder that is full of modules which leave a mark when they are run."""
    folder = tmp_path / "trap"
    spread(folder, tmp_path / "was-run")
    return folder


def spread(folder: Path, mark: Path) -> None:
    for name in NAMES:
        path = folder / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"open({str(mark)!r}, 'w').write(__name__)\nraise SystemExit(77)\n")


def dls(home: Path, cwd: Path, *words: str | Path) -> None:
    env = {**os.environ, "DLS_HOME": str(home)}
    done = subprocess.run([DLS, *words], cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.spec("TRANSFER-31")
def test_not_by_helpers_of_a_transfer(trap: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for n in range(3000):
        (tree / f"f{n}").write_bytes(b"%d" % n)
    home = tmp_path / "home"
    dls(home, trap, "catalogue", "add", "x:data", str(tree))
    dls(home, trap, "stage-in", "x:data", "--to", "local")
    assert not (tmp_path / "was-run").exists()


def test_not_by_those_who_pack(trap: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for n in range(3000):
        (tree / f"f{n}").write_bytes(b"%d" % n)
    dls(tmp_path / "home", trap, "pack", tree, tmp_path / "i.sqfs")
    assert not (tmp_path / "was-run").exists()


@pytest.mark.spec("PLAN-13", "PLAN-14")
def test_not_by_plans_and_their_functions(trap: Path, tmp_path: Path) -> None:
    """What lies beside the plan is the user's own, as for any script; what lies beside the data is not."""
    tree, mine = tmp_path / "tree", tmp_path / "mine"
    spread(tree, tmp_path / "was-run")
    mine.mkdir()
    (mine / "beside.py").write_text("COUNT = 3\n")
    (mine / "plan.py").write_text(PLAN.replace("$W", str(tmp_path)))
    dls(tmp_path / "home", trap, "plan", "apply", mine / "plan.py")
    (made,) = (tmp_path / "fast").rglob("mean")
    assert made.read_bytes() == b"777"
    assert not (tmp_path / "was-run").exists()
