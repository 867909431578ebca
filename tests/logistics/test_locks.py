"""Locks between processes, on files and on a server: one holder, freed by release and by any death."""

import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from components.postgres import PostgresServer
from dls.logistics.database import Database
from dls.logistics.errors import Conflict, Unavailable
from dls.logistics.locks import FileLocks, Locks
from dls.logistics.need import Needs, NeedState

HOLDER = """
import sys
from pathlib import Path
from dls.logistics.locks import FileLocks
from dls.logistics.locks_postgres import PostgresLocks
kind, *where = sys.argv[1:]
locks = FileLocks(Path(*where)) if kind == "files" else PostgresLocks(*where)
lock = locks.try_hold("one")
print("held" if lock else "none", flush=True)
sys.stdin.readline()
"""


class Kind:
    """Makes locks over one state, here and in other processes."""

    def __init__(self, name: str, where: list[str]) -> None:
        self.name, self.where = name, where

    def make(self) -> Locks:
        if self.name == "files":
            return FileLocks(Path(self.where[0]))
        from dls.logistics.locks_postgres import PostgresLocks

        return PostgresLocks(*self.where)

    @contextmanager
    def other(self) -> Iterator[subprocess.Popen[str]]:
        """A process that holds `one`, and hangs."""
        argv, pipe = [sys.executable, "-c", HOLDER, self.name, *self.where], subprocess.PIPE
        with subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True) as child:
            assert child.stdout is not None
            try:
                assert child.stdout.readline() == "held\n"
                yield child
            finally:
                child.kill()


@pytest.fixture(params=["files", pytest.param("postgres", marks=pytest.mark.service)])
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Kind:
    if request.param == "files":
        return Kind("files", [str(tmp_path / "locks")])
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return Kind("postgres", [server.url, f"t{uuid.uuid4().hex}"])


@pytest.fixture
def locks(kind: Kind) -> Iterator[Locks]:
    with closing(kind.make()) as made:
        yield made


@pytest.mark.spec("LOCKS-1")
def test_one_holder_at_a_time(kind: Kind, locks: Locks) -> None:
    with closing(kind.make()) as others:
        first = locks.try_hold("one")
        assert first is not None
        assert not first.lost
        assert [locks.try_hold("one"), others.try_hold("one")] == [None, None]
        assert locks.is_held("one")
        assert others.is_held("one")
        assert not others.is_held("two")
        two = others.try_hold("two")
        assert two is not None
        with pytest.raises(Unavailable) as told:
            locks.hold("two", 0.01)
        assert told.value.code == "lock-busy"
        first.release()
        first.release()
        assert not others.is_held("one")
        second = others.hold("one", 1)
        assert locks.try_hold("one") is None
        second.release(forget=True)
        again = locks.try_hold("one")
        assert again is not None
    assert not locks.is_held("two"), "close releases"


@pytest.mark.spec("LOCKS-1")
@pytest.mark.parametrize("forget", [False, True])
def test_a_crowd_takes_turns(kind: Kind, forget: bool) -> None:
    inside, worst, turns = 0, 0, 0

    def work() -> None:
        nonlocal inside, worst, turns
        with closing(kind.make()) as mine:
            for _ in range(15):
                lock = mine.hold("one")
                inside += 1
                worst = max(worst, inside)
                turns += 1
                inside -= 1
                lock.release(forget=forget)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (worst, turns) == (1, 60)


@pytest.mark.spec("LOCKS-2")
def test_the_death_of_a_process_frees_its_locks(kind: Kind, locks: Locks) -> None:
    with kind.other() as child:
        assert locks.is_held("one")
        assert locks.try_hold("one") is None
        os.kill(child.pid, signal.SIGKILL)
        lock = locks.hold("one", 30)
        assert not lock.lost


@pytest.mark.spec("LOCKS-3")
def test_a_hanging_holder_can_be_broken_on_a_server(kind: Kind, locks: Locks) -> None:
    with kind.other() as child:
        os.kill(child.pid, signal.SIGSTOP)
        broken = locks.break_("one")
        assert broken is (kind.name == "postgres")
        assert locks.is_held("one") is not broken
        taken = locks.try_hold("one")
        assert (taken is not None) is broken
    mine = taken or locks.hold("one", 30)
    assert not locks.break_("one"), "not our own"
    assert not mine.lost


