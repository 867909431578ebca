"""`dls worker`: carry the runs that others left."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import Final

import click

from dls.cli.command import verb
from dls.cli.front import Front

_ENDS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@verb("worker")
@click.option("--once", is_flag=True, help="End when no run is left that could go on now.")
@click.option(
    "--lease",
    type=click.FloatRange(1, 3600),
    default=15.0,
    show_default=True,
    metavar="SECONDS",
    help="Silence after which others take this worker's run.",
)
@click.option(
    "--grace",
    type=click.FloatRange(0, 86400),
    default=20.0,
    show_default=True,
    metavar="SECONDS",
    help="How long the run under way may go on after SIGTERM.",
)
def worker(front: Front, once: bool, lease: float, grace: float) -> None:
    """Carry queued runs (--detach), one at a time; start as many workers as you like, on any machine.

    A worker that dies, hangs or is cut off loses its run to another, which continues it.  SIGTERM or Ctrl-C: nothing
    new is taken; what does not end within the grace goes back to the queue.  A second signal ends it at once.
    """
    work = front.dls.worker(front.out.tell, lease_s=lease, grace_s=grace)

    def drain(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        work.drain()

    for number in _ENDS:
        signal.signal(number, drain)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDS)
    if work.work(once=once):
        # A signal that comes from here on waits until the process to come has the handlers above: it is not lost.
        signal.pthread_sigmask(signal.SIG_BLOCK, _ENDS)
        if not work.draining:
            front.close()
            front.out.tell("note", {"text": "begins anew: the last run was taken from this worker, or hangs"})
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - ourselves
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDS)  # told to end meanwhile: a second signal ends it at once
    front.out.result({"action": "worker", "slot": work.slot.name}, work.slot.name, ("no more work",))
