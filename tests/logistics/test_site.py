"""Sites, storages and links: SITE-1 … SITE-6 of specs/buffer.md."""

import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dls.logistics import event
from dls.logistics.database import Database
from dls.logistics.entry import FILE, LINK
from dls.logistics.errors import Exists, Invalid, NotFound
from dls.logistics.site import Link, Sites, Storage
from dls.logistics.store import Keeps
from dls.logistics.testing.spec import spec


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with closing(Database(tmp_path / "state.sqlite")) as database:
        yield database


@pytest.fixture
def sites(database: Database) -> Sites:
    return Sites(database)


@spec("SITE-1")
@pytest.mark.parametrize("name", ["", "a:b", "a/b", "-a", ".a", "a b", "ä", "x" * 65, "a\n", "../x"])
def test_names_are_plain(sites: Sites, database: Database, name: str) -> None:
    with pytest.raises(Invalid) as caught:
        sites.add_site(name, "file:///scratch")
    assert caught.value.remedy
    sites.add_site("ok", "file:///scratch")
    with pytest.raises(Invalid):
        sites.add_storage(Storage("ok", name, "file:///scratch"))
    assert [s.id for s in sites.all()] == ["ok/default"]
    assert len(list(event.since(database))) == 1


@spec("SITE-1")
@pytest.mark.parametrize(
    "wrong",
    [
        {"address": "scratch"},
        {"address": "s3://key:hush-hush@bucket/"},
        {"capacity_bytes": -1},
        {"capacity_bytes": 2**63},
        {"capacity_inodes": -1},
        {"block": 0},
        {"lifetime_s": 0},
        {"tier": "Fast Disk"},
        {"policy": {"purge": object()}},
    ],
)
def test_values_are_checked_first(sites: Sites, wrong: dict[str, object]) -> None:
    with pytest.raises(Invalid) as caught:
        sites.add_site("a", **{"address": "file:///scratch", **wrong})  # type: ignore[arg-type]
    assert "hush" not in str(caught.value.to_json())
    assert sites.all() == []


@spec("SITE-2")
def test_the_same_again_changes_nothing(sites: Sites, database: Database) -> None:
    first = sites.add_site("scratch", "/scratch//x/../data/", capacity_bytes=10**10, policy={"purge": "P30D"})
    assert first.id == "scratch/default"
    assert first.url == "file:///scratch/data"
    again = sites.add_site("scratch", "file:///scratch/data", capacity_bytes=10**10, policy={"purge": "P30D"})
    assert again == first == sites.get("scratch")
    with pytest.raises(Exists) as caught:
        sites.add_site("scratch", "/scratch/other", capacity_bytes=2 * 10**10, policy={"purge": "P30D"})
    assert caught.value.facts["differ"] == ["url", "capacity_bytes"]
    for part in ("url", "capacity_bytes is 10GB, asked 20GB"):
        assert part in caught.value.remedy
    assert sites.all() == [first]
    assert [e.type for e in event.since(database)] == ["storage.added"]


@spec("SITE-3")
def test_a_site_means_its_default(sites: Sites) -> None:
    with pytest.raises(NotFound) as caught:
        sites.get("scratch")
    assert "dls site add" in caught.value.remedy
    with pytest.raises(NotFound):
        sites.add_storage(Storage("scratch", "tape", "file:///tape"))
    sites.add_site("scratch", "file:///scratch")
    sites.add_site("archive", "file:///archive")
    tape = sites.add_storage(Storage("archive", "tape", "file:///tape", tier="tape"))
    assert sites.get("scratch") == sites.get("scratch/default")
    assert sites.get("archive/tape") == tape
    assert [s.id for s in sites.all()] == ["archive/default", "archive/tape", "scratch/default"]
    for name in ("scrtch", "scratch/tape", "", "/", "file:///scratch"):
        with pytest.raises(NotFound) as caught:
            sites.get(name)
        assert caught.value.code == "unknown-site"
        assert "archive, archive/tape, scratch" in caught.value.remedy


@spec("SITE-4")
def test_all_fields_come_back_elsewhere(sites: Sites, tmp_path: Path) -> None:
    full = Storage(
        site="a",
        name="default",
        url="s3://bucket/prefix",
        tier="object",
        capacity_bytes=2**62,
        capacity_inodes=0,
        block=1,
        keeps=Keeps(frozenset({FILE, LINK}), modes=True, hardlinks=True),
        lifetime_s=60,
        policy={"windows": [{"from": "22:00"}]},
        origin="it4i",
    )
    plain = Storage(site="b", name="default", url="file:///b")
    assert all(getattr(full, f.name) != getattr(plain, f.name) for f in fields(Storage) if f.name != "name")
    for storage in (full, plain):
        sites.add_storage(storage)
    sites.observe(Link("a/default", "b/default"), 10**9, 10, 10.0)
    with closing(Database(tmp_path / "state.sqlite")) as other:
        assert Sites(other).all() == [full, plain]
        assert Sites(other).link("a/default", "b/default") == sites.link("a/default", "b/default")


