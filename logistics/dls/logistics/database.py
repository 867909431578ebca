"""The one way to our SQL state: connections, transactions, migrations, clock.  The only home of a database driver.

SQLite through the standard library: one connection per thread, write-ahead log, `synchronous=FULL` (a committed fact
survives a power cut), writers queue by `BEGIN IMMEDIATE`.  SQL elsewhere is plain enough for PostgreSQL; what differs
will live here.
"""

from __future__ import annotations

import os
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dls.logistics.errors import Conflict, Corrupt, Denied, DlsError, Unavailable

Row = tuple[Any, ...]
Values = Sequence[Any]

_COMMENT = re.compile(r"--[^\n]*")
BUSY_S = 60.0
"""How long a writer waits for another one, seconds."""


class Tx:
    """A write transaction; its clock stands still."""

    def __init__(self, connection: sqlite3.Connection, now_ns: int) -> None:
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


class Database:
    """State in one SQLite file, created on first use with its folder (mode 0700)."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._local = threading.local()
        self._open: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        self.guard: Callable[[Tx], None] | None = None
        """Asked first in every write transaction; what it raises undoes it.  Whoever works under a lease that others
        may take over is fenced so: no write of theirs lands after it, atomically."""

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._connect()
            self._local.connection = connection
            with self._lock:
                self._open.append(connection)
        return connection

    def _connect(self) -> sqlite3.Connection:
        with self._errors():
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            except OSError as exc:
                raise Unavailable(
                    f"cannot make the folder {self.path.parent}: {exc.strerror}",
                    code="no-state",
                    path=str(self.path.parent),
                    remedy="set DLS_HOME to a folder that you may write",
                ) from exc
            connection = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "cache_size=-8000"):
                self._patient(connection, f"PRAGMA {pragma}")
            return connection

    @staticmethod
    def _patient(connection: sqlite3.Connection, sql: str) -> None:
        """Turning on WAL does not honour the busy timeout while another process does the same: try again."""
        deadline = time.monotonic() + BUSY_S
        while True:
            try:
                connection.execute(sql)
                return
            except sqlite3.OperationalError as exc:
                if "locked" not in str(exc) or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as exc:
            raise self._ours(exc) from exc

    def _ours(self, exc: sqlite3.Error) -> DlsError:
        said, where = str(exc), str(self.path)
        if isinstance(exc, sqlite3.IntegrityError):
            return Conflict(f"the state changed meanwhile: {said}", code="state-conflict", path=where)
        if "full" in said:
            return Unavailable(f"no space left for {where}", code="disk-full", path=where, remedy="free space there")
        if "readonly" in said or "read-only" in said:
            return Denied(f"cannot write {where}", code="read-only", path=where, remedy="check the rights on DLS_HOME")
        if "locked" in said or "busy" in said:
            return Unavailable(f"{where} is busy for over {BUSY_S:.0f} s", code="state-busy", path=where)
        if "malformed" in said or "not a database" in said:
            return Corrupt(f"{where} is damaged: {said}", code="state-damaged", path=where, remedy="restore a backup")
        if isinstance(exc, sqlite3.OperationalError):
            return Unavailable(f"cannot use {where}: {said}", code="no-state", path=where, remedy="check DLS_HOME")
        raise exc

    @contextmanager
    def transaction(self) -> Iterator[Tx]:
        """One write transaction: all of it, or nothing.  Not re-entrant within a thread."""
        with self._errors():
            connection = self._connection()
            connection.execute("BEGIN IMMEDIATE")
            try:
                tx = Tx(connection, self.now_ns())
                if self.guard is not None:
                    self.guard(tx)
                yield tx
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def all(self, sql: str, values: Values = ()) -> list[Row]:
        """All rows of a read."""
        with self._errors():
            return self._connection().execute(sql, values).fetchall()

    def one(self, sql: str, values: Values = ()) -> Row | None:
        """The first row of a read, or None."""
        with self._errors():
            row: Row | None = self._connection().execute(sql, values).fetchone()
            return row

    def migrate(self, room: str, steps: Sequence[str]) -> None:
        """Bring one room's tables up to date: `steps[n]` leads from version n to n+1; each is one script."""
        with self._errors():
            have = self._version(room)
        if have == len(steps):
            return
        if have > len(steps):
            raise Conflict(
                f"{self.path} was written by a newer dls ({room} {have})", code="state-newer", remedy="upgrade dls"
            )
        with self.transaction() as tx:
            tx.run("CREATE TABLE IF NOT EXISTS schema_versions (room TEXT PRIMARY KEY, version INTEGER NOT NULL)")
            row = tx.one("SELECT version FROM schema_versions WHERE room = ?", (room,))
            for step in steps[row[0] if row else 0 :]:
                for statement in _COMMENT.sub("", step).split(";"):
                    if statement.strip():
                        tx.run(statement)
            tx.run("INSERT OR REPLACE INTO schema_versions (room, version) VALUES (?, ?)", (room, len(steps)))

    def _version(self, room: str) -> int:
        try:
            row = self._connection().execute("SELECT version FROM schema_versions WHERE room = ?", (room,)).fetchone()
        except sqlite3.OperationalError as exc:
            if "no such table" in str(exc):
                return 0
            raise
        return int(row[0]) if row else 0

    def now_ns(self) -> int:
        """The database's clock, nanoseconds since the epoch: of this machine for SQLite."""
        return time.time_ns()

    def close(self) -> None:
        """Close every connection; idempotent."""
        with self._lock:
            for connection in self._open:
                connection.close()
            self._open.clear()
        self._local = threading.local()


def boot_id() -> str:
    """Names this boot of the machine: facts that were not synced before it are not trusted after it."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return f"pid1-{os.stat('/proc/1').st_ctime_ns}" if os.path.exists("/proc/1") else "unknown"
