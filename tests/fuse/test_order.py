"""What is fetched ahead, decided from what was read."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dls.fuse.order import MOST, Order


def read(order: Order, pieces: list[int]) -> list[range]:
    return [found for piece in pieces if (found := order.ahead(piece, piece))]


@pytest.mark.spec("IMAGE-12")
def test_in_order_everything_is_asked_for_once_and_ahead_of_the_reader() -> None:
    order, asked = Order(999), set[int]()
    for piece in range(1000):
        if piece > 2:
            assert piece in asked
        found = order.ahead(piece, piece)
        assert not asked & set(found)
        assert not found or (found.start > piece and found.stop <= piece + 1 + MOST)
        asked |= set(found)
        assert not order.ahead(piece, piece)  # the same piece again
    assert asked == set(range(3, 1000))


@pytest.mark.spec("IMAGE-12")
def test_the_longer_in_order_the_further_ahead() -> None:
    sizes = [len(found) for found in read(Order(10_000), list(range(300)))]
    assert sizes[0] == 4
    assert sizes[-1] >= MOST // 2
    assert len(sizes) < 40


@pytest.mark.spec("IMAGE-12")
def test_at_random_nothing_is_fetched_ahead() -> None:
    order, rng = Order(1_000_000), random.Random(5)
    assert sum(len(found) for found in read(order, [rng.randrange(1_000_000) for _ in range(2000)])) < 20


@pytest.mark.spec("IMAGE-12")
def test_several_readers_are_told_apart() -> None:
    order, asked = Order(100_000), set[int]()
    starts = [0, 20_000, 40_000, 60_000]
    for step in range(200):
        for start in starts:
            assert step < 3 or start + step in asked
            asked |= set(order.ahead(start + step, start + step))


@given(
    st.integers(0, 300),
    st.lists(st.tuples(st.integers(0, 300), st.integers(0, 5), st.integers(0, MOST)), max_size=60),
)
def test_never_outside_and_never_more_than_there_is_room(last: int, reads: list[tuple[int, int, int]]) -> None:
    order = Order(last)
    for first, more, room in reads:
        first = min(first, last)
        found = order.ahead(first, min(first + more, last), room)
        assert len(found) <= room
        assert not found or (found.start >= 0 and found.stop <= last + 1)
