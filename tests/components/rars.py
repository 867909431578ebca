"""Rar archives written byte by byte, stored only: no free program writes any.

Formats: RARLAB's "RAR 5.0 archive format" note, and technote.txt for version 4.
"""

from __future__ import annotations

import stat
import struct
import zlib
from typing import NamedTuple

SIGNATURE_5 = b"Rar!\x1a\x07\x01\x00"
SIGNATURE_4 = b"Rar!\x1a\x07\x00"


class Member(NamedTuple):
    """What to write."""

    name: str
    body: bytes = b""
    mode: int = 0o100644
    mtime: int = 1_600_000_000
    link: str = ""


def rar5(members: list[Member]) -> bytes:
    """Version 5."""
    out = SIGNATURE_5 + _header5(1, 0, b"\0")
    for one in members:
        out += _file5(one)
    return out + _header5(5, 4, b"\0")


def _file5(one: Member) -> bytes:
    folder, name = stat.S_ISDIR(one.mode), one.name.encode()
    body = b"" if one.link else one.body
    flags = 0x02 | (0x01 if folder else 0x04)
    fields = _vint(flags) + _vint(len(body)) + _vint(one.mode) + struct.pack("<I", one.mtime)
    if not folder:
        fields += struct.pack("<I", zlib.crc32(body))
    fields += _vint(0) + _vint(1) + _vint(len(name)) + name
    extra = b""
    if one.link:
        target = one.link.encode()
        kind = 1 if stat.S_ISLNK(one.mode) else 4
        record = _vint(5) + _vint(kind) + _vint(0) + _vint(len(target)) + target
        extra = _vint(len(record)) + record
    sizes = (_vint(len(extra)) if extra else b"") + _vint(len(body))
    return _header5(2, 0x02 | (0x01 if extra else 0), sizes + fields + extra) + body


def _header5(kind: int, flags: int, rest: bytes) -> bytes:
    body = _vint(kind) + _vint(flags) + rest
    body = _vint(len(body)) + body
    return struct.pack("<I", zlib.crc32(body)) + body


def _vint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def rar4(members: list[Member]) -> bytes:
    """Version 4."""
    out = SIGNATURE_4 + _header4(0x73, 0, bytes(6))
    for one in members:
        folder, name = stat.S_ISDIR(one.mode), one.name.encode()
        body = one.link.encode() if one.link else one.body
        date = 41 << 9 | 9 << 5 | 13  # 2021-09-13
        fields = struct.pack(
            "<IIBIIBBHI",
            len(body),
            len(body),
            3,
            zlib.crc32(body),
            date << 16 | 12 << 11,
            20,
            0x30,
            len(name),
            one.mode,
        )
        out += _header4(0x74, 0x8000 | (0xE0 if folder else 0), fields + name) + body
    return out + _header4(0x7B, 0x4000, b"")


def _header4(kind: int, flags: int, rest: bytes) -> bytes:
    body = struct.pack("<BHH", kind, flags, 7 + len(rest)) + rest
    return struct.pack("<H", zlib.crc32(body) & 0xFFFF) + body
