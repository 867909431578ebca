"""What every test shares: isolation from the user's own settings, seeds, components, and a clean end.

A run fails when something that it started is still there at its end: a process, a mount, a loop device.
"""

import os
import random
import signal
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, configuration, settings

from components import postgres

ROOT = Path(__file__).resolve().parents[1]
FULL = os.environ.get("DLS_FAULTS") == "full"
# A sample is the same on each run, so that a red test stays red; the full set looks elsewhere each time.
SEED = int(os.environ.get("DLS_SEED") or (random.SystemRandom().randrange(2**32) if FULL else 20260101))
MARK = "DLS_TEST_SESSION"  # inherited by all that we start, however far it daemonises
GRACE = 3.0  # seconds that a stopped server gets to be gone

# Where these are set, pytest shows differences whole: for a body of 32 MB, line by line, that takes hours.
for name in ("CI", "BUILD_NUMBER"):
    os.environ.pop(name, None)

# Whoever runs us in the background, or through nohup, lets us and our children ignore these: tests of Ctrl-C need them.
for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, usual)

# The suites that we ship are tests too: a failing assert there shows its values.
pytest.register_assert_rewrite(*(f"dls.{part}.testing" for part in ("logistics", "catalogue", "fuse", "madpp")))

configuration.set_hypothesis_home_dir(ROOT / "build" / "cache" / "hypothesis")
# deadline: tests share two cores with other work and never judge time.
_common = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow], "print_blob": True}
settings.register_profile("repeatable", max_examples=60, derandomize=True, database=None, **_common)
settings.register_profile("explore", max_examples=1000, **_common)
settings.load_profile("explore" if FULL else "repeatable")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--need",
        action="append",
        default=[],
        metavar="NAME",
        help="fail, do not skip, when the component NAME is not available (repeatable; `all` for each)",
    )


def pytest_report_header(config: pytest.Config) -> str:
    return f"dls: seed {SEED} (repeat with DLS_SEED={SEED}), faults {'full' if FULL else 'sample'}"


# ------------------------------------------------------------------------------------------- isolation


@pytest.fixture(scope="session", autouse=True)
def _isolated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads the user's settings or credentials, and all temporary files are below one folder."""
    away = tmp_path_factory.mktemp("session")
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            # DLS_TEST_*: addresses of live services, and our own mark.
            if name.startswith(("AWS_", "DLS_")) and not name.startswith(("DLS_TEST_", "DLS_FAULTS", "DLS_SEED")):
                patch.delenv(name)
        patch.setenv("DLS_HOME", str(away / "unused-home"))
        patch.setenv("AWS_CONFIG_FILE", str(away / "absent"))
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(away / "absent"))
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")  # else a missing key waits for an address on the network
        patch.setenv("TMPDIR", str(away))
        patch.setattr(tempfile, "tempdir", str(away))
        yield


@pytest.fixture
def dls_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A DLS_HOME of this test's own, set in the environment; the folder does not exist yet."""
    home = tmp_path / "dls-home"
    monkeypatch.setenv("DLS_HOME", str(home))
    return home


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Random numbers that depend on the seed of the run and the test's id, not on the order of tests."""
    return random.Random(f"{SEED}:{request.node.nodeid}")


@pytest.fixture(scope="session")
def faults_full() -> bool:
    """True under `make faults`: take every fault; False: a sample."""
    return FULL


@pytest.fixture(scope="session")
def need(pytestconfig: pytest.Config) -> Callable[[str, object, str], None]:
    """`need("rclone", path_or_none, "not installed")`: skips, or fails if the run was told to need it."""
    needed = set(pytestconfig.getoption("--need"))

    def _need(name: str, available: object, why: str = "not installed") -> None:
        if not available:
            text = f"component {name}: {why}"
            if needed & {name, "all"}:
                pytest.fail(text, pytrace=False)
            pytest.skip(text)

    return _need


@pytest.fixture(scope="session")
def postgres_server(need: Callable[[str, object, str], None]) -> Iterator["postgres.PostgresServer"]:
    """One PostgreSQL server for the run; it syncs nothing.  Each test takes a schema of its own."""
    need("postgres", postgres.installed(), "not installed")
    with postgres.postgres() as server:
        yield server


@pytest.fixture
def pg_state(postgres_server: "postgres.PostgresServer") -> tuple[str, str]:
    """URL and schema of a state that no other test uses."""
    return postgres_server.url, f"t{uuid.uuid4().hex}"


# --------------------------------------------------------------------------------- rules and their tests

_RULES = pytest.StashKey[dict[str, set[str]]]()
_DONE = pytest.StashKey[set[str]]()


@pytest.hookimpl(trylast=True)  # after -m and -k took their share
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    rules: dict[str, set[str]] = {}
    for item in items:
        for marker in item.iter_markers("spec"):
            for rule in marker.args:
                rules.setdefault(str(rule), set()).add(item.nodeid)
    config.stash[_RULES] = rules
    config.stash[_DONE] = set()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.when == "call" and not report.skipped:
        item.config.stash[_DONE].add(item.nodeid)
    return report


