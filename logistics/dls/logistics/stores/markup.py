"""Small answers in XML and HTML, read without a parser: the text of an element, entities resolved."""

from __future__ import annotations

import re

_ENTITY = re.compile(rb"&(?:#x([0-9A-Fa-f]+)|#([0-9]+)|(lt|gt|amp|quot|apos));")
_NAMED = {b"lt": b"<", b"gt": b">", b"amp": b"&", b"quot": b'"', b"apos": b"'"}


def tag(xml: bytes, name: bytes) -> bytes:
    """The text of the first element of this name; b'' where absent."""
    start = xml.find(b"<" + name + b">")
    if start < 0:
        return b""
    start += len(name) + 2
    return unescape(xml[start : xml.find(b"</" + name + b">", start)])


def unescape(text: bytes) -> bytes:
    """XML text with its entities resolved."""
    return _ENTITY.sub(_entity, text) if b"&" in text else text


def _entity(found: re.Match[bytes]) -> bytes:
    if found[3]:
        return _NAMED[found[3]]
    number = int(found[1], 16) if found[1] else int(found[2])
    return chr(number).encode() if number < 0x110000 and not 0xD800 <= number < 0xE000 else b"?"
