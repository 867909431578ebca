"""`dls probe`: what lies at a place, before anything is moved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click

from dls.cli.command import verb
from dls.cli.front import Front, eta
from dls.cli.words import files, place
from dls.logistics.duration import show_size
from dls.logistics.lease import iso
from dls.logistics.probe import CROWDED
from dls.madpp import probing

Facts = Mapping[str, Any]
_BAR = 30


@verb("probe")
@click.argument("what", metavar="PATH|URL|SCOPE:NAME")
@click.option("--to", "to", multiple=True, metavar="SITE", help="Only this site (repeatable); all of them else.")
def probe(front: Front, what: str, to: tuple[str, ...]) -> None:
    """Look at a folder, an address or a dataset: how many files, how large, how old, which names are difficult; and for
    each site whether it fits there, what would be lost, and how long it would take.

    The place is listed once; no file is read and nothing is changed.
    """
    facts = front.watch(
        lambda progress, tell: front.dls.look(
            lambda context: probing.probe(context, what, to), progress=progress, tell=tell
        )
    )
    essential = f"{facts['files']} {facts['bytes']}"
    front.out.result({"action": "probe", **facts}, essential, list(_lines(facts)))


def _lines(facts: Facts) -> Iterator[str]:
    others = [f"{facts[k]:,} {k}" for k in ("links", "folders") if facts[k]]
    if facts["hardlinks"]:
        others.append(f"{facts['hardlinks']:,} of the files further names of others")
    yield f"{place(facts['what'])}: {files(facts['files'])}, {show_size(facts['bytes'])}" + (
        f"; {', '.join(others)}" if others else ""
    )
    yield from _histogram(facts)
    if facts["oldest"]:
        yield f"  times: {iso(facts['oldest']['mtime_ns'])} to {iso(facts['newest']['mtime_ns'])}"
    yield from _names(facts)
    for word in facts["advice"]:
        yield f"  note: {word}"
    for site in facts["sites"]:
        yield from _site(site)


def _histogram(facts: Facts) -> Iterator[str]:
    used = [i for i, one in enumerate(facts["sizes"]) if one["files"]]
    most = max((one["files"] for one in facts["sizes"]), default=0)
    for i in range(used[0], used[-1] + 1) if used else ():
        one, before = facts["sizes"][i], facts["sizes"][i - 1]["below"] if i else 0
        if one["below"] is None:
            label = f"{show_size(before)} and more"
        else:
            label = "empty" if one["below"] == 1 else f"below {show_size(one['below'])}"
        stars = "#" * -(-one["files"] * _BAR // most)
        yield f"  {label:<16}{one['files']:>12,}  {show_size(one['bytes']):>9}  {stars}"


def _names(facts: Facts) -> Iterator[str]:
    if facts["longest_path"]:
        part, path = facts["longest_part"], facts["longest_path"]
        yield f"  longest name: {part['bytes']} bytes; longest path: {path['bytes']} bytes, {facts['deepest']} deep"
    if facts["largest"]:
        yield f"  largest file: {facts['largest']['path']}, {show_size(facts['largest']['bytes'])}"
    if facts["busiest"]:
        yield "  folders with most entries:"
    for one in facts["busiest"]:
        mark = "  (crowded)" if one["entries"] > CROWDED else ""
        yield f"  {one['entries']:>12,}  {one['path'] or '.'}{mark}"
    if facts["not_utf8"]:
        yield f"  not UTF-8: {', '.join(facts['not_utf8_first'])}" + (
            f" and {facts['not_utf8'] - len(facts['not_utf8_first']):,} more"
            if facts["not_utf8"] > len(facts["not_utf8_first"])
            else ""
        )


def _site(site: Facts) -> Iterator[str]:
    name = site["site"].removesuffix("/default")
    if "problem" in site:
        problem = site["problem"]
        yield f"{name}: cannot be asked: {problem['message']} [{problem['code']}]"
        return
    verdict = {True: "fits", False: "does not fit", None: "the place does not say how much is free"}[site["fits"]]
    yield f"{name}: {verdict}; {show_size(site['allocated'])}, {site['inodes']:,} files and folders"
    for lack in site["lacks"]:
        yield f"  {lack}"
    for one in site["refused"]:
        yield f"  cannot hold {one['path']}: {one['why']}"
    if site["refusals"] > len(site["refused"]):
        yield f"  nor {site['refusals'] - len(site['refused']):,} more names"
    if site["not_kept"]:
        yield f"  not kept there: {', '.join(f'{count:,} {word}' for word, count in site['not_kept'].items())}"
    yield f"  time: {eta(site['eta'])}"
