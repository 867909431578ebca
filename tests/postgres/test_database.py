"""State on PostgreSQL: the same verbs, one writer at a time, and a server that goes away and comes back."""

import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress

import pytest

from components.postgres import PostgresServer, postgres
from dls.logistics import event
from dls.logistics.database import Database, Tx
from dls.logistics.errors import Conflict, Denied, DlsError, Invalid, Unavailable
from dls.logistics.event import Event

pytestmark = pytest.mark.service
State = tuple[str, str]

STEPS = [
    """
    CREATE TABLE t (k INTEGER PRIMARY KEY, v TEXT, b BLOB, r REAL); -- a comment; with a semicolon
    CREATE INDEX i ON t (v)
    """
]


@pytest.fixture
def database(pg_state: State) -> Iterator[Database]:
    with closing(Database(*pg_state)) as opened:
        opened.migrate("test", STEPS)
        yield opened


@pytest.fixture(scope="module")
def mortal() -> Iterator[PostgresServer]:
    """A server that tests restart and kill; it syncs what it commits."""
    with postgres(durable=True) as server:
        yield server


@pytest.fixture
def shaky(mortal: PostgresServer) -> Iterator[Database]:
    with closing(Database(mortal.url, f"t{uuid.uuid4().hex}")) as opened:
        opened.migrate("test", STEPS)
        yield opened


def put(database: Database, k: int, v: str = "") -> None:
    with database.transaction() as tx:
        tx.run("INSERT INTO t (k, v) VALUES (?, ?)", (k, v))


def keys(database: Database) -> list[int]:
    return [k for (k,) in database.all("SELECT k FROM t ORDER BY k")]


# ------------------------------------------------------------------------------------------------- values


@pytest.mark.spec("DATABASE-1")
def test_values_come_back_as_they_went(database: Database) -> None:
    rows = [
        (2**63 - 1, "snow ❄ 'q' ? %s %", bytes(range(256)), 0.1),
        (-(2**63), "", b"", -1e300),
        (0, None, None, None),
    ]
    with database.transaction() as tx:
        assert tx.many("INSERT INTO t VALUES (?, ?, ?, ?)", iter(rows)) == 3
        assert tx.many("INSERT INTO t VALUES (?, ?, ?, ?)", []) <= 0
    assert sorted(database.all("SELECT * FROM t"), key=lambda row: -row[0]) == [rows[0], rows[2], rows[1]]
    assert database.one("SELECT count(*) FROM t WHERE v LIKE '%?%' AND v = ?", (rows[0][1],)) == (1,)
    for bad in ((2**63, "", b"", 0.0), (1, "a\0b", b"", 0.0)):
        with pytest.raises(Invalid) as told, database.transaction() as tx:
            tx.run("INSERT INTO t VALUES (?, ?, ?, ?)", bad)
        assert told.value.code == "bad-value"


@pytest.mark.spec("DATABASE-1")
def test_texts_and_bytes_are_ordered_by_bytes(database: Database) -> None:
    words = ["a", "B", "_", "é", "Z", "~", "a-b", "ab"]
    with database.transaction() as tx:
        tx.many("INSERT INTO t (v, b) VALUES (?, ?)", [(word, word.encode()) for word in words])
    assert [v for (v,) in database.all("SELECT v FROM t ORDER BY v")] == sorted(words, key=str.encode)
    assert [b for (b,) in database.all("SELECT b FROM t ORDER BY b")] == sorted(map(str.encode, words))
    assert {v for (v,) in database.all("SELECT v FROM t WHERE v > ?", ("Z",))} == {"a", "_", "é", "~", "a-b", "ab"}


# ------------------------------------------------------------------------------------------- transactions


@pytest.mark.spec("DATABASE-2")
def test_a_transaction_is_all_or_nothing(database: Database) -> None:
    class Stop(Exception):
        pass

    def fail(error: type[BaseException]) -> None:
        with database.transaction() as tx:
            tx.run("INSERT INTO t (k) VALUES (1)")
            assert tx.one("SELECT k FROM t") == (1,)
            raise error

    for error in (Stop, KeyboardInterrupt):
        with pytest.raises(error):
            fail(error)
        assert keys(database) == []

    def twice() -> None:
        with database.transaction() as tx:
            tx.run("INSERT INTO t (k) VALUES (1)")
            with suppress(Exception):
                tx.run("INSERT INTO t (k) VALUES (1)")

    with pytest.raises(Conflict) as told:
        twice()
    assert told.value.code == "state-conflict", "an error that was caught inside undoes all, and says so"
    assert keys(database) == []
    put(database, 2)
    assert keys(database) == [2]


@pytest.mark.spec("DATABASE-2")
def test_migrations(database: Database, pg_state: State) -> None:
    database.migrate("test", STEPS)
    database.migrate("test", [*STEPS, "ALTER TABLE t ADD COLUMN w TEXT"])
    assert database.all("SELECT k, v, w FROM t") == []
    with pytest.raises(Conflict) as told:
        database.migrate("test", STEPS)
    assert told.value.code == "state-newer"
    with pytest.raises(Exception):  # noqa: B017, PT011 - a fault of ours, whatever it is called
        database.migrate("third", ["CREATE TABLE x (k TEXT)", "this is no SQL"])
    with closing(Database(*pg_state)) as other:
        other.migrate("third", ["CREATE TABLE x (k TEXT)"])


