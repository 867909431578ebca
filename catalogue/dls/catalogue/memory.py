"""The Catalogue in memory: the reference that others are compared with, and a product for tests and throw-away runs."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy

from dls.catalogue import lineage
from dls.catalogue.catalogue import GRACE_S
from dls.catalogue.changes import Applied, Change, fingerprint, replay
from dls.catalogue.decide import decide
from dls.catalogue.fields import packed
from dls.catalogue.fields import text as checked
from dls.catalogue.files import SegmentFacts, batches, no_segment, page
from dls.catalogue.known import ACTIVITY_EVENT, no_activity, no_dataset, no_replica, no_version
from dls.catalogue.memoryrows import MemoryRows, Tables
from dls.catalogue.model import OFFERED, Activity, Dataset, FileMark, Replica, State, Version
from dls.catalogue.tables import words_of
from dls.logistics import url
from dls.logistics.actor import Actor
from dls.logistics.entry import Entry
from dls.logistics.event import Event
from dls.logistics.manifest import Manifest, SegmentRef
from dls.logistics.segment import Segment
from dls.logistics.url import DatasetId


class MemoryCatalogue:
    """A catalogue that lives as long as the object; see `catalogue.Catalogue` for the verbs.  Threads may share it."""

    def __init__(self, origin: str = "local", clock: Callable[[], int] = time.time_ns) -> None:
        self.origin = origin
        self._clock = clock
        self._lock = threading.RLock()
        self._tables = Tables()
        self._applied: dict[tuple[str, str], tuple[bytes, str]] = {}

    # -------------------------------------------------------------------------------------- commands

    def put_segments(self, segments: Iterable[bytes]) -> list[SegmentRef]:
        refs = []
        for batch in batches(segments):
            with self._lock:
                for facts, data in batch:
                    kept = self._tables.segments.get(facts.ref.digest)
                    self._tables.segments[facts.ref.digest] = (facts, kept[1] if kept else data, self._clock())
                    refs.append(facts.ref)
        return refs

    def apply(
        self, changes: Sequence[Change], *, actor: Actor, key: str = "", expected: Mapping[str, int] | None = None
    ) -> Applied:
        named = fingerprint(changes)
        checked(key, "key", 200)
        with self._lock:
            if key and (actor.name, key) in self._applied:
                return replay(key, named, *self._applied[actor.name, key])
            rows = MemoryRows(self._tables, self.origin, self._clock())
            applied = Applied(tuple(decide(rows, changes, actor, expected)))
            rows.commit()
            if key:
                self._applied[actor.name, key] = named, applied.encode()
            return applied

    def sweep(self, grace_s: float = GRACE_S) -> int:
        with self._lock:
            tables = self._tables
            used = {digest for digests in tables.contents.values() for digest in digests}
            limit = self._clock() - int(grace_s * 1e9)
            old = [d for d, (_, _, seen_ns) in tables.segments.items() if d not in used and seen_ns <= limit]
            for digest in old:
                del tables.segments[digest]
            return len(old)

    # -------------------------------------------------------------------------------------- datasets

    def _seen(self, key: str, actor: Actor) -> Dataset:
        dataset = self._tables.datasets.get(key)
        if dataset is None or not actor.sees(dataset.audience):
            raise no_dataset(key)
        return dataset

    def dataset(self, id: DatasetId, *, actor: Actor) -> Dataset:
        with self._lock:
            return deepcopy(self._seen(id.key, actor))

    def _matching(self, actor: Actor, prefix: str, text: str, state: State | None) -> Iterator[Dataset]:
        words = text.casefold().split()
        for key, dataset in sorted(self._tables.datasets.items()):
            if not key.startswith(prefix) or not actor.sees(dataset.audience) or state not in (None, dataset.state):
                continue
            held = words_of(dataset, packed(dataset.metadata, "metadata")) if words else ""
            if all(word in held for word in words):
                yield dataset

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
        with self._lock:
            return deepcopy([d for d in self._matching(actor, prefix, text, state) if d.key > after][:limit])

    def count(self, *, actor: Actor, prefix: str = "", text: str = "", state: State | None = None) -> int:
        with self._lock:
            return sum(1 for _ in self._matching(actor, prefix, text, state))

    def versions(self, id: DatasetId, *, actor: Actor, after: int = 0, limit: int = 1000) -> list[Version]:
        with self._lock:
            self._seen(id.key, actor)
            return [v for v in self._tables.versions.get(id.key, ()) if v.number > after][:limit]

    def version(self, id: DatasetId, *, actor: Actor) -> Version:
        with self._lock:
            self._seen(id.key, actor)
            found = self._tables.versions.get(id.key, ())
            if not 0 <= id.version <= len(found) or not found:
                raise no_version(id.key, id.version)
            return found[id.version - 1]  # number 0, the newest, is the last one

    def by_content(self, content: bytes, *, actor: Actor) -> list[Version]:
        with self._lock:
            every = [v for _, versions in sorted(self._tables.versions.items()) for v in versions]
            return [v for v in every if v.content == content and actor.sees(self._tables.datasets[v.dataset].audience)]

    # --------------------------------------------------------------------------------------- content

    def _load(self, digest: bytes) -> Segment:
        found = self._tables.segments.get(digest)
        if found is None:
            raise no_segment(digest)
        return Segment.decode(found[1], digest)

    def _facts(self, version: Version) -> list[SegmentFacts]:
        return [self._tables.segments[digest][0] for digest in self._tables.contents[version.id]]

    def manifest(self, id: DatasetId, *, actor: Actor) -> Manifest:
        with self._lock:
            facts = self._facts(self.version(id, actor=actor))
            return Manifest(tuple(f.ref for f in facts), self._load)

    def files(
        self, id: DatasetId, *, actor: Actor, prefix: bytes = b"", after: bytes = b"", limit: int = 1000
    ) -> list[Entry]:
        with self._lock:
            facts = self._facts(self.version(id, actor=actor))
        at = bisect_left([f.last for f in facts], max(prefix, id.path, after))
        digests = (f.ref.digest for f in facts[at:])
        return page(self._load, digests, prefix=prefix, below=id.path, after=after, limit=limit)

    # -------------------------------------------------------------------------------------- replicas

    def replicas(self, id: DatasetId, *, actor: Actor, offered: bool = True) -> list[Replica]:
        with self._lock:
            version = self.version(id, actor=actor)
            found = [
                r
                for _, r in sorted(self._tables.replicas.items())
                if (r.dataset, r.version) == (version.dataset, version.number)
            ]
            if offered:
                active = self._tables.datasets[version.dataset].state is State.ACTIVE
                found = [r for r in found if active and r.state in OFFERED]
            return deepcopy(found)

    def replica(self, id: str, *, actor: Actor) -> Replica:
        with self._lock:
            found = self._tables.replicas.get(id)
            if found is None or not actor.sees(self._tables.datasets[found.dataset].audience):
                raise no_replica(id)
            return deepcopy(found)

    def exceptions(self, id: str, *, actor: Actor, after: bytes = b"", limit: int = 100_000) -> list[FileMark]:
        with self._lock:
            self.replica(id, actor=actor)
            marks = sorted(self._tables.marks.get(id, {}).items())
            return [FileMark(path, state) for path, state in marks if path > after][:limit]

    # --------------------------------------------------------------------------------------- lineage

    def lineage(
        self, id: DatasetId | str, *, actor: Actor, direction: str = "up", depth: int = 10, limit: int = 1000
    ) -> list[Activity]:
        ways = lineage.directions(direction, depth)
        with self._lock:
            found = set[str]()
            if isinstance(id, DatasetId):
                start, done, nodes = self.version(id, actor=actor).id, 0, None
            elif lineage.is_place(id):
                start, done, nodes = str(url.parse(id)), 0, None
            else:
                self.activity(id, actor=actor)
                found, start, done, nodes = {id}, "", 1, id
            for enter, leave in ways:
                first = {start} if nodes is None else self._nodes({nodes}, leave, actor)
                found |= self._walk(first, enter, leave, depth - done, actor)
            shown = [a for i in found if (a := self._shown(i, actor)) is not None]
            return sorted(shown, key=lambda a: (a.started_ns, a.id))[-limit:]

    def _walk(self, nodes: set[str], enter: str, leave: str, depth: int, actor: Actor) -> set[str]:
        """Activities within `depth` steps from some nodes, by breadth."""
        entered = defaultdict[str, set[str]](set)
        for activity, edges in self._tables.edges.items():
            for edge in edges:
                if edge.side == enter and self._sees(activity, edge.dataset, actor):
                    entered[edge.node].add(activity)
        found, passed, ahead = set[str](), set[str](), nodes
        for _ in range(depth):
            here = {activity for node in ahead for activity in entered[node]} - found
            passed |= ahead
            found |= here
            ahead = self._nodes(here, leave, actor) - passed
        return found

    def _nodes(self, activities: set[str], side: str, actor: Actor) -> set[str]:
        edges = ((a, e) for a in activities for e in self._tables.edges[a])
        return {e.node for a, e in edges if e.side == side and self._sees(a, e.dataset, actor)}

    def _sees(self, activity: str, dataset: str, actor: Actor) -> bool:
        """Whether the actor sees a port of an activity: by the dataset's audience, or the activity's for a URL."""
        record = self._tables.datasets[dataset] if dataset else self._tables.activities[activity]
        return actor.sees(record.audience)

    def _shown(self, id: str, actor: Actor) -> Activity | None:
        activity, edges = self._tables.activities[id], self._tables.edges[id]
        seen = [self._sees(id, e.dataset, actor) for e in edges]
        if not actor.sees(activity.audience) and not any(s for s, e in zip(seen, edges, strict=True) if e.dataset):
            return None
        hidden, at = set(), {lineage.USED: 0, lineage.GENERATED: 0}
        for sees, edge in zip(seen, edges, strict=True):
            if not sees:
                hidden.add((edge.side, at[edge.side]))
            at[edge.side] += 1
        return deepcopy(lineage.shown(activity, actor, hidden))

    def activity(self, id: str, *, actor: Actor) -> Activity:
        with self._lock:
            found = self._shown(id, actor) if id in self._tables.activities else None
            if found is None:
                raise no_activity(id)
            return found

    def events(self, *, actor: Actor, after: int = 0, limit: int = 1000) -> list[Event]:
        with self._lock:
            found = []
            for event in self._tables.events[after:]:
                if event.type == ACTIVITY_EVENT:
                    visible = self._shown(event.subject, actor) is not None
                else:
                    visible = actor.sees(self._tables.datasets[event.subject].audience)
                if visible:
                    found.append(event)
                if len(found) == limit:
                    break
            return deepcopy(found)
