"""The catalogue's tables, and the way from a row to a record.  Rows never leave `tables`, `sqlrows` and `sql`.

Plain SQL: SQLite as it is; `dls.logistics.database_postgres` reads its types as PostgreSQL's.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final, Protocol

from dls.catalogue.files import SegmentFacts
from dls.catalogue.model import Activity, Dataset, Layout, Port, Replica, ReplicaState, State, Version
from dls.logistics.manifest import SegmentRef

Row = tuple[Any, ...]

MARK_BYTES: Final = 200
"""Bytes of a segment's last name that stand in the key of `version_segments` (B-trees elsewhere limit a key)."""

STEPS: Final = (
    """
    CREATE TABLE datasets (
        id          INTEGER PRIMARY KEY,      -- row number
        key         TEXT NOT NULL UNIQUE,     -- scope:name, ASCII
        title       TEXT NOT NULL,            -- one line for people
        description TEXT NOT NULL,            -- free text
        metadata    TEXT NOT NULL,            -- JSON object, keys sorted
        project     TEXT NOT NULL,            -- tenant
        origin      TEXT NOT NULL,            -- catalogue that owns the record
        owner       TEXT NOT NULL,            -- name of the actor who answers for it
        audience    TEXT NOT NULL,            -- who may see it
        state       TEXT NOT NULL,            -- active, withdrawn
        reason      TEXT NOT NULL,            -- of the withdrawal
        created_ns  INTEGER NOT NULL,         -- database clock
        changed_ns  INTEGER NOT NULL,         -- database clock
        serial      INTEGER NOT NULL,         -- rises with each change, for optimistic concurrency
        words       TEXT NOT NULL             -- id, title, description and metadata, case folded, for text search
    );
    CREATE UNIQUE INDEX datasets_audience ON datasets (audience, key);  -- lists and counts per audience

    CREATE TABLE versions (
        id          INTEGER PRIMARY KEY,      -- row number
        dataset     INTEGER NOT NULL REFERENCES datasets (id), -- whose version
        number      INTEGER NOT NULL,         -- from 1
        content     BLOB NOT NULL,            -- digest of what a job reads, 32 bytes
        manifest    BLOB NOT NULL,            -- digest of all, modes and times too, 32 bytes
        entries     INTEGER NOT NULL,         -- files, links and folders
        files       INTEGER NOT NULL,         -- files only
        bytes       INTEGER NOT NULL,         -- sum of file sizes
        created_ns  INTEGER NOT NULL,         -- database clock
        actor       TEXT NOT NULL,            -- who did it
        note        TEXT NOT NULL,            -- one line for people
        UNIQUE (dataset, number)
    );
    CREATE INDEX versions_content ON versions (content);

    CREATE TABLE segments (
        id          INTEGER PRIMARY KEY,      -- row number
        digest      BLOB NOT NULL UNIQUE,     -- 32 bytes
        content     BLOB NOT NULL,            -- 32 bytes
        entries     INTEGER NOT NULL,         -- files, links and folders
        files       INTEGER NOT NULL,         -- files only
        bytes       INTEGER NOT NULL,         -- sum of file sizes
        first       BLOB NOT NULL,            -- first name
        last        BLOB NOT NULL,            -- last name
        hashed      INTEGER NOT NULL,         -- 1: every file's digest is known
        seen_ns     INTEGER NOT NULL          -- last put; the grace of unreferenced ones counts from here
    );
    CREATE TABLE segment_bytes (              -- apart, so that lists of segments stay dense
        segment     INTEGER PRIMARY KEY REFERENCES segments (id), -- whose bytes
        data        BLOB NOT NULL             -- Segment.encode
    );
    CREATE TABLE version_segments (           -- a version is a list of segments, which other versions share
        version     INTEGER NOT NULL REFERENCES versions (id), -- whose list
        mark        BLOB NOT NULL,            -- first 200 bytes of the segment's last name: a page seeks here
        position    INTEGER NOT NULL,         -- from 0; marks never fall as it rises
        segment     INTEGER NOT NULL REFERENCES segments (id), -- at this place
        PRIMARY KEY (version, mark, position)
    ) WITHOUT ROWID;
    CREATE INDEX version_segments_segment ON version_segments (segment);  -- sweep: who still has it

    CREATE TABLE replicas (
        id          TEXT PRIMARY KEY,         -- ULID
        version     INTEGER NOT NULL REFERENCES versions (id), -- what lies there
        storage     TEXT NOT NULL,            -- site/storage, '' for a plain URL
        url         TEXT NOT NULL,            -- root
        layout      TEXT NOT NULL,            -- same, image
        state       TEXT NOT NULL,            -- partial, complete, lost, corrupt, offline, gone
        evidence    TEXT NOT NULL,            -- JSON object: how and when proven, by which run
        durability  TEXT NOT NULL,            -- power, process, ''
        created_ns  INTEGER NOT NULL,         -- database clock
        changed_ns  INTEGER NOT NULL,         -- database clock
        serial      INTEGER NOT NULL,         -- rises with each change
        UNIQUE (version, storage, url)
    );
    CREATE TABLE file_marks (                 -- files of a replica that are not as its state says
        replica     TEXT NOT NULL REFERENCES replicas (id), -- whose file
        path        BLOB NOT NULL,            -- name inside the version
        state       TEXT NOT NULL,            -- lost, corrupt, offline
        PRIMARY KEY (replica, path)
    ) WITHOUT ROWID;

    CREATE TABLE activities (
        id           TEXT PRIMARY KEY,        -- ULID
        type         TEXT NOT NULL,           -- register, stage-in, compute …
        actor        TEXT NOT NULL,           -- who did it
        on_behalf_of TEXT NOT NULL,           -- for whom a service did it
        run          TEXT NOT NULL,           -- run that it was part of
        audience     TEXT NOT NULL,           -- who may see command, facts and URLs
        started_ns   INTEGER NOT NULL,        -- as told by who did it
        ended_ns     INTEGER NOT NULL,        -- as told by who did it
        command      TEXT NOT NULL,           -- JSON list of words
        place        TEXT NOT NULL,           -- site
        software     TEXT NOT NULL,           -- JSON object
        hardware     TEXT NOT NULL            -- JSON object
    );
    CREATE TABLE ports (
        activity    TEXT NOT NULL REFERENCES activities (id), -- whose port
        side        TEXT NOT NULL,            -- used, generated
        position    INTEGER NOT NULL,         -- from 0 on each side
        role        TEXT NOT NULL,            -- name of the port
        ref         TEXT NOT NULL,            -- as shown: scope:name@number[/path], replica id, URL
        node        TEXT NOT NULL,            -- as joined: scope:name@number, URL
        dataset     INTEGER REFERENCES datasets (id),  -- NULL for a URL: its audience is the activity's
        PRIMARY KEY (activity, side, position)
    ) WITHOUT ROWID;
    CREATE INDEX ports_node ON ports (node, side);

    CREATE TABLE applied (                    -- idempotency keys
        actor       TEXT NOT NULL,            -- who did it
        key         TEXT NOT NULL,            -- as the caller chose it
        fingerprint BLOB NOT NULL,            -- of the changes, 32 bytes
        answer      TEXT NOT NULL,            -- Applied.encode
        time_ns     INTEGER NOT NULL,         -- database clock
        PRIMARY KEY (actor, key)
    ) WITHOUT ROWID
    """,
)

