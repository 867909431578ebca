"""A plugin of pytest for `mutant_runs`: which lines each test reaches, and running some tests in a given order.

    pytest -p dls_touched --touched-record=OUT.json --touched=FILE.py …
    pytest -p dls_touched --touched-choose=IN.json …

The only home of the `coverage` library, which is asked for only when something is to be recorded.
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Three options of our own."""
    parser.addoption("--touched-record", metavar="FILE", help="write down which lines each test reaches")
    parser.addoption("--touched", metavar="FILE", action="append", default=[], help="a source file that is looked at")
    parser.addoption("--touched-choose", metavar="FILE", help="run these tests only: node ids and their time limits")


def pytest_configure(config: pytest.Config) -> None:
    """Take part as far as asked to."""
    if told := config.getoption("--touched-record"):
        config.pluginmanager.register(_Recorder(Path(told), config.getoption("--touched")))
    if chosen := config.getoption("--touched-choose"):
        config.pluginmanager.register(_Chooser(json.loads(Path(chosen).read_text(encoding="utf-8"))))


class _Recorder:
    """Writes {seconds by node id, paths by node id, file → line → numbers of tests} when all has passed."""

    def __init__(self, told: Path, files: list[str]) -> None:
        import coverage

        self._told, self._files = told, files
        self._seconds: dict[str, float] = {}
        self._paths: dict[str, str] = {}
        self._coverage = coverage.Coverage(data_file=None, include=files, config_file=False, messages=False)
        self._coverage.start()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        self._coverage.switch_context(item.nodeid)
        began = time.monotonic()
        try:
            return (yield)
        finally:
            self._coverage.switch_context("")
            self._seconds[item.nodeid] = round(time.monotonic() - began, 4)
            self._paths[item.nodeid] = str(item.path)

    def pytest_sessionfinish(self) -> None:
        self._coverage.stop()
        data, number = self._coverage.get_data(), {name: n for n, name in enumerate(self._seconds)}
        lines = {
            file: {
                line: sorted(number[name] for name in names if name)
                for line, names in data.contexts_by_lineno(file).items()
            }
            for file in data.measured_files()
        }
        said = {"seconds": self._seconds, "paths": self._paths, "lines": lines}
        self._told.write_text(json.dumps(said), encoding="utf-8")


class _Chooser:
    """Runs the tests that were chosen, in their order, each within its limit."""

    def __init__(self, limits: dict[str, float]) -> None:
        self._limits = limits

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        order = {name: n for n, name in enumerate(self._limits)}
        items[:] = sorted((item for item in items if item.nodeid in order), key=lambda item: order[item.nodeid])
        for item in items:
            item.add_marker(pytest.mark.timeout(self._limits[item.nodeid]), append=False)
