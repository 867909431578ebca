"""`@frozen`: what `@dataclass(frozen=True, slots=True)` makes, in half the time.

A dataclass writes and compiles a text for each of six functions when its module is imported, 0.6 to 1 ms; of the start
of `dls stage-in`, seventy of them were a fifth.  Comparing, hashing and showing need no text of their own: here one
function of each kind serves all classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import cache
from operator import attrgetter
from typing import Any, TypeVar, dataclass_transform

T = TypeVar("T")


@cache
def _compared(cls: Any) -> Callable[[Any], Any]:
    return _getter([one.name for one in fields(cls) if one.compare])


@cache
def _hashed(cls: Any) -> Callable[[Any], Any]:
    return _getter([one.name for one in fields(cls) if (one.compare if one.hash is None else one.hash)])


def _getter(names: list[str]) -> Callable[[Any], Any]:
    return attrgetter(*names) if names else lambda made: ()


def _equal(self: Any, other: Any) -> Any:
    if other.__class__ is not self.__class__:
        return NotImplemented
    key = _compared(self.__class__)
    return key(self) == key(other)


def _hash(self: Any) -> int:
    return hash(_hashed(self.__class__)(self))


def _shown(self: Any) -> str:
    told = [f"{one.name}={getattr(self, one.name)!r}" for one in fields(self) if one.repr]
    return f"{self.__class__.__qualname__}({', '.join(told)})"


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(cls: type[T]) -> type[T]:
    """A class of immutable values without a `__dict__`: equal where their fields are, hashable where these are.

    `dataclasses.replace`, `fields` and `asdict` take it; what the class defines itself stays as it is.
    """
    for name, function in (("__eq__", _equal), ("__hash__", _hash), ("__repr__", _shown)):
        if name not in cls.__dict__:
            setattr(cls, name, function)
    return dataclass(frozen=True, slots=True, eq=False, repr=False)(cls)
