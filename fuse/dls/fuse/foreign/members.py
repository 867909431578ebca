"""Members of an archive, in whatever order it has them, become items in order of the manifest.

They are sorted outside of memory: runs of them go to nameless files and are merged.  The last of one name wins, as when
an archive is unpacked; folders that no member speaks of are made; a hard link means what its target was at that place.
Memory: one run, and about 300 bytes for each hard link.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from heapq import merge
from itertools import groupby
from operator import itemgetter
from typing import Final, NamedTuple

from dls.fuse.indexing import place
from dls.fuse.layout import Place
from dls.fuse.source import NO_XATTRS, Item
from dls.fuse.spool import Spool
from dls.logistics import names

_RUN_ROWS: Final = 1 << 16
_RUN_BYTES: Final = 16 << 20
_PARENTS_KNOWN: Final = 1 << 14
_NOTES: Final = 20
"""Notes that are kept word by word; more are counted."""
LONGEST_NAME: Final = 255
NOBODY: Final = 65534
FOLDER_MODE: Final = 0o040755
DANGLING: Final = 0xFFFFFFFE
"""`attr.b` of a hard link whose target is not in the archive."""

_PARENT, _MEMBER, _LINK, _WANTED = range(4)
"""Rows: something lies in this folder; a member; a hard link; somebody links to this name."""
_ROW: Final = struct.Struct("<IQI")
_HEAD: Final = struct.Struct("<BIIIqQQQIIQIH")
_PAIR: Final = struct.Struct("<HI")
_Row = tuple[bytes, int, bytes]


class Member(NamedTuple):
    """One member, beside its name."""

    mode: int
    """With the type."""
    uid: int
    gid: int
    mtime_ns: int
    size: int = 0
    device: int = 0
    a: int = 0
    b: int = 0
    c: int = 0
    """Where its bytes are, to the reader of the format."""
    holes: int = 0
    text: bytes = b""
    """Of a symbolic link."""
    xattrs: tuple[tuple[bytes, bytes], ...] = NO_XATTRS


def _encode(kind: int, one: Member) -> bytes:
    mode, uid, gid, mtime_ns, size, device, a, b, c, holes, text, xattrs = one
    head = _HEAD.pack(
        kind, mode, _owner(uid), _owner(gid), min(max(mtime_ns, -(2**63)), 2**63 - 1), size, device, a, b, c, holes,
        len(text), len(xattrs),
    )  # fmt: skip
    if not xattrs:
        return head + text
    return head + text + b"".join(_PAIR.pack(len(name), len(value)) + name + value for name, value in xattrs)


def _decode(data: bytes) -> Member:
    _, mode, uid, gid, mtime_ns, size, device, a, b, c, holes, long, count = _HEAD.unpack_from(data)
    at = _HEAD.size + long
    text, pairs = data[_HEAD.size : at], []
    for _ in range(count):
        first, second = _PAIR.unpack_from(data, at)
        at += _PAIR.size + first + second
        pairs.append((data[at - first - second : at - second], data[at - second : at]))
    return Member(mode, uid, gid, mtime_ns, size, device, a, b, c, holes, text, tuple(pairs))


def _owner(number: int) -> int:
    return number if 0 <= number < 1 << 32 else NOBODY


class Members:
    """Collects members; `rows` gives them sorted."""

    def __init__(self, spool: Callable[[], Spool]) -> None:
        self._spool, self._newest = spool, 0
        self._run: list[_Row] = []
        self._held = 0
        self._runs: list[Spool] = []
        self._number = 0
        self._parents: set[bytes] = set()
        self._links = False
        self.notes: list[str] = []
        self.noted = 0

    # ------------------------------------------------------------------------------------------ collecting

    def note(self, text: str) -> None:
        """Something about the archive that people should know."""
        self.noted += 1
        if len(self.notes) < _NOTES:
            self.notes.append(text)

    def add(self, name: bytes, one: Member) -> None:
        """The next member; a name that no tree can hold is noted and left out."""
        path = self.clean(name)
        if path == b"" and one.mode >> 12 != 4:
            self.note(f"{names.show(name)} is left out: it is no name of a file")
        elif path is not None:
            self._number += 1
            self._newest = max(self._newest, one.mtime_ns)
            self._put(path, self._number, _encode(_MEMBER, one))
            self._above(path)

    def link(self, name: bytes, target: bytes, one: Member) -> None:
        """The next member: another name for `target`; `one` is how it is shown where there is no target."""
        path, other = self.clean(name), self.clean(target)
        if not path or other == path:
            return
        self._number += 1
        self._links = True
        self._put(
            path, self._number, _encode(_LINK, one._replace(mode=one.mode & 0o7777 | 0o100000, b=DANGLING, size=0))
        )
        self._above(path)
        if other:
            self._put(other, self._number, bytes((_WANTED,)))

    def clean(self, name: bytes) -> bytes | None:
        """A name as a tree has it (b'': the root), None where it is left out."""
        if (
            name.startswith(b"/")
            or name.endswith((b"/", b"/."))
            or b"./" in name
            or b"//" in name
            or name in (b".", b"..")
        ):
            parts = [part for part in name.split(b"/") if part and part != b"."]
            name = b"/".join(parts)
        if name in (b"", b"."):
            return b""
        why = ""
        if b"\0" in name:
            why = "it holds a zero byte"
        elif b".." in name and b".." in name.split(b"/"):
            why = "it leads out of the archive"
        elif len(name) > LONGEST_NAME and max(map(len, name.split(b"/"))) > LONGEST_NAME:
            why = f"a part is longer than {LONGEST_NAME} bytes"
        elif names.HIDDEN in name and names.is_hidden(name):
            why = "names that begin with .dls- are reserved"
        if why:
            self.note(f"{names.show(name)[:200]} is left out: {why}")
            return None
        return name

    def _above(self, path: bytes) -> None:
        """Every folder above is there, whether a member speaks of it or not."""
        known = self._parents
        while path:
            path = path[: max(0, path.rfind(b"/"))]
            if path in known:
                return
            if len(known) >= _PARENTS_KNOWN:
                known.clear()
            known.add(path)
            self._put(path, 0, b"\0")

    def _put(self, path: bytes, number: int, data: bytes) -> None:
        self._run.append((path, number, data))
        self._held += len(path) + len(data) + 200
        if len(self._run) >= _RUN_ROWS or self._held >= _RUN_BYTES:
            self._spill()

    def _spill(self) -> None:
        self._run.sort()
        spool = self._spool()
        for path, number, data in self._run:
            spool.add(_ROW.pack(len(path), number, len(data)) + path + data)
        self._runs.append(spool)
        self._run, self._held = [], 0

    # -------------------------------------------------------------------------------------------- sorted

    def rows(self) -> Iterator[tuple[Item, Place]]:
        """Items and places in order of the manifest, the root first."""
        links = _Links(self._groups()) if self._links else None
        root_seen = False
        for path, versions in self._groups():
            if not root_seen:
                root_seen = True
                if path:
                    yield self._folder(b"", (), empty=False)
            kept = _chosen(versions)
            if kept is None:
                continue
            number, data = kept
            if data[0] == _PARENT or _is_folder(data):
                yield self._folder(path, versions, empty=versions[0][2][0] != _PARENT)
                continue
            group, nlink = None, 1
            if links is not None:
                inode, found, nlink = links.of(number, data)
                data, group = found, (0, inode) if nlink > 1 else None
            yield _item(path, _decode(data), group, nlink)
        if not root_seen:
            yield self._folder(b"", (), empty=True)

    def _folder(self, path: bytes, versions: Iterable[_Row], *, empty: bool) -> tuple[Item, Place]:
        one = Member(FOLDER_MODE, 0, 0, self._newest)  # made: as old as the newest member
        for _, _, data in versions:
            if data[0] == _MEMBER and _is_folder(data):
                one = _decode(data)
        item = Item(path, one.mode, one.uid, one.gid, one.mtime_ns, xattrs=one.xattrs, empty=empty)
        return item, place()

    def _groups(self) -> Iterator[tuple[bytes, list[_Row]]]:
        self._run.sort()
        runs: list[Iterable[_Row]] = [_read(run) for run in self._runs]
        for path, rows in groupby(merge(*runs, self._run), itemgetter(0)):
            yield path, list(rows)


def _read(run: Spool) -> Iterator[_Row]:
    rest = b""
    for chunk in run:
        data, at = rest + chunk, 0
        while at + _ROW.size <= len(data):
            long, number, size = _ROW.unpack_from(data, at)
            start = at + _ROW.size
            if start + long + size > len(data):
                break
            at = start + long + size
            yield data[start : start + long], number, data[start + long : at]
        rest = data[at:]


def _chosen(versions: list[_Row]) -> tuple[int, bytes] | None:
    """Of the rows of one name, the one that counts: it is a folder where something lies inside, else the last."""
    if versions[0][2][0] == _PARENT:
        return versions[0][1:]
    for _, number, data in reversed(versions):
        if data[0] != _WANTED:
            return number, data
    return None


def _is_folder(data: bytes) -> bool:
    return data[0] == _MEMBER and data[2] & 0xF0 == 0x40  # the upper byte of the mode, little-endian


def _item(path: bytes, one: Member, group: tuple[int, int] | None, nlink: int) -> tuple[Item, Place]:
    size = len(one.text) if one.mode >> 12 == 10 else one.size
    item = Item(
        path, one.mode, one.uid, one.gid, one.mtime_ns, size, group, one.device, one.text, one.xattrs, False, nlink
    )
    return item, place(one.a, one.b, one.c, one.holes)


class _Links:
    """What each hard link means, and how many names each inode has."""

    def __init__(self, groups: Iterator[tuple[bytes, list[_Row]]]) -> None:
        self._target: dict[int, int] = {}
        self._data: dict[int, bytes] = {}
        alive: set[int] = set()
        shown: set[int] = set()
        for _, versions in groups:
            chosen = _chosen(versions)
            if chosen is not None and chosen[1][0] == _LINK:
                alive.add(chosen[0])
            if any(data[0] == _WANTED for _, _, data in versions):
                self._resolve(versions)
                if chosen is not None:
                    shown.add(chosen[0])
        self._count: dict[int, int] = {}
        for number in alive | shown:
            inode = self._inode(number)
            self._count[inode] = self._count.get(inode, 0) + 1

    def _resolve(self, versions: list[_Row]) -> None:
        latest, found = 0, b""
        for _, number, data in sorted(versions, key=itemgetter(1)):
            if data[0] in (_LINK, _MEMBER):
                latest, found = number, data
            elif data[0] == _WANTED and latest and not _is_folder(found):
                self._target[number], self._data[latest] = latest, found

    def _inode(self, number: int) -> int:
        """The member at the end of a chain of links; each leads to an earlier one."""
        way = []
        while number in self._target:
            way.append(number)
            number = self._target[number]
        for link in way:
            self._target[link] = number
        return number

    def of(self, number: int, data: bytes) -> tuple[int, bytes, int]:
        """(Number of the inode, its row, how many names it has) of a row."""
        inode = self._inode(number)
        return inode, self._data.get(inode, data), self._count.get(inode, 1)