@pytest.mark.service
@pytest.mark.spec("LOCKS-3", "LOCKS-4")
def test_a_broken_holder_knows_and_is_fenced(pg_state: tuple[str, str]) -> None:
    zombie, other = Kind("postgres", [*pg_state]).make(), Kind("postgres", [*pg_state]).make()
    with closing(Database(*pg_state)) as database, closing(zombie), closing(other):
        slow = Needs(database, zombie).claim(b"content", "scratch/default", "run1")
        slow.wait()
        assert not slow.lost
        needs = Needs(database, other)
        assert other.break_(f"need-{slow.id}")
        assert slow.lost
        with needs.claim(b"content", "scratch/default", "run2") as quick:
            assert (quick.is_held, quick.epoch) == (True, 2)
            with pytest.raises(Conflict) as caught, slow:
                slow.finish({"by": "run1"})
            assert caught.value.code == "need-taken"
            assert needs.open(quick.id).state is NeedState.OPEN
            quick.finish({"by": "run2"})
        assert needs.open(quick.id).result == {"by": "run2"}
        assert zombie.try_hold("again") is not None, "a new session takes new locks"


@pytest.mark.service
@pytest.mark.spec("LOCKS-4")
def test_a_server_that_restarts_loses_locks_and_says_so(restarted: Callable[[], PostgresServer]) -> None:
    server = restarted()
    with closing(Kind("postgres", [server.url, "dls"]).make()) as locks:
        lock = locks.try_hold("one")
        assert lock is not None
        server.restart()
        assert lock.lost
        assert not locks.is_held("one")
        lock.release()
        next_one = locks.try_hold("one")
        assert next_one is not None
        assert lock.lost
        lock.release()
        assert not next_one.lost


@pytest.fixture
def restarted() -> Iterator[Callable[[], PostgresServer]]:
    from components.postgres import postgres

    with postgres() as server:
        yield lambda: server


@pytest.mark.service
@pytest.mark.spec("LOCKS-2")
@pytest.mark.parametrize("end", ["kill", "finish"])
def test_needs_on_a_server_are_one_copy_for_many(pg_state: tuple[str, str], end: str, tmp_path: Path) -> None:
    worker = (
        "import json, sys\n"
        "from dls.logistics.database import Database\n"
        "from dls.logistics.locks_postgres import PostgresLocks\n"
        "from dls.logistics.need import Needs\n"
        "url, schema, run, copies = sys.argv[1:]\n"
        "needs = Needs(Database(url, schema), PostgresLocks(url, schema))\n"
        "tell = lambda holder: print(json.dumps(['waits for', holder]), flush=True)\n"
        "with needs.claim(b'content', 's/default', run, on_wait=tell) as claim:\n"
        "    print(json.dumps([claim.is_held, claim.epoch, claim.result]), flush=True)\n"
        "    if claim.is_held and run == 'run0':\n"
        "        sys.stdin.readline()\n"
        "    if not claim.done:\n"
        "        open(copies, 'a').write(run)\n"
        "        claim.finish({'by': run})\n"
    )
    copies, pipe = str(tmp_path / "copies"), subprocess.PIPE

    def start(run: str) -> subprocess.Popen[str]:
        argv = [sys.executable, "-c", worker, *pg_state, run, copies]
        return subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True)

    first = start("run0")
    assert first.stdout is not None
    assert first.stdout.readline() == "[true, 1, {}]\n"
    crowd = [start(f"run{n}") for n in (1, 2)]
    for one in crowd:
        assert one.stdout is not None
        assert one.stdout.readline() == '["waits for", "run0"]\n'
    if end == "kill":
        first.kill()
    first.communicate("\n" if end == "finish" else None)
    said = [one.communicate()[0].splitlines()[-1] for one in crowd]
    assert [one.returncode for one in crowd] == [0, 0]
    made = Path(copies).read_text()
    if end == "finish":
        assert (made, said) == ("run0", ['[false, 0, {"by": "run0"}]'] * 2)
    else:
        assert made in ("run1", "run2")
        assert sorted(said) == ['[false, 0, {"by": "%s"}]' % made, "[true, 2, {}]"]  # noqa: UP031 - braces
