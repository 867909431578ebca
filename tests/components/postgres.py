"""A PostgreSQL server of one test run, from Debian's package: data and socket in a folder, else loopback only.

It runs as the user `postgres` where we are root (the server refuses root) and lets everybody in on loopback (`trust`).
A second cluster costs an `initdb` (3 s), a start 0.3 s. Tests take a schema each, which costs nothing.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from components.process import Child, free_port

BIN = Path("/usr/lib/postgresql/15/bin")
USER = "postgres"
_NAME = "dls_tests"


def installed() -> str:
    """The server's program, or ''."""
    return str(BIN / "postgres") if (BIN / "postgres").exists() else ""


class PostgresServer:
    """One server: `start`, `stop` (clients are sent away), `kill` (as a power cut, but for the disk), `restart`."""

    def __init__(self, work: Path, *, durable: bool = False) -> None:
        self.work = work
        self.data = work / "data"
        self.port = free_port()
        self._durable = durable
        self._child: Child | None = None

    @property
    def url(self) -> str:
        """Of the database of the tests."""
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{_NAME}"

    def make(self) -> None:
        """`initdb`, and a database without a collation of its own choice."""
        self.work.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:
            shutil.chown(self.work, USER, USER)
        self._run("initdb", "-D", self.data, "-A", "trust", "-U", USER, "-E", "UTF8", "--locale", "C.UTF-8", "-N")

    def start(self) -> None:
        """Start and wait until it answers; makes the database the first time."""
        options = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(self.work),
            "max_connections": "60",
            "shared_buffers": "16MB",
            "fsync": "on" if self._durable else "off",
            "full_page_writes": "on" if self._durable else "off",
        }
        words = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        command = [*_as_user(), str(BIN / "postgres"), "-D", str(self.data), "-p", str(self.port), *words]
        self._child = Child(command, log=self.work / "server.log", cwd=self.work).start()
        self._child.wait_ready(self._answers, within=30)
        if not (self.work / "made").exists():
            self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", USER, _NAME)
            (self.work / "made").touch()

    def stop(self) -> None:
        """Send clients away and end; repeatable."""
        self._signal(signal.SIGINT)
        self._end(grace=10)

    def kill(self) -> None:
        """SIGKILL to the server and all that it started."""
        self._end(grace=0)

    def restart(self) -> None:
        """Send clients away; then as before."""
        self.stop()
        self.start()

    def _end(self, grace: float) -> None:
        if self._child is None:
            return
        if grace:
            self._child.stop(grace)
        self._child.kill()
        if not grace:  # its children lead groups of their own
            for pid in _below(self.data):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            while _below(self.data):
                time.sleep(0.01)
        self._child = None

    def _signal(self, number: signal.Signals) -> None:
        with suppress(OSError, ValueError, IndexError):
            os.kill(int((self.data / "postmaster.pid").read_text().split()[0]), number)

    def _answers(self) -> bool:
        words = [str(BIN / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(words, check=False).returncode == 0

    def _run(self, program: str, *words: str | Path) -> None:
        command = [*_as_user(), str(BIN / program), *map(str, words)]
        done = subprocess.run(command, cwd=self.work, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{program}: {done.stdout}{done.stderr}")


def _as_user() -> list[str]:
    return ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--init-groups"] if os.geteuid() == 0 else []


def _below(data: Path) -> list[int]:
    """Processes whose working folder is the data folder, as the server's are."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                if state != "Z" and os.readlink(entry / "cwd") == str(data):
                    found.append(int(entry.name))
    return found


@contextmanager
def postgres(*, durable: bool = False) -> Iterator[PostgresServer]:
    """A running server in a folder of its own, which goes with it; `durable` syncs what it commits."""
    # Not below pytest's folders: a user of its own must reach it, and the path of a socket has 107 bytes.
    with tempfile.TemporaryDirectory(prefix="dls-pg-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        server = PostgresServer(Path(folder), durable=durable)
        server.make()
        server.start()
        try:
            yield server
        finally:
            server.stop() if durable else server.kill()  # thousands of tables take long to write out
