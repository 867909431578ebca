"""The state of a catalogue in memory, and a draft of it that becomes the state when a transaction ends well."""

from __future__ import annotations

from bisect import bisect_left
from collections import ChainMap
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace

from dls.catalogue.files import SegmentFacts, first_absent
from dls.catalogue.model import Activity, Dataset, FileState, Replica, Version
from dls.catalogue.rows import Edge
from dls.logistics.event import Event
from dls.logistics.segment import Segment


@dataclass
class Tables:
    """All state.  Values are never changed in place, so that a draft can share them."""

    datasets: MutableMapping[str, Dataset] = field(default_factory=dict)
    """By `scope:name`."""
    versions: MutableMapping[str, tuple[Version, ...]] = field(default_factory=dict)
    """By `scope:name`; number n at n-1."""
    contents: MutableMapping[str, tuple[bytes, ...]] = field(default_factory=dict)
    """Digests of a version's segments, by `scope:name@number`."""
    segments: MutableMapping[bytes, tuple[SegmentFacts, bytes, int]] = field(default_factory=dict)
    """Facts, encoded form, time of the last put (ns), by digest."""
    replicas: MutableMapping[str, Replica] = field(default_factory=dict)
    marks: MutableMapping[str, Mapping[bytes, FileState]] = field(default_factory=dict)
    """By replica."""
    activities: MutableMapping[str, Activity] = field(default_factory=dict)
    edges: MutableMapping[str, tuple[Edge, ...]] = field(default_factory=dict)
    """By activity."""
    events: list[Event] = field(default_factory=list)
    """Id n at n-1."""


class MemoryRows:
    """`rows.Rows` over a draft: reads fall through to the state, writes stay in front until `commit`."""

    def __init__(self, state: Tables, origin: str, now_ns: int) -> None:
        self._state = state
        self._maps = [name for name in vars(state) if name != "events"]
        self._draft = Tables()
        for name in self._maps:
            setattr(self._draft, name, ChainMap({}, getattr(state, name)))
        self.origin = origin
        self.now_ns = now_ns

    def commit(self) -> None:
        """Make the draft the state."""
        for name in self._maps:
            getattr(self._state, name).update(getattr(self._draft, name).maps[0])
        self._state.events.extend(self._draft.events)

    def dataset(self, key: str) -> Dataset | None:
        return self._draft.datasets.get(key)

    def save_dataset(self, dataset: Dataset) -> None:
        self._draft.datasets[dataset.key] = dataset

    def version(self, key: str, number: int) -> Version | None:
        found = self._draft.versions.get(key, ())
        return found[number - 1] if found and 0 <= number <= len(found) else None

    def save_version(self, version: Version, segments: Sequence[bytes]) -> None:
        self._draft.versions[version.dataset] = (*self._draft.versions.get(version.dataset, ()), version)
        self._draft.contents[version.id] = tuple(segments)

    def segments(self, digests: Sequence[bytes]) -> dict[bytes, SegmentFacts]:
        kept = self._state.segments
        return {digest: kept[digest][0] for digest in digests if digest in kept}

    def lacking(self, version: Version, paths: Sequence[bytes]) -> bytes | None:
        kept, digests = self._state.segments, self._draft.contents[version.id]
        lasts = [kept[digest][0].last for digest in digests]

        def seek(path: bytes) -> bytes | None:
            at = bisect_left(lasts, path)
            return digests[at] if at < len(digests) else None

        return first_absent(lambda digest: Segment.decode(kept[digest][1], digest), seek, paths)

    def replica(self, replica: str) -> Replica | None:
        return self._draft.replicas.get(replica)

    def replica_at(self, key: str, number: int, storage: str, url: str) -> Replica | None:
        wanted = (key, number, storage, url)
        found = (r for r in self._draft.replicas.values() if (r.dataset, r.version, r.storage, r.url) == wanted)
        return next(found, None)

    def save_replica(self, replica: Replica) -> None:
        self._draft.replicas[replica.id] = replica

    def mark(self, replica: str, files: Mapping[bytes, FileState]) -> int:
        before = self._draft.marks.get(replica, {})
        self._draft.marks[replica] = {**before, **files}
        return sum(before.get(path) != state for path, state in files.items())

    def clear(self, replica: str, paths: Sequence[bytes] | None) -> int:
        before = self._draft.marks.get(replica, {})
        gone = set(before if paths is None else paths) & set(before)
        self._draft.marks[replica] = {path: state for path, state in before.items() if path not in gone}
        return len(gone)

    def activity(self, activity: str) -> Activity | None:
        return self._draft.activities.get(activity)

    def save_activity(self, activity: Activity, edges: Sequence[Edge]) -> None:
        self._draft.activities[activity.id] = activity
        self._draft.edges[activity.id] = tuple(edges)

    def record(self, event: Event) -> None:
        number = len(self._state.events) + len(self._draft.events) + 1
        self._draft.events.append(replace(event, id=number, time_ns=self.now_ns))
