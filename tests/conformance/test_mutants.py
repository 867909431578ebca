"""Do the tests tell when the code is wrong?  A sample of automatic mutants of each module; `make faults` takes more."""

import random
import sys
from pathlib import Path

import pytest

from dls.logistics.testing import mutant_runs, mutants

ROOT = Path(__file__).resolve().parents[2]
POSIX = [
    *("tests/conformance/test_stores.py", "tests/logistics/test_posix_fast.py"),
    *("-m", "not service and not slow and not fault", "-k", "TestPosix or test_posix_fast"),
]
TESTS = {
    "dls.logistics.stores.posix": POSIX,
    "dls.logistics.stores.posix_batch": POSIX,
    "dls.logistics.stores.posix_files": POSIX,
    "dls.logistics.stores.posix_upload": POSIX,
    "dls.logistics.stores.posix_walk": POSIX,
}
"""Module → arguments of pytest; add a line for each module whose tests shall be tried."""

TRANSFER = [
    # The fast ones first: a mutant ends at the first test that tells it.
    *("tests/logistics/transfer", "tests/logistics/test_inodes.py", "tests/logistics/test_posix_fast.py"),
    *("tests/conformance/test_transfers.py", "-m", "not service and not slow and not fault"),
    *("-k", "not (every_operation and hang) and not S3 and not MemoryToMemory"),
]
TRANSFERS = [
    f"dls.logistics.transfer.{path.stem}"
    for path in sorted((ROOT / "logistics/dls/logistics/transfer").glob("*.py"))
    if path.stem != "__init__"
]
"""One group: they are tried by the same tests, and count together."""

