"""Mutants: one small mistake at a time in a module, to see whether its tests tell.

    python -m dls.logistics.testing.mutants dls.logistics.stores.posix --tests tests/conformance/test_stores.py \
        --select TestPosix --count 40 --seed 1

A mutant is run in a copy of the package that is put first on the import path, so that child processes of a test meet
it too.  It is killed when the tests fail or cannot start; one whose tests did not end in time is told apart and counts
as not killed, since a slow machine looks the same.  Mistakes: a comparison turned, `not`
taken away, `and` for `or`, a number off by one, arithmetic turned, a condition made constant, a statement dropped, a
result withheld.  Equivalent mutants are listed by the caller as `line text → mistake`, with a reason.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib.util
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

_TURNED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_OTHER: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
TIMED_OUT = "timed out"


@dataclass(frozen=True, slots=True)
class Mutant:
    """One mistake; `number` is its place among all of the module."""

    number: int
    line: int
    text: str
    """The line of the source, stripped."""
    mistake: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.text}  →  {self.mistake}"

    @property
    def name(self) -> str:
        """How a list of equivalent mutants names it: without the number of the line, which moves."""
        return f"{self.text} → {self.mistake}"


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


Change = tuple[ast.AST, str, Callable[[], None]]


def _changes(tree: ast.Module) -> Iterator[Change]:
    """Every mistake that can be made in a tree, each as a function that makes it."""
    silent = {id(c) for node in ast.walk(tree) for c in _not_code(node)}
    for node in ast.walk(tree):
        if id(node) in silent:
            continue
        yield from _in_expression(node)
        for body in (getattr(node, "body", None), getattr(node, "orelse", None), getattr(node, "finalbody", None)):
            if isinstance(body, list) and not isinstance(node, ast.ClassDef | ast.Module):
                yield from _in_block(body)


def _not_code(node: ast.AST) -> Iterator[ast.AST]:
    """Annotations, docstrings and the texts of errors: mistakes there are nobody's bug."""
    for name in ("annotation", "returns"):
        if (part := getattr(node, name, None)) is not None:
            yield from ast.walk(part)
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        yield from ast.walk(node)
    if isinstance(node, ast.JoinedStr):
        yield from ast.walk(node)


def _in_expression(node: ast.AST) -> Iterator[Change]:
    if isinstance(node, ast.Compare):
        for i, op in enumerate(node.ops):
            if (other := _TURNED.get(type(op))) is not None:
                yield node, f"{other.__name__} for {type(op).__name__}", _setter(node.ops, i, other())
    elif isinstance(node, ast.BoolOp):
        swapped = ast.And() if isinstance(node.op, ast.Or) else ast.Or()
        yield node, f"{type(swapped).__name__} for {type(node.op).__name__}", _attribute(node, "op", swapped)
    elif isinstance(node, ast.BinOp) and type(node.op) in _OTHER:
        if not any(isinstance(s, ast.Constant) and isinstance(s.value, str | bytes) for s in (node.left, node.right)):
            turned = _OTHER[type(node.op)]()
            yield node, f"{type(turned).__name__} for {type(node.op).__name__}", _attribute(node, "op", turned)
    elif isinstance(node, ast.Constant) and type(node.value) is int:
        yield node, f"{node.value + 1} for {node.value}", _attribute(node, "value", node.value + 1)
    elif isinstance(node, ast.Constant) and type(node.value) is bool:
        yield node, f"{not node.value} for {node.value}", _attribute(node, "value", not node.value)
    elif isinstance(node, ast.If | ast.While | ast.IfExp):
        yield from _in_condition(node)


def _in_condition(node: ast.If | ast.While | ast.IfExp) -> Iterator[Change]:
    test = node.test
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        yield test, "without not", _attribute(node, "test", test.operand)
    if not isinstance(node, ast.While):
        yield test, "never", _attribute(node, "test", ast.Constant(value=False))
    if not isinstance(test, ast.Constant):
        yield test, "always", _attribute(node, "test", ast.Constant(value=True))


def _in_block(body: list[ast.stmt]) -> Iterator[Change]:
    for i, statement in enumerate(body):
        match statement:
            case ast.Expr(value=ast.Call() | ast.Yield() | ast.YieldFrom()) | ast.AugAssign() | ast.Delete():
                yield statement, "dropped", _setter(body, i, ast.Pass())
            case ast.Raise():
                yield statement, "not raised", _setter(body, i, ast.Pass())
            case ast.Continue() | ast.Break():
                yield statement, "dropped", _setter(body, i, ast.Pass())
            case ast.Return(value=value) if value is not None and not isinstance(value, ast.Constant):
                yield statement, "returns nothing", _attribute(statement, "value", ast.Constant(value=None))


def _setter(where: list, i: int, what: ast.AST) -> Callable[[], None]:  # type: ignore[type-arg]
    def make() -> None:
        where[i] = what

    return make


