"""The state of a SQL catalogue inside one write transaction: what `decide` reads and saves."""

# ruff: noqa: S608 - statements are put together from constants of `tables`; values are always bound

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from dls.catalogue import tables
from dls.catalogue.fields import packed
from dls.catalogue.files import SegmentFacts, first_absent, no_segment
from dls.catalogue.model import Activity, Dataset, FileState, Port, Replica, Version
from dls.catalogue.rows import Edge
from dls.catalogue.tables import MARK_BYTES, Reader, marks
from dls.logistics import event
from dls.logistics.database import Tx
from dls.logistics.segment import Segment

_CHUNK = 500  # values in one IN list
_AHEAD = 8  # segments named by one query while a page is filled


def load(reader: Reader, digest: bytes) -> Segment:
    """A stored segment, verified.  NotFound, Corrupt."""
    row = reader.one(
        "SELECT b.data FROM segments s JOIN segment_bytes b ON b.segment = s.id WHERE s.digest = ?", (digest,)
    )
    if row is None:
        raise no_segment(digest)
    return Segment.decode(row[0], digest)


def follow(reader: Reader, version: int, start: bytes) -> Iterator[bytes]:
    """Digests of a version's segments in order, from the first whose last name is not below `start`; lazily."""
    mark, position = start[:MARK_BYTES], -1
    while True:
        rows: list[tuple[bytes, int, bytes, bytes]] = reader.all(
            "SELECT v.mark, v.position, s.digest, s.last FROM version_segments v JOIN segments s ON s.id = v.segment "
            "WHERE v.version = ? AND (v.mark, v.position) > (?, ?) ORDER BY v.mark, v.position LIMIT ?",
            (version, mark, position, _AHEAD),
        )
        for _, _, digest, last in rows:
            if last >= start:
                yield digest
        if len(rows) < _AHEAD:
            return
        mark, position = rows[-1][:2]


