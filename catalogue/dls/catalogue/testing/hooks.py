"""What the suite needs of an implementation, and small things that its tests share."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from dls.catalogue.catalogue import Catalogue
from dls.catalogue.changes import AddReplica, AddVersion, Applied, Change, Outcome, PutDataset
from dls.catalogue.model import Version
from dls.logistics import digest as digests
from dls.logistics import url
from dls.logistics.actor import PUBLIC, Actor, local
from dls.logistics.entry import FILE, Entry
from dls.logistics.errors import DlsError
from dls.logistics.manifest import SegmentRef
from dls.logistics.segment import cut
from dls.logistics.testing.spec import Suite

ME = local("me@here")
OTHER = Actor("other@there", frozenset({PUBLIC, "others"}))
BOTH = Actor("both@here", frozenset({PUBLIC, "local", "others"}))
PROOF = {"how": "hashed", "run": "01J0000000000000000000000R", "time_ns": 1}


class CatalogueHooks(Suite):
    """What an implementation gives; a test makes one instance of the suite and one catalogue."""

    offset_ns = 0

    def now_ns(self) -> int:
        """The clock that the catalogue under test must use; tests move it on by `offset_ns`."""
        return time.time_ns() + self.offset_ns

    def make(self, tmp_path: Path) -> Catalogue:
        """The catalogue kept below this folder, new where there is none; its clock is `self.now_ns`."""
        raise NotImplementedError

    def again(self, catalogue: Catalogue, tmp_path: Path) -> Catalogue:
        """The same state as another process would open it."""
        return self.make(tmp_path)

    def damage(self, catalogue: Catalogue, digest: bytes, data: bytes) -> None:
        """By a side door, replace what is kept under a digest."""
        raise NotImplementedError

    def kept(self, catalogue: Catalogue) -> dict[bytes, int]:
        """By a side door: bytes kept for each segment, by digest."""
        raise NotImplementedError


def files(count: int, seed: int = 0, first: int = 0) -> list[Entry]:
    """Hashed files in folders of some hundred; 20,000 of them make several segments."""
    return [
        Entry(b"%03d/%06d.dat" % (i // 300, i), FILE, i + seed, digests.of(b"%d/%d" % (i, seed)), 0o644, 10**18 + i)
        for i in range(first, first + count)
    ]


def put(catalogue: Catalogue, entries: Iterable[Entry]) -> tuple[SegmentRef, ...]:
    """Cut, encode and put entries."""
    return tuple(catalogue.put_segments(segment.encode() for segment in cut(entries)))


def do(catalogue: Catalogue, *changes: Change, actor: Actor = ME, **more: Any) -> Applied:
    """Apply changes."""
    return catalogue.apply(changes, actor=actor, **more)


def one(catalogue: Catalogue, change: Change, actor: Actor = ME) -> Outcome:
    """Apply one change."""
    return catalogue.apply([change], actor=actor).outcomes[0]


def add(
    catalogue: Catalogue, key: str, entries: Sequence[Entry] | None = None, actor: Actor = ME, **fields: Any
) -> Version:
    """A dataset with a new version of these entries (three files where none are given)."""
    refs = put(catalogue, files(3) if entries is None else entries)
    done = do(catalogue, PutDataset(key, **fields), AddVersion(key, refs), actor=actor)
    return catalogue.version(url.dataset(done.outcomes[1].id), actor=actor)


def place(catalogue: Catalogue, key: str, where: str = "file:///data/a", **fields: Any) -> str:
    """The id of a complete replica."""
    return one(catalogue, AddReplica(key, where, evidence=PROOF, **fields)).id


def refused(kind: type[DlsError], code: str, catalogue: Catalogue, *changes: Change, **more: Any) -> DlsError:
    """Changes that must fail so; nothing may have changed."""
    before = state_of(catalogue)
    with pytest.raises(kind) as told:
        do(catalogue, *changes, **more)
    assert told.value.code == code, told.value
    assert state_of(catalogue) == before, "a refused change left something behind"
    return told.value


def state_of(catalogue: Catalogue, actor: Actor = BOTH) -> list[Any]:
    """All that a catalogue shows, as plain values."""
    out: list[Any] = [_event(e) for e in catalogue.events(actor=actor)]
    for dataset in catalogue.datasets(actor=actor, limit=10_000):
        out.append(dataset.to_json())
        id = url.dataset(dataset.key)
        for version in catalogue.versions(id, actor=actor):
            out.append(version.to_json())
            numbered = url.dataset(version.id)
            for replica in catalogue.replicas(numbered, actor=actor, offered=False):
                out.append(replica.to_json())
                out += [m.to_json() for m in catalogue.exceptions(replica.id, actor=actor)]
            out += [a.to_json() for a in catalogue.lineage(numbered, actor=actor, direction="both")]
    return out


def _event(event: Any) -> tuple[Any, ...]:
    return event.id, event.type, event.subject, event.actor, event.data


def ids(text: str) -> url.DatasetId:
    """The dataset id in a text."""
    return url.dataset(text)
