"""The suite of actions, tried on actions that are wrong on purpose: the tests of the rule broken must tell."""

import re
from pathlib import Path

import pytest

from dls.logistics.testing.spec import suite_tests
from dls.madpp.testing import planted_ours  # noqa: F401 - registers its violations
from dls.madpp.testing.bringing import BringingRules
from dls.madpp.testing.contract import ActionContract
from dls.madpp.testing.imaging import ImageRules
from dls.madpp.testing.keeping import KeepingRules
from dls.madpp.testing.making import MakingRules
from dls.madpp.testing.packing import PackRules
from dls.madpp.testing.planted import VIOLATIONS, failures
from dls.madpp.testing.staging import StageImageRules

ROOT = Path(__file__).resolve().parents[2]
RULES = re.findall(r"^- \*\*(ACTION-\d+)\*\*", (ROOT / "specs/action.md").read_text(encoding="utf-8"), re.MULTILINE)
SUITES = (ActionContract, BringingRules, KeepingRules, MakingRules, ImageRules, PackRules, StageImageRules)


def test_every_rule_has_a_violation_and_a_test() -> None:
    assert {rule for rule, _, _ in VIOLATIONS.values()} == set(RULES)
    assert all(any(suite_tests(suite, rule) for suite in SUITES) for rule in RULES)


@pytest.mark.parametrize("name", VIOLATIONS)
def test_violations_are_told(name: str, tmp_path: Path) -> None:
    rule, suite, plant = VIOLATIONS[name]
    with pytest.MonkeyPatch.context() as patch:
        plant(patch)
        assert failures(suite, rule, tmp_path), f"no test of {rule} tells that {name}"
