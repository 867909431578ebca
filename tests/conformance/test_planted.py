"""The suite of stores, tried on stores that are wrong on purpose: the tests of the rule that one breaks must tell."""

import re
from pathlib import Path

import pytest

from dls.logistics.testing import planted_more  # noqa: F401 - registers its violations
from dls.logistics.testing.contract import StoreContract
from dls.logistics.testing.planted import VIOLATIONS, MemoryContract, failures, suite_of
from dls.logistics.testing.spec import DEVIATIONS, Suite, deviation, spec, suite_tests

ROOT = Path(__file__).resolve().parents[2]
RULES = re.findall(r"^- \*\*(STORE-\d+)\*\*", (ROOT / "specs/store.md").read_text(encoding="utf-8"), re.MULTILINE)


def test_every_rule_has_a_violation_and_a_test() -> None:
    assert {rule for rule, _ in VIOLATIONS.values()} == set(RULES)
    assert all(suite_tests(StoreContract, rule) for rule in RULES)


@pytest.mark.parametrize("name", VIOLATIONS)
def test_violations_are_told(name: str, tmp_path: Path) -> None:
    rule, _ = VIOLATIONS[name]
    assert failures(suite_of(name), rule, tmp_path), f"no test of {rule} tells that {name} breaks it"


def test_the_reference_breaks_nothing(tmp_path: Path) -> None:
    assert not failures(MemoryContract, "", tmp_path)


# ------------------------------------------------------------------------------------------ the guard


class Small(Suite):
    @spec("STORE-1")
    def test_one(self) -> None:
        raise AssertionError("this one fails")

    def helper(self) -> int:
        return 1


def test_a_suite_cannot_be_weakened_silently() -> None:
    with pytest.raises(TypeError, match="redefines test_one"):
        type("Weaker", (Small,), {"test_one": lambda self: None})
    with pytest.raises(TypeError, match="redefines test_one"):
        type("Absent", (Small,), {"test_one": None})
    with pytest.raises(TypeError, match="redefines test_one"):
        type("Mixed", (type("Mixin", (), {"test_one": lambda self: None}), Small), {})
    with pytest.raises(TypeError, match="marked skip"):
        type("Skipped", (Small,), {"pytestmark": pytest.mark.skip})
    with pytest.raises(TypeError, match="redefines test_capabilities"):
        type("Weaker", (MemoryContract,), {"test_capabilities_are_those_promised": lambda self, store: None})

    class Fine(Small):
        @spec("STORE-2")
        def test_two(self) -> None: ...

        def helper(self) -> int:
            return 2

    assert sorted(suite_tests(Fine)) == ["test_one", "test_two"]
    assert sorted(suite_tests(Fine, "STORE-2")) == ["test_two"]


def test_a_deviation_is_seen_and_runs_the_suites_own_test() -> None:
    before = len(DEVIATIONS)
    try:

        class Odd(Small):
            @deviation("STORE-1", "an old server")
            def test_one(self) -> None:
                """Would pass."""

        (mark,) = [m for m in Odd.test_one.pytestmark if m.name == "xfail"]
        assert mark.kwargs == {"reason": "deviation from STORE-1: an old server", "strict": True}
        with pytest.raises(AssertionError, match="this one fails"):
            Odd().test_one()
        assert str(DEVIATIONS[-1]) == "STORE-1 Odd.test_one: an old server"

        class Odder(Odd):
            """Inherits the deviation."""

        assert len(DEVIATIONS) == before + 1
        with pytest.raises(TypeError, match="proves STORE-1, not STORE-2"):
            type("Wrong", (Small,), {"test_one": deviation("STORE-2", "x")(lambda self: None)})
        with pytest.raises(TypeError, match="needs a reason"):
            deviation("STORE-1", "")
    finally:
        del DEVIATIONS[before:]
