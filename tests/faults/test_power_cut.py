"""A power cut at random moments: no receipt without its bytes, and what lies there is resumed to its end."""

from __future__ import annotations

import random
import shutil
import sqlite3
import threading
import time
from pathlib import Path

import pytest

from components.compare import same_tree
from components.loopdisk import LoopDisk, loop_disk
from dls.logistics.database import Database
from dls.logistics.store import Store
from dls.logistics.stores.posix import PosixStore
from dls.logistics.testing.contract_transfer import small_scale
from dls.logistics.testing.faults import Slow
from dls.logistics.testing.spec import spec
from dls.logistics.transfer import evidence
from dls.logistics.transfer.listing import Wanted, known, listed
from dls.logistics.transfer.prove import prove
from dls.logistics.transfer.receipt import MemoryReceipts, Place, SqlReceipts
from dls.logistics.transfer.run import Options, Outcome, run_copies

pytestmark = [pytest.mark.fault, pytest.mark.timeout(600)]
CUTS = 10


def plant(root: Path, rng: random.Random) -> None:
    for n in range(900):
        path = root / f"d{n % 7}" / f"f{n:04}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(rng.randrange(5000)))
    for n in range(3):
        (root / f"big{n}").write_bytes(rng.randbytes((1 << 20) + n))
    (root / "link").symlink_to("d0/f0000")
    (root / "zz").hardlink_to(root / "d0/f0007")
    (root / "empty").mkdir()


def copied(state: Path, to: Path) -> None:
    """The state as it is at this moment."""
    to.mkdir(parents=True)
    with sqlite3.connect(state / "state.sqlite") as here, sqlite3.connect(to / "state.sqlite") as there:
        here.backup(there)
    here.close()
    there.close()
    for log in state.glob("*.log"):
        shutil.copy(log, to)


def vouched(receipts: SqlReceipts, place: Place, wanted: Wanted, at: Path, source: Path) -> int:
    """Every file that a receipt vouches for after a reboot holds its bytes; how many there are."""
    count = 0
    roots = [at / "out", at / f".dls-{place.id}"]
    for ref in wanted.manifest.refs:
        receipt = receipts.get(place, ref.digest)
        if receipt is None:
            continue
        assert receipt.boot == ""
        segment = wanted.manifest.load(ref.digest)
        for i, path in enumerate(segment.paths):
            if i in receipt.done and segment.kinds[i] == 0 and i not in segment.targets:
                name = path.decode()
                found = [root / name for root in roots if (root / name).exists()]
                assert found, name
                assert found[0].read_bytes() == (source / name).read_bytes(), name
                count += 1
    return count


@pytest.mark.parametrize("publish", ["whole", "file"])
@spec("TRANSFER-3", "TRANSFER-22", "TRANSFER-8", "TRANSFER-2")
def test_no_fact_without_bytes(
    tmp_path: Path, rng: random.Random, monkeypatch: pytest.MonkeyPatch, publish: str
) -> None:
    small_scale(monkeypatch)
    monkeypatch.setattr("dls.logistics.segment.LEAST", 60)
    monkeypatch.setattr("dls.logistics.segment.LIMIT", 90)
    source, state = tmp_path / "from", tmp_path / "state"
    plant(source, rng)
    proof = prove(PosixStore(source), listed(PosixStore(source)), MemoryReceipts())
    wanted = known(proof.manifest)
    ended: list[Outcome] = []

    def transfer(store: Store, where: Path, home: Path) -> Outcome:
        database = Database(home / "state.sqlite")
        try:
            return run_copies(
                store, PosixStore(where), b"out", wanted, SqlReceipts(database), logs=home, options=Options(streams=1)
            )
        finally:
            database.close()

    with loop_disk(tmp_path, 48) as disk:
        if publish == "file":
            (disk.folder / "out").mkdir()
        SqlReceipts(Database(state / "state.sqlite"))
        slow = Slow(PosixStore(source), 0.002)
        thread = threading.Thread(target=lambda: ended.append(transfer(slow, disk.folder, state)))
        thread.start()
        for number in range(CUTS):
            time.sleep(rng.uniform(0.0, 0.5))
            copied(state, tmp_path / f"state-{number}")
            disk.copy_image(tmp_path / f"image-{number}")
        thread.join()
        assert ended[0].complete
        place = ended[0].place
    monkeypatch.setattr(evidence, "boot_id", lambda: "another boot")
    sure = []
    for number in range(CUTS):
        home = tmp_path / f"state-{number}"
        after = LoopDisk(tmp_path / f"image-{number}", tmp_path / "disk")
        after.mount()
        try:
            database = Database(home / "state.sqlite")
            sure.append(vouched(SqlReceipts(database), place, wanted, after.folder, source))
            database.close()
            outcome = transfer(PosixStore(source), after.folder, home)
            assert outcome.complete
            assert outcome.kept >= sure[-1]
            assert same_tree(source, after.folder / "out") == []
        finally:
            after.unmount()
    print(f"files vouched for at each cut: {sure}")
    assert sure == sorted(sure)
    assert max(sure) > 0
