"""One installation as several processes use it: commands to their end, workers left running."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from dls.cli.settings import load
from dls.cli.wiring import Dls, connect
from dls.logistics import event

PROGRAM = [sys.executable, "-c", "from dls.cli.main import main; raise SystemExit(main())"]


def wait_for(what: Callable[[], Any], seconds: float = 60.0) -> Any:
    """What the condition gives once it gives something true."""
    until = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)
    return found


class Installation:
    """A DLS_HOME and the environment that its processes get."""

    def __init__(self, home: Path, **env: str) -> None:
        self.home = home
        self.env = {**os.environ, **env, "DLS_HOME": str(home)}
        self.children: list[subprocess.Popen[str]] = []

    def close(self) -> None:
        """End what still runs."""
        for child in self.children:
            if child.poll() is None:
                child.send_signal(signal.SIGCONT)
                child.kill()
            child.communicate()

    def start(self, *words: str | Path, **env: str) -> subprocess.Popen[str]:
        """A command, not waited for."""
        argv = [*PROGRAM, *map(str, words)]
        with ExitStack() as stack:
            log: Any = subprocess.PIPE
            if words[0] == "worker":  # a pipe would fill up; the folder of a test that failed is kept
                log = stack.enter_context(Path(f"{self.home}-worker-{len(self.children)}.log").open("wb"))
            both: Mapping[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log, "text": True}
            child = subprocess.Popen(argv, env={**self.env, **env}, start_new_session=True, **both)
        self.children.append(child)
        return child

    def worker(self, *words: str, lease: float = 1.5) -> subprocess.Popen[str]:
        """A worker, left running."""
        return self.start("worker", "--lease", str(lease), *words)

    def __call__(self, *words: str | Path) -> dict[str, Any]:
        """A command to its good end; its last JSON line."""
        child = self.start(words[0], "--json", *words[1:])
        out, err = child.communicate(timeout=120)
        assert child.returncode == 0, out + err
        found: dict[str, Any] = json.loads(out.splitlines()[-1])
        return found

    @contextmanager
    def open(self) -> Iterator[Dls]:
        """The installation in this process, to look at."""
        before = {k: os.environ.get(k) for k in self.env if os.environ.get(k) != self.env[k]}
        os.environ.update(self.env)
        try:
            dls = connect(load())
        finally:
            for key, value in before.items():
                if value is None:
                    os.environ.pop(key)
                else:
                    os.environ[key] = value
        try:
            yield dls
        finally:
            dls.close()

    def events(self, subject: str = "") -> list[event.Event]:
        """What happened, to one thing or to all."""
        with self.open() as dls:
            found, last = list[event.Event](), 0
            while page := list(event.since(dls.database, last)):
                found += page
                last = page[-1].id
        return [one for one in found if subject in ("", one.subject)]
