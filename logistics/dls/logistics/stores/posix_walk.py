"""Walking a folder: its entries sorted by the bytes of their paths, lazily, one scan and one stat each."""

from __future__ import annotations

import os
import stat as st
from collections.abc import Iterator
from typing import NamedTuple

from dls.logistics import digest as digests
from dls.logistics import names
from dls.logistics.entry import FILE, FOLDER, LINK, NO_MODE, NO_TIME, Entry
from dls.logistics.errors import Conflict, Unsupported
from dls.logistics.stores.posix_errors import ours
from dls.logistics.stores.posix_files import stamp_of

PLAIN = 0o755
"""Mode of a folder that needs no entry of its own."""


class _Row(NamedTuple):
    """One name in a folder, by the bytes at which it sorts."""

    at: bytes
    entry: Entry | None
    stamp: bytes = b""
    inode: tuple[int, int] | None = None
    inside: list[_Row] | None = None


def walk(root: bytes, prefix: bytes, where: str) -> Iterator[tuple[Entry, bytes]]:
    """Entries below `root` whose path begins with `prefix`, with their stamps; nothing where `root` is absent.

    Hard links are told by the first of their names in this walk.  A folder gives an entry where it is empty or its
    mode is not 0755.
    """
    folder = prefix[: prefix.rfind(b"/") + 1]
    start = root + b"/" + folder
    if folder.startswith(b"/") or b"//" in folder or names.is_hidden(folder) or not _there(root, start, folder, where):
        return
    first: dict[tuple[int, int], bytes] = {}
    todo = _scan(start, folder, where)
    todo.reverse()
    while todo:
        row = todo.pop()
        if row.inside is not None:
            row.inside.reverse()
            todo.extend(row.inside)
            continue
        if not row.at.startswith(prefix):
            continue
        entry = row.entry
        if entry is None:
            found = _folder(root, row.at, where, todo)
            if found is not None:
                yield found
            continue
        if row.inode is not None:
            known = first.setdefault(row.inode, entry.path)
            if known != entry.path:
                entry = entry._replace(target=known)
        yield entry, row.stamp


def _there(root: bytes, start: bytes, folder: bytes, where: str) -> bool:
    try:
        os.stat(root)
        return not folder or st.S_ISDIR(os.lstat(start[:-1]).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as exc:
        raise ours(exc, where, folder.rstrip(b"/")) from exc


def _folder(root: bytes, path: bytes, where: str, todo: list[_Row]) -> tuple[Entry, bytes] | None:
    """Open a folder met in a walk: put what is inside where it sorts (after `path-x`, which is before `path/`), and
    give its own entry where it matters."""
    try:
        info = os.lstat(root + b"/" + path)
    except OSError as exc:
        raise ours(exc, where, path) from exc
    inside = _scan(root + b"/" + path + b"/", path + b"/", where)
    mode = st.S_IMODE(info.st_mode)
    if not inside:
        return Entry(path, FOLDER, 0, digests.UNKNOWN, mode, info.st_mtime_ns), stamp_of(info)
    at, i = path + b"/", len(todo)
    while i and todo[i - 1].at < at:
        i -= 1
    todo.insert(i, _Row(at, None, inside=inside))
    return (Entry(path, FOLDER, 0, digests.UNKNOWN, mode, NO_TIME), stamp_of(info)) if mode != PLAIN else None


def _scan(folder: bytes, above: bytes, where: str) -> list[_Row]:
    """The rows of one folder, sorted; a folder's contents sort at its name and a slash."""
    rows: list[_Row] = []
    unknown, new = digests.UNKNOWN, tuple.__new__  # a class's own __new__ takes three times as long
    try:
        with os.scandir(folder) as found:
            for one in found:
                name = one.name
                if name.startswith(names.HIDDEN):
                    continue
                path = above + name
                info = one.stat(follow_symlinks=False)
                mode = info.st_mode
                kind = mode & 0o170000
                if kind == st.S_IFREG:
                    inode = (info.st_dev, info.st_ino) if info.st_nlink > 1 else None
                    fields = (path, FILE, info.st_size, unknown, mode & 0o7777, info.st_mtime_ns, b"", b"")
                    rows.append(new(_Row, (path, new(Entry, fields), stamp_of(info), inode, None)))
                elif kind == st.S_IFDIR:
                    rows.append(_Row(path, None))
                elif kind == st.S_IFLNK:
                    target = os.readlink(folder + name)
                    entry = Entry(path, LINK, 0, unknown, NO_MODE, info.st_mtime_ns, target)
                    rows.append(_Row(path, entry, stamp_of(info)))
                else:
                    raise Unsupported(
                        f"{where}/{names.show(path)} is a socket, pipe or device",
                        code="special-file",
                        key=names.show(path),
                        store=where,
                        remedy="remove it, or register the folders beside it",
                    )
    except FileNotFoundError as exc:
        raise Conflict(
            f"{where}/{names.show(above)} changed while it was listed", code="source-changed", store=where
        ) from exc
    except OSError as exc:
        raise ours(exc, where, above.rstrip(b"/")) from exc
    rows.sort()
    return rows
