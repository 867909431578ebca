"""Probing: list a place once, say what is there, and whether each site would take it.  Nothing is changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from dls.logistics import url
from dls.logistics.duration import show_size
from dls.logistics.entry import Entry
from dls.logistics.errors import DlsError
from dls.logistics.frozen import frozen
from dls.logistics.probe import Probe
from dls.logistics.segment import Segment, cut
from dls.logistics.site import Storage
from dls.logistics.store import Can, Space, Store
from dls.logistics.transfer.listing import single
from dls.logistics.transfer.plan import Survey, Surveyor
from dls.madpp import copying
from dls.madpp.action import Context, Facts
from dls.madpp.source import address, ends, shown, sources, there, wish

SHOWN = 5
"""How many names that a site cannot hold are shown."""


@frozen
class _Target:
    """A storage that is asked whether it would take it."""

    storage: Storage
    space: Space | None
    """What the place itself says; None where it does not tell."""
    surveyor: Surveyor


def probe(context: Context, text: str, sites: Sequence[str] = ()) -> Facts:
    """What lies at a path, an address or in a dataset, and what each site (or those of `sites`) would make of it.

    A named site that cannot be asked is an error; of all sites, one that cannot be asked says why in its answer.
    """
    storages = [context.sites.get(name) for name in sites] or context.sites.all()
    asked: list[tuple[Storage, _Target | DlsError]] = []
    for storage in storages:
        try:
            asked.append((storage, _target(context, storage)))
        except DlsError as exc:
            if sites:
                raise
            asked.append((storage, exc))
    start, end, segments = _source(context, text)
    context.say("route", {"from": start, "to": ""})
    found, targets = Probe(), [one for _, one in asked if isinstance(one, _Target)]
    context.progress.phase = "listing"
    for segment in segments:
        found.add(segment)
        for target in targets:
            target.surveyor.add(segment)
        context.progress.settled(len(segment), segment.size)
    return {
        "what": start,
        **found.findings().to_json(),
        "sites": [_answer(context, storage, one, end) for storage, one in asked],
    }


def _target(context: Context, storage: Storage) -> _Target:
    store = context.open_store(storage.url)
    space = store.space() if Can.SPACE in store.can else None
    block = space.block if space else storage.block
    return _Target(storage, space, Surveyor(store.keeps, store.names, store.room, block))


def _source(context: Context, text: str) -> tuple[str, str, Iterable[Segment]]:
    """Its name for people, its end of the link, and its segments."""
    if url.is_dataset(text):
        wanted = wish(context, text)
        return wanted.version.id, sources(context, wanted)[0].end, wanted.manifest.segments()
    at = address(context, text)
    store, only = there(context, at)
    return shown(at), ends(context, at), cut(_entries(store, only))


def _entries(store: Store, only: bytes) -> Iterator[Entry]:
    if not only:
        return store.list()
    return iter(single(store, only))


def _answer(context: Context, storage: Storage, one: _Target | DlsError, end: str) -> dict[str, Any]:
    said = {"site": storage.id, "url": storage.url}
    if isinstance(one, DlsError):
        return {**said, "fits": None, "problem": one.to_json()}
    found = one.surveyor.found
    lacks, known = _lacks(context, one, found)
    return {
        **said,
        "fits": False if lacks or found.refusals else (True if known else None),
        "lacks": lacks,
        "allocated": found.allocated,
        "inodes": found.inodes,
        "refusals": found.refusals,
        "refused": found.to_json()["refused"][:SHOWN],
        "not_kept": dict(found.lost),
        "eta": copying.estimate(context, (end, storage.id), found.size, found.files),
    }


def _lacks(context: Context, one: _Target, found: Survey) -> tuple[list[str], bool]:
    """What is missing there, in words, and whether anything told how much there is."""
    room = context.buffers.room(one.storage.id)
    free = [room.free_bytes, one.space.bytes if one.space else None]
    inodes = [room.free_inodes, one.space.inodes if one.space and one.space.inodes >= 0 else None]
    needed = found.inodes + 1  # the folder of the buffer itself
    lacks = []
    least = min((n for n in free if n is not None), default=None)
    if least is not None and least < found.allocated:
        lacks.append(f"{show_size(found.allocated)} needed, {show_size(least)} free")
    least = min((n for n in inodes if n is not None), default=None)
    if least is not None and least < needed:
        lacks.append(f"{needed:,} inodes needed, {least:,} free")
    return lacks, any(n is not None for n in free)