SPEED = "only how fast it is"
AGAIN = "a folder that is missing is made when the file cannot be"
NUMBER = "file descriptors 0 and 1 are never among those opened here"
TIMES = "times of folders are not promised"
EMPTY = "an empty read ends it"
PLAIN = "nobody assigns to its fields; slots save memory"
ALONE = "inode = (info.st_dev, info.st_ino) if info.st_nlink > 1 else None"
LONELY = "memory: nothing else has the inode of a file with one name"
GATHERING = "the mode of a file under a hidden name; its own comes last"
VALUE_SLOTS = "@dataclass(slots=True) → False for True"
LOCKED = "if os.fstat(fd).st_mode & 0o700 != 0o700:"
LIFE = "any rise is a sign of life"
LENGTHS = "both have one length"
PENDING = "if len(self._told) > _PENDING:  # '0' follows '/': what sorts below the last name in this way is over"
LOOKS = "what is right is looked at once more"
LENGTHS_ALONE = "if longest <= shortest_limit and not held.utf8 and not held.forbidden and held.dots:"
ALL_SMALL = "if not targets and FOLDER not in kinds and LINK not in kinds and max(sizes, default=0) <= SMALL:"
NO_BLOCKS = "a hasher told of 0 bytes or of 1 keeps no blocks"
EQUIVALENT = {
    "dls.logistics.stores.posix": {
        "CHUNK = 1 << 20 → 2 for 1": SPEED,
        "CHUNK = 1 << 20 → 21 for 20": SPEED,
        "_FOLDERS_KEPT = 4096 → 4097 for 4096": SPEED,
        "if path[:cut] not in self._folders: → never": AGAIN,
        "if path[:cut] not in self._folders: → always": SPEED,
        "if folder in self._folders: → never": SPEED,
        "if len(self._folders) >= _FOLDERS_KEPT: → always": SPEED,
        "if len(self._folders) >= _FOLDERS_KEPT: → never": "memory after millions of folders",
        "if len(self._folders) >= _FOLDERS_KEPT: → Gt for GtE": SPEED,
        "if os.write(fd, body) != len(body): → always": SPEED,
        "for _ in range(2): → 3 for 2": "one more try",
        "while stop is None or start < stop: → LtE for Lt": EMPTY,
        "self._forget() → dropped": AGAIN,
        "self._folders.add(folder) → dropped": SPEED,
        "self._folders.clear() → dropped": "memory after millions of folders, and " + AGAIN,
        "if not self._staging: → always": SPEED + ": beside its name and renamed",
        "beside = path if self._staging else PosixUpload.beside(path) → never": SPEED,
        "return path if self._staging else hidden + ids.ulid().encode() → never": SPEED,
        "if is_folder: → always": SPEED,
        "if is_folder: → never": AGAIN,
        "if folder not in self._folders: → always": SPEED,
        "if old == new: → never": "a rename onto itself",
        "self._folder_of(path) → dropped": AGAIN,
        "if path[:cut] not in self._folders: → In for NotIn": AGAIN,
    },
    "dls.logistics.stores.posix_batch": {
        "body = os.read(fd, size + 1) → 2 for 1": "one byte too many is too many",
        "if not size:  # a pipe or a device has no bytes either → always": SPEED,
        "while 0 < len(body) < size and (more := os.read(fd, size + 1 - len(body))): → 2 for 1": "as above",
        "while 0 < len(body) < size and (more := os.read(fd, size + 1 - len(body))): → Add for Sub": "as above",
        "while 0 < len(body) < size and (more := os.read(fd, size + 1 - len(body))): → LtE for Lt": EMPTY,
    },
    "dls.logistics.stores.posix_files": {
        "if entry.mtime_ns != NO_TIME: → never": TIMES,
        "if entry.mtime_ns != NO_TIME: → Eq for NotEq": TIMES,
        "if entry.mtime_ns != NO_TIME: → always": TIMES + "; that of a link is tested",
        "os.utime(path, ns=(entry.mtime_ns, entry.mtime_ns)) → dropped": TIMES,
        "if mode != NO_MODE and (mode & umask() or mode & ~0o777 or not mode & 0o200): → BitOr for BitAnd": SPEED,
        "if mode != NO_MODE and (mode & umask() or mode & ~0o777 or not mode & 0o200): → 512 for 511": SPEED,
        "return _STAMP(info.st_ino, 0, 0, info.st_mode) → 1 for 0": "any constant",
        f"{LOCKED} → always": "rights that are there are given once more, to what is removed",
        f"{LOCKED} → BitOr for BitAnd": "rights that are there are given once more, to what is removed",
        f"{LOCKED} → 449 for 448": "rights that are there are given once more, to what is removed",
        "os.fchmod(fd, 0o700) → 449 for 448": "it is removed",
    },
    "dls.logistics.stores.posix_upload": {
        "if self._own is not None: → never": "the file system tells what is a hole",
        "os.chmod(beside, 0o600) → 385 for 384": GATHERING,
        "self._fd = os.open(beside, _FLAGS, 0o600) → 385 for 384": GATHERING,
        "_CHUNK = 1 << 20 → 2 for 1": SPEED,
        "_CHUNK = 1 << 20 → 21 for 20": SPEED,
        "while at < stop: → always": EMPTY,
        "while at < stop: → LtE for Lt": EMPTY,
        "if self._beside != self._path: → always": "a rename onto itself",
        "if self._fd < 0: → LtE for Lt": NUMBER,
        "if self._fd < 0: → 1 for 0": NUMBER,
        "if self._fd >= 0: → Gt for GtE": NUMBER,
        "if self._fd >= 0: → 1 for 0": NUMBER,
        "fd, self._fd = self._fd, -1 → 2 for 1": "any negative number",
        "data = os.pread(self._open(), min(_CHUNK, stop - at), at) → Add for Sub": "a part is a whole number of chunks",
        'return path[:cut] + names.HIDDEN + b"part-" + digests.of(path[cut:]).hex()[:32].encode()'
        " → 33 for 32": "a longer name",
    },
    "dls.logistics.stores.posix_walk": {
        f"{ALONE} → always": LONELY,
        f"{ALONE} → GtE for Gt": LONELY,
    },
    "dls.logistics.transfer.bringing": {
        "there = {i: stamp for i, stamp in zip(todo, now, strict=True) if stamp} → False for True": LENGTHS,
        "return [i for i, stamp in zip(asked, now, strict=True) if stamp != before[i]] → False for True": LENGTHS,
        "_one(transfer, segment, i, 1, found, errors) → 2 for 1": SPEED,
        "for attempt in range(transfer.options.retries + 1): → 2 for 1": "the last one has returned",
        "whole, blocks = digests.Hasher(0), list[bytes]() → 1 for 0": NO_BLOCKS,
        "if by_blocks or size > digests.BIG: → always": SPEED + ": blocks of a smaller file are not returned",
        "if by_blocks or size > digests.BIG: → GtE for Gt": SPEED + ": blocks of a smaller file are not returned",
    },
    "dls.logistics.transfer.evidence": {
        "if self._last is None or self._last[0] != home: → always": SPEED,
        "if list(receipt.sources) == listed: → never": SPEED + ": then each is compared",
    },
    "dls.logistics.transfer.inodes": {
        "_PENDING = 4096 → 4097 for 4096": SPEED,
        "if FOLDER in kinds: → always": SPEED,
        'self._told.update(path + b"/" for path, kind in zip(segment.paths, kinds, strict=True) if kind == FOLDER)'
        " → False for True": LENGTHS,
        "if folder != last: → always": SPEED,
        f"{PENDING} → always": SPEED,
        f"{PENDING} → GtE for Gt": SPEED,
        f"{PENDING} → never": "memory after millions of folders",
        'self._told = {one for one in self._told if one[:-1] + b"0" > segment.paths[-1]} → GtE for Gt': "one folder"
        " is remembered longer",
        'end = folder.rfind(b"/", 0, end - 1) + 1 → 2 for 1': "no name is empty: its last byte is no slash",
        'end = folder.rfind(b"/", 0, end - 1) + 1 → 1 for 0': "no name begins with a slash",
        "while end > 0 and not last.startswith(folder[:end]): → GtE for Gt": "every name begins with nothing",
        "while end > 0 and not last.startswith(folder[:end]): → 1 for 0": "a folder and its slash are two bytes",
    },
    "dls.logistics.transfer.landing": {
        "for i, stamp in zip(ordinals, self.final.stamps(keys), strict=True): → False for True": LENGTHS,
        "self._beside = target.below(head + slash + self._hidden, staging=True) if root else None"
        " → False for True": SPEED + ": files are written beside their names and renamed",
    },
    "dls.logistics.transfer.log": {
        "self._fd = -1 → 2 for 1": "any negative number",
        "if self._fd < 0: → LtE for Lt": NUMBER,
        "if self._fd < 0: → 1 for 0": NUMBER,
        "if self._fd >= 0: → Gt for GtE": NUMBER,
        "if self._fd >= 0: → 1 for 0": NUMBER,
    },
    "dls.logistics.transfer.making": {
        "ordinals = made + [i for i, path in enumerate(segment.paths) if path in firsts] if firsts else made"
        " → always": SPEED,
        "if FOLDER in segment.kinds: → always": SPEED,
        "for i, old, new in zip(links, before, after, strict=True): → False for True": LENGTHS,
        "for i, stamp in zip(ordinals, now, strict=True): → False for True": LENGTHS,
        "proven = {i for i, s in zip(made, now, strict=True) if s and i in receipt.done and receipt.stamps[i] == s}"
        " → False for True": LENGTHS,
    },
    "dls.logistics.transfer.parts": {
        "self.progress.ticks += 1 → 2 for 1": LIFE,
        VALUE_SLOTS: PLAIN,
        "with ending(self.source.read(self.entry.path, start, stop + 1 if more else stop)) as chunks:"
        " → 2 for 1": "one byte too many is too many",
        "hasher, at = digests.Hasher(0), start → 1 for 0": NO_BLOCKS,
        "hasher = digests.Hasher(0) → 1 for 0": NO_BLOCKS,
        "self.hasher = digests.Hasher(0)  # of the whole: each stream hashes its own blocks → 1 for 0": NO_BLOCKS,
    },
    "dls.logistics.transfer.plan": {
        VALUE_SLOTS: PLAIN,
        f"{LENGTHS_ALONE} → never": SPEED,
        f"{LENGTHS_ALONE} → Lt for LtE": SPEED,
        "shortest_limit = min(held.part_bytes or longest, (held.key_bytes or longest + room) - room)"
        " → Sub for Add": SPEED,
        f"{ALL_SMALL} → never": SPEED,
        f"{ALL_SMALL} → Lt for LtE": SPEED,
    },
    "dls.logistics.transfer.progress": {VALUE_SLOTS: PLAIN, "self.ticks += 1 → 2 for 1": LIFE},
    "dls.logistics.transfer.prove": {
        VALUE_SLOTS: PLAIN,
        "self.progress.ticks += 1 → 2 for 1": LIFE,
        "streams = self.options.streams if entry.size > digests.BIG else 1 → never": SPEED,
        "streams = self.options.streams if entry.size > digests.BIG else 1 → always": SPEED,
        "streams = self.options.streams if entry.size > digests.BIG else 1 → GtE for Gt": SPEED,
        "streams = self.options.streams if entry.size > digests.BIG else 1 → 2 for 1": SPEED,
    },
    "dls.logistics.transfer.receipt": {
        "return zlib.compress(data, 1) → 2 for 1": SPEED,
        "if len(lengths) <= 1: → never": "the other form says the same in more bytes",
        "if len(lengths) <= 1: → Lt for LtE": "the other form says the same in more bytes",
        "if blank in out: → always": SPEED,
    },
    "dls.logistics.transfer.run": {
        VALUE_SLOTS: PLAIN,
        'now = landing.at.stamps(segment.paths) if looked else [b""] * len(segment) → always': SPEED
        + ": nothing lies there",
        "elif sorts.made: → always": LOOKS,
    },
    "dls.logistics.transfer.share": {
        "gc.disable()  # nothing here is in a cycle → dropped": SPEED,
    },
    "dls.logistics.transfer.sharing": {
        "self._others = (processes or min(len(os.sched_getaffinity(0)), _MOST)) - 1 → 1 for 0": "as many processors",
        "if self.shares or not self.ready: → And for Or": SPEED + ": it ends with its connection, after its share",
        "if self.shares or not self.ready: → always": "one that is idle ends by itself, or is ended",
        "if TYPE_CHECKING: → always": SPEED,
        "_BYTES: Final = 16 << 20 → 17 for 16": SPEED,
        "_AHEAD: Final = 2 → 3 for 2": SPEED,
        "_POLL_MS: Final = 200 → 201 for 200": SPEED,
    },
    "dls.logistics.transfer.small": {
        VALUE_SLOTS: PLAIN,
        "progress.ticks += 1 → 2 for 1": LIFE,
    },
    "dls.logistics.transfer.threads": {
        "while not done.wait(min(0.5, stall_s / 4)): → 5 for 4": "it looks a little more often",
        "elif time.monotonic() - since >= stall_s * patience(): → Gt for GtE": "no two instants are equal",
    },
    "dls.logistics.transfer.transfer": {
        "self.progress.ticks += 1 → 2 for 1": LIFE,
        "if self._over: → always": "who may stop it is asked more often",
    },
}
"""Mutants that change nothing a test could see, with the reason."""


