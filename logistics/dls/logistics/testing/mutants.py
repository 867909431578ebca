"""Mutants: one small mistake at a time in a module (`mutant_runs` tries whether its tests tell).

Mistakes: a comparison turned, `not` taken away, `and` for `or`, a number off by one, arithmetic turned, a condition
made constant, a statement dropped, a result withheld.  Equivalent mutants are listed by the caller as
`line text → mistake`, with a reason.
"""

from __future__ import annotations

import ast
import random
import threading
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

_parsing = threading.Lock()  # CPython 3.11 counts the depth of all threads' trees together, and then raises SystemError
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


@dataclass(frozen=True, slots=True)
class Mutant:
    """One mistake; `number` is its place among all of the module."""

    number: int
    line: int
    text: str
    """The line of the source, stripped."""
    mistake: str
    lines: tuple[int, int] = (0, 0)
    """First and last line of the statement that it is in: where a test that can tell it passes."""
    called: bool = True
    """Whether it is in the body of a function; else it acts when the module is imported."""

    def __str__(self) -> str:
        return f"line {self.line}: {self.text}  →  {self.mistake}"

    @property
    def name(self) -> str:
        """How a list of equivalent mutants names it: without the number of the line, which moves."""
        return f"{self.text} → {self.mistake}"


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
    lines, tree = source.splitlines(), ast.parse(source)
    spans = _spans(tree)
    found = []
    for number, (node, mistake, _) in enumerate(_changes(tree)):
        line = getattr(node, "lineno", 0)
        first, last, called = spans.get(id(node), (line, line, True))
        found.append(Mutant(number, line, lines[line - 1].strip() if line else "", mistake, (first, last), called))
    return found


def _spans(tree: ast.Module) -> dict[int, tuple[int, int, bool]]:
    """For each node the lines of its statement (of a compound one: its head) and whether it is in a function's body."""
    out: dict[int, tuple[int, int, bool]] = {}

    def walk(node: ast.AST, first: int, last: int, called: bool) -> None:
        for child in ast.iter_child_nodes(node):
            here, end, inside = first, last, called
            if isinstance(child, ast.stmt):
                body = getattr(child, "body", None)
                here, end = child.lineno, child.end_lineno or child.lineno
                if isinstance(body, list) and body:
                    end = max(here, body[0].lineno - 1)
                inside = called or (isinstance(node, ast.FunctionDef) and child in node.body)
            elif isinstance(child, ast.ExceptHandler | ast.match_case):
                here = end = getattr(child, "lineno", first)
            out[id(child)] = here, end, inside
            walk(child, here, end, inside)

    walk(tree, 1, 1, called=False)
    return out


def mutated(source: str, number: int) -> str:
    """The source with one mistake."""
    with _parsing:
        tree = ast.parse(source)
    for i, (_, _, make) in enumerate(_changes(tree)):
        if i == number:
            make()
            return ast.unparse(ast.fix_missing_locations(tree))
    raise IndexError(number)


def sample(source: str, count: int, seed: int, equivalent: Collection[str] = ()) -> list[Mutant]:
    """Some mutants, the same for the same seed; those that are listed as equivalent are left out."""
    found = [m for m in mutants(source) if m.name not in equivalent]
    return sorted(random.Random(seed).sample(found, min(count, len(found))), key=lambda m: m.number)
