"""`dls stage-out`: save what was made."""

from __future__ import annotations

import click

from dls.cli.command import detach, dry_run, durability, verb
from dls.cli.front import Answer, Front
from dls.cli.words import copied, place
from dls.madpp.action import Facts
from dls.madpp.actions.stage_out import StageOut


@verb("stage-out")
@click.argument("what", metavar="PATH|SCOPE:NAME")
@click.option("--to", required=True, metavar="SITE|URL", help="Where: a site, or exactly an address.")
@click.option("--as", "as_", default="", metavar="SCOPE:NAME", help="Register what is saved as this dataset.")
@dry_run
@detach
@durability
def stage_out(front: Front, what: str, to: str, as_: str, dry_run: bool, detach: bool, durability: str | None) -> None:
    """Save a path, a buffer or a dataset at a site or an address, proven.

    A path with a colon in its name begins with ./ or /.  A buffer that is saved so may be released.
    """
    front.take(StageOut(what, to, as_), _answer, dry_run=dry_run, detach=detach, durability=durability)


def _answer(facts: Facts) -> Answer:
    saved = f"  the buffer {facts['saved_buffer']} is clean now" if facts["saved_buffer"] else ""
    return Answer(
        facts["url"],
        (
            f"{facts['dataset'] or place(facts['from'])} is saved at {place(facts['url'])}",
            f"  {copied(facts)}",
            saved,
        ),
    )