class SqlRows:
    """`rows.Rows` over a transaction."""

    def __init__(self, tx: Tx, origin: str) -> None:
        self._tx = tx
        self.now_ns = tx.now_ns
        self.origin = origin

    def dataset(self, key: str) -> Dataset | None:
        row = self._tx.one(f"SELECT {tables.DATASET} FROM datasets d WHERE d.key = ?", (key,))
        return tables.dataset_of(row) if row else None

    def save_dataset(self, dataset: Dataset) -> None:
        d, metadata = dataset, packed(dataset.metadata, "metadata")
        self._tx.run(
            f"INSERT INTO datasets (key, title, description, metadata, project, origin, owner, audience, state, reason,"
            f" created_ns, changed_ns, serial, words) VALUES ({marks(14)}) ON CONFLICT (key) DO UPDATE SET"
            " title = excluded.title, description = excluded.description, metadata = excluded.metadata,"
            " project = excluded.project, owner = excluded.owner, audience = excluded.audience,"
            " state = excluded.state, reason = excluded.reason, changed_ns = excluded.changed_ns,"
            " serial = excluded.serial, words = excluded.words",
            (
                d.key,
                d.title,
                d.description,
                metadata,
                d.project,
                d.origin,
                d.owner,
                d.audience,
                d.state.value,
                d.reason,
                d.created_ns,
                d.changed_ns,
                d.serial,
                tables.words_of(d, metadata),
            ),
        )

    def version(self, key: str, number: int) -> Version | None:
        which, values = ("AND v.number = ?", (key, number)) if number else ("", (key,))
        row = self._tx.one(
            f"SELECT {tables.VERSION} FROM versions v JOIN datasets d ON d.id = v.dataset WHERE d.key = ? {which} "
            "ORDER BY v.number DESC LIMIT 1",
            values,
        )
        return tables.version_of(row) if row else None

    def _id(self, key: str, number: int) -> int:
        row = self._tx.one(
            "SELECT v.id FROM versions v JOIN datasets d ON d.id = v.dataset WHERE d.key = ? AND v.number = ?",
            (key, number),
        )
        assert row is not None  # deciding found the version in this very transaction
        return int(row[0])

    def save_version(self, version: Version, segments: Sequence[bytes]) -> None:
        v = version
        self._tx.run(
            "INSERT INTO versions (dataset, number, content, manifest, entries, files, bytes, created_ns, actor, note)"
            " SELECT id, ?, ?, ?, ?, ?, ?, ?, ?, ? FROM datasets WHERE key = ?",
            (v.number, v.content, v.manifest, v.entries, v.files, v.size, v.created_ns, v.actor, v.note, v.dataset),
        )
        number = self._id(v.dataset, v.number)
        self._tx.many(
            "INSERT INTO version_segments (version, mark, position, segment)"
            f" SELECT ?, substr(last, 1, {MARK_BYTES}), ?, id FROM segments WHERE digest = ?",
            ((number, position, digest) for position, digest in enumerate(segments)),
        )

    def segments(self, digests: Sequence[bytes]) -> dict[bytes, SegmentFacts]:
        found = {}
        for at in range(0, len(digests), _CHUNK):
            some = digests[at : at + _CHUNK]
            for row in self._tx.all(
                f"SELECT {tables.SEGMENT} FROM segments s WHERE s.digest IN ({marks(len(some))})", some
            ):
                found[row[0]] = tables.facts_of(row)
        return found

    def lacking(self, version: Version, paths: Sequence[bytes]) -> bytes | None:
        number = self._id(version.dataset, version.number)
        return first_absent(
            lambda digest: load(self._tx, digest), lambda path: next(follow(self._tx, number, path), None), paths
        )

    def replica(self, replica: str) -> Replica | None:
        return self._replica("r.id = ?", replica)

    def replica_at(self, key: str, number: int, storage: str, url: str) -> Replica | None:
        return self._replica("d.key = ? AND v.number = ? AND r.storage = ? AND r.url = ?", key, number, storage, url)

    def _replica(self, where: str, *values: object) -> Replica | None:
        row = self._tx.one(
            f"SELECT {tables.REPLICA} FROM replicas r JOIN versions v ON v.id = r.version "
            f"JOIN datasets d ON d.id = v.dataset WHERE {where}",
            values,
        )
        return tables.replica_of(row) if row else None

    def save_replica(self, replica: Replica) -> None:
        r = replica
        self._tx.run(
            "INSERT INTO replicas (id, version, storage, url, layout, state, evidence, durability, created_ns,"
            f" changed_ns, serial) VALUES ({marks(11)}) ON CONFLICT (id) DO UPDATE SET layout = excluded.layout,"
            " state = excluded.state, evidence = excluded.evidence, durability = excluded.durability,"
            " changed_ns = excluded.changed_ns, serial = excluded.serial",
            (
                r.id,
                self._id(r.dataset, r.version),
                r.storage,
                r.url,
                r.layout.value,
                r.state.value,
                packed(r.evidence, "evidence"),
                r.durability,
                r.created_ns,
                r.changed_ns,
                r.serial,
            ),
        )

    def mark(self, replica: str, files: Mapping[bytes, FileState]) -> int:
        return self._tx.many(
            "INSERT INTO file_marks (replica, path, state) VALUES (?, ?, ?) ON CONFLICT (replica, path)"
            " DO UPDATE SET state = excluded.state WHERE file_marks.state <> excluded.state",
            ((replica, path, state.value) for path, state in files.items()),
        )

    def clear(self, replica: str, paths: Sequence[bytes] | None) -> int:
        if paths is None:
            return self._tx.run("DELETE FROM file_marks WHERE replica = ?", (replica,))
        return self._tx.many(
            "DELETE FROM file_marks WHERE replica = ? AND path = ?", ((replica, path) for path in paths)
        )

    def activity(self, activity: str) -> Activity | None:
        row = self._tx.one(f"SELECT {tables.ACTIVITY} FROM activities a WHERE a.id = ?", (activity,))
        if row is None:
            return None
        sides: dict[str, list[Port]] = {"used": [], "generated": []}
        for side, ref, role in self._tx.all(
            "SELECT side, ref, role FROM ports WHERE activity = ? ORDER BY side, position", (activity,)
        ):
            sides[side].append(Port(ref, role))
        return tables.activity_of(row, **sides)

    def save_activity(self, activity: Activity, edges: Sequence[Edge]) -> None:
        a = activity
        command = json.dumps(a.command)
        self._tx.run(
            f"INSERT INTO activities VALUES ({marks(12)})",
            (
                a.id,
                a.type,
                a.actor,
                a.on_behalf_of,
                a.run,
                a.audience,
                a.started_ns,
                a.ended_ns,
                command,
                a.where,
                packed(a.software, "software"),
                packed(a.hardware, "hardware"),
            ),
        )
        seen = {"used": 0, "generated": 0}
        for edge in edges:
            self._tx.run(
                "INSERT INTO ports (activity, side, position, role, ref, node, dataset)"
                " VALUES (?, ?, ?, ?, ?, ?, (SELECT id FROM datasets WHERE key = ?))",
                (a.id, edge.side, seen[edge.side], edge.role, edge.ref, edge.node, edge.dataset),
            )
            seen[edge.side] += 1

    def record(self, one: event.Event) -> None:
        event.record(self._tx, one)
