"""wait-for: done once a dataset is there; until then it says `NotYet`, and past its time it fails."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import ClassVar

from dls.logistics import url
from dls.logistics.errors import DlsError, Invalid, NotFound, Unavailable
from dls.logistics.frozen import frozen
from dls.madpp.action import AT_ONCE, Context, Facts, NotYet, bounded, checked

LOOK_AGAIN_S = 30.0
"""How often it is worth a look."""


@frozen
class WaitFor:
    """`wait-for: SCOPE:NAME[@N]`: a version (N or later) that has an offered copy."""

    dataset: str
    until: str = ""
    name: ClassVar[str] = "wait-for"

    def check(self, context: Context) -> list[DlsError]:
        """Are the words legal, and is there time left?"""
        return checked(
            lambda: url.dataset(self.dataset),
            lambda: read_time(self.until) if self.until else None,
            lambda: self._in_time(context),
        )

    def _there(self, context: Context) -> str:
        """The version that is there, or ''."""
        id = url.dataset(self.dataset)
        try:
            newest = context.catalogue.version(url.dataset(id.key), actor=context.actor)
        except NotFound:
            return ""
        if newest.number < id.version or not context.catalogue.replicas(url.dataset(newest.id), actor=context.actor):
            return ""
        return newest.id

    def _in_time(self, context: Context) -> str:
        there = self._there(context)
        if not there and self.until and context.now() >= read_time(self.until):
            raise Unavailable(
                f"{self.dataset} was not there by {self.until}",
                code="not-in-time",
                dataset=self.dataset,
                until=self.until,
                remedy="ask whoever makes it, or wait longer: until",
            )
        return there

    def preview(self, context: Context) -> Facts:
        """Whether it is there."""
        there = self._there(context)
        facts = {"what": self.dataset, "there": there, "route": [there or self.dataset], "files": 0, "bytes": 0}
        return bounded({**facts, "eta": AT_ONCE})

    def run(self, context: Context) -> Facts:
        """Look once."""
        there = self._in_time(context)
        if not there:
            now = context.now()
            until = read_time(self.until) if self.until else 0
            left = max(0.0, (until - now) / 1e9) if until else LOOK_AGAIN_S
            raise NotYet(self.dataset, since_ns=now, look_again_s=min(LOOK_AGAIN_S, left), until_ns=until)
        return {"dataset": there}


def read_time(text: str) -> int:
    """Nanoseconds since the epoch of an ISO 8601 time with its zone; Invalid."""
    try:
        found = datetime.fromisoformat(text)
        if found.tzinfo is not None and "T" in text:
            return int((found - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()) * 1_000_000_000
    except (ValueError, OverflowError):
        pass
    raise Invalid(f"not a time: {text[:80]}", code="bad-time", remedy="write date, time and zone: 2026-12-31T12:00:00Z")
