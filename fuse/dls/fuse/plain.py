"""Datasets that lie file by file behind a store, as a tree: names from the manifest, bytes by ranges, each proven.

A *unit* is what is fetched and compared with a digest at once, before any byte of it is given: a block of 16 MiB of a
file that has digests of blocks (over 64 MiB), else the whole file.  Units are kept, under their digests.  Several may
be on their way at once, each for all who ask for it.
"""

from __future__ import annotations

import os
import stat as st
import threading
from collections import OrderedDict
from typing import Final, NamedTuple

from dls.fuse.cache import LIMIT, Cache
from dls.fuse.foreign.archive import Indexed
from dls.fuse.foreign.members import DANGLING, Member, Members
from dls.fuse.index import Index
from dls.fuse.indexing import Making, kept
from dls.fuse.records import Attr
from dls.logistics import digest as digests
from dls.logistics import names
from dls.logistics.entry import FILE, FOLDER, LINK, NO_MODE, NO_TIME, Entry
from dls.logistics.errors import Corrupt, DlsError, Unsupported
from dls.logistics.manifest import Manifest
from dls.logistics.segment import Segment
from dls.logistics.store import Store

_VERSION: Final = 1
_SEGMENTS_KEPT: Final = 8
_MEMORY: Final = 64 << 20
"""Bytes of units kept in memory, beside the last one; and of those on their way, beside one."""


class Unit(NamedTuple):
    """A part of a file with a digest of its own."""

    start: int
    stop: int
    digest: bytes


