"""Records as programs read them."""

import dataclasses
import json

import pytest

from dls.catalogue import lineage
from dls.catalogue.model import HIDDEN, Activity, Dataset, FileMark, FileState, Port, Replica, Version
from dls.logistics.actor import PUBLIC, Actor, local

ACTIVITY = Activity(
    "id",
    "compute",
    "me",
    used=(Port("a", "x"), Port("b")),
    generated=(Port("c"),),
    command=("run", "a"),
    where="site",
    software={"s": 1},
    hardware={"h": 1},
)
RECORDS = [
    Dataset("s", "n", metadata={"a": [1]}),
    Version("s:n", 2, b"c" * 32, b"m" * 32, 3, 2, 1),
    Replica("id", "s:n", 2, "", "file:///x", evidence={"how": "hashed"}),
    ACTIVITY,
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: type(r).__name__)
def test_records_are_frozen_and_json(record: Dataset | Version | Replica | Activity) -> None:
    assert json.loads(json.dumps(record.to_json())) == record.to_json()
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(record, dataclasses.fields(record)[0].name, "other")


def test_ids() -> None:
    assert RECORDS[0].key == "s:n"  # type: ignore[union-attr]
    assert RECORDS[1].id == "s:n@2"  # type: ignore[union-attr]
    assert RECORDS[1].to_json()["bytes"] == 1
    assert FileMark(b"a\n\xff", FileState.LOST).to_json() == {"path": "a%0A%FF", "state": "lost"}


def test_what_an_actor_sees_of_an_activity() -> None:
    assert lineage.shown(ACTIVITY, local("me"), set()) is ACTIVITY
    covered = lineage.shown(ACTIVITY, local("me"), {("used", 0)})
    assert covered.used == (Port(HIDDEN, "x"), Port("b"))
    assert covered.generated == ACTIVITY.generated
    assert (covered.command, covered.where, covered.software, covered.hardware) == ((HIDDEN,), HIDDEN, {}, {})
    foreign = lineage.shown(ACTIVITY, Actor("x", frozenset({PUBLIC})), set())
    assert (foreign.used, foreign.command) == (ACTIVITY.used, (HIDDEN,))
    empty = lineage.shown(dataclasses.replace(ACTIVITY, command=(), where=""), Actor("x"), set())
    assert (empty.command, empty.where) == ((), "")
