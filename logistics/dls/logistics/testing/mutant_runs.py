"""Do the tests of a module tell its mistakes?  Mutants are tried one by one, each by the tests that reach its line.

    python -m dls.logistics.testing.mutant_runs dls.logistics.stores.posix --tests tests/conformance/test_stores.py \
        --select TestPosix --count 40 --seed 1

A mutant is run in a copy of the package that is put first on the import path, so that child processes of a test meet
it too.  First the tests run once on the clean copy, and it is written down which lines each one reaches (`touched`);
then a mutant in the body of a function is tried by the tests that pass there, the quickest first, and one that acts on
import by all that reach the module.  It is killed when a test fails or cannot start; a test that takes thirty times as
long as on the clean copy (at least 20 s) fails.  A run that does not end at all is told apart and counts as not
killed, since a slow machine looks the same.

A mutant may do what nobody meant: one that removes what is in the working folder did so in a checkout.  Tests of
mutants therefore work in an empty folder of their own; they are found by absolute paths.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from dls.logistics.testing.mutants import Mutant, mutants, mutated, sample

TIMED_OUT = "timed out"
_PLUGIN = "dls_touched"  # our `touched`, loaded by itself: pytest is still to rewrite the package that holds it
_NO_TESTS = 5  # how pytest says it
_SLACK, _LEAST_S = 30, 20.0  # a test may take so many times as long as on the clean copy, and so long in any case


@dataclass(slots=True)
class Report:
    """What became of the mutants."""

    module: str
    possible: int
    killed: list[Mutant] = field(default_factory=list)
    survived: list[Mutant] = field(default_factory=list)
    timed_out: list[Mutant] = field(default_factory=list)
    """Their tests did not end in time: a hang or a slow machine, so they count as not killed."""

    @property
    def tried(self) -> int:
        """How many were tried."""
        return len(self.killed) + len(self.survived) + len(self.timed_out)

    @property
    def rate(self) -> float:
        """Share of those tried that were killed, 0 … 1."""
        return rate([self])

    def __str__(self) -> str:
        late = f", {len(self.timed_out)} timed out" if self.timed_out else ""
        lines = [f"{self.module}: {len(self.killed)} of {self.tried} mutants killed{late} ({self.possible} possible)"]
        lines += [f"  survived  {m}" for m in self.survived]
        return "\n".join(lines + [f"  {TIMED_OUT}  {m}" for m in self.timed_out])


def rate(reports: Collection[Report]) -> float:
    """Share of all mutants tried that were killed, 0 … 1: small samples of several modules mean something together."""
    tried = sum(one.tried for one in reports)
    return sum(len(one.killed) for one in reports) / tried if tried else 0.0


@dataclass(frozen=True, slots=True)
class Reached:
    """What each test reached of some modules, and how long it took, on the clean copy."""

    seconds: dict[str, float]
    """By node id, in the order of the run."""
    paths: dict[str, str]
    lines: dict[str, dict[int, list[str]]]
    """By module and line: the tests that passed there."""

    def by(self, module: str, mutant: Mutant) -> list[str]:
        """The tests that can tell a mutant, the quickest first."""
        lines = self.lines.get(module, {})
        first, last = mutant.lines
        found = {test for line in range(first, last + 1) for test in lines.get(line, ())}
        if not found and not mutant.called:
            found = {test for tests in lines.values() for test in tests}
        return sorted(found, key=lambda test: (self.seconds[test], test))


class Shadow:
    """A copy of the top package of a module, put before the real one on the import path of child processes."""

    def __init__(self, module: str, folder: Path) -> None:
        self._module, self._top, inside = module, *_origin(module)
        self.root = folder / "shadow"
        shutil.copytree(self._top, self.root, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copyfile(Path(__file__).with_name("touched.py"), self.root / f"{_PLUGIN}.py")
        self.file = self.root / inside
        self.source = self.file.read_text(encoding="utf-8")
        self._pycache, self._turn = folder / "pycache", 0

    def put(self, source: str) -> None:
        """Make this the module's source; its time tells Python that what it compiled before is of another."""
        self.file.write_text(source, encoding="utf-8")
        self._turn += 1
        os.utime(self.file, (self._turn, self._turn))

    def command(self, *arguments: str) -> list[str]:
        """A Python that meets the copy first, keeps bytecode beside it and is the same each time."""
        settings = [f"PYTHONPATH={self.root}", f"PYTHONPYCACHEPREFIX={self._pycache}", "PYTHONHASHSEED=0"]
        return ["env", "-u", "PYTHONDONTWRITEBYTECODE", *settings, sys.executable, *arguments]

    def check(self, cwd: Path) -> None:
        """The copy is what a child process imports."""
        code = f"import importlib; print(importlib.import_module({self._module!r}).__file__)"
        done = subprocess.run(self.command("-c", code), cwd=cwd, capture_output=True, text=True, check=True)
        if Path(done.stdout.strip()) != self.file:
            raise RuntimeError(f"{self._module} is not taken from the copy but from {done.stdout.strip()}")


