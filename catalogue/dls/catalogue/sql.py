"""The Catalogue over a SQL database: commands in one transaction each, each answer from one statement or from rows that
never change, so that a reader sees one state."""

# ruff: noqa: S608 - statements are put together from constants of `tables`; values are always bound

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dls.catalogue import lineage, tables
from dls.catalogue.catalogue import GRACE_S
from dls.catalogue.changes import Applied, Change, fingerprint, replay
from dls.catalogue.conditions import audiences, matching, sees
from dls.catalogue.decide import decide
from dls.catalogue.fields import text as checked
from dls.catalogue.files import SIZE_LIMIT, SegmentFacts, batches, page
from dls.catalogue.known import ACTIVITY_EVENT, DATASET_EVENTS, no_activity, no_dataset, no_replica, no_version
from dls.catalogue.model import OFFERED, Activity, Dataset, FileMark, FileState, Port, Replica, State, Version
from dls.catalogue.sqlrows import SqlRows, follow, load
from dls.catalogue.tables import marks
from dls.catalogue.walk import WALK
from dls.logistics import event, url
from dls.logistics.actor import Actor
from dls.logistics.database import Database
from dls.logistics.entry import Entry
from dls.logistics.manifest import Manifest, SegmentRef
from dls.logistics.url import DatasetId


