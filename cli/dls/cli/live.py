"""Live: how far runs are, for other processes to see: each process writes its own figures beside its lock.

At most once a second, into a file of DLS_HOME/locks that is replaced whole: no transaction, no sync, nothing to wait
for.  A run that is over within a second writes nothing.  Figures are no facts: a file that was left behind by a
process that died means nothing, since only the figures of runs that hold their lock are read.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from dls.cli.bars import Meter
from dls.logistics import duration
from dls.logistics.transfer.progress import Progress

EVERY_S: Final = 1.0
SILENT_S: Final = 10.0
"""Figures older than that are shown with their age: their process is stopped, or hangs."""
_LEFT_S: Final = duration.DAY
"""Files not written for so long were left behind and are removed."""

Tell = Callable[[str, Mapping[str, Any]], None]


def path(folder: Path, run: str) -> Path:
    """Where the figures of a run are."""
    return folder / f"run-{run}.live"


def read(folder: Path, run: str) -> dict[str, Any] | None:
    """The figures of a run that is running; None where it has written none yet."""
    try:
        found = json.loads(path(folder, run).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


@contextmanager
def shown(folder: Path, progress: Progress, tell: Tell | None = None, every_s: float = EVERY_S) -> Iterator[Tell]:
    """Show the figures of the run that is told of inside the block; gives what to tell."""
    beacon = _Beacon(folder, progress)
    over = threading.Event()
    thread: list[threading.Thread] = []

    def write() -> None:
        while not over.wait(every_s):
            with suppress(OSError):
                beacon.write()

    def told(kind: str, facts: Mapping[str, Any]) -> None:
        beacon.hear(kind, facts)
        if beacon.run and not thread:
            thread.append(threading.Thread(target=write, name="dls-live", daemon=True))
            thread[0].start()
        if tell is not None:
            tell(kind, facts)

    try:
        yield told
    finally:
        over.set()
        for one in thread:
            one.join(2)
        beacon.forget()


class _Beacon:
    """What is known of one run."""

    def __init__(self, folder: Path, progress: Progress) -> None:
        self.run = ""
        self._folder = folder
        self._meter = Meter(progress)
        self._about: dict[str, Any] = {"step": "", "from": "", "to": "", "waits_for": ""}

    def hear(self, kind: str, facts: Mapping[str, Any]) -> None:
        """Something happened in the run."""
        about = self._about
        if kind == "run":
            self.run = str(facts["run"])
            self._since_ns = time.time_ns()
            _sweep(self._folder)
        elif kind == "step":
            about.update(step=str(facts.get("step", "")))
        elif kind == "route":
            self._meter.again()
            about.update({"from": str(facts["from"]), "to": str(facts["to"]), "waits_for": ""})
        elif kind == "waiting":
            about.update(waits_for=str(facts["run"]))
        elif kind == "command":
            about.update(waits_for="")

    def write(self) -> None:
        """Replace the file."""
        facts = {
            "run": self.run,
            "host": os.uname().nodename,
            "pid": os.getpid(),
            "since_ns": self._since_ns,
            "at_ns": time.time_ns(),
            **self._about,
            **self._meter.look().to_json(),
        }
        target = path(self._folder, self.run)
        fresh = target.with_suffix(".live-new")
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            json.dump(facts, file)
        fresh.replace(target)

    def forget(self) -> None:
        """The run is over."""
        if self.run:
            with suppress(OSError):
                path(self._folder, self.run).unlink(missing_ok=True)


def _sweep(folder: Path) -> None:
    with suppress(OSError):
        for left in folder.glob("run-*.live*"):
            with suppress(OSError):
                if time.time() - left.stat().st_mtime > _LEFT_S:
                    left.unlink()
