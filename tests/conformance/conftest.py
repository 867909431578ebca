"""Deviations of our suites are told at the end of a run."""

import pytest

from dls.logistics.testing.spec import DEVIATIONS


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if DEVIATIONS:
        terminalreporter.section("deviations from the rules")
        for one in DEVIATIONS:
            terminalreporter.write_line(str(one))
