"""What happened: rows of an outbox, written in the same transaction as the change they tell of."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from dls.logistics.database import Database, Tx
from dls.logistics.frozen import frozen

MIGRATIONS = (
    """
    CREATE TABLE events (
        id      INTEGER PRIMARY KEY,     -- rising; readers keep the last one they saw
        time_ns INTEGER NOT NULL,        -- the database's clock
        type    TEXT NOT NULL,           -- dotted, past tense: dataset.added, buffer.freed
        subject TEXT NOT NULL,           -- the object's id
        actor   TEXT NOT NULL,           -- who asked
        data    TEXT NOT NULL            -- JSON, at most 4 KB, never a secret
    )
    """,
)


@frozen
class Event:
    """One thing that happened."""

    type: str
    subject: str
    actor: str
    data: dict[str, Any]
    id: int = 0
    time_ns: int = 0


def prepare(database: Database) -> None:
    """Create the outbox where it is missing."""
    database.migrate("event", MIGRATIONS)


def record(tx: Tx, event: Event) -> None:
    """Write an event with the change it tells of."""
    tx.run(
        "INSERT INTO events (time_ns, type, subject, actor, data) VALUES (?, ?, ?, ?, ?)",
        (tx.now_ns, event.type, event.subject, event.actor, json.dumps(event.data, sort_keys=True)),
    )


def since(database: Database, last: int = 0, limit: int = 1000) -> Iterator[Event]:
    """Events after id `last`, oldest first, at most `limit`."""
    rows = database.all(
        "SELECT type, subject, actor, data, id, time_ns FROM events WHERE id > ? ORDER BY id LIMIT ?", (last, limit)
    )
    for kind, subject, actor, data, number, time_ns in rows:
        yield Event(kind, subject, actor, json.loads(data), number, time_ns)


def newest(database: Database) -> int:
    """Id of the last event, 0 where there is none."""
    row = database.one("SELECT MAX(id) FROM events")
    return int(row[0] or 0) if row else 0


def before(database: Database, time_ns: int) -> int:
    """Id of the last event before the first one at or after a time: what to give `since`."""
    row = database.one("SELECT MIN(id) FROM events WHERE time_ns >= ?", (time_ns,))
    return int(row[0]) - 1 if row and row[0] is not None else newest(database)


def follow(database: Database, last: int, pause: Callable[[], object]) -> Iterator[Event]:
    """Events after id `last` as they are committed, without end; `pause` waits where there are none.

    Writers queue (one write transaction at a time), so ids rise in the order of commits: no event appears below one
    that was seen.
    """
    while True:
        found = list(since(database, last))
        for one in found:
            last = one.id
            yield one
        if not found:
            pause()
