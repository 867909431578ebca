"""Buffers with several processes, with kills, and with real stores; the other rules are in the conformance suite."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dls.logistics.actor import local
from dls.logistics.buffer import ALL, HOLDING, LIVE, Buffer, Buffers, State, free
from dls.logistics.database import Database
from dls.logistics.errors import Conflict, DlsError
from dls.logistics.store import Can, Store
from dls.logistics.stores.memory import MemoryStore
from dls.logistics.stores.posix import PosixStore
from dls.logistics.testing.spec import spec

ACTOR = local("ada@laptop")

HEAD = """
import sys
from dls.logistics.actor import local
from dls.logistics.buffer import Buffers, free
from dls.logistics.database import Database
from dls.logistics.errors import DlsError, Unavailable
buffers = Buffers(Database(sys.argv[1]))
def go():
    print("ready", flush=True)
    sys.stdin.readline()
"""

RESERVE = (
    HEAD
    + """
import random
rng = random.Random(int(sys.argv[2]))
who = {"user": "u", "actor": local("u")}
go()
for n in range(25):
    size, inodes = rng.randrange(1, 40_000), rng.randrange(1, 6)
    try:
        buffer = buffers.reserve("scratch", content=b"", label="x", bytes=size, inodes=inodes, **who)
        print("got", size, inodes, buffer.id)
    except Unavailable as error:
        print("no", size, inodes, error.code)
"""
)

SHARE = (
    HEAD
    + """
go()
buffer = buffers.reserve("scratch", content=b"c", label="x", bytes=60_000, inodes=1, user=sys.argv[2], actor=local("u"))
print("got", buffer.id, buffer.shared)
"""
)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state.sqlite"


@pytest.fixture
def buffers(state: Path, tmp_path: Path) -> Iterator[Buffers]:
    with closing(Database(state)) as database:
        buffers = Buffers(database)
        buffers.sites.add_site("scratch", f"file://{tmp_path}/scratch", capacity_bytes=1_000_000, capacity_inodes=120)
        yield buffers


def together(script: str, *arguments: list[str]) -> list[list[str]]:
    """Run the script once per list of arguments, all released at the same time; the lines that each printed."""
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", script, *more], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for more in arguments
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("\n")
        worker.stdin.flush()
    printed = [worker.communicate()[0].splitlines() for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * len(workers)
    return printed


def counted(buffers: Buffers) -> tuple[int, int]:
    """The counter, which must be the sum over the buffers."""
    room = buffers.room("scratch")
    holding = buffers.list("scratch", states=HOLDING)
    sums = sum(b.reserved_bytes for b in holding), sum(b.reserved_inodes for b in holding)
    assert sums == (room.held_bytes, room.held_inodes)
    return sums


@spec("BUFFER-1", "BUFFER-2")
def test_processes_reserving_at_once_stay_within_the_capacity(buffers: Buffers, state: Path) -> None:
    """Nothing is given back here, so each refusal must still hold at the end: what did not fit does not fit then."""
    printed = together(RESERVE, *[[str(state), str(n)] for n in range(5)])
    lines = [line.split() for one in printed for line in one]
    assert len(lines) == 5 * 25
    got = [(int(size), int(inodes)) for verb, size, inodes, _ in lines if verb == "got"]
    held = counted(buffers)
    assert held == (sum(size for size, _ in got), sum(inodes for _, inodes in got))
    assert held[0] <= 1_000_000
    assert held[1] <= 120
    refused = [(int(size), int(inodes), code) for verb, size, inodes, code in lines if verb == "no"]
    assert refused, "the storage was not exhausted: the test shows nothing"
    assert {code for _, _, code in refused} == {"no-space-in-buffer"}
    assert all(held[0] + size > 1_000_000 or held[1] + inodes > 120 for size, inodes, _ in refused)


@spec("BUFFER-3")
def test_processes_reserving_the_same_content_share_one(buffers: Buffers, state: Path) -> None:
    printed = together(SHARE, *[[str(state), f"run{n}"] for n in range(5)])
    answers = [one[0].split() for one in printed]
    assert len({id for _, id, _ in answers}) == 1
    assert sorted(shared for _, _, shared in answers) == ["False"] + ["True"] * 4
    (buffer,) = buffers.list()
    assert {lease.user for lease in buffer.leases} == {f"run{n}" for n in range(5)}
    assert counted(buffers) == (60_000, 1)


# ------------------------------------------------------------------------------------------------ freeing


def filled(buffers: Buffers, store: Store) -> Buffer:
    """A clean buffer with a few files, in folders that may not be written any more."""
    buffer = buffers.reserve("scratch", content=b"", label="tree", bytes=5000, inodes=40, user="ada", actor=ACTOR)
    buffers.filling(buffer.id)
    for n in range(30):
        store.write(buffer.root + b"/%d/file-%d" % (n % 3, n), [b"x" * n])
    store.write(b"dls/other/file", [b"of somebody else"])
    buffers.settle(buffer.id, 5000, 40)
    return buffers.mark_clean(buffer.id, "replica:1")


class NoMove:
    """A store without rename: any other, with one capability less."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.can = store.can - {Can.MOVE}

    def __getattr__(self, name: str) -> object:
        assert name != "move"
        return getattr(self._store, name)


STORES: dict[str, Callable[[Path], Store]] = {
    "posix": lambda place: PosixStore(place / "scratch"),
    "memory": lambda place: MemoryStore(str(place)),
    "without rename": lambda place: NoMove(PosixStore(place / "scratch")),  # type: ignore[dict-item, return-value]
}


