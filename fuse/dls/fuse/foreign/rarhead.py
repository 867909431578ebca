"""Headers of rar, as far as they say what libarchive does not look at: checksums, encryption, volumes, the end.

Formats: RARLAB's "RAR 5.0 archive format" note, and technote.txt for version 4.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Final, NamedTuple

from dls.fuse.foreign.archive import damaged, unreadable
from dls.fuse.image import Source
from dls.logistics.errors import Corrupt, Unsupported

MAGIC: Final = b"Rar!\x1a\x07"
_MAIN, _FILE, _SERVICE, _LOCK, _END = 1, 2, 3, 4, 5
_MAIN_4, _FILE_4, _END_4 = 0x73, 0x74, 0x7B
_MOST_HEADER: Final = 2 << 20


class Head(NamedTuple):
    """What the header of a member says."""

    name: bytes
    crc: int | None
    """CRC-32 of the content, None where it has none (other sums are libarchive's)."""


def heads(source: Source) -> Iterator[Head]:
    """The header of each member, in order; Corrupt where the archive has no end."""
    yield from _heads5(source) if source.at(6, 1) == b"\1" else _heads4(source)


def _cut(source: Source, at: int) -> Corrupt:
    return damaged(source.name, "it has no end: it was cut short", min(at, source.size))


def _locked(source: Source) -> Unsupported:
    return unreadable(source.name, "it is encrypted", "unpack it with unrar and its password")


def _volumes(source: Source) -> Unsupported:
    return unreadable(source.name, "it goes on in another volume", "unpack all volumes with unrar")


# ---------------------------------------------------------------------------------------------- version 5


def _heads5(source: Source) -> Iterator[Head]:
    at = 8
    while True:
        data, begin = _header5(source, at)
        kind, i = _vint(source, data, begin, at)
        flags, i = _vint(source, data, i, at)
        if flags & 1:
            _, i = _vint(source, data, i, at)
        body = 0
        if flags & 2:
            body, i = _vint(source, data, i, at)
        if kind == _END:
            if _vint(source, data, i, at)[0] & 1:
                raise _volumes(source)
            return
        if kind == _LOCK:
            raise _locked(source)
        if kind == _FILE:
            if flags & 0x18:
                raise _volumes(source)
            yield _file5(source, data, i, at)
        at += len(data) + body


def _header5(source: Source, at: int) -> tuple[bytes, int]:
    """A header, and where its fields begin."""
    head = source.at(at, 64)
    if len(head) < 7:
        raise _cut(source, at)
    size, begin = _vint(source, head, 4, at)
    if size > _MOST_HEADER:
        raise damaged(source.name, "a header is longer than any can be", at)
    data = source.at(at, begin + size)
    if len(data) < begin + size:
        raise _cut(source, at)
    if zlib.crc32(data[4:]) != struct.unpack_from("<I", data)[0]:
        raise damaged(source.name, "a header is not what was written", at)
    return data, begin


def _file5(source: Source, data: bytes, i: int, at: int) -> Head:
    flags, i = _vint(source, data, i, at)
    _, i = _vint(source, data, i, at)
    _, i = _vint(source, data, i, at)
    i += 4 if flags & 2 else 0
    crc = struct.unpack_from("<I", data, i)[0] if flags & 4 and i + 4 <= len(data) else None
    i += 4 if flags & 4 else 0
    _, i = _vint(source, data, i, at)
    _, i = _vint(source, data, i, at)
    long, i = _vint(source, data, i, at)
    return Head(data[i : i + long], crc)


def _vint(source: Source, data: bytes, i: int, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where the next begins."""
    out = 0
    for shift in range(0, 70, 7):
        if i >= len(data):
            break
        out |= (data[i] & 0x7F) << shift
        i += 1
        if not data[i - 1] & 0x80:
            return out, i
    raise damaged(source.name, "a header cannot be read", at)


# ---------------------------------------------------------------------------------------------- version 4


def _heads4(source: Source) -> Iterator[Head]:
    at = 7
    while True:
        head = source.at(at, 7)
        if len(head) < 7:
            raise _cut(source, at)
        _, kind, flags, size = struct.unpack("<HBHH", head)
        data = source.at(at, size)
        if size < 7 or len(data) < size:
            raise _cut(source, at) if size >= 7 else damaged(source.name, "a header cannot be read", at)
        body = struct.unpack_from("<I", data, 7)[0] if flags & 0x8000 and size >= 11 else 0
        if kind in (_MAIN_4, _FILE_4) and zlib.crc32(data[2:]) & 0xFFFF != struct.unpack_from("<H", data)[0]:
            raise damaged(source.name, "a header is not what was written", at)
        if kind == _END_4:
            if flags & 1:
                raise _volumes(source)
            return
        if kind == _MAIN_4 and flags & 0x80:
            raise _locked(source)
        if kind == _FILE_4:
            if size < 32:
                raise damaged(source.name, "a header cannot be read", at)
            if flags & 3:
                raise _volumes(source)
            crc, long = struct.unpack_from("<I", data, 16)[0], struct.unpack_from("<H", data, 26)[0]
            begin = 40 if flags & 0x100 else 32
            body |= struct.unpack_from("<I", data, 32)[0] << 32 if flags & 0x100 and size >= 36 else 0
            name = data[begin : begin + long].split(b"\0", 1)[0]
            if flags & 4:
                raise unreadable(source.name, "a member is encrypted", "unpack it with unrar and its password", name)
            yield Head(name, crc)
        at += size + body
