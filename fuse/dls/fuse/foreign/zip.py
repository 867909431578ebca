"""Trees in zip files.  Format: PKWARE's APPNOTE.TXT 6.3.10.

Names come from the central directory (`zip_directory`).  A place is where the member's entry in it begins.  Small
members are unpacked whole and compared with their CRC-32; large ones that are stored are read where they lie, other
large ones are unpacked in order, and again from the beginning for whoever goes back.
"""

from __future__ import annotations

import bz2
import lzma
import stat as st
import struct
import zlib
from collections.abc import Iterator
from typing import Any, Final

from dls.fuse.codec import FrameStream
from dls.fuse.foreign.archive import Archive, Context, damaged, index_of, unreadable
from dls.fuse.foreign.members import Member, Members
from dls.fuse.foreign.zip_directory import Entry, directory_of, entries, entry_in
from dls.fuse.image import Source
from dls.fuse.index import Index
from dls.fuse.indexing import Making
from dls.fuse.records import Attr
from dls.logistics import names
from dls.logistics.errors import Corrupt

_LOCAL: Final = struct.Struct("<IHHHHHIIIHH")
_WHOLE: Final = 16 << 20
"""Members up to this size are unpacked whole and kept."""
_HELD: Final = 4
_MOST_BODIES: Final = 64
_ENTRIES_KEPT: Final = 512
_LONGEST_TEXT: Final = 4095
_STEP: Final = 1 << 18
_ENCRYPTED: Final = 0x1
_METHODS: Final = {0: "stored", 8: "deflate", 12: "bzip2", 14: "lzma", 93: "zstd", 20: "zstd", 95: "xz"}


class Zip(Archive):
    """A zip file."""

    form = "zip"

    def __init__(self, source: Source, index: Index, fd: int) -> None:
        super().__init__(source, index, fd)
        self._shift = int(index.header.image["shift"])
        self._bodies: dict[int, bytes] = {}
        self._running: dict[int, Running] = {}

    def pieces(self, attr: Attr, start: int, stop: int) -> list[bytes | memoryview]:
        """The bytes `start … stop-1` of a file."""
        stop = min(stop, attr.size)
        if start >= stop:
            return []
        entry = self.recent(attr.node, lambda: self._entry(attr), _ENTRIES_KEPT)
        if entry.method == 0 and entry.size > _WHOLE:
            data = self.source.at(begin_of(self.source, entry) + start, stop - start)
            if len(data) != stop - start:
                raise self.damaged(f"it was cut short inside {names.show(entry.name)}", self.source.size)
            return [data]
        with self._turn:
            if entry.size <= _WHOLE:
                body = self._bodies.get(attr.node)
                if body is None:
                    body = self._bodies[attr.node] = whole(self.source, entry)
                    while len(self._bodies) > _MOST_BODIES or sum(map(len, self._bodies.values())) > _HELD * _WHOLE:
                        del self._bodies[next(iter(self._bodies))]
                return [memoryview(body)[start:stop]]
            return self._in_order(attr.node, entry, start, stop)

    def _entry(self, attr: Attr) -> Entry:
        at = attr.a | attr.b << 40
        return entry_in(self.source.at(at, 4096 + 2 * 65536), 0, at, self._shift, self.name)

    def _in_order(self, node: int, entry: Entry, start: int, stop: int) -> list[bytes | memoryview]:
        """A stretch of a large member: the decoder that is nearest before it goes on."""
        running = self._running
        one = running.pop(node, None)
        if one is None or one.at > start:
            one = Running(self.source, entry)
        out = one.take(start, stop)
        running[node] = one
        while len(running) > _HELD:
            running.pop(next(iter(running)))
        return [out]


def begin_of(source: Source, entry: Entry) -> int:
    """Where the bytes of a member begin."""
    data = source.at(entry.start, _LOCAL.size + len(entry.said))
    # No sum covers names: a damaged one would give a file the content of another.
    if data[:4] != b"PK\3\4" or data[_LOCAL.size :] != entry.said:
        raise damaged(source.name, f"there is no {names.show(entry.name)} where its directory says", entry.start)
    *_, name_size, extra_size = _LOCAL.unpack(data[: _LOCAL.size])
    begin = entry.start + _LOCAL.size + name_size + extra_size
    if begin + entry.packed > source.size:
        raise damaged(source.name, f"it was cut short inside {names.show(entry.name)}", source.size)
    return int(begin)


def whole(source: Source, entry: Entry) -> bytes:
    """A member, compared with its CRC-32."""
    return Running(source, entry).take(0, entry.size)


