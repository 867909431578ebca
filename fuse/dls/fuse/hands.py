"""Workers as the one who decides sees them: processes, or none."""

from __future__ import annotations

import pickle
import select
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from dls.fuse.blocks import Form
from dls.fuse.pipes import Pipe
from dls.fuse.reading import Description
from dls.fuse.work import Worker
from dls.logistics.errors import Unavailable


class Inline:
    """A worker in this process: answers are ready at once."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.answers: deque[Any] = deque()

    def send(self, verb: str, job: int, *rest: Any) -> None:
        self.answers.append((verb, job, getattr(self._worker, verb)(job, *rest)))

    def close(self) -> None:
        self.answers.clear()


class Process:
    """A worker process; it ends with its connection."""

    def __init__(self, reader: Description, fd: int, form: Form) -> None:
        ours_end, theirs = socket.socketpair()
        self.pipe = Pipe(ours_end.detach())
        # Not `-m`: a module named `__main__` is not the one that others import.  -P: nor is one in the working folder
        command = [sys.executable, "-P", "-c", "from dls.fuse.work import main; main()", str(theirs.fileno())]
        self._child = subprocess.Popen(command, pass_fds=(theirs.fileno(), fd), stdin=subprocess.DEVNULL)
        theirs.close()
        self.pipe.send((pickle.dumps(reader), fd, tuple(form)))

    def send(self, verb: str, job: int, *rest: Any) -> None:
        try:
            self.pipe.send((verb, job, *rest))
        except OSError as exc:
            raise _died() from exc

    def close(self) -> None:
        with suppress(OSError):
            self.pipe.send(None)
        self.pipe.close()
        try:
            self._child.wait(5)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()


Hand = Inline | Process
"""One worker: messages (verb, job, …) go in by `send`, answers (verb, job, result) come out by `heard`."""


def heard(hands: Sequence[Hand]) -> list[Any]:
    """Answers that have come; waits up to a second for one."""
    if isinstance(hands[0], Inline):
        found = list(hands[0].answers)
        hands[0].answers.clear()
        return found
    looking, pipes = select.poll(), {hand.pipe.fileno(): hand.pipe for hand in hands if isinstance(hand, Process)}
    for fd in pipes:
        looking.register(fd, select.POLLIN)
    try:
        return [pipes[fd].receive() for fd, _ in looking.poll(1000)]
    except (EOFError, OSError) as exc:
        raise _died() from exc


def _died() -> Unavailable:
    return Unavailable(
        "a process that packs has ended", code="worker-died", remedy="look at its messages and run the same again"
    )
