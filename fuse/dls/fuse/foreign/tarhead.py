"""Headers of tar: v7, ustar, GNU, star, pax; written from POSIX (pax, "ustar Interchange Format") and GNU tar's manual.

    for head in Headers(at, name, size).all(): …

`at(offset, size)` gives bytes of the unpacked archive and is asked for rising offsets only.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import stat as st
import struct
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

from dls.fuse.foreign.archive import damaged, unreadable
from dls.logistics import names
from dls.logistics.errors import Corrupt

BLOCK: Final = 512
_ZEROS: Final = bytes(BLOCK)
_MOST_EXTENDED: Final = 16 << 20
"""Bytes of one extended header: what says more is damaged."""
_MOST_EMPTY: Final = 64 << 10
_MOST_PIECES: Final = 1 << 20
_SIGNED: Final = struct.Struct("512b")
_DECIMAL: Final = re.compile(rb"(-?)(\d{1,19})(?:\.(\d*))?\Z")
_KINDS: Final = {
    b"2": st.S_IFLNK,
    b"3": st.S_IFCHR,
    b"4": st.S_IFBLK,
    b"5": st.S_IFDIR,
    b"D": st.S_IFDIR,
    b"6": st.S_IFIFO,
}
_BODILESS: Final = (b"1", b"2", b"3", b"4", b"5", b"6")
Piece = tuple[int, int, int]
"""A stretch of a sparse file: where it begins in the file, its bytes, where they lie in the archive."""


class Head(NamedTuple):
    """A member, as its headers tell of it."""

    name: bytes
    mode: int
    """With the type; a hard link is a file with `link`."""
    uid: int
    gid: int
    mtime_ns: int
    size: int
    """Bytes of the file."""
    device: int
    link: bytes
    """Where a link leads."""
    hard: bool
    xattrs: tuple[tuple[bytes, bytes], ...]
    start: int
    """Where the first of its headers begins."""
    data: int
    """Where its bytes begin."""
    stored: int
    """How many there are in the archive."""
    pieces: tuple[Piece, ...] | None
    """Of a sparse file."""
    ends: int
    """Where the next member begins."""


class Headers:
    """Reads the headers of one archive."""

    def __init__(self, at: Callable[[int, int], bytes], name: str) -> None:
        self._at, self._name = at, name
        self._global: dict[bytes, bytes] = {}
        self.ended = 0
        """Where the archive says that it ends."""

    def all(self, start: int = 0) -> Iterator[Head]:
        """Every member from `start` on; Corrupt where the archive stops before its end."""
        at = start
        while (head := self.one(at)) is not None:
            yield head
            at = head.ends

    def one(self, start: int) -> Head | None:
        """The member whose first header is at `start`; None at the end."""
        at, own, repeated = start, dict[bytes, bytes](), list[bytes]()
        long_name = long_link = None
        while True:
            block = self._whole(at, BLOCK, "it ends without an end: it was cut short")
            if block == _ZEROS:
                self.ended = at
                return None
            if not _is_header(block):
                raise self._damaged("there is no header where one belongs", at)
            kind, at = block[156:157], at + BLOCK
            if kind not in (b"L", b"K", b"x", b"X", b"g", b"V", b"N", b"A"):
                return self._member(block, start, at, {**self._global, **own}, repeated, long_name, long_link)
            size = self._number(block[124:136], at)
            if size > _MOST_EXTENDED:
                raise self._damaged("an extended header is longer than any can be", at)
            body = self._whole(at, size, "an extended header is cut short")
            at += size + -size % BLOCK
            if kind == b"L":
                long_name = body.split(b"\0", 1)[0]
            elif kind == b"K":
                long_link = body.split(b"\0", 1)[0]
            elif kind == b"g":
                self._global = _laid(self._global, self._records(body, at))
            elif kind in (b"x", b"X"):
                found = self._records(body, at)
                own = _laid(own, found)
                repeated = [value for key, value in found if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes")]

    def _member(
        self, block: bytes, start: int, at: int, pax: dict[bytes, bytes], repeated: list[bytes],
        long_name: bytes | None, long_link: bytes | None,
    ) -> Head:  # fmt: skip
        number = self._number
        kind = block[156:157]
        if kind == b"M":
            raise unreadable(self._name, "it is a part of an archive of several volumes", "unpack it with GNU tar")
        name = pax.get(b"GNU.sparse.name") or pax.get(b"path") or long_name or _name(block)
        link = pax.get(b"linkpath") or long_link or block[157:257].split(b"\0", 1)[0]
        stored = self._decimal(pax[b"size"], at) if b"size" in pax else number(block[124:136], at)
        mtime = self._time(pax[b"mtime"], at) if b"mtime" in pax else number(block[136:148], at) * 1_000_000_000
        uid = self._decimal(pax[b"uid"], at) if b"uid" in pax else number(block[108:116], at)
        gid = self._decimal(pax[b"gid"], at) if b"gid" in pax else number(block[116:124], at)
        mode = number(block[100:108], at) & 0o7777
        device = 0
        if stored < 0 or stored >= 1 << 62:
            raise self._damaged(f"{names.show(name)[:200]} has an impossible size", at)
        if kind in (b"3", b"4"):
            device = os.makedev(number(block[329:337], at) & 0xFFF, number(block[337:345], at) & 0xFFFFF)
        if kind in _BODILESS and stored and not (kind == b"1" and self._has_body(at)):
            stored = 0
        folder = kind in (b"5", b"D") or (kind in (b"0", b"\0") and name.endswith(b"/"))
        mode |= st.S_IFDIR if folder else _KINDS.get(kind, st.S_IFREG)
        pieces, data, size = None, at, stored
        if kind == b"S" or b"GNU.sparse.major" in pax or b"GNU.sparse.size" in pax:
            pieces, data, size = self._sparse(block, at, pax, repeated)
        body = stored + (data - at if kind == b"S" else 0)
        return Head(
            name, mode, uid, gid, mtime, size if st.S_ISREG(mode) else 0, device, link, kind == b"1", _xattrs(pax),
            start, data, stored, pieces, at + body + -body % BLOCK,
        )  # fmt: skip

    def _has_body(self, at: int) -> bool:
        """Whether bytes follow a hard link that tells of some: pax may store them, older writers only say how many."""
        block = self._at(at, BLOCK)
        return len(block) == BLOCK and block != _ZEROS and not _is_header(block)

    # -------------------------------------------------------------------------------------------- sparse

    def _sparse(
        self, block: bytes, at: int, pax: dict[bytes, bytes], repeated: list[bytes]
    ) -> tuple[tuple[Piece, ...], int, int]:
        """(Pieces, where the bytes begin, bytes of the file)."""
        data = at
        if block[156:157] == b"S":
            size, numbers, data = self._old_map(block, at)
        elif pax.get(b"GNU.sparse.major", b"0") != b"0":
            size = self._decimal(pax.get(b"GNU.sparse.realsize", b""), at)
            numbers, data = self._map_in_front(at)
        else:
            size = self._decimal(pax.get(b"GNU.sparse.size", b""), at)
            listed = pax.get(b"GNU.sparse.map")
            texts = listed.split(b",") if listed else repeated
            numbers = [self._decimal(text, at) for text in texts if text]
        pieces, where, last = [], data, 0
        for start, count in zip(numbers[::2], numbers[1::2], strict=False):
            if start < last or count < 0 or start + count > size:
                raise self._damaged("the map of a sparse file is impossible", at)
            if count:
                pieces.append((start, count, where))
            where, last = where + count, start + count
        return tuple(pieces), data, size

    def _old_map(self, block: bytes, at: int) -> tuple[int, list[int], int]:
        """GNU's own: four pieces in the header, 21 in each block behind it."""
        size, numbers = self._number(block[483:495], at), list[int]()
        part, more = block[386:482], block[482]
        while True:
            for i in range(0, len(part), 24):
                if part[i : i + 12].strip(b"\0 "):
                    numbers += (self._number(part[i : i + 12], at), self._number(part[i + 12 : i + 24], at))
            if not more or len(numbers) > _MOST_PIECES:
                return size, numbers, at
            block = self._whole(at, BLOCK, "the map of a sparse file is cut short")
            part, more, at = block[:504], block[504], at + BLOCK

    def _map_in_front(self, at: int) -> tuple[list[int], int]:
        """Version 1.0: decimal lines before the bytes."""
        text, lines, wanted = b"", list[bytes](), 1
        while len(lines) <= wanted:
            text += self._whole(at, BLOCK, "the map of a sparse file is cut short")
            at += BLOCK
            *whole, text = text.split(b"\n")
            lines += whole
            if lines:
                wanted = 2 * self._decimal(lines[0], at)
            if not 0 <= wanted <= 2 * _MOST_PIECES or (len(text) > 64 and len(lines) <= wanted):
                raise self._damaged("the map of a sparse file is impossible", at)
        return [self._decimal(line, at) for line in lines[1 : wanted + 1]], at

    # ----------------------------------------------------------------------------------------- small parts

    def _whole(self, at: int, size: int, why: str) -> bytes:
        found = self._at(at, size)
        if len(found) != size:
            raise self._damaged(why, at + len(found))
        return found

    def _number(self, text: bytes, at: int) -> int:
        if text[0] & 0x80:  # binary, as GNU and star write what eight octal digits cannot hold
            found = int.from_bytes(text, "big")
            return found - (1 << 8 * len(text)) if text[0] == 0xFF else found & ~(0x80 << 8 * (len(text) - 1))
        try:
            return int(text.split(b"\0", 1)[0].strip() or b"0", 8)
        except ValueError:
            raise self._damaged("a number in a header cannot be read", at) from None

    def _decimal(self, text: bytes, at: int) -> int:
        found = _DECIMAL.match(text.strip())
        if found is None or found[3] is not None:
            raise self._damaged("a number in an extended header cannot be read", at)
        return int(found[1] + found[2])

    def _time(self, text: bytes, at: int) -> int:
        found = _DECIMAL.match(text.strip())
        if found is None:
            raise self._damaged("a time in an extended header cannot be read", at)
        total = int(found[2]) * 1_000_000_000 + int(((found[3] or b"") + b"000000000")[:9])
        return -total if found[1] else total

    def _records(self, body: bytes, at: int) -> list[tuple[bytes, bytes]]:
        """`LENGTH KEY=VALUE\\n`, one after the other."""
        out, inside = list[tuple[bytes, bytes]](), 0
        while inside < len(body) and body[inside]:
            space = body.find(b" ", inside, inside + 20)
            digits = body[inside:space] if space > 0 else b""
            stop = inside + int(digits) if digits.isdigit() else 0
            key, equals, value = body[space + 1 : stop - 1].partition(b"=")
            if not space < stop <= len(body) or not equals or body[stop - 1] != 10:
                raise self._damaged("an extended header cannot be read", at)
            out.append((key, value))
            inside = stop
        return out

    def _damaged(self, why: str, at: int) -> Corrupt:
        return damaged(self._name, why, at)


