"""The suite of catalogues, tried on catalogues that are wrong on purpose: the tests of the rule broken must tell."""

import re
from pathlib import Path

import pytest

from dls.catalogue.testing import planted_more  # noqa: F401 - registers its violations
from dls.catalogue.testing.contract import CatalogueContract
from dls.catalogue.testing.ours import MemoryContract
from dls.catalogue.testing.planted import VIOLATIONS, failures
from dls.logistics.testing.spec import suite_tests

ROOT = Path(__file__).resolve().parents[2]
RULES = re.findall(r"^- \*\*(CAT-\d+)\*\*", (ROOT / "specs/catalogue.md").read_text(encoding="utf-8"), re.MULTILINE)


def test_every_rule_has_a_violation_and_a_test() -> None:
    assert {rule for rule, _, _ in VIOLATIONS.values()} == set(RULES)
    assert all(suite_tests(CatalogueContract, rule) for rule in RULES)


@pytest.mark.parametrize("name", VIOLATIONS)
def test_violations_are_told(name: str, tmp_path: Path) -> None:
    rule, suite, plant = VIOLATIONS[name]
    with pytest.MonkeyPatch.context() as patch:
        plant(patch)
        assert failures(suite, rule, tmp_path), f"no test of {rule} tells that {name}"


def test_the_reference_breaks_nothing(tmp_path: Path) -> None:
    assert not failures(MemoryContract, "", tmp_path)
