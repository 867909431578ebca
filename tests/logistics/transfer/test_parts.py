"""Large files: ranges in several streams, hashed in order, resumed at the part."""

from __future__ import annotations

import random
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dls.logistics import digest as digests
from dls.logistics.entry import FILE, Entry
from dls.logistics.errors import Conflict, Corrupt, Unavailable
from dls.logistics.store import Store
from dls.logistics.stores import memory as memories
from dls.logistics.stores import posix, posix_upload
from dls.logistics.stores.memory import MemoryStore
from dls.logistics.stores.posix import PosixStore
from dls.logistics.testing.contract_transfer import BIG, BLOCK
from dls.logistics.testing.faults import Around, Faulty, Recording
from dls.logistics.testing.spec import spec
from dls.logistics.transfer.log import Log, Opened
from dls.logistics.transfer.parts import Large
from dls.logistics.transfer.progress import Progress

SIZES = [BLOCK - 1, BLOCK, BLOCK + 1, BIG, BIG + 1, BIG + BLOCK]


def content(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def entry_of(data: bytes, form: str) -> Entry:
    cut = [data[k : k + BLOCK] for k in range(0, len(data), BLOCK)] if len(data) > BIG else []
    if form == "unknown":
        return Entry(b"f", FILE, len(data))
    return Entry(b"f", FILE, len(data), digests.of(data), blocks=b"".join(map(digests.of, cut)))


@pytest.fixture(params=["memory", "posix", "posix staging"])
def target(request: pytest.FixtureRequest, memory: Callable[[], MemoryStore], target: PosixStore) -> Store:
    if request.param == "memory":
        return memory()
    return target.below(b"sub", staging=True) if request.param == "posix staging" else target


def large(source: Store, target: Store | None, entry: Entry, log: Log, **more: Any) -> tuple[Large, Any]:
    upload = target.upload(b"f", entry.size, token=log.token(0), mode=0o644, mtime_ns=5) if target else None
    work = Large(source, entry, 0, log, more.pop("progress", Progress()), more.pop("alive", lambda: None), upload)
    work.streams = more.pop("streams", 1)
    return work, upload


def requests(target: Store, size: int, form: str, streams: int = 1) -> int:
    """How many times the source is asked: for each block, or for runs of blocks that go straight to their place."""
    count = -(-size // BLOCK)
    straight = isinstance(target, PosixStore) and form == "known" and size > BIG
    return -(-count // max(1, min(4, count // (2 * streams)))) if straight else count


@pytest.mark.parametrize("size", [*SIZES, 9 * BLOCK, 26 * BLOCK + 1])
@pytest.mark.parametrize("form", ["known", "unknown"])
@pytest.mark.parametrize("streams", [1, 3])
@spec("TRANSFER-7")
def test_any_size_arrives(memory: Callable[[], MemoryStore], target: Store, size: int, form: str, streams: int) -> None:
    source, data, progress = memory(), content(size), Progress()
    source.write(b"f", [data])
    whole = entry_of(data, "known")
    work, upload = large(source, target, entry_of(data, form), Log(None), streams=streams, progress=progress)
    assert work.run() == (whole.digest, whole.blocks)
    stamp = upload.finish()
    assert target.stamps([b"f"]) == [stamp]
    assert b"".join(target.read(b"f")) == data
    assert (progress.bytes, progress.requests) == (size, requests(target, size, form, streams))
    hashing, _ = large(source, None, entry_of(data, form), Log(None), streams=streams)
    assert hashing.run() == (whole.digest, whole.blocks)


@pytest.mark.parametrize("at", range(1, 6))
@pytest.mark.parametrize("form", ["known", "unknown"])
@spec("TRANSFER-9", "TRANSFER-26")
def test_a_cut_file_is_resumed_at_the_part(
    memory: Callable[[], MemoryStore], target: Store, at: int, form: str, tmp_path: Any
) -> None:
    source, data, progress = memory(), content(BIG + 7), Progress()
    if at > requests(target, len(data), form):
        return
    source.write(b"f", [data])
    log = Log(tmp_path / "log")
    faulty = Faulty(source, at, "error", ["read"])
    work, upload = large(faulty, target, entry_of(data, form), log, progress=progress)
    if upload.token:
        log.add_token(0, Opened(upload.token, b"f", len(data)))
    with pytest.raises(Unavailable):
        work.run()
    assert progress.bytes == 0, "taken back"
    upload.close()
    log.close()
    reads: list[tuple[str, bytes]] = []
    work, upload = large(
        Recording(source, reads), target, entry_of(data, form), Log(tmp_path / "log"), progress=progress
    )
    assert work.run()[0] == digests.of(data)
    assert progress.bytes == len(data), "what lies there is counted too, and once"
    upload.finish()
    assert b"".join(target.read(b"f")) == data
    asked = sum(verb == "read" for verb, _ in reads)
    gives_back = upload.token == ""
    assert asked == (requests(target, len(data), form) + 1 - at if form == "known" or gives_back else 5)


@pytest.mark.parametrize("at", range(1, 9 * 4 + 1))
@spec("TRANSFER-9", "TRANSFER-8")
def test_of_a_run_that_was_cut_whole_blocks_are_kept(
    tmp_path: Path, target: Store, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    if isinstance(target, MemoryStore):
        return  # its parts are gathered
    monkeypatch.setattr(posix, "CHUNK", BLOCK // 4)
    source, data = PosixStore(tmp_path / "from"), content(9 * BLOCK)
    source.write(b"f", [data])
    whole = entry_of(data, "known")
    work, upload = large(Faulty(source, at, "error", ["read.chunk"]), target, whole, Log(None))
    with pytest.raises(Unavailable):
        work.run()
    upload.close()
    reads: list[int] = []

    class Asked(Around):
        def read(self, key: bytes, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
            reads.append(start)
            return super().read(key, start, stop)

    work, upload = large(Asked(source), target, whole, Log(None))
    assert work.run() == (whole.digest, whole.blocks)
    upload.finish()
    assert b"".join(target.read(b"f")) == data
    done = (at - 1) // 4
    assert reads == [n * BLOCK for n in range(9) if n == done or (n > done and n % 4 == 0)]


@spec("TRANSFER-9", "TRANSFER-10")
def test_holes_are_filled_each_by_one_request(memory: Callable[[], MemoryStore], target: Store) -> None:
    if isinstance(target, MemoryStore):
        return
    source, data, reads = memory(), content(16 * BLOCK - 1), list[tuple[int, int | None]]()
    source.write(b"f", [data])
    first = target.upload(b"f", len(data))
    for number in (1, 5, 6, 15):
        first.write(number, data[number * BLOCK : (number + 1) * BLOCK])
    first.close()

    class Asked(Around):
        def read(self, key: bytes, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
            reads.append((start // BLOCK, None if stop is None else -(-stop // BLOCK)))
            return super().read(key, start, stop)

    progress = Progress()
    work, upload = large(Asked(source), target, entry_of(data, "known"), Log(None), progress=progress)
    work.run()
    upload.finish()
    assert b"".join(target.read(b"f")) == data
    assert reads == [(0, 1), (2, 4), (4, 5), (7, 8), (8, 12), (12, 15)]
    assert progress.bytes == len(data)


@pytest.mark.parametrize("what", ["longer", "shorter", "other", "other end"])
@pytest.mark.parametrize("form", ["known", "unknown"])
@pytest.mark.parametrize("size", [BLOCK + 5, BIG + 5])
@spec("TRANSFER-16", "TRANSFER-7")
def test_a_source_that_is_not_what_was_listed_is_told(
    memory: Callable[[], MemoryStore], target: Store, what: str, form: str, size: int
) -> None:
    source, data = memory(), content(size)
    other = {
        "longer": data + b"x",
        "shorter": data[:-1],
        "other": bytes((data[0] ^ 1,)) + data[1:],
        "other end": data[:-1] + bytes((data[-1] ^ 1,)),
    }[what]
    source.write(b"f", [other])
    work, _ = large(source, target, entry_of(data, form), Log(None))
    if what.startswith("other") and form == "unknown":
        assert work.run()[0] == digests.of(other)
        return
    with pytest.raises(Conflict if what in ("longer", "shorter") else Corrupt) as told:
        work.run()
    assert told.value.code == ("source-changed" if what in ("longer", "shorter") else "content-differs")
    assert told.value.facts["key"] == "f"
    with pytest.raises(Conflict if what in ("longer", "shorter") else Corrupt):
        large(source, None, entry_of(data, form), Log(None))[0].run()


@spec("TRANSFER-10", "TRANSFER-7")
def test_wrong_bytes_in_a_part_that_lies_there_are_fetched_again(
    memory: Callable[[], MemoryStore], target: Store
) -> None:
    if isinstance(target, MemoryStore):
        return
    source, data = memory(), content(BIG + 5)
    source.write(b"f", [data])
    first = target.upload(b"f", len(data))
    for number in range(5):
        first.write(number, data[number * BLOCK : (number + 1) * BLOCK])
    first.write(2, b"bad")
    first.close()
    reads: list[tuple[str, bytes]] = []
    work, upload = large(Recording(source, reads), target, entry_of(data, "known"), Log(None))
    work.run()
    upload.finish()
    assert b"".join(target.read(b"f")) == data
    assert sum(verb == "read" for verb, _ in reads) == 1


@spec("TRANSFER-27")
def test_a_stream_waits_with_one_part_at_most(memory: Callable[[], MemoryStore]) -> None:
    source, data = memory(), content(BIG + 3 * BLOCK)
    source.write(b"f", [data])
    gate, started = threading.Event(), list[int]()

    class Held(Around):
        def read(self, key: bytes, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
            started.append(start)
            if start == 0:
                gate.wait(10)
            return super().read(key, start, stop)

    threading.Timer(0.3, gate.set).start()
    seen: list[int] = []
    threading.Timer(0.2, lambda: seen.append(len(started))).start()
    work, _ = large(Held(source), None, entry_of(data, "unknown"), Log(None), streams=3)
    assert work.run()[0] == digests.of(data)
    assert seen == [3]


@spec("TRANSFER-21")
def test_one_that_is_given_up_stops(memory: Callable[[], MemoryStore], target: Store) -> None:
    source, data, calls = memory(), content(BIG + 5), [0]
    source.write(b"f", [data])

    def alive() -> None:
        calls[0] += 1
        if calls[0] > 4:
            raise Unavailable("given up", code="stalled")

    for streams in (1, 3):
        calls[0] = 0
        work, upload = large(source, target, entry_of(data, "unknown"), Log(None), alive=alive, streams=streams)
        with pytest.raises(Unavailable):
            work.run()
        upload.abort()
    assert target.stamps([b"f"]) == [b""]


@spec("TRANSFER-21", "TRANSFER-20")
def test_reading_back_gives_signs_of_life_and_stops_when_given_up(
    memory: Callable[[], MemoryStore], target: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    if isinstance(target, MemoryStore):
        return  # it proves parts without giving them back
    monkeypatch.setattr(posix_upload, "_CHUNK", BLOCK // 16)
    source, data, progress = memory(), content(BLOCK), Progress()
    source.write(b"f", [data])
    log = Log(None)
    log.add_blocks(0, 0, [digests.of(data)])
    first = target.upload(b"f", len(data))
    first.write(0, data)
    first.close()
    work, upload = large(source, target, entry_of(data, "unknown"), log, progress=progress)
    assert work.run()[0] == digests.of(data)
    upload.close()
    assert progress.requests == 0, "not fetched again"
    assert progress.ticks >= 16

    def alive() -> None:
        if progress.ticks >= 3:
            raise Unavailable("given up", code="stalled")

    progress = Progress()
    work, upload = large(source, target, entry_of(data, "unknown"), log, progress=progress, alive=alive)
    with pytest.raises(Unavailable):
        work.run()
    upload.abort()
    assert progress.ticks < 6, "not read to the end"


@pytest.mark.parametrize("form", ["known", "unknown"])
@spec("TRANSFER-21")
def test_fetching_stops_at_the_next_chunk_when_given_up(
    tmp_path: Path, target: Store, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setattr(posix, "CHUNK", BLOCK // 16)
    source, data, progress = PosixStore(tmp_path / "from"), content(BIG + 5), Progress()
    source.write(b"f", [data])

    def alive() -> None:
        if progress.ticks >= 3:
            raise Unavailable("given up", code="stalled")

    work, upload = large(source, target, entry_of(data, form), Log(None), progress=progress, alive=alive)
    with pytest.raises(Unavailable):
        work.run()
    upload.abort()
    assert progress.ticks < 8, "a block has sixteen chunks"


@spec("TRANSFER-21")
def test_it_is_asked_before_each_part_also_where_none_is_read(memory: Callable[[], MemoryStore]) -> None:
    source, target, data, log = memory(), memory(), content(BIG + 5), Log(None)
    source.write(b"f", [data])
    work, upload = large(source, target, entry_of(data, "known"), log)
    log.add_token(0, Opened(upload.token, b"f", len(data)))
    work.run()
    asked, reads = list[int](), list[tuple[str, bytes]]()
    work, upload = large(Recording(source, reads), target, entry_of(data, "known"), log, alive=lambda: asked.append(1))
    work.run()
    upload.finish()
    assert b"".join(target.read(b"f")) == data
    assert reads == [], "the target vouches for every part"
    assert len(asked) >= 5


@spec("TRANSFER-21")
def test_a_failure_of_one_stream_ends_the_others(memory: Callable[[], MemoryStore]) -> None:
    """The first part never comes: whoever waits for its turn stops waiting, and fetches nothing more."""
    source, data, log = memory(), content(BIG + 3 * BLOCK), list[tuple[str, bytes]]()
    source.write(b"f", [data])
    second = threading.Event()

    class First(Around):
        def read(self, key: bytes, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
            log.append(("read", b"%d" % start))
            if start == 0:
                assert second.wait(10)
                raise Unavailable("no", code="planted")
            second.set()
            return super().read(key, start, stop)

    work, _ = large(First(source), None, entry_of(data, "unknown"), Log(None), streams=2)
    with pytest.raises(Unavailable) as told:
        work.run()
    assert told.value.code == "planted"
    assert len(log) == 2


@pytest.mark.parametrize("there", ["nothing", "other bytes"])
@spec("TRANSFER-27")
def test_a_stream_holds_one_part_in_memory(
    tmp_path: Path, target: Store, monkeypatch: pytest.MonkeyPatch, there: str
) -> None:
    part = 4 << 20
    monkeypatch.setattr(digests, "BLOCK", part)
    monkeypatch.setattr(digests, "BIG", 2 * part)
    monkeypatch.setattr(posix_upload.PosixUpload, "part", part)
    monkeypatch.setattr(posix, "CHUNK", part // 16)
    monkeypatch.setattr(posix_upload, "_CHUNK", part // 16)
    if isinstance(target, MemoryStore):
        return  # it is all memory
    source, size, log = PosixStore(tmp_path / "from"), 3 * part, Log(None)
    source.write(b"f", [b"x" * size])
    if there == "other bytes":
        log.add_blocks(0, 0, [digests.of(b"x" * part)] * 3)
        first = target.upload(b"f", size)
        for number in range(3):
            first.write(number, b"y" * part)
        first.close()
    work, upload = large(source, target, Entry(b"f", FILE, size), log)
    tracemalloc.start()
    try:
        work.run()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    upload.finish()
    assert target.stat(b"f").entry.size == size
    assert part < peak < 1.5 * part


@pytest.mark.parametrize("form", ["known", "unknown"])
@spec("TRANSFER-7")
def test_parts_are_those_of_the_target(
    memory: Callable[[], MemoryStore], monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setattr(memories.MemoryUpload, "part", 2 * BLOCK)
    source, target, data, log = memory(), memory(), content(BIG + 5), list[tuple[str, bytes]]()
    source.write(b"f", [data])
    whole = entry_of(data, "known")
    work, upload = large(Recording(source, log), target, entry_of(data, form), Log(None))
    assert work.run() == (whole.digest, whole.blocks)
    upload.finish()
    assert b"".join(target.read(b"f")) == data
    assert [verb for verb, _ in log].count("read") == 3
