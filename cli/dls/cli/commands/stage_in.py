"""`dls stage-in`: bring data where code will run."""

from __future__ import annotations

import click

from dls.cli.command import detach, dry_run, durability, verb
from dls.cli.front import Answer, Front
from dls.cli.words import copied, place
from dls.madpp.action import Facts
from dls.madpp.actions.stage_in import StageIn


@verb("stage-in")
@click.argument("what", metavar="SCOPE:NAME|URL")
@click.option("--to", required=True, metavar="SITE", help="Where: a site, see dls site list.")
@click.option("--lifetime", default="", metavar="P7D", help="How long the buffer is leased; the site's default.")
@click.option("--as-image", is_flag=True, help="As one file to mount: packed on the way, or copied where it is one.")
@dry_run
@detach
@durability
def stage_in(
    front: Front,
    what: str,
    to: str,
    lifetime: str,
    as_image: bool,
    dry_run: bool,
    detach: bool,
    durability: str | None,
) -> None:
    """Bring a dataset, or what lies at an address, into a leased buffer of a site, proven.

    What is there already is proven and shared.  Interrupted, the same command continues.
    """
    front.take(
        StageIn(what, to, lifetime, as_image),
        lambda facts: _answer(front, facts),
        dry_run=dry_run,
        detach=detach,
        durability=durability,
    )


def _answer(front: Front, facts: Facts) -> Answer:
    buffer = front.context.buffers.open(facts["buffer"])
    mount = f"  mount it: dls mount {place(facts['path'])} FOLDER" if facts.get("layout") == "image" else ""
    return Answer(
        facts["path"],
        (
            f"{facts['dataset']} is at {facts['path']}",
            f"  {copied(facts)}",
            f"  buffer {buffer.id}{' (shared)' if facts['shared'] else ''}, leased until {buffer.expires}",
            mount,
        ),
    )
