"""Ends that nobody wants: signals, closed pipes, faults of ours, stores that never answer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from components.command import Command, visible
from components.exchange import Fault
from components.proxy import Proxy
from components.s3_rclone import rclone_s3
from dls.logistics.site import Sites

SECRET = "5ecr3t-Pa55w0rd-never-shown"


@pytest.mark.spec("ERROR-7")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("where", ["text", "json"])
def test_a_signal_ends_a_run_in_an_orderly_way(staged: Command, number: signal.Signals, where: str) -> None:
    options = ["--json"] if where == "json" else []
    words = ["run", *options, "--at", "scratch", "--", "sh", "-c", "echo $$; exec sleep 50"]
    child = staged.start(*words)
    stream = child.stdout if where == "json" else child.stderr
    assert stream is not None
    grandchild = _number(stream.readline() for _ in range(10))
    child.send_signal(number)
    out, err = child.communicate(timeout=20)
    assert child.returncode == 128 + number
    if where == "json":
        error = json.loads(out.splitlines()[-1])
        assert (error["event"], error["code"], error["exit_status"], err) == ("error", "interrupted", 128 + number, "")
    else:
        assert out == ""
        assert err.splitlines()[-2:] == [
            f"error: ended by {number.name}; what was copied and proven so far is kept [interrupted]",
            "  what to do: run the same again: it continues",
        ]
    assert "Traceback" not in out + err
    assert not psutil.pid_exists(grandchild)
    run = staged("status", "--json").events[0]
    assert (run["state"], run["error"]["code"]) == ("failed", "interrupted")


def _number(lines: object) -> int:
    """The process id that the command printed first."""
    for line in lines:  # type: ignore[attr-defined]
        text = json.loads(line).get("text", "") if line.startswith("{") else line
        if text.strip().isdigit():
            return int(text)
    raise AssertionError("the command did not start")


@pytest.mark.spec("ERROR-7")
@pytest.mark.service
def test_an_interrupted_copy_continues_and_fetches_no_file_twice(dls: Command, tmp_path: Path) -> None:
    with rclone_s3(tmp_path) as service, Proxy(service.endpoint) as proxy:
        assert service.root is not None
        folder = service.root / service.bucket("bucket") / "tree"
        folder.mkdir()
        for n in range(400):
            (folder / f"file{n:03}").write_bytes(b"%d" % n * 500)
        dls.set(**service.env(proxy.endpoint), DLS_STREAMS="2")
        dls("site", "add", "scratch", tmp_path / "scratch", ok=True)
        dls("catalogue", "add", "x:data", "s3://bucket/tree", ok=True)
        proxy.reset()
        proxy.delay = 0.05
        child = dls.start("stage-in", "x:data", "--to", "scratch")
        while proxy.counts().bodies < 100:
            time.sleep(0.01)
            assert child.poll() is None, child.communicate()
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=20)
        assert (child.returncode, out) == (130, "")
        assert err.splitlines()[-2].startswith("error: ended by SIGINT")
        assert visible(tmp_path / "scratch") == {}
        proxy.delay = 0.0
        dls.alone("stage-in", "x:data", "--to", "scratch", ok=True)
        assert proxy.counts().bodies <= 400 + 64  # those asked for when it ended: 8 connections, 8 ahead on each
        assert len(visible(tmp_path / "scratch")) == 400


@pytest.mark.spec("ERROR-8", "ERROR-3", "ERROR-4")
@pytest.mark.parametrize("where", ["text", "json"])
def test_a_fault_of_ours_is_reported_without_secrets(dls: Command, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    def broken(self: Sites) -> None:
        raise ZeroDivisionError(f"with {SECRET} and s3://me:{SECRET}x@host/")

    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setattr(Sites, "all", broken)
    ran = dls("site", "list", *(["--json"] if where == "json" else []))
    assert ran.status == 70
    assert "Traceback" not in ran.said
    (report,) = (dls.home / "crash").iterdir()
    assert str(report) in ran.said
    assert (report.stat().st_mode & 0o777, report.suffix) == (0o600, ".txt")
    text = report.read_text()
    assert "ZeroDivisionError" in text
    assert "def broken" not in text or "Traceback" in text
    assert SECRET not in text + ran.said
    if where == "json":
        assert (ran.result["kind"], ran.result["facts"]["exception"], ran.err) == ("bug", "ZeroDivisionError", "")


@pytest.mark.spec("ERROR-8")
def test_a_fault_is_told_also_where_no_report_can_be_kept(
    dls: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr("dls.cli.settings.load", lambda home: 1 / 0)
    ran = dls("site", "list", "--home", tmp_path / "file" / "home")
    assert (ran.status, ran.out) == (70, "")
    assert "fault of dls itself (ZeroDivisionError) [bug]" in ran.err


@pytest.mark.spec("ERROR-9")
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_closed_pipe_ends_it_in_silence(staged: Command, options: list[str]) -> None:
    child = staged.start("catalogue", "files", "x:data", *options)
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.close()
    assert (child.stderr.read(), child.wait(20)) == ("", 141)
    child.stderr.close()


def test_output_that_cannot_be_written_is_said(dls: Command) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*_argv(dls), "site", "list"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=30, check=False
        )
    assert done.returncode == 8
    assert "cannot write the output: No space left on device [no-output]" in done.stderr


def _argv(dls: Command) -> list[str]:
    from components.command import PROGRAM

    return PROGRAM


@pytest.mark.spec("ERROR-10")
@pytest.mark.service
def test_a_body_that_never_comes_does_not_keep_the_process(dls: Command, tmp_path: Path) -> None:
    with rclone_s3(tmp_path) as service, Proxy(service.endpoint) as proxy:
        assert service.root is not None
        folder = service.root / service.bucket("bucket") / "tree"
        folder.mkdir()
        (folder / "file").write_bytes(b"x" * 1000)
        dls.set(**service.env(proxy.endpoint), DLS_TIMEOUT="1", DLS_STALL="3", DLS_RETRIES="0")
        dls("site", "add", "scratch", tmp_path / "scratch", ok=True)
        dls("catalogue", "add", "x:data", "s3://bucket/tree", ok=True)
        proxy.add(Fault(kind="GET", times=100, hang=True))
        started = time.monotonic()
        ran = dls.alone("stage-in", "x:data", "--to", "scratch")
        assert (ran.status, ran.out) == (8, "")
        assert time.monotonic() - started < 30
        assert "[service-hangs]" in ran.err or "[stalled]" in ran.err
        proxy.clear()
        dls.alone("stage-in", "x:data", "--to", "scratch", ok=True)


def test_a_folder_that_is_gone_is_no_fault_of_ours(
    dls: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    os.rmdir(gone)
    dls("site", "list", ok=True)
    ran = dls("catalogue", "add", "x:y", "relative")
    assert (ran.status, "[bad-url]" in ran.err) == (2, True)


@pytest.mark.spec("ERROR-1", "ERROR-3", "ERROR-9")
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed_keep_nothing_from_being_done(staged: Command, closed: str) -> None:
    """The number of a closed stream is the next that is given away: to the state, or to what is copied."""
    before = ["sh", "-c", f'exec "$@" {closed}', "sh"]
    for name, status in (("x:data", 0), ("x:none", 3)):
        ran = staged.alone("stage-in", name, "--to", "scratch", before=before)
        assert ran.status == status, ran.said
        assert "Traceback" not in ran.said
    assert staged("verify", "x:data", "--deep").status == 0
    assert staged("buffer", "list", "--quiet").out.count("\n") == 1
