"""Sources that change, disks that are full or read-only, users without rights, whole real trees."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from components.compare import same_tree
from components.loopdisk import loop_disk
from components.s3_rclone import rclone_s3
from components.tree import odd
from dls.logistics.credentials import S3Credentials
from dls.logistics.errors import Conflict, Corrupt, Denied, DlsError, Unavailable
from dls.logistics.manifest import in_memory
from dls.logistics.store import Store
from dls.logistics.stores.posix import PosixStore
from dls.logistics.stores.s3 import S3Store
from dls.logistics.testing.faults import Around
from dls.logistics.testing.spec import spec
from dls.logistics.transfer import sharing
from dls.logistics.transfer.listing import known, listed
from dls.logistics.transfer.plan import survey
from dls.logistics.transfer.prove import Depth, prove
from dls.logistics.transfer.receipt import MemoryReceipts
from dls.logistics.transfer.run import Options, run_copies
from dls.logistics.url import parse

pytestmark = [pytest.mark.fault, pytest.mark.timeout(1200)]
FAST = Options(durability="process")


class Meddled(Around):
    """Calls `meddle` once, when the first body was fetched."""

    def __init__(self, inner: Store, meddle: Callable[[], None], done: threading.Event | None = None) -> None:
        super().__init__(inner)
        self._meddle, self._was = meddle, done or threading.Event()

    def part_of(self, inner: Store) -> Meddled:
        return Meddled(inner, self._meddle, self._was)

    def step(self, verb: str, key: bytes = b"") -> bool:
        if verb in ("fetch.item", "read.chunk") and not self._was.is_set():
            self._was.set()
            self._meddle()
        return False


@pytest.mark.parametrize("form", ["known", "unknown"])
@spec("TRANSFER-16", "TRANSFER-7", "TRANSFER-4")
def test_a_source_that_changes_while_it_is_copied(tmp_path: Path, form: str) -> None:
    """Rewritten in place with the same size and time; grown; shrunk; removed: told, and nothing shows."""
    source = tmp_path / "from"
    source.mkdir()
    for n in range(30):
        (source / f"f{n:02}").write_bytes(b"%04d" % n * 100)
    big = source / "g"
    big.write_bytes(os.urandom(18 << 20))
    store = PosixStore(source)
    wanted = known(prove(store, listed(store), MemoryReceipts()).manifest) if form == "known" else listed(store)

    def meddle() -> None:
        before = (source / "f20").stat()
        (source / "f20").write_bytes(b"x" * before.st_size)
        os.utime(source / "f20", ns=(before.st_atime_ns, before.st_mtime_ns))
        with (source / "f21").open("ab") as file:
            file.write(b"more")
        os.truncate(source / "f22", 7)
        (source / "f23").unlink()
        with big.open("r+b") as file:
            file.seek(17 << 20)
            file.write(b"changed")

    outcome = run_copies(
        Meddled(store, meddle), PosixStore(tmp_path), b"to", wanted, MemoryReceipts(), logs=tmp_path, options=FAST
    )
    assert [key for key, _ in outcome.failures.shown] == [b"f20", b"f21", b"f22", b"f23", b"g"]
    codes = {error.code for _, error in outcome.failures.shown}
    assert codes <= {"source-changed", "content-differs", "no-such-key"}
    assert not (tmp_path / "to").exists()
    again = run_copies(store, PosixStore(tmp_path), b"to", listed(store), MemoryReceipts(), logs=tmp_path, options=FAST)
    assert again.complete
    assert same_tree(source, tmp_path / "to") == []


@pytest.mark.service
@pytest.mark.parametrize("form", ["known", "unknown"])
@spec("TRANSFER-16")
def test_an_object_that_changes_while_it_is_copied(tmp_path: Path, form: str) -> None:
    with rclone_s3(tmp_path, fresh=False) as s3:
        s3.bucket("b")
        keys = S3Credentials(s3.access_key, s3.secret_key, endpoint=s3.endpoint)
        store = S3Store(parse("s3://b/x"), keys)
        for n in range(30):
            store.write(b"f%02d" % n, [b"%04d" % n * 100])
        store.write(b"g", [os.urandom(18 << 20)])
        wanted = known(prove(store, listed(store), MemoryReceipts()).manifest) if form == "known" else listed(store)

        def meddle() -> None:
            store.write(b"f20", [b"x" * 400])
            store.write(b"g", [os.urandom(18 << 20)])

        outcome = run_copies(
            Meddled(store, meddle), PosixStore(tmp_path), b"to", wanted, MemoryReceipts(), logs=tmp_path, options=FAST
        )
        assert [key for key, _ in outcome.failures.shown] == [b"f20", b"g"]
        assert all(isinstance(error, Conflict | Corrupt) for _, error in outcome.failures.shown)
        assert not (tmp_path / "to").exists()
        store.close()


@pytest.mark.parametrize("fast", ["0", "1"])
@pytest.mark.parametrize("processes", [1, 3])
@spec("TRANSFER-18", "TRANSFER-8", "TRANSFER-32")
def test_a_full_disk_ends_in_one_error_and_is_resumed_after_freeing(
    tmp_path: Path, processes: int, fast: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "WORTH", 8)
    monkeypatch.setenv("DLS_FAST", fast)
    options = Options(processes=processes)
    source = tmp_path / "from"
    source.mkdir()
    for n in range(300):
        (source / f"f{n:03}").write_bytes(os.urandom(30_000))
    (source / "large").write_bytes(os.urandom(6 << 20))
    receipts, store = MemoryReceipts(), PosixStore(source)
    with loop_disk(tmp_path, 24) as disk:
        filler = disk.folder / "filler"
        filler.write_bytes(bytes(9 << 20))
        with pytest.raises(Unavailable) as told:
            run_copies(store, PosixStore(disk.folder), b"to", listed(store), receipts, logs=tmp_path, options=options)
        assert told.value.code == "disk-full"
        assert told.value.remedy
        assert not (disk.folder / "to").exists()
        filler.unlink()
        outcome = run_copies(
            store, PosixStore(disk.folder), b"to", listed(store), receipts, logs=tmp_path, options=options
        )
        assert outcome.complete
        assert outcome.kept > 0
        assert same_tree(source, disk.folder / "to") == []


@spec("TRANSFER-18")
def test_a_read_only_target_ends_in_one_error(tmp_path: Path) -> None:
    source = tmp_path / "from"
    source.mkdir()
    (source / "f").write_bytes(b"x")
    store = PosixStore(source)
    with loop_disk(tmp_path, 8) as disk:
        disk.read_only()
        with pytest.raises(Denied) as told:
            run_copies(store, PosixStore(disk.folder), b"to", listed(store), MemoryReceipts(), logs=tmp_path)
        assert told.value.code == "read-only"
        disk.read_only(on=False)
        assert run_copies(store, PosixStore(disk.folder), b"to", listed(store), MemoryReceipts()).complete


NOBODY = """
import os, sys, json
from dls.logistics.stores.posix import PosixStore
from dls.logistics.errors import DlsError
from dls.logistics.transfer.listing import listed
from dls.logistics.transfer.receipt import MemoryReceipts
from dls.logistics.transfer.run import Options, run_copies
from dls.logistics.entry import *
from dls.logistics.manifest import in_memory
from dls.logistics.transfer.listing import known
from dls.logistics.digest import of
os.setgroups([]); os.setgid(65534); os.setuid(65534)
source, target = PosixStore(sys.argv[1]), PosixStore(sys.argv[2])
fast = Options(durability="process", retries=0)
"""


def as_nobody(script: str, *words: Path) -> Any:
    code = NOBODY + textwrap.dedent(script)
    done = subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def open_folder(tmp_path: Path) -> Path:
    """A folder that nobody may write, reachable for all."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.getuid() and not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o011)
    work = tmp_path / "open"
    work.mkdir()
    work.chmod(0o777)
    return work