# ------------------------------------------------------------------------------------------ a clean end


class _World:
    """What exists outside this process and could be left behind."""

    def __init__(self) -> None:
        self.mark = uuid.uuid4().hex
        os.environ[MARK] = self.mark
        self.mounts = set(_mounts())
        self.loops = set(_loops())

    def processes(self) -> list[psutil.Process]:
        found = {p.pid: p for p in psutil.Process().children(recursive=True)}
        for process in psutil.process_iter():
            try:
                if process.pid != os.getpid() and process.environ().get(MARK) == self.mark:
                    found[process.pid] = process
            except psutil.Error:  # ended meanwhile, or not ours to look at
                continue
        return [p for p in found.values() if _is_left_over(p)]

    def places(self, below: list[str]) -> tuple[list[str], list[str]]:
        """Mount points and loop devices that came up since the start and belong to this run's folders."""
        loops = {dev: file for dev, file in _loops() if (dev, file) not in self.loops and _is_below(file, below)}
        mounts = [
            point
            for source, point in _mounts()
            if (source, point) not in self.mounts and (_is_below(point, below) or source in loops)
        ]
        return mounts, list(loops)


def _is_left_over(process: psutil.Process) -> bool:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        # Python's own helper of multiprocessing lives as long as we do.
        return "multiprocessing.resource_tracker" not in " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return False


def _mounts() -> list[tuple[str, str]]:
    lines = Path("/proc/self/mounts").read_text(errors="surrogateescape").splitlines()
    fields = [line.split(" ") for line in lines]
    return [(f[0], f[1].encode("latin-1", "replace").decode("unicode_escape")) for f in fields]


def _loops() -> list[tuple[str, str]]:
    found = []
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            found.append((f"/dev/{backing.parts[3]}", backing.read_text(errors="surrogateescape").strip()))
        except OSError:  # detached while we looked
            continue
    return found


def _is_below(path: str, folders: list[str]) -> bool:
    return any(path == folder or path.startswith(folder + "/") for folder in folders)


_WORLD = pytest.StashKey[_World]()
_LEFT = pytest.StashKey[list[str]]()


def pytest_sessionstart(session: pytest.Session) -> None:
    session.config.stash[_WORLD] = _World()


def _hands_out(config: pytest.Config) -> bool:
    """Whether this process runs no test, but hands them out to others (-n), each of which looks after its own."""
    return bool(getattr(config.option, "numprocesses", 0)) and not hasattr(config, "workerinput")


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """What one of those others told at its end."""
    stash, told = node.config.stash, getattr(node, "workeroutput", {})
    stash.setdefault(_LEFT, []).extend(told.get("left", ()))
    stash.setdefault(_DONE, set()).update(told.get("done", ()))
    for rule, tests in told.get("rules", {}).items():
        stash.setdefault(_RULES, {}).setdefault(rule, set()).update(tests)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Name what is left over, take it away so that nothing stays running, and fail the run."""
    if not _hands_out(session.config):
        session.config.stash[_LEFT] = _left(session)
    stash, told = session.config.stash, getattr(session.config, "workeroutput", None)
    if told is not None:
        told["left"], told["done"] = stash[_LEFT], sorted(stash.get(_DONE, ()))
        told["rules"] = {rule: sorted(tests) for rule, tests in stash.get(_RULES, {}).items()}
    if stash.get(_LEFT, []) and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _left(session: pytest.Session) -> list[str]:
    world = session.config.stash[_WORLD]
    until = time.monotonic() + GRACE
    while (processes := world.processes()) and time.monotonic() < until:
        time.sleep(0.1)
    left = []
    for process in processes:
        try:
            left.append(f"process {process.pid}: {' '.join(process.cmdline())[:200]}")
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(processes, timeout=GRACE)

    below: list[str] = []  # another run may own mounts elsewhere
    factory = getattr(session.config, "_tmp_path_factory", None)  # pytest offers no public way at this point
    if factory is not None:
        below.append(str(factory.getbasetemp()))
    mounts, loops = world.places(below)
    left += [f"mount {point}" for point in mounts] + [f"loop device {dev}" for dev in loops]
    for point in reversed(mounts):
        os.spawnlp(os.P_WAIT, "umount", "umount", "-l", point)
    for dev in loops:
        os.spawnlp(os.P_WAIT, "losetup", "losetup", "-d", dev)
    return left


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    rules, done = config.stash.get(_RULES, {}), config.stash.get(_DONE, set())
    if rules:
        idle = sorted(rule for rule, tests in rules.items() if not tests & done)
        note = f"; selected but not run: {', '.join(idle)}" if idle else ""
        terminalreporter.write_line(f"rules exercised: {len(rules) - len(idle)}{note}")
    left = config.stash.get(_LEFT, [])
    if left:
        terminalreporter.section("left over by this run (removed, and the run fails)", red=True)
        for line in left:
            terminalreporter.write_line(line, red=True)
