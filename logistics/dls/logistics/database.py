"""The one way to our SQL state: connections, transactions, migrations, clock.  The seam between rooms and a server.

State is one SQLite file (`database_sqlite`), or a schema of a PostgreSQL database (`database_postgres`) where the place
is a `postgresql://` URL.  The rooms write SQL that both take: `?` for values, `ON CONFLICT`, quoted names where
PostgreSQL reserves them (`"user"`).  Tables are declared in SQLite's types, INTEGER (64 bits), TEXT, BLOB, REAL; each
side reads them as its own.  Write transactions queue: one at a time, and it sees all that were committed before it.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from dls.logistics.database_url import is_server
from dls.logistics.errors import Conflict

Row = tuple[Any, ...]
Values = Sequence[Any]
Got = TypeVar("Got")

_COMMENT = re.compile(r"--[^\n]*")
_VERSIONS = "schema_versions"


class Cursor(Protocol):
    """What a statement answered."""

    @property
    def rowcount(self) -> int: ...
    def fetchall(self) -> list[Any]: ...
    def fetchone(self) -> Any: ...


class Connection(Protocol):
    """One connection; `?` stands for a value."""

    def execute(self, sql: str, parameters: Values = ..., /) -> Cursor: ...
    def executemany(self, sql: str, parameters: Iterable[Values], /) -> Cursor: ...
    def close(self) -> None: ...


class Kind(Protocol):
    """One kind of database: what differs between them, and nothing else."""

    where: str
    """The file, or the URL without its password."""

    def connect(self) -> Any:
        """A new connection."""
        ...

    def errors(self) -> AbstractContextManager[None]:
        """Translates the errors of its library into ours."""
        ...

    def is_lost(self, connection: Any) -> bool:
        """Whether the other end is gone: what has no effect may be asked again on a new connection."""
        ...

    def begin(self, connection: Any, lasting: bool) -> None:
        """Begin to write, as the only one; waits for others."""
        ...

    def commit(self, connection: Any) -> None:
        """Make it last."""
        ...

    def end(self, connection: Any, lasting: bool) -> None:
        """After a transaction, however it went: undo what was not committed."""
        ...

    def has_table(self, connection: Any, name: str) -> bool:
        """Whether a table is there."""
        ...

    def prepare(self, connection: Any) -> None:
        """Within a transaction: make what tables need."""
        ...

    def declared(self, statement: str) -> str:
        """A statement of a migration in this database's words."""
        ...

    def now_ns(self, connection: Callable[[], Any]) -> int:
        """Its clock, nanoseconds since the epoch."""
        ...


class Tx:
    """A write transaction; its clock stands still."""

    def __init__(self, connection: Connection, now_ns: int) -> None:
        self._connection = connection
        self.now_ns = now_ns

    def run(self, sql: str, values: Values = ()) -> int:
        """Execute one statement; returns the rows it changed."""
        return self._connection.execute(sql, values).rowcount

    def many(self, sql: str, rows: Iterable[Values]) -> int:
        """Execute one statement for many rows."""
        return self._connection.executemany(sql, rows).rowcount

    def all(self, sql: str, values: Values = ()) -> list[Row]:
        """All rows of a query."""
        return self._connection.execute(sql, values).fetchall()

    def one(self, sql: str, values: Values = ()) -> Row | None:
        """The first row, or None."""
        row: Row | None = self._connection.execute(sql, values).fetchone()
        return row


def _kind(where: str | Path, schema: str) -> Kind:
    if is_server(where):
        from dls.logistics.database_postgres import Postgres  # its library is an extra

        return Postgres(str(where), schema)
    from dls.logistics.database_sqlite import Sqlite

    return Sqlite(Path(where))


