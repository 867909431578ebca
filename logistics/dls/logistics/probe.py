"""Probe: what a tree is like before anything is moved: a fold over its sorted entries, in bounded memory.

Nothing is read and nothing hashed: names, kinds, sizes and times say all of it.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Any, Final, NamedTuple

from dls.logistics import names
from dls.logistics.entry import FILE, FOLDER, LINK, NO_TIME
from dls.logistics.frozen import frozen
from dls.logistics.segment import Segment
from dls.logistics.store import SMALL

BOUNDS: Final = (1, *(10**n for n in range(3, 13)))
"""Borders of the classes of file sizes, bytes: empty, below 1 kB, below 10 kB, … up to 1 TB and more."""
CROWDED: Final = 10_000
"""Folders with more direct entries are slow on most file systems."""
BUSIEST: Final = 10
SHOWN: Final = 5
MANY_SMALL: Final = 1000
"""From so many small files on, where they are most of the files, what each file costs rules the time."""
_KEPT: Final = 512
_PENDING: Final = 4096


class Class(NamedTuple):
    """The files of one class of sizes."""

    below: int | None
    """Bytes; None for the last class, which has no end."""
    files: int
    bytes: int


class Crowd(NamedTuple):
    """A folder, b'' for the root, and how many entries lie directly in it."""

    path: bytes
    entries: int


class At(NamedTuple):
    """A name with a measure of it: bytes of its name, or nanoseconds since the epoch."""

    path: bytes
    value: int


@frozen
class Findings:
    """What was found."""

    files: int
    links: int
    folders: int
    """All folders below the root, also those that no entry names."""
    hardlinks: int
    """Files that are a further name of another."""
    size: int
    """Sum of file sizes, bytes; what has several names counts once."""
    sizes: tuple[Class, ...]
    """Files by size, every name counted."""
    small_files: int
    """Below 1 MiB."""
    small_bytes: int
    busiest: tuple[Crowd, ...]
    """The ten folders with most direct entries."""
    crowded: int
    """Folders with more than 10,000 direct entries."""
    deepest: int
    """Parts of the name that has most."""
    longest_part: At | None
    longest_path: At | None
    largest: At | None
    not_utf8: int
    not_utf8_first: tuple[bytes, ...]
    oldest: At | None
    newest: At | None

    @property
    def many_small(self) -> bool:
        """Whether what each file costs will rule the time of a copy."""
        return self.small_files >= MANY_SMALL and 2 * self.small_files > self.files

    def advice(self) -> list[str]:
        """What that means, in sentences."""
        said = []
        if self.many_small:
            share = 100 * self.small_bytes / self.size if self.size else 0.0
            said.append(
                f"{self.small_files:,} of {self.files:,} files are below 1 MiB, with {share:.0f} % of the bytes: "
                "time and inodes go by files here, and one image would count as a single file"
            )
        if self.crowded:
            word = "folder holds" if self.crowded == 1 else "folders hold"
            said.append(f"{self.crowded:,} {word} more than {CROWDED:,} entries: listing is slow on most file systems")
        if self.not_utf8:
            word = "name is" if self.not_utf8 == 1 else "names are"
            said.append(f"{self.not_utf8:,} {word} not UTF-8: object stores refuse such names")
        return said

    def to_json(self) -> dict[str, Any]:
        """The findings as programs read them."""
        return {
            "files": self.files,
            "links": self.links,
            "folders": self.folders,
            "hardlinks": self.hardlinks,
            "bytes": self.size,
            "sizes": [one._asdict() for one in self.sizes],
            "small_files": self.small_files,
            "small_bytes": self.small_bytes,
            "busiest": [{"path": names.show(c.path), "entries": c.entries} for c in self.busiest],
            "crowded": self.crowded,
            "deepest": self.deepest,
            "longest_part": _json(self.longest_part, "bytes"),
            "longest_path": _json(self.longest_path, "bytes"),
            "largest": _json(self.largest, "bytes"),
            "not_utf8": self.not_utf8,
            "not_utf8_first": [names.show(path) for path in self.not_utf8_first],
            "oldest": _json(self.oldest, "mtime_ns"),
            "newest": _json(self.newest, "mtime_ns"),
            "advice": self.advice(),
        }


def _json(at: At | None, word: str) -> dict[str, Any] | None:
    return None if at is None else {"path": names.show(at.path), word: at.value}


class Probe:
    """The fold: `add` segment after segment, in order of name; `findings` at any time.

    Memory holds the open folders of one name, the busiest so far, and nothing per entry.
    """

    def __init__(self) -> None:
        self._kinds = [0, 0, 0]
        self._hardlinks = self._bytes = 0
        self._files_by = [0] * (len(BOUNDS) + 1)
        self._bytes_by = [0] * (len(BOUNDS) + 1)
        self._small = self._small_bytes = 0
        self._crowds = _Crowds()
        self._deepest = 0
        self._part: At | None = None
        self._path: At | None = None
        self._largest: At | None = None
        self._odd, self._odd_first = 0, list[bytes]()
        self._oldest: At | None = None
        self._newest: At | None = None

    def add(self, segment: Segment) -> None:
        """One more segment."""
        for kind in (FILE, LINK, FOLDER):
            self._kinds[kind] += segment.kinds.count(kind)
        for path, kind in zip(segment.paths, segment.kinds, strict=True):
            self._crowds.add(path, folder=kind == FOLDER)
        self._names(segment)
        self._sizes(segment)
        self._times(segment)

    def _names(self, segment: Segment) -> None:
        for path in segment.paths:
            self._deepest = max(self._deepest, path.count(b"/") + 1)
            if self._path is None or len(path) > self._path.value:
                self._path = At(path, len(path))
            if not path.isascii() and not _utf8(path):
                self._odd += 1
                if len(self._odd_first) < SHOWN:
                    self._odd_first.append(path)
            if self._part is None or len(path) > self._part.value:
                part = max(path.split(b"/"), key=len)
                if self._part is None or len(part) > self._part.value:
                    self._part = At(part, len(part))

    def _sizes(self, segment: Segment) -> None:
        further = segment.targets
        for i, (kind, size) in enumerate(zip(segment.kinds, segment.sizes, strict=True)):
            if kind != FILE:
                continue
            number = bisect_right(BOUNDS, size)
            self._files_by[number] += 1
            self._bytes_by[number] += size
            if size < SMALL:
                self._small += 1
                self._small_bytes += size
            if i in further:
                self._hardlinks += 1
            else:
                self._bytes += size
            if self._largest is None or size > self._largest.value:
                self._largest = At(segment.paths[i], size)

    def _times(self, segment: Segment) -> None:
        for path, kind, time_ns in zip(segment.paths, segment.kinds, segment.mtimes, strict=True):
            if kind != FILE or time_ns == NO_TIME:
                continue
            if self._oldest is None or time_ns < self._oldest.value:
                self._oldest = At(path, time_ns)
            if self._newest is None or time_ns > self._newest.value:
                self._newest = At(path, time_ns)

    def findings(self) -> Findings:
        """What was found so far."""
        folders, busiest, crowded = self._crowds.found()
        below = (*BOUNDS, None)
        return Findings(
            self._kinds[FILE],
            self._kinds[LINK],
            folders,
            self._hardlinks,
            self._bytes,
            tuple(Class(*one) for one in zip(below, self._files_by, self._bytes_by, strict=True)),
            self._small,
            self._small_bytes,
            busiest,
            crowded,
            self._deepest,
            self._part,
            self._path,
            self._largest,
            self._odd,
            tuple(self._odd_first),
            self._oldest,
            self._newest,
        )


def _utf8(path: bytes) -> bool:
    try:
        path.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


class _Crowds:
    """Direct entries by folder.  In order of name all that lies below a folder is in one piece, so only the folders
    above the last name are open."""

    def __init__(self) -> None:
        self._open: list[list[Any]] = [[b"", 0]]  # path with its slash, direct entries
        self._told = set[bytes]()  # folders with an entry of their own whose content may still come
        self._limit = _PENDING
        self._folders = 0
        self._busiest: list[Crowd] = []
        self._crowded = 0

    def add(self, path: bytes, *, folder: bool) -> None:
        above = path[: path.rfind(b"/") + 1]
        if above != self._open[-1][0]:
            self._enter(above)
        self._open[-1][1] += 1
        if folder:
            self._folders += 1
            self._told.add(path + b"/")
            if len(self._told) > self._limit:  # '0' follows '/': what sorts below this name in that way is over
                self._told = {one for one in self._told if one[:-1] + b"0" > path}
                self._limit = max(_PENDING, 2 * len(self._told))

    def _enter(self, folder: bytes) -> None:
        while not folder.startswith(self._open[-1][0]):
            self._close(*self._open.pop())
        end = len(self._open[-1][0])
        while end < len(folder):
            end = folder.index(b"/", end) + 1
            if folder[:end] not in self._told:
                self._folders += 1
                self._open[-1][1] += 1
            self._open.append([folder[:end], 0])

    def _close(self, path: bytes, entries: int) -> None:
        self._crowded += entries > CROWDED
        self._busiest.append(Crowd(path[:-1], entries))
        if len(self._busiest) >= _KEPT:
            self._busiest = _first(self._busiest)

    def found(self) -> tuple[int, tuple[Crowd, ...], int]:
        """Folders, the busiest, and how many are crowded; what is open counts as it is now."""
        still = [Crowd(path[:-1], entries) for path, entries in self._open]
        crowded = self._crowded + sum(1 for one in still if one.entries > CROWDED)
        busiest = [one for one in _first([*self._busiest, *still]) if one.entries]
        return self._folders, tuple(busiest), crowded


def _first(crowds: list[Crowd]) -> list[Crowd]:
    return sorted(crowds, key=lambda one: (-one.entries, one.path))[:BUSIEST]
