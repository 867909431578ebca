"""The stores around a store that the transfer matrix uses: they count alike, and fail exactly where they are told."""

import threading
from collections.abc import Callable, Iterator

import pytest

from dls.logistics.digest import BLOCK
from dls.logistics.errors import Unavailable
from dls.logistics.store import Item, Store, Want
from dls.logistics.stores.memory import MemoryStore
from dls.logistics.testing.faults import Faulty, Recording, Slow


@pytest.fixture
def inner() -> Iterator[MemoryStore]:
    yield MemoryStore("faults")
    MemoryStore.forget("faults")


def work(store: Store) -> dict[str, object]:
    """A bit of everything; what was seen."""
    part = store.below(b"part")
    seen: dict[str, object] = {}
    seen["write"] = bool(part.write(b"w", [b"12", b"34"]))
    seen["put"] = sorted((d.i, d.error is None) for d in part.put([Item(i, b"p%d" % i, b"abcd") for i in range(3)]))
    seen["list"] = [e.path for e in store.list()]
    seen["read"] = b"".join(part.read(b"w"))
    seen["fetch"] = sorted((g.i, bytes(g.body)) for g in part.fetch([Want(i, b"p%d" % i, 4) for i in range(3)]))
    upload = part.upload(b"u", BLOCK + 4)
    for number, size in ((0, BLOCK), (1, 4)):
        upload.write(number, b"u" * size)
    upload.finish()
    store.move([(b"part/w", b"moved")])
    return seen


def test_counting_changes_nothing(inner: MemoryStore) -> None:
    faulty, log = Faulty(inner), Recording(inner)
    seen = work(faulty)
    inner.wipe()
    assert seen == work(log)
    inner.wipe()
    assert seen == work(inner)
    assert faulty.count == len(log.log)
    assert not faulty.fired
    verbs = [verb for verb, _ in log.log]
    assert verbs.count("put.take") == verbs.count("put.item") == verbs.count("fetch.item") == 3
    assert verbs.count("write.chunk") == verbs.count("upload.write") == 2
    assert {"list.item", "read.chunk", "upload.finish", "move"} <= set(verbs)


@pytest.mark.parametrize("what", ["error", "lost"])
def test_every_operation_can_fail_once(inner: MemoryStore, what: str) -> None:
    counted = Faulty(inner)
    clean = work(counted)
    inner.wipe()
    fired = []
    for at in range(1, counted.count + 1):
        faulty = Faulty(inner, at, what)
        failed = False
        try:
            failed = work(faulty) != clean
        except Unavailable as error:
            failed = error.code == "planted"
        assert bool(faulty.fired)
        assert failed or (what == "lost" and faulty.fired.rpartition(".")[2] in ("chunk", "item", "take")), faulty.fired
        fired.append(faulty.fired)
        inner.wipe()
        assert work(Faulty(inner)) == clean, "a run without the fault afterwards"
        inner.wipe()
    assert len(set(fired)) >= 12


def test_an_item_that_fails_is_a_value(inner: MemoryStore) -> None:
    for verb, stored in (("put.take", False), ("put.item", True)):
        faulty = Faulty(inner, 2, "error", [verb])
        answers = list(faulty.put([Item(i, b"k%d" % i, b"x") for i in range(4)]))
        assert sorted(d.i for d in answers) == [0, 1, 2, 3]
        (bad,) = [d.i for d in answers if d.error]
        assert bool(inner.stamps([b"k%d" % bad])[0]) is stored, verb
        inner.wipe()
    inner.write(b"k", [b"12345678"])
    (got,) = Faulty(inner, 1, "error", ["fetch.item"]).fetch([Want(0, b"k", 8)])
    assert isinstance(got.error, Unavailable)


def test_short_bodies(inner: MemoryStore) -> None:
    inner.write(b"k", [b"12345678"])
    assert b"".join(Faulty(inner, 1, "short", ["read.chunk"]).read(b"k")) == b"1234"
    (got,) = Faulty(inner, 1, "short", ["fetch.item"]).fetch([Want(0, b"k", 8)])
    assert (bytes(got.body), got.error) == (b"1234", None)
    faulty = Faulty(inner, 1, "short", ["stat"])
    assert faulty.stat(b"k").entry.size == 8, "nothing to cut"


def test_lasting_faults(inner: MemoryStore) -> None:
    faulty = Faulty(inner, 2, lasting=True)
    faulty.exists()
    for call in (faulty.exists, faulty.below(b"x").exists, faulty.sync):
        with pytest.raises(Unavailable):
            call()


def test_hanging_ends_when_released(inner: MemoryStore) -> None:
    inner.write(b"k", [b"1"])
    faulty = Faulty(inner, 1, "hang", ["read.chunk"])
    outcome: list[object] = []

    def read() -> None:
        try:
            outcome.append(b"".join(faulty.read(b"k")))
        except Unavailable as error:
            outcome.append(error.code)

    thread = threading.Thread(target=read)
    thread.start()
    assert faulty.hanging.wait(30)
    assert not outcome
    faulty.release()
    thread.join()
    assert outcome == ["planted"]


@pytest.mark.parametrize("make", [Recording, lambda inner: Slow(inner, 0.0)])
def test_wrappers_hand_on(inner: MemoryStore, make: Callable[[Store], Store]) -> None:
    store = make(inner)
    assert isinstance(store, Store)
    assert (store.url, store.can, store.room) == (inner.url, inner.can, inner.room)
    assert store.below(b"x").url == inner.below(b"x").url
