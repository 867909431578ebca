"""What a buffer and its leases are: records, tables, rows.  The verbs are in `dls.logistics.buffer`."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, NoReturn

from dls.logistics import event, names, space
from dls.logistics.actor import Actor
from dls.logistics.database import Row, Tx, Values
from dls.logistics.errors import Conflict, NotFound
from dls.logistics.event import Event
from dls.logistics.frozen import frozen
from dls.logistics.space import Reader

MIGRATIONS = (
    space.TABLE
    + """;
    CREATE TABLE buffers (
        id              TEXT PRIMARY KEY,   -- ULID
        storage         TEXT NOT NULL,
        root            BLOB NOT NULL,      -- path below the storage's address
        epoch           INTEGER NOT NULL,   -- of the path; raised when freeing begins, so the path is never used again
        content         BLOB NOT NULL,      -- manifest digest, empty for what a job will write
        label           TEXT NOT NULL,
        state           TEXT NOT NULL,
        contents        TEXT NOT NULL,      -- clean | dirty
        why             TEXT NOT NULL,      -- for people: what makes it so
        reserved_bytes  INTEGER NOT NULL,   -- what the storage counts for it, now
        reserved_inodes INTEGER NOT NULL,
        used_bytes      INTEGER NOT NULL,   -- what it was last measured to hold
        used_inodes     INTEGER NOT NULL,
        project         TEXT NOT NULL,
        owner           TEXT NOT NULL,
        created_ns      INTEGER NOT NULL,
        warned_ns       INTEGER NOT NULL    -- the expiry that was warned of
    );
    CREATE UNIQUE INDEX buffers_by_root ON buffers (storage, root);
    CREATE UNIQUE INDEX buffers_by_content ON buffers (storage, content)
        WHERE length(content) > 0 AND state IN ('reserved', 'filling', 'ready');
    CREATE INDEX buffers_by_state ON buffers (state);
    CREATE TABLE buffer_leases (
        buffer     TEXT NOT NULL,
        "user"     TEXT NOT NULL,           -- an actor or a run id; PostgreSQL reserves the bare word
        pinned     INTEGER NOT NULL,
        expires_ns INTEGER NOT NULL,        -- the database's clock
        PRIMARY KEY (buffer, "user")
    );
    CREATE TABLE buffer_evidence (
        buffer TEXT NOT NULL,
        ref    TEXT NOT NULL,               -- names another verified copy: replica:ID, buffer:ID
        PRIMARY KEY (buffer, ref)
    );
    CREATE INDEX buffer_evidence_by_ref ON buffer_evidence (ref)
    """,
)


class State(StrEnum):
    """Where a buffer is in its life."""

    RESERVED = "reserved"
    """Space is promised, nothing was written."""
    FILLING = "filling"
    READY = "ready"
    FREEING = "freeing"
    """Decided: nobody uses it; its bytes are being removed."""
    FREED = "freed"
    LOST = "lost"
    """Its bytes were found missing."""


class Contents(StrEnum):
    """Whether the bytes are also elsewhere."""

    CLEAN = "clean"
    DIRTY = "dirty"


LIVE = frozenset({State.RESERVED, State.FILLING, State.READY})
HOLDING = LIVE | {State.FREEING}
"""States in which space is counted."""
ALL = frozenset(State)


@frozen
class Lease:
    """One user's claim on a buffer."""

    user: str
    """An actor's name or a run id."""
    expires_ns: int
    pinned: bool = False
    """Keeps the buffer beyond the expiry, until unpinned or released."""


@frozen
class Buffer:
    """A lease of space and inodes on a storage, and what is in it."""

    id: str
    """ULID."""
    storage: str
    """Storage id, SITE/NAME."""
    root: bytes
    """Path below the storage's address."""
    epoch: int
    content: bytes
    """Digest of the manifest that lies here; b'' where not known: what a job writes, or has changed."""
    label: str
    state: State
    contents: Contents
    why: str
    """What makes it clean or dirty."""
    reserved_bytes: int
    """What the storage counts for it now: asked for, then measured."""
    reserved_inodes: int
    used_bytes: int
    """Allocated bytes last measured, 0 before."""
    used_inodes: int
    project: str
    owner: str
    created_ns: int
    leases: tuple[Lease, ...] = ()
    evidence: tuple[str, ...] = ()
    """References of other verified copies; clean while there is one."""
    shared: bool = False
    """`reserve` found it already there."""

    @property
    def expires_ns(self) -> int:
        """When the last lease ends, of the database's clock."""
        return max((lease.expires_ns for lease in self.leases), default=self.created_ns)

    @property
    def expires(self) -> str:
        """The same as ISO 8601 in UTC."""
        return iso(self.expires_ns)

    @property
    def is_spare(self) -> bool:
        """Whether nothing would be lost with it: nothing was written, or all of it is elsewhere."""
        return self.state is State.RESERVED or self.contents is Contents.CLEAN

    def is_held(self, now_ns: int) -> bool:
        """Whether somebody's lease runs or is pinned."""
        return any(lease.pinned or lease.expires_ns > now_ns for lease in self.leases)


