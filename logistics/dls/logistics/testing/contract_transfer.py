"""The conformance suite of transfers between two stores.  Rules are numbered in `specs/transfer.md`.

    class TestMineToMine(TransferContract):
        @pytest.fixture
        def source(self): ...     # two stores, empty, writable, on places of this test's own
        @pytest.fixture
        def target(self): ...

The tree that travels has empty, small and multi-part files (blocks are made small), several segments, odd names, links,
hard links and folders, as far as both ends hold them.  With a `stride` faults are sampled.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from dls.logistics import digest as digests
from dls.logistics import segment as segments
from dls.logistics.entry import FILE, FOLDER, LINK, NO_MODE, NO_TIME, Entry
from dls.logistics.errors import Conflict, Corrupt, DlsError, Exists, NotFound, Unavailable
from dls.logistics.store import Can, Store, Want
from dls.logistics.stores import memory, posix_upload
from dls.logistics.testing.faults import Faulty, Recording
from dls.logistics.testing.spec import Suite, spec
from dls.logistics.transfer import bringing, plan, prove, small
from dls.logistics.transfer.listing import Wanted, known, listed
from dls.logistics.transfer.progress import Progress
from dls.logistics.transfer.receipt import MemoryReceipts
from dls.logistics.transfer.run import Options, Outcome, run_copies

BLOCK, BIG, SMALL = 64 << 10, 256 << 10, 32 << 10
PARTS = (BLOCK + 1, BIG + 10)
"""Sizes of the two files that travel by parts: two without block digests, five with them."""
BODIES = ("fetch.item", "read")
WRITES = {"put", "write", "upload", "move", "make", "delete", "wipe"}
MODE, TIME = 0o640, 1_234_567_890_123_456_789
ODD = (b"a", b"a-b", b"a.b", b" ", b"%41", "é".encode(), b"new\nline", b"back\\slash", b"\xff\xfe", b"x" * 255)

Seen = dict[bytes, tuple[Any, ...]]


def small_scale(patch: pytest.MonkeyPatch) -> None:
    """Blocks, borders and limits of a size that a test can cross a hundred times."""
    patch.setattr(digests, "BLOCK", BLOCK)
    patch.setattr(digests, "BIG", BIG)
    for module in (plan, bringing, prove):
        patch.setattr(module, "SMALL", SMALL)
    patch.setattr(posix_upload.PosixUpload, "part", BLOCK)
    patch.setattr(memory.MemoryUpload, "part", BLOCK)
    patch.setattr(segments, "LEAST", 6)
    patch.setattr(segments, "LIMIT", 9)
    patch.setattr(small, "RETRY_S", 0.0)


def plant(store: Store, others: Store) -> None:
    """Write the tree, as far as both stores hold it."""
    rng = random.Random(5)
    wanted = {b"dir/%03d" % n: rng.randbytes(n * 7) for n in range(8)}
    wanted |= {b"odd/" + name: name for name in ODD} | {b"empty": b"", b"deep/" + b"d/" * 3 + b"f": b"deep"}
    wanted |= {b"big/%d" % size: rng.randbytes(size) for size in PARTS}
    for key, data in sorted(wanted.items()):
        if not (store.names.refuses(key, store.room + 60) or others.names.refuses(key, others.room + 60)):
            store.write(key, [data], mode=MODE, mtime_ns=TIME)
    made = [
        Entry(b"empty folder", FOLDER, mode=0o750),
        Entry(b"links/to", LINK, target=b"../dir/001"),
        Entry(b"links/nowhere", LINK, target=b"no such \xff"),
        Entry(b"dir", FOLDER, mode=0o2755),
    ]
    if store.keeps.hardlinks:
        made += [Entry(b"dir/zz", FILE, target=b"dir/001"), Entry(b"zz/first", FILE, target=b"big/%d" % PARTS[1])]
    store.make([entry for entry in made if entry.kind in store.keeps.kinds])


class Body(bytes):
    """The bytes of a file; a failing comparison of trees shows their size, not all of them."""

    def __repr__(self) -> str:
        return f"<{len(self)} bytes, {digests.of(self).hex()[:12]}>"


def seen(store: Store, source: Store, target: Store) -> Seen:
    """What a store shows, of what both ends keep."""
    modes = source.keeps.modes and target.keeps.modes
    times = source.keeps.mtimes and target.keeps.mtimes
    groups = source.keeps.hardlinks and target.keeps.hardlinks
    out: Seen = {}
    entries = [entry for entry in store.list() if entry.kind in target.keeps.kinds]
    bodies = _bodies(store, entries)
    for i, entry in enumerate(entries):
        data = bodies.get(i, Body())
        mode = entry.mode if modes and entry.kind != LINK else NO_MODE
        mtime = entry.mtime_ns if times and entry.kind == FILE else NO_TIME
        goal = entry.target if entry.kind == LINK or groups else b""
        out[entry.path] = entry.kind, data, mode, mtime, goal
    return out


def _bodies(store: Store, entries: Sequence[Entry]) -> dict[int, Body]:
    """The bytes of the files among entries: the small ones in one batch, which is a third of the requests' time."""
    files = {i: entry for i, entry in enumerate(entries) if entry.kind == FILE}
    found: dict[int, Body] = {}
    for got in store.fetch([Want(i, e.path, e.size) for i, e in files.items() if e.size <= SMALL]):
        if got.error is not None:
            raise got.error
        found[got.i] = Body(got.body)
    large = {i: entry for i, entry in files.items() if i not in found}
    assert all(entry.size > SMALL for entry in large.values()), "a batch left files out"
    return found | {i: Body(b"".join(store.read(entry.path))) for i, entry in large.items()}


