"""What lies there is proven by its bytes: read once, of the right length, hashed as it was recorded."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any

import pytest

from dls.logistics import digest as digests
from dls.logistics.entry import FILE, Entry
from dls.logistics.errors import Unavailable
from dls.logistics.manifest import in_memory
from dls.logistics.segment import Segment
from dls.logistics.stores.memory import MemoryStore
from dls.logistics.testing.contract_transfer import BIG, BLOCK, SMALL
from dls.logistics.testing.faults import Around, Faulty, Recording
from dls.logistics.testing.spec import spec
from dls.logistics.transfer import bringing
from dls.logistics.transfer.bringing import proven
from dls.logistics.transfer.evidence import Known
from dls.logistics.transfer.listing import listed
from dls.logistics.transfer.receipt import MemoryReceipts
from dls.logistics.transfer.run import run_copies

SIZES = [0, 1, SMALL, SMALL + 1, BLOCK - 1, BLOCK, BLOCK + 1, BIG, BIG + 1, BIG + BLOCK]


def content(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def blocks(data: bytes) -> bytes:
    return b"".join(digests.of(data[k : k + BLOCK]) for k in range(0, len(data), BLOCK))


def one(size: int) -> Segment:
    (segment,) = in_memory([Entry(b"f", FILE, size)]).segments()
    return segment


def nothing() -> None:
    """No tick is counted."""


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("by", ["digest", "blocks"])
@spec("TRANSFER-1")
def test_what_lies_there_is_read_once_and_hashed(memory: Callable[[], MemoryStore], size: int, by: str) -> None:
    store, data, log = memory(), content(size), list[tuple[str, bytes]]()
    whole: Known = digests.of(data), blocks(data) if size > BIG else b""
    if by == "blocks" and size <= SMALL:
        return  # only files that travel by parts have blocks
    expected = whole if by == "digest" else (digests.UNKNOWN, blocks(data))
    store.write(b"f", [data])
    ticks: list[int] = []
    found = proven(Recording(store, log), one(size), [0], {0: expected}, lambda: ticks.append(1))
    assert found == {0: whole}
    asked = [verb for verb, _ in log if verb in ("fetch.item", "read")]
    assert asked == (["fetch.item"] if size <= SMALL else ["read"] * -(-size // BLOCK))
    assert len(ticks) == len(asked)
    others = [data + b"x"]
    if data:
        others += [data[:-1], bytes((data[0] ^ 1,)) + data[1:], data[:-1] + bytes((data[-1] ^ 1,))]
    for other in others:
        store.write(b"f", [other])
        assert proven(store, one(size), [0], {0: expected}, nothing) == {}
    store.delete(b"f")
    assert proven(store, one(size), [0], {0: expected}, nothing) == {}


@pytest.mark.parametrize(("size", "verb"), [(SMALL, "fetch"), (SMALL + 1, "read")])
@spec("TRANSFER-18")
def test_what_every_file_would_meet_is_raised(memory: Callable[[], MemoryStore], size: int, verb: str) -> None:
    store, data = memory(), content(size)
    store.write(b"f", [data])
    expected = {0: (digests.of(data), b"")}
    with pytest.raises(Unavailable) as told:
        proven(_Down(store, verb), one(size), [0], expected, nothing)
    assert told.value.code == "service-down"
    if verb == "fetch":
        with pytest.raises(Unavailable) as told:
            proven(_Unanswered(store), one(size), [0], expected, nothing)
        assert told.value.code == "service-down"
    passing = Faulty(store, 1, "error", [f"{verb}.item" if verb == "fetch" else verb])
    assert proven(passing, one(size), [0], expected, nothing) == {}
    assert passing.fired


class _Unanswered(Around):
    """Answers each fetch with an error."""

    def _fetched(self, answers: Any, keys: dict[int, bytes]) -> Any:
        return (got._replace(error=Unavailable("down", code="service-down"), body=b"") for got in answers)


class _Down(Recording):
    def __init__(self, inner: MemoryStore, verb: str) -> None:
        super().__init__(inner)
        self.verb = verb

    def step(self, verb: str, key: bytes = b"") -> bool:
        if verb == self.verb:
            raise Unavailable("down", code="service-down")
        return False


@pytest.mark.parametrize("ended", [True, False])
@spec("TRANSFER-18", "TRANSFER-21")
def test_no_large_file_is_begun_after_what_ended_them_all(
    memory: Callable[[], MemoryStore], monkeypatch: pytest.MonkeyPatch, ended: bool
) -> None:
    source, log, stop = memory(), list[tuple[str, bytes]](), threading.Event()
    source.write(b"f", [content(BLOCK + 1)])
    if ended:
        stop.set()
    monkeypatch.setattr(bringing, "together", lambda work, count: work(stop))
    run_copies(Recording(source, log), memory(), b"out", listed(source), MemoryReceipts())
    assert (("read", b"f") not in log) == ended


@spec("TRANSFER-26", "TRANSFER-18")
def test_what_failed_is_not_counted_as_brought(memory: Callable[[], MemoryStore]) -> None:
    source = memory()
    source.write(b"f", [b"x"])
    wanted = listed(source)
    source.delete(b"f")
    outcome = run_copies(source, memory(), b"out", wanted, MemoryReceipts())
    assert (outcome.copied, outcome.failures.count) == (0, 1)