@frozen
class Freeing:
    """What is left to do for a buffer in state freeing: `free(store, step)`, then `Buffers.freed(step.buffer.id)`."""

    buffer: Buffer

    @property
    def trash(self) -> bytes:
        """Hidden name beside the buffer's folder, on the same file system."""
        return self.buffer.root.rpartition(b"/")[0] + b"/" + names.HIDDEN + b"trash-" + self.buffer.id.encode()


_COLUMNS = (
    "SELECT id, storage, root, epoch, content, label, state, contents, why, reserved_bytes, reserved_inodes,"
    " used_bytes, used_inodes, project, owner, created_ns FROM buffers"
)
BY_ID = _COLUMNS + " WHERE id = ?"
BY_CONTENT = _COLUMNS + (
    " WHERE storage = ? AND content = ? AND length(content) > 0 AND state IN ('reserved', 'filling', 'ready')"
)
BY_SITE = _COLUMNS + (
    " WHERE (? = 1 OR state IN ('reserved', 'filling', 'ready', 'freeing'))"
    " AND (? = '' OR storage = ? OR substr(storage, 1, length(?) + 1) = ? || '/') ORDER BY id"
)


def by_site(site: str, *, ended: bool = False) -> Values:
    """The values of BY_SITE: '' for everywhere, a site for all its storages, or one storage."""
    return (int(ended), site, site, site, site)


def select(reader: Reader, sql: str, values: Values) -> list[Buffer]:
    """Buffers by one of the statements above, with their leases and evidence."""
    return [_buffer(reader, row) for row in reader.all(sql, values)]


def _buffer(reader: Reader, row: Row) -> Buffer:
    leases = reader.all(
        'SELECT "user", expires_ns, pinned FROM buffer_leases WHERE buffer = ? ORDER BY expires_ns, "user"', (row[0],)
    )
    refs = reader.all("SELECT ref FROM buffer_evidence WHERE buffer = ? ORDER BY ref", (row[0],))
    known: Row = (*row[:6], State(row[6]), Contents(row[7]), *row[8:])
    held = tuple(Lease(user, expires_ns, bool(pinned)) for user, expires_ns, pinned in leases)
    return replace(Buffer(*known), leases=held, evidence=tuple(ref for (ref,) in refs))


def iso(time_ns: int) -> str:
    """A time as people and programs read it: 2026-01-31T12:00:00Z."""
    return datetime.fromtimestamp(time_ns // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# ---------------------------------------------------------------------------------- within a transaction


def get(tx: Tx, id: str) -> Buffer:
    """The buffer as this transaction sees it; NotFound."""
    found = select(tx, BY_ID, (id,))
    return found[0] if found else missing(id)


def live(tx: Tx, id: str) -> Buffer:
    """The same, if it can still be used; Conflict."""
    buffer = get(tx, id)
    if buffer.state not in LIVE:
        raise wrong_state(buffer, "reserve it anew")
    return buffer


def missing(id: str) -> NoReturn:
    raise NotFound(f"no such buffer: {id[:200]}", code="no-buffer", buffer=id[:200], remedy="look: dls buffer list")


def wrong_state(buffer: Buffer, why: str) -> Conflict:
    said = f"the buffer {buffer.id} is {buffer.state.value}: {why}"
    return Conflict(said, code="buffer-state", buffer=buffer.id, state=buffer.state.value)


def idle(tx: Tx, site: str) -> list[Buffer]:
    """Live buffers that nobody holds."""
    found = select(tx, BY_SITE, by_site(site))
    return [buffer for buffer in found if buffer.state in LIVE and not buffer.is_held(tx.now_ns)]


def set_state(tx: Tx, id: str, state: State) -> None:
    tx.run("UPDATE buffers SET state = ? WHERE id = ?", (state.value, id))


def tell(tx: Tx, kind: str, id: str, by: str, **data: Any) -> None:
    """Write the event of a change."""
    event.record(tx, Event(kind, id, by, data))


def share(tx: Tx, buffer: Buffer, user: str, expires_ns: int, actor: Actor) -> Buffer:
    mine = [lease.expires_ns for lease in buffer.leases if lease.user == user]
    grant(tx, buffer.id, user, max([expires_ns, *mine]))
    tell(tx, "buffer.shared", buffer.id, actor.name, user=user)
    return replace(get(tx, buffer.id), shared=True)


def grant(tx: Tx, id: str, user: str, expires_ns: int) -> None:
    tx.run(
        'INSERT INTO buffer_leases (buffer, "user", pinned, expires_ns) VALUES (?, ?, 0, ?)'
        ' ON CONFLICT (buffer, "user") DO UPDATE SET expires_ns = excluded.expires_ns',
        (id, user, expires_ns),
    )


def soonest(tx: Tx, storage: str) -> str:
    """When the next lease there ends that has not ended yet, ISO 8601, or ''."""
    row = tx.one(
        "SELECT MIN(expires_ns) FROM buffer_leases JOIN buffers ON buffers.id = buffer"
        " WHERE storage = ? AND expires_ns > ? AND pinned = 0",
        (storage, tx.now_ns),
    )
    return iso(row[0]) if row and row[0] else ""


def no_lease(buffer: Buffer, user: str) -> NotFound:
    users = ", ".join(lease.user for lease in buffer.leases) or "nobody"
    return NotFound(
        f"{user} holds no lease on the buffer {buffer.id}",
        code="no-lease",
        buffer=buffer.id,
        remedy=f"held by: {users}",
    )
