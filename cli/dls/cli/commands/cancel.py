"""`dls cancel`: end a run."""

from __future__ import annotations

import click

from dls.cli.command import verb
from dls.cli.front import Front


@verb("cancel")
@click.argument("run")
def cancel(front: Front, run: str) -> None:
    """Cancel RUN: at once where nobody carries it, else within seconds.  What was proven is kept; it can be resumed."""
    state = front.dls.engine.cancel(run, front.context.actor)
    said = "is cancelled" if state.value == "cancelled" else "is told to stop"
    front.out.result({"action": "cancel", "run": run, "state": state.value}, run, (f"{run} {said}",))
