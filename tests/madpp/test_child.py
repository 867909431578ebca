"""The command of a computation is ended where the right to go on is lost, whatever else goes wrong meanwhile."""

import subprocess
import threading
from typing import Any

import pytest

from dls.logistics.errors import Stop, Unavailable
from dls.madpp.actions import child


def test_a_state_that_does_not_answer_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "LOOK_S", 0.01)
    told: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", told.append)
    asked: list[int] = []

    def fence() -> None:
        asked.append(1)
        if len(asked) < 3:
            raise Unavailable("the state is away", code="no-state")
        raise Stop("another worker has it")

    words = ["sleep", "60"]
    with child._started(words, "/", {"PATH": "/usr/bin:/bin"}) as one, child._fenced(one, fence) as stops:
        assert one.wait(20) == -15
    assert [str(stop) for stop in stops] == ["another worker has it"]
    assert (len(asked), told) == (3, [])
    assert isinstance(one, subprocess.Popen)
