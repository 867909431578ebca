"""Buffers and needs on SQLite keep every rule of specs/buffer.md."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from dls.logistics import event
from dls.logistics.buffer import Buffers
from dls.logistics.database import Database
from dls.logistics.locks import FileLocks
from dls.logistics.need import Needs
from dls.logistics.testing.contract_buffer import BufferContract, Clock, Parts


class ClockedDatabase(Database):
    """SQLite with a clock that the test sets."""

    def __init__(self, path: Path, clock: Clock) -> None:
        super().__init__(path)
        self._clock = clock

    def now_ns(self) -> int:
        return self._clock.now_ns


class TestSqlite(BufferContract):
    @contextmanager
    def make(self, place: Path, clock: Clock) -> Iterator[Parts]:
        with closing(ClockedDatabase(place / "state.sqlite", clock)) as database:
            yield Parts(
                Buffers(database),
                Needs(database, FileLocks(place / "locks")),
                lambda: list(event.since(database, limit=100_000)),
            )
