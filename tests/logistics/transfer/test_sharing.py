"""Other processes at the small files: they change how long a transfer takes, never how it ends."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as some

from dls.logistics import digest as digests
from dls.logistics.entry import FILE, Entry
from dls.logistics.errors import DlsError, Unavailable
from dls.logistics.pipes import Pipe
from dls.logistics.segment import Segment
from dls.logistics.store import Apart, Store
from dls.logistics.stores.memory import MemoryStore
from dls.logistics.stores.posix import PosixStore
from dls.logistics.testing.spec import spec
from dls.logistics.transfer import run as running
from dls.logistics.transfer import sharing as helping
from dls.logistics.transfer.listing import listed
from dls.logistics.transfer.progress import Progress
from dls.logistics.transfer.receipt import MemoryReceipts
from dls.logistics.transfer.run import Options, run_copies
from dls.logistics.transfer.share import Brought, cut_out, serve
from dls.logistics.transfer.sharing import Helpers
from dls.logistics.transfer.small import Small

COUNT = 600


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Helpers for few files, in small shares; processes, not the threads of compiled code."""
    monkeypatch.setenv("DLS_FAST", "0")
    monkeypatch.setattr(helping, "WORTH", 8)
    monkeypatch.setattr(helping, "_FILES", 16)
    mine.clear()


@pytest.fixture
def many(tmp_path: Path) -> PosixStore:
    """Six hundred files in eight folders, of 0 to 599 bytes."""
    store = PosixStore(tmp_path / "many")
    for n in range(COUNT):
        store.write(b"d%d/f%03d" % (n % 8, n), [b"%03d" % n * n], mode=0o600 + n % 64, mtime_ns=n * 10**9 + n)
    return store


def segment_of(store: Store) -> Segment:
    """What lies there, digests known."""
    rows = [e for e in store.list() if e.kind == FILE]
    return Segment.of([e._replace(digest=digests.of(b"".join(store.read(e.path)))) for e in rows])


mine: list[int] = []
"""What the tests' own process did itself."""


class Together(Small):
    """Leaves the helpers the time to start: in life they have more than 16 files to do so."""

    def alone(self, todo: Sequence[int]) -> None:
        mine.extend(todo)
        until = time.monotonic() + 20
        helpers = self.helpers
        assert isinstance(helpers, Helpers)
        while not all(one.ready for one in helpers._helpers or ()):
            assert time.monotonic() < until
            helpers._look(self, deque(), [], 50)
        super().alone(todo)


def _children() -> list[psutil.Process]:
    """Our helpers: whoever tests beside us may have other processes."""
    return [one for one in _born_of(os.getpid()) if _is_helper(one)]


def _born_of(pid: int) -> list[psutil.Process]:
    """As psutil tells it, which looks at every process of the machine, and here is asked all the time."""
    tasks = list(Path(f"/proc/{pid}/task").glob("*/children"))
    if not tasks:  # a kernel that does not tell, or it has ended
        return psutil.Process(pid).children()
    found = list[psutil.Process]()
    for task in tasks:
        with suppress(FileNotFoundError, ProcessLookupError, psutil.NoSuchProcess):
            found += [psutil.Process(int(word)) for word in task.read_text().split()]
    return found


def _is_helper(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE and "transfer.share" in " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return False


def _gone(pids: Sequence[int]) -> None:
    until = time.monotonic() + 10
    while any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids):
        assert time.monotonic() < until, "a helper goes on"
        time.sleep(0.01)


def both(source: Store, target: Store | None, segment: Segment, processes: int) -> tuple[Small, int]:
    """Bring everything; (how it went, files that helpers brought)."""
    helpers = Helpers(source, target, processes)
    work = Together(source, target, segment, Progress(), lambda: None, helpers=helpers)
    try:
        work.run(range(len(segment)), retries=0)
    finally:
        helpers.close()
    assert not _children()
    return work, helpers.brought


