"""Metadata blocks of SquashFS, and its six compressors: the only home of the `lz4` library."""

from __future__ import annotations

import lzma
import struct
import zlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

from dls.fuse.codec import Unpacker
from dls.fuse.foreign import lzo
from dls.fuse.foreign.archive import damaged, unreadable
from dls.fuse.image import Source
from dls.logistics.errors import Corrupt, Unsupported

META: Final = 8192
_KEPT: Final = 256
Decode = Callable[[bytes, int], bytes]
"""The content of a compressed block, at most so many bytes; Corrupt otherwise."""


def decompressor(number: int, name: str) -> Decode:
    """What decodes the blocks of an image whose superblock names this compressor."""
    decoders: dict[int, Decode] = {1: _zlib, 2: _lzma, 3: lzo.unpacked, 4: _xz, 6: _zstd}
    if number == 5:
        return _lz4(name)
    if number not in decoders:
        raise unreadable(name, f"it has an unknown compressor ({number})", "make it anew with mksquashfs -comp zstd")
    return decoders[number]


def _bad(exc: Exception) -> Corrupt:
    return Corrupt(f"a block cannot be decoded: {exc}", code="bad-archive")


def _zlib(data: bytes, most: int) -> bytes:
    try:
        one = zlib.decompressobj()
        out = one.decompress(data, most + 1)
    except zlib.error as exc:
        raise _bad(exc) from exc
    if not one.eof or len(out) > most:
        raise Corrupt("a block is cut short, or longer than any can be", code="bad-archive")
    return out


def _lzma(data: bytes, most: int) -> bytes:
    return _lzma_as(data, most, lzma.FORMAT_ALONE)


def _xz(data: bytes, most: int) -> bytes:
    return _lzma_as(data, most, lzma.FORMAT_XZ)


def _lzma_as(data: bytes, most: int, form: int) -> bytes:
    try:
        one = lzma.LZMADecompressor(form, memlimit=64 << 20)
        out = one.decompress(data, most + 1)
    except (lzma.LZMAError, EOFError) as exc:
        raise _bad(exc) from exc
    if len(out) > most or (not one.eof and form == lzma.FORMAT_XZ):
        raise Corrupt("a block is cut short, or longer than any can be", code="bad-archive")
    return out


def _zstd(data: bytes, most: int) -> bytes:
    return Unpacker().one(data, most)


def _lz4(name: str) -> Decode:
    try:
        from lz4 import block
    except ImportError as exc:
        raise Unsupported(
            f"{name} is compressed by lz4, and the library for it is not installed", code="not-installed",
            remedy="pip install 'dls[archives]'",
        ) from exc  # fmt: skip

    def decode(data: bytes, most: int) -> bytes:
        try:
            return bytes(block.decompress(data, uncompressed_size=most))
        except block.LZ4BlockError as exc:
            raise _bad(exc) from exc

    return decode


class Metadata:
    """Metadata blocks of an image, by where they begin."""

    def __init__(self, source: Source, decode: Decode, stop: int) -> None:
        self._source, self._decode, self._stop = source, decode, stop
        self._held: OrderedDict[int, tuple[bytes, int]] = OrderedDict()

    def block(self, start: int) -> tuple[bytes, int]:
        """(Content, where the next one begins)."""
        found = self._held.get(start)
        if found is None:
            found = self._held[start] = self._load(start)
            while len(self._held) > _KEPT:
                self._held.popitem(last=False)
        return found

    def _load(self, start: int) -> tuple[bytes, int]:
        if start + 2 > self._stop:
            raise damaged(self._source.name, "a table lies outside", start)
        data = self._source.at(start, 2 + META)
        (head,) = struct.unpack_from("<H", data)
        size = head & 0x7FFF
        if not 0 < size <= META or 2 + size > len(data):
            raise damaged(self._source.name, "a table is damaged", start)
        body = data[2 : 2 + size]
        if not head & 0x8000:
            try:
                body = self._decode(body, META)
            except Corrupt as exc:
                raise damaged(self._source.name, exc.message, start) from exc
        return body, start + 2 + size

    def reader(self, start: int, offset: int) -> Reader:
        """Reads from an offset in the block that begins at `start`, on into the following ones."""
        return Reader(self, start, offset)


class Reader:
    """A place in a table of metadata."""

    def __init__(self, metadata: Metadata, start: int, offset: int) -> None:
        self._metadata, self._start, self._offset = metadata, start, offset

    def read(self, size: int) -> bytes:
        """The next bytes."""
        data, following = self._metadata.block(self._start)
        stop = self._offset + size
        if stop <= len(data):
            out = data[self._offset : stop]
            self._offset = stop
            return out
        parts = [data[self._offset :]]
        missing = size - len(parts[0])
        while missing > 0:
            self._start, self._offset = following, 0
            data, following = self._metadata.block(self._start)
            parts.append(data[:missing])
            self._offset = len(parts[-1])
            missing -= self._offset
        return b"".join(parts)

    def unpack(self, form: struct.Struct) -> tuple[Any, ...]:
        """The next fields."""
        return form.unpack(self.read(form.size))

    def take(self, form: str) -> tuple[Any, ...]:
        """The next fields."""
        return struct.unpack(form, self.read(struct.calcsize(form)))

    def here(self) -> tuple[int, int]:
        """Where this is."""
        return self._start, self._offset
