"""Trees in zip files.  Format: PKWARE's APPNOTE.TXT 6.3.10; Info-ZIP's extra fields (proginfo/extrafld.txt).

Names come from the central directory, which is read in order and never held.  A place is where the member's entry in
it begins.  Small members are unpacked whole and compared with their CRC-32; large ones that are stored are read where
they lie, other large ones are unpacked in order, and again from the beginning for whoever goes back.
"""

from __future__ import annotations

import bz2
import lzma
import stat as st
import struct
import zlib
from calendar import timegm
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from dls.fuse.codec import FrameStream
from dls.fuse.foreign.archive import Archive, Context, damaged, index_of, unreadable
from dls.fuse.foreign.members import Member, Members
from dls.fuse.image import Source
from dls.fuse.index import Index
from dls.fuse.indexing import Making
from dls.fuse.records import Attr
from dls.logistics import names
from dls.logistics.errors import Corrupt

_ENTRY: Final = struct.Struct("<IBBHHHHHIIIHHHHHII")
_LOCAL: Final = struct.Struct("<IHHHHHIIIHH")
_END: Final = struct.Struct("<IHHHHIIH")
_END64: Final = struct.Struct("<IQHHIIQQQQ")
_FINDER64: Final = struct.Struct("<IIQI")
_ENTRY_MAGIC, _LOCAL_MAGIC, _END_MAGIC, _END64_MAGIC, _FINDER64_MAGIC = (
    0x02014B50, 0x04034B50, 0x06054B50, 0x06064B50, 0x07064B50,
)  # fmt: skip
_U32: Final = 0xFFFFFFFF
_WINDOW: Final = 1 << 20
_WHOLE: Final = 16 << 20
"""Members up to this size are unpacked whole and kept."""
_HELD: Final = 4
_MOST_BODIES: Final = 64
_ENTRIES_KEPT: Final = 512
_LONGEST_TEXT: Final = 4095
_STEP: Final = 1 << 18
_ENCRYPTED, _UTF8 = 0x1, 0x800
_METHODS: Final = {0: "stored", 8: "deflate", 12: "bzip2", 14: "lzma", 93: "zstd", 20: "zstd", 95: "xz"}
_EPOCH_NTFS: Final = 116444736000000000
_UNIX, _FAT, _NTFS = 3, 0, 11


class Entry(NamedTuple):
    """A member, as the central directory tells of it."""

    name: bytes
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    start: int
    """Where its local header begins."""
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    ends: int
    """Where the next entry begins."""


class Directory(NamedTuple):
    """Where the central directory lies."""

    start: int
    stop: int
    entries: int
    shift: int
    """Bytes before the archive, such as a program that unpacks it."""


def directory_of(source: Source) -> Directory | None:
    """Where the central directory is, None where the file is no zip."""
    size = source.size
    tail = source.at(max(0, size - 65557), 65557)
    found: list[tuple[bool, int]] = []
    at = tail.rfind(b"PK\5\6", 0, len(tail) - _END.size + 4)
    while at >= 0 and len(found) < 64:
        *_, long, start, comment = _END.unpack_from(tail, at)
        end = size - len(tail) + at
        if end + _END.size + comment <= size:
            begins = long > end or source.at(end - long, 4) == b"PK\1\2" or not long
            found.append((end + _END.size + comment != size or not begins, -end))
        at = tail.rfind(b"PK\5\6", 0, at)
    if not found:
        return None
    # A comment may hold anything: the end that is most like one counts, of several the last.
    end = -min(found)[1]
    *_, count, long, start, _ = _END.unpack(source.at(end, _END.size))
    return _directory(source, end, count, long, start)


def _directory(source: Source, end: int, count: int, long: int, start: int) -> Directory:
    if end >= _FINDER64.size:
        magic, _, where, _ = _FINDER64.unpack(source.at(end - _FINDER64.size, _FINDER64.size))
        if magic == _FINDER64_MAGIC:
            # `where` counts from the archive, which need not begin with the file.
            for guess in (where, end - _FINDER64.size - _END64.size):
                found = source.at(guess, _END64.size)
                if len(found) == _END64.size and found[:4] == b"PK\6\6":
                    *_, count, long, start = _END64.unpack(found)
                    end = guess
                    break
            else:
                raise damaged(source.name, "the end of its directory is not where it says", where)
    shift = end - long - start
    if shift < 0 or long > end:
        raise damaged(source.name, "its directory lies outside: it was cut short", end)
    return Directory(end - long, end, count, shift)


