"""Needs between processes: a claimant that dies, one that is overtaken, a crowd; for the rest see the suite."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dls.logistics.database import Database
from dls.logistics.errors import Conflict, DlsError
from dls.logistics.locks import FileLocks
from dls.logistics.need import Needs, NeedState
from dls.logistics.testing.spec import spec

WORKER = """
import json, sys
from pathlib import Path
from dls.logistics.database import Database
from dls.logistics.locks import FileLocks
from dls.logistics.need import Needs
place, run, role = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
needs = Needs(Database(place / "state.sqlite"), FileLocks(place / "locks"))
def say(*what):
    print(json.dumps(what), flush=True)
with needs.claim(b"content", "scratch/default", run, on_wait=lambda holder: say("waits for", holder)) as claim:
    say("held" if claim.is_held else "done", claim.epoch, claim.result)
    if claim.is_held and role == "hang":
        sys.stdin.readline()
    if not claim.done:
        with open(place / "copies", "a") as copies:
            copies.write(run + "\\n")
        claim.finish({"by": run})
"""


class Worker:
    """A process that asks for the content."""

    def __init__(self, place: Path, run: str, role: str = "copy") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(place), run, role],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def heard(self) -> list[object]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "it ended without a word"
        return list(json.loads(line))

    def ended(self) -> int:
        self.process.communicate()
        return self.process.returncode


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """Start workers; those that still run at the end of the test are killed, each by its own process."""
    started: list[Worker] = []

    def start(run: str, role: str = "copy") -> Worker:
        started.append(Worker(tmp_path, run, role))
        return started[-1]

    yield start
    for worker in started:
        if worker.process.poll() is None:
            worker.process.kill()
        worker.process.communicate()


@pytest.fixture
def needs(tmp_path: Path) -> Iterator[Needs]:
    with closing(Database(tmp_path / "state.sqlite")) as database:
        yield Needs(database, FileLocks(tmp_path / "locks"))


@spec("NEED-4")
@pytest.mark.fault
def test_the_waiter_takes_over_from_a_killed_holder(
    workers: Callable[..., Worker], needs: Needs, tmp_path: Path
) -> None:
    first = workers("run1", "hang")
    assert first.heard() == ["held", 1, {}]
    second = workers("run2")
    assert second.heard() == ["waits for", "run1"]
    (need,) = needs.list()
    assert (need.holder, need.epoch, need.runs) == ("run1", 1, ("run1", "run2"))
    first.process.send_signal(signal.SIGKILL)
    assert first.ended() == -signal.SIGKILL
    assert second.heard() == ["held", 2, {}]
    assert second.ended() == 0
    need = needs.open(need.id)
    assert (need.state, need.holder, need.epoch, need.result) == (NeedState.DONE, "run2", 2, {"by": "run2"})
    assert (tmp_path / "copies").read_text() == "run2\n"


@spec("NEED-4")
@pytest.mark.fault
def test_a_need_left_by_the_dead_is_taken_up_by_the_next_that_asks(
    workers: Callable[..., Worker], needs: Needs
) -> None:
    first = workers("run1", "hang")
    first.heard()
    first.process.kill()
    first.ended()
    with needs.claim(b"content", "scratch/default", "run2", on_wait=lambda _: pytest.fail("nobody holds it")) as claim:
        assert (claim.is_held, claim.epoch, claim.error) == (True, 2, {})
        claim.finish({})


@spec("NEED-2", "NEED-3", "NEED-9")
def test_a_crowd_makes_one_copy(workers: Callable[..., Worker], needs: Needs, tmp_path: Path) -> None:
    first = workers("run0", "hang")
    assert first.heard() == ["held", 1, {}]
    crowd = [workers(f"run{n}") for n in range(1, 6)]
    for worker in crowd:
        assert worker.heard() == ["waits for", "run0"]
    (need,) = needs.list()
    assert first.process.stdin is not None
    first.process.stdin.write("\n")
    first.process.stdin.flush()
    for worker in crowd:
        assert worker.heard() == ["done", 0, {"by": "run0"}]
    assert [worker.ended() for worker in [first, *crowd]] == [0] * 6
    assert (tmp_path / "copies").read_text() == "run0\n"
    assert set(needs.open(need.id).runs) == {f"run{n}" for n in range(6)}
    assert needs.list() == ()
    assert os.listdir(tmp_path / "locks") == []


@spec("NEED-5")
def test_an_overtaken_holder_is_refused(needs: Needs, tmp_path: Path) -> None:
    """Locks can be lost (a folder cleaned by hand, a file system that forgets them); the epoch still decides."""
    slow = needs.claim(b"content", "scratch/default", "run1")
    slow.wait()
    for lock in (tmp_path / "locks").iterdir():
        lock.unlink()
    with needs.claim(b"content", "scratch/default", "run2") as quick:
        assert (quick.is_held, quick.epoch) == (True, 2)
        with pytest.raises(Conflict) as caught, slow:
            slow.finish({"by": "run1"})
        assert caught.value.code == "need-taken"
        assert caught.value.remedy
        assert not slow.is_held
        assert needs.open(quick.id).state is NeedState.OPEN
        quick.finish({"by": "run2"})
    need = needs.open(quick.id)
    assert (need.result, need.error) == ({"by": "run2"}, {})


@spec("NEED-9")
def test_lock_files_go_with_their_needs(needs: Needs, tmp_path: Path) -> None:
    late = needs.claim(b"content", "scratch/default", "run2")
    with needs.claim(b"content", "scratch/default", "run1") as claim:
        assert len(os.listdir(tmp_path / "locks")) == 1
        claim.finish({})
    assert os.listdir(tmp_path / "locks") == []
    late.wait()
    assert late.done
    assert os.listdir(tmp_path / "locks") == []
    with needs.claim(b"content", "scratch/default", "run3") as claim:
        claim.failed({})
    assert os.listdir(tmp_path / "locks") == []


@spec("NEED-6")
def test_processes_of_one_run_wait_for_each_other_too(needs: Needs) -> None:
    """The same run started twice: the first fails and leaves nobody else on record, the second still gets its turn."""
    waits, seen = threading.Event(), []

    def second() -> None:
        with needs.claim(b"content", "scratch/default", "run1", on_wait=lambda _: waits.set()) as claim:
            seen.append(claim.is_held)
            claim.finish({"n": 2})

    thread = threading.Thread(target=second, daemon=True)
    with needs.claim(b"content", "scratch/default", "run1") as first:
        thread.start()
        assert waits.wait(60)
        first.failed({"message": "no"})
    thread.join(60)
    assert seen == [True]
    assert needs.open(first.id).state is NeedState.FAILED
    assert needs.list() == ()


def test_a_folder_that_cannot_be_locked_in_is_named(tmp_path: Path) -> None:
    (tmp_path / "locks").write_text("a file")
    with closing(Database(tmp_path / "state.sqlite")) as database:
        claim = Needs(database, FileLocks(tmp_path / "locks")).claim(b"c", "s/default", "run1")
        with pytest.raises(DlsError) as caught:
            claim.wait()
        assert caught.value.code == "no-lock"
        assert str(tmp_path / "locks") in caught.value.message
        assert caught.value.remedy
