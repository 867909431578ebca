"""Receipts: what is written is what is read, and damage is told."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from dls.logistics.database import Database
from dls.logistics.errors import Corrupt
from dls.logistics.manifest import Bitmap
from dls.logistics.testing.spec import spec
from dls.logistics.transfer.receipt import (
    MemoryReceipts,
    Place,
    Receipt,
    Receipts,
    SqlReceipts,
    decode_stamps,
    encode_stamps,
)

WIDE = some.lists(some.sampled_from([b"", b"\1" * 32, b"\2" * 32]), max_size=30)
MIXED = some.lists(some.binary(max_size=40), max_size=30)


@given(WIDE | MIXED)
def test_stamps_are_read_as_they_were_written(stamps: list[bytes]) -> None:
    if set(map(len, stamps)) - {0} and any(s and not s.strip(b"\0") for s in stamps):
        return  # a stamp of zero bytes alone is none: no store makes one
    assert decode_stamps(encode_stamps(stamps), len(stamps)) == stamps


@given(some.lists(some.binary(min_size=1, max_size=9).filter(lambda s: s.strip(b"\0")), min_size=1, max_size=9))
def test_damaged_stamps_are_told(stamps: list[bytes]) -> None:
    good = encode_stamps(stamps)
    more, fewer = len(stamps) + 1, len(stamps) - 1
    for bad, count in ((good, more), (good, fewer), (good[:-3], len(stamps)), (b"x", 1), (zlib.compress(b"\1"), 1)):
        with pytest.raises(Corrupt) as told:
            decode_stamps(bad, count)
        assert told.value.code == "state-damaged"


def test_places_differ_by_where_and_what() -> None:
    ids = {Place(a, b).id for a in ("x", "y") for b in ("p", "q")}
    assert len(ids) == 4
    assert {len(i) for i in ids} == {32}
    assert Place("file:///\udcff", "p").id


@pytest.fixture(params=["memory", "sql"])
def receipts(request: pytest.FixtureRequest, tmp_path: Path) -> Receipts:
    return MemoryReceipts() if request.param == "memory" else SqlReceipts(Database(tmp_path / "state.sqlite"))


@spec("TRANSFER-2")
def test_receipts_are_kept_by_place_and_segment(receipts: Receipts) -> None:
    here, there, segment = Place("here", "w"), Place("there", "w"), b"s" * 32
    one = Receipt(segment, Bitmap(3, b"\5"), [b"a", b"", b"c"], "boot", b"body", [b"1", b"2", b"3"])
    two = Receipt(segment, Bitmap.full(3), [b"x"] * 3, "")
    receipts.put(here, one)
    assert receipts.get(there, segment) is None
    assert receipts.get(here, b"t" * 32) is None
    for receipt in (one, two):
        receipts.put(here, receipt)
        found = receipts.get(here, segment)
        assert found is not None
        assert (found.segment, found.boot, found.body) == (segment, receipt.boot, receipt.body)
        assert (found.done.bits, found.done.count) == (receipt.done.bits, 3)
        assert (list(found.stamps), list(found.sources)) == (list(receipt.stamps), list(receipt.sources))
    receipts.put(there, one)
    receipts.drop(here)
    assert receipts.get(here, segment) is None
    assert receipts.get(there, segment) is not None
