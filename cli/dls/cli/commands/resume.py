"""`dls resume`: carry on a run that nobody carries."""

from __future__ import annotations

import click

from dls.cli.command import verb
from dls.cli.front import Front


@verb("resume")
@click.argument("run")
@click.option("--detach", is_flag=True, help="Leave it to a worker (dls worker); answer at once.")
def resume(front: Front, run: str, detach: bool) -> None:
    """Carry on RUN, which broke off, failed or was cancelled: steps that are done are not taken again."""
    if detach:
        state = front.dls.runs.requeue(run, front.context.actor)
        front.out.result({"action": "resume", "run": run, "state": state.value}, run, (f"{run} is queued again",))
        return
    done = front.resume(run)
    front.out.result({"action": "resume", **done.to_json()}, done.id, (f"{done.id} is {done.state.value}",))