@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("hashed_only", [False, True])
@spec("TRANSFER-31")
def test_what_helpers_bring_is_what_one_process_brings(
    many: PosixStore, tmp_path: Path, processes: int, hashed_only: bool
) -> None:
    segment = segment_of(many)
    target = None if hashed_only else PosixStore(tmp_path / "to", staging=True)
    placed = dict[int, tuple[bytes, bytes]]()
    helpers, progress = Helpers(many, target, processes), Progress()
    work = Together(many, target, segment, progress, lambda: None, helpers=helpers)
    work.placed = lambda i, digest, stamp: placed.update({i: (digest, stamp)})
    work.run(range(COUNT), retries=0)
    helpers.close()
    assert helpers.brought >= 16
    assert len(mine) == len(set(mine)) == COUNT - helpers.brought, "nothing twice"
    assert work.errors == {}
    assert work.digests == {i: segment.digests[32 * i : 32 * i + 32] for i in range(COUNT)}
    assert (progress.files, progress.bytes, progress.requests) == (COUNT, segment.size, COUNT)
    if target is None:
        assert set(work.stamps) == set(range(COUNT))
        return
    assert [work.stamps[i] for i in range(COUNT)] == target.stamps(segment.paths)
    assert placed == {i: (work.digests[i], work.stamps[i]) for i in range(COUNT)}
    assert segment_of(target).digest == segment.digest, "bytes, modes and times"


@spec("TRANSFER-31")
def test_errors_are_those_of_one_process(many: PosixStore, tmp_path: Path) -> None:
    segment = segment_of(many)
    rng = random.Random(7)
    wrong = rng.sample(range(COUNT), 60)
    for n, i in enumerate(wrong):
        path = os.path.join(many.root, segment.paths[i])
        if n % 3 == 0:
            os.unlink(path)
        elif n % 3 == 1:
            os.truncate(path, segment.sizes[i] + 1)
        else:
            Path(os.fsdecode(path)).write_bytes(b"?" * segment.sizes[i])
    one, nobody = both(many, PosixStore(tmp_path / "one", staging=True), segment, 1)
    two, brought = both(many, PosixStore(tmp_path / "two", staging=True), segment, 2)
    assert nobody == 0 < brought
    assert one.errors.keys() == two.errors.keys() == set(wrong)
    assert {i: str(error) for i, error in one.errors.items()} == {i: str(error) for i, error in two.errors.items()}
    assert one.digests == two.digests


@spec("TRANSFER-18", "TRANSFER-31")
def test_what_ends_a_transfer_ends_it_and_the_helpers(many: PosixStore, tmp_path: Path) -> None:
    segment, calls = segment_of(many), [0]

    def alive() -> None:
        calls[0] += 1
        if calls[0] == 100:
            many.close()

    helpers = Helpers(many, PosixStore(tmp_path / "to"), 2)
    work = Together(many, PosixStore(tmp_path / "to"), segment, Progress(), alive, helpers=helpers)
    with pytest.raises(DlsError, match="is closed"):
        work.run(range(COUNT), retries=0)
    assert helpers.brought
    assert not _children()


@spec("TRANSFER-21", "TRANSFER-31")
def test_one_that_may_not_go_on_leaves_no_helper(many: PosixStore, tmp_path: Path) -> None:
    seen = list[int]()

    def alive() -> None:
        seen.extend(one.pid for one in _children())
        if len(set(seen)) == 2 and len(seen) > 300:
            raise Unavailable("lost", code="lost-lease")

    segment, target = segment_of(many), PosixStore(tmp_path / "to", staging=True)
    helpers = Helpers(many, target, 3)
    with pytest.raises(Unavailable, match="lost"):
        Small(many, target, segment, Progress(), alive, helpers=helpers).run(range(COUNT), retries=0)
    assert not _children()
    there = segment_of(target).digest
    time.sleep(0.1)
    assert segment_of(target).digest == there, "nothing more is written"


@spec("TRANSFER-31")
def test_a_helper_may_die(many: PosixStore, tmp_path: Path) -> None:
    segment = segment_of(many)
    for turn in range(6):
        target = PosixStore(tmp_path / f"to{turn}", staging=True)
        helpers = Helpers(many, target, 3)
        at, rng, count = [0], random.Random(turn), [0]
        at[0] = rng.randrange(3 if turn < 3 else 200)

        def alive(rng: random.Random = rng, count: list[int] = count, at: list[int] = at) -> None:
            count[0] += 1
            if count[0] > at[0] and (alive_ones := _children()):
                os.kill(rng.choice(alive_ones).pid, signal.SIGKILL)
                at[0] += 30

        work = Small(many, target, segment, Progress(), alive, helpers=helpers)
        work.run(range(COUNT), retries=0)
        helpers.close()
        assert work.errors == {}
        assert [work.stamps[i] for i in range(COUNT)] == target.stamps(segment.paths)
        assert segment_of(target).digest == segment.digest