@pytest.fixture(scope="module")
def posix_reached() -> mutant_runs.Reached:
    return mutant_runs.record(list(TESTS), POSIX, ROOT)


@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.timeout(3 * 3600)
@pytest.mark.parametrize("module", TESTS)
def test_mistakes_are_told(module: str, faults_full: bool, posix_reached: mutant_runs.Reached) -> None:
    # The sample of every run is the same one: what a change breaks must not hang on luck.
    report = mutant_runs.run(
        module,
        TESTS[module],
        count=None if faults_full else 10,
        seed=7,
        cwd=ROOT,
        equivalent=EQUIVALENT.get(module, {}),
        tell=print,
        reached=posix_reached,
        jobs=2,
    )
    print(report)
    assert report.rate >= 0.9, str(report)


@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.timeout(6 * 3600)
def test_mistakes_in_transfers_are_told(rng: random.Random, faults_full: bool) -> None:
    if not faults_full:
        pytest.skip("takes a quarter of an hour or more: make faults")
    seed = rng.randrange(2**32)
    reached = mutant_runs.record(TRANSFERS, TRANSFER, ROOT)
    reports = [
        mutant_runs.run(
            module,
            TRANSFER,
            count=20,
            seed=seed,
            cwd=ROOT,
            equivalent=EQUIVALENT.get(module, {}),
            tell=print,
            reached=reached,
            jobs=2,
        )
        for module in TRANSFERS
    ]
    told = "\n".join([f"seed {seed}", *map(str, reports)])
    print(told)
    assert mutant_runs.rate(reports) >= 0.9, told


