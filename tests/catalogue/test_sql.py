"""What only the SQL catalogue has: indexes, foreign keys, long names, other processes, kills."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dls.catalogue import conditions, sql, sqlrows, tables, walk
from dls.catalogue.changes import AddActivity, AddReplica, AddVersion, MarkFiles, PutDataset
from dls.catalogue.model import FileState, Port, State
from dls.catalogue.sql import SqlCatalogue
from dls.catalogue.testing.hooks import BOTH, ME, PROOF, add, do, files, ids, one, place, put
from dls.logistics import digest as digests
from dls.logistics.database import Database
from dls.logistics.entry import FILE, Entry
from dls.logistics.errors import Conflict
from dls.logistics.manifest import in_memory


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(tmp_path / "state.sqlite")
    yield made
    made.close()


@pytest.fixture
def catalogue(database: Database) -> SqlCatalogue:
    return SqlCatalogue(database)


def test_every_column_is_explained() -> None:
    columns = [line for line in tables.STEPS[0].splitlines() if re.match(r"        \w+ +(TEXT|INTEGER|BLOB)", line)]
    assert len(columns) > 70
    assert [line for line in columns if not re.search(r"-- \w", line)] == []


def test_nothing_pages_by_offset() -> None:
    for module in (sql, sqlrows, conditions, walk, tables):
        assert "OFFSET" not in Path(str(module.__file__)).read_text().upper()


def test_queries_use_indexes(catalogue: SqlCatalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan of each statement searches; it scans no table of ours."""
    version = add(catalogue, "s:n", files(3))
    replica = place(catalogue, "s:n")
    activity = one(catalogue, AddActivity("t", used=(Port("/u"),), generated=(Port("s:n"),))).id
    asked: list[tuple[str, Any]] = []
    for name in ("all", "one"):
        real = getattr(Database, name)

        def spy(self: Database, query: str, values: Any = (), real: Any = real) -> Any:
            asked.append((query, list(values)))
            return real(self, query, values)

        monkeypatch.setattr(Database, name, spy)
    id = ids("s:n")
    catalogue.dataset(id, actor=BOTH)
    catalogue.datasets(actor=BOTH, prefix="s:", text="x", state=State.ACTIVE, after="s:a")
    catalogue.count(actor=BOTH, text="x")
    catalogue.versions(id, actor=BOTH)
    catalogue.version(id, actor=BOTH)
    catalogue.by_content(version.content, actor=BOTH)
    list(catalogue.manifest(id, actor=BOTH))
    catalogue.files(id, actor=BOTH, after=b"a")
    catalogue.replicas(id, actor=BOTH)
    catalogue.replica(replica, actor=BOTH)
    catalogue.exceptions(replica, actor=BOTH)
    for start in (id, activity, "/u"):
        catalogue.lineage(start, actor=BOTH, direction="both")
    catalogue.activity(activity, actor=BOTH)
    catalogue.events(actor=BOTH, after=1)
    monkeypatch.undo()
    assert len(asked) > 20
    real_tables = {row[0] for row in catalogue._db.all("SELECT name FROM sqlite_master WHERE type = 'table'")}
    aliases = dict(re.findall(r"(?:FROM|JOIN) (\w+) (\w+)", " ".join(query for query, _ in asked)))
    names = real_tables | {alias for table, alias in aliases.items() if table in real_tables} | set("adepnrsvbf")
    for query, values in asked:
        for *_, step in catalogue._db.all(f"EXPLAIN QUERY PLAN {query}", values):
            scanned = re.match(r"SCAN (\w+)", step)
            assert not scanned or scanned[1] not in names, (step, query)


def test_foreign_keys_hold(catalogue: SqlCatalogue, database: Database) -> None:
    add(catalogue, "s:n")
    for statement in ("DELETE FROM datasets", "DELETE FROM versions", "DELETE FROM segments"):
        with pytest.raises(Conflict), database.transaction() as tx:
            tx.run(statement)


def test_names_longer_than_the_key_holds(catalogue: SqlCatalogue) -> None:
    """Many segments whose last names begin with the same 200 bytes and more."""
    tree = [Entry(b"%s/%06d" % (b"x" * 250, i), FILE, 1, digests.of(b"%d" % i)) for i in range(25_000)]
    add(catalogue, "s:n", tree)
    assert len(catalogue.manifest(ids("s:n"), actor=ME).refs) > 4
    assert list(catalogue.manifest(ids("s:n"), actor=ME)) == tree
    for at in (0, 9_000, 24_990):
        assert catalogue.files(ids("s:n"), actor=ME, after=tree[at].path, limit=5) == tree[at + 1 : at + 6]
    replica = place(catalogue, "s:n")
    assert one(catalogue, MarkFiles(replica, {tree[i].path: FileState.LOST for i in (1, 24_999)})).changed


def test_opening_again_changes_nothing(catalogue: SqlCatalogue, database: Database) -> None:
    add(catalogue, "s:n")
    before = database.all("SELECT * FROM events")
    again = SqlCatalogue(database, origin="elsewhere")
    assert database.all("SELECT * FROM events") == before
    one(again, PutDataset("s:m"))
    assert [d.origin for d in again.datasets(actor=ME)] == ["elsewhere", "local"]