@spec("TRANSFER-31")
def test_without_helpers_it_goes_as_well(
    many: PosixStore, tmp_path: Path, memory: Callable[[], MemoryStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(many, Apart)
    segment = segment_of(many)
    assert both(many, memory(), segment, 2)[1] == 0, "another process sees no memory of ours"
    work, brought = both(many, PosixStore(tmp_path / "none", staging=True), segment, 1)
    assert (brought, work.errors) == (0, {})
    monkeypatch.setattr(sys, "executable", str(tmp_path / "absent"))
    open_before = len(os.listdir("/proc/self/fd"))
    work, brought = both(many, PosixStore(tmp_path / "absent-python", staging=True), segment, 2)
    assert (brought, work.errors) == (0, {})
    assert len(os.listdir("/proc/self/fd")) == open_before
    monkeypatch.setattr(sys, "executable", "/bin/false")
    work, brought = both(many, PosixStore(tmp_path / "false", staging=True), segment, 2)
    assert (brought, work.errors) == (0, {})
    assert len(os.listdir("/proc/self/fd")) == open_before


@spec("TRANSFER-21", "TRANSFER-31")
def test_a_helper_that_hangs_does_not_keep_one_that_is_told_to_stop(many: PosixStore, tmp_path: Path) -> None:
    segment, target = segment_of(many), PosixStore(tmp_path / "to", staging=True)
    stopped, done = list[int](), threading.Event()

    def alive() -> None:
        if not stopped and (found := _children()):
            os.kill(found[0].pid, signal.SIGSTOP)
            stopped.append(found[0].pid)
        if done.is_set():
            raise Unavailable("lost", code="lost-lease")

    helpers = Helpers(many, target, 2)
    timer = threading.Timer(3, done.set)
    timer.start()
    with pytest.raises(Unavailable, match="lost"):
        Waiting(many, target, segment, Progress(), alive, helpers=helpers).run(range(COUNT), retries=0)
    timer.join()
    assert stopped
    assert not _children()


class Waiting(Together):
    """Looks whether it may go on before the helpers' first share only: then it is these that keep it."""

    def alone(self, todo: Sequence[int]) -> None:
        super().alone([])
        for i in todo:
            self.stamps[i] = b"-"


@pytest.mark.parametrize("hashed_only", [False, True])
@spec("TRANSFER-31")
def test_what_a_helper_does(many: PosixStore, tmp_path: Path, hashed_only: bool) -> None:
    segment, target = segment_of(many), None if hashed_only else PosixStore(tmp_path / "to", staging=True)
    os.unlink(os.path.join(many.root, segment.paths[7]))
    ours, theirs = (Pipe(end.detach()) for end in socket.socketpair())
    helper = threading.Thread(target=serve, args=(theirs,))
    helper.start()
    ours.put(json.dumps([many.apart(), None if target is None else target.apart()]).encode())
    assert ours.take() == b""
    for first in (0, 4, 8):  # segments are small here
        ours.put(cut_out(segment, range(first, first + 4)).encode())
        found = Brought.decode(ours.take())
        assert [first + n for n in found.done] == [i for i in range(first, first + 4) if i != 7]
        assert list(found.digests) == [segment.digests[32 * (first + n) : 32 * (first + n) + 32] for n in found.done]
        keys = [segment.paths[first + n] for n in found.done]
        assert list(found.stamps) == ([b""] * len(keys) if target is None else target.stamps(keys))
    ours.close()
    helper.join(10)
    assert not helper.is_alive()
    theirs.close()


@given(some.lists(some.integers(0, 9 << 20), max_size=60))
def test_shares_are_all_files_in_order_none_too_large(sizes: list[int]) -> None:
    segment = Segment.of([Entry(b"%03d" % n, FILE, size) for n, size in enumerate(sizes)])
    shares = list(helping._shares(segment, range(len(sizes))))
    assert [i for share in shares for i in share] == list(range(len(sizes)))
    for n, share in enumerate(shares):
        weight = sum(sizes[i] for i in share)
        assert len(share) <= 16
        assert weight - sizes[share[-1]] < 16 << 20
        assert n == len(shares) - 1 or len(share) == 16 or weight >= 16 << 20


RUN = """
import sys
from dls.logistics.stores.posix import PosixStore
from dls.logistics.transfer import sharing
from dls.logistics.transfer.listing import listed
from dls.logistics.transfer.receipt import SqlReceipts
from dls.logistics.database import Database
from dls.logistics.transfer.run import Options, run_copies

sharing.WORTH, sharing._FILES = 8, 16
source, target, state = sys.argv[1:4]
store = PosixStore(source)
receipts = SqlReceipts(Database(state + "/state.sqlite"))
from pathlib import Path
done = run_copies(store, PosixStore(target), b"to", listed(store, Path(state)), receipts, logs=Path(state),
                  options=Options(durability="process", processes=3))
print(done.complete, done.copied + done.kept)
"""


@spec("TRANSFER-8", "TRANSFER-31")
def test_killed_with_its_helpers_and_run_again(many: PosixStore, tmp_path: Path) -> None:
    for n in range(COUNT, 4 * COUNT):
        many.write(b"d%d/f%04d" % (n % 8, n), [b"%04d" % n])
    (tmp_path / "state").mkdir()
    (tmp_path / "site").mkdir()
    words = [sys.executable, "-c", RUN, os.fsdecode(many.root), str(tmp_path / "site"), str(tmp_path / "state")]
    rng, killed = random.Random(3), 0
    for _ in range(8):
        run = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        until = time.monotonic() + 20
        while len(helpers := _born_of(run.pid)) < 2 and run.poll() is None:  # two, or it is over
            assert time.monotonic() < until
            time.sleep(0.001)
        time.sleep(rng.random() * 0.15)
        run.kill()
        run.wait()
        killed += bool(helpers)
        _gone([one.pid for one in helpers])
    assert killed > 0
    ended = subprocess.run(words, capture_output=True, text=True, check=True)
    assert ended.stdout == f"True {4 * COUNT}\n"
    assert segment_of(PosixStore(tmp_path / "site/to")).digest == segment_of(many).digest


_known = some.tuples(some.integers(0, 2**32 - 1), some.binary(min_size=32, max_size=32), some.binary(max_size=99))


@given(some.lists(_known, max_size=9))
def test_answers_come_as_they_were_sent(rows: list[tuple[int, bytes, bytes]]) -> None:
    brought = Brought([r[0] for r in rows], [r[1] for r in rows], [r[2] for r in rows])
    assert Brought.decode(brought.encode()) == brought


def test_a_share_is_these_files_and_no_others(many: PosixStore) -> None:
    segment, chosen = segment_of(many), [5, 3, 599]
    cut = Segment.decode(cut_out(segment, chosen).encode(packed=False))
    assert list(cut) == [segment.entry(i) for i in chosen]


@spec("TRANSFER-25", "TRANSFER-31")
def test_a_whole_transfer_of_what_is_not_known_yet(many: PosixStore, target: PosixStore) -> None:
    out = run_copies(many, target, b"to", listed(many), MemoryReceipts(), options=Options(processes=3))
    assert (out.complete, out.copied) == (True, COUNT)
    assert [e.digest for s in out.manifest.segments() for e in s if e.kind == FILE] == [
        e.digest for e in segment_of(many)
    ]
    assert segment_of(target.below(b"to")).digest == segment_of(many).digest


@spec("TRANSFER-31")
@pytest.mark.parametrize(("small", "calls"), [(299, 0), (300, 1)])
def test_helpers_are_not_started_for_files_most_of_which_are_large(
    many: PosixStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: int, calls: int
) -> None:
    """On the average they have 299.5 times three bytes; none is shared here, so that only the early call counts."""
    called = list[int]()
    monkeypatch.setattr(running, "WORTH", COUNT)
    monkeypatch.setattr(running, "SMALL", 3 * small)
    monkeypatch.setattr(helping, "WORTH", COUNT + 1)
    monkeypatch.setattr(Helpers, "call", lambda self: bool(called.append(1)))
    done = run_copies(many, PosixStore(tmp_path / "to"), b"", listed(many), MemoryReceipts())
    assert (done.complete, len(called)) == (True, calls)
