"""Fingerprints tell other work from the same work, answers come back as they were."""

import dataclasses
from typing import Any

import pytest

from dls.catalogue import changes
from dls.catalogue.changes import (
    AddActivity,
    AddReplica,
    AddVersion,
    Applied,
    ClearFiles,
    MarkFiles,
    Outcome,
    PutDataset,
    Restore,
    SetReplica,
    Withdraw,
    fingerprint,
)
from dls.catalogue.model import FileState, Layout, Port, ReplicaState
from dls.logistics.errors import Conflict, Invalid
from dls.logistics.manifest import SegmentRef

ONE = SegmentRef(b"1" * 32, b"2" * 32, 3, 2, 1)
TWO = dataclasses.replace(ONE, digest=b"3" * 32)
EXAMPLES: list[tuple[Any, dict[str, Any]]] = [
    (
        PutDataset("s:n"),
        {
            "dataset": "s:m",
            "title": "",
            "description": "d",
            "metadata": {"a": 1},
            "project": "p",
            "origin": "o",
            "owner": "w",
            "audience": "u",
        },
    ),
    (AddVersion("s:n", (ONE,)), {"dataset": "s:m", "refs": (TWO,), "note": "n"}),
    (
        AddReplica("s:n", "/x"),
        {
            "dataset": "s:m",
            "url": "/y",
            "version": 1,
            "storage": "s",
            "layout": Layout.IMAGE,
            "state": ReplicaState.LOST,
            "durability": "power",
            "id": "i",
            "evidence": {"e": 1},
        },
    ),
    (SetReplica("r"), {"replica": "q", "state": ReplicaState.LOST, "evidence": {"e": 1}, "durability": "power"}),
    (MarkFiles("r", {}), {"replica": "q", "files": {b"a\xff": FileState.LOST}}),
    (ClearFiles("r"), {"replica": "q", "paths": ()}),
    (Withdraw("s:n", "r"), {"dataset": "s:m", "reason": "q"}),
    (Restore("s:n"), {"dataset": "s:m"}),
    (
        AddActivity("t"),
        {
            "type": "u",
            "used": (Port("a"),),
            "generated": (Port("a", "r"),),
            "run": "r",
            "on_behalf_of": "",
            "audience": "public",
            "started_ns": 1,
            "ended_ns": 2,
            "command": ("c",),
            "where": "w",
            "software": {"s": 1},
            "hardware": {"h": 1},
            "id": "i",
        },
    ),
]


def test_each_field_counts_but_what_was_measured() -> None:
    seen = {fingerprint([change]) for change, _ in EXAMPLES}
    assert len(seen) == len(EXAMPLES)
    for change, others in EXAMPLES:
        assert set(others) == {f.name for f in dataclasses.fields(change)}, "a new field wants an example here"
        for name, value in others.items():
            other = dataclasses.replace(change, **{name: value})
            assert (fingerprint([other]) == fingerprint([change])) == (name in changes.MEASURED), (change, name)


def test_order_and_number_count() -> None:
    a, b = Restore("s:a"), Restore("s:b")
    prints = [fingerprint(some) for some in ([], [a], [a, a], [a, b], [b, a])]
    assert len(set(prints)) == len(prints)
    assert fingerprint([PutDataset("s:n", metadata={"a": 1, "b": 2})]) == fingerprint(
        [PutDataset("s:n", metadata={"b": 2, "a": 1})]
    )


def test_what_is_not_json_has_none() -> None:
    with pytest.raises(Invalid):
        fingerprint([PutDataset("s:n", metadata={"a": object()})])


def test_answers_come_back() -> None:
    applied = Applied((Outcome("s:n", 3, changed=True), Outcome("x", 0, changed=False)))
    assert Applied.decode(applied.encode()) == dataclasses.replace(applied, replayed=True)
    assert changes.replay("k", b"1", b"1", applied.encode()).outcomes == applied.outcomes
    with pytest.raises(Conflict):
        changes.replay("k", b"1", b"2", applied.encode())
