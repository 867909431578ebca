"""A server by itself: requests come over a socket that keeps their borders, as the kernel's device does."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dls.fuse.image import open_image
from dls.fuse.pack import Options, pack
from dls.fuse.server import Server

pytestmark = pytest.mark.usefixtures("either_way")
GETATTR, DESTROY = 3, 38


def request(opcode: int, unique: int) -> bytes:
    """A request on the root, with room for what GETATTR says besides."""
    return struct.pack("<IIQQIIII16x", 56, opcode, unique, 1, 0, 0, 1, 0)


@pytest.fixture
def image(tmp_path: Path) -> str:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_bytes(b"x")
    pack(str(tmp_path / "tree"), str(tmp_path / "i.sqfs"), Options(workers=0))
    return str(tmp_path / "i.sqfs")


class Kernel:
    """The other end of a server's descriptor."""

    def __init__(self, image: str, *, helps: bool) -> None:
        self.ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.ours.settimeout(20)
        self.bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._image = open_image(image)
        self._server = Server(self._image, self._theirs.fileno(), bell=self.bell, helps=helps)
        self._thread = threading.Thread(target=self._server.run)

    def start(self) -> None:
        self._thread.start()

    def answer(self) -> int:
        """The number of the request that was answered."""
        return int(struct.unpack_from("<IiQ", self.ours.recv(1 << 16))[2])

    def answered(self, seconds: float) -> bool:
        """Whether there is an answer."""
        return bool(select.select([self.ours], [], [], seconds)[0])

    def rung(self) -> bool:
        """Whether the bell was rung since this was asked last."""
        with contextlib.suppress(BlockingIOError):
            return os.eventfd_read(self.bell) > 0
        return False

    def end(self) -> None:
        self.ours.send(request(DESTROY, 0))
        os.eventfd_write(self.bell, 1)
        self._thread.join(20)
        assert not self._thread.is_alive()
        self._image.close()
        os.close(self.bell)
        self.ours.close()
        self._theirs.close()


@contextlib.contextmanager
def served(image: str, *, helps: bool = False) -> Iterator[Kernel]:
    kernel = Kernel(image, helps=helps)
    try:
        yield kernel
    finally:
        kernel.end()


@pytest.mark.spec("MOUNT-10")
def test_no_help_is_called_for_requests_that_come_one_by_one(image: str) -> None:
    with served(image) as kernel:
        kernel.start()
        for number in range(1, 30):
            kernel.ours.send(request(GETATTR, number))
            assert kernel.answer() == number
            time.sleep(0.02)  # it looks, finds nothing, and sleeps
        assert not kernel.rung()


@pytest.mark.spec("MOUNT-10")
def test_help_is_called_when_requests_wait(image: str) -> None:
    with served(image) as kernel:
        for number in range(1, 5):
            kernel.ours.send(request(GETATTR, number))
        kernel.start()
        assert [kernel.answer() for _ in range(4)] == [1, 2, 3, 4]
        time.sleep(0.05)
        assert not kernel.rung()  # three that waited
    with served(image) as kernel:
        for number in range(1, 10):
            kernel.ours.send(request(GETATTR, number))
        kernel.start()
        assert [kernel.answer() for _ in range(9)] == list(range(1, 10))
        assert kernel.rung()


@pytest.mark.spec("MOUNT-10")
def test_who_helps_sleeps_until_it_is_called(image: str) -> None:
    with served(image, helps=True) as kernel:
        kernel.start()
        time.sleep(0.2)
        kernel.ours.send(request(GETATTR, 7))
        assert not kernel.answered(0.3)
        os.eventfd_write(kernel.bell, 1)
        assert kernel.answer() == 7
        time.sleep(0.2)
        kernel.ours.send(request(GETATTR, 8))
        assert not kernel.answered(0.3)
        os.eventfd_write(kernel.bell, 3)
        assert kernel.answer() == 8
