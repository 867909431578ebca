"""Locks on a PostgreSQL server: session-level advisory locks on one connection of their own.

They go with the session, so with the process.  A machine that vanishes is noticed by TCP keepalives, within a minute.
A pooler that hands one session to several clients cannot be used.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import Final

from dls.logistics.database_postgres import Postgres, Session, key_of
from dls.logistics.errors import DlsError
from dls.logistics.locks import Lock, wait_for

BREAK_S: Final = 10.0
"""How long a broken session may take to go, seconds."""
_HOLDERS: Final = (
    "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 AND granted"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    " AND ((classid::bigint << 32) | objid::bigint) = ?"
)


class PostgresLocks:
    """Locks of one schema.  All that are held through one object are on one session: breaking one breaks them all."""

    def __init__(self, url: str, schema: str = "dls") -> None:
        self._server = Postgres(url, schema)
        self._schema = schema
        self._mutex = threading.RLock()
        self._session: Session | None = None
        self._held: dict[str, PostgresLock] = {}

    def _key(self, name: str) -> int:
        return key_of("dls lock", self._schema, name)

    def _alive(self) -> Session:
        """The session; a new one, without the locks of the old, where that is dead."""
        if self._session is not None and not self._answers(self._session):
            self._drop()
        if self._session is None:
            self._session = self._server.connect()
        return self._session

    def _answers(self, session: Session) -> bool:
        try:
            with self._server.errors():
                session.execute("SELECT 1")
        except DlsError:
            return False
        return True

    def _drop(self) -> None:
        session, self._session = self._session, None
        self._held.clear()
        if session is not None:
            session.close()

    def try_hold(self, name: str) -> PostgresLock | None:
        """Take it now, or None where another holds it."""
        with self._mutex, self._server.errors():
            session = self._alive()
            if name in self._held:  # the server would give it to the same session again
                return None
            row = session.execute("SELECT pg_try_advisory_lock(?)", (self._key(name),)).fetchone()
            if row is None or not row[0]:
                return None
            self._held[name] = lock = PostgresLock(self, name)
            return lock

    def hold(self, name: str, wait_s: float | None = None) -> Lock:
        """Take it, after waiting at most so long."""
        return wait_for(self, name, wait_s)

    def is_held(self, name: str) -> bool:
        """Whether anybody holds it now."""
        with self._mutex, self._server.errors():
            return bool(self._alive().execute(_HOLDERS, (self._key(name),)).fetchall())

    def break_(self, name: str) -> bool:
        """End the session that holds it; not our own.  The role that opened it may, and a superuser."""
        with self._mutex, self._server.errors():
            session = self._alive()
            if name in self._held:
                return False
            until = time.monotonic() + BREAK_S
            while rows := session.execute(_HOLDERS, (self._key(name),)).fetchall():
                if time.monotonic() > until:
                    return False
                for (pid,) in rows:
                    session.execute("SELECT pg_terminate_backend(?::int)", (pid,))
                time.sleep(0.02)
            return True

    def close(self) -> None:
        """Release what is held, with the session."""
        with self._mutex:
            if self._session is not None and self._held:
                with suppress(DlsError), self._server.errors():
                    self._session.execute("SELECT pg_advisory_unlock_all()")  # the end of a session takes a moment
            self._drop()

    def _is_ours(self, lock: PostgresLock) -> bool:
        with self._mutex:
            if self._session is not None and not self._answers(self._session):
                self._drop()
            return self._held.get(lock.name) is lock

    def _release(self, lock: PostgresLock) -> None:
        with self._mutex:
            if self._held.get(lock.name) is not lock or self._session is None:
                return
            del self._held[lock.name]
            try:
                with self._server.errors():
                    self._session.execute("SELECT pg_advisory_unlock(?)", (self._key(lock.name),))
            except DlsError:
                self._drop()  # a session that cannot say so ends: the server frees what it held


class PostgresLock:
    """One that is held."""

    def __init__(self, locks: PostgresLocks, name: str) -> None:
        self._locks, self.name = locks, name

    @property
    def lost(self) -> bool:
        """Asks the server."""
        return not self._locks._is_ours(self)

    def release(self, *, forget: bool = False) -> None:
        """Let go; nothing is left behind."""
        self._locks._release(self)
