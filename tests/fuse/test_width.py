"""What comes around a missing piece."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as some

from dls.fuse.width import EACH, MOST, START, SURE, Width

PIECE = 256 << 10
PIECES = 1000


LINE = 76
"""Pieces that 1 GB/s carries in 20 ms."""


def far(delay_s: float = 0.02, rate: float = 1e9, kept: int = 1 << 20, pieces: int = PIECES) -> Width:
    width = Width(pieces, PIECE, kept)
    for _ in range(30):
        width.told(delay_s, 1 << 20, (1 << 20) / rate)
    for number in range(SURE):
        assert not width.missed(number, number)
    return width


@pytest.mark.spec("IMAGE-12")
def test_as_much_comes_as_a_round_trip_takes() -> None:
    assert len(far(0.02, 100e6).missed(500, 500)) == 16  # 4 times 7 pieces, rounded down to a power of two
    assert len(far(0.02, 1e9).missed(500, 500)) == MOST
    assert not far(0.0005, 100e6).missed(500, 500)
    assert not far(0.02, 10e6).missed(500, 500)


@pytest.mark.spec("IMAGE-12")
def test_who_shares_a_line_sees_a_part_of_its_rate() -> None:
    alone, shared = (Width(PIECES, PIECE, 1 << 20) for _ in range(2))
    for _ in range(30):
        alone.told(0.02, 1 << 20, 0.01)
        shared.told(0.02, 1 << 20, 0.04, 4)
    for width in (alone, shared):
        width.missed(0, 0)
    assert len(alone.missed(500, 500)) == len(shared.missed(500, 500)) == 32


@pytest.mark.spec("IMAGE-12")
def test_stretches_are_aligned_and_end_with_the_object() -> None:
    assert far().missed(500, 500) == range(448, 512)
    assert far().missed(999, 999) == range(960, 1000)


@pytest.mark.spec("IMAGE-12")
@pytest.mark.parametrize(("rate", "each"), [(150e6, 11), (100e6, EACH)])
def test_what_nobody_reads_is_brought_no_more(rate: float, each: int) -> None:
    width, brought = far(rate=rate, pieces=100_000), set[int]()
    for turn in range(200):
        number = turn * 57_737 % 100_000
        wanted = [n for n in width.missed(number, number) if n != number and n not in brought]
        width.bring(wanted)
        brought.update(wanted)
    assert START < len(brought) <= START + each * 202


@pytest.mark.spec("IMAGE-12")
def test_on_a_fast_line_hope_takes_as_long_as_waiting_did() -> None:
    """Reads by chance soon need everything: waiting for all of it piece by piece would take far longer."""
    pieces, reads = 2400, random.Random(1)
    width, here, misses = far(pieces=pieces), set[int](), 0
    for _ in range(1000):
        number = reads.randrange(pieces)
        width.read(number, number)
        if number in here:
            continue
        misses += 1
        wanted = [n for n in width.missed(number, number) if n != number and n not in here]
        width.bring(wanted)
        here.update(wanted, (number,))
    assert misses <= pieces // MOST + 8  # one for each stretch; without that allowance 146


@given(some.lists(some.tuples(some.integers(0, PIECES - 1), some.integers(0, 3)), max_size=60), some.integers(0, 2000))
def test_hope_is_bounded(reads: list[tuple[int, int]], kept: int) -> None:
    width, unread, asked = far(kept=kept), set[int](), 0
    for first, more in reads:
        last = min(first + more, PIECES - 1)
        width.read(first, last)
        missing = [n for n in range(first, last + 1) if n not in unread]
        unread -= set(range(first, last + 1))
        asked += last - first + 1
        if not missing:
            continue
        first, last = missing[0], missing[-1]
        wanted = [n for n in width.missed(first, last) if n not in unread and not first <= n <= last]
        assert all(0 <= n < PIECES for n in wanted)
        assert len(wanted) <= max(0, kept // 6)
        width.bring(wanted)
        unread |= set(wanted)
        assert len(unread) <= min(START, kept // 2) + max(EACH, LINE) * (asked + SURE)
