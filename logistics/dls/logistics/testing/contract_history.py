"""Random histories of a store beside a plain dict (STORE-10)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from dls.logistics.errors import NotFound
from dls.logistics.store import Can, Item, Store, Want
from dls.logistics.testing.contract_hooks import Boom, StoreHooks, files, get

_KEYS = st.sampled_from([b"a", b"b/c", b"b/d", b"b-e", b"b.f/g", b"h/i/j", b"h/i/k", b"h/i-l"])
_BODIES = st.binary(max_size=40)
_PREFIXES = st.sampled_from([b"", b"b", b"b/", b"b-", b"h/i", b"h/i/", b"x"])


class History(RuleBasedStateMachine):
    """One history; `suite` and `folder` are set in a subclass for each run."""

    suite: StoreHooks
    folder: Path
    numbers: Iterator[int]

    def __init__(self) -> None:
        super().__init__()
        self.opened: AbstractContextManager[Store] = self.suite.opened(self.folder / f"history-{next(self.numbers)}")
        self.store = self.opened.__enter__()
        self.model: dict[bytes, bytes] = {}

    def teardown(self) -> None:
        self.opened.__exit__(None, None, None)

    @rule(key=_KEYS, data=_BODIES)
    def write(self, key: bytes, data: bytes) -> None:
        self.store.write(key, [data[:7], data[7:]])
        self.model[key] = data

    @rule(key=_KEYS, data=_BODIES)
    def fail_to_write(self, key: bytes, data: bytes) -> None:
        def chunks() -> Iterator[bytes]:
            yield data
            raise Boom

        with pytest.raises(Boom):
            self.store.write(key, chunks())

    @rule(bodies=st.dictionaries(_KEYS, _BODIES, max_size=4))
    def put(self, bodies: dict[bytes, bytes]) -> None:
        for done in self.store.put([Item(i, key, bodies[key]) for i, key in enumerate(bodies)]):
            assert done.error is None
        self.model |= bodies

    @rule(key=_KEYS)
    def delete(self, key: bytes) -> None:
        self.store.delete(key)
        self.model.pop(key, None)

    @rule(key=_KEYS, start=st.integers(0, 45), stop=st.one_of(st.none(), st.integers(0, 45)))
    def read(self, key: bytes, start: int, stop: int | None) -> None:
        if key not in self.model:
            with pytest.raises(NotFound):
                self.store.read(key, start, stop)
            return
        end = len(self.model[key]) if stop is None else max(start, stop)
        assert get(self.store, key, start, stop) == self.model[key][start:end]

    @rule(keys=st.lists(_KEYS, max_size=4))
    def fetch(self, keys: list[bytes]) -> None:
        wants = [Want(i, key, len(self.model.get(key, b""))) for i, key in enumerate(keys)]
        found = {got.i: None if got.error else bytes(got.body) for got in self.store.fetch(wants)}
        assert found == {i: self.model.get(key) for i, key in enumerate(keys)}

    @rule(prefix=_PREFIXES)
    def part_of_a_listing(self, prefix: bytes) -> None:
        assert files(self.store, prefix) == sorted(k for k in self.model if k.startswith(prefix))

    @rule(first=_KEYS, second=_KEYS)
    def move(self, first: bytes, second: bytes) -> None:
        if Can.MOVE in self.suite.can and first in self.model and first != second:
            self.store.move([(first, second)], over=True)
            self.model[second] = self.model.pop(first)

    @rule(folder=st.sampled_from([b"b", b"h", b"h/i", b"none"]))
    def wipe_a_part(self, folder: bytes) -> None:
        self.store.below(folder).wipe()
        self.model = {k: v for k, v in self.model.items() if not k.startswith(folder + b"/")}

    @rule()
    def reopen(self) -> None:
        self.opened.__exit__(None, None, None)
        self.opened = self.suite.again()
        self.store = self.opened.__enter__()

    @invariant()
    def same(self) -> None:
        assert {e.path: e.size for e in self.store.list() if not e.kind} == {k: len(v) for k, v in self.model.items()}
        keys = sorted(self.model)
        assert all(self.store.stamps(keys))
        assert all(get(self.store, key) == self.model[key] for key in keys[:2])


def run_histories(suite: StoreHooks, folder: Path) -> None:
    """Try as many histories as the suite says."""
    kind = type("History", (History,), {"suite": suite, "folder": folder, "numbers": count()})
    run_state_machine_as_test(
        kind,
        settings=settings(
            max_examples=suite.examples,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