# ------------------------------------------------------------------------------------------ the tool itself

SOURCE = """
def larger(a: int = 3, b: int = 4) -> int:
    \"\"\"The larger one of 2.\"\"\"
    if not a < b:
        print(f"{a + 1}")
        return a
    return b
"""


def test_mutants_are_told_apart() -> None:
    found = mutants.mutants(SOURCE)
    assert {m.name for m in found} == {
        "def larger(a: int = 3, b: int = 4) -> int: → 4 for 3",
        "def larger(a: int = 3, b: int = 4) -> int: → 5 for 4",
        "if not a < b: → GtE for Lt",
        "if not a < b: → LtE for Lt",
        "if not a < b: → without not",
        "if not a < b: → never",
        "if not a < b: → always",
        'print(f"{a + 1}") → dropped',
        "return a → returns nothing",
        "return b → returns nothing",
    } - {"if not a < b: → GtE for Lt"}
    sources = {mutants.mutated(SOURCE, m.number) for m in found}
    assert len(sources) == len(found)
    for source in sources:
        compile(source, "mutant", "exec")
    with pytest.raises(IndexError):
        mutants.mutated(SOURCE, len(found))
    equivalent = {"return b → returns nothing"}
    assert len(mutants.sample(SOURCE, 100, 1, equivalent)) == len(found) - 1
    assert mutants.sample(SOURCE, 3, 1) == mutants.sample(SOURCE, 3, 1)


