"""Transfers in odd situations: what is there already, what stands in the way, what fails at an awkward moment."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from components.compare import same_tree
from dls.logistics import digest as digests
from dls.logistics.database import Database
from dls.logistics.entry import FILE, FOLDER, LINK, Entry
from dls.logistics.errors import Conflict, Denied, DlsError, Exists, Invalid, NotFound, Unavailable, Unsupported
from dls.logistics.manifest import in_memory
from dls.logistics.names import Names
from dls.logistics.store import Can, Store
from dls.logistics.stores.memory import MemoryStore
from dls.logistics.stores.posix import PosixStore
from dls.logistics.testing.faults import Around, Faulty, Recording
from dls.logistics.testing.spec import spec
from dls.logistics.transfer import evidence, run
from dls.logistics.transfer.listing import Wanted, known, listed
from dls.logistics.transfer.progress import Progress
from dls.logistics.transfer.prove import prove
from dls.logistics.transfer.receipt import MemoryReceipts, Place, Receipt, SqlReceipts
from dls.logistics.transfer.run import Options, Outcome, run_copies
from dls.logistics.transfer.transfer import Transfer

PROCESS = Options(durability="process")
Log = list[tuple[str, bytes]]


def hashed(store: Store) -> Wanted:
    return known(prove(store, listed(store), MemoryReceipts()).manifest)


class Doing(Around):
    """Calls `act(verb, key)` before each operation; it may raise."""

    def __init__(self, inner: Store, act: Callable[[str, bytes], None]) -> None:
        super().__init__(inner)
        self.act = act

    def part_of(self, inner: Store) -> Doing:
        return Doing(inner, self.act)

    def step(self, verb: str, key: bytes = b"") -> bool:
        self.act(verb, key)
        return False


class NoTimes(Around):
    """A store that lists no times, as S3."""

    def _listed(self, found: Any) -> Any:
        return (e._replace(mtime_ns=-(2**63)) for e in super()._listed(found))


class Remote(Around):
    """A store that cannot rename: direct publishing."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.can = inner.can - {Can.MOVE, Can.SYNC}


def failing(verb: str, error: DlsError, key: bytes = b"", times: int = 1) -> Callable[[str, bytes], None]:
    left = [times]

    def act(v: str, k: bytes) -> None:
        if v == verb and key in (b"", k) and left[0]:
            left[0] -= 1
            raise error

    return act


# ------------------------------------------------------------------------------------------------- what is published


@spec("TRANSFER-29")
@pytest.mark.parametrize("root", [b"x", b"a/b"])
def test_a_manifest_without_entries_publishes_an_empty_folder(
    tmp_path: Path, target: PosixStore, memory: Callable[[], MemoryStore], root: bytes
) -> None:
    wanted = known(in_memory([]))
    for store in (target, memory()):
        for _ in range(2):
            assert run_copies(memory(), store, root, wanted, MemoryReceipts()).complete
        assert store.below(root).exists()
        assert [(e.path, e.kind) for e in store.list()] == [(root, FOLDER)]
    assert run_copies(memory(), Remote(memory()), root, wanted, MemoryReceipts()).complete
    assert run_copies(memory(), target, b"", wanted, MemoryReceipts()).complete


@spec("TRANSFER-5", "TRANSFER-4")
@pytest.mark.parametrize("root", [b"", b"out", b"a/out"])
@pytest.mark.parametrize("there", [False, True])
def test_an_empty_folder_at_the_target_stays_itself(
    tmp_path: Path, source: PosixStore, root: bytes, there: bool
) -> None:
    final = tmp_path / "site" / root.decode()
    if there:
        final.mkdir(parents=True)
    inode = final.stat().st_ino if there else 0
    outcome = run_copies(source, PosixStore(tmp_path / "site"), root, listed(source), MemoryReceipts(), logs=tmp_path)
    assert outcome.complete
    assert same_tree(tmp_path / "from", final) == []
    assert not there or final.stat().st_ino == inode
    assert sorted(p.name for p in final.iterdir()) == ["big", "d0", "d1", "d2", "middle"]
    assert sorted(p.suffix for p in tmp_path.iterdir() if p.is_file()) == []


@spec("TRANSFER-5")
def test_what_else_lies_at_the_target_is_not_touched(tmp_path: Path, source: PosixStore, target: PosixStore) -> None:
    target.write(b"out/mine", [b"mine"])
    target.write(b"out/d0/mine", [b"mine"])
    assert run_copies(source, target, b"out", listed(source), MemoryReceipts()).complete
    assert b"".join(target.read(b"out/mine")) == b"".join(target.read(b"out/d0/mine")) == b"mine"


@spec("TRANSFER-4", "TRANSFER-5")
def test_staging_beside_a_target_that_came_to_be_meanwhile_is_swept(
    tmp_path: Path, source: PosixStore, target: PosixStore
) -> None:
    wanted, receipts = hashed(source), MemoryReceipts()
    source.delete(b"d2/f02")
    assert not run_copies(source, target, b"out", wanted, receipts).complete
    source.write(b"d2/f02", [b"0202"], mode=0o640, mtime_ns=2)
    assert [p.name[:5] for p in (tmp_path / "site").iterdir()] == [".dls-"]
    (tmp_path / "site/out").mkdir()
    assert run_copies(source, target, b"out", wanted, receipts).complete
    assert [p.name for p in (tmp_path / "site").iterdir()] == ["out"]


# -------------------------------------------------------------------------------------------------------- refusals


@spec("TRANSFER-11")
def test_trees_within_each_other_are_refused(tmp_path: Path, source: PosixStore) -> None:
    above = PosixStore(tmp_path)
    cases: list[tuple[Store, Store, bytes, Wanted]] = [
        (source, source, b"", listed(source)),
        (source, source, b"copy", listed(source)),
        (source, source, b"d0", hashed(source)),
        (source, source, b"d0/f03", hashed(source)),
        (source, source, b"d0/f03/x", hashed(source)),
        (source, source, b"big/x", hashed(source)),
        (source, source, b"d0", known(in_memory([Entry(b"d0-x", FILE), Entry(b"d0/f00", FILE)]))),
        (source, above, b"", known(in_memory([Entry(b"from/d0/f00", FILE)]))),
        (source, above, b"", known(in_memory([Entry(b"from", FILE)]))),
    ]
    before = sorted(source.list())
    for one, other, root, wanted in cases:
        with pytest.raises(Invalid) as told:
            run_copies(one, other, root, wanted, MemoryReceipts(), options=PROCESS)
        assert told.value.code == "same-place", root
    assert sorted(source.list()) == before
    for root, wanted in (
        (b"copy", hashed(source)),
        (b"d0/x", hashed(source)),
        (b"d", hashed(source)),
        (b"zzz/x", hashed(source)),
        (b"x", listed(source, only=b"big")),
    ):
        assert run_copies(source, source, root, wanted, MemoryReceipts(), options=PROCESS).complete
    assert run_copies(source, PosixStore(tmp_path / "from2"), b"x", listed(source), MemoryReceipts()).complete
    plain = known(in_memory([Entry(b"big", FILE, 262400)]))
    assert run_copies(source, above, b"", plain, MemoryReceipts(), options=PROCESS).complete


