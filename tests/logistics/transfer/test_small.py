"""Small files: what failed is counted, what fails for good ends it."""

from __future__ import annotations

from dls.logistics.errors import Denied
from dls.logistics.testing.spec import spec
from dls.logistics.transfer.small import Failures


@spec("TRANSFER-18")
def test_all_failures_are_counted_and_the_first_thousand_kept() -> None:
    failures = Failures()
    for n in range(1002):
        failures.add(b"%04d" % n, Denied("no", code="no-access"))
    assert failures.count == 1002
    assert [key for key, _ in failures.shown] == [b"%04d" % n for n in range(1000)]