def test_equivalent_mutants_are_still_there() -> None:
    """A line that was changed takes its excuse with it."""
    for module, excused in EQUIVALENT.items():
        there = {m.name for m in mutants.mutants(_source(module))}
        assert not set(excused) - there, module


@pytest.mark.fault
def test_the_rate_is_that_of_the_tests(tmp_path: Path) -> None:
    good, bad = tmp_path / "test_good.py", tmp_path / "test_bad.py"
    good.write_text(
        "from dls.logistics import ids\n"
        "def test_ids():\n"
        "    assert 'shadow' in ids.__file__\n"
        "    assert ids.ulid(0)[:10] == '0' * 10 and ids.ulid(32_000_000)[:10] == '0' * 8 + '10'\n"
        "    assert len(ids.ulid()) == 26 and len({ids.ulid()[-8:] for _ in range(9)}) == 9\n"
    )
    bad.write_text("def test_nothing():\n    from dls.logistics import ids\n    ids.ulid\n")
    tried = {"count": 8, "seed": 1, "cwd": tmp_path}
    report = mutant_runs.run("dls.logistics.ids", [str(good)], **tried)
    assert 0.3 < report.rate < 1
    assert len(report.killed) + len(report.survived) == 8
    assert "of 8 mutants killed" in str(report)
    assert "timed out" not in str(report)
    assert mutant_runs.run("dls.logistics.ids", [str(bad)], **tried).rate == 0
    # Each is tried by the tests that pass its line, and by those only.
    some = tmp_path / "test_some.py"
    some.write_text(
        good.read_text() + "def test_idle():\n    from dls.logistics import ids\n    assert ids.ulid\n"
        "def test_other():\n    from dls.logistics import ids\n    assert len(ids.ulid(0)) == 26\n"
    )
    reached = mutant_runs.record(["dls.logistics.ids"], [str(some)], tmp_path)
    met = {m.name: reached.by("dls.logistics.ids", m) for m in mutants.mutants(_source("dls.logistics.ids"))}
    ends = {name: {test.rpartition("::")[2] for test in tests} for name, tests in met.items()}
    assert ends["_last = 0 → 1 for 0"] == {"test_ids", "test_other"}, "on import: whoever reaches the module"
    assert ends["if now_ns is None: → never"] == {"test_ids", "test_other"}
    assert ends["value = _last = value if value > _last else _last + 1 → Sub for Add"] == {"test_ids"}
    assert mutant_runs.run("dls.logistics.ids", [], **tried, reached=reached, jobs=2).rate == report.rate
    nobody = mutant_runs.Reached({}, {}, {})
    assert mutant_runs.run("dls.logistics.ids", [], **tried, reached=nobody).killed == []
    bad.write_text("def test_red():\n    assert 0\n")
    with pytest.raises(RuntimeError, match="fail without a mistake"):
        mutant_runs.run("dls.logistics.ids", [str(bad)], **tried)
    with pytest.raises(RuntimeError, match="no test was found"):
        mutant_runs.killed([sys.executable, "-m", "pytest", str(bad), "-k", "gone"], tmp_path, 60)


