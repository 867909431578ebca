"""`specs/errors.md` and the sources name the same codes, with the same kinds and exit statuses."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from dls.cli.failure import BUG
from dls.logistics.errors import KINDS

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("logistics", "catalogue", "fuse", "madpp", "cli")
STATUS = {kind.kind: kind.exit_status for kind in KINDS} | {"bug": BUG}
NAMES = {kind.__name__: kind.kind for kind in KINDS}
ROW = re.compile(r"^\| `([a-z0-9-]+)` \| ([a-z, -]+) \| ([0-9, +a-z]+) \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)


@functools.cache
def trees() -> tuple[tuple[Path, ast.AST], ...]:
    """The sources that we ship, without the suites."""
    paths = [path for part in PARTS for path in sorted((ROOT / part / "dls").rglob("*.py"))]
    return tuple((p, ast.parse(p.read_text(encoding="utf-8"))) for p in paths if "testing" not in p.parts)


@functools.cache
def raised() -> dict[str, set[str]]:
    """Code → kinds: of every `code="…"`, of every row (Kind, "code", …) of a table, of every `{"code": "…"}`."""
    found: dict[str, set[str]] = {}
    for _, tree in trees():
        for node in ast.walk(tree):
            for code, kind in (*_call(node), *_tuple(node), *_dict(node)):
                found.setdefault(code, set()).update(kind)
    return found


def _call(node: ast.AST) -> Iterator[tuple[str, set[str]]]:
    if isinstance(node, ast.Call):
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        for word in node.keywords:
            if word.arg == "code" and isinstance(word.value, ast.Constant) and isinstance(word.value.value, str):
                yield word.value.value, {NAMES[name]} if name in NAMES else set()


def _tuple(node: ast.AST) -> Iterator[tuple[str, set[str]]]:
    match node:
        case ast.Tuple(elts=[ast.Name(id=name), ast.Constant(value=str(code)), _, *_]) if name in NAMES:
            yield code, {NAMES[name]}


def _dict(node: ast.AST) -> Iterator[tuple[str, set[str]]]:
    if isinstance(node, ast.Dict):
        pairs = {k.value: v.value for k, v in zip(node.keys, node.values, strict=True) if _plain(k) and _plain(v)}
        if "code" in pairs and "kind" in pairs:
            yield pairs["code"], {pairs["kind"]}


def _plain(node: ast.AST | None) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def table() -> dict[str, tuple[set[str], str, str, str]]:
    """Code → (kinds, exit status, what it names, what to do), as the spec says."""
    text = (ROOT / "specs" / "errors.md").read_text(encoding="utf-8")
    rows = ROW.findall(text)
    assert len({code for code, *_ in rows}) == len(rows), "a code stands twice"
    assert len(rows) == len(re.findall(r"^\| `", text, re.MULTILINE)), "a row is not of the form of the others"
    return {
        code: ({k.strip() for k in kinds.split(",")}, status, of, remedy) for code, kinds, status, of, remedy in rows
    }


@pytest.mark.spec("ERROR-11")
def test_every_code_is_in_the_table() -> None:
    missing = sorted(set(raised()) - set(table()))
    assert not missing, f"raised, and not in specs/errors.md: {missing}"


@pytest.mark.spec("ERROR-11")
def test_every_row_of_the_table_is_raised() -> None:
    extra = sorted(set(table()) - set(raised()))
    assert not extra, f"in specs/errors.md, and never raised: {extra}"


@pytest.mark.spec("ERROR-11")
def test_kinds_and_statuses_agree() -> None:
    said = raised()
    for code, (kinds, status, _, _) in table().items():
        assert said[code] <= kinds, f"{code} is raised as {said[code]}, the table says {kinds}"
        if code != "interrupted":
            assert {int(s) for s in status.split(",")} == {STATUS[kind] for kind in kinds}, code


def test_every_error_of_ours_has_a_code() -> None:
    silent = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in NAMES
        if "code" not in {word.arg for word in node.keywords}
    ]
    assert not silent, f"an error without a code: {silent}"
