"""What files must hash to, as far as anything tells: the manifest, an older receipt, the log of the same source."""

from __future__ import annotations

import pytest

from dls.logistics import digest as digests
from dls.logistics.entry import FILE, Entry
from dls.logistics.manifest import Bitmap, Manifest, SegmentRef
from dls.logistics.segment import Segment
from dls.logistics.testing.contract_transfer import BIG
from dls.logistics.testing.spec import spec
from dls.logistics.transfer.evidence import Evidence, Found, Known
from dls.logistics.transfer.listing import Wanted
from dls.logistics.transfer.log import Log, blocks_of
from dls.logistics.transfer.receipt import MemoryReceipts, Receipt

SIZES = [5, BIG + 1, BIG, 0, 7]
ALL = range(len(SIZES))
NOW = [b"now%d" % i for i in ALL]


def known_of(i: int) -> Known:
    return digests.of(b"%d" % i), b"".join(parts(i)) if SIZES[i] > BIG else b""


def parts(i: int) -> list[bytes]:
    return [digests.of(b"%d %d" % (i, k)) for k in range(blocks_of(SIZES[i]))]


@pytest.fixture
def listed() -> Segment:
    return Segment.of([Entry(b"f%d" % i, FILE, size) for i, size in enumerate(SIZES)])


def evidence(segment: Segment, *, stamps: bool = True) -> Evidence:
    manifest = Manifest((SegmentRef.of(segment),), lambda digest: segment)
    wanted = Wanted(manifest, "from:x", known=not stamps, stamps=(lambda digest: NOW) if stamps else None)
    return Evidence(MemoryReceipts(), wanted, "there", lambda: None)


@spec("TRANSFER-9")
def test_a_hashed_manifest_tells_all(listed: Segment) -> None:
    segment = listed.with_digests({i: known_of(i) for i in ALL})
    log = Log(None)
    log.add_placed(0, b"x" * 32, b"stamp", b"")
    assert evidence(segment, stamps=False).expected(segment, [0, 1, 4], None, log) == {
        i: known_of(i) for i in (0, 1, 4)
    }


@spec("TRANSFER-9", "TRANSFER-23")
def test_a_receipt_tells_then_the_log_of_the_same_source(listed: Segment) -> None:
    made, log = evidence(listed), Log(None)
    assert made.expected(listed, ALL, None, log) == {}
    body = listed.with_digests({i: known_of(i) for i in (0, 1)}).encode()
    receipt = Receipt(listed.digest, Bitmap.full(len(SIZES)), NOW, "", body, NOW)
    receipt.done.remove(2), receipt.done.remove(3), receipt.done.remove(4)
    told = {i: known_of(i) for i in (0, 1)}
    assert made.expected(listed, ALL, receipt, log) == told
    receipt.done.remove(1)
    assert made.expected(listed, ALL, receipt, log) == {0: told[0]}
    without = Receipt(listed.digest, Bitmap.full(len(SIZES)), NOW, "", b"", NOW)
    assert made.expected(listed, ALL, without, log) == {}
    for i in (1, 2, 4):  # placed: all of it was read; of another source that says nothing
        log.add_placed(i, known_of(i)[0], b"stamp", NOW[i] if i != 4 else b"another")
        log.add_blocks(i, 0, parts(i))
    assert made.expected(listed, ALL, receipt, log) == {
        0: told[0], 1: known_of(1), 2: known_of(2), 4: (digests.UNKNOWN, parts(4)[0])
    }  # fmt: skip
    assert not log.begin(4, b"third"), "what the log says is of the source that was listed"
    assert log.begin(4, NOW[4])
    other = Log(None)
    assert other.begin(1, b"another")
    other.add_blocks(1, 0, parts(1))
    other.add_blocks(2, 0, parts(2)[:-1])
    assert made.expected(listed, ALL, None, other) == {}


@spec("TRANSFER-2", "TRANSFER-16")
def test_a_receipt_of_other_sources_loses_what_changed(listed: Segment) -> None:
    made = evidence(listed)
    found: dict[int, Found] = {i: (*known_of(i), b"stamp%d" % i) for i in (0, 1, 3)}
    receipt = made.receipt_of(listed, None, (), found)
    assert made.receipt(listed) is None
    made.record(receipt)
    kept = made.receipt(listed)
    assert kept is not None
    assert [i for i in ALL if i in kept.done] == [0, 1, 3]
    assert list(kept.stamps) == [b"stamp0", b"stamp1", b"", b"stamp3", b""]
    assert (list(kept.sources), kept.boot, kept.segment) == (NOW, made.boot, listed.digest)
    more = made.receipt_of(listed, kept, [0, 1], {2: (*known_of(2), b"stamp2")})
    assert [i for i in ALL if i in more.done] == [0, 1, 2]
    assert list(more.stamps) == [b"stamp0", b"stamp1", b"stamp2", b"", b""]
    full = Segment.decode(more.body)
    assert [full.digests[32 * i : 32 * i + 32] for i in ALL] == [*(known_of(i)[0] for i in range(4)), digests.UNKNOWN]
    assert dict(full.blocks) == {1: known_of(1)[1]}
    for sources, left in (([NOW[0], b"other", *NOW[2:]], [0, 2]), ((), [])):
        made.record(Receipt(more.segment, more.done, more.stamps, "", more.body, sources))
        kept = made.receipt(listed)
        assert kept is not None
        assert [i for i in ALL if i in kept.done] == left
    assert [i for i in ALL if i in more.done] == [0, 1, 2], "what is kept is not changed"


@spec("TRANSFER-2")
def test_a_receipt_of_what_was_hashed_before_repeats_no_digests(listed: Segment) -> None:
    segment = listed.with_digests({i: known_of(i) for i in ALL})
    made = evidence(segment, stamps=False)
    found: dict[int, Found] = {i: (*known_of(i), b"stamp%d" % i) for i in ALL}
    receipt = made.receipt_of(segment, None, (), found)
    assert (receipt.body, receipt.sources) == (b"", ())
    full = Receipt(segment.digest, receipt.done, receipt.stamps, "", segment.encode())
    assert made.receipt_of(segment, full, ALL, {}).body == full.body, "a manifest may be read from it"
