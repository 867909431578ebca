"""One contender, run once: a fresh process group with its wall time, CPU time, peak memory and exit status."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from components.process import own_group

LIMIT = 1800.0  # seconds after which a contender counts as hung
SAMPLE = 0.02  # seconds between looks at the memory of the group
_LIBC = ctypes.CDLL(None, use_errno=True)
Words = Sequence[str | Path]


@dataclass(frozen=True)
class Turn:
    """One contender's go in one round: a fresh `target` folder (absent), a `work` folder that stays, a unique `tag`."""

    target: Path
    work: Path
    tag: str


@dataclass(frozen=True)
class Contender:
    """Who runs what. `command` and `prepare` are asked anew for each turn; `prepare` runs outside the clock.

    `check` looks at the result outside the clock and returns a problem in words, or nothing.
    """

    name: str
    command: Callable[[Turn], Words]
    env: Mapping[str, str] = field(default_factory=dict)
    prepare: Callable[[Turn], None] | None = None
    check: Callable[[Turn], str] | None = None
    verified: bool = False


@dataclass(frozen=True)
class Sample:
    """What one turn took. `rss` is the largest sum of resident bytes over the group; `problem` is empty when it won."""

    wall: float
    cpu: float
    rss: int
    status: int
    problem: str


def measure(
    argv: Words,
    *,
    env: Mapping[str, str],
    log: Path,
    cold: bool = False,
    sync: Path | None = None,
    limit: float = LIMIT,
) -> Sample:
    """Run `argv` to its end; the clock includes a sync of the file system that holds `sync`, if given."""
    if cold:
        drop_caches()
    with log.open("wb") as sink:
        began = time.monotonic()
        child = subprocess.Popen(
            [os.fspath(word) for word in argv],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env=dict(env),
            start_new_session=True,
        )
    own_group(child.pid, owned=True)
    watch = _Watch(child.pid)
    alarm = threading.Timer(limit, _kill, (child.pid,))
    alarm.start()
    watch.start()
    try:
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)  # reaped here: Popen must not wait again
    finally:
        alarm.cancel()
        _kill(child.pid)
        own_group(child.pid, owned=False)
    if sync is not None:
        sync_filesystem(sync)
    wall = time.monotonic() - began
    watch.stop()
    problem = ""
    if child.returncode:
        hung = f" (killed after {limit:.0f} s)" if wall >= limit else ""
        problem = f"exit {child.returncode}{hung}: {_tail(log)}"
    # ru_maxrss starts from the peak of the process that forked (us), so it counts only where it is larger.
    largest = usage.ru_maxrss * 1024 if usage.ru_maxrss * 1024 > _high_water(os.getpid()) else 0
    return Sample(wall, usage.ru_utime + usage.ru_stime, max(watch.peak, largest), child.returncode, problem)


def drop_caches() -> None:
    """Write dirty pages out and forget clean ones: the next reads come from the disk. Root only."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def sync_filesystem(path: Path) -> None:
    """`syncfs(2)` of the file system that holds `path` or, where it does not exist, its nearest parent."""
    while not path.exists():
        path = path.parent
    fd = os.open(path, os.O_RDONLY)
    try:
        if _LIBC.syncfs(fd):
            raise OSError(ctypes.get_errno(), "syncfs", str(path))
    finally:
        os.close(fd)


def cpu_seconds(pids: Sequence[int]) -> float:
    """User and system seconds that these running processes have used so far (servers)."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


class _Watch(threading.Thread):
    """Samples the memory of a process and its descendants, 50 times a second, until told to stop."""

    def __init__(self, pid: int) -> None:
        super().__init__(name="memory", daemon=True)
        self._pid = pid
        self._done = threading.Event()
        self.peak = 0

    def run(self) -> None:
        while True:
            pids = _family(self._pid)
            now = sum(map(_resident, pids))
            # A single process knows its own peak between two looks; several need not have theirs at one time.
            self.peak = max(self.peak, now, _high_water(pids[0]) if len(pids) == 1 else 0)
            if self._done.wait(SAMPLE):
                return

    def stop(self) -> None:
        self._done.set()
        self.join()


def _family(pid: int) -> list[int]:
    """Return the process and its descendants, from the kernel's lists of children."""
    found, todo = [], [pid]
    while todo:
        here = todo.pop()
        found.append(here)
        try:
            for task in os.scandir(f"/proc/{here}/task"):
                with open(f"{task.path}/children") as file:
                    todo.extend(map(int, file.read().split()))
        except OSError:
            continue
    return found


def _resident(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def _high_water(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/status") as file:
            return next((int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM")), 0)
    except OSError:
        return 0


def _kill(group: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def _tail(log: Path, size: int = 300) -> str:
    return " ".join(log.read_bytes()[-size:].decode(errors="replace").split())