@pytest.mark.skipif(os.getuid() != 0, reason="becomes another user")
@spec("TRANSFER-17", "TRANSFER-8")
def test_closed_folders_and_read_only_files_arrive_for_a_user_without_rights(open_folder: Path) -> None:
    said = as_nobody(
        """
        big = os.urandom(17 << 20)
        entries = [Entry(b"a", FOLDER, mode=0o555), Entry(b"a/b", FOLDER, mode=0o555),
            Entry(b"a/b/c", FOLDER, mode=0o500),
            Entry(b"a/f", FILE, 1, of(b"f"), 0o444), Entry(b"a/g", FILE, len(big), of(big), 0o400),
            Entry(b"a/l", LINK, target=b"f"), Entry(b"a/z", FILE, 1, of(b"f"), 0o444, target=b"a/f"),
            Entry(b"shut", FOLDER, mode=0)]
        source.write(b"a/f", [b"f"]); source.write(b"a/g", [big]); source.write(b"a/z", [b"f"])
        receipts, wanted = MemoryReceipts(), known(in_memory(entries))
        first = run_copies(source, target, b"to", wanted, receipts, options=fast)
        again = run_copies(source, target, b"to", wanted, receipts, options=fast)
        # a killed run: everything lies in staging, with its modes, and no receipt tells
        os.rename(sys.argv[2] + "/to", sys.argv[2] + "/.dls-" + first.place.id)
        third = run_copies(source, target, b"to", wanted, MemoryReceipts(), options=fast)
        target.below(b"to").wipe()
        print(json.dumps([first.complete, again.copied, third.complete, third.copied, target.below(b"to").exists()]))
        """,
        open_folder / "from",
        open_folder / "target",
    )
    assert said == [True, 0, True, 0, False]


