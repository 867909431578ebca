"""What deciding needs of a catalogue's state inside one transaction, and gives it to keep.

Each implementation of the catalogue has one `Rows`; `decide` works on any of them, so that all decide alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from dls.catalogue.files import SegmentFacts
from dls.catalogue.model import Activity, Dataset, FileState, Replica, Version
from dls.logistics.event import Event


class Edge(NamedTuple):
    """One port of an activity, resolved."""

    side: str
    """`used` or `generated`."""
    role: str
    ref: str
    """As shown: `scope:name@number[/path]`, a replica's id, or a URL."""
    node: str
    """What lineage joins on: `scope:name@number`, also of a replica; or the URL."""
    dataset: str
    """`scope:name`, whose audience may see this port; '' for a URL."""


class Rows(Protocol):
    """State within one transaction; nothing it saved shows to others before the transaction ends well."""

    now_ns: int
    """The transaction's clock, which stands still."""
    origin: str
    """Name of this catalogue."""

    def dataset(self, key: str) -> Dataset | None: ...

    def save_dataset(self, dataset: Dataset) -> None:
        """Insert or replace, by key."""

    def version(self, key: str, number: int) -> Version | None:
        """By number; 0 for the newest."""

    def save_version(self, version: Version, segments: Sequence[bytes]) -> None:
        """Insert, with the digests of its segments in order."""

    def segments(self, digests: Sequence[bytes]) -> dict[bytes, SegmentFacts]:
        """Those of the segments that are stored."""

    def lacking(self, version: Version, paths: Sequence[bytes]) -> bytes | None:
        """The first of some sorted names that the version does not have."""

    def replica(self, replica: str) -> Replica | None: ...

    def replica_at(self, key: str, number: int, storage: str, url: str) -> Replica | None: ...

    def save_replica(self, replica: Replica) -> None:
        """Insert or replace, by id."""

    def mark(self, replica: str, files: Mapping[bytes, FileState]) -> int:
        """Insert or replace marks; returns how many are other than before."""

    def clear(self, replica: str, paths: Sequence[bytes] | None) -> int:
        """Delete marks, all where None; returns how many there were."""

    def activity(self, activity: str) -> Activity | None: ...

    def save_activity(self, activity: Activity, edges: Sequence[Edge]) -> None: ...

    def record(self, event: Event) -> None:
        """Write an event that becomes visible with the change."""
