"""What the headers of an HTTP reply say of a file: its size, which bytes these are, which version, its checksums.

Pure; RFC 9110 (ranges, validators), RFC 9530 (Repr-Digest) and RFC 3230 (Digest).
"""

from __future__ import annotations

import re
from base64 import b64decode
from typing import Final, NamedTuple

from dls.logistics.stores.http_address import Pair
from dls.logistics.stores.http_wire import Head

_RANGE = re.compile(rb"bytes (\d{1,18})-(\d{1,18})/(?:(\d{1,18})|\*)\Z")
_NONE = re.compile(rb"bytes \*/(\d{1,18})\Z")
_STRONG = re.compile(rb'"[\x21\x23-\x7e\x80-\xff]{1,512}"\Z')
_DATE = re.compile(rb"[ -~]{1,64}\Z")
_STRUCTURED = re.compile(rb"([a-z0-9-]+)=:([A-Za-z0-9+/=]*):")
_PLAIN = re.compile(rb"([A-Za-z0-9-]+)=([A-Za-z0-9+/=]+)")

_BASE64: Final = {
    b"md5": ("md5", 16),
    b"sha": ("sha1", 20),
    b"sha-256": ("sha256", 32),
    b"sha-512": ("sha512", 64),
}
"""Checksums written in base 64: our name for each, and its bytes."""
WANTED: Final[tuple[Pair, ...]] = (
    (b"want-digest", b"adler32;q=0.5, md5;q=0.6, sha-256"),
    (b"want-repr-digest", b"sha-256=9, md5=5"),
)
"""Asks for checksums: storage services of science (dCache, XRootD) give one only then."""


class Range(NamedTuple):
    """The bytes `start … stop-1` of a file; `total` is its size, -1 where the server does not say."""

    start: int
    stop: int
    total: int


class Version(NamedTuple):
    """Which version of a file a reply is of."""

    etag: bytes
    """A strong one, with its quotes, or b''."""
    modified: bytes
    """Last-Modified as it was written, or b''."""


def content_range(value: bytes) -> Range | None:
    """What a Content-Range says; None where it says nothing that makes sense."""
    found = _RANGE.match(value)
    if not found:
        return None
    start, stop, total = int(found[1]), int(found[2]) + 1, int(found[3]) if found[3] else -1
    return Range(start, stop, total) if start < stop and (total < 0 or stop <= total) else None


def nothing_of(value: bytes) -> int:
    """The size that the Content-Range of a reply 416 says; -1 where it says none."""
    found = _NONE.match(value)
    return int(found[1]) if found else -1


def version(head: Head) -> Version:
    """The version of a reply's file.  A weak ETag says that two contents mean the same, not that they are the same."""
    etag, modified = head.header(b"etag"), head.header(b"last-modified")
    return Version(etag if _STRONG.match(etag) else b"", modified if _DATE.match(modified) else b"")


def stamp(which: Version, size: int, nobody: bytes) -> bytes:
    """Stands for a version: by its strong ETag, else by its time, else by `nobody`, which no other store object has."""
    if which.etag:
        return b"e%b\0%d" % (which.etag, size)
    return b"m%b\0%d" % (which.modified, size) if which.modified else b"n%b\0%d" % (nobody, size)


def conditions(stamped: bytes) -> tuple[Pair, ...]:
    """Headers that ask for the version of a stamp and no other."""
    kind, validator = stamped[:1], stamped[1:].rpartition(b"\0")[0]
    if kind == b"e":
        return ((b"if-match", validator),)
    return ((b"if-unmodified-since", validator),) if kind == b"m" else ()


def size_of(stamped: bytes) -> int:
    """The size in a stamp; -1 where it is none of ours."""
    said = stamped.rpartition(b"\0")[2]
    return int(said) if said.isdigit() and len(said) < 19 else -1


def encoded(head: Head) -> bytes:
    """The content coding of a body, where it is not the file's own bytes."""
    coding = head.header(b"content-encoding").lower()
    return b"" if coding == b"identity" else coding


def sums(head: Head) -> dict[str, str]:
    """The checksums of the whole file that a reply names, hexadecimal by our names."""
    found = [(name, value) for name, value in _PLAIN.findall(head.header(b"digest"))]
    found += _STRUCTURED.findall(head.header(b"repr-digest"))
    found.append((b"md5", head.header(b"content-md5")))
    out: dict[str, str] = {}
    for name, value in found:
        name = name.lower()
        if name == b"adler32" and re.fullmatch(rb"[0-9A-Fa-f]{1,8}", value):  # some drop zeros at its front
            out["adler32"] = value.decode().lower().rjust(8, "0")
        elif name in _BASE64 and (raw := _decoded(value, _BASE64[name][1])):
            out[_BASE64[name][0]] = raw.hex()
    return out


def _decoded(value: bytes, length: int) -> bytes:
    try:
        raw = b64decode(value, validate=True)
    except ValueError:
        return b""
    return raw if len(raw) == length else b""