def test_a_withdrawn_past_is_read_while_others_write(catalogue: SqlCatalogue, tmp_path: Path) -> None:
    """A manifest that is being walked stays what it was, whatever is added and swept meanwhile."""
    tree = files(20_000)
    add(catalogue, "s:n", tree)
    walk_of = iter(catalogue.manifest(ids("s:n"), actor=ME))
    first = [next(walk_of) for _ in range(10)]
    add(catalogue, "s:n", files(20_000, seed=1))
    put(catalogue, files(7, seed=2))
    assert catalogue.sweep(0) == 1
    assert first + list(walk_of) == tree


# ------------------------------------------------------------------------------------------ processes

WORKER = """
import sys
from dls.catalogue.changes import AddReplica, AddVersion, PutDataset
from dls.catalogue.sql import SqlCatalogue
from dls.catalogue.testing.hooks import ME, PROOF, files, put
from dls.logistics.database import Database
path, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
catalogue = SqlCatalogue(Database(path))
print("ready", flush=True)
sys.stdin.readline()
for i in range(count):
    refs = put(catalogue, files(2000, seed=1000 * (name == "b") + i))
    print("put", i, flush=True)
    changes = [PutDataset("s:n"), AddVersion("s:n", refs, note=f"{name}/{i}"), AddReplica("s:n", "/x", evidence=PROOF)]
    catalogue.apply(changes, actor=ME, key=f"{name}/{i}")
    print("applied", i, flush=True)
"""


def start(path: Path, name: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WORKER, str(path), name, str(count)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
    assert worker.stdout is not None
    assert worker.stdout.readline() == "ready\n"
    return worker


def go(worker: subprocess.Popen[str]) -> None:
    assert worker.stdin is not None
    worker.stdin.write("\n")
    worker.stdin.flush()


def check(path: Path, notes: set[str]) -> None:
    """Every fact has its segments, numbers have no gaps, each key was carried out once."""
    database = Database(path)
    catalogue = SqlCatalogue(database)
    versions = catalogue.versions(ids("s:n"), actor=ME) if catalogue.count(actor=ME) else []
    assert [v.number for v in versions] == list(range(1, len(versions) + 1))
    assert sorted(v.note for v in versions) == sorted(notes)
    for version in versions:
        name, _, i = version.note.partition("/")
        wanted = in_memory(files(2000, seed=1000 * (name == "b") + int(i)))
        assert catalogue.manifest(ids(version.id), actor=ME).digest == wanted.digest
        assert sum(1 for _ in catalogue.manifest(ids(version.id), actor=ME)) == 2000
        assert len(catalogue.replicas(ids(version.id), actor=ME)) == 1
    assert len([e for e in catalogue.events(actor=ME) if e.type == "version.added"]) == len(versions)
    catalogue.sweep(0)
    assert database.all("PRAGMA integrity_check") == [("ok",)]
    assert database.all("PRAGMA foreign_key_check") == []
    database.close()


def test_two_processes_at_once(tmp_path: Path) -> None:
    path = tmp_path / "new" / "state.sqlite"
    workers = [start(path, name, 8) for name in "ab"]
    for worker in workers:
        go(worker)
    for worker in workers:
        assert worker.communicate(timeout=100)[0].count("applied") == 8
        assert worker.returncode == 0
    check(path, {f"{name}/{i}" for name in "ab" for i in range(8)})


@pytest.mark.fault
def test_killed_anywhere_and_run_again(tmp_path: Path, rng: random.Random, faults_full: bool) -> None:
    path, count = tmp_path / "state.sqlite", 6
    for attempt in range(40 if faults_full else 6):
        worker = start(path, "a", count)
        go(worker)
        assert worker.stdout is not None
        for _ in range(rng.randrange(1, 2 * count)):
            worker.stdout.readline()
        time.sleep(rng.random() * 0.02)
        worker.send_signal(signal.SIGKILL)
        worker.communicate()
        database = Database(path)
        catalogue = SqlCatalogue(database)
        done = catalogue.versions(ids("s:n"), actor=ME) if catalogue.count(actor=ME) else []
        assert [v.note for v in done] == [f"a/{i}" for i in range(len(done))], attempt
        database.close()
        check(path, {v.note for v in done})
    worker = start(path, "a", count)
    go(worker)
    worker.communicate(timeout=100)
    assert worker.returncode == 0
    check(path, {f"a/{i}" for i in range(count)})


def test_orphans_are_harmless(catalogue: SqlCatalogue, database: Database) -> None:
    """Killed between putting and applying: nothing shows, and a day later nothing is left."""
    put(catalogue, files(9_000))
    assert catalogue.datasets(actor=ME) == []
    assert catalogue.sweep() == 0
    assert catalogue.sweep(0) > 1
    assert database.one("SELECT count(*) FROM segment_bytes") == (0,)
    done = do(catalogue, PutDataset("s:n"), AddVersion("s:n", put(catalogue, files(9_000))))
    assert done.outcomes[1].changed
    assert one(catalogue, AddReplica("s:n", "/x", evidence=PROOF)).changed
