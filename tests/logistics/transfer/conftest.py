"""Stores and helpers that the tests of transfers share."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dls.logistics.stores.memory import MemoryStore
from dls.logistics.stores.posix import PosixStore
from dls.logistics.testing.contract_transfer import small_scale

_numbers = itertools.count()


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small blocks and segments; a sync would flush the whole machine."""
    small_scale(monkeypatch)
    monkeypatch.setattr("dls.logistics.stores.posix.syncfs", lambda path: None)


@pytest.fixture
def memory() -> Iterator[Callable[[], MemoryStore]]:
    """Fresh memory stores."""
    names: list[str] = []

    def make() -> MemoryStore:
        names.append(f"t{next(_numbers)}")
        return MemoryStore(names[-1])

    yield make
    for name in names:
        MemoryStore.forget(name)


@pytest.fixture
def source(tmp_path: Path) -> PosixStore:
    """Thirty files in three folders, one of five parts, one of two."""
    store = PosixStore(tmp_path / "from")
    for n in range(30):
        store.write(b"d%d/f%02d" % (n % 3, n), [b"%02d" % n * n], mode=0o640, mtime_ns=n)
    store.write(b"big", [bytes(range(256)) * 1025])
    store.write(b"middle", [bytes(range(256)) * 257])
    return store


@pytest.fixture
def target(tmp_path: Path) -> PosixStore:
    """The folder `site`, which is there."""
    (tmp_path / "site").mkdir()
    return PosixStore(tmp_path / "site")
