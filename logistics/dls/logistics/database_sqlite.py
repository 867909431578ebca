"""State in one SQLite file, through the standard library.  The only home of `sqlite3`.

Write-ahead log, `synchronous=FULL` (a committed fact survives a power cut), writers queue by `BEGIN IMMEDIATE`.
"""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dls.logistics.errors import Conflict, Corrupt, Denied, DlsError, Unavailable

BUSY_S = 60.0
"""How long a writer waits for another one, seconds."""
_GROWS_BY = 32 << 10
"""Bytes by which the index of the write-ahead log grows."""


class Sqlite:
    """`database.Kind` for a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.where = str(path)

    def connect(self) -> sqlite3.Connection:
        """A new connection; makes the folder."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as exc:
            raise Unavailable(
                f"cannot make the folder {self._path.parent}: {exc.strerror}",
                code="no-state",
                path=str(self._path.parent),
                remedy="set DLS_HOME to a folder that you may write",
            ) from exc
        connection = sqlite3.connect(self._path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
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
    def errors(self) -> Iterator[None]:
        """Translates what sqlite3 raises."""
        try:
            yield
        except sqlite3.Error as exc:
            raise self._ours(exc) from exc

    def _ours(self, exc: sqlite3.Error) -> DlsError:
        said, where = str(exc), self.where
        if isinstance(exc, sqlite3.IntegrityError):
            return Conflict(f"the state changed meanwhile: {said}", code="state-conflict", path=where)
        if "full" in said or ("disk I/O error" in said and self._is_full()):
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

    def _is_full(self) -> bool:
        """Whether the file beside the write-ahead log could not grow: SQLite calls that an input/output error."""
        try:
            return shutil.disk_usage(self._path.parent).free < _GROWS_BY
        except OSError:
            return False

    def is_lost(self, connection: sqlite3.Connection) -> bool:
        """Never: a file does not go away."""
        return False

    def begin(self, connection: sqlite3.Connection, lasting: bool) -> None:
        """Wait for other writers."""
        if not lasting:
            connection.execute("PRAGMA synchronous=NORMAL")
        try:
            connection.execute("BEGIN IMMEDIATE")
        except BaseException:
            self.end(connection, lasting)
            raise

    def commit(self, connection: sqlite3.Connection) -> None:
        """Make it last."""
        connection.execute("COMMIT")

    def end(self, connection: sqlite3.Connection, lasting: bool) -> None:
        """Undo what was not committed."""
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        if not lasting:
            connection.execute("PRAGMA synchronous=FULL")

    def has_table(self, connection: sqlite3.Connection, name: str) -> bool:
        """Whether a table is there."""
        return connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (name,)).fetchone() is not None

    def prepare(self, connection: sqlite3.Connection) -> None:
        """Nothing is needed."""

    def declared(self, statement: str) -> str:
        """As it is."""
        return statement

    def now_ns(self, connection: Callable[[], Any]) -> int:
        """This machine's clock."""
        return time.time_ns()