@spec("TRANSFER-11")
def test_names_that_cannot_be_held_are_refused_before_anything_moves(
    source: PosixStore, memory: Callable[[], MemoryStore]
) -> None:
    class Short(MemoryStore):
        names = Names(key_bytes=12)

    log: Log = []
    inner = Short(memory()._name)
    with pytest.raises(Unsupported) as told:
        run_copies(source, Recording(inner, log), b"longer-root", listed(source), MemoryReceipts())
    assert told.value.code == "name-not-held"
    assert {verb for verb, _ in log} <= {"exists"}


@spec("TRANSFER-11", "TRANSFER-14")
@pytest.mark.parametrize("form", ["known", "unknown"])
def test_other_kinds_in_the_way_are_refused_and_replaced_only_when_named(
    tmp_path: Path, target: PosixStore, form: str
) -> None:
    source = PosixStore(tmp_path / "from")
    source.write(b"file", [b"f"])
    source.write(b"sub/file", [b"s"])
    source.write(b"up/sub/file", [b"s"])
    source.make([Entry(b"folder", FOLDER), Entry(b"link", LINK, target=b"file"), Entry(b"name", FILE, target=b"file")])
    out = tmp_path / "site/out"
    (out / "file").mkdir(parents=True)
    for name in ("folder", "link", "name", "sub", "up"):
        (out / name).write_bytes(b"mine")
    wanted = hashed(source) if form == "known" else listed(source)
    with pytest.raises(Exists) as told:
        run_copies(source, target, b"out", wanted, MemoryReceipts(), options=PROCESS)
    assert told.value.facts["keys"] == ["sub/file", "up/sub/file"] or set(told.value.facts["keys"]) == {
        "file", "folder", "link", "name", "sub/file", "up/sub/file"
    }  # fmt: skip
    assert told.value.facts["count"] == 6
    assert [(out / n).read_bytes() for n in ("folder", "link", "name", "sub", "up")] == [b"mine"] * 5
    for name in ("sub", "up"):
        (out / name).unlink()
    options = Options(durability="process", replace=[b"file", b"folder", b"link", b"name"])
    assert run_copies(source, target, b"out", wanted, MemoryReceipts(), options=options).complete
    assert same_tree(tmp_path / "from", out) == []


@spec("TRANSFER-13", "TRANSFER-17")
def test_links_and_names_that_are_right_already_are_kept(tmp_path: Path, target: PosixStore) -> None:
    source = PosixStore(tmp_path / "from")
    source.write(b"file", [b"f"])
    source.make([Entry(b"link", LINK, target=b"file"), Entry(b"name", FILE, target=b"file"), Entry(b"sub", FOLDER)])
    out = tmp_path / "site/out"
    (out / "sub").mkdir(parents=True)
    (out / "file").write_bytes(b"f")
    (out / "name").write_bytes(b"f")
    (out / "link").symlink_to("file")
    for wanted in (listed(source), hashed(source)):
        assert run_copies(source, target, b"out", wanted, MemoryReceipts(), options=PROCESS).complete
        assert same_tree(tmp_path / "from", out, modes=False, mtimes=False) == []


@spec("TRANSFER-11")
def test_a_link_that_leads_elsewhere_is_another_thing(tmp_path: Path, target: PosixStore) -> None:
    source = PosixStore(tmp_path / "from")
    source.make([Entry(b"link", LINK, target=b"right")])
    target.make([Entry(b"out/link", LINK, target=b"wrong")])
    with pytest.raises(Exists):
        run_copies(source, target, b"out", listed(source), MemoryReceipts(), options=PROCESS)


@spec("TRANSFER-11")
def test_many_differences_are_counted_and_the_first_twenty_named(source: PosixStore, target: PosixStore) -> None:
    for n in range(30):
        target.write(b"out/d%d/f%02d" % (n % 3, n), [b"mine" * 20])
    names = sorted(f"d{n % 3}/f{n:02d}" for n in range(30))
    with pytest.raises(Exists) as told:
        run_copies(source, target, b"out", listed(source), MemoryReceipts(), options=PROCESS)
    assert (told.value.facts["keys"], told.value.facts["count"]) == (names[:20], 30)
    assert told.value.message.endswith(f"/{names[0]} holds something else (and 29 more)")
    replaced = [name.encode() for name in names[1:]]
    with pytest.raises(Exists) as told:
        run_copies(
            source, target, b"out", listed(source), MemoryReceipts(),
            options=Options(durability="process", replace=replaced),
        )  # fmt: skip
    assert told.value.facts["keys"] == names[:1]
    assert told.value.message.endswith(f"/{names[0]} holds something else")


@spec("TRANSFER-15")
def test_nothing_is_written_through_a_link(tmp_path: Path, source: PosixStore, target: PosixStore) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "site/out").mkdir()
    (tmp_path / "site/out/d1").symlink_to(elsewhere)
    with pytest.raises(Exists) as told:
        run_copies(source, target, b"out", listed(source), MemoryReceipts(), options=PROCESS)
    assert told.value.facts["keys"][0].startswith("d1/")
    store = target.below(b"out")
    for write in (
        lambda: store.write(b"d1/x", [b"x"]),
        lambda: store.make([Entry(b"d1/x", LINK, target=b"y")]),
        lambda: store.upload(b"d1/x", 5),
        lambda: store.move([(b"d1", b"d1/sub/y")]),
    ):
        with pytest.raises(Conflict) as refused:
            write()
        assert refused.value.code == "linked-folder"
    assert list(elsewhere.iterdir()) == []
    # The caller's own links, above the target and as its root, are followed.
    (tmp_path / "way").symlink_to(tmp_path / "site")
    (tmp_path / "site/real").mkdir()
    (tmp_path / "site/named").symlink_to("real")
    for root in (b"new", b"named"):
        assert run_copies(source, PosixStore(tmp_path / "way"), root, listed(source), MemoryReceipts()).complete
        assert same_tree(tmp_path / "from", tmp_path / "site" / root.decode()) == []


