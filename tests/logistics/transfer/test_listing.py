"""Listings: what lies at a source, with the stamps that it had."""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from dls.logistics.entry import FOLDER, LINK, Entry
from dls.logistics.errors import Conflict, NotFound
from dls.logistics.store import Store
from dls.logistics.stores.memory import MemoryStore
from dls.logistics.testing.contract_transfer import small_scale
from dls.logistics.testing.faults import Around, Recording
from dls.logistics.testing.spec import spec
from dls.logistics.transfer.listing import known, listed


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[MemoryStore]:
    small_scale(monkeypatch)
    store = MemoryStore("listing")
    for n in range(25):
        store.write(b"f%02d" % n, [b"x" * n])
    yield store
    MemoryStore.forget("listing")


@spec("TRANSFER-27")
def test_a_listing_holds_names_sizes_and_stamps(store: MemoryStore, tmp_path: Path) -> None:
    ticks: list[int] = []
    wanted = listed(store, tmp_path / "spool", tick=lambda: ticks.append(1))
    assert (wanted.known, wanted.name) == (False, f"from:{store.url}")
    assert [e.path for e in wanted.manifest] == [b"f%02d" % n for n in range(25)]
    assert len(wanted.manifest.refs) == len(ticks) > 1
    for _ in range(2):  # in any order, as often as asked
        for ref in reversed(wanted.manifest.refs):
            segment = wanted.manifest.load(ref.digest)
            assert wanted.stamps is not None
            assert list(wanted.stamps(ref.digest)) == store.stamps(segment.paths)
    assert list((tmp_path / "spool").iterdir()) == [], "the spool has no name"
    hashed = known(wanted.manifest)
    assert (hashed.known, hashed.name, hashed.stamps) == (True, f"blake3:{wanted.manifest.content.hex()}", None)


def test_a_spool_is_private_and_ends_with_its_listing(store: MemoryStore, tmp_path: Path) -> None:
    folder = tmp_path / "home" / "spool"
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for _ in range(2):
            wanted = listed(store, folder)
            assert wanted.manifest.entries == 25
            assert folder.stat().st_mode & 0o077 == 0
            assert held(folder) == 1
            del wanted
            gc.collect()
            assert held(folder) == 0
    assert [str(one.message) for one in seen] == [], "closed, not left to the collector"


def held(folder: Path) -> int:
    """How many files of a folder this process holds open, deleted ones too."""
    descriptors = Path("/proc/self/fd")
    return sum(str(folder) in os.readlink(fd) for fd in descriptors.iterdir() if os.path.lexists(fd))


def test_one_file_alone(store: MemoryStore) -> None:
    wanted = listed(store, only=b"f03")
    assert [e.path for e in wanted.manifest] == [b"f03"]
    assert wanted.name == f"from:{store.url}/f03"
    for absent in (b"f", b"g", b"f03x"):
        with pytest.raises(NotFound) as told:
            listed(store, only=absent)
        assert told.value.code == "no-source"
        assert told.value.facts["store"].endswith(absent.decode())


def test_one_file_of_a_place_that_cannot_list(store: MemoryStore) -> None:
    class Silent(Around):
        def step(self, verb: str, key: bytes = b"") -> bool:
            assert not verb.startswith("list"), "the folder above is not listed"
            return False

    store.make([Entry(b"folder", FOLDER), Entry(b"link", LINK, target=b"f03")])
    silent = Silent(store)
    assert [e.path for e in listed(silent, only=b"f03").manifest] == [b"f03"]
    assert [e.target for e in listed(silent, only=b"link").manifest] == [b"f03"]
    with pytest.raises(NotFound):
        listed(silent, only=b"folder")


def test_nothing_there_is_told_and_an_empty_folder_is_not(store: MemoryStore) -> None:
    with pytest.raises(NotFound) as told:
        listed(store.below(b"absent"))
    assert told.value.facts["store"] == store.below(b"absent").url
    store.write(b"sub/x", [b""])
    store.delete(b"sub/x")
    assert listed(store.below(b"sub")).manifest.entries == 0


@spec("TRANSFER-16")
def test_a_file_that_vanishes_while_it_is_listed_is_told(store: MemoryStore) -> None:
    class Vanishing(Around):
        def __init__(self, inner: Store) -> None:
            super().__init__(inner)
            del self.list_stamped  # one whose listing tells no stamps: they are asked for behind it

        def step(self, verb: str, key: bytes = b"") -> bool:
            if verb == "list.item" and key == b"f02":
                self.inner.delete(b"f01")
            return False

    with pytest.raises(Conflict) as told:
        listed(Vanishing(store))
    assert (told.value.code, told.value.facts["key"]) == ("source-changed", "f01")


@spec("STORE-27")
def test_what_is_listed_with_stamps_is_not_looked_at_again(store: MemoryStore) -> None:
    class Some(Around):
        """Tells the stamps of some."""

        def _list_stamped(self) -> Iterator[tuple[Entry, bytes]]:
            for number, (entry, stamp) in enumerate(super()._list_stamped()):
                yield entry, stamp if number % 2 else b""

    asked = Recording(store)
    wanted = listed(asked)
    assert "stamps" not in [verb for verb, _ in asked.log]
    for found in (wanted, listed(Some(store))):
        assert found.stamps is not None
        for ref in found.manifest.refs:
            assert list(found.stamps(ref.digest)) == store.stamps(found.manifest.load(ref.digest).paths)
