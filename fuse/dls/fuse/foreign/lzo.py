"""LZO1X as SquashFS has it: a decoder.  The stream is described in the kernel's Documentation/staging/lzo.rst.

In Python, so slow: hardly anybody writes new images with it, and the library that is quicker has a licence that we
cannot pass on.
"""

from __future__ import annotations

from dls.logistics.errors import Corrupt


class _Bad(Exception):
    """What is read is no LZO1X."""


def unpacked(data: bytes, most: int) -> bytes:
    """The content, at most `most` bytes; Corrupt otherwise."""
    try:
        return _decoded(data, most)
    except (IndexError, _Bad) as exc:
        raise Corrupt("a block cannot be decoded", code="bad-archive") from exc


def _decoded(data: bytes, most: int) -> bytes:  # noqa: C901 - one branch for each form of an instruction
    out, at, last = bytearray(), 0, 0
    if data[0] > 17:  # the stream begins with literals
        count, at = data[0] - 17, 1
        out += data[at : at + count]
        at += count
        last = min(4, count)
    while len(out) <= most:
        code = data[at]
        at += 1
        if code < 16 and last == 0:
            if code == 0:
                code, at = _long(data, at, 15)
            count = code + 3
            if at + count > len(data):
                raise _Bad
            out += data[at : at + count]
            at += count
            last = 4
            continue
        if code < 16:
            back = (code >> 2) + (data[at] << 2) + (0x801 if last == 4 else 1)
            count, trail, at = 3 if last == 4 else 2, code & 3, at + 1
        elif code >= 64:
            count = (code >> 5) + 1
            back, trail, at = (code >> 2 & 7) + (data[at] << 3) + 1, code & 3, at + 1
        else:
            bits = 31 if code >= 32 else 7
            count = code & bits
            if count == 0:
                count, at = _long(data, at, bits)
            count += 2
            low = data[at] | data[at + 1] << 8
            back, trail, at = (low >> 2) + 1, low & 3, at + 2
            if code < 32:
                back += ((code & 8) << 11) + 0x3FFF
                if back == 0x4000:
                    break  # the end
        _repeat(out, back, count)
        if at + trail > len(data):
            raise _Bad
        out += data[at : at + trail]
        at, last = at + trail, trail
    if len(out) > most or at != len(data):
        raise _Bad
    return bytes(out)


def _long(data: bytes, at: int, first: int) -> tuple[int, int]:
    """A length that zeros prolong: (length, where the stream goes on)."""
    start = at
    while data[at] == 0:
        at += 1
    return (at - start) * 255 + first + data[at], at + 1


def _repeat(out: bytearray, back: int, count: int) -> None:
    """Append `count` bytes of what was `back` bytes ago; they may overlap."""
    start = len(out) - back
    if start < 0:
        raise _Bad
    if back >= count:
        out += out[start : start + count]
    else:
        part = bytes(out[start:])
        out += (part * (count // back + 1))[:count]
