"""The outbox: read in the order of commits, also while others write."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dls.logistics import event
from dls.logistics.database import Database
from dls.logistics.event import Event

WRITER = """
import sys
from dls.logistics import event
from dls.logistics.database import Database
from dls.logistics.event import Event
database = Database(sys.argv[1])
event.prepare(database)
for number in range(int(sys.argv[3])):
    with database.transaction() as tx:
        event.record(tx, Event("test.happened", sys.argv[2], "writer", {"n": number}))
        if number % 3 == 0:
            event.record(tx, Event("test.twice", sys.argv[2], "writer", {"n": number}))
"""


def outbox(path: Path, count: int = 0) -> Database:
    database = Database(path)
    event.prepare(database)
    for number in range(count):
        with database.transaction() as tx:
            event.record(tx, Event("test.happened", str(number), "me", {}))
    return database


@pytest.mark.spec("LOOK-5")
def test_a_follower_misses_nothing_and_doubles_nothing_while_two_processes_write(tmp_path: Path) -> None:
    path, each = tmp_path / "state.sqlite", 150
    database = outbox(path)
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), name, str(each)], env=dict(os.environ))
        for name in ("a", "b")
    ]
    seen: list[Event] = []
    total = 2 * (each + each // 3)
    idle = threading.Event()
    for one in event.follow(database, 0, lambda: idle.wait(0.01)):
        seen.append(one)
        if len(seen) == total:
            break
    assert [w.wait(60) for w in writers] == [0, 0]
    assert [one.id for one in seen] == list(range(1, total + 1))
    assert event.newest(database) == total
    for name in ("a", "b"):
        mine = [one.data["n"] for one in seen if one.subject == name and one.type == "test.happened"]
        assert mine == list(range(each))
    assert seen == list(event.since(database, 0, 10 * total))
    database.close()


@pytest.mark.spec("LOOK-5")
def test_a_follower_pauses_only_where_nothing_is_left(tmp_path: Path) -> None:
    database = outbox(tmp_path / "state.sqlite", 2100)

    def pause() -> None:
        raise StopAsyncIteration

    seen: list[int] = []
    with pytest.raises(StopAsyncIteration):
        seen.extend(one.id for one in event.follow(database, 40, pause))
    assert seen == list(range(41, 2101))
    database.close()


def test_before_gives_the_id_to_begin_after(tmp_path: Path) -> None:
    database = outbox(tmp_path / "state.sqlite")
    assert event.newest(database) == event.before(database, 0) == 0
    for number in range(3):
        with database.transaction() as tx:
            event.record(tx, Event("test.happened", str(number), "me", {}))
    times = [one.time_ns for one in event.since(database)]
    assert event.before(database, 0) == 0
    assert event.before(database, times[0]) == 0
    assert event.before(database, times[1]) == 1
    assert event.before(database, times[2] + 1) == 3
    database.close()
