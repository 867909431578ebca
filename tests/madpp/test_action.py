"""Answers in bounds, ids of activities, and what a context hides."""

import json
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from dls.catalogue.known import ULID
from dls.logistics import ids
from dls.logistics.errors import Invalid, NotFound
from dls.madpp.action import ANSWER_BYTES, bounded, checked
from dls.madpp.record import activity_id
from dls.madpp.testing.world import SECRET, World

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3000),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=10), inner, max_size=5),
    max_leaves=20,
)


@given(st.dictionaries(st.text(max_size=20), VALUES, max_size=12))
def test_answers_fit(facts: dict[str, Any]) -> None:
    out = bounded(facts)
    assert len(json.dumps(out).encode()) <= ANSWER_BYTES
    if len(json.dumps(facts).encode()) <= ANSWER_BYTES:
        assert out == facts


def test_long_lists_are_counted() -> None:
    out = bounded({"keys": [f"name {n}" for n in range(5000)], "count": 5000, "url": "s3://b/k"})
    assert out["keys"][0] == "name 0"
    assert len(out["keys"]) + out["keys_more"] == 5000
    assert (out["count"], out["url"]) == (5000, "s3://b/k")


def test_looks_that_raise_are_told_once() -> None:
    def fails(text: str) -> None:
        raise Invalid(text, code="c")

    def other() -> None:
        raise NotFound("b", code="d")

    found = checked(lambda: fails("a"), lambda: 1, other, lambda: fails("a"))
    assert [error.code for error in found] == ["c", "d"]


@given(st.text(max_size=40), st.text(max_size=40), st.text(max_size=40))
def test_ids_of_activities_are_ulids_of_run_and_step(run: str, step: str, other: str) -> None:
    assert ULID.match(activity_id(run, step))
    assert activity_id(run, step) == activity_id(run, step)
    assert (activity_id(run, step) == activity_id(run, other)) == (step == other)
    id = ids.ulid()
    assert activity_id(id, step)[:10] == id[:10], "the time of the run"


def test_a_context_shows_no_environment(tmp_path: Path) -> None:
    world = World(tmp_path / "w")
    assert SECRET in world.context.environ.values()
    assert SECRET not in repr(world.context)
    world.close()