class _Case:
    """One place to which one tree is brought, as often as asked."""

    def __init__(
        self, source: Store, target: Store, name: bytes, folder: Path, mode: str, is_known: bool, expected: Seen
    ) -> None:
        self.source, self.target, self.root = source, target, name
        self.final = target.below(name)
        self.whole = mode == "whole" and Can.MOVE in target.can
        if mode == "file" and FOLDER in target.keeps.kinds:
            target.make([Entry(name, FOLDER, mode=0o755)])
        self.receipts, self.logs = MemoryReceipts(), folder / name.decode()
        self.wanted: Wanted | None = None
        self.is_known = is_known
        self.expected = expected
        self.bodies: list[tuple[str, bytes]] = []
        self.writes: list[tuple[str, bytes]] = []
        self.look_again: Callable[[], bool] = lambda: False

    def run(
        self, source: Store | None = None, target: Store | None = None, wanted: Wanted | None = None, **options: Any
    ) -> Outcome:
        """Run the copies, counting bodies and writes; faulty stores may stand in."""
        reads, does = list[tuple[str, bytes]](), list[tuple[str, bytes]]()
        try:
            return run_copies(
                Recording(source or self.source, reads),
                Recording(target or self.target, does),
                self.root,
                wanted or self.wanted or listed(self.source),
                self.receipts,
                logs=self.logs,
                options=Options(**{"streams": 1, "settle_s": 0, **options}),
                progress=Progress(),
            )
        finally:
            self.bodies = [one for one in reads if one[0] in BODIES]
            self.writes = [one for one in does if one[0] in WRITES]

    def shows(self) -> Seen:
        """What everybody sees at the target now."""
        for _ in range(3):
            try:
                return seen(self.final, self.source, self.target)
            except Unavailable:
                if not self.look_again():
                    raise
        return seen(self.final, self.source, self.target)

    def check_visible(self) -> Seen:
        """Nothing shows that is not right, and where publishing is whole nothing or all; returns what shows."""
        there = self.shows()
        files = {k: v[1] for k, v in there.items() if v[0] == FILE}
        assert not [k for k, data in files.items() if self.expected[k][1] != data]
        if self.whole and there:
            assert there == self.expected
        return there