@pytest.mark.skipif(os.getuid() != 0, reason="becomes another user")
@spec("TRANSFER-18", "TRANSFER-16")
def test_an_unreadable_source_file_is_named_and_the_others_arrive(open_folder: Path) -> None:
    source = open_folder / "from"
    source.mkdir()
    for name in ("a", "b", "c"):
        (source / name).write_bytes(name.encode())
    (source / "big").write_bytes(bytes(2 << 20))
    for name in ("b", "big"):
        (source / name).chmod(0)
    said = as_nobody(
        """
        outcome = run_copies(source, target, b"to", listed(source), MemoryReceipts(), options=fast)
        print(json.dumps([[k.decode(), e.kind, e.message] for k, e in outcome.failures.shown] + [outcome.copied]))
        """,
        source,
        open_folder / "target",
    )
    assert [one[:2] for one in said[:-1]] == [["b", "denied"], ["big", "denied"]]
    assert "from/b" in said[0][2]
    assert said[-1] == 2
    assert not (open_folder / "target/to").exists()


@pytest.mark.skipif(os.getuid() != 0, reason="becomes another user")
@spec("TRANSFER-18")
def test_a_target_without_rights_ends_in_one_error(open_folder: Path) -> None:
    source = open_folder / "from"
    source.mkdir()
    for n in range(50):
        (source / f"f{n}").write_bytes(b"x")
    (open_folder / "target").mkdir(mode=0o755)
    said = as_nobody(
        """
        try:
            run_copies(source, target, b"to", listed(source), MemoryReceipts(), options=fast)
        except DlsError as error:
            print(json.dumps([error.kind, error.code]))
        """,
        source,
        open_folder / "target",
    )
    assert said == ["denied", "no-access"]


def folders_of(source: Path, to: Path) -> None:
    """The same folders, empty: rclone loses objects that are put at once into one that is not there yet."""
    for folder, _, _ in os.walk(os.fsencode(source)):
        os.makedirs(os.path.join(os.fsencode(to), os.path.relpath(folder, os.fsencode(source))), exist_ok=True)


