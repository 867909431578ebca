"""Inodes of several names: numbered, counted, kept; in few bytes."""

from __future__ import annotations

import os
import tempfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dls.fuse.groups import Groups, Kept, Tally
from dls.fuse.image import open_image
from dls.fuse.pack import asked, pack
from dls.fuse.source import Group, Item
from dls.fuse.spool import Spool


def _spool() -> Spool:
    return Spool(os.fsencode(tempfile.gettempdir()))


_wide = st.integers(-1, (1 << 64) - 1)


@given(st.lists(st.one_of(st.tuples(_wide, _wide), st.tuples(st.integers(0, 1), st.integers(0, 3)))))
def test_each_group_has_one_number(groups: list[Group]) -> None:
    found, numbers = Groups(_spool), dict[Group, int]()
    for group in groups:
        alike = group[0] % (1 << 64), group[1] % (1 << 64)
        assert found.number(group) == numbers.setdefault(alike, len(numbers))
    item = Item(b"a", 0o100644, 0, 0, 0)
    assert found.numbered(item) is item
    assert found.numbered(item._replace(group=(7, 8))).group == (0, numbers.get((7, 8), len(numbers)))


_rows = st.tuples(st.binary(max_size=40), st.tuples(st.integers(), st.integers()))


@given(st.dictionaries(st.integers(0, 300), _rows))
def test_rows_and_counts_come_back(rows: dict[int, tuple[bytes, tuple[int, int]]]) -> None:
    kept, counts = Kept(_spool()), Tally()
    for number, row in rows.items():
        kept.put(number, row)
        counts[number] += number % 3
    assert [kept.get(number) for number in range(301)] == [rows.get(number) for number in range(301)]
    assert dict(counts.items()) == {number: number % 3 for number in rows if number % 3}
    assert counts[301] == 0


@pytest.mark.spec("IMAGE-8")
def test_a_group_takes_few_bytes() -> None:
    many = 60_000
    tracemalloc.start()
    try:
        groups, counts, kept = Groups(_spool), Tally(), Kept(_spool())
        for inode in range(many):
            number = groups.number((2049, inode << 20))
            counts[number] += 1
            kept.put(number, (b"a record as long as records are" * 6, (1, 2, 3, 4)))
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    # Slots for 2^18 groups and two spools take 4 MB, whatever comes.
    assert held < (4 << 20) + 50 * many


@pytest.mark.spec("IMAGE-6")
@pytest.mark.parametrize("form", ["squashfs", "erofs"])
def test_names_of_groups_far_from_one_another(tmp_path: Path, form: str) -> None:
    for copy in ("first", "second"):
        (tmp_path / "tree" / copy).mkdir(parents=True)
    for number in range(3000):
        path = tmp_path / "tree" / "first" / f"{number:04d}"
        path.write_bytes(b"%d" % (number // 2))
        os.link(path, tmp_path / "tree" / "second" / f"{2999 - number:04d}")
    result = pack(str(tmp_path / "tree"), str(tmp_path / "i"), asked(form=form, workers=0))
    assert result.files == 6000
    with open_image(str(tmp_path / "i")) as found:
        for number in range(3000):
            one, other = (found.find(b"first/%04d" % number), found.find(b"second/%04d" % (2999 - number)))
            assert one == other
            assert one.nlink == 2
            assert found.read(other) == b"%d" % (number // 2)
