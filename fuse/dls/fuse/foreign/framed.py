"""Bytes that had to be unpacked in order, kept in frames: any of them is one frame away.

Frames of 256 KiB, each compressed by itself, lie before the index in its file; the index has a row for each.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from dls.fuse.codec import RAW, Packer, sum_of
from dls.fuse.foreign.archive import Archive, Context
from dls.fuse.image import LocalFile, Source
from dls.fuse.index import EXTENT, Index
from dls.fuse.indexing import Making
from dls.logistics.errors import Corrupt, Unavailable

FRAME: Final = 256 << 10
"""Bytes in a frame."""


class Frames:
    """Writes frames, in order."""

    def __init__(self, making: Making, context: Context, name: str) -> None:
        self._making, self._limit, self._name = making, context.limit, name
        self._pack, self._open = Packer(1), bytearray()
        self.size = 0
        """Bytes that were taken."""

    def add(self, data: bytes) -> None:
        """Take more."""
        self._open += data
        self.size += len(data)
        if len(self._open) >= FRAME:
            self._cut(len(self._open) // FRAME * FRAME)

    def finish(self) -> None:
        """The last frame, which is shorter."""
        self._cut(len(self._open))

    def _cut(self, size: int) -> None:
        making = self._making
        for at in range(0, size, FRAME):
            plain = bytes(self._open[at : at + FRAME])
            data = self._pack.one(plain)
            raw = len(data) >= len(plain)
            data = plain if raw else data
            making.blocks.add(EXTENT.pack(making.at, len(data) | (RAW if raw else 0), sum_of(data)))
            making.write(data)
        del self._open[:size]
        if making.at > self._limit:
            raise Unavailable(
                f"{self._name} takes more room, unpacked for reading, than the {self._limit:,} bytes allowed",
                code="cache-too-small", store=self._name, remedy="give more with --cache-size, or pack it as an image",
            )  # fmt: skip


class Framed(Archive):
    """An archive whose bytes, or those of its stream, are in frames."""

    def __init__(self, source: Source, index: Index, fd: int) -> None:
        super().__init__(source, index, fd)
        self._outside, self.source = source, LocalFile.over(fd, f"what was unpacked of {source.name}")

    def unpacked(self, start: int, stop: int) -> Iterable[bytes | memoryview]:
        """The bytes `start … stop-1` of what was unpacked; Corrupt where there are fewer."""
        block = self.block
        while start < stop:
            number, inside = divmod(start, block)
            data = self.kept(number, block)
            end = min(len(data), inside + stop - start)
            if end <= inside:
                raise self.damaged("it was cut short", start)
            yield memoryview(data)[inside:end]
            start += end - inside

    def stored(self, number: int, plain: int) -> bytes:
        """A frame; what is damaged is not kept."""
        try:
            return super().stored(number, plain)
        except Corrupt:
            self.forget()
            raise self.damaged("what was unpacked of it for reading; open it again, to make that anew") from None

    def close(self) -> None:
        """Let go of everything.  Idempotent."""
        self._outside.close()
        self._fd = -1  # closed with the source
        super().close()
