"""`dls status`: how far runs are, seen from other processes."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from components.command import Command
from dls.cli import live
from dls.cli.render import Column, Lines, Screen
from dls.logistics.transfer.progress import Progress

RUN = "01ARZ3NDEKTSV4RRFFQ69G5FAV"


def until(look: Callable[[], Any], seconds: float = 60) -> Any:
    """The first answer that is one."""
    end = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)
    return found


@pytest.fixture
def held(dls: Command, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process whose run lasts until somebody writes into `gate`."""
    os.mkfifo(tmp_path / "gate")
    script = f"read line < {tmp_path}/gate; echo $line > result"
    child = dls.start("run", "--out", "x:made", "--at", "local", "--", "sh", "-c", script)
    yield child
    if child.poll() is None:
        child.kill()
    with suppress(OSError):  # nobody waits there any more, as a rule
        os.close(os.open(tmp_path / "gate", os.O_WRONLY | os.O_NONBLOCK))
    child.communicate()


def opened(tmp_path: Path) -> None:
    (tmp_path / "gate").write_text("go\n")


@pytest.mark.spec("LOOK-10")
def test_figures_are_written_while_a_run_lasts_and_gone_afterwards(tmp_path: Path) -> None:
    progress = Progress(phase="copying", files_total=10, bytes_total=1000)
    heard = []
    with live.shown(tmp_path, progress, lambda kind, facts: heard.append(kind), every_s=0.01) as tell:
        tell("note", {"text": "before any run"})
        assert live.read(tmp_path, RUN) is None
        tell("run", {"run": RUN, "plan": "stage-in"})
        tell("route", {"from": "file:///a", "to": "/b", "what": "x"})
        progress.settled(3, 300)
        facts = until(lambda: (found := live.read(tmp_path, RUN)) and found["files"] == 3 and found)
        assert (facts["run"], facts["phase"], facts["bytes"], facts["bytes_total"]) == (RUN, "copying", 300, 1000)
        assert (facts["from"], facts["to"], facts["pid"]) == ("file:///a", "/b", os.getpid())
        assert facts["since_ns"] <= facts["at_ns"] <= time.time_ns()
        assert live.path(tmp_path, RUN).stat().st_mode & 0o777 == 0o600
        tell("waiting", {"run": "another"})
        until(lambda: (live.read(tmp_path, RUN) or {}).get("waits_for") == "another")
    assert heard == ["note", "run", "route", "waiting"]
    assert list(tmp_path.iterdir()) == []


def test_figures_that_cannot_be_written_or_read_disturb_nothing(tmp_path: Path) -> None:
    with live.shown(tmp_path / "absent", Progress(), every_s=0.001) as tell:
        tell("run", {"run": RUN, "plan": "stage-in"})
        time.sleep(0.02)
    live.path(tmp_path, RUN).write_text("{half")
    assert live.read(tmp_path, RUN) is None
    live.path(tmp_path, RUN).write_text("[]")
    assert live.read(tmp_path, RUN) is None


def test_what_a_dead_process_left_is_swept_after_a_day(tmp_path: Path) -> None:
    old, new = live.path(tmp_path, "old"), live.path(tmp_path, "new")
    for one in (old, new):
        one.write_text("{}")
    os.utime(old, (0, 0))
    with live.shown(tmp_path, Progress()) as tell:
        tell("run", {"run": RUN, "plan": "stage-in"})
    assert list(tmp_path.iterdir()) == [new]


@pytest.mark.spec("LOOK-10")
def test_another_process_sees_how_far_a_run_is(dls: Command, held: subprocess.Popen[str], tmp_path: Path) -> None:
    def look() -> dict[str, Any] | None:
        rows = [e for e in dls("status", "--json").events if e["event"] == "run"]
        return rows[0] if rows and rows[0]["progress"] else None

    row = until(look)
    assert (row["state"], row["progress"]["pid"], row["progress"]["phase"]) == ("running", held.pid, "running")
    one = dls("status", row["run"], ok=True).out
    assert "  now: compute: running, 0 files" in one
    assert "PROGRESS" in dls("status", ok=True).out.splitlines()[0]
    opened(tmp_path)
    assert held.wait(60) == 0
    after = dls.json("status", row["run"])
    assert (after["state"], after["progress"]) == ("done", None)
    assert not list((dls.home / "locks").glob("*.live*"))


@pytest.mark.spec("LOOK-10")
def test_figures_of_a_process_that_died_are_not_shown(dls: Command, held: subprocess.Popen[str]) -> None:
    until(lambda: list((dls.home / "locks").glob("*.live")))
    held.send_signal(signal.SIGKILL)
    held.wait(60)
    row = until(lambda: [e for e in dls("status", "--json").events if e.get("state") == "broken off"])[0]
    assert row["progress"] is None
    assert list((dls.home / "locks").glob("*.live"))  # it is there, and means nothing


@pytest.mark.spec("LOOK-11")
@pytest.mark.parametrize("one", [True, False])
def test_following_gives_a_line_a_look_until_it_ends(
    dls: Command, held: subprocess.Popen[str], tmp_path: Path, one: bool
) -> None:
    run = until(lambda: [e["run"] for e in dls("status", "--json").events if e["event"] == "run"])[0]
    follower = dls.start("status", "--follow", "--json", *([run] if one else []))
    assert follower.stdout is not None
    rows = [json.loads(follower.stdout.readline()) for _ in range(2)]
    assert {(row["event"], row["run"], row["state"]) for row in rows} == {("run", run, "running")}
    opened(tmp_path)
    out, err = follower.communicate(timeout=60)
    assert (follower.returncode, err) == (0, "")
    *more, last, result = map(json.loads, out.splitlines())
    assert {row["state"] for row in more} <= {"running"}
    assert (last["event"], last["state"]) == ("run", "done")
    assert result["event"] == "result"
    assert (result["state"] == "done") if one else (result["count"] == 1)


@pytest.mark.spec("LOOK-11")
def test_following_nothing_ends_at_once(staged: Command) -> None:
    assert staged.json("status", "--follow")["count"] == 0
    assert staged("status", "--follow", ok=True).out == "nothing runs\n"


@pytest.mark.spec("LOOK-11")
def test_ctrl_c_ends_the_look_and_not_the_run(dls: Command, held: subprocess.Popen[str], tmp_path: Path) -> None:
    until(lambda: [e for e in dls("status", "--json").events if e["event"] == "run"])
    follower = dls.start("status", "--follow")
    assert follower.stdout is not None
    assert follower.stdout.readline().split()[:3] == ["RUN", "VERB", "STATE"]
    follower.send_signal(signal.SIGINT)
    assert follower.wait(60) == 130
    follower.communicate()
    opened(tmp_path)
    assert held.wait(60) == 0


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_view_is_drawn_in_its_place_on_a_terminal_and_only_where_it_changed_elsewhere() -> None:
    columns = (Column("A", lambda r: r["a"]),)
    terminal, file, lines = _Terminal(), io.StringIO(), io.StringIO()
    for out in (Screen(terminal, io.StringIO()), Screen(file, io.StringIO()), Lines(lines)):
        for value in ("1", "1", "2"):
            out.view("run", columns, [{"a": value}])
    assert terminal.getvalue() == "A\n1\n" + "\x1b[2F\x1b[JA\n1\n" + "\x1b[2F\x1b[JA\n2\n"
    assert file.getvalue() == "A\n1\n2\n"
    assert [json.loads(line)["a"] for line in lines.getvalue().splitlines()] == ["1", "1", "2"]
