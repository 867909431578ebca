"""One child process: started in its own session, waited for until it is ready, stopped by its own id.

Two nets keep a child from outliving us, also when we die of SIGKILL:
* PR_SET_PDEATHSIG, set between fork and exec. It fires when the *thread* that started the child ends, so it is set
  only for children started from the main thread; it does not reach grandchildren.
* a last will: one tiny process per parent (`WILL`), while there is something to own, that reads the groups and
  mounts we own from a pipe and, when the pipe closes, kills those groups and unmounts those folders.
"""

from __future__ import annotations

import ctypes
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

PR_SET_PDEATHSIG = 1
_LIBC = ctypes.PyDLL(None)  # PyDLL keeps the GIL: nothing else may run between fork and exec

# Runs as `python -S -c WILL`; stdin gets "+group PGID", "-group PGID", "+mount PATH", "-mount PATH" (hex for paths).
WILL = """
import os, signal, subprocess, sys
signal.signal(signal.SIGINT, signal.SIG_IGN); signal.signal(signal.SIGTERM, signal.SIG_IGN)
owned = []
for line in sys.stdin:
    sign, kind, what = line[0], *line[1:].split()
    owned.append((kind, what)) if sign == "+" else (kind, what) in owned and owned.remove((kind, what))
for kind, what in reversed(owned):
    if kind == "group":
        try: os.killpg(int(what), signal.SIGKILL)
        except (ProcessLookupError, PermissionError): pass
for kind, what in reversed(owned):
    if kind == "mount":
        subprocess.call(["umount", "-l", bytes.fromhex(what)], stderr=subprocess.DEVNULL)
"""


class NotReady(RuntimeError):
    """A component did not come up: carries the end of its log."""


class LastWill:
    """What has to go when this process dies; a small keeper process lives exactly as long as there is something."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owned: set[tuple[str, str]] = set()
        self._keeper: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def add(self, kind: str, what: str) -> None:
        """Own one `group` (its id) or `mount` (its path in hex); starts the keeper for the first one."""
        with self._lock:
            if self._owner != os.getpid():  # a fork: what the parent owns is the parent's
                self._owned, self._keeper, self._owner = set(), None, os.getpid()
            if self._keeper is None:
                argv = [sys.executable, "-S", "-E", "-c", WILL]
                self._keeper = subprocess.Popen(argv, stdin=subprocess.PIPE, start_new_session=True, cwd="/")
            self._owned.add((kind, what))
            self._tell(f"+{kind} {what}\n")

    def drop(self, kind: str, what: str) -> None:
        """Own it no longer; the keeper ends with the last one."""
        with self._lock:
            if self._owner != os.getpid() or (kind, what) not in self._owned:
                return
            self._owned.remove((kind, what))
            self._tell(f"-{kind} {what}\n")
            if not self._owned and self._keeper is not None:
                self._keeper.communicate()
                self._keeper = None

    def _tell(self, line: str) -> None:
        assert self._keeper is not None
        assert self._keeper.stdin is not None
        with suppress(BrokenPipeError):  # keeper gone: the first net still holds
            self._keeper.stdin.write(line.encode())
            self._keeper.stdin.flush()


_WILL = LastWill()


def own_group(group: int, *, owned: bool) -> None:
    """Put a process group into the last will, or take it out again."""
    (_WILL.add if owned else _WILL.drop)("group", str(group))


def own_mount(folder: Path, *, owned: bool) -> None:
    """Put a mount point into the last will, or take it out again."""
    (_WILL.add if owned else _WILL.drop)("mount", os.fsencode(folder).hex())


def free_port() -> int:
    """Return a loopback TCP port that is free now, below the range the kernel takes for outgoing connections.

    It may be taken before it is used: processes of one test run (-n) take from different ones.
    """
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 8
    for _ in range(200):
        port = random.SystemRandom().randrange(20_000 + number, 32_000, 8)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise NotReady("no free loopback port between 20000 and 32000")


def port_answers(port: int, host: str = "127.0.0.1") -> bool:
    """Tell whether something accepts TCP connections there."""
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


class Child:
    """A process in its own session and group; a context manager that always stops it.

    `log` receives standard output and error. `env` replaces the environment (secrets travel here, not in `argv`).
    """

    def __init__(
        self,
        argv: Sequence[str | Path],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.argv = [os.fspath(word) for word in argv]
        self.log = log
        self._env = dict(env) if env is not None else None
        self._cwd = cwd
        self._process: subprocess.Popen[bytes] | None = None
        self._paused = False
        self._gone = False

    def start(self) -> Self:
        """Start the process; the log is appended to."""
        if self.alive:
            raise RuntimeError(f"{self.argv[0]} runs already as {self.pid}")
        in_main = threading.current_thread() is threading.main_thread()
        parent = os.getpid()
        with self.log.open("ab") as sink:
            self._process = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env=self._env,
                cwd=self._cwd,
                start_new_session=True,
                preexec_fn=(lambda: _die_with(parent)) if in_main else None,
            )
        self._gone = self._paused = False
        own_group(self.pid, owned=True)
        return self

    def wait_ready(self, ready: Callable[[], bool], within: float = 30.0, every: float = 0.02) -> Self:
        """Return once `ready()` is true; raise `NotReady` when the process ends first or time is up (it is stopped)."""
        deadline = time.monotonic() + within
        while not ready():
            if not self.alive or time.monotonic() > deadline:
                reason = f"ended with {self.returncode}" if not self.alive else f"not ready after {within} s"
                self.stop(grace=0.2)
                raise NotReady(f"{self.argv[0]} {reason}; end of {self.log}:\n{self.tail()}")
            time.sleep(every)
        return self

    @property
    def pid(self) -> int:
        """Process id, which is also the id of its group and session."""
        if self._process is None:
            raise RuntimeError("not started")
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def returncode(self) -> int | None:
        """Exit status, negative for a signal, None while it runs."""
        return None if self._process is None else self._process.poll()

    def tail(self, size: int = 2000) -> str:
        """Return the end of the log."""
        data = self.log.read_bytes() if self.log.exists() else b""
        return data[-size:].decode(errors="replace")

    def pause(self) -> None:
        """Freeze the whole group (SIGSTOP): it keeps its ports and answers nothing. Frozen when this returns."""
        self._signal(signal.SIGSTOP)
        deadline = time.monotonic() + 2
        while self.alive and self._state() != "T" and time.monotonic() < deadline:
            time.sleep(0.001)
        self._paused = True

    def resume(self) -> None:
        """Let a frozen group go on."""
        self._signal(signal.SIGCONT)
        self._paused = False

    def kill(self) -> None:
        """SIGKILL the whole group and reap the child. Repeatable."""
        if self._process is not None and not self._gone:
            self._signal(signal.SIGKILL)
            self._process.wait()
            self._gone = True
            own_group(self.pid, owned=False)

    def stop(self, grace: float = 5.0) -> None:
        """TERM, wait up to `grace` seconds, then KILL whatever of the group is left. Repeatable."""
        if self._process is None or self._gone:
            return
        if self.alive:
            if self._paused:
                self.resume()
            self._signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(grace)
        self.kill()

    def _state(self) -> str:
        """Return the kernel's letter for the state of the process (R, S, T, …)."""
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def __enter__(self) -> Self:
        return self if self.alive else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _die_with(parent: int) -> None:
    """Between fork and exec: ask the kernel to kill us when our parent dies, and check that it has not died yet."""
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(127)
