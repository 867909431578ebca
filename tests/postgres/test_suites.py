"""The suites of buffers, needs, catalogues and receipts on PostgreSQL."""

import hashlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from components.postgres import PostgresServer
from dls.catalogue.catalogue import Catalogue
from dls.catalogue.sql import SqlCatalogue
from dls.catalogue.testing.ours import SqlContract
from dls.logistics import event
from dls.logistics.buffer import Buffers
from dls.logistics.database import Database
from dls.logistics.locks_postgres import PostgresLocks
from dls.logistics.manifest import Bitmap
from dls.logistics.need import Needs
from dls.logistics.testing.contract_buffer import BufferContract, Clock, Parts
from dls.logistics.transfer.receipt import Place, Receipt, SqlReceipts

pytestmark = pytest.mark.service


def schema_of(place: Path) -> str:
    """The same folder, the same state."""
    return "t" + hashlib.sha256(str(place).encode()).hexdigest()[:32]


class ClockedDatabase(Database):
    """PostgreSQL with a clock that the test sets."""

    def __init__(self, url: str, schema: str, clock: Clock) -> None:
        super().__init__(url, schema)
        self._clock = clock

    def now_ns(self) -> int:
        return self._clock.now_ns


class TestBuffers(BufferContract):
    examples = 10  # a schema each

    @pytest.fixture(autouse=True)
    def _server(self, postgres_server: PostgresServer) -> None:
        self.url = postgres_server.url

    @contextmanager
    def make(self, place: Path, clock: Clock) -> Iterator[Parts]:
        schema = schema_of(place)
        with (
            closing(ClockedDatabase(self.url, schema, clock)) as database,
            closing(PostgresLocks(self.url, schema)) as locks,
        ):
            yield Parts(Buffers(database), Needs(database, locks), lambda: list(event.since(database, limit=100_000)))


class _Timed(Database):
    def __init__(self, url: str, schema: str, contract: SqlContract) -> None:
        super().__init__(url, schema)
        self._contract = contract

    def now_ns(self) -> int:
        return self._contract.now_ns()


class TestCatalogue(SqlContract):
    examples = 8  # a schema each

    @pytest.fixture(autouse=True)
    def _server(self, postgres_server: PostgresServer) -> Iterator[None]:
        self.url = postgres_server.url
        yield
        self.close()

    def make(self, tmp_path: Path) -> Catalogue:
        database = _Timed(self.url, schema_of(tmp_path), self)
        self.opened = (*self.opened, database)
        return SqlCatalogue(database)


@pytest.mark.parametrize("boot", ["", "now"])
def test_receipts_are_read_as_they_were_written(pg_state: tuple[str, str], boot: str) -> None:
    with closing(Database(*pg_state)) as database:
        receipts = SqlReceipts(database)
        here, segment = Place("file:///x\udcff", "blake3:00"), bytes(range(32))
        for stamps in ([b"", b"\0\1\2", b"4"], [b"a" * 30, b"", b"b" * 30]):
            receipts.put(here, Receipt(segment, Bitmap.full(3), stamps, boot, b"\0body", stamps))
            found = receipts.get(here, segment)
            assert found is not None
            assert (found.segment, found.boot, found.body) == (segment, boot, b"\0body")
            assert (list(found.stamps), list(found.sources), found.done.count) == (stamps, stamps, 3)
        receipts.drop(here)
        assert receipts.get(here, segment) is None
