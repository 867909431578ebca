"""The central directory of zip files: PKWARE's APPNOTE.TXT 6.3.10; Info-ZIP's extra fields (proginfo/extrafld.txt).

It is read in order and never held; an entry is found again by where it begins.
"""

from __future__ import annotations

import stat as st
import struct
import zlib
from calendar import timegm
from collections.abc import Iterator
from typing import Final, NamedTuple

from dls.fuse.foreign.archive import damaged
from dls.fuse.image import Source

_ENTRY: Final = struct.Struct("<IBBHHHHHIIIHHHHHII")
_END: Final = struct.Struct("<IHHHHIIH")
_END64: Final = struct.Struct("<IQHHIIQQQQ")
_FINDER64: Final = struct.Struct("<IIQI")
_ENTRY_MAGIC, _END_MAGIC, _END64_MAGIC, _FINDER64_MAGIC = 0x02014B50, 0x06054B50, 0x06064B50, 0x07064B50
_U32: Final = 0xFFFFFFFF
_WINDOW: Final = 1 << 20
_UTF8: Final = 0x800
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
    said: bytes
    """The name as it is stored, here and before the member."""


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
    said = name = data[begin : begin + name_size]
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
    ends = position + stop - at
    return Entry(name, flags, method, crc, packed, size, start + shift, mode, uid, gid, mtime_ns, ends, said)


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