def entries(source: Source, directory: Directory) -> Iterator[tuple[int, Entry]]:
    """Every entry of the central directory, with where it begins."""
    at, held, base = directory.start, b"", directory.start
    for _ in range(directory.entries):
        inside = at - base
        if len(held) - inside < 1 << 18 and base + len(held) < directory.stop:
            base, inside = at, 0
            held = source.at(at, min(_WINDOW, directory.stop - at))
        entry = entry_in(held, inside, at, directory.shift, source.name)
        yield at, entry
        at = entry.ends
    if at != directory.stop:
        raise damaged(source.name, "its directory has another length than it says", at)


def entry_in(data: bytes, at: int, position: int, shift: int, shown: str) -> Entry:
    """The entry at `at` in these bytes, which is at `position` in the file."""
    if len(data) - at < _ENTRY.size:
        raise damaged(shown, "its directory is cut short", position)
    (
        magic, _, system, _, flags, method, time, date, crc, packed, size, name_size, extra_size, note_size, _, _,
        attributes, start,
    ) = _ENTRY.unpack_from(data, at)  # fmt: skip
    begin, stop = at + _ENTRY.size, at + _ENTRY.size + name_size + extra_size + note_size
    if magic != _ENTRY_MAGIC or stop > len(data):
        raise damaged(shown, "its directory is not one", position)
    name = data[begin : begin + name_size]
    extra = _extra(data[begin + name_size : begin + name_size + extra_size])
    if 1 in extra:
        wide = extra[1]
        values = [value for (value,) in struct.iter_unpack("<Q", wide[: len(wide) // 8 * 8])]
        size, packed, start = (values.pop(0) if one == _U32 and values else one for one in (size, packed, start))
    mtime_ns = _time(extra, time, date)
    uid, gid = _owner(extra)
    if 0x7075 in extra and len(extra[0x7075]) > 5:
        _, check = struct.unpack_from("<BI", extra[0x7075])
        name = extra[0x7075][5:] if check == zlib.crc32(name) else name
    if system in (_FAT, _NTFS) and b"\\" in name and b"/" not in name:
        name = name.replace(b"\\", b"/")  # some programs of Windows write their own sign
    mode = _mode(attributes, system, name)
    return Entry(name, flags, method, crc, packed, size, start + shift, mode, uid, gid, mtime_ns, position + stop - at)


def _extra(data: bytes) -> dict[int, bytes]:
    """Extra fields by number; the first of each counts."""
    out: dict[int, bytes] = {}
    at = 0
    while at + 4 <= len(data):
        number, size = struct.unpack_from("<HH", data, at)
        out.setdefault(number, data[at + 4 : at + 4 + size])
        at += 4 + size
    return out


def _time(extra: dict[int, bytes], time: int, date: int) -> int:
    """The finest that there is: NTFS's 100 ns, seconds of Unix, or two seconds of DOS, taken as UTC."""
    if len(ntfs := extra.get(0x000A, b"")) >= 32 and ntfs[4:8] == b"\1\0\x18\0":
        return (int.from_bytes(ntfs[8:16], "little") - _EPOCH_NTFS) * 100
    if len(unix := extra.get(0x5455, b"")) >= 5 and unix[0] & 1:
        return int.from_bytes(unix[1:5], "little", signed=True) * 1_000_000_000
    day, month, year = date & 31, date >> 5 & 15, 1980 + (date >> 9)
    if not 1 <= month <= 12:
        return 315532800 * 1_000_000_000  # 1980, the first that DOS knows
    return timegm((year, month, max(1, day), time >> 11, time >> 5 & 63, (time & 31) * 2)) * 1_000_000_000


def _owner(extra: dict[int, bytes]) -> tuple[int, int]:
    data = extra.get(0x7875, b"")
    if len(data) >= 3 and data[0] == 1:
        long = data[1]
        if len(data) >= 3 + long:
            uid, rest = data[2 : 2 + long], data[2 + long :]
            return int.from_bytes(uid, "little") & _U32, int.from_bytes(rest[1 : 1 + rest[0]], "little") & _U32
    return 0, 0


def _mode(attributes: int, system: int, name: bytes) -> int:
    mode = attributes >> 16
    folder = name.endswith(b"/") or (system != _UNIX and attributes & 0x10)
    if folder:
        return st.S_IFDIR | (mode & 0o7777 if st.S_ISDIR(mode) else 0o755)
    if st.S_IFMT(mode) in (st.S_IFREG, st.S_IFLNK, st.S_IFIFO):
        return mode
    return st.S_IFREG | (mode & 0o7777 or (0o444 if attributes & 1 else 0o644))


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
    data = source.at(entry.start, _LOCAL.size)
    if len(data) != _LOCAL.size or data[:4] != b"PK\3\4":
        raise damaged(source.name, f"there is no {names.show(entry.name)} where its directory says", entry.start)
    *_, name_size, extra_size = _LOCAL.unpack(data)
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
        if self.at == entry.size and not self._rest:
            if self._next():
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
