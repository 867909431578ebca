"""`dls catalogue`: datasets, their files, copies and lineage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import click

from dls.catalogue.model import State
from dls.cli.command import Verbs, dry_run, verb
from dls.cli.commands import tables
from dls.cli.front import Answer, Front
from dls.cli.words import files as count_files
from dls.cli.words import place
from dls.logistics import names, url
from dls.logistics.duration import show_size
from dls.madpp.action import Facts
from dls.madpp.actions.register import Register
from dls.madpp.actions.withdraw import Restore, Withdraw

catalogue = Verbs("catalogue", help="Datasets: what they hold, where copies are, what made what.")
_PAGE = 1000


@verb("add", catalogue)
@click.argument("dataset", metavar="SCOPE:NAME")
@click.argument("where", metavar="URL")
@click.option("--title", default="", help="One line for people.")
@click.option("--note", default="", help="What is new in this version.")
@click.option("--image", is_flag=True, help="URL is an image or archive: register what it holds, every byte read.")
@dry_run
def add(front: Front, dataset: str, where: str, title: str, note: str, image: bool, dry_run: bool) -> None:
    """Read, hash and register what lies at URL; other content makes a new version."""
    front.take(Register(dataset, where, title, note, image), _added, dry_run=dry_run)


def _added(facts: Facts) -> Answer:
    new = "" if facts["new"] else ", which was known already"
    size = f"{count_files(facts['files'])}, {show_size(facts['bytes'])}"
    how = f"  {size}: {facts['read']:,} read, {facts['trusted']:,} proven before"
    return Answer(facts["dataset"], (f"{place(facts['url'])} is {facts['dataset']}{new}", how))


@verb("show", catalogue)
@click.argument("dataset", metavar="SCOPE:NAME[@VERSION]")
def show(front: Front, dataset: str) -> None:
    """A dataset's record, its versions, and the copies of one (the newest)."""
    id, cat, actor = url.dataset(dataset), front.context.catalogue, front.context.actor
    record = cat.dataset(id, actor=actor)
    versions = [v.to_json() for v in cat.versions(id, actor=actor)]
    found = cat.replicas(id, actor=actor, offered=False) if versions else []
    replicas = [{**r.to_json(), "marked": _marked(front, r.id)} for r in found]
    facts = {"action": "catalogue-show", **record.to_json(), "versions": versions, "replicas": replicas}
    front.out.result(facts, record.key, tables.dataset(facts))


def _marked(front: Front, replica: str) -> dict[str, int]:
    """How many files of a replica are not as its state says, by what they are instead."""
    marks = front.context.catalogue.exceptions(replica, actor=front.context.actor)
    return dict(sorted(Counter(mark.state.value for mark in marks).items()))


@verb("list", catalogue)
@click.argument("words", nargs=-1)
@click.option("--prefix", default="", help="Only ids that begin so, such as climate:.")
@click.option("--state", type=click.Choice([s.value for s in State]), default=None, help="Only these.")
@click.option("--after", default="", metavar="SCOPE:NAME", help="Go on after this one.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="How many at most.")
def list_(front: Front, words: tuple[str, ...], prefix: str, state: str | None, after: str, limit: int) -> None:
    """Datasets by id, all or those with every one of WORDS in their record."""
    context = front.context
    found = context.catalogue.datasets(
        actor=context.actor,
        prefix=prefix,
        text=" ".join(words),
        state=State(state) if state else None,
        after=after,
        limit=limit + 1,
    )
    rows = [tables.with_size(context, one) for one in found[:limit]]
    front.out.rows("dataset", tables.DATASETS, rows, none="no datasets")
    _page(front, "catalogue-list", len(rows), rows[-1]["id"] if len(found) > limit else "")


@verb("files", catalogue)
@click.argument("dataset", metavar="SCOPE:NAME[@VERSION][/PATH]")
@click.option("--prefix", default="", metavar="PATH", help="Only names that begin so.")
@click.option("--after", default="", metavar="PATH", help="Go on after this name.")
@click.option("--limit", type=click.IntRange(min=1), default=1000, show_default=True, help="How many at most.")
def files(front: Front, dataset: str, prefix: str, after: str, limit: int) -> None:
    """Files, links and folders of a dataset by name, page by page."""
    last: list[str] = []
    rows = _files(front, url.dataset(dataset), names.read(prefix), names.read(after), limit, last)
    count = front.out.rows("file", tables.FILES, rows, none="no files")
    _page(front, "catalogue-files", count, last[0] if last else "")


def _files(
    front: Front, id: url.DatasetId, prefix: bytes, after: bytes, limit: int, last: list[str]
) -> Iterator[dict[str, Any]]:
    """Rows of a listing; where more follow, the last shown name is put into `last`."""
    context, shown = front.context, 0
    while True:
        room = limit - shown
        page = context.catalogue.files(id, actor=context.actor, prefix=prefix, after=after, limit=min(room + 1, _PAGE))
        for entry in page[:room]:
            yield tables.entry(entry)
            after = entry.path
        shown += len(page[:room])
        if len(page) > room:
            last.append(names.show(after))
        if len(page) < min(room + 1, _PAGE) or len(page) > room:
            return


@verb("lineage", catalogue)
@click.argument("what", metavar="SCOPE:NAME|ACTIVITY|URL")
@click.option("--direction", type=click.Choice(["up", "down", "both"]), default="up", show_default=True)
@click.option("--depth", type=click.IntRange(1, 100), default=10, show_default=True, help="Activities in a row.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=100, show_default=True, help="How many at most, the newest."
)
def lineage(front: Front, what: str, direction: str, depth: int, limit: int) -> None:
    """What led to a dataset (up), what came of it (down), or both, oldest first."""
    context = front.context
    id: url.DatasetId | str = what
    if url.is_dataset(what):
        id = url.dataset(what)
    elif "/" in what:
        id = str(url.parse(what, context.cwd))
    found = context.catalogue.lineage(id, actor=context.actor, direction=direction, depth=depth, limit=limit)
    count = front.out.rows("activity", tables.ACTIVITIES, [a.to_json() for a in found], none="no lineage")
    front.out.result({"action": "catalogue-lineage", "count": count}, "", ())


@verb("withdraw", catalogue)
@click.argument("dataset", metavar="SCOPE:NAME")
@click.option("--reason", required=True, help="Why; it stays in the record.")
def withdraw(front: Front, dataset: str, reason: str) -> None:
    """Offer a dataset's bytes no more; its record stays, and no byte is removed."""
    front.take(Withdraw(dataset, reason), _withdrawn)


@verb("restore", catalogue)
@click.argument("dataset", metavar="SCOPE:NAME")
def restore(front: Front, dataset: str) -> None:
    """Take a withdrawal back."""
    front.take(Restore(dataset), lambda facts: Answer(facts["dataset"], [f"{facts['dataset']} is offered again"]))


def _withdrawn(facts: Facts) -> Answer:
    lines = [f"{facts['dataset']} is withdrawn"]
    lines += [
        f"  no other copy of the buffer {path} is offered: it stays until it is saved" for path in facts["unsaved"]
    ]
    return Answer(facts["dataset"], lines)


def _page(front: Front, action: str, count: int, next_key: str) -> None:
    """How a page ends: how many there were, and the key of the next page where there is one."""
    if next_key:
        front.out.tell("more", {"text": f"more follow: --after {next_key}", "next": next_key})
    front.out.result({"action": action, "count": count, "next": next_key}, "", ())
