"""Look at a contender's result outside the clock: how many files, how many bytes, and the content of a sample."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.contender import Turn
from components.compare import same_content
from components.tree import walk

SAMPLES = 64


def same_files(source: Path, result: Callable[[Turn], Path]) -> Callable[[Turn], str]:
    """Return a check that `result(turn)` holds the files of `source`, at whatever depth (hidden names aside)."""
    expected = {path: found.st_size for path, found in walk(source) if stat.S_ISREG(found.st_mode)}

    def check(turn: Turn) -> str:
        top = result(turn)
        if not top.exists():
            return f"no result at {top}"
        first = min(expected)
        root = next((root for root in _folders(top) if os.path.lexists(os.path.join(root, first))), None)
        if root is None:
            return f"{first!r} is nowhere below {top}"
        found = {p: s.st_size for p, s in walk(Path(os.fsdecode(root))) if stat.S_ISREG(s.st_mode) and not _hidden(p)}
        if found != expected:
            return (
                f"{len(found)} files, {sum(found.values())} bytes; expected {len(expected)}, {sum(expected.values())}"
            )
        names = sorted(expected)
        for name in names[:: max(1, len(names) // SAMPLES)]:
            if not same_content(os.path.join(os.fsencode(source), name), os.path.join(root, name)):
                return f"content of {name!r} differs"
        return ""

    return check


def _folders(top: Path, depth: int = 5) -> Iterator[bytes]:
    """Give `top` and the folders below it, level by level."""
    level = [os.fsencode(top)]
    for _ in range(depth):
        below = []
        for folder in level:
            yield folder
            if os.path.isdir(folder):
                with os.scandir(folder) as entries:
                    below += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        level = below


def _hidden(path: bytes) -> bool:
    return any(part.startswith(b".") for part in path.split(b"/"))
