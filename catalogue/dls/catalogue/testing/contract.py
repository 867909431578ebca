"""The conformance suite of catalogues: every rule of `specs/catalogue.md`, for any implementation.

    class TestMine(CatalogueContract):
        def make(self, tmp_path):
            return MyCatalogue(tmp_path / "state", clock=self.now_ns)

`again`, `damage` and `kept` are in `hooks`.  Register the marker `spec` in your own pytest settings.
"""

from __future__ import annotations

from pathlib import Path

from dls.catalogue.catalogue import Catalogue
from dls.catalogue.testing.company import CompanyRules
from dls.catalogue.testing.content import ContentRules
from dls.catalogue.testing.copies import CopyRules
from dls.catalogue.testing.people import PeopleRules
from dls.catalogue.testing.reading import ReadingRules
from dls.catalogue.testing.records import RecordRules
from dls.logistics.testing.spec import spec


class CatalogueContract(ContentRules, RecordRules, CopyRules, PeopleRules, ReadingRules, CompanyRules):
    """All rules."""

    @spec("CAT-3", "CAT-23")
    def test_it_is_a_catalogue(self, tmp_path: Path) -> None:
        assert isinstance(self.make(tmp_path), Catalogue)
