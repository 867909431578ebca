"""`dls plan`: check, show, apply, status, cancel, schema."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from components.command import Command
from dls.cli.settings import load
from dls.cli.wiring import connect
from dls.madpp import plan as begin
from dls.madpp import run, stage_in
from dls.madpp.document import schema as schemas

TEXT = """dls: 1
name: mean
sites:
  fast: $W/fast
  archive: $W/archive
datasets:
  x:data: $W/tree
steps:
  fetch:   {stage-in: x:data, to: fast}
  compute: {run: [sh, -c, "cat {in}/large > out"], in: x:data, out: x:mean, at: fast, after: fetch}
  keep:    {stage-out: x:mean, to: archive, after: compute}
  free:    {release: fetch, after: keep}
"""
BROKEN = "dls: 1\nsteps:\n  a: {stage-in: x:y, too: s}\n  b: {verify: nothing}\n"


@pytest.fixture
def file(tmp_path: Path, tree: Path) -> Path:
    path = tmp_path / "plan.yaml"
    path.write_text(TEXT.replace("$W", str(tmp_path)))
    assert tree.parent == tmp_path
    return path


def facts_of(dls: Command) -> dict[str, Any]:
    """What is known of datasets, copies and buffers, without times and evidence."""
    rows = dls.state()
    return {k: len(v) if k != "versions" else v for k, v in rows.items() if k in FACTS}


FACTS = ("datasets", "versions", "replicas", "exceptions", "buffers", "buffer_leases", "storages", "segments")


@pytest.mark.spec("PLAN-5")
def test_check_tells_all_faults_and_changes_nothing(dls: Command, tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(BROKEN)
    before = dls.state()
    ran = dls("plan", "check", path)
    assert ran.status == 2
    assert ran.out == ""
    assert (
        f"{path}:3:6: stage-in needs to\n      a: {{stage-in: x:y, too: s}}\n         ^\n  write to: scratch\n"
        in ran.err
    )
    assert f"{path}:4:15: not a dataset id: nothing" in ran.err
    assert f"error: {path}: 3 faults [bad-plan-file]" in ran.err
    lines = dls("plan", "--json", "check", path).events
    assert [one["event"] for one in lines] == ["fault", "fault", "fault", "error"]
    assert [(one["line"], one["column"]) for one in lines[:3]] == [(3, 6), (3, 22), (4, 15)]
    assert lines[0]["offending"] == "  a: {stage-in: x:y, too: s}"
    assert lines[-1]["facts"]["count"] == 3
    assert dls.state() == before == {}


def test_check_looks_at_the_world_and_at_several_files(dls: Command, file: Path, tmp_path: Path) -> None:
    other = tmp_path / "q.yaml"
    other.write_text("dls: 1\nsteps:\n  a: {verify: no:thing}\n")
    ran = dls("plan", "check", file, ok=True)
    assert "no faults" in ran.err
    ran = dls("plan", "check", file, other)
    assert ran.status == 2
    assert f"{other}:3:3: step a: no dataset no:thing" in ran.err
    assert f"error: {other}: 1 fault [bad-plan-file]" in ran.err
    dls("plan", "check", "--form", file, other, ok=True)


@pytest.mark.parametrize("verb", ["check", "show", "apply"])
def test_a_file_that_is_not_there(dls: Command, tmp_path: Path, verb: str) -> None:
    for name in ("none.yaml", "none.py", "."):
        ran = dls("plan", verb, tmp_path / name)
        assert ran.status == 3
        assert "[no-plan-file]" in ran.err


@pytest.mark.parametrize("verb", ["show", "apply"])
def test_a_broken_plan_is_not_taken(dls: Command, tmp_path: Path, verb: str) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(BROKEN)
    ran = dls("plan", verb, path)
    assert ran.status == 2
    assert "did you mean to?" in ran.err
    assert dls.state() == {}


@pytest.mark.spec("PLAN-10", "PLAN-11")
def test_show_apply_and_apply_again(dls: Command, file: Path, tmp_path: Path) -> None:
    shown = dls("plan", "show", file, ok=True)
    assert re.search(r"register:x:data +register +todo +x:data: 7 files, 1.5 MB", shown.out)
    assert re.search(r"compute +compute +later +can be told after", shown.out)
    assert "nothing was changed" in shown.out
    assert dls("plan", "apply", "--dry-run", file, ok=True).out == shown.out
    assert not (tmp_path / "fast").exists()
    assert not dls.state()["runs"]
    first = dls.json("plan", "apply", file)
    assert [*first["steps"]] == ["site:fast", "site:archive", "register:x:data", "fetch", "compute", "keep", "free"]
    (saved,) = (tmp_path / "archive").rglob("out")
    assert saved.read_bytes() == (tmp_path / "tree" / "large").read_bytes()
    before = facts_of(dls)
    assert before["buffers"]
    second = dls.json("plan", "apply", file)
    assert facts_of(dls) == before
    assert "skipped" in second["steps"]["compute"]
    assert "skipped" in second["steps"]["fetch"]
    shown = dls("plan", "show", file, ok=True)
    assert re.search(r"fetch +stage-in +done +nothing to do", shown.out)
    rows = dls("plan", "--json", "show", file, ok=True).events
    assert [row["step"] for row in rows[:-1]] == [*first["steps"]]
    assert rows[-1]["done"] == 2


def test_show_of_what_is_wrong_is_invalid(dls: Command, tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("dls: 1\nsteps:\n  a: {verify: no:thing}\n")
    ran = dls("plan", "show", path)
    assert ran.status == 2
    assert "no dataset no:thing" in ran.err
    ran = dls("plan", "apply", path)
    assert ran.status == 3
    assert f"{path}:3:3: step a: no dataset no:thing" in ran.err
    assert not dls.state()["runs"]


def test_status_tells_how_far_each_step_is(dls: Command, file: Path) -> None:
    assert "no plan was applied yet" in dls("plan", "status", ok=True).err
    dls("site", "add", "other", file.parent / "other", ok=True)
    file.write_text(file.read_text().replace("cat {in}/large > out", "exit 3"))
    failed = dls("plan", "apply", file)
    assert failed.status == 8
    assert "exit status 3" in failed.err
    (row,) = [one for one in dls("plan", "--json", "status", ok=True).events if one["event"] == "run"]
    lines = dls("plan", "--json", "status", row["run"], ok=True).events
    states = {one["step"]: one["state"] for one in lines if one["event"] == "step"}
    assert states == {
        **dict.fromkeys(("site:fast", "site:archive", "register:x:data", "fetch"), "done"),
        "compute": "failed",
        "keep": "not reached",
        "free": "not reached",
    }
    assert lines[-1]["error"]["code"] == "command-failed"
    assert re.search(r"compute +compute +failed", dls("plan", "status", row["run"], ok=True).out)
    assert dls("plan", "status", "01J0000000000000000000000R").status == 3


def test_cancel_of_what_does_not_run_and_of_what_runs_elsewhere(dls: Command, file: Path, tmp_path: Path) -> None:
    run = dls.json("plan", "apply", file)["run"]
    assert dls("plan", "cancel", run).status == 9
    assert dls("plan", "cancel", "01J0000000000000000000000R").status == 3
    waits = tmp_path / "waits.yaml"
    waits.write_text("dls: 1\nname: waits\nsteps:\n  w: {wait-for: no:thing}\n")
    child = dls.start("plan", "apply", waits)
    try:
        assert child.stderr is not None
        assert "w waits for no:thing" in child.stderr.readline()
        live = dls.json("plan", "status")
        assert live["count"] == 2
        live_ones = [one for one in dls("plan", "--json", "status").events if one.get("state") == "running"]
        (run,) = [one["run"] for one in live_ones]
        assert "is told to stop" in dls("plan", "cancel", run, ok=True).out
        _, err = child.communicate(timeout=60)
    finally:
        child.kill()
        child.wait()
    assert child.returncode == 9
    assert "[cancelled]" in err
    assert dls.json("plan", "status", run)["state"] == "cancelled"


@pytest.mark.spec("PLAN-8")
def test_schema_is_printed(dls: Command) -> None:
    assert json.loads(dls("plan", "schema", ok=True).out) == schemas.schema()
    assert dls.json("plan", "schema")["schema"] == schemas.schema()


PYTHON = """
from dls.madpp import dataset, plan, site, stage_out, step

