"""Decisions of a transfer: they are pure, so everything about them is tried."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from dls.logistics.entry import FILE, FOLDER, LINK, NO_MODE, NO_TIME, Entry
from dls.logistics.errors import Unsupported
from dls.logistics.manifest import Bitmap
from dls.logistics.names import Names
from dls.logistics.segment import Segment
from dls.logistics.store import Keeps
from dls.logistics.testing.contract_transfer import SMALL
from dls.logistics.testing.spec import spec
from dls.logistics.transfer.plan import SHOWN, Survey, plan_segment, sort, survey
from dls.logistics.transfer.receipt import Receipt

ALL = Keeps(frozenset({FILE, LINK, FOLDER}), modes=True, mtimes=True, hardlinks=True)
BARE = Keeps(frozenset({FILE}))
STAMPS = some.sampled_from([b"", b"a", b"b"])
BOOTS = some.sampled_from(["", "now", "before"])


def files(count: int, size: int = 1) -> Segment:
    return Segment.of([Entry(b"f%03d" % i, FILE, size) for i in range(count)])


@given(data=some.data(), boot=BOOTS, right=some.booleans(), absent=some.booleans())
@spec("TRANSFER-1", "TRANSFER-2")
def test_nothing_is_kept_without_a_valid_receipt_and_an_equal_stamp(
    data: some.DataObject, boot: str, right: bool, absent: bool
) -> None:
    count = data.draw(some.integers(1, 8))
    segment = files(count)
    then = data.draw(some.lists(STAMPS, min_size=count, max_size=count))
    now = data.draw(some.lists(STAMPS, min_size=count, max_size=count))
    done = Bitmap(count)
    for i in data.draw(some.sets(some.integers(0, count - 1))):
        done.add(i)
    wanted = sorted(data.draw(some.sets(some.integers(0, count - 1))))
    receipt = None if absent else Receipt(segment.digest if right else b"x" * 32, done, then, boot)
    copies = plan_segment(segment, wanted, receipt, now, "now")
    valid = receipt is not None and right and boot in ("", "now")
    if copies.nothing:
        assert valid
        assert done.complete
        assert then == now
        assert (copies.check, copies.absent) == ([], [])
        return
    assert copies.keep is not None
    assert not (valid and done.complete and then == now)
    proven = {i for i in wanted if valid and i in done and then[i] == now[i] and now[i]}
    assert copies.keep == proven
    assert copies.absent == [i for i in wanted if not now[i]]
    assert copies.check == [i for i in wanted if now[i] and i not in proven]


@spec("TRANSFER-2")
def test_copies_are_planned_segment_by_segment() -> None:
    one, two = files(2), files(3)
    full = Receipt(two.digest, Bitmap.full(3), [b"s"] * 3, "")
    first, second = (
        plan_segment(one, range(2), None, [b"", b"t"], "now"),
        plan_segment(two, [], full, [b"s"] * 3, "now"),
    )
    assert (first.absent, first.check, first.nothing, second.nothing) == ([0], [1], False, True)


def test_entries_are_sorted_by_the_way_they_travel() -> None:
    segment = Segment.of(
        [
            Entry(b"a", FILE, SMALL),
            Entry(b"b", FILE, SMALL + 1),
            Entry(b"c", FILE, 5, target=b"a"),
            Entry(b"d", LINK, target=b"a"),
            Entry(b"e", FOLDER),
        ]
    )
    kept, bare = sort(segment, ALL), sort(segment, BARE)
    assert (kept.small, kept.large, kept.made, kept.left) == ([0], [1], [2, 3, 4], [])
    assert (bare.small, bare.large, bare.made, bare.left) == ([0, 2], [1], [], [3, 4])
    plain = sort(files(3), BARE)
    assert (plain.small, plain.large, plain.made, plain.left) == ([0, 1, 2], [], [], [])
    assert sort(files(2, SMALL + 1), BARE).large == [0, 1]


@spec("TRANSFER-12")
def test_what_will_be_lost_is_counted() -> None:
    segment = Segment.of(
        [
            Entry(b"a", FILE, 10, mode=0o644, mtime_ns=5),
            Entry(b"b", FILE, 10, mode=NO_MODE, mtime_ns=NO_TIME, target=b"a"),
            Entry(b"c", LINK, target=b"a", mtime_ns=4),
            Entry(b"d", FOLDER, mode=0o700),
        ]
    )
    rich, poor = survey([segment], ALL, Names(), 0, 8), survey([segment, files(2)], BARE, Names(), 0, 8)
    assert rich.losses() == []
    assert (rich.entries, rich.files, rich.size, rich.allocated, rich.inodes, rich.largest) == (4, 2, 10, 16, 3, 10)
    assert (poor.entries, poor.files, poor.size, poor.allocated, poor.inodes) == (6, 4, 22, 48, 4)
    assert poor.losses() == [
        "1 links",
        "1 folders (empty, or with a mode of their own)",
        "1 hard links (copied as files)",
        "2 modes",
        "2 times",
    ]
    assert poor.to_json()["not_kept"]["links"] == 1
    assert survey([segment], ALL, Names(), 0, 1).allocated == 10
    assert survey([files(2, 3)], ALL, Names(), 0, 2).allocated == 8
    further = [Entry(name, FILE, 10, target=b"a") for name in (b"b", b"c")]
    names = Segment.of([Entry(b"a", FILE, 10), *further, Entry(b"d", LINK, target=b"a")])
    assert survey([names], BARE, Names(), 0, 1).losses()[:2] == ["1 links", "2 hard links (copied as files)"]
    assert survey([], ALL, Names(), 0, 1) == Survey()


@spec("TRANSFER-11")
def test_names_that_cannot_be_held_are_refused_together() -> None:
    segment = Segment.of([Entry(b"%03d" % i + b"x" * 10, FILE) for i in range(SHOWN + 5)] + [Entry(b"y" * 13, LINK)])
    for held in (Names(part_bytes=12), Names(key_bytes=16), Names(forbidden=b"x"), Names(key_bytes=16, utf8=True)):
        found = survey([segment], BARE, held, 4, 1)
        assert found.refusals == SHOWN + 5, held
        assert len(found.refused) == SHOWN == 20
        error = _told(found)
        assert error.code == "name-not-held"
        assert error.facts["count"] == SHOWN + 5
        assert "(and 24 more)" in error.message
    for held in (Names(part_bytes=13), Names(key_bytes=17), Names(), Names(utf8=True), Names(dots=False)):
        assert survey([segment], BARE, held, 4, 1).refusals == 0
        survey([segment], BARE, held, 4, 1).check("there")
    dotted = Segment.of([Entry(b"a.", FILE)])
    assert survey([dotted], BARE, Names(dots=False), 0, 1).refusals == 1
    assert "(and" not in str(_told(survey([dotted], BARE, Names(dots=False), 0, 1)))


def _told(found: Survey) -> Unsupported:
    with pytest.raises(Unsupported) as told:
        found.check("there")
    return told.value
