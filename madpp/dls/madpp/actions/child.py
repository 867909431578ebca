"""The child process of a computation: started in a group of its own, listened to, and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from dls.logistics.errors import DlsError, Stop, Unavailable
from dls.madpp.action import Context

LINE = 65_536
"""Longest line that is told in one piece, bytes."""
LOOK_S = 0.5
"""How often it is asked whether the run may go on."""
PATIENCE_S = 10.0
"""How long a child may take to end when it is asked to."""


def execute(context: Context, words: Sequence[str], folder: str, environ: Mapping[str, str]) -> int:
    """Run a command in a folder; its lines are told as they come.  The exit status, negative for a signal."""
    with _started(words, folder, environ) as child, _fenced(child, context.options.fence) as stops:
        out = child.stdout
        while out is not None and (line := out.readline(LINE)):
            context.progress.ticks += 1
            context.say("line", {"text": line.decode("utf-8", "replace").rstrip("\r\n")})
        status = child.wait()
    if stops:
        raise stops[0]
    return status


@contextmanager
def _fenced(child: subprocess.Popen[bytes], fence: Callable[[], None]) -> Iterator[list[Stop]]:
    """End the child where the right to go on is lost; the reason is then in the list."""
    stops, over = list[Stop](), threading.Event()

    def look() -> None:
        while not over.wait(LOOK_S):
            try:
                fence()
            except Stop as stop:
                stops.append(stop)
                _end(child)
                return
            except DlsError:  # the state does not answer: it is asked again, and nothing lands without it
                continue

    watcher = threading.Thread(target=look, name="dls-fence", daemon=True)
    watcher.start()
    try:
        yield stops
    finally:
        over.set()
        watcher.join()


@contextmanager
def _started(words: Sequence[str], folder: str, environ: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    try:
        child = subprocess.Popen(
            words,
            cwd=folder,
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that what it started itself can be ended with it
        )
    except OSError as exc:
        raise Unavailable(
            f"cannot start {words[0]}: {exc.strerror}",
            code="command-failed",
            path=folder,
            remedy="see to it that it is a program of this machine: its rights, and the interpreter that its first "
            "line names",
        ) from exc
    try:
        yield child
    except BaseException:
        _end(child)
        raise
    finally:
        if child.stdout is not None:
            child.stdout.close()


def _end(child: subprocess.Popen[bytes]) -> None:
    """Ask the whole group to end, then make it."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(child.pid, number)
        try:
            child.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            continue
        break
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)  # what outlived its parent
