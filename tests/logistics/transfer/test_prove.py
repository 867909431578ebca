"""Proofs: what is there, what is not, what is other, and what may be trusted next time."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from dls.logistics import digest as digests
from dls.logistics.entry import FILE, FOLDER, LINK, Entry
from dls.logistics.errors import Denied, Unavailable
from dls.logistics.stores.memory import MemoryStore
from dls.logistics.stores.posix import PosixStore
from dls.logistics.testing.contract_transfer import BIG, BLOCK, SMALL
from dls.logistics.testing.faults import Around, Faulty, Recording
from dls.logistics.testing.spec import spec
from dls.logistics.transfer import evidence
from dls.logistics.transfer.listing import Wanted, known, listed
from dls.logistics.transfer.progress import Progress
from dls.logistics.transfer.prove import Depth, prove
from dls.logistics.transfer.receipt import MemoryReceipts, Place, Receipt
from dls.logistics.transfer.run import Options

WRITES = {"put", "write", "upload", "move", "make", "delete", "wipe"}


@pytest.fixture
def wanted(source: PosixStore) -> Wanted:
    source.make([Entry(b"link", LINK, target=b"big"), Entry(b"e", FOLDER), Entry(b"zz", FILE, target=b"big")])
    proof = prove(source, listed(source), MemoryReceipts())
    assert proof.good
    return known(proof.manifest)


@spec("TRANSFER-28", "TRANSFER-25")
def test_a_registration_learns_every_digest_and_writes_nothing(source: PosixStore) -> None:
    source.make([Entry(b"zz", FILE, target=b"big")])
    log: list[tuple[str, bytes]] = []
    receipts, progress = MemoryReceipts(), Progress()
    proof = prove(Recording(source, log), listed(source), receipts, progress=progress)
    assert proof.good
    assert (proof.read, proof.trusted) == (33, 0)
    assert not {verb for verb, _ in log} & WRITES
    assert (progress.files, progress.bytes) == (progress.files_total, progress.bytes_total)
    for entry in proof.manifest:
        data = b"".join(source.read(entry.path))
        assert entry.digest == digests.of(data)
        cut = [data[k : k + BLOCK] for k in range(0, len(data), BLOCK)] if len(data) > BIG else []
        assert entry.blocks == b"".join(map(digests.of, cut))
    for wanted in (listed(source), known(proof.manifest)):
        again = prove(source, wanted, receipts)
        assert (again.read, again.trusted, again.good) == (0, 33, True)
        assert again.manifest.digest == proof.manifest.digest
    assert {r.boot for r in receipts._kept.values()} == {""}


@spec("TRANSFER-28", "TRANSFER-1")
def test_every_difference_is_found_and_loses_its_evidence(source: PosixStore, wanted: Wanted, tmp_path: Path) -> None:
    receipts, top = MemoryReceipts(), tmp_path / "from"
    assert prove(source, wanted, receipts).good
    (top / "d0/f00").write_bytes(b"longer")
    (top / "d1/f01").write_bytes(b"XX")
    (top / "d2/f02").unlink()
    os.truncate(top / "d0/f03", 1)
    with (top / "big").open("ab") as file:
        file.write(b"x")
    (top / "d0/f06").unlink()
    (top / "d0/f06").mkdir()
    (top / "d0/f09").unlink()
    (top / "d0/f09").symlink_to("f06")
    (top / "link").unlink()
    (top / "link").symlink_to("elsewhere")
    (top / "e").rmdir()
    for depth in Depth:
        proof = prove(source, wanted, receipts, depth=depth)
        assert sorted(k for k, _ in proof.missing.shown) == [b"d2/f02", b"e"]
        corrupt = sorted(k for k, _ in proof.corrupt.shown)
        assert corrupt == [b"big", b"d0/f00", b"d0/f03", b"d0/f06", b"d0/f09", b"d1/f01", b"link", b"zz"]
        assert proof.unread.count == 0
        assert not proof.good
        assert proof.read + proof.trusted == 25
        assert {error.code for _, error in proof.missing.shown} == {"no-such-key"}
    (top / "d1/f01").write_bytes(b"01")
    proof = prove(source, wanted, receipts)
    assert b"d1/f01" not in [k for k, _ in proof.corrupt.shown]
    assert b"zz" in [k for k, _ in proof.corrupt.shown], "nothing vouches for a further name of what is corrupt"
    assert proof.read == 1


@spec("TRANSFER-28")
def test_a_deep_proof_trusts_no_receipt(source: PosixStore, wanted: Wanted) -> None:
    receipts = MemoryReceipts()
    for depth, expected in ((Depth.RECEIPTS, (33, 0)), (Depth.RECEIPTS, (0, 33)), (Depth.DEEP, (33, 0))):
        proof = prove(source, wanted, receipts, depth=depth)
        assert proof.good
        assert (proof.read, proof.trusted) == expected


@spec("TRANSFER-28")
def test_what_cannot_be_read_is_neither_good_nor_bad(source: PosixStore, wanted: Wanted) -> None:
    class Shut(Around):
        def step(self, verb: str, key: bytes = b"") -> bool:
            if verb == "read" and key == b"big":
                raise Denied("no", code="no-access")
            return False

    progress = Progress()
    proof = prove(Shut(source), wanted, MemoryReceipts(), options=Options(retries=0), progress=progress)
    assert progress.failed == proof.unread.count
    assert [k for k, _ in proof.unread.shown] == [b"big", b"zz"] or [k for k, _ in proof.unread.shown] == [b"big"]
    assert proof.corrupt.count == proof.missing.count == 0
    assert not proof.good
    unknown = prove(Shut(source), listed(source), MemoryReceipts(), options=Options(retries=0))
    assert not unknown.good
    assert unknown.manifest.refs == listed(source).manifest.refs, "not named before all is known"


@spec("TRANSFER-18")
def test_what_every_file_would_meet_ends_a_proof(source: PosixStore, wanted: Wanted) -> None:
    class Down(Around):
        def step(self, verb: str, key: bytes = b"") -> bool:
            if verb == "read":
                raise Unavailable("down", code="service-down")
            return False

    with pytest.raises(Unavailable) as told:
        prove(Down(source), wanted, MemoryReceipts(), options=Options(retries=0))
    assert told.value.code == "service-down"


@spec("TRANSFER-28", "TRANSFER-16")
def test_what_is_written_while_it_is_read_proves_nothing(memory: Callable[[], MemoryStore]) -> None:
    store = memory()
    for n in range(5):
        store.write(b"f%d" % n, [b"old"])

    class Writing(Around):
        def step(self, verb: str, key: bytes = b"") -> bool:
            if verb == "fetch.item" and key == b"f3":
                self.inner.write(b"f1", [b"new"])
            return False

    receipts = MemoryReceipts()
    proof = prove(Writing(store), listed(store), receipts)
    assert [k for k, _ in proof.unread.shown] == [b"f1"]
    (receipt,) = receipts._kept.values()
    assert [i in receipt.done for i in range(5)] == [True, False, True, True, True]


@spec("TRANSFER-2", "TRANSFER-22")
def test_evidence_lasts_over_a_boot_where_it_was_synced(
    source: PosixStore, wanted: Wanted, memory: Callable[[], MemoryStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    lasting, fleeting = MemoryReceipts(), MemoryReceipts()
    prove(source, wanted, lasting)
    prove(source, wanted, fleeting, options=Options(durability="process"))
    monkeypatch.setattr(evidence, "boot_id", lambda: "another")
    assert prove(source, wanted, lasting).read == 0
    assert prove(source, wanted, fleeting).trusted == 0


@spec("TRANSFER-30", "TRANSFER-28")
def test_what_was_proven_is_not_asked_for_again(source: PosixStore, wanted: Wanted) -> None:
    receipts = MemoryReceipts()
    assert prove(source, wanted, receipts).good
    log, progress = list[tuple[str, bytes]](), Progress()
    assert prove(Recording(source, log), wanted, receipts, progress=progress).good
    assert {verb for verb, _ in log} == {"stamps"}, "links and folders neither"
    assert (progress.files, progress.bytes) == (progress.files_total, progress.bytes_total)


@pytest.mark.parametrize("durability", ["power", "process"])
@spec("TRANSFER-22", "TRANSFER-3")
def test_what_was_read_is_synced_before_it_is_recorded(source: PosixStore, wanted: Wanted, durability: str) -> None:
    log: list[tuple[str, bytes]] = []

    class Telling(MemoryReceipts):
        def put(self, place: Place, receipt: Receipt) -> None:
            log.append(("receipt", b""))
            super().put(place, receipt)

    assert prove(Recording(source, log), wanted, Telling(), options=Options(durability=durability)).good
    verbs = [verb for verb, _ in log if verb in ("fetch", "sync", "receipt")]
    assert verbs.count("receipt") == len(wanted.manifest.refs)
    assert verbs.count("sync") == (verbs.count("receipt") if durability == "power" else 0)
    assert all(before == "sync" for before, verb in itertools.pairwise(verbs) if verb == "receipt") == (
        durability == "power"
    )


@spec("TRANSFER-28")
def test_a_file_at_the_border_of_small_is_read(memory: Callable[[], MemoryStore]) -> None:
    for size in (SMALL - 1, SMALL, SMALL + 1):
        store = memory()
        store.write(b"f", [b"x" * size])
        proof = prove(store, listed(store), MemoryReceipts())
        assert (proof.read, [entry.digest for entry in proof.manifest]) == (1, [digests.of(b"x" * size)])


@spec("TRANSFER-21")
def test_a_proof_ends_where_the_right_to_go_on_is_lost(source: PosixStore, wanted: Wanted) -> None:
    def fence() -> None:
        if threading.current_thread().name == "dls-transfer":  # as the work itself asks
            raise Unavailable("another's", code="lost")

    receipts = MemoryReceipts()
    with pytest.raises(Unavailable) as told:
        prove(source, wanted, receipts, options=Options(fence=fence))
    assert told.value.code == "lost"
    assert receipts._kept == {}


@spec("TRANSFER-20", "TRANSFER-21")
def test_a_proof_that_stands_still_is_given_up(memory: Callable[[], MemoryStore]) -> None:
    store, receipts = memory(), MemoryReceipts()
    for n in range(20):
        store.write(b"f%02d" % n, [b"x"])
    faulty = Faulty(store, 15, "hang", ["fetch.item"])
    with pytest.raises(Unavailable) as told:
        prove(faulty, listed(store), receipts, options=Options(stall_s=0.15))
    assert told.value.code == "stalled"
    faulty.release()
    before = len(receipts._kept)
    import time

    while any(t.name.startswith("dls-") for t in threading.enumerate()):
        time.sleep(0.001)
    assert len(receipts._kept) == before


@spec("TRANSFER-19")
def test_a_short_read_is_tried_again(source: PosixStore, wanted: Wanted) -> None:
    for verb in ("fetch.item", "read.chunk"):
        faulty = Faulty(source, 3, "short", [verb])
        proof = prove(faulty, wanted, MemoryReceipts(), options=Options(streams=1))
        assert faulty.fired
        assert proof.good or verb == "read.chunk"
