"""`dls run`: a computation on staged data, with its lineage."""

from __future__ import annotations

import click

from dls.cli.command import detach, dry_run, verb
from dls.cli.front import Answer, Front
from dls.cli.words import files
from dls.logistics.duration import show_size
from dls.madpp.action import Facts
from dls.madpp.actions.compute import Compute


@verb("run")
@click.option("--in", "inputs", multiple=True, metavar="SCOPE:NAME", help="Stage this in first; may be repeated.")
@click.option("--out", "output", default="", metavar="SCOPE:NAME", help="Register what the command writes.")
@click.option("--at", required=True, metavar="SITE", help="Where to run.")
@click.option("--lifetime", default="", metavar="P7D", help="How long the buffers are leased; the site's default.")
@dry_run
@detach
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="-- COMMAND...")
def run(
    front: Front,
    inputs: tuple[str, ...],
    output: str,
    at: str,
    lifetime: str,
    dry_run: bool,
    detach: bool,
    command: tuple[str, ...],
) -> None:
    """Run COMMAND on staged inputs, in a fresh output buffer, and record what made what.

    The command finds its inputs in $DLS_IN (the first), $DLS_IN_1, $DLS_IN_2 and so on, and writes into $DLS_OUT, its
    working folder; {in}, {in1}, {in2} and {out} in its words become the same paths.  What it prints goes to standard
    error.
    """
    front.take(Compute(command, at, inputs, output, lifetime), _answer, dry_run=dry_run, detach=detach)


def _answer(facts: Facts) -> Answer:
    return Answer(
        facts["path"],
        (
            f"{facts['dataset'] or 'the output'} is at {facts['path']}",
            f"  {files(facts['files'])}, {show_size(facts['bytes'])}; lineage {facts['activity']}",
            f"  it is nowhere else yet; save it: dls stage-out {facts['path']} --to SITE",
        ),
    )
