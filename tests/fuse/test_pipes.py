"""Messages between the one who packs and its workers."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as some

from dls.fuse.pipes import Pipe

_plain = some.none() | some.booleans() | some.integers() | some.floats(allow_nan=False) | some.text() | some.binary()
_messages = some.lists(some.recursive(_plain, lambda inner: some.lists(inner, max_size=4).map(tuple)), max_size=5)


@pytest.fixture
def ends() -> Iterator[tuple[Pipe, Pipe]]:
    one, two = (Pipe(end.detach()) for end in socket.socketpair())
    yield one, two
    one.close()
    two.close()


@given(_messages)
def test_what_goes_in_comes_out(messages: list[object]) -> None:
    one, two = (Pipe(end.detach()) for end in socket.socketpair())
    try:
        for message in messages:
            one.send((message,))
        one.send(None)
        assert [two.receive() for _ in messages] == [(message,) for message in messages]
        assert two.receive() is None
    finally:
        one.close()
        two.close()


def test_large_messages_come_whole(ends: tuple[Pipe, Pipe]) -> None:
    body = bytes(range(256)) * 20_000
    writer = threading.Thread(target=ends[0].send, args=(("pack", 7, body),))
    writer.start()
    assert ends[1].receive() == ("pack", 7, body)
    writer.join()


def test_the_end_is_told() -> None:
    one, two = socket.socketpair()
    reader = Pipe(two.detach())
    one.sendall((100).to_bytes(8, "little") + b"half")
    one.close()
    with pytest.raises(EOFError):
        reader.receive()
    with pytest.raises(EOFError):
        reader.receive()
    reader.close()
