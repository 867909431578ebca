"""Inodes of a tree, against a real file system."""

import os
from pathlib import Path
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st

from dls.logistics.entry import FILE, FOLDER, LINK, Entry
from dls.logistics.manifest import in_memory
from dls.logistics.names import parents
from dls.logistics.segment import Segment
from dls.logistics.store import Keeps
from dls.logistics.stores.posix import PosixStore
from dls.logistics.transfer import inodes
from dls.logistics.transfer.inodes import Inodes

ALL = Keeps(frozenset({FILE, LINK, FOLDER}), modes=True, mtimes=True, hardlinks=True)


def counted(entries: list[Entry], keeps: Keeps = ALL) -> int:
    counting = Inodes(keeps)
    for segment in in_memory(entries).segments():
        counting.add(segment)
    return counting.count


def test_a_real_tree(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    (root / "a" / "deep" / "er").mkdir(parents=True)
    (root / "a-b").mkdir()
    (root / "a" / "own").mkdir(mode=0o700)
    (root / "empty").mkdir()
    for name in ("a/deep/er/x", "a/deep/y", "a-b/z", "a/own/1", "a/own/2", "top"):
        (root / name).write_bytes(b"x")
    os.link(root / "top", root / "a-b" / "top2")
    os.link(root / "top", root / "a" / "own" / "top3")
    os.symlink("x", root / "a" / "deep" / "er" / "link")
    os.chmod(root / "a", 0o750)
    real = {os.lstat(os.path.join(at, n)).st_ino for at, ds, fs in os.walk(root) for n in (*ds, *fs)}
    assert counted(list(PosixStore(os.fsencode(root)).list())) == len(real)


PATHS = st.sets(
    st.lists(st.sampled_from([b"a", b"a-", b"b", b"a0", b"c.d"]), min_size=1, max_size=5).map(b"/".join), max_size=30
)


@given(PATHS, st.randoms(use_true_random=False))
def test_any_tree(paths: set[bytes], random: object) -> None:
    folders = {up for path in paths for up in parents(path)}
    entries = [Entry(path, FOLDER if path in folders else FILE, 0) for path in sorted(paths)]
    assert counted(entries) == len(folders | paths)
    with mock.patch.object(inodes, "_PENDING", 0):  # folders that are over are forgotten at once
        one_by_one = Inodes(ALL)
        for entry in entries:
            one_by_one.add(Segment.of([entry]))
    assert one_by_one.count == len(folders | paths)
    files = [e for e in entries if e.kind == FILE]
    assert counted(entries, Keeps()) == len(files), "a store without folders makes none"
