"""The Catalogue contract: facts about bytes.  Rules are numbered in `specs/catalogue.md`; the suite that proves them is
`dls.catalogue.testing.contract`.

Commands change, queries answer; no call leaves a transaction open, so that a catalogue behind HTTP is like one in a
file.  Every query is asked by an actor: what the actor may not see is NotFound, and is missing from lists and counts.
Lists come in pages by key: give the last key of a page as `after` to get the next.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from dls.catalogue.changes import Applied, Change
from dls.catalogue.model import Activity, Dataset, FileMark, Replica, State, Version
from dls.logistics.actor import Actor
from dls.logistics.entry import Entry
from dls.logistics.event import Event
from dls.logistics.manifest import Manifest, SegmentRef
from dls.logistics.url import DatasetId

GRACE_S = 86_400.0
"""How long a segment may wait for the version that it was put for, seconds."""


@runtime_checkable
class Catalogue(Protocol):
    """Datasets, versions, replicas and lineage; memory, SQL and HTTP behave alike."""

    origin: str
    """Its name: the owner of the records made here."""

    def put_segments(self, segments: Iterable[bytes]) -> list[SegmentRef]:
        """Keep encoded segments under their digests; returns their references, in order.

        Takes the iterable lazily and holds one batch of it; no lock is held while the iterable works.  Idempotent.
        Corrupt, Invalid: not a segment, names out of order or illegal; earlier batches stay, harmlessly.
        """
        ...

    def apply(
        self, changes: Sequence[Change], *, actor: Actor, key: str = "", expected: Mapping[str, int] | None = None
    ) -> Applied:
        """Carry out all changes or none, with their events.

        `key` makes it idempotent for ever: the same changes again under the same key by the same actor give the first
        answer; other changes are a Conflict.  `expected` maps ids of datasets (`scope:name`) and replicas to the
        serial last read (0: not there); Conflict where one differs.
        """
        ...

    def sweep(self, grace_s: float = GRACE_S) -> int:
        """Delete segments that no version has and nobody put within `grace_s` seconds; returns how many."""
        ...

    def dataset(self, id: DatasetId, *, actor: Actor) -> Dataset:
        """The record of a dataset, withdrawn or not; version and path of the id are not looked at."""
        ...

    def datasets(
        self,
        *,
        actor: Actor,
        prefix: str = "",
        text: str = "",
        state: State | None = None,
        after: str = "",
        limit: int = 100,
    ) -> list[Dataset]:
        """Datasets by `scope:name`: those that begin with `prefix` and hold every word of `text`, in any case, in their
        id, title, description or metadata."""
        ...

    def count(self, *, actor: Actor, prefix: str = "", text: str = "", state: State | None = None) -> int:
        """How many datasets `datasets` would list in all."""
        ...

    def versions(self, id: DatasetId, *, actor: Actor, after: int = 0, limit: int = 1000) -> list[Version]:
        """Versions of a dataset, oldest first; the last number is the page key."""
        ...

    def version(self, id: DatasetId, *, actor: Actor) -> Version:
        """One version; the newest where the id names none."""
        ...

    def manifest(self, id: DatasetId, *, actor: Actor) -> Manifest:
        """The whole content of a version; each segment is brought and verified when it is walked."""
        ...

    def files(
        self, id: DatasetId, *, actor: Actor, prefix: bytes = b"", after: bytes = b"", limit: int = 1000
    ) -> list[Entry]:
        """Entries of a version by path; a path in the id narrows to that entry, or to what lies below that folder."""
        ...

    def by_content(self, content: bytes, *, actor: Actor) -> list[Version]:
        """Versions with exactly this content (`Manifest.content`), by dataset and number."""
        ...

    def replicas(self, id: DatasetId, *, actor: Actor, offered: bool = True) -> list[Replica]:
        """Replicas of a version, oldest first; only those that may serve as a source, or all."""
        ...

    def replica(self, id: str, *, actor: Actor) -> Replica:
        """One replica."""
        ...

    def exceptions(self, id: str, *, actor: Actor, after: bytes = b"", limit: int = 100_000) -> list[FileMark]:
        """Files of a replica that are not as its state says, by path."""
        ...

    def lineage(
        self, id: DatasetId | str, *, actor: Actor, direction: str = "up", depth: int = 10, limit: int = 1000
    ) -> list[Activity]:
        """Activities that led to a version (`up`), came of it (`down`) or both, oldest first; the newest `limit`.

        `id` is a dataset's (newest version where it names none), an activity's, which is then in the list, or a URL.
        `depth` counts activities one after the other, at most 100.
        """
        ...

    def activity(self, id: str, *, actor: Actor) -> Activity:
        """One activity, without what the actor may not see."""
        ...

    def events(self, *, actor: Actor, after: int = 0, limit: int = 1000) -> list[Event]:
        """What happened to records that the actor may see, oldest first; the last id is the page key."""
        ...
