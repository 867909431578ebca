"""What the tests of the command line share."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.command import Command, fill


@pytest.fixture
def dls(dls_home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command, on a DLS_HOME of this test's own."""
    return Command(dls_home, capsys, monkeypatch)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small tree of files."""
    return fill(tmp_path / "tree")


@pytest.fixture
def staged(dls: Command, tree: Path, tmp_path: Path) -> Command:
    """The command, with a site `scratch` and the tree registered as `x:data`."""
    dls("site", "add", "scratch", tmp_path / "scratch", ok=True)
    dls("catalogue", "add", "x:data", tree, ok=True)
    return dls
