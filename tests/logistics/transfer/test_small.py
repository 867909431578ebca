"""Small files: what failed is counted, what may pass is tried again after a while, a bar moves."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import pytest

from dls.logistics import digest as digests
from dls.logistics.entry import FILE, Entry
from dls.logistics.errors import Denied, DlsError, Unavailable
from dls.logistics.segment import Segment
from dls.logistics.stores.memory import MemoryStore
from dls.logistics.testing.faults import Around, Faulty
from dls.logistics.testing.spec import spec
from dls.logistics.transfer import small
from dls.logistics.transfer.progress import Progress
from dls.logistics.transfer.small import Failures, Small


@spec("TRANSFER-18")
def test_all_failures_are_counted_and_the_first_thousand_kept() -> None:
    failures = Failures()
    for n in range(1002):
        failures.add(b"%04d" % n, Denied("no", code="no-access"))
    assert failures.count == 1002
    assert [key for key, _ in failures.shown] == [b"%04d" % n for n in range(1000)]


@spec("TRANSFER-26")
def test_files_are_counted_while_they_come_and_once(memory: Callable[[], MemoryStore]) -> None:
    source, target, progress = memory(), memory(), Progress()
    segment = Segment.of([Entry(b"%02d" % n, FILE, n) for n in range(40)])
    for key, size in zip(segment.paths, segment.sizes, strict=True):
        source.write(key, [b"x" * size])
    seen, told = list[tuple[int, int]](), list[bytes]()
    work = Small(source, target, segment, progress, lambda: None)

    def placed(i: int, digest: bytes, stamp: bytes) -> None:
        assert digest == digests.of(b"x" * i)
        seen.append((progress.files, progress.bytes))
        told.append(stamp)

    work.placed = placed
    work.run(range(40))
    assert sorted(set(seen)) == [(0, 0), (16, sum(range(16))), (32, sum(range(32)))]
    assert (progress.files, progress.bytes, progress.requests) == (40, sum(range(40)), 40)
    assert list(work.stamps.values()) == told == target.stamps(segment.paths)
    assert work.errors == {}


@spec("TRANSFER-19")
def test_what_may_pass_is_tried_again_after_a_longer_while(
    memory: Callable[[], MemoryStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(small, "RETRY_S", 0.25)
    monkeypatch.setattr(small, "time", types.SimpleNamespace(sleep=waited.append))
    source, segment = memory(), Segment.of([Entry(b"a", FILE, 1), Entry(b"b", FILE, 1)])
    for key in segment.paths:
        source.write(key, [b"x"])
    faulty, progress = Faulty(source, 2, "error", ["fetch.item"], lasting=True), Progress()
    work = Small(faulty, None, segment, progress, lambda: None)
    work.run(range(2), 2)
    assert (list(work.stamps), list(work.errors)) == ([0], [1])
    assert waited == [0.25, 0.5]
    assert faulty.count == 4, "only what failed is asked for again"
    assert (progress.files, progress.bytes) == (1, 1)


@spec("TRANSFER-16")
def test_a_body_of_another_length_is_another_source(memory: Callable[[], MemoryStore]) -> None:
    source, target, segment = memory(), memory(), Segment.of([Entry(b"a", FILE, 2)])
    source.write(b"a", [b"xx"])
    short = Faulty(source, 1, "short", ["fetch.item"])
    work = Small(short, target, segment, Progress(), lambda: None)
    work.run([0], 0)
    assert short.fired
    assert [error.code for error in work.errors.values()] == ["source-changed"]
    assert target.stamps([b"a"]) == [b""]


class _Answering(Around):
    """Answers the fetch, or the put, of each file with an error."""

    def __init__(self, inner: MemoryStore, error: DlsError) -> None:
        super().__init__(inner)
        self.error = error

    def _fetched(self, answers: Any, keys: dict[int, bytes]) -> Any:
        return (got._replace(error=self.error, body=b"") for got in answers)

    def put(self, items: Any) -> Any:
        return (done._replace(error=self.error) for done in super().put(items))


@spec("TRANSFER-18")
def test_what_every_file_would_meet_ends_the_batch(memory: Callable[[], MemoryStore]) -> None:
    source, segment = memory(), Segment.of([Entry(b"a", FILE, 1), Entry(b"b", FILE, 1)])
    for key in segment.paths:
        source.write(key, [b"x"])
    down, denied = Unavailable("no", code="wrong-credentials"), Denied("no", code="no-access")
    work = Small(_Answering(source, down), memory(), segment, Progress(), lambda: None)
    with pytest.raises(Unavailable):
        work.run([0, 1], 0)
    work = Small(_Answering(source, denied), memory(), segment, Progress(), lambda: None)
    work.run([0, 1], 0)
    assert list(work.errors) == [0, 1], "one file's own affair at the source"
    work = Small(source, _Answering(memory(), denied), segment, Progress(), lambda: None)
    with pytest.raises(Denied):
        work.run([0, 1], 0)


@spec("TRANSFER-21")
def test_nothing_is_put_once_it_was_given_up(memory: Callable[[], MemoryStore]) -> None:
    source, target, segment = memory(), memory(), Segment.of([Entry(b"a", FILE, 1), Entry(b"b", FILE, 1)])
    for key in segment.paths:
        source.write(key, [b"x"])
    asked: list[None] = []

    def alive() -> None:
        asked.append(None)
        if len(asked) == 2:
            raise Unavailable("given up", code="stalled")

    with pytest.raises(Unavailable):
        Small(source, target, segment, Progress(), alive).run([0, 1], 0)
    assert target.stamps([b"b"]) == [b""]
