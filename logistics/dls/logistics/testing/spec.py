"""Rules and their tests: `@spec` ties one to the other, and a suite cannot be weakened unseen.

    class TestMine(StoreContract):
        @deviation("STORE-18", "this service has no atomic rename")
        def test_move_is_atomic(self, store): ...

A subclass that redefines a `test_…` of a suite is refused, unless it says so by `@deviation`: then the suite's own
test runs and must fail (`xfail(strict=True)`), so that a repaired deviation fails until it is taken out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar

pytest: Any
try:
    import pytest
except ImportError:  # rules can be read where pytest is not installed
    pytest = None

F = TypeVar("F", bound=Callable[..., Any])


def spec(*ids: str) -> Callable[[F], F]:
    """Name the numbered rules of `specs/` that a test proves."""

    def mark(function: F) -> F:
        function.rules = (*rules_of(function), *ids)  # type: ignore[attr-defined]
        if pytest is not None:
            pytest.mark.spec(*ids)(function)
        return function

    return mark


def rules_of(function: Any) -> tuple[str, ...]:
    """The rules that a test names."""
    return tuple(getattr(function, "rules", ()))


@dataclass(frozen=True, slots=True)
class Deviation:
    """A rule that one implementation is known not to keep."""

    suite: str
    test: str
    rule: str
    reason: str

    def __str__(self) -> str:
        return f"{self.rule} {self.suite}.{self.test}: {self.reason}"


DEVIATIONS: list[Deviation] = []
"""Those of all suites defined so far; the test run prints them in its summary."""


def deviation(rule: str, reason: str) -> Callable[[F], F]:
    """Say that the test of this name is known to fail here, and why; the body of the redefinition never runs."""
    if not reason:
        raise TypeError(f"a deviation from {rule} needs a reason")

    def mark(function: F) -> F:
        function.deviation = (rule, reason)  # type: ignore[attr-defined]
        return function

    return mark


class Suite:
    """A conformance suite: subclasses add tests and hooks, and cannot change the tests that they inherit."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        marks = vars(cls).get("pytestmark", [])
        for mark in marks if isinstance(marks, list) else [marks]:
            if mark.name in ("skip", "skipif", "xfail"):
                raise TypeError(f"{cls.__name__} is marked {mark.name}: a suite is not switched off, use @deviation")
        for name in sorted({n for c in cls.__mro__ for n in vars(c) if n.startswith("test")}):
            owners = [c for c in cls.__mro__ if name in vars(c)]
            if len(owners) == 1 or _accepted(owners[0], name):
                continue
            told = getattr(vars(owners[0])[name], "deviation", None)
            if told is None or owners[0] is not cls:
                raise TypeError(
                    f"{cls.__name__} redefines {name} of {owners[-1].__name__}: a suite is not weakened silently, "
                    f"use @deviation(rule, reason)"
                )
            _deviate(cls, name, vars(owners[-1])[name], *told)


def _accepted(owner: type, name: str) -> bool:
    return hasattr(vars(owner)[name], "deviates_from")


def _deviate(cls: type, name: str, original: Any, rule: str, reason: str) -> None:
    if rule not in rules_of(original):
        raise TypeError(f"{cls.__name__}.{name} proves {', '.join(rules_of(original))}, not {rule}")

    @wraps(original)
    def run(*args: Any, **kwargs: Any) -> Any:
        return original(*args, **kwargs)

    run.deviates_from = rule  # type: ignore[attr-defined]
    marked = run if pytest is None else pytest.mark.xfail(reason=f"deviation from {rule}: {reason}", strict=True)(run)
    setattr(cls, name, marked)
    DEVIATIONS.append(Deviation(cls.__name__, name, rule, reason))


def suite_tests(suite: type, rule: str = "") -> dict[str, Callable[..., Any]]:
    """A suite's tests by name, all or those of one rule."""
    found = {n: getattr(suite, n) for n in sorted(dir(suite)) if n.startswith("test")}
    return {n: t for n, t in found.items() if not rule or rule in rules_of(t)}
