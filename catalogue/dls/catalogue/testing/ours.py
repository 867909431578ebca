"""The suite for the catalogues that we ship: in memory, and in SQLite with a clock that tests move on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dls.catalogue.catalogue import Catalogue
from dls.catalogue.memory import MemoryCatalogue
from dls.catalogue.sql import SqlCatalogue
from dls.catalogue.testing.contract import CatalogueContract
from dls.logistics.database import Database


class MemoryContract(CatalogueContract):
    """The reference."""

    def make(self, tmp_path: Path) -> Catalogue:
        return MemoryCatalogue(clock=self.now_ns)

    def again(self, catalogue: Catalogue, tmp_path: Path) -> Catalogue:
        return catalogue

    def damage(self, catalogue: Catalogue, digest: bytes, data: bytes) -> None:
        assert isinstance(catalogue, MemoryCatalogue)
        facts, _, seen_ns = catalogue._tables.segments[digest]
        catalogue._tables.segments[digest] = (facts, data, seen_ns)

    def kept(self, catalogue: Catalogue) -> dict[bytes, int]:
        assert isinstance(catalogue, MemoryCatalogue)
        return {digest: len(data) for digest, (_, data, _) in catalogue._tables.segments.items()}


class _Clocked(Database):
    """A database that takes its time from elsewhere."""

    def __init__(self, path: Path, clock: Callable[[], int]) -> None:
        super().__init__(path)
        self._clock = clock

    def now_ns(self) -> int:
        return self._clock()


class SqlContract(CatalogueContract):
    """SQLite.  `close` ends what a test has opened."""

    opened: tuple[Database, ...] = ()

    def make(self, tmp_path: Path) -> Catalogue:
        database = _Clocked(tmp_path / "state.sqlite", self.now_ns)
        self.opened = (*self.opened, database)
        return SqlCatalogue(database)

    def close(self) -> None:
        """Close every database; idempotent."""
        for database in self.opened:
            database.close()

    def damage(self, catalogue: Catalogue, digest: bytes, data: bytes) -> None:
        assert isinstance(catalogue, SqlCatalogue)
        with catalogue._db.transaction() as tx:
            which = "SELECT id FROM segments WHERE digest = ?"
            assert tx.run(f"UPDATE segment_bytes SET data = ? WHERE segment = ({which})", (data, digest)) == 1

    def kept(self, catalogue: Catalogue) -> dict[bytes, int]:
        assert isinstance(catalogue, SqlCatalogue)
        rows = catalogue._db.all(
            "SELECT s.digest, length(b.data) FROM segments s LEFT JOIN segment_bytes b ON b.segment = s.id"
        )
        assert catalogue._db.one("SELECT count(*) FROM segment_bytes") == (len(rows),)
        return dict(rows)
