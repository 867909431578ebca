"""Threads of a transfer: failures come home, one helper stays one helper, silence is told."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from dls.logistics.errors import Unavailable
from dls.logistics.testing.spec import spec
from dls.logistics.transfer.threads import Ahead, ending, together, watched


@pytest.mark.parametrize("count", [0, 1, 3])
def test_all_work_together_and_the_first_failure_is_raised(count: int) -> None:
    ran: list[str] = []
    together(lambda stop: ran.append(threading.current_thread().name), count)
    assert len(ran) == max(1, count)
    turn = iter(range(10))

    def work(stop: threading.Event) -> None:
        if next(turn) == count - 1 or count <= 1:
            raise ValueError("mine")
        assert stop.wait(5), "the others are told"

    with pytest.raises(ValueError, match="mine"):
        together(work, count)


def test_no_thread_keeps_a_process_from_ending() -> None:
    daemons = list[bool]()

    def note() -> None:
        daemons.append(threading.current_thread().daemon)

    together(lambda stop: note(), 2)
    ahead = Ahead[int](lambda pieces: note())
    ahead.put(1)
    ahead.end()
    watched(note, lambda: 0, 5.0, lambda: None, "noting")
    assert daemons == [True] * 4


def test_ahead_is_one_thread_with_one_piece_at_a_time() -> None:
    ran, gate = list[tuple[list[int], str]](), threading.Event()

    def work(pieces: list[int]) -> None:
        gate.wait(5)
        ran.append((pieces, threading.current_thread().name))

    ahead = Ahead(work)
    ahead.put(1)
    assert ran == []
    gate.set()
    for n in (2, 3):
        ahead.put(n)
    ahead.wait()
    assert [pieces for pieces, _ in ran] == [[1], [2], [3]]
    assert {name for _, name in ran} == {"dls-ahead"}
    assert sum(t.name == "dls-ahead" for t in threading.enumerate()) == 1
    ahead.end()
    _gone("dls-ahead")


def test_ahead_takes_what_waits_together_after_a_while_or_when_it_is_full_or_at_the_end() -> None:
    ran = list[list[int]]()
    ahead = Ahead(ran.append, 0.2, 3)
    began = time.monotonic()
    ahead.put(1)
    ahead.put(2)
    while not ran:
        time.sleep(0.001)
    assert time.monotonic() - began >= 0.2
    ahead.wait()
    assert ran == [[1, 2]]
    slow = Ahead(ran.append, 1e9, 3)
    for n in range(3, 7):  # the fourth waits until the first three were taken
        slow.put(n)
    slow.wait()
    assert ran == [[1, 2], [3, 4, 5], [6]]
    slow.put(7)
    slow.end()
    assert ran[-1] == [7]
    ahead.end()
    _gone("dls-ahead")


def test_no_more_than_so_many_are_outstanding_taken_ones_included() -> None:
    gate, began, put = threading.Event(), threading.Event(), list[int]()

    def work(pieces: list[int]) -> None:
        began.set()
        gate.wait(5)

    ahead = Ahead(work, 0.0, 2)
    ahead.put(0)
    assert began.wait(5)

    def fill() -> None:
        for n in (1, 2):
            ahead.put(n)
            put.append(n)

    filling = threading.Thread(target=fill)
    filling.start()
    filling.join(0.2)
    assert put == [1], "one is dealt with, one waits"
    gate.set()
    filling.join(5)
    assert put == [1, 2]
    ahead.end()
    _gone("dls-ahead")


def test_a_failure_ahead_is_raised_once_and_ending_forgives() -> None:
    def fail(pieces: list[int]) -> None:
        if pieces != [2]:
            raise ValueError("ahead")

    ahead = Ahead(fail)
    ahead.put(1)
    with pytest.raises(ValueError, match="ahead"):
        ahead.put(2)
    ahead.wait()
    ahead.put(1)
    with pytest.raises(ValueError, match="ahead"):
        ahead.wait()
    ahead.put(1)
    ahead.end()
    _gone("dls-ahead")
    Ahead(fail).end()


def _gone(name: str) -> None:
    until = time.monotonic() + 5
    while any(t.name == name for t in threading.enumerate()):
        assert time.monotonic() < until
        time.sleep(0.001)


@spec("TRANSFER-20")
def test_silence_is_told_and_life_is_not() -> None:
    ticks, given, gate = [0], list[bool](), threading.Event()

    def lively() -> str:
        for _ in range(8):
            time.sleep(0.05)
            ticks[0] += 1
        return "done"

    assert watched(lively, lambda: ticks[0], 0.3, lambda: given.append(True), "living") == "done"
    assert not given
    with pytest.raises(Unavailable) as told:
        watched(gate.wait, lambda: 0, 0.1, lambda: given.append(True), "waiting")
    assert (told.value.code, given) == ("stalled", [True])
    assert "waiting" in told.value.message
    begun = time.monotonic()
    with pytest.raises(Unavailable):
        watched(gate.wait, lambda: 0, 0.05, lambda: None, "syncing", lambda: 6.0)
    assert time.monotonic() - begun >= 0.3
    gate.set()


def test_a_failure_and_an_interruption_come_through() -> None:
    given: list[bool] = []

    def fail() -> None:
        raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        watched(fail, lambda: 0, 1.0, lambda: given.append(True), "failing")
    assert not given

    def interrupted() -> int:
        if threading.current_thread() is threading.main_thread() and asked:
            raise KeyboardInterrupt
        asked.append(True)
        return 0

    asked: list[bool] = []
    gate = threading.Event()
    with pytest.raises(KeyboardInterrupt):
        watched(gate.wait, interrupted, 0.1, lambda: given.append(True), "waiting")
    assert given == [True]
    gate.set()


def test_a_stream_is_closed_when_its_block_ends() -> None:
    closed: list[bool] = []

    def stream() -> Iterator[int]:
        try:
            yield from range(3)
        finally:
            closed.append(True)

    def broken() -> None:
        with ending(stream()) as items:
            for _ in items:
                raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        broken()
    assert closed == [True]
    with ending([1, 2]) as plain:
        assert list(plain) == [1, 2]
