"""What a field may hold."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dls.catalogue import fields
from dls.logistics.errors import Invalid

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_json_comes_back_and_shares_nothing(value: dict[str, object]) -> None:
    copy = fields.private(value, "x")
    assert copy == value
    assert copy is not value
    assert fields.packed(value, "x").isascii(), "every database keeps it, lone surrogates included"


@pytest.mark.parametrize("bad", [{"x": float("inf")}, {"x": b"bytes"}, {"x": {1, 2}}, {(1, 2): "x"}, {"x": object()}])
def test_what_is_not_json_is_refused(bad: dict[str, object]) -> None:
    with pytest.raises(Invalid) as told:
        fields.packed(bad, "metadata")
    assert told.value.facts["field"] == "metadata"


def test_loops_are_refused() -> None:
    loop: dict[str, object] = {}
    loop["x"] = loop
    with pytest.raises(Invalid):
        fields.packed(loop, "x")


@given(st.text())
def test_texts(value: str) -> None:
    legal = "\0" not in value
    try:
        assert fields.text(value, "title") == value
    except Invalid:
        assert not legal
    else:
        assert legal


def test_texts_are_bounded() -> None:
    assert fields.text("é" * 5, "x", 5) == "é" * 5
    for bad in ("é" * 6, "\udcff", "a\0"):
        with pytest.raises(Invalid):
            fields.text(bad, "x", 5)