class TransferContract(Suite):
    """What every pair of stores must do."""

    concurrency: ClassVar[int] = 1
    """Small files that the pair has in flight."""
    again: ClassVar[int] = 0
    """Parts of a large file that are read once more to be hashed, where the target proves parts without giving them
    back and only the digest of the whole is known, or none."""
    stride: ClassVar[int] = 1
    """Every how many operations a fault is planted."""

    @pytest.fixture(autouse=True)
    def _small_scale(self, monkeypatch: pytest.MonkeyPatch) -> None:
        small_scale(monkeypatch)

    @pytest.fixture
    def tree(self, source: Store, target: Store) -> Store:
        """The source, with the tree planted."""
        plant(source, target)
        return source

    @pytest.fixture(params=["known", "unknown"])
    def wanted(self, request: pytest.FixtureRequest, tree: Store) -> Wanted | None:
        """What is wanted: a hashed manifest, or None for what is listed there."""
        if request.param == "unknown":
            return None
        return known(prove.prove(tree, listed(tree), MemoryReceipts()).manifest)

    @pytest.fixture(params=["whole", "file"])
    def mode(self, request: pytest.FixtureRequest, target: Store) -> str:
        """Whether the target is there before."""
        if request.param == "file" and FOLDER not in target.keeps.kinds:
            pytest.skip("a place without folders is never there before: the other mode is this one")
        return str(request.param)

    @pytest.fixture
    def look_again(self) -> Callable[[], bool]:
        """Makes the target's service look at its own files again, where it is known to lose sight of them; False where
        nothing of that kind is known."""
        return lambda: False

    @pytest.fixture
    def cases(
        self,
        tree: Store,
        target: Store,
        wanted: Wanted | None,
        mode: str,
        tmp_path: Path,
        look_again: Callable[[], bool],
    ) -> Any:
        """Makes cases, each with a place of its own."""
        expected = seen(tree, tree, target)

        def make(name: str) -> _Case:
            case = _Case(tree, target, name.encode(), tmp_path, mode, wanted is not None, expected)
            case.wanted, case.look_again = wanted, look_again
            return case

        return make

    @spec("TRANSFER-7", "TRANSFER-8", "TRANSFER-17", "TRANSFER-25")
    def test_everything_arrives_proven(self, cases: Any) -> None:
        case = cases("all")
        outcome = case.run()
        assert outcome.complete
        assert not outcome.failures.shown
        assert case.shows() == case.expected
        files = sum(1 for e in outcome.manifest if e.kind == FILE)
        assert outcome.copied == files - sum(
            1 for e in outcome.manifest if e.kind == FILE and e.target and case.target.keeps.hardlinks
        )
        assert all(s.hashed for s in outcome.manifest.segments())
        proof = prove.prove(case.source, listed(case.source), MemoryReceipts())
        assert outcome.manifest.content == proof.manifest.content
        assert prove.prove(case.final, known(outcome.manifest), case.receipts).read == 0

    @spec("TRANSFER-30", "TRANSFER-1")
    def test_again_does_nothing(self, cases: Any) -> None:
        case = cases("again")
        first = case.run()
        for wanted in (case.wanted, known(first.manifest)):
            outcome = case.run(wanted=wanted)
            assert outcome.complete
            assert outcome.copied == 0
            assert not case.bodies
            assert {verb for verb, _ in case.writes} <= {"wipe"}

    @pytest.mark.fault
    @pytest.mark.timeout(600)
    @pytest.mark.parametrize("what", ["error", "lost", "short", "hang"])
    @spec("TRANSFER-8", "TRANSFER-9", "TRANSFER-18", "TRANSFER-20", "TRANSFER-21")
    def test_a_fault_at_every_operation(
        self, cases: Any, what: str, faults_full: bool, record_property: Callable[[str, object], None]
    ) -> None:
        control = cases("control")
        counted = Faulty(control.source)
        first = control.run(counted, Faulty(control.target, plan=counted._plan))
        assert first.complete
        bodies, files = len(control.bodies), first.copied
        stride = 1 if faults_full else self.stride * (6 if what == "hang" else 1)
        fired, told = set[str](), set[str]()
        record_property("cases", len(range(1, counted.count + 1, stride)))
        record_property("operations", counted.count)
        for at in range(1, counted.count + 1, stride):
            case = cases(f"{what}-{at}")
            one = Faulty(case.source, at, what)
            other = Faulty(case.target, plan=one._plan)
            try:
                outcome = case.run(one, other, **({"stall_s": 0.15} if what == "hang" else {}))
            except DlsError as error:
                outcome = None
                told.add(error.code)
            finally:
                one.release()
                _ended()
            fired.add(one.fired)
            there = case.check_visible()
            if outcome is not None and outcome.complete:
                assert there == case.expected, (at, one.fired)
            asked = len(case.bodies)
            again = case.run()
            assert again.complete, (at, one.fired)
            assert again.copied + again.kept == files, (at, one.fired)
            assert case.shows() == case.expected, (at, one.fired)
            assert asked + len(case.bodies) <= bodies + self.concurrency + self.again + 1, (at, one.fired)
            case.final.wipe()
        assert seen(control.source, control.source, control.target) == control.expected
        assert fired
        assert told <= {"planted", "stalled", "source-changed", "content-differs"}

    @spec("TRANSFER-16")
    def test_a_changed_source_is_reported_and_does_not_show(self, cases: Any) -> None:
        case = cases("changed")
        wanted = case.wanted or listed(case.source)
        case.source.write(b"dir/003", [b"c" * 21], mode=MODE, mtime_ns=TIME)
        outcome = case.run(wanted=wanted)
        (key, error), *more = outcome.failures.shown
        assert (key, more) == (b"dir/003", [])
        assert isinstance(error, Corrupt if case.is_known else Conflict)
        there = case.shows()
        assert b"dir/003" not in there
        assert not (case.whole and there)

    @spec("TRANSFER-16")
    def test_a_missing_source_file_is_a_failure_of_that_file(self, cases: Any) -> None:
        case = cases("missing")
        wanted = case.wanted or listed(case.source)
        lost = [b"dir/004", b"big/%d" % PARTS[0]]
        for key in lost:
            case.source.delete(key)
        outcome = case.run(wanted=wanted)
        assert [key for key, _ in outcome.failures.shown] == sorted(lost)
        assert all(isinstance(error, NotFound | Conflict) for _, error in outcome.failures.shown)
        assert not (case.whole and case.shows())

    @spec("TRANSFER-1", "TRANSFER-13")
    def test_what_lies_there_is_adopted_by_its_hash_alone(self, cases: Any) -> None:
        case = cases("adopt")
        data = case.expected[b"dir/005"][1]
        case.final.write(b"dir/005", [data])
        big = b"big/%d" % PARTS[1]
        case.final.write(big, [case.expected[big][1]])
        outcome = case.run()
        assert outcome.complete
        assert outcome.kept >= 2
        keys = [key for _, key in case.bodies]
        assert keys.count(b"dir/005") == (0 if case.is_known else 1)
        assert {k: v[:2] for k, v in case.shows().items()} == {k: v[:2] for k, v in case.expected.items()}

    @spec("TRANSFER-1", "TRANSFER-11", "TRANSFER-14")
    def test_same_size_and_time_but_wrong_bytes_are_never_up_to_date(self, cases: Any) -> None:
        case = cases("wrong")
        data = case.expected[b"dir/006"][1]
        wrong = bytes(b ^ 1 for b in data)
        case.final.write(b"dir/006", [wrong], mode=MODE, mtime_ns=TIME)
        case.final.write(b"other", [b"mine"])
        with pytest.raises(Exists) as told:
            case.run()
        assert told.value.code == "target-differs"
        assert told.value.facts["keys"] == ["dir/006"]
        assert {k for k, v in case.shows().items() if v[0] == FILE} == {b"dir/006", b"other"}
        assert b"".join(case.final.read(b"dir/006")) == wrong
        assert not case.writes
        outcome = case.run(replace=(b"dir/006",))
        assert outcome.complete
        there = case.shows()
        assert there.pop(b"other")[1] == b"mine"
        assert there == case.expected

    @spec("TRANSFER-28", "TRANSFER-14")
    def test_a_flipped_byte_is_found_and_repaired(self, cases: Any) -> None:
        case = cases("flip")
        outcome = case.run()
        wanted = known(outcome.manifest)
        for key in (b"dir/007", b"big/%d" % PARTS[1]):
            data = bytearray(case.expected[key][1])
            data[-1] ^= 1
            case.final.write(key, [bytes(data)], mode=MODE, mtime_ns=TIME)
            proof = prove.prove(case.final, wanted, case.receipts, depth=prove.Depth.DEEP)
            names_of_group = {k for k, v in case.expected.items() if v[4] == key and v[0] == FILE} | {key}
            found = {k for k, _ in proof.corrupt.shown}
            assert key in found
            assert found <= names_of_group
            assert case.run(wanted=wanted, replace=tuple(found)).complete
            assert {k for _, k in case.bodies} <= names_of_group
            assert case.shows() == case.expected
            assert prove.prove(case.final, wanted, case.receipts, depth=prove.Depth.DEEP).good


def _ended() -> None:
    """Threads of a transfer that was given up have ended."""
    until = time.monotonic() + 5
    while any(t.name.startswith("dls-") for t in threading.enumerate()):
        if time.monotonic() > until:
            raise Unavailable("threads of the transfer did not end", code="test")
        time.sleep(0.001)
