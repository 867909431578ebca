"""Names of entries: bytes, '/' between parts; what is legal, how they are shown and read back.

Names are compared as bytes, never normalised.  Any byte but NUL is legal inside a part: backslash, newline and
sequences that are not UTF-8 too.  For people and JSON a name is UTF-8 text in which every byte that is not
printable UTF-8 becomes `%XX`; a literal '%' that two hexadecimal digits follow becomes `%25`, so `read(show(n)) == n`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from dls.logistics.errors import Invalid, Unsupported
from dls.logistics.frozen import frozen

HIDDEN = b".dls-"
"""Parts that begin so are ours: staging, trash, kept files.  Listings leave them out, nobody else may use them."""

_ESCAPED = re.compile(rb"%([0-9A-Fa-f]{2})")
_AMBIGUOUS = re.compile(rb"%(?=[0-9A-Fa-f]{2})")
_BAD_PART = re.compile(rb"(?:\A|/)\.{0,2}(?:/|\Z)")
_PLAIN = re.compile(rb"[ !-$&-~]*\Z")


def check(key: bytes) -> bytes:
    """The key itself, if legal.  Invalid: empty, absolute, `.`, `..`, `//`, trailing `/`, NUL, or a part of ours."""
    if not isinstance(key, bytes):
        raise TypeError(f"a key is bytes, not {type(key).__name__}")
    if not key or _BAD_PART.search(key) or b"\0" in key:
        raise Invalid(f"illegal name: {show(key) or '(empty)'}", code="bad-name", key=show(key), remedy=_LEGAL)
    if HIDDEN in key and is_hidden(key):
        raise Invalid(f"names that begin with .dls- are reserved: {show(key)}", code="bad-name", key=show(key))
    return key


_SUSPECT = (b"\0/", b"\0.", b"\0\0", b"//", b"/.", b"/\0", HIDDEN)
"""Whatever is illegal holds one of these, once it stands between two NULs."""


def check_all(keys: Sequence[bytes]) -> None:
    """As `check` for each of many keys, at a fifth of the cost."""
    joined = b"\0%b\0" % b"\0".join(keys)
    if joined.count(b"\0") != len(keys) + 1 or any(map(joined.__contains__, _SUSPECT)):
        for key in keys:
            check(key)


_LEGAL = "use a relative name without empty parts, '.', '..' or NUL bytes"


def is_hidden(key: bytes) -> bool:
    """Whether any part of the key is one of ours."""
    return key.startswith(HIDDEN) or b"/" + HIDDEN in key


def show(key: bytes) -> str:
    """The key as text, reversible by `read`; never raises, never holds a control character."""
    if _PLAIN.match(key):
        return key.decode("ascii")
    key = _AMBIGUOUS.sub(b"%25", key)
    out = []
    for char in key.decode("utf-8", "surrogateescape"):
        if char.isprintable():
            out.append(char)
        else:
            out.extend(f"%{byte:02X}" for byte in char.encode("utf-8", "surrogateescape"))
    return "".join(out)


def read(text: str) -> bytes:
    """The key that `show` printed so."""
    return _ESCAPED.sub(lambda m: bytes((int(m[1], 16),)), text.encode("utf-8", "surrogateescape"))


@frozen
class Names:
    """Which names a store can hold.  Zero means no limit."""

    part_bytes: int = 0
    """Longest part, bytes (255 on Linux file systems)."""
    key_bytes: int = 0
    """Longest whole key, bytes (1,024 on S3)."""
    utf8: bool = False
    """Only valid UTF-8."""
    forbidden: bytes = b""
    """Single bytes that no name may hold here."""
    dots: bool = True
    """Whether parts may end in a dot."""

    def check(self, key: bytes, where: str, room: int = 0) -> bytes:
        """The key, or Unsupported with the reason; `room` bytes are taken by the prefix below which it will lie."""
        why = self.refuses(key, room)
        if why:
            raise Unsupported(
                f"{where} cannot hold the name {show(key)}: {why}",
                code="name-not-held",
                key=show(key),
                store=where,
                remedy="rename it at the source, pack the tree into one image, or choose another storage",
            )
        return key

    def refuses(self, key: bytes, room: int = 0) -> str:
        """Why a legal key cannot be held here, or ''."""
        if self.key_bytes and len(key) + room > self.key_bytes:
            return f"{len(key) + room} bytes, the longest here is {self.key_bytes}"
        if self.part_bytes and len(key) > self.part_bytes:
            longest = max(map(len, key.split(b"/")))
            if longest > self.part_bytes:
                return f"a part of {longest} bytes, the longest here is {self.part_bytes}"
        if self.utf8 and not key.isascii():
            try:
                key.decode("utf-8")
            except UnicodeDecodeError:
                return "not valid UTF-8"
        if self.forbidden and (found := set(key) & set(self.forbidden)):
            return f"it holds the byte 0x{min(found):02x}"
        if not self.dots and (key.endswith(b".") or b"./" in key):
            return "a part ends in a dot"
        return ""


def parents(key: bytes) -> Iterator[bytes]:
    """The folders above a key, nearest first: a/b/c gives a/b, then a."""
    cut = key.rfind(b"/")
    while cut > 0:
        yield key[:cut]
        cut = key.rfind(b"/", 0, cut)
