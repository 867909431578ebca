"""Rates: how long a copy will take, with an interval and what that rests on.

A link's own past goes first; then that of links between the same kinds of places, pooled and with a wider interval;
then a guess.  Links learn in `dls.logistics.site`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import reduce
from typing import Any, Final

from dls.logistics.frozen import frozen
from dls.logistics.site import Link, Sites

GUESS_BYTE_S: Final = 1e-8
GUESS_FILE_S: Final = 1e-3
"""100 MB/s and 1 ms a file, where nothing like it was ever copied."""
_GUESS_SPREAD: Final = 5.0
_KIN_SPREAD: Final = 2.0
"""Another place of the same kind may be so much faster or slower, beyond what its own past says."""


@frozen
class Estimate:
    """Seconds: likely, low, high; and on what they rest."""

    seconds: float
    low: float
    high: float
    rests_on: str

    def to_json(self) -> dict[str, Any]:
        """The estimate as programs read it, tenths of a second."""
        rounded = {key: round(getattr(self, key), 1) for key in ("seconds", "low", "high")}
        return {**rounded, "from": self.rests_on}


def estimate(sites: Sites, a: str, b: str, size: int, files: int) -> Estimate:
    """How long `size` bytes in `files` files will take from one end to the other."""
    own = sites.link(a, b).estimate(size, files)
    if own is not None:
        return Estimate(*own, "this link's past")
    schemes = {storage.id: _scheme(storage.url) for storage in sites.all()}
    like = pooled(link for link in sites.links() if _kind(link.a, link.b, schemes) == _kind(a, b, schemes))
    kin = like.estimate(size, files)
    if kin is not None:
        seconds, low, high = kin
        return Estimate(seconds, low / _KIN_SPREAD, high * _KIN_SPREAD, f"links like it, {_said(a, b, schemes)}")
    likely = size * GUESS_BYTE_S + files * GUESS_FILE_S
    return Estimate(likely, likely / _GUESS_SPREAD, likely * _GUESS_SPREAD, "a guess")


def pooled(links: Iterable[Link]) -> Link:
    """One link that learnt what all of them did."""
    return reduce(_plus, links, Link("", ""))


def _plus(one: Link, other: Link) -> Link:
    sums = ("samples", "weight", "bb", "bf", "ff", "tb", "tf")
    return Link("", "", **{name: getattr(one, name) + getattr(other, name) for name in sums})


def _kind(a: str, b: str, schemes: Mapping[str, str]) -> tuple[str, str]:
    return schemes.get(a) or _scheme(a), schemes.get(b) or _scheme(b)


def _scheme(address: str) -> str:
    """`s3` for all ways of speaking S3."""
    return address.partition("://")[0].partition("+")[0]


def _said(a: str, b: str, schemes: Mapping[str, str]) -> str:
    return " to ".join(_kind(a, b, schemes))