def _is_header(block: bytes) -> bool:
    """Whether the sum in a block is its own; some writers added signed bytes."""
    try:
        said = int(block[148:156].split(b"\0", 1)[0].strip() or b"-1", 8)
    except ValueError:
        return False
    rest = 256 - sum(block[148:156])
    if sum(block) + rest == said:
        return True
    signed = _SIGNED.unpack(block)
    return bool(sum(signed) - sum(signed[148:156]) + 256 == said)


def is_tar(begin: bytes) -> bool:
    """Whether bytes are the beginning of a tar."""
    return len(begin) >= BLOCK and _is_header(begin[:BLOCK])


def is_empty_tar(data: bytes) -> bool:
    """Whether the bytes of a whole file are a tar without members: zeros, and no more than a record or so."""
    return 2 * BLOCK <= len(data) <= _MOST_EMPTY and not len(data) % BLOCK and not any(data)


def _name(block: bytes) -> bytes:
    name = block[:100].split(b"\0", 1)[0]
    if block[257:263] == b"ustar\0":
        # star keeps two times behind a shorter prefix.
        prefix = block[345:476] if block[508:512] == b"tar\0" else block[345:500]
        if above := prefix.split(b"\0", 1)[0]:
            return above + b"/" + name
    return name


def _laid(below: dict[bytes, bytes], above: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Records over others: an empty value takes one away."""
    return {key: value for key, value in {**below, **dict(above)}.items() if value or b".xattr." in key}


def _xattrs(pax: dict[bytes, bytes]) -> tuple[tuple[bytes, bytes], ...]:
    found: dict[bytes, bytes] = {}
    for key, value in pax.items():
        if key.startswith(b"LIBARCHIVE.xattr."):
            name = unquote_to_bytes(key[17:])
            try:
                found.setdefault(name, base64.b64decode(value + b"=" * (-len(value) % 4)))
            except binascii.Error:
                continue  # star's form of the same attribute stands beside it
    for key, value in pax.items():
        if key.startswith(b"SCHILY.xattr."):
            found[key[13:]] = value
        elif key == b"RHT.security.selinux":
            found.setdefault(b"security.selinux", value)
    return tuple(sorted(found.items()))
