"""An independent comparison of two trees: shares no code with what it judges, and reads every byte."""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from pathlib import Path

from components.tree import walk

PIECE = 1 << 20


def same_tree(
    a: Path,
    b: Path,
    *,
    modes: bool = True,
    mtimes: bool = True,
    links: bool = True,
    hardlinks: bool = True,
    folders: bool = True,
) -> list[str]:
    """Return every difference in words, nothing when the trees are equal.

    `modes` compares permission bits of files and folders, `mtimes` times of files in nanoseconds, `links` symbolic
    links and where they point, `hardlinks` which names share a file, `folders` folders as such (empty ones too).
    What is switched off is ignored on both sides.
    """
    left, right = ({path: found for path, found in walk(root) if _counts(found, links, folders)} for root in (a, b))
    differences = [f"only in the first: {path!r}" for path in sorted(left.keys() - right.keys())]
    differences += [f"only in the second: {path!r}" for path in sorted(right.keys() - left.keys())]
    for path in sorted(left.keys() & right.keys()):
        reason = _differs(os.fsencode(a), os.fsencode(b), path, left[path], right[path], modes, mtimes)
        if reason:
            differences.append(f"{path!r}: {reason}")
    if hardlinks and _groups(left) != _groups(right):
        differences += [f"hard links differ: {sorted(group)!r}" for group in _groups(left) ^ _groups(right)]
    return differences


def same_content(a: bytes, b: bytes) -> bool:
    """Compare two files byte by byte."""
    with open(a, "rb", buffering=0) as first, open(b, "rb", buffering=0) as second:
        while True:
            one, other = first.read(PIECE), second.read(PIECE)
            if one != other:
                return False
            if not one:
                return True


def _counts(found: os.stat_result, links: bool, folders: bool) -> bool:
    if stat.S_ISLNK(found.st_mode):
        return links
    return folders or not stat.S_ISDIR(found.st_mode)


def _differs(
    a: bytes, b: bytes, path: bytes, one: os.stat_result, other: os.stat_result, modes: bool, mtimes: bool
) -> str:
    """Say how one path differs, or nothing."""
    first, second = os.path.join(a, path), os.path.join(b, path)
    kind = stat.S_IFMT(one.st_mode)
    if kind != stat.S_IFMT(other.st_mode):
        return f"kind {one.st_mode:o} is {other.st_mode:o}"
    if kind == stat.S_IFLNK:
        to, instead = os.readlink(first), os.readlink(second)
        return "" if to == instead else f"points to {to!r}, not {instead!r}"
    if modes and stat.S_IMODE(one.st_mode) != stat.S_IMODE(other.st_mode):
        return f"mode {stat.S_IMODE(one.st_mode):04o} is {stat.S_IMODE(other.st_mode):04o}"
    if kind != stat.S_IFREG:
        return ""
    if one.st_size != other.st_size:
        return f"size {one.st_size} is {other.st_size}"
    if mtimes and one.st_mtime_ns != other.st_mtime_ns:
        return f"mtime_ns {one.st_mtime_ns} is {other.st_mtime_ns}"
    return "" if same_content(first, second) else "content differs"


def _groups(found: dict[bytes, os.stat_result]) -> set[frozenset[bytes]]:
    """Return the sets of names that share one file."""
    names: dict[tuple[int, int], set[bytes]] = defaultdict(set)
    for path, status in found.items():
        if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
            names[status.st_dev, status.st_ino].add(path)
    return {frozenset(group) for group in names.values() if len(group) > 1}