def _attribute(node: ast.AST, name: str, what: object) -> Callable[[], None]:
    return lambda: setattr(node, name, what)


def mutants(source: str) -> list[Mutant]:
    """Every mutant of a source text."""
    lines = source.splitlines()
    found = []
    for number, (node, mistake, _) in enumerate(_changes(ast.parse(source))):
        line = getattr(node, "lineno", 0)
        found.append(Mutant(number, line, lines[line - 1].strip() if line else "", mistake))
    return found


def mutated(source: str, number: int) -> str:
    """The source with one mistake."""
    tree = copy.deepcopy(ast.parse(source))
    for i, (_, _, make) in enumerate(_changes(tree)):
        if i == number:
            make()
            return ast.unparse(ast.fix_missing_locations(tree))
    raise IndexError(number)


def sample(source: str, count: int, seed: int, equivalent: Collection[str] = ()) -> list[Mutant]:
    """Some mutants, the same for the same seed; those that are listed as equivalent are left out."""
    found = [m for m in mutants(source) if m.name not in equivalent]
    return sorted(random.Random(seed).sample(found, min(count, len(found))), key=lambda m: m.number)


class Shadow:
    """A copy of the top package of a module, put before the real one on the import path of child processes."""

    def __init__(self, module: str, folder: Path) -> None:
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(module)
        origin = Path(spec.origin)
        depth = module.count(".") + (origin.name == "__init__.py")
        top = origin.parents[depth]  # …/logistics, the folder above the namespace `dls`
        self.root = folder / "shadow"
        shutil.copytree(top, self.root, ignore=shutil.ignore_patterns("__pycache__"))
        self.file = self.root / origin.relative_to(top)
        self.source = self.file.read_text(encoding="utf-8")
        self._module = module

    def put(self, source: str) -> None:
        """Make this the module's source."""
        self.file.write_text(source, encoding="utf-8")

    def command(self, *arguments: str) -> list[str]:
        """A Python that meets the copy first, writes no bytecode and is the same each time."""
        return ["env", f"PYTHONPATH={self.root}", "PYTHONHASHSEED=0", sys.executable, "-B", *arguments]

    def check(self, cwd: Path) -> None:
        """The copy is what a child process imports."""
        code = f"import importlib; print(importlib.import_module({self._module!r}).__file__)"
        done = subprocess.run(self.command("-c", code), cwd=cwd, capture_output=True, text=True, check=True)
        if Path(done.stdout.strip()) != self.file:
            raise RuntimeError(f"{self._module} is not taken from the copy but from {done.stdout.strip()}")


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
        said.seek(0)
        return "" if status == 0 else said.read().decode(errors="replace")[-4000:]


def run(
    module: str,
    tests: Sequence[str],
    *,
    count: int,
    seed: int,
    cwd: Path,
    equivalent: Collection[str] = (),
    seconds: float = 120,
    tell: Callable[[str], None] = lambda line: None,
    clean: bool = True,
) -> Report:
    """Try `count` mutants of a module with `pytest -x *tests`; the clean copy must pass first, unless the caller knows
    that it does (`clean` False)."""
    with tempfile.TemporaryDirectory(prefix="dls-mutants-") as folder:
        shadow = Shadow(module, Path(folder))
        shadow.check(cwd)
        pytest = ["-m", "pytest", "-x", "-q", "--no-header", "-o", f"cache_dir={folder}/cache"]
        command = shadow.command(*pytest, f"--basetemp={folder}/tmp", *tests)
        if clean and (said := killed(command, cwd, seconds)):
            raise RuntimeError(f"the tests fail without a mistake:\n{said}")
        report = Report(module, len(mutants(shadow.source)))
        for mutant in sample(shadow.source, count, seed, equivalent):
            shadow.put(mutated(shadow.source, mutant.number))
            told = killed(command, cwd, seconds)
            met = {"": report.survived, TIMED_OUT: report.timed_out}.get(told, report.killed)
            met.append(mutant)
            tell(f"{'SURVIVED' if not told else TIMED_OUT if told == TIMED_OUT else 'killed'}  {mutant}")
    return report


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; the report goes to standard error, the exit status is 1 below 90 %."""
    parser = argparse.ArgumentParser(prog="mutants", description="Do the tests of a module tell its mistakes?")
    parser.add_argument("module")
    parser.add_argument("--tests", action="append", required=True, metavar="PATH")
    parser.add_argument("--select", default="", help="pytest -k")
    parser.add_argument("--marks", default="not service and not slow", help="pytest -m")
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=120)
    given = parser.parse_args(arguments)
    tests = [*given.tests, "-m", given.marks, *(["-k", given.select] if given.select else [])]
    report = run(given.module, tests, count=given.count, seed=given.seed, cwd=Path.cwd(), seconds=given.seconds)
    parser.exit(0 if report.rate >= 0.9 else 1, f"{report}\n")


if __name__ == "__main__":
    main()