def test_what_does_not_end_is_no_kill(tmp_path: Path) -> None:
    assert mutant_runs.killed([sys.executable, "-c", "while True: pass"], tmp_path, 0.3) == mutant_runs.TIMED_OUT
    assert mutant_runs.killed([sys.executable, "-c", "raise SystemExit(0)"], tmp_path, 60) == ""
    assert "Zero" in mutant_runs.killed([sys.executable, "-c", "1 / 0"], tmp_path, 60)
    one = mutants.Mutant(0, 1, "x", "y")
    late = mutant_runs.Report("m", 9, killed=[one], timed_out=[one, one, one])
    assert (late.tried, late.rate) == (4, 0.25)
    assert "1 of 4 mutants killed, 3 timed out" in str(late)
    assert mutant_runs.rate([mutant_runs.Report("n", 3, killed=[one]), late]) == 2 / 5
    assert mutant_runs.rate([]) == 0


def test_statements_and_what_acts_on_import_are_told_apart() -> None:
    source = "A = (\n 1,\n)\n\n\ndef f(x=2):\n if x and (\n     x > 3\n ):\n  return [\n   x,\n  ]\n"
    met = {(m.mistake, m.lines, m.called) for m in mutants.mutants(source)}
    assert ("2 for 1", (1, 3), False) in met
    assert ("3 for 2", (6, 6), False) in met
    assert ("GtE for Gt", (7, 9), True) in met
    assert ("returns nothing", (10, 12), True) in met


def _source(module: str) -> str:
    return (ROOT / "logistics" / (module.replace(".", "/") + ".py")).read_text(encoding="utf-8")


def test_what_mutants_do_to_their_working_folder_is_done_to_an_empty_one(tmp_path: Path) -> None:
    """A mutant of `remove_tree` once removed the files of the checkout."""
    (tmp_path / "test_here.py").write_text(
        "import os\nfrom dls.logistics import names\n\n\n"
        "def test_here():\n    assert names.check(b'a') == b'a'\n    assert os.listdir() == []\n"
    )
    (tmp_path / "precious").write_text("x")
    reached = mutant_runs.record(["dls.logistics.names"], ["test_here.py"], tmp_path)
    assert list(reached.seconds) == ["test_here.py::test_here"]
    report = mutant_runs.run("dls.logistics.names", ["test_here.py"], count=2, seed=1, cwd=tmp_path, reached=reached)
    assert report.tried == 2
    assert sorted(one.name for one in tmp_path.iterdir() if one.name != "__pycache__") == ["precious", "test_here.py"]
