"""Immutable values behave as the dataclasses do that they stand for."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError, asdict, dataclass, field, fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from dls.logistics.frozen import frozen


@frozen
class Ours:
    """Of each kind one field."""

    name: str
    parts: tuple[int, ...] = ()
    secret: str = field(default="", repr=False)
    seen: float = field(default=0.0, compare=False)
    more: frozenset[int] = field(default_factory=frozenset)
    notes: dict[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Theirs:
    """The same."""

    name: str
    parts: tuple[int, ...] = ()
    secret: str = field(default="", repr=False)
    seen: float = field(default=0.0, compare=False)
    more: frozenset[int] = field(default_factory=frozenset)
    notes: dict[str, str] = field(default_factory=dict, hash=False)


@frozen
class Empty:
    """No field at all."""


@frozen
class Own:
    """Shows itself in its own way, and is nobody's equal."""

    secret: str

    def __repr__(self) -> str:
        return "Own(…)"

    def __eq__(self, other: object) -> bool:
        return False

    def __hash__(self) -> int:
        return 1


_rows = some.tuples(
    some.sampled_from("ab"),
    some.sampled_from([(), (1,)]),
    some.sampled_from("xy"),
    some.sampled_from([0.0, 1.0]),
    some.sampled_from([frozenset(), frozenset({1})]),
    some.sampled_from([{}, {"a": "b"}]),
)


@given(_rows, _rows)
def test_equal_hashed_and_shown_as_a_dataclass(one: tuple[Any, ...], two: tuple[Any, ...]) -> None:
    ours, theirs = Ours(*one), Theirs(*one)
    assert (ours == Ours(*two)) is (theirs == Theirs(*two))
    assert (ours != Ours(*two)) is (theirs != Theirs(*two))
    assert hash(ours) == hash(theirs)
    assert repr(ours) == repr(theirs).replace("Theirs", "Ours")
    assert asdict(ours) == asdict(theirs)  # type: ignore[call-overload]
    assert replace(ours, name="z") == Ours("z", *one[1:])
    assert pickle.loads(pickle.dumps(ours)) == ours


def test_nobody_changes_it() -> None:
    made = Ours("a")
    with pytest.raises(FrozenInstanceError):
        made.name = "b"  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        del made.name
    assert not hasattr(made, "__dict__")
    assert [one.name for one in fields(made)] == ["name", "parts", "secret", "seen", "more", "notes"]  # type: ignore[arg-type]


def test_classes_are_told_apart_and_their_own_ways_stay() -> None:
    assert Empty() == Empty()
    assert repr(Empty()) == "Empty()"
    assert Empty() != Ours("a")
    assert Ours("a").__eq__(Theirs("a")) is NotImplemented
    assert (repr(Own("hush")), hash(Own("hush"))) == ("Own(…)", 1)
    assert Own("hush") != Own("hush")
    with pytest.raises(TypeError, match="unhashable"):
        hash(Ours("a", [1]))  # type: ignore[arg-type]
