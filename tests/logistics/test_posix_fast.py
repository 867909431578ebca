"""Many small files in one call of compiled code: what is plain comes out as from Python, all else is left to it."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from components.sanitized import run_sanitized
from dls.logistics import digest as digests
from dls.logistics.entry import FILE, NO_MODE, NO_TIME, Entry
from dls.logistics.errors import Conflict, DlsError
from dls.logistics.segment import Segment
from dls.logistics.store import Batched, Item
from dls.logistics.stores import posix_fast
from dls.logistics.stores.posix import PosixStore
from dls.logistics.testing.spec import spec
from dls.logistics.transfer import sharing, small
from dls.logistics.transfer.progress import Progress
from dls.logistics.transfer.sharing import Helpers
from dls.logistics.transfer.small import Small

SIZES = [0, 1, 2, 511, 4096, 10_000, 65_537, 1 << 20]
NAMES = some.binary(min_size=1, max_size=12).filter(
    lambda b: not set(b) & {0, 0x2F} and b not in (b".", b"..") and b[:5] != b".dls-"
)
MODES = some.one_of(some.just(NO_MODE), some.integers(0, 0o7777))
TIMES = some.one_of(
    some.just(NO_TIME),
    some.integers(-(2**31) * 10**9, 2**33 * 10**9),
    some.sampled_from([-1, 0, 1, 10**9 - 1, -(10**9)]),
)


@pytest.fixture(autouse=True)
def _there() -> None:
    assert posix_fast.files() is not None, "tests/setup installs logistics/accelerator"


def filled(root: Path) -> tuple[list[bytes], list[int]]:
    """Files of every size; (keys, sizes)."""
    for n, size in enumerate(SIZES):
        (root / f"d{n % 3}").mkdir(parents=True, exist_ok=True)
        (root / f"d{n % 3}" / f"f{n}").write_bytes(os.urandom(size))
    return [b"d%d/f%d" % (n % 3, n) for n in range(len(SIZES))], SIZES


def about(path: bytes) -> tuple[int, int]:
    info = os.lstat(path)
    return info.st_mode, info.st_mtime_ns


@spec("TRANSFER-32")
def test_bodies_are_those_of_the_files(tmp_path: Path) -> None:
    keys, sizes = filled(tmp_path)
    store = PosixStore(tmp_path)
    assert isinstance(store, Batched)
    assert store.batches()
    assert store.take(keys, sizes) == [(tmp_path / key.decode()).read_bytes() for key in keys]
    assert store.take([], []) == []


@spec("TRANSFER-32", "TRANSFER-16")
@pytest.mark.parametrize("there", SIZES)
def test_what_has_another_length_is_left(tmp_path: Path, there: int) -> None:
    (tmp_path / "f").write_bytes(bytes(there))
    store = PosixStore(tmp_path)
    for asked in {*SIZES, there + 1, max(0, there - 1)}:
        assert [body is not None for body in store.take([b"f"], [asked])] == [asked == there]


@spec("TRANSFER-32")
def test_what_is_no_file_is_left(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    keys = [b"file", b"link", b"folder", b"pipe", b"absent", b"file/below", b"n" * 300, b"file"]
    with socket.socket(socket.AF_UNIX) as one:
        os.chdir(tmp_path)  # names of sockets have to be short
        one.bind("sock")
        os.chdir("/")
        for size in (0, 1):
            found = PosixStore(tmp_path).take([*keys, b"sock"], [size] * 9)
            assert found == [b"x" if size else None, *[None] * 6, b"x" if size else None, None]
    assert PosixStore(tmp_path / "nowhere").take([b"a"], [1]) == [None]


@pytest.mark.parametrize("key", [b"../x", b"/x", b"a//b", b"./a", b"a\0b", b""])
def test_illegal_names_reach_nothing(tmp_path: Path, key: bytes) -> None:
    store = PosixStore(tmp_path, staging=True)
    assert store.take([b"a", key], [1, 1]) == store.give([b"a", key], [b"x"] * 2, [0o600] * 2, [0] * 2) == [None] * 2
    assert list(tmp_path.iterdir()) == []


def test_bad_calls_of_the_compiled_code_are_refused(tmp_path: Path) -> None:
    compiled = posix_fast.files()
    assert compiled is not None
    root, key = os.fsencode(tmp_path), (b"f",)
    bad: list[Callable[[], object]] = [
        lambda: compiled.take(root, key, (-1,)),
        lambda: compiled.take(root, key, (1 << 40,)),
        lambda: compiled.take(root, key, (1 << 70,)),
        lambda: compiled.take(root, key, ()),
        lambda: compiled.take(root, [b"f"], (1,)),
        lambda: compiled.take(root, ("f",), (1,)),  # type: ignore[arg-type]
        lambda: compiled.take(root, (b"f\0g",), (1,)),
        lambda: compiled.take(b"a\0b", key, (1,)),
        lambda: compiled.give(root, key, (), (0,), (0,), 0),
        lambda: compiled.give(root, key, (b"x",), (), (0,), 0),
        lambda: compiled.give(root, key, (b"x",), (0,), (1 << 64,), 0),
        lambda: compiled.give(root, key, (bytearray(b"x"),), (0,), (0,), 0),  # type: ignore[arg-type]
    ]
    for act in bad:
        with pytest.raises((TypeError, ValueError, OverflowError, IndexError)):
            act()
    assert list(tmp_path.iterdir()) == []


@spec("TRANSFER-32", "STORE-19", "STORE-21")
@given(files=some.dictionaries(NAMES, some.tuples(some.binary(max_size=300), MODES, TIMES), min_size=1, max_size=5))
@settings(max_examples=150, deadline=None)
def test_files_are_written_as_python_writes_them(files: dict[bytes, tuple[bytes, int, int]]) -> None:
    """Bytes, bits (special ones, and those that the umask hides), times before 1970; the stamp is what lies there."""
    with tempfile.TemporaryDirectory() as place:
        top = os.fsencode(place)
        here, there = PosixStore(top + b"/here", staging=True), PosixStore(top + b"/there", staging=True)
        keys = [b"d/" + name for name in files]
        bodies, modes, times = (list(row) for row in zip(*files.values(), strict=True))
        stamps = here.give(keys, bodies, modes, times)
        rows = zip(range(len(keys)), keys, bodies, modes, times, strict=True)
        told = {done.i: done.error for done in there.put(Item(*row) for row in rows)}
        for i, key in enumerate(keys):
            if told[i] is not None:  # what the file system cannot hold
                assert stamps[i] is None
                continue
            assert stamps[i] == here.stat(key).stamp
            one, two = top + b"/here/" + key, top + b"/there/" + key
            assert os.lstat(one).st_mode == os.lstat(two).st_mode
            if times[i] != NO_TIME:
                assert about(one) == about(two)
            os.chmod(one, 0o600)
            with open(one, "rb") as file:
                assert file.read() == bodies[i]


@spec("TRANSFER-32")
def test_it_writes_only_where_nobody_reads(tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(b"before")
    (tmp_path / "folder").mkdir()
    (tmp_path / "out").symlink_to(tmp_path.parent / "elsewhere")
    keys = [b"new", b"there", b"folder", b"out", b"sub/new"]
    assert PosixStore(tmp_path).give(keys, [b"x"] * 5, [0o600] * 5, [0] * 5) == [None] * 5
    assert not (tmp_path / "new").exists()
    found = PosixStore(tmp_path, staging=True).give(keys, [b"x"] * 5, [0o600] * 5, [0] * 5)
    assert [stamp is not None for stamp in found] == [True, True, False, True, True]
    assert (tmp_path / "there").read_bytes() == (tmp_path / "out").read_bytes() == b"x"
    assert not (tmp_path.parent / "elsewhere").exists()
    closed = PosixStore(tmp_path, staging=True)
    closed.close()
    assert closed.give([b"z"], [b"x"], [0o600], [0]) == closed.take([b"new"], [1]) == [None]
    link = PosixStore(tmp_path / "link", staging=True)
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "d").symlink_to(tmp_path)
    assert link.give([b"d/x"], [b"x"], [0o600], [0]) == [None], "a link below the root is no folder"
    assert not (tmp_path / "x").exists()


def test_it_may_be_left_alone_and_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLS_FAST", "0")
    assert not PosixStore("/tmp").batches()
    assert PosixStore("/tmp").take([b"x"], [1]) == [None]
    monkeypatch.setenv("DLS_FAST", "1")
    assert PosixStore("/tmp").batches()
    monkeypatch.setitem(sys.modules, "dls_files", SimpleNamespace(CONTRACT=posix_fast.CONTRACT + 1))  # type: ignore[arg-type]
    assert not PosixStore("/tmp").batches()
    monkeypatch.setitem(sys.modules, "dls_files", None)  # type: ignore[arg-type]  # as if it were not installed
    assert not PosixStore("/tmp").batches()


# ------------------------------------------------------------------------------------------------------- transfers


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Batches of three files, where there are eight or more."""
    monkeypatch.setattr(sharing, "WORTH", 8)
    monkeypatch.setattr(small, "_AT_ONCE", 3)
    return iter(())


