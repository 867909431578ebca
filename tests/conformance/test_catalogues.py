"""Every catalogue that we ship, against every rule of specs/catalogue.md."""

from collections.abc import Iterator

import pytest

from dls.catalogue.testing.ours import MemoryContract, SqlContract


class TestMemory(MemoryContract):
    """The reference."""


class TestSql(SqlContract):
    """SQLite."""

    @pytest.fixture(autouse=True)
    def _closed(self) -> Iterator[None]:
        yield
        self.close()