class SqlCatalogue:
    """A catalogue in a database that other rooms may share; see `catalogue.Catalogue` for the verbs."""

    def __init__(self, database: Database, origin: str = "local") -> None:
        self.origin = origin
        self._db = database
        event.prepare(database)
        database.migrate("catalogue", tables.STEPS)

    # -------------------------------------------------------------------------------------- commands

    def put_segments(self, segments: Iterable[bytes]) -> list[SegmentRef]:
        refs = []
        for batch in batches(segments):
            self._put(batch)
            refs += [facts.ref for facts, _ in batch]
        return refs

    def _put(self, batch: Sequence[tuple[SegmentFacts, bytes]]) -> None:
        with self._db.transaction() as tx:
            tx.many(
                "INSERT INTO segments (digest, content, entries, files, bytes, first, last, hashed, seen_ns)"
                f" VALUES ({marks(9)}) ON CONFLICT (digest) DO UPDATE SET seen_ns = excluded.seen_ns",
                ((*_columns(f.ref), f.first, f.last, int(f.hashed), tx.now_ns) for f, _ in batch),
            )
            tx.many(
                "INSERT INTO segment_bytes (segment, data) SELECT id, ? FROM segments WHERE digest = ?"
                " ON CONFLICT (segment) DO NOTHING",
                ((data, f.ref.digest) for f, data in batch),
            )

    def apply(
        self, changes: Sequence[Change], *, actor: Actor, key: str = "", expected: Mapping[str, int] | None = None
    ) -> Applied:
        named = fingerprint(changes)
        checked(key, "key", 200)
        with self._db.transaction() as tx:
            if key:
                row = tx.one("SELECT fingerprint, answer FROM applied WHERE actor = ? AND key = ?", (actor.name, key))
                if row is not None:
                    return replay(key, named, row[0], row[1])
            applied = Applied(tuple(decide(SqlRows(tx, self.origin), changes, actor, expected)))
            if key:
                values = (actor.name, key, named, applied.encode(), tx.now_ns)
                tx.run(f"INSERT INTO applied (actor, key, fingerprint, answer, time_ns) VALUES ({marks(5)})", values)
            return applied

    def sweep(self, grace_s: float = GRACE_S) -> int:
        with self._db.transaction() as tx:
            unused = (
                "SELECT s.id FROM segments s WHERE s.seen_ns <= ?"
                " AND NOT EXISTS (SELECT 1 FROM version_segments v WHERE v.segment = s.id)"
            )
            limit = (tx.now_ns - int(grace_s * 1e9),)
            tx.run(f"DELETE FROM segment_bytes WHERE segment IN ({unused})", limit)
            return tx.run(f"DELETE FROM segments WHERE id IN ({unused})", limit)

    # -------------------------------------------------------------------------------------- datasets

    def dataset(self, id: DatasetId, *, actor: Actor) -> Dataset:
        where, seen = sees("d.audience", actor)
        row = self._db.one(f"SELECT {tables.DATASET} FROM datasets d WHERE d.key = ? AND {where}", (id.key, *seen))
        if row is None:
            raise no_dataset(id.key)
        return tables.dataset_of(row)

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
        where, values = matching(prefix, text, state)
        # One sorted, limited read per audience: what others may see costs nothing here.
        one = (
            f"SELECT * FROM (SELECT {tables.DATASET} FROM datasets d WHERE d.audience = ? AND d.key > ?{where}"
            " ORDER BY d.key LIMIT ?) AS mine"
        )
        mine = audiences(actor)
        rows = self._db.all(
            " UNION ALL ".join([one] * len(mine)) + " ORDER BY 1 LIMIT ?",
            [v for a in mine for v in (a, after, *values, limit)] + [limit],
        )
        return [tables.dataset_of(row) for row in rows]

    def count(self, *, actor: Actor, prefix: str = "", text: str = "", state: State | None = None) -> int:
        where, values = matching(prefix, text, state)
        may, seen = sees("d.audience", actor)
        row = self._db.one(f"SELECT count(*) FROM datasets d WHERE {may}{where}", (*seen, *values))
        return int(row[0]) if row else 0

    def versions(self, id: DatasetId, *, actor: Actor, after: int = 0, limit: int = 1000) -> list[Version]:
        self.dataset(id, actor=actor)
        found = self._versions("d.key = ? AND v.number > ?", [id.key, after], actor, "v.number", limit)
        return [version for _, version in found]

    def version(self, id: DatasetId, *, actor: Actor) -> Version:
        return self._version(id, actor)[1]

    def _version(self, id: DatasetId, actor: Actor) -> tuple[int, Version]:
        """Row id and record."""
        where = "d.key = ? AND v.number = ?" if id.version else "d.key = ?"
        values = [id.key, id.version] if id.version else [id.key]
        found = self._versions(where, values, actor, "v.number DESC", 1)
        if not found:
            self.dataset(id, actor=actor)
            raise no_version(id.key, id.version)
        return found[0]

    def _versions(
        self, where: str, values: Sequence[Any], actor: Actor, order: str, limit: int
    ) -> list[tuple[int, Version]]:
        may, seen = sees("d.audience", actor)
        rows = self._db.all(
            f"SELECT {tables.VERSION}, v.id FROM versions v JOIN datasets d ON d.id = v.dataset"
            f" WHERE {where} AND {may} ORDER BY {order} LIMIT ?",
            (*values, *seen, limit),
        )
        return [(row[-1], tables.version_of(row)) for row in rows]

    def by_content(self, content: bytes, *, actor: Actor) -> list[Version]:
        found = self._versions("v.content = ?", [content], actor, "d.key, v.number", SIZE_LIMIT)
        return [version for _, version in found]

    # --------------------------------------------------------------------------------------- content

    def manifest(self, id: DatasetId, *, actor: Actor) -> Manifest:
        number, _ = self._version(id, actor)
        rows = self._db.all(
            "SELECT s.digest, s.content, s.entries, s.files, s.bytes FROM version_segments v"
            " JOIN segments s ON s.id = v.segment WHERE v.version = ? ORDER BY v.mark, v.position",
            (number,),
        )
        return Manifest(tuple(SegmentRef(*row) for row in rows), lambda digest: load(self._db, digest))

    def files(
        self, id: DatasetId, *, actor: Actor, prefix: bytes = b"", after: bytes = b"", limit: int = 1000
    ) -> list[Entry]:
        number, _ = self._version(id, actor)
        digests = follow(self._db, number, max(prefix, id.path, after))
        return page(
            lambda digest: load(self._db, digest), digests, prefix=prefix, below=id.path, after=after, limit=limit
        )

    # -------------------------------------------------------------------------------------- replicas

    def replicas(self, id: DatasetId, *, actor: Actor, offered: bool = True) -> list[Replica]:
        number, _ = self._version(id, actor)
        where, values = "v.id = ?", list[Any]([number])
        if offered:
            where += f" AND d.state = ? AND r.state IN ({marks(len(OFFERED))})"
            values += [State.ACTIVE.value, *(s.value for s in sorted(OFFERED))]
        return self._replicas(where, values, actor)

    def replica(self, id: str, *, actor: Actor) -> Replica:
        found = self._replicas("r.id = ?", [id], actor)
        if not found:
            raise no_replica(id)
        return found[0]

    def _replicas(self, where: str, values: Sequence[Any], actor: Actor) -> list[Replica]:
        may, seen = sees("d.audience", actor)
        rows = self._db.all(
            f"SELECT {tables.REPLICA} FROM replicas r JOIN versions v ON v.id = r.version"
            f" JOIN datasets d ON d.id = v.dataset WHERE {where} AND {may} ORDER BY r.id",
            (*values, *seen),
        )
        return [tables.replica_of(row) for row in rows]

    def exceptions(self, id: str, *, actor: Actor, after: bytes = b"", limit: int = 100_000) -> list[FileMark]:
        self.replica(id, actor=actor)
        rows = self._db.all(
            "SELECT path, state FROM file_marks WHERE replica = ? AND path > ? ORDER BY path LIMIT ?",
            (id, after, limit),
        )
        return [FileMark(path, FileState(state)) for path, state in rows]

    # --------------------------------------------------------------------------------------- lineage

    def lineage(
        self, id: DatasetId | str, *, actor: Actor, direction: str = "up", depth: int = 10, limit: int = 1000
    ) -> list[Activity]:
        ways = lineage.directions(direction, depth)
        if isinstance(id, DatasetId):
            id = self.version(id, actor=actor).id
        elif lineage.is_place(id):
            id = str(url.parse(id))
        else:
            self.activity(id, actor=actor)
        may, seen = sees("{}", actor)
        query = WALK.format(
            ways=", ".join(["(?, ?)"] * len(ways)),
            near=may.format("coalesce(nd.audience, a.audience)"),
            far=may.format("coalesce(fd.audience, a.audience)"),
        )
        values = [*(side for way in ways for side in way), id, id, *seen, depth - 1, *seen, *seen, id, depth, *seen]
        return self._activities(query, [*values, limit], actor)

    def activity(self, id: str, *, actor: Actor) -> Activity:
        found = self._activities("SELECT id, started_ns FROM activities WHERE id = ?", [id], actor)
        if not found:
            raise no_activity(id)
        return found[0]

    def _activities(self, which: str, values: Sequence[Any], actor: Actor) -> list[Activity]:
        """Those that `which` names by (id, started_ns) and the actor sees, oldest first."""
        rows = self._db.all(
            f"SELECT {tables.ACTIVITY}, p.side, p.position, p.ref, p.role, d.audience FROM ({which}) w"
            " JOIN activities a ON a.id = w.id LEFT JOIN ports p ON p.activity = a.id"
            " LEFT JOIN datasets d ON d.id = p.dataset ORDER BY a.started_ns, a.id, p.side, p.position",
            values,
        )
        grouped: dict[str, list[tables.Row]] = {}
        for row in rows:
            grouped.setdefault(row[0], []).append(row)
        return [made for group in grouped.values() if (made := _shown(group, actor)) is not None]

    def events(self, *, actor: Actor, after: int = 0, limit: int = 1000) -> list[event.Event]:
        may, seen = sees("{}", actor)
        activity, port, dataset = (may.format(c) for c in ("a.audience", "pd.audience", "d.audience"))
        rows = self._db.all(
            "SELECT e.type, e.subject, e.actor, e.data, e.id, e.time_ns FROM events e"
            " LEFT JOIN datasets d ON d.key = e.subject WHERE e.id > ? AND ("
            f" (e.type IN ({marks(len(DATASET_EVENTS))}) AND {dataset}) OR (e.type = ? AND EXISTS (SELECT 1 FROM"
            " activities a LEFT JOIN ports p ON p.activity = a.id LEFT JOIN datasets pd ON pd.id = p.dataset"
            f" WHERE a.id = e.subject AND ({activity} OR {port})))) ORDER BY e.id LIMIT ?",
            (after, *DATASET_EVENTS, *seen, ACTIVITY_EVENT, *seen, *seen, limit),
        )
        return [event.Event(row[0], row[1], row[2], json.loads(row[3]), row[4], row[5]) for row in rows]


def _columns(ref: SegmentRef) -> tuple[bytes, bytes, int, int, int]:
    return ref.digest, ref.content, ref.entries, ref.files, ref.size


def _shown(rows: Sequence[tables.Row], actor: Actor) -> Activity | None:
    """One activity from its rows, one per port; None where the actor may not see it."""
    sides: dict[str, list[Port]] = {lineage.USED: [], lineage.GENERATED: []}
    audience, hidden, visible = rows[0][5], set(), actor.sees(rows[0][5])
    for side, position, ref, role, owner in (row[12:] for row in rows if row[12] is not None):
        sides[side].append(Port(ref, role))
        if not actor.sees(owner if owner is not None else audience):
            hidden.add((side, position))
        elif owner is not None:
            visible = True
    if not visible:
        return None
    return lineage.shown(tables.activity_of(rows[0], **sides), actor, hidden)