def segment_of(store: PosixStore, *, known: bool = True) -> Segment:
    rows = [entry for entry in store.list() if entry.kind == FILE]
    return Segment.of([e._replace(digest=digests.of(b"".join(store.read(e.path)))) for e in rows] if known else rows)


def brought(work: Small) -> tuple[dict[int, bytes], dict[int, tuple[str, str]]]:
    with contextlib.suppress(DlsError):
        work.run(range(len(work.segment)), retries=0)
    return work.digests, {i: (error.code, str(error)) for i, error in work.errors.items()}


@spec("TRANSFER-32")
@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("hashed_only", [False, True])
def test_the_outcome_is_that_of_python(
    tmp_path: Path, threads: int, known: bool, hashed_only: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Digests, errors and their words, what lies at the target; with files that vanished, grew, became others."""
    source = PosixStore(tmp_path / "from")
    for n in range(60):
        source.write(b"d%d/f%02d" % (n % 4, n), [b"%02d" % n * n], mode=0o640 + n % 8, mtime_ns=n * 10**9 + n)
    segment = segment_of(source, known=known)
    at = [os.fsdecode(key) for key in segment.paths]
    (tmp_path / "from" / at[3]).unlink()
    (tmp_path / "from" / at[10]).write_bytes(b"longer" * 100)
    (tmp_path / "from" / at[11]).write_bytes(b"")
    os.replace(tmp_path / "from" / at[20], tmp_path / "from" / "aside")
    (tmp_path / "from" / at[20]).symlink_to(tmp_path / "from" / "aside")
    size = segment.sizes[30]
    (tmp_path / "from" / at[30]).write_bytes(b"?" * size)
    told = {}
    for way in ("compiled", "python"):
        monkeypatch.setenv("DLS_FAST", "1" if way == "compiled" else "0")
        target = None if hashed_only else PosixStore(tmp_path / way, staging=True)
        placed, progress = list[int](), Progress()
        helpers = Helpers(source, target, threads if way == "compiled" else 1)
        work = Small(source, target, segment, progress, lambda: None, helpers=helpers)
        work.placed = lambda i, digest, stamp, placed=placed: placed.append(i)
        told[way] = brought(work)
        assert sorted(work.stamps) == [i for i in range(60) if i not in work.errors]
        assert progress.files == len(work.stamps)
        assert progress.bytes == sum(segment.sizes[i] for i in work.stamps)
        assert progress.requests == 60
        if target is not None:
            assert sorted(placed) == sorted(work.stamps)
            assert target.stamps([segment.paths[i] for i in sorted(work.stamps)]) == [
                work.stamps[i] for i in sorted(work.stamps)
            ]
    assert told["compiled"] == told["python"]
    assert {3, 10, 11, 20} <= set(told["python"][1])
    assert (30 in told["python"][1]) == known
    if not hashed_only:
        listing = [[(e, b"".join(one.read(e.path)) if e.kind == FILE else b"") for e in one.list()] for one in (
            PosixStore(tmp_path / "compiled"), PosixStore(tmp_path / "python"))]  # fmt: skip
        assert [_plain(row) for row in listing[0]] == [_plain(row) for row in listing[1]]


def _plain(row: tuple[Entry, bytes]) -> tuple[Entry, bytes]:
    """Folders have the time of the run."""
    return (row[0] if row[0].kind == FILE else row[0]._replace(mtime_ns=0)), row[1]


@spec("TRANSFER-32", "TRANSFER-8")
@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("threads", [1, 3])
def test_what_ends_a_transfer_ends_all_threads(tmp_path: Path, threads: int) -> None:
    """The one who is told to stop raises; nobody goes on behind its back."""
    source = PosixStore(tmp_path / "from")
    for n in range(300):
        source.write(b"f%03d" % n, [b"x" * n])
    asked = list[str]()

    def alive() -> None:
        asked.append(threading.current_thread().name)
        if len(asked) > 10:
            raise Conflict("told to stop", code="cancelled")

    target = PosixStore(tmp_path / "to", staging=True)
    helpers = Helpers(source, target, threads)
    work = Small(source, target, segment_of(source), Progress(), alive, helpers=helpers)
    with pytest.raises(Conflict, match="told to stop"):
        work.run(range(300))
    count = len(list((tmp_path / "to").iterdir()))
    assert count == len(work.stamps) < 50
    assert len(asked) <= 10 + threads
    assert not [one for one in threading.enumerate() if one.name.startswith("dls-")]


@spec("TRANSFER-32")
@pytest.mark.usefixtures("few")
def test_leftovers_of_a_killed_run_are_replaced(tmp_path: Path) -> None:
    source = PosixStore(tmp_path / "from")
    for n in range(20):
        source.write(b"f%02d" % n, [b"%02d" % n])
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "f03").write_bytes(b"half")
    (tmp_path / "to" / "f04").symlink_to("/etc/passwd")
    target = PosixStore(tmp_path / "to", staging=True)
    work = Small(source, target, segment_of(source), Progress(), lambda: None, helpers=Helpers(source, target, 2))
    work.run(range(20))
    assert len(work.stamps) == 20
    assert [(tmp_path / "to" / f"f{n:02}").read_bytes() for n in range(20)] == [b"%02d" % n for n in range(20)]
    assert not (tmp_path / "to" / "f04").is_symlink()


@pytest.mark.fault
@pytest.mark.timeout(600)
@pytest.mark.skipif(os.environ.get("LD_PRELOAD") is not None, reason="this is that run")
@spec("TRANSFER-32")
def test_no_read_or_write_outside_of_memory(tmp_path: Path) -> None:
    """The same, compiled to tell each access that is out of bounds."""
    source = Path(posix_fast.__file__).parents[3] / "accelerator" / "dls_files.c"
    run_sanitized(source, tmp_path, __file__, "not outside_of_memory")
