"""`dls events`: what happened, in order, and as it happens."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from components.command import PROGRAM, Command


def ids(dls: Command, *words: str) -> list[int]:
    return [e["id"] for e in dls("events", "--json", *words, ok=True).events[:-1]]


@pytest.mark.spec("LOOK-5")
def test_events_are_those_of_the_outbox_in_order(staged: Command) -> None:
    whole = staged("events", "--json", "--since", "0", ok=True).events
    assert whole[-1] == {"event": "result", "action": "events", "count": len(whole) - 1}
    assert [e["id"] for e in whole[:-1]] == list(range(1, len(whole)))
    assert {"storage.added", "run.started", "run.done"} <= {e["type"] for e in whole[:-1]}
    last = whole[-2]["id"]
    assert ids(staged, "--since", "2") == list(range(3, last + 1))
    assert ids(staged, "--limit", "3") == [last - 2, last - 1, last]
    assert ids(staged, "--since", str(last + 100)) == []
    table = staged("events", "--limit", "3", ok=True).out.splitlines()
    assert table[0].split() == ["ID", "TIME", "TYPE", "SUBJECT", "ACTOR", "DATA"]
    assert len(table) == 4


def test_events_since_a_time(staged: Command) -> None:
    everything = ids(staged, "--since", "0")
    now = datetime.now(UTC)
    assert ids(staged, "--since", (now - timedelta(days=1)).isoformat()) == everything
    assert ids(staged, "--since", f"{now.year}-01-01") == everything
    assert ids(staged, "--since", "P1D") == everything
    assert ids(staged, "--since", (now + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")) == []
    first = staged("events", "--json", "--since", "0").events[0]
    third = staged("events", "--json", "--since", "2").events[0]
    exact = datetime.fromtimestamp(third["time_ns"] // 10**9, UTC) + timedelta(
        microseconds=third["time_ns"] // 1000 % 10**6
    )
    assert first["id"] not in ids(staged, "--since", exact.isoformat())
    assert third["id"] in ids(staged, "--since", exact.isoformat())


@pytest.mark.parametrize("text", ["yesterday", "-1", "2026-13-01", "9" * 30])
def test_what_is_no_time_is_refused(dls: Command, text: str) -> None:
    error = dls.json("events", f"--since={text}", ok=False)
    assert (error["code"], error["exit_status"]) == ("bad-time", 2)


@pytest.mark.spec("LOOK-6")
def test_following_shows_what_happens_and_ends_on_ctrl_c(staged: Command) -> None:
    child = staged.start("events", "--follow", "--json", "--since", "0")
    assert child.stdout is not None
    known = len(ids(staged, "--since", "0"))
    seen = [json.loads(child.stdout.readline())["id"] for _ in range(known)]
    staged("site", "add", "later", "s3://later", ok=True)
    later = json.loads(child.stdout.readline())
    assert (later["type"], later["subject"]) == ("storage.added", "later/default")
    assert [*seen, later["id"]] == list(range(1, known + 2))
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert (child.returncode, err) == (130, "")
    assert json.loads(out.splitlines()[-1])["code"] == "interrupted"


@pytest.mark.spec("LOOK-6")
@pytest.mark.parametrize("words", [[], ["--json"]])
def test_following_ends_in_silence_when_nobody_reads_any_more(staged: Command, words: list[str]) -> None:
    known = len(ids(staged, "--since", "0")) + (not words)  # and the heading
    child = staged.start("events", "--follow", "--since", "0", *words)
    assert child.stdout is not None
    assert child.stderr is not None
    assert all(child.stdout.readline() for _ in range(known))
    child.stdout.close()  # nothing happens from now on: only a look at the pipe can tell
    assert child.wait(60) == 141
    assert child.stderr.read() == ""
    child.stderr.close()


def test_head_ends_it(staged: Command) -> None:
    source = subprocess.Popen([*PROGRAM, "events", "--since", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    head = [sys.executable, "-c", "import sys; sys.stdout.write(sys.stdin.readline())"]
    shown = subprocess.run(head, stdin=source.stdout, capture_output=True, text=True, timeout=60, check=True)
    assert source.stdout is not None
    source.stdout.close()
    _, err = source.communicate(timeout=60)
    assert shown.stdout.split()[:2] == ["ID", "TIME"]
    assert source.returncode in (0, 141)
    assert err == b""