class Running:
    """A member that is unpacked in order."""

    def __init__(self, source: Source, entry: Entry) -> None:
        shown = names.show(entry.name)
        if entry.flags & _ENCRYPTED:
            raise unreadable(source.name, f"{shown} is encrypted", "unpack it with its password", entry.name)
        if entry.method not in _METHODS:
            raise unreadable(
                source.name, f"{shown} is compressed by method {entry.method}", "unpack it with 7-Zip", entry.name
            )
        self._source, self._entry = source, entry
        self._from = begin_of(source, entry)
        self._read, self.at, self._crc = 0, 0, 0
        self._plain = self._unpacked()
        self._rest = b""

    def take(self, start: int, stop: int) -> bytes:
        """The bytes `start … stop-1`; `start` is not before `at`."""
        entry, out, need = self._entry, bytearray(), stop - start
        while len(out) < need:
            part = self._rest
            self._rest = b""
            if not part:
                part = self._next()
                if not part:
                    raise self._wrong("is shorter than its directory says")
                self._crc = zlib.crc32(part, self._crc)
            skip = max(0, min(start - self.at, len(part)))
            used = min(len(part), skip + need - len(out))
            out += part[skip:used]
            self.at += used
            self._rest = part[used:]
        if self.at == entry.size:
            if self._rest or self._next():
                raise self._wrong("is longer than its directory says")
            if self._crc != entry.crc:
                raise self._wrong("has another CRC-32 than its directory says")
        return bytes(out)

    def _next(self) -> bytes:
        try:
            return next(self._plain, b"")
        except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError) as exc:
            raise self._wrong("cannot be unpacked") from exc
        except Corrupt as exc:
            raise self._wrong(f"cannot be unpacked: {exc.message}") from exc

    def _wrong(self, why: str) -> Corrupt:
        return damaged(self._source.name, f"{names.show(self._entry.name)} {why}", self._from)

    def _packed(self, size: int) -> bytes:
        """The next bytes as they are stored, b'' at the end."""
        size = min(size, self._entry.packed - self._read)
        if size <= 0:
            return b""
        data = self._source.at(self._from + self._read, size)
        if len(data) != size:
            raise self._wrong("is cut short")
        self._read += size
        return data

    def _unpacked(self) -> Iterator[bytes]:
        method = _METHODS[self._entry.method]
        if method == "stored":
            while data := self._packed(_STEP):
                yield data
        elif method == "deflate":
            yield from self._inflated()
        elif method == "zstd":
            yield from self._zstd()
        else:
            yield from self._buffered(self._decoder(method))

    def _inflated(self) -> Iterator[bytes]:
        one = zlib.decompressobj(-15)
        while not one.eof and (data := self._packed(_STEP)):
            while data and not one.eof:
                if part := one.decompress(data, _STEP * 4):
                    yield part
                data = one.unconsumed_tail
        if part := one.flush():
            yield part

    def _zstd(self) -> Iterator[bytes]:
        one = FrameStream()
        while data := self._packed(4096):
            while data:
                if part := one.decompress(data):
                    yield part
                data = b""
                if one.eof:
                    data, one = one.unused_data, FrameStream()

    def _buffered(self, one: Any) -> Iterator[bytes]:
        while not one.eof:
            data = self._packed(_STEP) if one.needs_input else b""
            if one.needs_input and not data:
                return
            if part := one.decompress(data, _STEP * 4):
                yield part

    def _decoder(self, method: str) -> Any:
        if method == "bzip2":
            return bz2.BZ2Decompressor()
        if method == "xz":
            return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=256 << 20)
        head = self._packed(4)
        long = int.from_bytes(head[2:4], "little")
        properties = self._packed(long)
        if len(properties) != 5:
            raise self._wrong("has a bad header of LZMA")
        first, dictionary = struct.unpack("<BI", properties)
        if first >= 225 or dictionary > 256 << 20:
            raise self._wrong("has a bad header of LZMA")
        filters = [
            {"id": lzma.FILTER_LZMA1, "dict_size": max(4096, dictionary), "lc": first % 9, "lp": first // 9 % 5,
             "pb": first // 45}
        ]  # fmt: skip
        return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters)


def open_zip(source: Source, stamp: str, context: Context) -> Zip:
    """The tree in a zip file."""

    def make(making: Making) -> None:
        directory = directory_of(source)
        if directory is None:
            raise damaged(source.name, "it has no directory at its end: it was cut short", source.size)
        context.progress.files_total = directory.entries
        members = Members(making.spool)
        for at, entry in entries(source, directory):
            context.progress.settled(1, 0)
            text = b""
            if st.S_ISLNK(entry.mode):
                if not 0 < entry.size <= _LONGEST_TEXT:
                    members.note(f"{names.show(entry.name)} is left out: a link with an impossible text")
                    continue
                text = whole(source, entry)
            members.add(entry.name, Member(
                entry.mode, entry.uid, entry.gid, entry.mtime_ns, 0 if st.S_ISDIR(entry.mode) else entry.size,
                a=at & (1 << 40) - 1, b=at >> 40, text=text,
            ))  # fmt: skip
        making.index(members.rows(), {"notes": members.notes, "shift": directory.shift})

    fd, index = index_of(source, "zip", stamp, context, make)
    return Zip(source, index, fd).keep(context)
