"""Compressed frames and their sums: the only home of the `zstandard` and `xxhash` libraries.

A *frame* is one zstd frame with its content size inside, decoded alone.  A *sum* is the low 32 bits of XXH3-64 over
the stored (compressed) bytes: it finds damage on a disk or on a wire, before the decoder sees it; it is no identity.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import xxhash
import zstandard

from dls.logistics.errors import Corrupt

LEVEL: Final = 3
_WINDOW: Final = 8 << 20
"""Memory that a frame may ask for to be decoded, where it does not say how much it holds."""
Bytes = bytes | bytearray | memoryview


def sum_of(data: Bytes) -> int:
    """The low 32 bits of XXH3-64 (https://github.com/Cyan4973/xxHash, doc/xxhash_spec.md)."""
    return xxhash.xxh3_64_intdigest(data) & 0xFFFFFFFF


class Packer:
    """Compresses many buffers a call; not for several threads at once."""

    def __init__(self, level: int = LEVEL) -> None:
        self._zstd = zstandard.ZstdCompressor(level=level, write_content_size=True, write_checksum=False)

    def one(self, data: Bytes) -> bytes:
        """The frame of one buffer."""
        return self._zstd.compress(data)

    def many(self, parts: Sequence[Bytes]) -> list[bytes]:
        """The frames of several buffers, in order."""
        pack = self._zstd.compress
        return [pack(part) for part in parts]


class Unpacker:
    """Decodes frames; not for several threads at once."""

    def __init__(self) -> None:
        self._zstd = zstandard.ZstdDecompressor(max_window_size=_WINDOW)

    def one(self, data: Bytes, most: int) -> bytes:
        """The content of a frame that may hold at most `most` bytes; Corrupt otherwise."""
        try:
            params = zstandard.get_frame_parameters(data)
            if params.content_size == zstandard.CONTENTSIZE_UNKNOWN:
                return self._unsized(data, most)
            if params.content_size > most:
                raise Corrupt(
                    f"a frame says {params.content_size} bytes, at most {most} belong there", code="bad-image"
                )
            return self._zstd.decompress(data, max_output_size=most)
        except zstandard.ZstdError as exc:
            raise Corrupt(f"a frame cannot be decoded: {exc}", code="bad-image") from exc

    def _unsized(self, data: Bytes, most: int) -> bytes:
        # Other writers need not say the size.
        out = self._zstd.stream_reader(data).read(most + 1)
        if len(out) > most:
            raise Corrupt(f"a frame holds more than {most} bytes", code="bad-image")
        return out