@spec("BUFFER-14")
@pytest.mark.parametrize("kind", STORES)
def test_freeing_removes_this_buffer_only(buffers: Buffers, tmp_path: Path, kind: str) -> None:
    store = STORES[kind](tmp_path)
    buffer = filled(buffers, store)
    step = buffers.release(buffer.id, "ada")
    assert step is not None
    for _ in range(2):
        free(store, step)
        assert [e.path for e in store.list()] == [b"dls/other/file"]
        assert not store.below(step.trash).exists()
    buffers.freed(buffer.id)
    assert counted(buffers) == (0, 0)


@spec("BUFFER-14")
def test_a_late_writer_cannot_reach_the_next_buffer(buffers: Buffers, tmp_path: Path) -> None:
    """A job that outlives its lease writes to a path that nobody is given again."""
    store = PosixStore(tmp_path / "scratch")
    buffer = filled(buffers, store)
    step = buffers.release(buffer.id, "ada")
    assert step is not None
    free(store, step)
    buffers.freed(buffer.id)
    store.write(buffer.root + b"/late", [b"x"])
    again = filled(buffers, store)
    assert again.root != buffer.root
    assert b"late" not in {e.path.rpartition(b"/")[2] for e in store.below(again.root).list()}


@spec("BUFFER-14")
def test_a_late_writer_does_not_stop_the_freeing(buffers: Buffers, tmp_path: Path) -> None:
    """It made the folder again between a crash and the next attempt: what was moved away goes, its bytes stay."""
    store = PosixStore(tmp_path / "scratch")
    buffer = filled(buffers, store)
    step = buffers.release(buffer.id, "ada")
    assert step is not None
    store.move([(step.buffer.root, step.trash)])
    store.write(buffer.root + b"/late", [b"x"])
    free(store, step)
    assert not store.below(step.trash).exists()
    assert [e.path for e in store.list()] == [b"dls/other/file", buffer.root + b"/late"]


FREE = (
    HEAD
    + """
import os, signal
from dls.logistics.stores.posix import PosixStore
kill_at, seen = int(sys.argv[3]), 0
def hook(event, args):
    global seen
    if event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir") or event == "ctypes.call_function":
        seen += 1
        if seen == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
store = PosixStore(sys.argv[2])
sys.addaudithook(hook)
for step in buffers.unfinished() or [buffers.release(buffers.list()[0].id, "ada")]:
    free(store, step)
    buffers.freed(step.buffer.id)
print("done", seen)
"""
)


@spec("BUFFER-14")
@pytest.mark.fault
def test_freeing_killed_at_any_operation_is_continued(buffers: Buffers, state: Path, tmp_path: Path) -> None:
    """A process is killed at each rename and removal in turn, the next one goes on from there, until one ends."""
    store = PosixStore(tmp_path / "scratch")
    buffer = filled(buffers, store)
    deaths = 0
    for kill_at in (1, 2, 3, 5, 8, 13, 21, 0):
        done = subprocess.run(
            [sys.executable, "-c", FREE, str(state), str(tmp_path / "scratch"), str(kill_at)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        deaths += 1
        assert buffers.open(buffer.id).state is State.FREEING
        assert counted(buffers) == (5000, 40), "space is not given back before the bytes are gone"
    assert deaths >= 3
    assert buffers.open(buffer.id).state is State.FREED
    assert counted(buffers) == (0, 0)
    assert os.listdir(tmp_path / "scratch" / "dls") == ["other"]


# ------------------------------------------------------------------------------------- one storage of many


def test_storages_are_counted_and_listed_apart(buffers: Buffers) -> None:
    for site in ("scratch2", "archive"):
        buffers.sites.add_site(site, f"file:///{site}", capacity_bytes=10)
    made = {
        site: buffers.reserve(site, content=b"c", label="x", bytes=10, inodes=1, user="u", actor=ACTOR)
        for site in ("scratch", "scratch2", "archive")
    }
    assert len({b.id for b in made.values()}) == 3
    assert [b.id for b in buffers.list("scratch")] == [made["scratch"].id]
    assert [b.id for b in buffers.list("scratch2/default")] == [made["scratch2"].id]
    assert len(buffers.list()) == 3
    assert buffers.list("nowhere") == buffers.list(states=ALL - LIVE) == ()
    assert buffers.room("archive").free_bytes == 0
    assert buffers.room("scratch").free_bytes == 1_000_000 - 10
    step = buffers.release(made["archive"].id, "u")
    assert step is not None
    assert [s.buffer.id for s in buffers.unfinished("archive")] == [made["archive"].id]
    assert buffers.unfinished("scratch") == ()


def test_the_remedy_of_an_unsaved_buffer_can_be_pasted(buffers: Buffers, tmp_path: Path) -> None:
    buffers.sites.add_site("odd", f"{tmp_path}/it's odd")
    buffers.sites.add_site("cloud", "s3://bucket/pre")
    for site, path in (("odd", tmp_path / "it's odd"), ("cloud", None)):
        buffer = buffers.reserve(site, content=b"", label="x", bytes=1, inodes=1, user="u", actor=ACTOR)
        buffers.filling(buffer.id)
        with pytest.raises(Conflict) as caught:
            buffers.release(buffer.id, "u")
        command = caught.value.remedy.partition(": ")[2]
        words = subprocess.run(["sh", "-c", f'printf "%s\\n" {command}'], capture_output=True, text=True, check=True)
        expected = f"{path}/{buffer.root.decode()}" if path else f"s3://bucket/pre/{buffer.root.decode()}"
        assert words.stdout.splitlines()[:3] == ["dls", "stage-out", expected]
        assert isinstance(caught.value, DlsError)