def _origin(module: str) -> tuple[Path, Path]:
    """The folder above the namespace `dls` that holds a module, and the module's path inside it."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(module)
    origin = Path(spec.origin)
    top = origin.parents[module.count(".") + (origin.name == "__init__.py")]
    return top, origin.relative_to(top)


def killed(command: Sequence[str], cwd: Path, seconds: float) -> str:
    """How the tests ended: '' when they passed."""
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(
            command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            status = child.wait(seconds)
        except subprocess.TimeoutExpired:
            return TIMED_OUT
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)  # the group that we began, with whatever it left
            child.wait()
        if status == _NO_TESTS:
            raise RuntimeError(f"no test was found: {' '.join(command)}")
        said.seek(0)
        return "" if status == 0 else said.read().decode(errors="replace")[-4000:]


def _pytest(shadow: Shadow, folder: Path, cwd: Path, arguments: Sequence[str], seconds: float) -> str:
    """How the tests ended that are given as in `cwd`; they work in a folder of their own."""
    few = ["-x", "-q", "--no-header", "-p", _PLUGIN, f"--basetemp={folder}/tmp", "-o", f"cache_dir={folder}/cache"]
    settings = cwd.resolve() / "pyproject.toml"
    where = [f"--rootdir={settings.parent}", *(["-c", str(settings)] if settings.exists() else [])]
    given = [str(cwd.resolve() / one) if (cwd / one).exists() else one for one in arguments]
    away = folder / "away"
    away.mkdir(exist_ok=True)
    return killed(shadow.command("-m", "pytest", *few, *where, *given), away, seconds)


def record(modules: Sequence[str], tests: Sequence[str], cwd: Path, seconds: float = 1800) -> Reached:
    """Run the tests once on a clean copy; RuntimeError where they fail."""
    with tempfile.TemporaryDirectory(prefix="dls-mutants-") as name:
        folder = Path(name)
        shadow = Shadow(modules[0], folder)
        shadow.check(cwd)
        files = {module: shadow.root / _origin(module)[1] for module in modules}
        told, wanted = folder / "touched.json", [f"--touched={file}" for file in files.values()]
        if said := _pytest(shadow, folder, cwd, [f"--touched-record={told}", *wanted, *tests], seconds):
            raise RuntimeError(f"the tests fail without a mistake:\n{said}")
        found = json.loads(told.read_text(encoding="utf-8"))
    names = list(found["seconds"])
    lines = {
        module: {int(line): [names[n] for n in tests] for line, tests in found["lines"].get(str(file), {}).items()}
        for module, file in files.items()
    }
    return Reached(found["seconds"], found["paths"], lines)


def run(
    module: str,
    tests: Sequence[str],
    *,
    seed: int,
    cwd: Path,
    count: int | None = None,
    equivalent: Collection[str] = (),
    seconds: float = 60,
    tell: Callable[[str], None] = lambda line: None,
    reached: Reached | None = None,
    jobs: int = 1,
) -> Report:
    """Try `count` mutants of a module (None: all) by `tests`, which are arguments of pytest and must pass on the clean
    copy; `reached` is what `record` told of them.  A run may take `seconds` longer than its tests may together."""
    reached = reached or record([module], tests, cwd)
    idle: queue.SimpleQueue[tuple[Shadow, Path]] = queue.SimpleQueue()
    with ExitStack() as stack:
        for _ in range(jobs):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dls-mutants-")))
            idle.put((Shadow(module, folder), folder))
        source = _origin(module)[0].joinpath(_origin(module)[1]).read_text(encoding="utf-8")

        def tried(mutant: Mutant) -> str:
            if not (chosen := reached.by(module, mutant)):
                return ""
            shadow, folder = idle.get()
            try:
                shadow.put(mutated(source, mutant.number))
                return _tried(shadow, folder, reached, chosen, cwd, seconds)
            finally:
                idle.put((shadow, folder))

        report = Report(module, len(mutants(source)))
        wanted = sample(source, count if count is not None else report.possible, seed, equivalent)
        with ThreadPoolExecutor(jobs) as pool:
            for mutant, told in zip(wanted, pool.map(tried, wanted), strict=True):
                met = {"": report.survived, TIMED_OUT: report.timed_out}.get(told, report.killed)
                met.append(mutant)
                tell(f"{'SURVIVED' if not told else TIMED_OUT if told == TIMED_OUT else 'killed'}  {module} {mutant}")
    return report


def _tried(shadow: Shadow, folder: Path, reached: Reached, chosen: Sequence[str], cwd: Path, seconds: float) -> str:
    limits = {test: max(_LEAST_S, _SLACK * reached.seconds[test]) for test in chosen}
    (folder / "chosen.json").write_text(json.dumps(limits), encoding="utf-8")
    paths = sorted({reached.paths[test] for test in chosen})
    limit = seconds + _SLACK * sum(reached.seconds[test] for test in chosen)
    return _pytest(shadow, folder, cwd, [f"--touched-choose={folder}/chosen.json", *paths], limit)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; the report goes to standard error, the exit status is 1 below 90 %."""
    parser = argparse.ArgumentParser(prog="mutant_runs", description="Do the tests of a module tell its mistakes?")
    parser.add_argument("module")
    parser.add_argument("--tests", action="append", required=True, metavar="PATH")
    parser.add_argument("--select", default="", help="pytest -k")
    parser.add_argument("--marks", default="not service and not slow", help="pytest -m")
    parser.add_argument("--count", type=int, default=None, help="how many; all by default")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1)
    given = parser.parse_args(arguments)
    tests = [*given.tests, "-m", given.marks, *(["-k", given.select] if given.select else [])]
    report = run(given.module, tests, count=given.count, seed=given.seed, cwd=Path.cwd(), jobs=given.jobs)
    parser.exit(0 if report.rate >= 0.9 else 1, f"{report}\n")


if __name__ == "__main__":
    main()