@pytest.mark.spec("DATABASE-3")
def test_writers_queue(database: Database, pg_state: State) -> None:
    other = Database(*pg_state)

    def add(which: Database, start: int) -> None:
        for k in range(start, start + 25):
            with which.transaction() as tx:
                found = tx.one("SELECT count(*) FROM t")
                assert found is not None
                tx.run("INSERT INTO t (k, v) VALUES (?, ?)", (k, str(found[0])))

    threads = [threading.Thread(target=add, args=(d, n)) for n, d in ((0, database), (100, database), (200, other))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seen = sorted(int(v) for (v,) in other.all("SELECT v FROM t"))
    assert seen == list(range(75)), "none reads what another changes"
    other.close()
    other.close()
    assert len(keys(other)) == 75, "opens again on use"
    other.close()


@pytest.mark.spec("DATABASE-3")
def test_events_are_numbered_in_the_order_of_commits(database: Database, pg_state: State) -> None:
    event.prepare(database)
    stop, seen, missed = threading.Event(), list[int](), list[int]()

    def follow() -> None:
        with closing(Database(*pg_state)) as mine:
            while True:
                last = stop.is_set()
                seen.extend(e.id for e in event.since(mine, seen[-1] if seen else 0))
                if last:
                    return

    def write() -> None:
        with closing(Database(*pg_state)) as mine:
            for n in range(40):
                with mine.transaction() as tx:
                    event.record(tx, Event("a.b", str(n), "me", {}))

    reader, writers = threading.Thread(target=follow), [threading.Thread(target=write) for _ in range(3)]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    reader.join()
    missed = sorted({e.id for e in event.since(database)} - set(seen))
    assert (len(seen), missed) == (120, [])


@pytest.mark.spec("DATABASE-3")
def test_schemas_do_not_wait_for_each_other(database: Database, pg_state: State) -> None:
    with closing(Database(pg_state[0], pg_state[1] + "b")) as other, database.transaction():
        other.migrate("test", STEPS)
        put(other, 1)
        assert keys(other) == [1]
    assert keys(database) == []


@pytest.mark.spec("DATABASE-4")
def test_the_clock_is_the_servers(database: Database) -> None:
    with database.transaction() as tx:
        first = tx.now_ns
        assert tx.now_ns == first
        row = tx.one("SELECT (extract(epoch FROM now()) * 1000000)::bigint")
    assert row is not None
    assert 0 <= first - row[0] * 1000 < 60_000_000_000
    with database.transaction() as tx:
        assert tx.now_ns > first


@pytest.mark.spec("DATABASE-5")
def test_what_need_not_last_does_not_wait_for_the_disk(database: Database) -> None:
    for lasting, said in ((True, "on"), (False, "off"), (True, "on")):
        with database.transaction(lasting=lasting) as tx:
            assert tx.one("SHOW synchronous_commit") == (said,)


# --------------------------------------------------------------------------------------- many processes

ADDER = """
import sys
from dls.logistics.database import Database
from dls.logistics.buffer import Buffers
from dls.logistics.actor import local
from dls.logistics.errors import Unavailable
buffers, won = Buffers(Database(*sys.argv[1:3])), 0
for n in range(30):
    try:
        buffers.reserve("scratch", content=b"", label="x", bytes=10, inodes=1, user=sys.argv[3], actor=local("a"))
        won += 1
    except Unavailable as exc:
        assert exc.code == "no-space-in-buffer", exc
print(won)
"""


@pytest.mark.spec("DATABASE-3")
def test_processes_never_promise_too_much(pg_state: State) -> None:
    from dls.logistics.buffer import Buffers

    with closing(Database(*pg_state)) as database:
        buffers = Buffers(database)
        buffers.sites.add_site("scratch", "memory://scratch/data", capacity_bytes=415, capacity_inodes=1000)
        argv = [sys.executable, "-c", ADDER, *pg_state]
        children = [subprocess.Popen([*argv, f"u{n}"], stdout=subprocess.PIPE, text=True) for n in range(2)]
        won = [int(child.communicate()[0]) for child in children]
        assert sum(won) == 41
        assert buffers.room("scratch").held_bytes == 410


HOLDER = """
import sys
from dls.logistics.database import Database
with Database(*sys.argv[1:3]).transaction() as tx:
    tx.run("INSERT INTO t (k) VALUES (1)")
    print("in", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def holding(state: State) -> Iterator[subprocess.Popen[str]]:
    argv, pipe = [sys.executable, "-c", HOLDER, *state], subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "in\n"
        try:
            yield child
        finally:
            child.kill()


@pytest.mark.spec("DATABASE-2")
def test_a_killed_writer_leaves_nothing_and_holds_up_nobody(database: Database, pg_state: State) -> None:
    with holding(pg_state) as child:
        os.kill(child.pid, signal.SIGKILL)
        put(database, 1)
    assert keys(database) == [1]


# ------------------------------------------------------------------------------------ the server goes away


def _restart(server: PostgresServer) -> None:
    server.restart()


def _crash(server: PostgresServer) -> None:
    server.kill()
    server.start()


@pytest.mark.spec("DATABASE-6")
@pytest.mark.parametrize("away", [_restart, _crash])
def test_a_server_that_comes_back(
    shaky: Database, mortal: PostgresServer, away: Callable[[PostgresServer], None]
) -> None:
    put(shaky, 1)
    away(mortal)
    assert keys(shaky) == [1], "a read finds it again, and what was committed"
    away(mortal)
    assert shaky.now_ns() > 0, "the clock too, also where nothing else was asked before"
    away(mortal)
    put(shaky, 2)
    assert keys(shaky) == [1, 2]

    def interrupted() -> None:
        with shaky.transaction() as tx:
            tx.run("INSERT INTO t (k) VALUES (3)")
            away(mortal)
            tx.run("INSERT INTO t (k) VALUES (4)")

    with pytest.raises(Unavailable) as told:
        interrupted()
    assert told.value.code == "no-state"
    assert keys(shaky) == [1, 2], "nothing of a transaction that was cut"

    def unanswered() -> None:
        with shaky.transaction() as tx:
            tx.run("INSERT INTO t (k) VALUES (5)")
            away(mortal)

    with pytest.raises(Unavailable) as told:
        unanswered()
    assert (told.value.code, told.value.retryable) == ("commit-unknown", True)
    assert keys(shaky) == [1, 2]


@pytest.mark.spec("DATABASE-6")
def test_a_server_that_comes_late(shaky: Database, mortal: PostgresServer) -> None:
    put(shaky, 1)
    mortal.stop()
    starter = threading.Thread(target=lambda: mortal._child or mortal.start())
    starter.start()
    try:
        assert keys(shaky) == [1]
    finally:
        starter.join()


# --------------------------------------------------------------------------------------------- our words


@pytest.mark.spec("DATABASE-7")
def test_errors_in_our_words(database: Database, postgres_server: PostgresServer) -> None:
    def twice(tx: Tx) -> None:
        for _ in range(2):
            tx.run("INSERT INTO t (k) VALUES (1)")

    with pytest.raises(Conflict) as told, database.transaction() as tx:
        twice(tx)
    assert told.value.code == "state-conflict"
    here = f"127.0.0.1:{postgres_server.port}"
    cases: list[tuple[str, type[DlsError], str]] = [
        ("postgresql://u:s3cretword@127.0.0.1:1/x", Unavailable, "no-state"),
        ("postgresql://u:s3cretword@127.0.0.1:1/x?oops=s3cretword", Invalid, "bad-database-url"),
        ("postgresql://u@127.0.0.1:1/x?password=s3cretword&nonsense", Invalid, "bad-database-url"),
        (f"postgresql://nobody:s3cretword@{here}/x", Denied, "database-denied"),
        (f"postgresql://postgres:s3cretword@{here}/absent", Unavailable, "no-state"),
    ]
    for url, kind, code in cases:
        bad = Database(url)
        with pytest.raises(kind) as met:
            bad.one("SELECT 1")
        assert met.value.code == code, url
        shown = f"{met.value!r} {met.value.to_json()} {met.value.__cause__!r} {bad.where}"
        assert "s3cret" not in shown
    with pytest.raises(Invalid):
        Database(postgres_server.url, "no; schema")


@pytest.mark.spec("DATABASE-7")
def test_a_user_without_rights(database: Database, pg_state: State, postgres_server: PostgresServer) -> None:
    role = f"r{uuid.uuid4().hex[:12]}"
    with database.transaction() as tx:
        tx.run(f"CREATE ROLE {role} LOGIN")
    as_role = postgres_server.url.replace("postgres@", f"{role}@")
    with closing(Database(as_role, pg_state[1])) as other:
        with pytest.raises(Denied) as told:
            other.one("SELECT 1 FROM t")
        assert told.value.code == "database-denied"
        with database.transaction() as tx:
            tx.run(f"GRANT USAGE ON SCHEMA {pg_state[1]} TO {role}")
            tx.run(f"GRANT SELECT ON ALL TABLES IN SCHEMA {pg_state[1]} TO {role}")
        assert keys(other) == []
        with pytest.raises(Denied):
            put(other, 1)
    with database.transaction() as tx:
        tx.run(f"DROP OWNED BY {role}")
        tx.run(f"DROP ROLE {role}")


@pytest.mark.spec("DATABASE-8")
def test_connections_of_ended_threads_are_given_back(database: Database) -> None:
    for _ in range(70):  # the server lets 60 in
        thread = threading.Thread(target=lambda: database.one("SELECT 1"))
        thread.start()
        thread.join()
    assert len(database._open) <= 3
