"""The side of the tests that speaks with `child.py`, and kills it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

CALLS = (
    "openat,write,pwrite64,rename,renameat2,unlink,mkdir,rmdir,link,linkat,symlink,ftruncate,fallocate,utimensat,"
    "fchmod,chmod,fsync,fdatasync,syncfs"
)


class Runner(AbstractContextManager["Runner"]):
    """One `child.py`."""

    def __init__(self, work: Path, *, small: bool = True) -> None:
        self.work = work
        words = [sys.executable, str(Path(__file__).with_name("child.py")), *(["--small"] if small else [])]
        self._child = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._answer() == {"ready": True}

    def __exit__(self, *_: object) -> None:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.close()
        self._child.stdout.close()
        self._child.wait(10)

    def _ask(self, what: dict[str, Any]) -> None:
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps(what) + "\n")
        self._child.stdin.flush()

    def _answer(self) -> dict[str, Any]:
        assert self._child.stdout is not None
        answer: dict[str, Any] = json.loads(self._child.stdout.readline())
        return answer

    def bodies(self) -> int:
        """Bodies asked of disks since the last time."""
        self._ask({"count": True})
        return int(self._answer()["bodies"])

    def start(self, case: dict[str, Any]) -> int:
        """Begin a run and leave it running; `end` waits for it."""
        self._ask({**case, "said": str(self.work / "said")})
        return int(self._answer()["pid"])

    def end(self) -> dict[str, Any]:
        """How the run ended that `start` began."""
        return self._answer()

    def run(self, case: dict[str, Any]) -> dict[str, Any]:
        """Run undisturbed."""
        self.start(case)
        return self.end()

    def traced(self, case: dict[str, Any], *options: str) -> tuple[dict[str, Any], str]:
        """Run under strace, attached before it begins; (how it ended, the trace)."""
        with tempfile.TemporaryDirectory(dir=self.work) as folder:
            gate, trace = f"{folder}/gate", Path(folder, "trace")
            os.mkfifo(gate)
            pid = self.start({**case, "gate": gate})
            words = ["strace", "-f", "-o", str(trace), "-p", str(pid), *options]
            tracer = subprocess.Popen(words, stderr=subprocess.DEVNULL)
            try:
                _attached(pid)
                _let_through(gate, pid)
                return self.end(), trace.read_text() if trace.exists() else ""
            finally:
                tracer.wait(20)

    def calls(self, case: dict[str, Any]) -> Counter[str]:
        """How often each mutating system call is made by the thread that makes most of them."""
        _, trace = self.traced(case, "-e", f"trace={CALLS}")
        each = Counter(re.findall(r"^(\d+) +(\w+)\(", trace, re.MULTILINE))
        most: Counter[str] = Counter()
        for (_, name), count in each.items():
            most[name] = max(most[name], count)
        return most

    def killed(self, case: dict[str, Any], call: str, number: int) -> bool:
        """Kill the run at a system call; False where it did not come so far."""
        ended, _ = self.traced(case, "-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={number}")
        return bool(ended["signal"] == 9)


def _attached(pid: int) -> None:
    """Return when strace has hold of it (or has killed it already: waiting at the gate is a system call too)."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except FileNotFoundError:
            return
        if re.search(r"^TracerPid:\t(?!0)", status, re.MULTILINE):
            return
        time.sleep(0.002)
    raise TimeoutError("strace did not attach")


def _let_through(gate: str, pid: int) -> None:
    until = time.monotonic() + 20
    while time.monotonic() < until and Path(f"/proc/{pid}").exists():
        try:
            os.close(os.open(gate, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:  # nobody waits there yet
            time.sleep(0.002)
        else:
            return