# -------------------------------------------------------------------------------------------------------- evidence


@spec("TRANSFER-2", "TRANSFER-22", "TRANSFER-30")
def test_evidence_that_was_not_synced_ends_with_the_boot_unless_it_is_hardened(
    source: PosixStore, target: PosixStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, receipts = hashed(source), MemoryReceipts()

    def boots() -> set[str]:
        return {r.boot for r in receipts._kept.values()}

    def run(options: Options) -> tuple[Outcome, Log]:
        log: Log = []
        return run_copies(source, Recording(target, log), b"out", wanted, receipts, options=options), log

    assert run(PROCESS)[0].complete
    assert boots() == {evidence.boot_id()}
    monkeypatch.setattr(evidence, "boot_id", lambda: "the next boot")
    outcome, log = run(PROCESS)
    assert (outcome.copied, outcome.kept) == (0, 32)
    assert ("fetch", b"") in log, "hashed where it lies"
    assert boots() == {"the next boot"}
    outcome, log = run(Options())
    assert boots() == {""}
    verbs = [verb for verb, _ in log]
    assert verbs.count("sync") >= 1
    assert "fetch" not in verbs
    outcome, log = run(Options())
    assert {verb for verb, _ in log} <= {"exists", "stamps", "wipe", "sync"}
    monkeypatch.setattr(evidence, "boot_id", lambda: "one more")
    assert "fetch" not in [verb for verb, _ in run(PROCESS)[1]]


@spec("TRANSFER-30", "TRANSFER-22")
def test_a_run_with_nothing_to_do_syncs_only_where_the_one_before_was_cut_short(
    tmp_path: Path, source: PosixStore, target: PosixStore
) -> None:
    wanted, receipts = hashed(source), MemoryReceipts()
    gone = Doing(target, failing("sync", Unavailable("cut", code="planted"), times=0))
    syncs = [0]

    def act(verb: str, _: bytes) -> None:
        syncs[0] += verb == "sync"
        if verb == "sync" and (tmp_path / "site/out").exists():
            raise Unavailable("cut", code="planted")

    gone.act = act
    with pytest.raises(Unavailable):
        run_copies(source, gone, b"out", wanted, receipts, logs=tmp_path / "logs")
    assert (tmp_path / "site/out").exists()
    for expected in (True, False):
        log: Log = []
        assert run_copies(source, Recording(target, log), b"out", wanted, receipts, logs=tmp_path / "logs").complete
        assert (("sync", b"") in log) == expected
    assert list((tmp_path / "logs").iterdir()) == []


@spec("TRANSFER-22", "TRANSFER-3")
@pytest.mark.parametrize("brought", [True, False])
def test_a_name_whose_sync_failed_is_synced_by_the_next_run(
    tmp_path: Path, source: PosixStore, target: PosixStore, brought: bool
) -> None:
    """Also where the run that renamed brought nothing itself: an earlier one had gathered everything."""
    wanted, receipts = hashed(source), MemoryReceipts()

    def run(act: Callable[[str, bytes], None]) -> Outcome:
        return run_copies(source, Doing(target, act), b"out", wanted, receipts, logs=tmp_path / "logs")

    def late(verb: str, _: bytes) -> None:
        if verb == "sync" and (tmp_path / "site/out").exists():
            raise Unavailable("cut", code="planted")

    for act in [late] if brought else [failing("move", Unavailable("cut", code="planted")), late]:
        with pytest.raises(Unavailable):
            run(act)
    synced: list[str] = []
    assert run(lambda verb, _: synced.append(verb)).complete
    assert "sync" in synced


@spec("TRANSFER-30")
def test_a_run_with_nothing_to_do_that_is_cut_leaves_nothing_to_sync(
    tmp_path: Path, source: PosixStore, target: PosixStore
) -> None:
    wanted, receipts, log = hashed(source), MemoryReceipts(), list[tuple[str, bytes]]()

    def run(store: Store) -> Outcome:
        return run_copies(source, store, b"out", wanted, receipts, logs=tmp_path / "logs")

    assert run(target).complete
    with pytest.raises(Unavailable):
        run(Doing(target, failing("wipe", Unavailable("cut", code="planted"))))
    assert run(Recording(target, log)).complete
    assert ("sync", b"") not in log


@spec("TRANSFER-3")
def test_nothing_shows_where_the_last_receipt_was_not_written(
    memory: Callable[[], MemoryStore], target: PosixStore
) -> None:
    class Full(MemoryReceipts):
        def put(self, place: Place, receipt: Receipt) -> None:
            raise Unavailable("no space", code="disk-full")

    source = memory()
    source.write(b"f", [b"x"])
    with pytest.raises(Unavailable):
        run_copies(source, target, b"out", listed(source), Full(), options=PROCESS)
    assert not target.below(b"out").exists()


@spec("TRANSFER-3", "TRANSFER-5")
def test_bytes_are_synced_before_they_get_their_names(source: PosixStore, target: PosixStore) -> None:
    log: Log = []
    target.below(b"out").write(b"mine", [b"m"])
    assert run_copies(source, Recording(target, log), b"out", hashed(source), MemoryReceipts()).complete
    verbs = [verb for verb, _ in log if verb in ("put", "upload.finish", "sync", "move")]
    before = [one for one, other in itertools.pairwise(verbs) if other == "move"]
    assert set(before) == {"sync"}


@spec("TRANSFER-22", "TRANSFER-5")
def test_the_end_of_staging_is_synced_too(source: PosixStore, target: PosixStore) -> None:
    """Where files were brought, and where a link was made only."""
    source.make([Entry(b"link", LINK, target=b"big")])
    target.below(b"out").write(b"mine", [b"m"])
    wanted, receipts = hashed(source), MemoryReceipts()
    for _ in range(2):
        log: Log = []
        assert run_copies(source, Recording(target, log), b"out", wanted, receipts).complete
        assert [verb for verb, _ in log if verb in ("wipe", "sync")][-1] == "sync"
        target.below(b"out").delete(b"link")


@spec("TRANSFER-22")
def test_evidence_of_what_was_synced_outlives_the_boot(source: PosixStore, target: PosixStore) -> None:
    receipts = MemoryReceipts()
    assert run_copies(source, target, b"out", hashed(source), receipts, options=Options()).complete
    assert {receipt.boot for receipt in receipts._kept.values()} == {""}


@spec("TRANSFER-3")
def test_each_receipt_comes_after_its_sync_and_the_name_after_all(source: PosixStore, target: PosixStore) -> None:
    log: Log = []

    class Telling(MemoryReceipts):
        def put(self, place: Place, receipt: Receipt) -> None:
            log.append(("receipt", receipt.segment))
            super().put(place, receipt)

    source.make([Entry(b"link", LINK, target=b"x"), Entry(b"zz", FILE, target=b"big"), Entry(b"folder", FOLDER)])
    wanted = hashed(source)
    assert run_copies(source, Recording(target, log), b"out", wanted, Telling()).complete
    verbs = [verb for verb, _ in log if verb in ("put", "sync", "receipt", "make", "move")]
    for at, verb in enumerate(verbs):
        if verb == "receipt":
            assert "sync" in verbs[:at]
            since = verbs[:at][::-1]
            wrote = min((since.index(v) for v in ("make", "move") if v in since), default=99)
            assert since.index("sync") < wrote
    assert verbs[-3:] == ["sync", "move", "sync"]
    assert "receipt" not in verbs[-3:]


@spec("TRANSFER-9", "TRANSFER-23")
def test_nothing_of_an_older_object_vouches_for_a_newer_one(memory: Callable[[], MemoryStore], tmp_path: Path) -> None:
    """Same size, no times (S3): parts of the old object lie in staging and in the log, and must not be mixed in."""
    source, target, receipts = memory(), PosixStore(tmp_path / "site"), MemoryReceipts()
    for key, size in ((b"big", 300_000), (b"middle", 100_000), (b"small", 10)):
        source.write(key, [b"o" * size])
    cut = Doing(NoTimes(source), failing("read", Unavailable("cut", code="service-down"), b"middle"))
    with pytest.raises(Unavailable):
        run_copies(cut, target, b"out", listed(NoTimes(source)), receipts, logs=tmp_path, options=Options(streams=1))
    two = Doing(NoTimes(source), failing("read", Unavailable("cut", code="service-down"), b"big"))
    with pytest.raises(Unavailable):
        run_copies(two, target, b"out", listed(NoTimes(source)), receipts, logs=tmp_path, options=Options(streams=1))
    # Killed after three parts, and the source changes a second time.
    source.write(b"big", [b"m" * 300_000])
    turn = iter(range(3))

    def fourth(verb: str, key: bytes) -> None:
        if verb == "read" and key == b"big" and next(turn, None) is None:
            raise Unavailable("cut", code="service-down")

    three = Doing(NoTimes(source), fourth)
    with pytest.raises(Unavailable):
        run_copies(three, target, b"out", listed(NoTimes(source)), receipts, logs=tmp_path, options=Options(streams=1))
    for key, size in ((b"big", 300_000), (b"middle", 100_000), (b"small", 10)):
        source.write(key, [b"n" * size])
    outcome = run_copies(NoTimes(source), target, b"out", listed(NoTimes(source)), receipts, logs=tmp_path)
    assert outcome.complete
    for key, size in ((b"big", 300_000), (b"middle", 100_000), (b"small", 10)):
        assert b"".join(target.read(b"out/" + key)) == b"n" * size


@spec("TRANSFER-9", "TRANSFER-24")
def test_an_upload_that_was_begun_anew_is_of_the_source_that_it_was_read_from(
    memory: Callable[[], MemoryStore], tmp_path: Path
) -> None:
    """Cut, unknown to the target, begun anew, finished with its answer lost; then the source is another."""
    source, inner, receipts = memory(), memory(), MemoryReceipts()
    source.write(b"big", [b"o" * 300_000])

    def run(target: Store) -> Outcome:
        wanted, options = listed(NoTimes(source)), Options(retries=0)
        return run_copies(NoTimes(source), target, b"out", wanted, receipts, logs=tmp_path, options=options)

    with pytest.raises(Unavailable):
        run(Doing(Remote(inner), failing("upload.write", Unavailable("cut", code="service-down"), b"big")))
    assert len(inner._place.uploads) == 1
    inner._place.uploads.clear()
    assert not run(Faulty(Remote(inner), 1, "lost", ["upload.finish"])).complete
    assert b"".join(inner.read(b"out/big")) == b"o" * 300_000
    source.write(b"big", [b"n" * 300_000])
    with pytest.raises(Exists):
        run(Remote(inner))


@spec("TRANSFER-24", "TRANSFER-9")
@pytest.mark.parametrize("form", ["known", "unknown"])
def test_an_upload_whose_answer_was_lost_is_found_finished(
    source: PosixStore, memory: Callable[[], MemoryStore], tmp_path: Path, form: str
) -> None:
    wanted, log, progress = hashed(source) if form == "known" else listed(source), list[tuple[str, bytes]](), Progress()
    lost = Faulty(Remote(memory()), 1, "lost", ["upload.finish"])
    outcome = run_copies(
        Recording(source, log), lost, b"out", wanted, MemoryReceipts(), logs=tmp_path, progress=progress
    )
    assert (outcome.complete, bool(lost.fired)) == (True, True)
    assert log.count(("read", b"big")) + log.count(("read", b"middle")) == 5 + 2
    assert (progress.files, progress.bytes) == (progress.files_total, progress.bytes_total)


@spec("TRANSFER-24", "TRANSFER-18")
def test_only_an_upload_that_is_not_known_is_begun_anew(memory: Callable[[], MemoryStore], tmp_path: Path) -> None:
    source, inner, receipts = memory(), memory(), MemoryReceipts()
    source.write(b"big", [b"o" * 300_000])
    for verb, error in (
        ("upload.finish", Unavailable("cut", code="service-down")),
        ("upload", NotFound("no such bucket", code="no-bucket")),
    ):
        cut = Doing(Remote(inner), failing(verb, error))
        with pytest.raises(type(error)):
            run_copies(source, cut, b"out", listed(source), receipts, logs=tmp_path)
    assert len(inner._place.uploads) == 1


@spec("TRANSFER-24", "TRANSFER-16")
def test_an_upload_of_a_source_that_changed_is_aborted(memory: Callable[[], MemoryStore], tmp_path: Path) -> None:
    source, inner, receipts = memory(), memory(), MemoryReceipts()
    source.write(b"big", [b"o" * 300_000])
    cut = Doing(Remote(inner), failing("upload.finish", Unavailable("cut", code="service-down"), b"big"))
    with pytest.raises(Unavailable):
        run_copies(NoTimes(source), cut, b"out", listed(NoTimes(source)), receipts, logs=tmp_path)
    (first,) = inner._place.uploads
    source.write(b"big", [b"n" * 300_000])
    assert run_copies(NoTimes(source), Remote(inner), b"out", listed(NoTimes(source)), receipts, logs=tmp_path).complete
    assert b"".join(inner.read(b"out/big")) == b"n" * 300_000
    assert first not in inner._place.uploads
    assert inner._place.uploads == {}


@spec("TRANSFER-22")
def test_nothing_is_synced_where_only_the_process_may_end(source: PosixStore, target: PosixStore) -> None:
    (target.below(b"there")).write(b"mine", [b"m"])
    for root in (b"out", b"there"):
        log: Log = []
        assert run_copies(
            source, Recording(target, log), root, listed(source), MemoryReceipts(), options=PROCESS
        ).complete
        assert ("sync", b"") not in log


@spec("TRANSFER-25", "TRANSFER-17")
def test_further_names_are_hashed_as_their_first(tmp_path: Path, target: PosixStore) -> None:
    source = PosixStore(tmp_path / "from")
    for n in range(20):
        source.write(b"f%02d" % n, [b"%d" % n])
    names = [Entry(b"g1", FILE, target=b"f00"), Entry(b"g2", FILE, target=b"f00"), Entry(b"g3", FILE, target=b"f19")]
    source.make([*names, Entry(b"f00x", FILE, target=b"f00")])
    receipts = SqlReceipts(Database(tmp_path / "state" / "s.sqlite"))
    outcome = run_copies(source, target, b"out", listed(source), receipts, options=PROCESS)
    found = {e.path: e.digest for e in outcome.manifest}
    assert found[b"g1"] == found[b"g2"] == found[b"f00x"] == found[b"f00"] == digests.of(b"0")
    assert found[b"g3"] == digests.of(b"19")
    assert outcome.manifest.content == prove(source, listed(source), MemoryReceipts()).manifest.content
    assert same_tree(tmp_path / "from", tmp_path / "site/out") == []
    again = run_copies(source, target, b"out", known(outcome.manifest), receipts, options=PROCESS)
    assert (again.copied, again.complete) == (0, True)
    outcome.manifest.load(outcome.manifest.refs[0].digest)
    for name in ("f00", "f19"):
        (tmp_path / "site/out" / name).write_bytes(b"rot")
    bad = [b"f00", b"f00x", b"f19", b"g1", b"g2", b"g3"]
    options = Options(durability="process", replace=bad)
    repaired = run_copies(source, target, b"out", known(outcome.manifest), receipts, options=options)
    assert (repaired.complete, repaired.copied) == (True, 2)
    assert same_tree(tmp_path / "from", tmp_path / "site/out") == []


# -------------------------------------------------------------------------------------------------------- failures


@spec("TRANSFER-19", "TRANSFER-26")
@pytest.mark.parametrize(
    "verb", ["put.item", "put.take", "fetch.item", "read", "upload.write", "upload.finish", "upload"]
)
@pytest.mark.parametrize("form", ["known", "unknown"])
def test_what_may_pass_is_tried_again_and_counted_once(
    source: PosixStore, memory: Callable[[], MemoryStore], verb: str, form: str
) -> None:
    progress, target = Progress(), memory()
    side = Faulty(source if verb in ("fetch.item", "read") else target, 2, "error", [verb])
    one, other = (side, target) if verb in ("fetch.item", "read") else (source, side)
    wanted = hashed(source) if form == "known" else listed(source)
    outcome = run_copies(one, other, b"out", wanted, MemoryReceipts(), progress=progress, options=Options(streams=2))
    assert side.fired
    assert outcome.complete
    assert (progress.files, progress.bytes) == (progress.files_total, progress.bytes_total)
    assert (progress.kept, progress.failed, outcome.copied) == (0, 0, 32)
    assert (outcome.bytes, outcome.kept) == (progress.bytes_total, 0)
    again = run_copies(source, target, b"out", wanted, MemoryReceipts(), progress=progress)
    assert (again.kept, again.copied, again.bytes) == (32, 0, outcome.bytes)


@spec("TRANSFER-18", "TRANSFER-19", "TRANSFER-26")
def test_what_fails_for_good_is_one_value(source: PosixStore, target: PosixStore) -> None:
    calls: Log = []

    def act(verb: str, key: bytes) -> None:
        if verb in ("fetch.item", "read") and key in (b"d1/f01", b"big", b"middle"):
            calls.append((verb, key))
            if verb == "read":
                raise Denied("no", code="no-access")

    class Refusing(Doing):
        def _fetched(self, answers: Any, keys: dict[int, bytes]) -> Any:
            for got in super()._fetched(answers, keys):
                bad = keys[got.i] == b"d1/f01"
                yield got._replace(error=Denied("no", code="no-access"), body=b"") if bad else got

    progress = Progress()
    outcome = run_copies(
        Refusing(source, act), target, b"out", hashed(source), MemoryReceipts(), progress=progress,
        options=Options(streams=1, durability="process", retries=3),
    )  # fmt: skip
    assert [key for key, _ in outcome.failures.shown] == [b"big", b"middle", b"d1/f01"] or {
        key for key, _ in outcome.failures.shown
    } == {b"big", b"middle", b"d1/f01"}
    assert (outcome.copied, outcome.complete, progress.failed) == (29, False, 3)
    assert sorted(calls) == [("fetch.item", b"d1/f01"), ("read", b"big"), ("read", b"middle")], "not tried again"
    assert not target.below(b"out").exists()


@spec("TRANSFER-18")
@pytest.mark.parametrize("code", ["disk-full", "read-only", "service-down", "wrong-credentials", "no-state"])
@pytest.mark.parametrize("verb", ["put", "upload.write", "read", "stamps"])
def test_what_every_file_would_meet_ends_it(source: PosixStore, target: PosixStore, code: str, verb: str) -> None:
    act = failing(verb, Unavailable("no", code=code), times=99)
    with pytest.raises(Unavailable) as told:
        run_copies(Doing(source, act), Doing(target, act), b"out", listed(source), MemoryReceipts(), options=PROCESS)
    assert told.value.code == code
    _quiet()


@spec("TRANSFER-18", "TRANSFER-21", "TRANSFER-8")
def test_a_receipt_that_cannot_be_written_ends_it_and_nothing_is_left_running(
    source: PosixStore, target: PosixStore
) -> None:
    class Full(MemoryReceipts):
        full = True

        def put(self, place: Place, receipt: Receipt) -> None:
            if self.full and len(self._kept) == 1:
                raise Unavailable("no space", code="disk-full")
            super().put(place, receipt)

    receipts, wanted = Full(), hashed(source)
    with pytest.raises(Unavailable) as told:
        run_copies(source, target, b"out", wanted, receipts, options=PROCESS)
    assert told.value.code == "disk-full"
    _quiet()
    assert not target.below(b"out").exists()
    receipts.full = False
    log: Log = []
    assert run_copies(Recording(source, log), target, b"out", wanted, receipts, options=PROCESS).complete
    assert sum(verb == "fetch.item" for verb, _ in log) < 20


@spec("TRANSFER-21", "TRANSFER-20")
def test_a_transfer_that_was_given_up_records_nothing_when_it_wakes(source: PosixStore, target: PosixStore) -> None:
    gate = threading.Event()

    def act(verb: str, key: bytes) -> None:
        if verb == "fetch.item" and key == b"d2/f29":
            gate.wait(10)

    receipts = MemoryReceipts()
    with pytest.raises(Unavailable) as told:
        run_copies(Doing(source, act), target, b"out", hashed(source), receipts, options=Options(stall_s=0.2))
    assert told.value.code == "stalled"
    before = len(receipts._kept)
    gate.set()
    _quiet()
    assert len(receipts._kept) == before
    assert not target.below(b"out").exists()


@spec("TRANSFER-21", "TRANSFER-20")
def test_a_sign_of_life_is_counted_and_is_the_last_of_one_that_was_given_up(
    source: PosixStore, target: PosixStore
) -> None:
    progress = Progress()
    one = Transfer(source, target, b"out", listed(source), MemoryReceipts(), None, PROCESS, progress)
    one.tick()
    assert progress.ticks == 1
    one.give_up()
    for ask in (one.tick, one.alive):
        with pytest.raises(Unavailable) as told:
            ask()
        assert told.value.code == "stalled"


@spec("TRANSFER-20")
def test_a_target_that_hangs_at_the_first_question_is_a_stall(source: PosixStore, target: PosixStore) -> None:
    faulty = Faulty(target, 1, "hang", ["exists"])
    with pytest.raises(Unavailable) as told:
        run_copies(source, faulty, b"out", hashed(source), MemoryReceipts(), options=Options(stall_s=0.15))
    faulty.release()
    assert told.value.code == "stalled"


@spec("TRANSFER-20")
def test_only_a_sync_is_waited_for_ten_times_as_long(
    source: PosixStore, target: PosixStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress, waits = Progress(), list[float]()

    def watched(work: Any, ticks: Any, stall_s: float, give_up: Any, what: str, patience: Any, fence: Any) -> Any:
        waits.append(patience())
        with progress.sync():
            waits.append(patience())
        return work()

    monkeypatch.setattr(run, "watched", watched)
    assert run_copies(source, target, b"out", hashed(source), MemoryReceipts(), progress=progress).complete
    assert waits == [1, 10]


@spec("TRANSFER-20")
def test_a_long_sync_is_no_stall(source: PosixStore, target: PosixStore) -> None:
    slow = Doing(target, lambda verb, key: time.sleep(0.3) if verb == "sync" else None)
    assert run_copies(
        source, slow, b"out", listed(source, only=b"big"), MemoryReceipts(), options=Options(stall_s=0.2)
    ).complete


def _quiet() -> None:
    until = time.monotonic() + 5
    while any(t.name.startswith("dls-") for t in threading.enumerate()):
        assert time.monotonic() < until, threading.enumerate()
        time.sleep(0.001)


@spec("TRANSFER-27")
def test_one_thread_writes_all_receipts(source: PosixStore, target: PosixStore, tmp_path: Path) -> None:
    database = Database(tmp_path / "state" / "s.sqlite")
    receipts = SqlReceipts(database)
    assert run_copies(source, target, b"out", listed(source), receipts, options=PROCESS).complete
    assert len(listed(source).manifest.refs) > 3
    assert len(database._open) <= 3, "a connection for each thread, not for each segment"
    database.close()


# --------------------------------------------------------------------------------------------------------- uploads


@spec("TRANSFER-24")
@pytest.mark.parametrize("form", ["known", "unknown"])
def test_an_upload_that_is_not_known_any_more_is_begun_anew(
    source: PosixStore, memory: Callable[[], MemoryStore], tmp_path: Path, form: str
) -> None:
    inner = memory()
    wanted = hashed(source) if form == "known" else listed(source)
    act = failing("upload.write", Unavailable("cut", code="service-down"), b"big")
    turn = iter([None, None])

    def third(verb: str, key: bytes) -> None:
        if verb == "upload.write" and key == b"big" and next(turn, 1):
            act(verb, key)

    with pytest.raises(Unavailable):
        run_copies(source, Doing(Remote(inner), third), b"out", wanted, MemoryReceipts(), logs=tmp_path)
    assert len(inner._place.uploads) == 1
    inner._place.uploads.clear()
    outcome = run_copies(source, Remote(inner), b"out", wanted, MemoryReceipts(), logs=tmp_path)
    assert outcome.complete
    assert b"".join(inner.read(b"out/big")) == b"".join(source.read(b"big"))
    assert inner._place.uploads == {}


@spec("TRANSFER-24")
def test_uploads_that_nobody_continues_are_aborted(
    source: PosixStore, memory: Callable[[], MemoryStore], tmp_path: Path
) -> None:
    inner = memory()
    cut = Doing(Remote(inner), failing("upload.finish", Unavailable("cut", code="service-down"), b"big"))
    with pytest.raises(Unavailable):
        run_copies(source, cut, b"out", listed(source), MemoryReceipts(), logs=tmp_path)
    assert len(inner._place.uploads) == 1
    source.write(b"big", [b"another, small now"])
    assert run_copies(source, Remote(inner), b"out", listed(source), MemoryReceipts(), logs=tmp_path).complete
    assert inner._place.uploads == {}
    assert list(tmp_path.glob("*.log")) == []


@spec("TRANSFER-6", "TRANSFER-16")
def test_a_key_of_another_source_is_taken_back(source: PosixStore, memory: Callable[[], MemoryStore]) -> None:
    inner = memory()

    def act(verb: str, key: bytes) -> None:
        if verb == "fetch.item" and key == b"d1/f10":
            source.write(b"d1/f04", [b"04" * 4], mtime_ns=4)

    outcome = run_copies(Doing(source, act), Remote(inner), b"out", listed(source), MemoryReceipts())
    assert [k for k, _ in outcome.failures.shown] == [b"d1/f04"]
    assert b"out/d1/f04" not in [e.path for e in inner.list()]
    assert run_copies(source, Remote(inner), b"out", listed(source), MemoryReceipts()).complete


@spec("TRANSFER-5", "TRANSFER-16")
def test_what_is_to_be_replaced_stays_where_its_source_changed(source: PosixStore, target: PosixStore) -> None:
    target.write(b"out/d1/f04", [b"mine"])

    def act(verb: str, key: bytes) -> None:
        if verb == "fetch.item" and key == b"d1/f10":
            source.write(b"d1/f04", [b"04" * 4], mtime_ns=4)

    options = Options(durability="process", replace=[b"d1/f04"])
    outcome = run_copies(Doing(source, act), target, b"out", listed(source), MemoryReceipts(), options=options)
    assert [k for k, _ in outcome.failures.shown] == [b"d1/f04"]
    assert b"".join(target.read(b"out/d1/f04")) == b"mine"


@spec("TRANSFER-9", "TRANSFER-6")
@pytest.mark.parametrize("form", ["known", "unknown"])
@pytest.mark.parametrize("remote", [False, True])
def test_a_killed_run_fetches_nothing_twice_and_reads_back_no_remote_target(
    source: PosixStore, target: PosixStore, memory: Callable[[], MemoryStore], tmp_path: Path, form: str, remote: bool
) -> None:
    goal: Store = Remote(memory()) if remote else target
    wanted, receipts = hashed(source) if form == "known" else listed(source), MemoryReceipts()
    cut = Doing(source, failing("fetch.item", Unavailable("cut", code="service-down"), b"d2/f29"))
    with pytest.raises(Unavailable):
        run_copies(cut, goal, b"out", wanted, receipts, logs=tmp_path / "logs")
    asked: Log = []
    reads: Log = []
    there, again = Recording(goal, asked), Recording(source, reads)
    assert run_copies(again, there, b"out", wanted, receipts, logs=tmp_path / "logs").complete
    fetched = sum(verb == "fetch.item" for verb, _ in asked)
    assert (fetched == 0) == remote, "hashed where it lies, or taken by the stamp that the log noted"
    assert sum(verb == "fetch.item" for verb, _ in reads) == 1


@spec("TRANSFER-2", "TRANSFER-25")
def test_evidence_is_of_the_root_that_was_written(source: PosixStore, target: PosixStore) -> None:
    receipts, log = MemoryReceipts(), list[tuple[str, bytes]]()
    outcome = run_copies(source, target, b"out", listed(source), receipts, options=PROCESS)
    assert outcome.place.where == target.below(b"out").url
    assert {place.where for place, _ in receipts._kept} == {outcome.place.where}
    proof = prove(Recording(target.below(b"out"), log), known(outcome.manifest), receipts)
    assert (proof.read, proof.trusted) == (0, 32)


def test_what_nobody_chose_is_safe() -> None:
    """Four ranges in flight, one more try, and a fact is recorded only once it survives a power cut."""
    chosen = Options()
    assert (chosen.streams, chosen.retries, chosen.durability, chosen.replace) == (4, 1, "power", ())
    fresh = Outcome(in_memory([]), Place("there", "what"))
    assert (fresh.copied, fresh.kept, fresh.bytes, fresh.complete) == (0, 0, 0, True)


# ------------------------------------------------------------------------------------- links, folders, further names


class Making(Around):
    """Writes down what is to be made, and loses some of it."""

    def __init__(self, inner: Store, made: list[bytes], lost: frozenset[bytes] = frozenset()) -> None:
        super().__init__(inner)
        self.made, self.lost = made, lost

    def part_of(self, inner: Store) -> Making:
        return Making(inner, self.made, self.lost)

    def make(self, entries: Sequence[Entry]) -> None:
        self.made += [entry.path for entry in entries]
        super().make([entry for entry in entries if entry.path not in self.lost])


@pytest.fixture
def linked(source: PosixStore) -> PosixStore:
    """The source with two links, a further name and a folder."""
    links = [Entry(b"d1/link", LINK, target=b"f01"), Entry(b"z-link", LINK, target=b"big")]
    source.make([*links, Entry(b"zz", FILE, target=b"big"), Entry(b"folder", FOLDER, mode=0o755)])
    return source


@spec("TRANSFER-17", "TRANSFER-26")
def test_what_was_made_is_made_and_counted_once(tmp_path: Path, linked: PosixStore, target: PosixStore) -> None:
    wanted, receipts = hashed(linked), MemoryReceipts()
    now = evidence.boot_id()
    for copied, expected in ((32, [b"d1/link", b"folder", b"z-link", b"zz"]), (1, [b"zz"]), (0, [])):
        progress, made = Progress(), list[bytes]()
        outcome = run_copies(linked, Making(target, made), b"out", wanted, receipts, options=PROCESS, progress=progress)
        assert (outcome.complete, outcome.copied) == (True, copied)
        assert sorted(made) == expected, "a further name may be one of a file that was replaced: it is made again"
        assert (progress.files, progress.files_total) == (33, 33)
        assert {receipt.boot for receipt in receipts._kept.values()} == {now}, "nothing was synced"
        (tmp_path / "site/out/d1/f01").unlink() if copied == 32 else None
    assert same_tree(tmp_path / "from", tmp_path / "site/out") == []


@spec("TRANSFER-30", "TRANSFER-17")
def test_a_first_name_stays_proven_when_it_gets_further_ones(linked: PosixStore, target: PosixStore) -> None:
    wanted, receipts, log = hashed(linked), MemoryReceipts(), list[tuple[str, bytes]]()
    assert run_copies(linked, target, b"out", wanted, receipts, options=PROCESS).complete
    assert run_copies(linked, Recording(target, log), b"out", wanted, receipts, options=PROCESS).complete
    assert {verb for verb, _ in log} <= {"exists", "stamps", "wipe"}


@spec("TRANSFER-26")
@pytest.mark.parametrize("gone", [b"b", b"z", b""])
def test_a_further_name_is_counted_once_beside_what_is_brought_again(
    tmp_path: Path, target: PosixStore, gone: bytes
) -> None:
    """Its segment was recorded once already: whole, or (b'') without one file that failed then."""
    source, receipts = PosixStore(tmp_path / "from"), MemoryReceipts()
    for key in (b"a", b"b"):
        source.write(key, [key])
    source.make([Entry(b"z", FILE, target=b"a")])
    wanted = hashed(source)
    source.write(b"b", [b"b" if gone else b"?"])
    assert run_copies(source, target, b"out", wanted, receipts, options=PROCESS).complete == bool(gone)
    source.write(b"b", [b"b"])
    if gone:
        target.below(b"out").delete(gone)
    progress = Progress()
    assert run_copies(source, target, b"out", wanted, receipts, options=PROCESS, progress=progress).complete
    assert (progress.files, progress.files_total) == (3, 3)


@spec("TRANSFER-1", "TRANSFER-13")
def test_what_a_receipt_vouches_for_is_left_alone_beside_what_is_adopted(tmp_path: Path, target: PosixStore) -> None:
    source, receipts, log = PosixStore(tmp_path / "from"), MemoryReceipts(), list[tuple[str, bytes]]()
    for key in (b"a", b"b", b"c"):
        source.write(key, [key])
    source.make([Entry(b"z", LINK, target=b"a")])
    wanted = hashed(source)
    assert run_copies(source, target, b"out", wanted, receipts, options=PROCESS).complete
    target.below(b"out").write(b"b", [b"b"])
    outcome = run_copies(source, Recording(target, log), b"out", wanted, receipts, options=PROCESS)
    assert (outcome.complete, outcome.copied, outcome.kept) == (True, 0, 3)
    assert [key for verb, key in log if verb == "fetch.item"] == [b"b"]
    assert "stat" not in [verb for verb, _ in log]


@spec("TRANSFER-13", "TRANSFER-18")
@pytest.mark.parametrize(
    ("error", "told"),
    [(Denied("no", code="no-access"), "target-differs"), (Unavailable("no", code="service-down"), "service-down")],
)
def test_what_cannot_be_compared_differs(source: PosixStore, target: PosixStore, error: DlsError, told: str) -> None:
    """A large file of unknown digest lies there, and its source cannot be read: what all would meet ends it as such."""
    target.write(b"out/middle", source.read(b"middle"))
    shut = Doing(source, failing("read", error, b"middle", times=9))
    with pytest.raises(DlsError) as raised:
        run_copies(shut, target, b"out", listed(source), MemoryReceipts(), options=PROCESS)
    assert raised.value.code == told


@spec("TRANSFER-22")
def test_evidence_that_was_dropped_meanwhile_is_not_hardened(source: PosixStore, target: PosixStore) -> None:
    wanted, receipts = hashed(source), MemoryReceipts()
    place = run_copies(source, target, b"out", wanted, receipts, options=PROCESS).place

    def drop(verb: str, _: bytes) -> None:
        if verb == "sync":
            receipts.drop(place)

    assert run_copies(source, Doing(target, drop), b"out", wanted, receipts).complete
    assert receipts._kept == {}


@spec("TRANSFER-25")
def test_a_manifest_whose_evidence_was_dropped_is_told(source: PosixStore, target: PosixStore) -> None:
    receipts = MemoryReceipts()
    outcome = run_copies(source, target, b"out", listed(source), receipts, options=PROCESS)
    receipts.drop(outcome.place)
    with pytest.raises(DlsError):
        outcome.manifest.load(outcome.manifest.refs[0].digest)


@spec("TRANSFER-2")
def test_what_was_to_be_made_and_is_not_there_is_not_recorded(
    tmp_path: Path, linked: PosixStore, target: PosixStore
) -> None:
    wanted, receipts = hashed(linked), MemoryReceipts()
    lost = frozenset([b"d1/link", b"zz", b"folder"])
    run_copies(linked, Making(target, [], lost), b"out", wanted, receipts, options=PROCESS)
    assert not (tmp_path / "site/out/zz").exists()
    assert run_copies(linked, target, b"out", wanted, receipts, options=PROCESS).complete
    assert same_tree(tmp_path / "from", tmp_path / "site/out") == []


@spec("TRANSFER-2", "TRANSFER-28")
def test_what_changed_after_it_was_looked_at_is_not_vouched_for_by_its_further_name(
    tmp_path: Path, linked: PosixStore, target: PosixStore
) -> None:
    wanted, receipts = hashed(linked), MemoryReceipts()
    assert run_copies(linked, target, b"out", wanted, receipts, options=PROCESS).complete
    (tmp_path / "site/out/d1/f01").unlink()

    def spoil(verb: str, key: bytes) -> None:
        if verb == "fetch.item" and key == b"d1/f01":
            with (tmp_path / "site/out/big").open("r+b") as file:
                file.write(b"spoilt")

    assert run_copies(Doing(linked, spoil), target, b"out", wanted, receipts, options=PROCESS).copied == 1
    assert b"big" in [key for key, _ in prove(target.below(b"out"), wanted, receipts).corrupt.shown]


@spec("TRANSFER-21")
@pytest.mark.parametrize("calls", [0, 1])
def test_nothing_is_made_where_the_right_to_go_on_is_lost(tmp_path: Path, target: PosixStore, calls: int) -> None:
    """Before links, and again before folders, which are made last."""
    source, progress, log = PosixStore(tmp_path / "from"), Progress(), list[tuple[str, bytes]]()
    source.make([Entry(b"folder", FOLDER, mode=0o755)])

    def fence() -> None:
        if progress.phase == "linking" and log.count(("make", b"")) == calls:
            raise Conflict("the work is another's", code="lost")

    with pytest.raises(Conflict):
        run_copies(
            source, Recording(target, log), b"out", listed(source), MemoryReceipts(), progress=progress,
            options=Options(durability="process", fence=fence),
        )  # fmt: skip
    assert log.count(("make", b"")) == calls


# ---------------------------------------------------------------------------------------------------- signs of life


class Living(Around):
    """Notes how many signs of life there were before each operation that takes long at a large target."""

    def __init__(self, inner: Store, progress: Progress, verb: str, ticks: list[int]) -> None:
        super().__init__(inner)
        self.progress, self.verb, self.ticks = progress, verb, ticks

    def part_of(self, inner: Store) -> Living:
        return Living(inner, self.progress, self.verb, self.ticks)

    def step(self, verb: str, key: bytes = b"") -> bool:
        if verb == self.verb:
            self.ticks.append(self.progress.ticks)
        return False


@spec("TRANSFER-20")
@pytest.mark.parametrize("verb", ["stamps", "stat", "make"])
def test_looking_and_making_give_signs_of_life(tmp_path: Path, target: PosixStore, verb: str) -> None:
    source = PosixStore(tmp_path / "from")
    source.make([Entry(b"%d/folder" % n, FOLDER, mode=0o755) for n in range(30)])
    source.make([Entry(b"%d/link" % n, LINK, target=b"x") for n in range(30)])
    wanted, receipts = hashed(source), MemoryReceipts()
    assert len(wanted.manifest.refs) > 3
    if verb != "make":
        assert run_copies(source, target, b"out", wanted, receipts, options=PROCESS).complete
    if verb == "stat":  # nothing vouches for the half; of the other half the folder is asked for
        receipts = MemoryReceipts()
        for n in range(15):
            (tmp_path / f"site/out/{n}/link").unlink()
    progress, ticks = Progress(), list[int]()
    goal = Living(target, progress, verb, ticks)
    assert run_copies(source, goal, b"out", wanted, receipts, options=PROCESS, progress=progress).complete
    assert len(ticks) > 3
    assert all(one < other for one, other in itertools.pairwise(ticks)), ticks