@spec("SITE-5")
def test_nothing_learnt_gives_no_estimate(sites: Sites) -> None:
    link = sites.link("a", "b")
    assert (link.samples, link.bytes_per_s, link.seconds_per_file) == (0, None, None)
    assert sites.estimate(link, 10**9, 1) is None
    for count, files, seconds in ((0, 0, 1.0), (10, 1, 0.0), (-1, 1, 1.0), (1, -1, 1.0), (10, 1, -1.0)):
        sites.observe(link, count, files, seconds)
    assert sites.link("a", "b") == link
    sites.observe(link, 10**9, 1, 10.0)
    assert sites.link("b", "a").samples == 0, "the way back is another link"


@spec("SITE-5")
@given(
    rate=st.floats(1e7, 1e10),
    per_file=st.floats(1e-3, 0.1),
    shapes=st.lists(st.tuples(st.integers(10**6, 10**12), st.integers(1, 10**6)), min_size=3, max_size=12),
)
def test_a_steady_link_is_learnt(rate: float, per_file: float, shapes: list[tuple[int, int]]) -> None:
    """From 80 Mbit/s to 80 Gbit/s, from 1 ms to 0.1 s a file: what was seen is foretold within its range."""
    link = _taught([(count, files, count / rate + files * per_file) for count, files in shapes])
    for count, files in shapes[-3:]:
        truth = count / rate + files * per_file
        found = link.estimate(count, files)
        assert found is not None
        likely, low, high = found
        assert 0 < low <= likely <= high
        assert low <= truth <= high
    assert link.bytes_per_s is not None
    assert link.bytes_per_s > 0
    assert link.seconds_per_file is not None
    assert link.seconds_per_file >= 0


@spec("SITE-5")
def test_rate_and_cost_of_a_file_are_told_apart() -> None:
    link = _taught([(10**11, 1, 500.0), (10**6, 10_000, 100.0), (10**11, 2, 500.0), (10**7, 20_000, 200.0)])
    assert link.bytes_per_s == pytest.approx(2e8, rel=0.05)
    assert link.seconds_per_file == pytest.approx(0.01, rel=0.05)


@spec("SITE-5")
def test_large_files_do_not_teach_the_cost_of_a_file() -> None:
    link = _taught([(10**11, 1, 10_000.0)] * 5)
    assert link.bytes_per_s == pytest.approx(1e7, rel=0.01)
    assert link.seconds_per_file == pytest.approx(0.005, rel=0.1), "as supposed"


@spec("SITE-5")
def test_newer_observations_weigh_more() -> None:
    slow, fast = (10**10, 10, 1000.0), (10**10, 10, 100.0)
    then = _taught([slow] * 30)
    now = _taught([slow] * 30 + [fast] * 10)
    assert then.bytes_per_s is not None
    assert now.bytes_per_s is not None
    assert now.bytes_per_s > 5 * then.bytes_per_s
    steady = then.estimate(10**10, 10)
    changing = _taught([slow] * 30 + [fast] * 2).estimate(10**10, 10)
    assert steady is not None
    assert changing is not None
    assert changing[2] / changing[0] > steady[2] / steady[0], "a link that varies is foretold with a wider range"


def _taught(samples: list[tuple[int, int, float]]) -> Link:
    with tempfile.TemporaryDirectory() as place, closing(Database(Path(place) / "state.sqlite")) as database:
        sites = Sites(database)
        for count, files, seconds in samples:
            sites.observe(Link("a", "b"), count, files, seconds)
        link = sites.link("a", "b")
    assert link.samples == len(samples)
    return link


@spec("SITE-6")
def test_no_observation_is_lost(sites: Sites) -> None:
    link = Link("a", "b")
    threads = [
        threading.Thread(target=lambda: [sites.observe(link, 10**9, 1, 10.0) for _ in range(10)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sites.link("a", "b").samples == 40


def test_a_storage_is_a_value() -> None:
    storage = Storage("a", "default", "file:///a", policy={"purge": "P30D"})
    assert hash(storage) == hash(replace(storage))
