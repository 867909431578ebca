"""What is printed, where and how often."""

from __future__ import annotations

import io
import json

import pytest

from dls.cli.bars import Figures, Meter, bar, counted
from dls.cli.render import Column, Lines, Screen
from dls.cli.words import plain, printable, scrub
from dls.logistics.transfer.progress import Progress

HALF = Figures("copying", 500, 1000, 10**9, 4 * 10**9, 3, 0, 85e6, 35.0)
COLUMNS = (Column("NAME", lambda r: r["name"]), Column("SIZE", lambda r: str(r["size"]), True))
ROWS = [{"name": "a", "size": 5}, {"name": "long name", "size": 12345}]


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.spec("CLI-4")
def test_a_bar_is_drawn_on_a_terminal_and_taken_away_for_words() -> None:
    out, err = io.StringIO(), Tty()
    screen = Screen(out, err)
    assert screen.every_s == 0.2
    screen.figures(HALF)
    screen.tell("note", {"text": "a note"})
    screen.figures(HALF)
    screen.calm()
    screen.calm()
    said = err.getvalue()
    assert said.count("\r") == 4
    assert said.endswith("\r\x1b[K")
    assert "\r\x1b[Ka note\n" in said
    assert "━" in said
    assert out.getvalue() == ""


@pytest.mark.spec("CLI-4")
def test_elsewhere_it_is_a_line_and_json_is_an_event_where_anything_moved() -> None:
    err = io.StringIO()
    screen = Screen(io.StringIO(), err)
    assert screen.every_s == 10.0
    screen.figures(HALF)
    assert err.getvalue() == "copying: 500/1,000 files, 1.0 GB/4.0 GB, 85.0 MB/s, 35 s to go\n"
    out = io.StringIO()
    lines = Lines(out)
    assert lines.every_s == 0.5
    lines.figures(HALF)
    lines.figures(HALF)
    (event,) = [json.loads(line) for line in out.getvalue().splitlines()]
    assert event["event"] == "progress"
    assert (event["files"], event["files_total"], event["bytes_per_s"], event["eta_s"]) == (500, 1000, 85e6, 35.0)


@pytest.mark.spec("CLI-6")
def test_quiet_draws_nothing_and_keeps_errors() -> None:
    out, err = io.StringIO(), Tty()
    screen = Screen(out, err, quiet=True)
    assert screen.every_s == 0
    screen.tell("note", {"text": "a note"})
    screen.rows("row", COLUMNS, ROWS)
    screen.result({}, "the-essential", ["a long", "story"])
    screen.error({"message": "it broke", "code": "broken", "remedy": "mend it"})
    assert out.getvalue() == "a\nlong name\nthe-essential\n"
    assert err.getvalue() == "error: it broke [broken]\n  what to do: mend it\n"


def test_a_table_lines_up() -> None:
    out = io.StringIO()
    assert Screen(out, io.StringIO()).rows("row", COLUMNS, iter(ROWS)) == 2
    assert out.getvalue() == "NAME        SIZE\na              5\nlong name  12345\n"


@pytest.mark.spec("CLI-9")
def test_control_characters_and_odd_bytes_are_shown() -> None:
    assert printable("a\x1b[2Jb\u202ec") == "a%1B[2Jb%E2%80%AEc"
    assert printable("one\ntwo\tthree ü") == "one\ntwo\tthree ü"
    assert plain("x\udcff") == "x%FF"
    out = io.StringIO()
    Lines(out).result({"path": "x\udcff"}, "", ())
    out.getvalue().encode()


def test_signs_that_the_stream_has_not_are_replaced() -> None:
    raw = io.BytesIO()
    err = io.TextIOWrapper(raw, encoding="ascii")
    err.isatty = lambda: True  # type: ignore[method-assign]
    screen = Screen(io.StringIO(), err)
    screen.figures(HALF)
    screen.tell("route", {"from": "file:///ä", "to": "/b"})
    assert b"#" in raw.getvalue()
    assert b"/\\xe4 \\u2192 /b" in raw.getvalue()


@pytest.mark.spec("ERROR-4")
def test_secrets_are_cut_out() -> None:
    assert scrub("key=hunter22 at s3://me:pw@host/x", ["hunter22"]) == "key=… at s3://…@host/x"
    assert scrub("s3://KEY:se/cret@host/x", []) == "s3://…@host/x"
    for harmless in ("mail a@b.c", "file:///x@y/z", "s3+http://host:9000/x@1", "s3://bucket/x@1"):
        assert scrub(harmless, []) == harmless
    out, err = io.StringIO(), io.StringIO()
    screen = Screen(out, err, ["hunter22"])
    screen.result({}, "", ["hunter22"])
    screen.error({"message": "hunter22", "code": "x", "remedy": "hunter22"})
    Lines(out, ["hunter22"]).tell("note", {"text": "hunter22"})
    assert "hunter22" not in out.getvalue() + err.getvalue()


@pytest.mark.spec("CLI-4")
def test_rate_and_time_to_go() -> None:
    now = [0.0]
    progress = Progress(phase="copying", files_total=100, bytes_total=10_000)
    meter = Meter(progress, lambda: now[0])
    assert (meter.look().bytes_per_s, meter.look().eta_s) == (None, None)
    now[0], progress.bytes, progress.files = 10.0, 2000, 10
    figures = meter.look()
    assert figures.bytes_per_s == 200
    assert figures.eta_s == 90  # the files: 90 more, one a second
    assert figures.share == 0.1
    progress.bytes, progress.files, now[0] = 10_000, 100, 20.0
    assert meter.look().eta_s == 0
    meter.again()  # a second transfer of the same run begins
    progress.files_total, progress.bytes_total, now[0] = 10, 1000, 21.0
    assert (meter.look().files, meter.look().bytes, meter.look().share) == (0, 0, 0.0)


@pytest.mark.spec("CLI-4")
def test_the_time_to_go_has_an_interval() -> None:
    now = [0.0]
    progress = Progress(phase="copying", files_total=1, bytes_total=10_000)
    meter = Meter(progress, lambda: now[0])
    meter.look()
    for second, size in ((1, 100), (2, 200), (3, 600), (4, 1000)):
        now[0], progress.bytes = float(second), size
        figures = meter.look()
    assert figures.eta_s == 9000 / 250
    assert (figures.eta_low_s, figures.eta_high_s) == (9000 / 400, 9000 / 100)


def test_a_bar_fits_its_line() -> None:
    for width in (0, 10, 40, 80, 200):
        assert len(bar(HALF, width)) <= max(0, width - 1)
    assert bar(HALF, 120).count("━") == 7  # a quarter of thirty: the bytes lag behind
    assert "─" not in bar(Figures("looking", 5, 0, 100, 0, 0, 0, None, None), 120)
    assert counted(Figures("looking", 5, 0, 100, 0, 0, 2, None, None)) == "5 files, 100 B, 2 failed"
