"""System calls of our own: space for a large file."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dls.logistics.stores import posix_calls

SIZE = 3 << 20


@pytest.fixture
def in_memory() -> Iterator[int]:
    """A file on a file system in memory."""
    shm = Path("/dev/shm")
    if not os.access(shm, os.W_OK):
        pytest.skip("no /dev/shm here")
    fd = os.open(shm, os.O_TMPFILE | os.O_RDWR, 0o600)
    yield fd
    os.close(fd)


@pytest.fixture
def on_disk() -> Iterator[int]:
    """A file in the checkout, which lies on a disk."""
    try:
        fd = os.open(Path(__file__).parent, os.O_TMPFILE | os.O_RDWR, 0o600)
    except OSError as exc:
        pytest.skip(f"no file without a name here: {exc}")
    if posix_calls._in_memory(fd):
        pytest.skip("the checkout lies in memory")
    yield fd
    os.close(fd)


def test_on_a_disk_space_is_taken_at_once(on_disk: int) -> None:
    try:
        os.posix_fallocate(on_disk, 0, 1)
    except OSError as exc:
        pytest.skip(f"a file system without fallocate: {exc}")
    posix_calls.allocate(on_disk, SIZE)
    assert os.fstat(on_disk).st_size == SIZE
    assert os.fstat(on_disk).st_blocks * 512 >= SIZE


def test_in_memory_it_is_taken_when_written(in_memory: int) -> None:
    posix_calls.allocate(in_memory, SIZE)
    assert os.fstat(in_memory).st_size == SIZE
    assert os.fstat(in_memory).st_blocks == 0


def test_too_much_is_refused_before_anything_is_written(in_memory: int) -> None:
    with pytest.raises(OSError, match="No space left") as told:
        posix_calls.allocate(in_memory, 8 << 40)
    assert told.value.errno == errno.ENOSPC
    assert os.fstat(in_memory).st_size == 0


@pytest.mark.parametrize("where", ["in_memory", "on_disk"])
def test_nothing_takes_nothing(where: str, request: pytest.FixtureRequest) -> None:
    fd = request.getfixturevalue(where)
    posix_calls.allocate(fd, 0)
    assert (os.fstat(fd).st_size, os.fstat(fd).st_blocks) == (0, 0)
