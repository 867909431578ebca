"""What a test class of buffers and needs gives to the suite, and the short forms that its rules share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from dls.logistics.actor import local
from dls.logistics.buffer import ALL, HOLDING, Buffer, Buffers
from dls.logistics.errors import DlsError
from dls.logistics.event import Event
from dls.logistics.need import Needs
from dls.logistics.testing.spec import Suite

ACTOR = local("ada@laptop")
DAY = 86_400
CAPACITY, INODES = 1_000_000, 100
PATIENCE_S = 60.0
"""How long a waiter may take to answer before the suite calls it stuck, seconds."""


class Clock:
    """The database's clock, set by the test."""

    def __init__(self) -> None:
        self.now_ns = 1_800_000_000_000_000_000

    def advance(self, seconds: float) -> None:
        self.now_ns += int(seconds * 1e9)


class Parts(NamedTuple):
    """What is under test, over one state."""

    buffers: Buffers
    needs: Needs
    events: Callable[[], list[Event]]
    """Every event so far."""


class World:
    """The parts with one storage, `scratch`, of CAPACITY and INODES."""

    def __init__(self, parts: Parts, clock: Clock) -> None:
        self.buffers, self.needs, self.events = parts
        self.clock = clock
        self.buffers.sites.add_site("scratch", "memory://scratch/data", capacity_bytes=CAPACITY, capacity_inodes=INODES)

    def reserve(
        self, size: int = 1000, *, inodes: int = 1, content: bytes = b"", user: str = "ada", **more: Any
    ) -> Buffer:
        return self.buffers.reserve(
            "scratch", content=content, label="era5", bytes=size, inodes=inodes, user=user, actor=ACTOR, **more
        )

    def filled(self, size: int = 1000, **more: Any) -> Buffer:
        """A ready buffer, dirty."""
        buffer = self.reserve(size, **more)
        self.buffers.filling(buffer.id)
        return self.buffers.settle(buffer.id, size, buffer.reserved_inodes)

    def held(self) -> tuple[int, int]:
        """Space counted, which must be the sum over the buffers."""
        room = self.buffers.room("scratch")
        every = self.buffers.list("scratch", states=ALL)
        holding = [b for b in every if b.state in HOLDING]
        assert (room.held_bytes, room.held_inodes) == (
            sum(b.reserved_bytes for b in holding),
            sum(b.reserved_inodes for b in holding),
        )
        assert all(b.reserved_bytes == b.reserved_inodes == 0 for b in every if b.state not in HOLDING)
        return room.held_bytes, room.held_inodes

    def told(self) -> Counter[str]:
        return Counter(e.type for e in self.events())

    def unchanged(self, act: Callable[[], object], kind: type[DlsError], code: str) -> DlsError:
        """`act` is refused so, and neither buffers nor events changed."""
        before = (self.buffers.list(states=ALL), len(self.events()), self.held())
        with pytest.raises(kind) as caught:
            act()
        assert caught.value.code == code
        assert (self.buffers.list(states=ALL), len(self.events()), self.held()) == before
        return caught.value


class BufferHooks(Suite):
    """Hooks of a test class."""

    examples = 40
    """Random histories tried."""

    def make(self, place: Path, clock: Clock) -> AbstractContextManager[Parts]:
        """The parts over the state in the folder `place`; called again, further parts over the same state."""
        raise NotImplementedError

    @pytest.fixture
    def clock(self) -> Clock:
        return Clock()

    @pytest.fixture
    def world(self, tmp_path: Path, clock: Clock) -> Iterator[World]:
        with self.make(tmp_path, clock) as parts:
            yield World(parts, clock)
