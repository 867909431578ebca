"""Failure: the one way from an exception to words and an exit status.

DlsError             its own status, 2 to 9
Ctrl-C, SIGTERM …    128 + the signal's number
a closed pipe        141, in silence
anything else        70: a bug, told in one sentence, its report in DLS_HOME/crash
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, Final

import click

from dls.cli.words import scrub
from dls.logistics.errors import DlsError, Invalid

BUG: Final = 70
"""EX_SOFTWARE of sysexits.h."""
PIPE: Final = 128 + signal.SIGPIPE

_REMEDIES: Final = {
    "invalid": "look at dls COMMAND --help",
    "not-found": "check the name",
    "exists": "choose another name",
    "denied": "ask its owner",
    "unsupported": "choose another storage",
    "corrupt": "run dls verify --deep, then stage in again",
    "unavailable": "run the same again: it continues",
    "conflict": "look again at what is there, then run the same again",
}


class Ended(KeyboardInterrupt):
    """A signal asked the process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def signals() -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP end the work in an orderly way, the second one at once."""

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise Ended(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {}
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, and shells' background jobs, ask for that
            before[number] = signal.signal(number, end)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def explain(exc: BaseException, home: Path, secrets: Sequence[str]) -> Mapping[str, Any]:
    """What is said about an exception (the form of `DlsError.to_json`)."""
    if isinstance(exc, click.UsageError):
        return _usage(exc).to_json()
    if isinstance(exc, DlsError):
        facts = exc.to_json()
        return {**facts, "remedy": facts["remedy"] or _REMEDIES[exc.kind]}
    if isinstance(exc, KeyboardInterrupt):
        return _interrupted(exc)
    return _bug(exc, home, secrets)


def _usage(exc: click.UsageError) -> Invalid:
    path = exc.ctx.command_path if exc.ctx else "dls"
    return Invalid(
        " ".join(exc.format_message().split()), code="bad-usage", remedy=f"look at {path} --help", command=path
    )


def _interrupted(exc: KeyboardInterrupt) -> Mapping[str, Any]:
    number = exc.number if isinstance(exc, Ended) else signal.SIGINT
    return {
        "kind": "interrupted",
        "code": "interrupted",
        "exit_status": 128 + number,
        "message": f"ended by {signal.Signals(number).name}; what was copied and proven so far is kept",
        "remedy": "run the same again: it continues",
        "retryable": True,
        "facts": {"signal": signal.Signals(number).name},
    }


def _bug(exc: BaseException, home: Path, secrets: Sequence[str]) -> Mapping[str, Any]:
    report = _report(exc, home, secrets)
    kept = f"; the report is {report}" if report else ""
    return {
        "kind": "bug",
        "code": "bug",
        "exit_status": BUG,
        "message": f"this is a fault of dls itself ({type(exc).__name__}){kept}",
        "remedy": "send the report to those who maintain dls; it holds no secret that we know of",
        "retryable": False,
        "facts": {"report": str(report or ""), "exception": type(exc).__name__},
    }


def _report(exc: BaseException, home: Path, secrets: Sequence[str]) -> Path | None:
    """Write the traceback, without values and secrets; None where that cannot be done."""
    import platform
    import traceback

    from dls.logistics import ids
    from dls.logistics.version import VERSION

    head = f"dls {VERSION}, Python {platform.python_version()}, {platform.platform()}\n\n"
    text = scrub(head + "".join(traceback.format_exception(exc)), secrets)
    with suppress(OSError):
        folder = home / "crash"
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.mkdir(exist_ok=True, mode=0o700)
        path = folder / f"{ids.ulid()}.txt"
        with os.fdopen(
            os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", errors="backslashreplace"
        ) as file:
            file.write(text)
        return path
    return None