@step("x:data", out="x:mean", at="fast")
def mean(data, out):
    (out / "mean").write_bytes((data / "large").read_bytes()[:10])

print("a word of the file")
with plan("in python") as p:
    site("fast", "$W/fast")
    site("archive", "$W/archive")
    dataset("x:data", "$W/tree")
    stage_out(mean(), "archive")
"""


@pytest.mark.spec("PLAN-13")
def test_a_python_file_takes_the_same_road(dls: Command, file: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(PYTHON.replace("$W", str(tmp_path)))
    shown = dls("plan", "show", "--yaml", path, ok=True)
    assert shown.err == "a word of the file\n"
    copy = tmp_path / "copy.yaml"
    copy.write_text(shown.out)
    events = dls("plan", "--json", "apply", path, ok=True).events
    assert events[0] == {"event": "line", "text": "a word of the file"}
    assert [*events[-1]["steps"]] == ["site:fast", "site:archive", "register:x:data", "mean", "stage-out"]
    (saved,) = (tmp_path / "archive").rglob("mean/v1/mean")
    assert saved.read_bytes() == bytes(range(10))
    again = dls.json("plan", "apply", copy)
    assert "skipped" in again["steps"]["mean"]
    path.write_text("1 / 0\n")
    ran = dls("plan", "apply", path)
    assert ran.status == 2
    assert f"{path}:1: ZeroDivisionError" in ran.err
    assert "Traceback" not in ran.said


@pytest.mark.spec("PLAN-13")
def test_a_notebook_applies_plans(staged: Command) -> None:
    dls = connect(load(""))
    try:
        with begin("n") as p:
            run(["sh", "-c", "cat {in}/large > out"], stage_in("x:data", "scratch"), at="scratch", out="x:out")
        assert dls.prove(p.plan) == []
        assert [row["state"] for row in dls.show(p.plan)] == ["todo", "todo"]
        assert dls.apply(p.plan).results["compute"]["dataset"] == "x:out@1"
    finally:
        dls.close()
