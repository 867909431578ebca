"""The log: what each command did, without what is nobody's business."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from components.command import Command
from dls.cli.log import Log


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.spec("LOOK-12")
def test_every_command_is_logged(staged: Command, tmp_path: Path) -> None:
    path = tmp_path / "dls.log"
    staged.set(DLS_LOG=str(path))
    run = staged.json("stage-in", "x:data", "--to", "scratch")["run"]
    assert staged("stage-in", "x:nothing", "--to", "scratch").status == 3
    found = lines(path)
    assert all({"at", "pid", "event"} <= set(line) for line in found)
    assert {"run": run, "event": "run", "plan": "stage-in"}.items() <= found[0].items()
    (result,) = [line for line in found if line["event"] == "result"]
    assert (result["run"], result["dataset"], result["files"], result["copied"]) == (run, "x:data@1", 7, 7)
    assert result["seconds"] >= 0
    assert (found[-1]["event"], found[-1]["kind"]) == ("error", "not-found")
    assert not [line for line in found if line["event"] == "progress"]
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.spec("LOOK-12")
def test_no_secret_and_no_word_of_a_command_is_logged(dls: Command, tmp_path: Path) -> None:
    path = tmp_path / "dls.log"
    dls.set(DLS_LOG=str(path), MY_TOKEN="the-secret-value", AWS_SECRET_ACCESS_KEY="another-secret")
    script = "echo private words $MY_TOKEN > x; echo printed words"
    dls("run", "--out", "x:made", "--at", "local", "--", "sh", "-c", script, ok=True)
    dls("catalogue", "add", "x:y", "s3://me:the-secret-value@bucket/another-secret")
    dls("catalogue", "show", "x:the-secret-value")
    text = path.read_text()
    assert {line["event"] for line in lines(path)} >= {"run", "result", "error"}
    for word in ("the-secret-value", "another-secret", "private", "printed"):
        assert word not in text


@pytest.mark.spec("LOOK-13")
def test_a_log_that_cannot_be_opened_is_an_error_before_anything_is_done(
    dls: Command, tree: Path, tmp_path: Path
) -> None:
    dls.set(DLS_LOG=str(tmp_path / "absent" / "dls.log"))
    error = dls.json("catalogue", "add", "x:data", tree, ok=False)
    assert (error["code"], error["exit_status"]) == ("no-log", 8)
    assert dls.state() == {}
    dls.set(DLS_LOG="relative")
    assert dls.json("catalogue", "add", "x:data", tree, ok=False)["code"] == "bad-settings"


@pytest.mark.spec("LOOK-13")
def test_a_log_that_can_no_longer_be_written_stops_nothing(staged: Command) -> None:
    staged.set(DLS_LOG="/dev/full")
    assert staged("stage-in", "x:data", "--to", "scratch").status == 0


def test_lines_of_several_writers_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "dls.log"
    one, other = Log(str(path)), Log(str(path))
    for number in range(100):
        one.add("a", {"text": "x" * 100, "count": number})
        other.add("b", {"text": "y" * 100, "count": number, "unknown": "left out"})
    one.close()
    other.close()
    found = lines(path)
    assert [line["count"] for line in found if line["event"] == "a"] == list(range(100))
    assert len(found) == 200
    assert "unknown" not in found[1]
