"""The one way to SQL state: transactions, migrations, several users, errors in our words."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dls.logistics.database import Database, Tx, boot_id
from dls.logistics.errors import Conflict, Corrupt, DlsError, Unavailable
from dls.logistics.event import Event, prepare, record, since

STEPS = ["CREATE TABLE t (k INTEGER PRIMARY KEY, v TEXT); -- a comment; with a semicolon\nCREATE INDEX i ON t (v)"]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(tmp_path / "new" / "state.sqlite")
    opened.migrate("test", STEPS)
    yield opened
    opened.close()


def rows(database: Database) -> list[tuple[object, ...]]:
    return database.all("SELECT k, v FROM t ORDER BY k")


def test_a_transaction_is_all_or_nothing(database: Database) -> None:
    with database.transaction() as tx:
        assert tx.run("INSERT INTO t VALUES (?, ?)", (1, "a")) == 1
        assert tx.many("INSERT INTO t VALUES (?, ?)", [(2, "b"), (3, "c")]) == 2
        assert tx.one("SELECT v FROM t WHERE k = 2") == ("b",)
        assert tx.all("SELECT k FROM t ORDER BY k") == [(1,), (2,), (3,)]
        assert tx.now_ns == tx.now_ns

    class Stop(Exception):
        pass

    def fail(error: type[BaseException]) -> None:
        with database.transaction() as tx:
            tx.run("DELETE FROM t")
            raise error

    for error in (Stop, KeyboardInterrupt):
        with pytest.raises(error):
            fail(error)
        assert len(rows(database)) == 3
    with database.transaction() as tx:
        tx.run("UPDATE t SET v = 'z' WHERE k = 1")
    assert database.one("SELECT v FROM t WHERE k = ?", (1,)) == ("z",)
    assert database.one("SELECT v FROM t WHERE k = 99") is None


def test_state_is_private_and_durable(database: Database) -> None:
    assert os.stat(database.path.parent).st_mode & 0o777 == 0o700
    assert database.one("PRAGMA synchronous") == (2,)
    assert database.one("PRAGMA journal_mode") == ("wal",)
    assert database.one("PRAGMA foreign_keys") == (1,)


def test_migrations(database: Database) -> None:
    database.migrate("test", STEPS)
    database.migrate("test", [*STEPS, "ALTER TABLE t ADD COLUMN w TEXT"])
    database.migrate("other", ["CREATE TABLE o (k)"])
    assert database.all("SELECT k, v, w FROM t") == []
    with pytest.raises(Conflict) as told:
        database.migrate("test", STEPS)
    assert told.value.code == "state-newer"
    with pytest.raises(DlsError):
        database.migrate("third", ["CREATE TABLE x (k)", "this is no SQL"])
    assert database.all("SELECT name FROM sqlite_master WHERE name = 'x'") == [], "a failed migration leaves nothing"


def test_threads_and_objects_see_each_other(database: Database) -> None:
    other = Database(database.path)

    def add(which: Database, start: int) -> None:
        for k in range(start, start + 25):
            with which.transaction() as tx:
                found = tx.one("SELECT count(*) FROM t")
                assert found is not None
                tx.run("INSERT INTO t VALUES (?, ?)", (k, str(found[0])))

    threads = [threading.Thread(target=add, args=(d, n)) for n, d in ((0, database), (100, database), (200, other))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(int(v) for _, v in rows(other)) == list(range(75)), "writers queue, none reads what another changes"
    other.close()
    other.close()
    assert len(rows(other)) == 75, "opens again on use"
    other.close()


def test_processes_start_at_once(tmp_path: Path) -> None:
    code = (
        "import sys; from dls.logistics.database import Database\n"
        "d = Database(sys.argv[1]); d.migrate('test', ['CREATE TABLE t (k)'])\n"
        "with d.transaction() as tx: tx.run('INSERT INTO t VALUES (1)')\n"
    )
    path = tmp_path / "home" / "state.sqlite"
    children = [subprocess.Popen([sys.executable, "-c", code, str(path)], stderr=subprocess.PIPE) for _ in range(4)]
    said = [child.communicate()[1] for child in children]
    assert [child.returncode for child in children] == [0] * 4, said
    database = Database(path)
    assert database.one("SELECT count(*) FROM t") == (4,)
    database.close()


def test_errors_in_our_words(database: Database, tmp_path: Path) -> None:
    def twice(tx: Tx) -> None:
        for _ in range(2):
            tx.run("INSERT INTO t VALUES (1, 'x')")

    with pytest.raises(Conflict) as told, database.transaction() as tx:
        twice(tx)
    assert told.value.code == "state-conflict"
    assert told.value.__cause__ is not None
    assert rows(database) == []
    (tmp_path / "noise").write_bytes(b"this is not a database, and long enough to be seen" * 50)
    noise = tmp_path / "noise"
    for bad, kind, code in ((noise, Corrupt, "state-damaged"), (noise / "x", Unavailable, "no-state")):
        with pytest.raises(kind) as met:
            Database(bad).one("SELECT 1")
        assert met.value.code == code


def test_events_are_written_with_the_change(database: Database) -> None:
    prepare(database)
    prepare(database)
    with database.transaction() as tx:
        record(tx, Event("dataset.added", "s:n", "me", {"n": 1}))
        record(tx, Event("buffer.freed", "b1", "me", {}))
    first, second = since(database)
    assert (first.type, first.subject, first.actor, first.data) == ("dataset.added", "s:n", "me", {"n": 1})
    assert first.time_ns == second.time_ns > 0
    assert [e.type for e in since(database, first.id)] == ["buffer.freed"]
    assert len(list(since(database, 0, 1))) == 1


def test_the_boot_has_a_name() -> None:
    assert boot_id() == boot_id() != ""