class _OnItsWay:
    """A unit that one thread fetches, and others wait for."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.data: bytes | None = None
        self.error: DlsError | None = None


class _StoredFiles:
    """Stands for the file that an image would be: files behind a store are many."""

    def __init__(self, store: Store, size: int) -> None:
        self.store, self.name, self.size = store, store.url, size

    def at(self, offset: int, size: int) -> bytes:
        """There is no such file."""
        raise AssertionError("files that lie one by one have no offsets in common")

    again = at
    far = True  # as far as is known; then each read is asked for beside the others

    def same(self) -> None:
        """Nothing: the index is in a file of our own."""

    def ready(self, offset: int) -> bool:
        """Not asked."""
        return True

    def close(self) -> None:
        """Let go of the store."""
        self.store.close()


class Plain(Indexed):
    """A version of a dataset that lies as plain files."""

    forks = False  # a store is of the process that opened it

    def __init__(self, files: _StoredFiles, manifest: Manifest, index: Index, fd: int, cache: Cache | None) -> None:
        super().__init__(files, index)
        self._fd, self._store, self._manifest, self._cache = fd, files.store, manifest, cache
        self._segments: OrderedDict[int, Segment] = OrderedDict()
        self._units: OrderedDict[bytes, bytes] = OrderedDict()
        self._ways: dict[bytes, _OnItsWay] = {}
        self._held = self._coming = 0
        self._turn = threading.Condition()

    @property
    def manifest(self) -> Manifest:
        """That of the version."""
        return self._manifest

    def pieces(self, attr: Attr, start: int, stop: int) -> list[bytes | memoryview]:
        """The bytes `start … stop-1` of a file, each compared with a digest."""
        stop = min(stop, attr.size)
        if start >= stop:
            return []
        entry = self._entry(attr)
        out: list[bytes | memoryview] = []
        while start < stop:
            unit = unit_at(entry, start)
            data = self._unit(entry, unit)
            end = min(stop, unit.stop)
            out.append(memoryview(data)[start - unit.start : end - unit.start])
            start = end
        return out

    def ready(self, node: int, start: int) -> bool:
        """Whether the unit with byte `start` of a file is in memory."""
        attr = self.attr(node)
        if attr.mode >> 12 != 8 or start >= attr.size:
            return True
        with self._turn:
            return unit_at(self._entry(attr), start).digest in self._units

    def _entry(self, attr: Attr) -> Entry:
        if attr.b == DANGLING:
            raise Corrupt(f"{self.name}: a name leads to a file that is not in the manifest", code="bad-segment")
        with self._turn:
            segment = self._segments.get(attr.b)
            if segment is None:
                segment = self._segments[attr.b] = self._manifest.load(self._manifest.refs[attr.b].digest)
                if len(self._segments) > _SEGMENTS_KEPT:
                    self._segments.popitem(last=False)
        return segment.entry(attr.c)

    def _unit(self, entry: Entry, unit: Unit) -> bytes:
        """A unit: from memory, from the cache, or from the store."""
        if unit.digest == digests.UNKNOWN:
            shown = names.show(entry.path)
            raise Unsupported(
                f"{shown} was never hashed: nobody could tell whether it is right", code="no-digests", key=shown,
                remedy="register the dataset again",
            )  # fmt: skip
        while True:
            with self._turn:
                found = self._units.get(unit.digest)
                if found is not None:
                    self._units.move_to_end(unit.digest)
                    return found
                way = self._ways.get(unit.digest)
                if way is None:
                    way = self._ways[unit.digest] = _OnItsWay()
                    break
            way.over.wait()  # bounded: a store gives up
            if way.error is not None:
                raise way.error
            if way.data is not None:
                return way.data
        try:
            way.data = self._brought(entry, unit)
        except DlsError as error:
            way.error = error
            raise
        finally:
            with self._turn:
                if way.data is not None:
                    self._keep(unit.digest, way.data)
                del self._ways[unit.digest]
            way.over.set()
        return way.data

    def _keep(self, digest: bytes, data: bytes) -> None:
        if digest not in self._units:
            self._units[digest] = data
            self._held += len(data)
        while self._held > _MEMORY and len(self._units) > 1:
            _, gone = self._units.popitem(last=False)
            self._held -= len(gone)

    def _brought(self, entry: Entry, unit: Unit) -> bytes:
        """A unit from the cache or from the store, once there is room for it."""
        size = unit.stop - unit.start
        with self._turn:
            while self._coming and self._coming + size > _MEMORY:
                self._turn.wait()
            self._coming += size
        try:
            name = unit.digest.hex()
            data = self._cache.get(name, size) if self._cache is not None else None
            if data is None or digests.of(data) != unit.digest:
                data = self._fetched(entry, unit)
                if self._cache is not None:
                    self._cache.put(name, data)
            return data
        finally:
            with self._turn:
                self._coming -= size
                self._turn.notify_all()

    def _fetched(self, entry: Entry, unit: Unit) -> bytes:
        data = b"".join(self._store.read(entry.path, unit.start, unit.stop))
        if len(data) == unit.stop - unit.start and digests.of(data) == unit.digest:
            return data
        shown = names.show(entry.path)
        where = f" (bytes {unit.start:,} to {unit.stop:,})" if unit.start or unit.stop != entry.size else ""
        raise Corrupt(
            f"{self.name}/{shown} has another content than its dataset{where}", code="content-differs", key=shown,
            store=self.name, remedy="take another replica, or register what lies there as a new version",
        )  # fmt: skip

    def close(self) -> None:
        """Let go of everything.  Idempotent."""
        super().close()
        self._units.clear()
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def unit_at(entry: Entry, offset: int) -> Unit:
    """The unit of a file that has the byte at `offset`."""
    if not entry.blocks:
        return Unit(0, entry.size, entry.digest)
    number, size = offset // digests.BLOCK, digests.SIZE
    start = number * digests.BLOCK
    return Unit(start, min(entry.size, start + digests.BLOCK), entry.blocks[number * size : (number + 1) * size])


def open_plain(store: Store, manifest: Manifest, *, cache_folder: str = "", cache_bytes: int = LIMIT) -> Plain:
    """The tree of a manifest whose files lie behind a store; the store is closed with it.

    Files belong to whoever opens them.  Memory: 64 MiB of units and the largest one, as much of those that come, some
    segments, frames of names.
    """
    said = f"plain {_VERSION} {os.geteuid()}".encode() + manifest.digest
    version = digests.of(said).hex()[:32]

    def make(making: Making) -> None:
        making.version = version
        members = Members(making.spool)
        for number, segment in enumerate(manifest.segments()):
            for row, entry in enumerate(segment):
                _add(members, entry, number, row)
        making.index(members.rows(), {"notes": members.notes}, block=1 << 20)

    try:
        fd, index = kept(cache_folder, version, make)
    except BaseException:
        store.close()
        raise
    cache = Cache(cache_folder, "files", cache_bytes) if cache_folder else None
    return Plain(_StoredFiles(store, manifest.size), manifest, index, fd, cache)


def _add(members: Members, entry: Entry, number: int, row: int) -> None:
    kind = {FILE: st.S_IFREG, LINK: st.S_IFLNK, FOLDER: st.S_IFDIR}[entry.kind]
    usual = {FILE: 0o644, LINK: 0o777, FOLDER: 0o755}[entry.kind]
    mode = kind | (usual if entry.mode == NO_MODE else entry.mode & 0o7777)
    text = entry.target if entry.kind == LINK else b""
    time = 0 if entry.mtime_ns == NO_TIME else entry.mtime_ns
    one = Member(mode, os.geteuid(), os.getegid(), time, entry.size, b=number, c=row, text=text)
    if entry.kind == FILE and entry.target:
        members.link(entry.path, entry.target, one)
    else:
        members.add(entry.path, one)