DATASET: Final = (
    "d.key, d.title, d.description, d.metadata, d.project, d.origin, d.owner, d.audience, d.state, d.reason, "
    "d.created_ns, d.changed_ns, d.serial"
)
VERSION: Final = "d.key, v.number, v.content, v.manifest, v.entries, v.files, v.bytes, v.created_ns, v.actor, v.note"
REPLICA: Final = (
    "r.id, d.key, v.number, r.storage, r.url, r.layout, r.state, r.evidence, r.durability, r.created_ns, "
    "r.changed_ns, r.serial"
)
SEGMENT: Final = "s.digest, s.content, s.entries, s.files, s.bytes, s.first, s.last, s.hashed"
ACTIVITY: Final = (
    "a.id, a.type, a.actor, a.on_behalf_of, a.run, a.audience, a.started_ns, a.ended_ns, a.command, a.place, "
    "a.software, a.hardware"
)


class Reader(Protocol):
    """A database, or a transaction of it."""

    def all(self, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        """All rows."""

    def one(self, sql: str, values: Sequence[Any] = ()) -> Row | None:
        """The first row."""


def dataset_of(row: Row) -> Dataset:
    """A dataset from the columns DATASET."""
    key, title, description, metadata, project, origin, owner, audience, state, *rest = row
    scope, _, name = key.partition(":")
    said = title, description, json.loads(metadata), project, origin, owner, audience
    return Dataset(scope, name, *said, State(state), *rest)


def words_of(dataset: Dataset, metadata: str) -> str:
    """The text that a search looks into; `metadata` is its packed JSON."""
    plain = json.dumps(json.loads(metadata), ensure_ascii=False, sort_keys=True)
    return f"{dataset.key}\n{dataset.title}\n{dataset.description}\n{plain}".casefold()


def version_of(row: Row) -> Version:
    """A version from the columns VERSION."""
    key, number, content, manifest, entries, files, size, created, actor, note = row[:10]
    return Version(key, number, content, manifest, entries, files, size, created, actor, note)


def replica_of(row: Row) -> Replica:
    """A replica from the columns REPLICA."""
    id, dataset, version, storage, url, layout, state, evidence, *rest = row
    return Replica(id, dataset, version, storage, url, Layout(layout), ReplicaState(state), json.loads(evidence), *rest)


def facts_of(row: Row) -> SegmentFacts:
    """A segment's facts from the columns SEGMENT."""
    return SegmentFacts(SegmentRef(*row[:5]), row[5], row[6], bool(row[7]))


def activity_of(row: Row, used: Sequence[Port], generated: Sequence[Port]) -> Activity:
    """An activity from the columns ACTIVITY, which come first, and its ports in order."""
    id, type, actor, behalf, run, audience, started, ended, command, place, software, hardware = row[:12]
    words = tuple(json.loads(command))
    facts = json.loads(software), json.loads(hardware)
    return Activity(
        id, type, actor, behalf, run, audience, started, ended, words, place, tuple(used), tuple(generated), *facts
    )


def marks(count: int) -> str:
    """`?, ?, …` for an IN list."""
    return ", ".join("?" * count)