def round_trip(source: Path, work: Path, *, names_differ: bool = False) -> None:
    """disk → S3 → disk by the manifest, and disk → disk; every loss told before the start."""
    store = PosixStore(source)
    receipts = MemoryReceipts()
    proof = prove(store, listed(store, work), receipts)
    assert proof.good, (proof.unread.shown[:3], proof.missing.shown[:3])
    wanted = known(proof.manifest)
    direct = run_copies(store, PosixStore(work), b"direct", wanted, receipts, logs=work, options=FAST)
    assert direct.complete
    assert same_tree(source, work / "direct") == []
    shutil.rmtree(work / "direct")
    if names_differ:
        return
    with ExitStack() as stack:
        folders_of(source, work / "s3-root" / "b" / "tree")
        s3 = stack.enter_context(rclone_s3(work, fresh=False))
        keys = S3Credentials(s3.access_key, s3.secret_key, endpoint=s3.endpoint)
        remote = stack.enter_context(closing(S3Store(parse("s3://b/tree"), keys, part_bytes=255)))
        told = survey(wanted.manifest.segments(), remote.keeps, remote.names, remote.room, 1)
        assert told.losses()
        up = run_copies(store, remote, b"", wanted, receipts, logs=work, options=FAST)
        assert up.complete
        back = run_copies(remote, PosixStore(work), b"back", wanted, receipts, logs=work, options=FAST)
        assert back.complete
    assert same_tree(source, work / "back") == []


@pytest.mark.service
@spec("TRANSFER-8", "TRANSFER-12", "TRANSFER-17")
def test_a_tree_with_everything_makes_the_round_trip(tmp_path: Path) -> None:
    source = tmp_path / "from"
    source.mkdir()
    odd(source)
    with pytest.raises(DlsError) as told:
        round_trip(source, tmp_path)
    assert told.value.code == "name-not-held"
    assert told.value.facts["count"] > 3


@spec("TRANSFER-8", "TRANSFER-17")
def test_a_tree_with_everything_goes_from_disk_to_disk(tmp_path: Path) -> None:
    source = tmp_path / "from"
    source.mkdir()
    odd(source)
    round_trip(source, tmp_path, names_differ=True)


@pytest.mark.slow
@pytest.mark.service
@spec("TRANSFER-8", "TRANSFER-12", "TRANSFER-17")
def test_real_trees_make_the_round_trip(tmp_path: Path, faults_full: bool) -> None:
    """All of /usr under `make faults`; a part of it with links, hard links and empty folders otherwise."""
    if faults_full:
        round_trip(Path("/usr"), tmp_path)
        return
    source = tmp_path / "part"
    source.mkdir()
    for name in ("share/zoneinfo", "share/perl5", "share/doc", "lib/git-core"):
        if Path("/usr", name).is_dir():
            subprocess.run(["cp", "-a", f"/usr/{name}", source], check=True)
    round_trip(source, tmp_path)


@spec("TRANSFER-28", "TRANSFER-14")
def test_a_flipped_byte_on_the_disk_itself_is_found_by_deep_alone(tmp_path: Path) -> None:
    """Bits that rot change no stamp: receipts trust it, `deep` does not, and the repair takes that file only."""
    source = tmp_path / "from"
    source.mkdir()
    for n in range(5):
        (source / f"f{n}").write_bytes(os.urandom(5000))
    receipts, store = MemoryReceipts(), PosixStore(source)
    with loop_disk(tmp_path, 8) as disk:
        outcome = run_copies(store, PosixStore(disk.folder), b"to", listed(store), receipts)
        wanted, final = known(outcome.manifest), PosixStore(disk.folder / "to")
        good = (source / "f3").read_bytes()
        disk.unmount()
        image = bytearray(disk.image.read_bytes())
        at = image.index(good[:4000])
        image[at + 7] ^= 1
        disk.image.write_bytes(image)
        disk.mount()
        assert prove(final, wanted, receipts).good
        proof = prove(final, wanted, receipts, depth=Depth.DEEP)
        assert [key for key, _ in proof.corrupt.shown] == [b"f3"]
        repaired = run_copies(store, PosixStore(disk.folder), b"to", wanted, receipts, options=Options(replace=[b"f3"]))
        assert (repaired.complete, repaired.copied) == (True, 1)
        assert same_tree(source, disk.folder / "to") == []
        assert in_memory(wanted.manifest).content == wanted.manifest.content
