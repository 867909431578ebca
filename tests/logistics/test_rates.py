"""Estimates: by the link's own past, by links like it, or a guess; never faster for more."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from dls.logistics import rates
from dls.logistics.database import Database
from dls.logistics.rates import pooled
from dls.logistics.site import Link, Sites

FILE = "file://"


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[Sites]:
    database = Database(tmp_path / "state.sqlite")
    made = Sites(database)
    made.add_site("disk", "/disk")
    made.add_site("scratch", "/scratch")
    made.add_site("cloud", "s3+http://host:1/bucket")
    yield made
    database.close()


def taught(sites: Sites, a: str, b: str, byte_s: float = 2e-9, file_s: float = 0.01) -> None:
    for size, files in ((10**9, 1), (10**6, 1000), (10**8, 100)):
        sites.observe(sites.link(a, b), size, files, size * byte_s + files * file_s)


@pytest.mark.spec("LOOK-14")
def test_a_guess_says_so_and_is_wide(sites: Sites) -> None:
    got = rates.estimate(sites, "disk/default", "cloud/default", 10**9, 1000)
    assert got.rests_on == "a guess"
    assert (got.low, got.seconds, got.high) == pytest.approx((2.2, 11.0, 55.0))


@pytest.mark.spec("LOOK-14")
def test_the_own_past_goes_before_that_of_links_like_it(sites: Sites) -> None:
    taught(sites, FILE, "disk/default")
    like = rates.estimate(sites, "disk/default", "scratch/default", 10**9, 100)
    assert like.rests_on == "links like it, file to file"
    assert like.seconds == pytest.approx(3.0, rel=0.02)
    alone = rates.estimate(sites, FILE, "disk/default", 10**9, 100)
    assert (like.seconds, like.low) == (alone.seconds, alone.low / 2)
    assert like.high == alone.high * 2
    taught(sites, "disk/default", "scratch/default", byte_s=4e-9)
    own = rates.estimate(sites, "disk/default", "scratch/default", 10**9, 100)
    assert own.rests_on == "this link's past"
    assert own.seconds == pytest.approx(5.0, rel=0.02)
    assert like.high / like.low > own.high / own.low


@pytest.mark.spec("LOOK-14")
def test_links_of_another_kind_say_nothing(sites: Sites) -> None:
    taught(sites, FILE, "cloud/default")
    assert rates.estimate(sites, "disk/default", "scratch/default", 1, 1).rests_on == "a guess"
    assert rates.estimate(sites, "cloud/default", "disk/default", 1, 1).rests_on == "a guess"  # the other way
    up = rates.estimate(sites, "scratch/default", "s3://elsewhere", 1, 1)
    assert up.rests_on == "links like it, file to s3"


LINKS = some.lists(
    some.tuples(some.integers(0, 10**12), some.integers(0, 10**6), some.floats(0.001, 10**5)), max_size=6
)


def learnt(samples: list[tuple[int, int, float]]) -> Link:
    """What `Sites.observe` keeps, without fading."""
    made = Link("", "")
    for size, files, seconds in samples:
        x, y = size * 1e-8 / seconds, files * 0.005 / seconds
        made = pooled([made, Link("", "", 1, 1.0, x * x, x * y, y * y, x, y)])
    return made


@given(
    samples=LINKS,
    size=some.integers(0, 10**13),
    files=some.integers(0, 10**7),
    more=some.integers(0, 10**12),
    others=some.integers(0, 10**6),
)
@pytest.mark.spec("LOOK-14")
def test_more_never_takes_less_and_the_interval_holds_the_likely(
    samples: list[tuple[int, int, float]], size: int, files: int, more: int, others: int
) -> None:
    link = learnt(samples)
    one, larger = link.estimate(size, files), link.estimate(size + more, files + others)
    assert (one is None) == (not samples)
    if one is None or larger is None:
        return
    assert 0 <= one[1] <= one[0] <= one[2] < math.inf
    assert one[0] <= larger[0]


@pytest.mark.parametrize(("byte_s", "file_s"), [(1e-8, 0.005), (1e-9, 0.0), (3e-7, 1.0)])
def test_a_link_that_keeps_to_the_model_is_foretold_exactly(byte_s: float, file_s: float) -> None:
    made = [(size, files, size * byte_s + files * file_s) for size, files in ((10**9, 1), (10**7, 900), (10**8, 50))]
    got = learnt(made).estimate(5 * 10**8, 500)
    assert got is not None
    assert got[0] == pytest.approx(5 * 10**8 * byte_s + 500 * file_s, rel=0.02)


def test_pooling_adds_what_was_learnt() -> None:
    one, two = learnt([(10**9, 10, 5.0)]), learnt([(10**6, 1000, 3.0)])
    assert pooled([]) == Link("", "")
    assert pooled([one, two]) == learnt([(10**9, 10, 5.0), (10**6, 1000, 3.0)])
