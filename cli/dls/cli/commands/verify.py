"""`dls verify`: check copies against what was recorded."""

from __future__ import annotations

import click

from dls.cli.command import detach, dry_run, verb
from dls.cli.front import Answer, Front
from dls.cli.words import files, place
from dls.madpp.action import Facts
from dls.madpp.actions.verify import Verify


@verb("verify")
@click.argument("dataset", metavar="SCOPE:NAME")
@click.option("--at", default="", metavar="SITE", help="Only the copies there.")
@click.option("--deep", is_flag=True, help="Trust nothing: read every byte again.")
@dry_run
@detach
def verify(front: Front, dataset: str, at: str, deep: bool, dry_run: bool, detach: bool) -> None:
    """Check the copies of a dataset; files that are lost or hold other bytes are marked, for stage-in to repair."""
    front.take(Verify(dataset, at, deep), _answer, dry_run=dry_run, detach=detach)


def _answer(facts: Facts) -> Answer:
    lines = [f"{facts['dataset']}: every copy ({len(facts['replicas'])}) is right"]
    lines += [
        f"  {place(r['url'])}: {files(r['read'])} read, {r['trusted']:,} proven before" for r in facts["replicas"]
    ]
    return Answer(facts["dataset"], lines)