class Database:
    """State in one SQLite file, created on first use with its folder (mode 0700), or in a schema of PostgreSQL.

    One connection per thread.  A server that went away is found again by the next read and the next transaction."""

    def __init__(self, where: str | Path, schema: str = "dls") -> None:
        self._kind = _kind(where, schema)
        self.where = self._kind.where
        """The file, or the URL without its password."""
        self._local = threading.local()
        self._open: list[tuple[threading.Thread, Any]] = []
        self._lock = threading.Lock()
        self.guard: Callable[[Tx], None] | None = None
        """Asked first in every write transaction; what it raises undoes it.  Whoever works under a lease that others
        may take over is fenced so: no write of theirs lands after it, atomically."""

    @property
    def path(self) -> Path:
        """The file, where it is one."""
        return Path(self.where)

    def _connection(self) -> Any:
        connection, owner = getattr(self._local, "connection", (None, 0))
        if connection is None or owner != os.getpid():  # a fork: what the parent opened is the parent's
            with self._kind.errors():
                connection = self._kind.connect()
            self._local.connection = (connection, os.getpid())
            with self._lock:
                for thread, old in self._open:
                    if not thread.is_alive():
                        old.close()
                self._open = [(thread, old) for thread, old in self._open if thread.is_alive()]
                self._open.append((threading.current_thread(), connection))
        return connection

    def _steadily(self, act: Callable[[Any], Got]) -> Got:
        """Do what has no effect if it fails, on a new connection where the old one turns out to be dead."""
        with self._kind.errors():
            connection = self._connection()
            try:
                return act(connection)
            except Exception:  # whatever it is: only a lost connection makes it ours
                if not self._kind.is_lost(connection):
                    raise
            self._forget(connection)
            return act(self._connection())

    def _forget(self, connection: Any) -> None:
        self._local.connection = (None, 0)
        with self._lock:
            self._open = [(thread, one) for thread, one in self._open if one is not connection]
        connection.close()

    @contextmanager
    def transaction(self, *, lasting: bool = True) -> Iterator[Tx]:
        """One write transaction: all of it, or nothing.  Not re-entrant within a thread.

        `lasting=False`: a power cut may undo it, in the order of commits; a later lasting one takes it along."""

        def begun(connection: Any) -> Connection:
            self._kind.begin(connection, lasting)
            kept: Connection = connection
            return kept

        with self._kind.errors():
            connection = self._steadily(begun)
            try:
                tx = Tx(connection, self.now_ns())
                if self.guard is not None:
                    self.guard(tx)
                yield tx
                self._kind.commit(connection)
            finally:
                self._kind.end(connection, lasting)

    def all(self, sql: str, values: Values = ()) -> list[Row]:
        """All rows of a read."""

        def read(connection: Any) -> list[Row]:
            rows: list[Row] = connection.execute(sql, values).fetchall()
            return rows

        return self._steadily(read)

    def one(self, sql: str, values: Values = ()) -> Row | None:
        """The first row of a read, or None."""

        def read(connection: Any) -> Row | None:
            row: Row | None = connection.execute(sql, values).fetchone()
            return row

        return self._steadily(read)

    def migrate(self, room: str, steps: Sequence[str]) -> None:
        """Bring one room's tables up to date: `steps[n]` leads from version n to n+1; each is one script."""
        have = self._version(room)
        if have == len(steps):
            return
        if have > len(steps):
            raise Conflict(
                f"{self.where} was written by a newer dls ({room} {have})", code="state-newer", remedy="upgrade dls"
            )
        with self.transaction() as tx:
            self._kind.prepare(tx._connection)
            self._declare(
                tx, f"CREATE TABLE IF NOT EXISTS {_VERSIONS} (room TEXT PRIMARY KEY, version INTEGER NOT NULL)"
            )
            row = tx.one("SELECT version FROM schema_versions WHERE room = ?", (room,))
            for step in steps[row[0] if row else 0 :]:
                for statement in _COMMENT.sub("", step).split(";"):
                    if statement.strip():
                        self._declare(tx, statement)
            tx.run(
                "INSERT INTO schema_versions (room, version) VALUES (?, ?)"
                " ON CONFLICT (room) DO UPDATE SET version = excluded.version",
                (room, len(steps)),
            )

    def _declare(self, tx: Tx, statement: str) -> None:
        tx.run(self._kind.declared(statement))

    def _version(self, room: str) -> int:
        if not self._steadily(lambda connection: self._kind.has_table(connection, _VERSIONS)):
            return 0
        row = self.one("SELECT version FROM schema_versions WHERE room = ?", (room,))
        return int(row[0]) if row else 0

    def now_ns(self) -> int:
        """The database's clock, nanoseconds since the epoch: of this machine for SQLite, of the server elsewhere."""
        return self._steadily(lambda connection: self._kind.now_ns(lambda: connection))

    def close(self) -> None:
        """Close every connection; idempotent."""
        with self._lock:
            for _, connection in self._open:
                connection.close()
            self._open.clear()
        self._local = threading.local()


def boot_id() -> str:
    """Names this boot of the machine: facts that were not synced before it are not trusted after it."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return f"pid1-{os.stat('/proc/1').st_ctime_ns}" if os.path.exists("/proc/1") else "unknown"
