"""Edits of trees: any number of any kind, drawn by hypothesis, done by plain system calls."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

SECOND = 1_000_000_000
Edit = tuple[str, bytes, Any]

_names = st.sampled_from([b"a", b"a-b", b"a.b", b"a0", b"b", b"\xff", b"a\nb", b"%41", "é".encode(), b"c" * 200])
paths = st.lists(_names, min_size=1, max_size=3).map(b"/".join)
some = st.lists(
    st.one_of(
        st.tuples(st.just("file"), paths, st.integers(0, 5)),
        st.tuples(st.just("large"), paths, st.integers(0, 2)),
        st.tuples(st.just("folder"), paths, st.just(0)),
        st.tuples(st.just("delete"), paths, st.just(0)),
        st.tuples(st.just("link"), paths, st.integers(0, 2)),
        st.tuples(st.just("hard"), paths, paths),
        st.tuples(st.just("mode"), paths, st.sampled_from([0o644, 0o600, 0o755, 0o2750])),
        st.tuples(st.just("time"), paths, st.integers(0, 3)),
        st.tuples(st.just("xattr"), paths, st.integers(0, 2)),
        st.tuples(st.just("pipe"), paths, st.just(0)),
        st.tuples(st.just("owner"), paths, st.sampled_from([0, 1234])),
    ),
    max_size=14,
)


def do(root: Path, edits: list[Edit]) -> None:
    """Do what can be done of it."""
    top = os.fsencode(root)
    for verb, name, how in edits:
        path = top + b"/" + name
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, FileExistsError, IsADirectoryError):
            if verb in MAKES:
                os.makedirs(os.path.dirname(path), exist_ok=True)
                if verb != "folder" and os.path.lexists(path) and not (verb == "hard" and how == name):
                    remove(path)
            VERBS[verb](path, top + b"/" + how if verb == "hard" else how)


def remove(path: bytes, how: object = None) -> None:
    """Whatever it is."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        os.unlink(path)


def _file(path: bytes, how: int) -> None:
    Path(os.fsdecode(path)).write_bytes(b"content %d " % how * how)


def _large(path: bytes, how: int) -> None:
    Path(os.fsdecode(path)).write_bytes(random.Random(how).randbytes(300_000))


def _hard(path: bytes, other: bytes) -> None:
    if not os.path.isdir(other):
        os.link(other, path, follow_symlinks=False)


def _mode(path: bytes, how: int) -> None:
    os.chmod(path, how | 0o111 if os.path.isdir(path) else how)


def _xattr(path: bytes, how: int) -> None:
    if stat.S_IFMT(os.lstat(path).st_mode) in (stat.S_IFREG, stat.S_IFDIR):
        os.setxattr(path, b"user.note", b"%d" % how)


MAKES = ("file", "large", "folder", "link", "hard", "pipe")
VERBS: dict[str, Callable[[bytes, Any], None]] = {
    "file": _file,
    "large": _large,
    "folder": lambda path, how: os.makedirs(path, exist_ok=True),
    "delete": remove,
    "link": lambda path, how: os.symlink(b"text %d" % how, path),
    "hard": _hard,
    "mode": _mode,
    "time": lambda path, how: os.utime(path, ns=(how * SECOND + 5, how * SECOND + 5), follow_symlinks=False),
    "xattr": _xattr,
    "pipe": lambda path, how: os.mkfifo(path),
    "owner": lambda path, how: os.chown(path, how, how, follow_symlinks=False),
}
