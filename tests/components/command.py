"""The command `dls` as tests use it: in this process, where that is enough, or in one of its own."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dls.cli.main import run

PROGRAM = [sys.executable, "-c", "from dls.cli.main import main; raise SystemExit(main())"]


@dataclass(frozen=True)
class Ran:
    """How one command ended."""

    status: int
    out: str
    err: str

    @property
    def events(self) -> list[dict[str, Any]]:
        """Its JSON lines."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def result(self) -> dict[str, Any]:
        """The last of them."""
        return self.events[-1]

    @property
    def said(self) -> str:
        """All that it wrote."""
        return self.out + self.err


@dataclass
class Command:
    """`dls` on one DLS_HOME.  Called, it runs in this process; `alone` starts a process of its own."""

    home: Path
    capture: pytest.CaptureFixture[str]
    environ: pytest.MonkeyPatch
    own: dict[str, str] = field(default_factory=dict)

    def __call__(self, *words: str | Path, ok: bool = False) -> Ran:
        self.capture.readouterr()
        status = run([str(word) for word in words])
        said = self.capture.readouterr()
        if ok:
            assert status == 0, said.out + said.err
        return Ran(status, said.out, said.err)

    def json(self, *words: str | Path, ok: bool = True) -> dict[str, Any]:
        """Its last JSON line, as a rule that of a success."""
        ran = self(*words[:1], "--json", *words[1:])
        assert (ran.status == 0) is ok, ran.said
        return ran.result

    def set(self, **variables: str) -> None:
        """Set environment variables, for both ways of running."""
        for name, value in variables.items():
            self.environ.setenv(name, value)

    def start(
        self, *words: str | Path, before: Sequence[str] = (), env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """The command in a process of its own, not waited for."""
        argv = [*before, *PROGRAM, *map(str, words)]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(argv, text=True, env={**os.environ, **(env or {})}, **pipes)

    def alone(
        self, *words: str | Path, before: Sequence[str] = (), env: Mapping[str, str] | None = None, ok: bool = False
    ) -> Ran:
        """The command in a process of its own, to its end."""
        child = self.start(*words, before=before, env=env)
        out, err = child.communicate(timeout=60)
        if ok:
            assert child.returncode == 0, out + err
        return Ran(child.returncode, out, err)

    def state(self) -> dict[str, list[str]]:
        """Every row of the state, by table."""
        path = self.home / "state.sqlite"
        if not path.exists():
            return {}
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        try:
            tables = [t for (t,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            return {t: sorted(map(repr, connection.execute(f'SELECT * FROM "{t}"'))) for t in tables}
        finally:
            connection.close()


def fill(folder: Path) -> Path:
    """A small tree: small files, an empty one, one of two parts; 1.5 MB."""
    (folder / "sub" / "deeper").mkdir(parents=True)
    for number in range(5):
        (folder / "sub" / f"file{number}").write_bytes(b"%d" % number * 1000)
    (folder / "sub" / "deeper" / "empty").write_bytes(b"")
    (folder / "large").write_bytes(bytes(range(256)) * 6000)
    return folder


def visible(*folders: Path) -> dict[str, bytes | str]:
    """Every file and link below, with its content, without what is hidden: what others see."""
    found: dict[str, bytes | str] = {}
    for folder in folders:
        for at, names, files in os.walk(os.fsencode(folder)):
            names[:] = [name for name in names if not name.startswith(b".dls-")]
            for name in files:
                path = os.path.join(at, name)
                shown = os.fsdecode(path)
                found[shown] = os.readlink(path) if os.path.islink(path) else Path(shown).read_bytes()
    return {path: body for path, body in found.items() if "/.dls-" not in path}
