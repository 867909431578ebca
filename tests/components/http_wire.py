"""HTTP/1.1 framing for the proxy: where a head ends, how long its body is. Only heads are parsed."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass

PIECE = 256 * 1024
HEAD_LIMIT = 256 * 1024


class Closed(Exception):
    """The peer closed the connection; `clean` when it did so between two messages."""

    def __init__(self, *, clean: bool) -> None:
        super().__init__("closed")
        self.clean = clean


@dataclass(frozen=True)
class Head:
    """A request or response head: first line in three words, raw bytes, and the fields that frame the body."""

    raw: bytes
    words: tuple[str, str, str]
    length: int | None
    chunked: bool
    close: bool
    expects: bool

    @property
    def status(self) -> int:
        """Status of a response head."""
        return int(self.words[1])


def parse_head(raw: bytes) -> Head:
    """Read a head of which `raw` is every byte up to and with the empty line."""
    first, *lines = raw[:-4].split(b"\r\n")
    words = first.decode("latin-1").split(" ", 2)
    length, chunked, close, expects = None, False, False, False
    for line in lines:
        name, _, value = line.partition(b":")
        match name.lower():
            case b"content-length":
                length = int(value)
            case b"transfer-encoding":
                chunked = b"chunked" in value.lower()
            case b"connection":
                close = b"close" in value.lower()
            case b"expect":
                expects = b"100-continue" in value.lower()
    return Head(raw, (words[0], words[1], words[2] if len(words) > 2 else ""), length, chunked, close, expects)


class Reader:
    """One direction of a connection: heads, then body pieces of at most 256 KiB, from one reused buffer."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray(PIECE)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0

    async def head(self) -> Head:
        """Read one head; raise `Closed` at the end of the stream."""
        searched = 0
        while True:
            at = self._buffer.find(b"\r\n\r\n", self._start + searched, self._end)
            if at >= 0:
                raw = bytes(self._view[self._start : at + 4])
                self._start = at + 4
                return parse_head(raw)
            searched = max(0, self._end - self._start - 3)
            if self._end - self._start >= HEAD_LIMIT:
                raise ValueError("head longer than 256 KiB")
            await self._fill()

    @property
    def buffered(self) -> int:
        """Bytes read from the socket and not yet taken."""
        return self._end - self._start

    def take_buffered(self, most: int) -> memoryview:
        """Take what is already here, at most `most` bytes; valid until the next read."""
        size = min(most, self.buffered)
        piece = self._view[self._start : self._start + size]
        self._start += size
        return piece

    async def body(self, head: Head, *, until_close: bool) -> AsyncIterator[tuple[memoryview, int]]:
        """Give `(raw piece, bytes of payload in it)`; a piece is valid until the next one is asked for."""
        if head.chunked:
            async for piece in self._chunks():
                yield piece
        elif head.length is not None:
            async for view in self._exactly(head.length):
                yield view, len(view)
        elif until_close:
            while True:
                try:
                    view = await self._some(PIECE)
                except Closed:
                    return
                yield view, len(view)

    async def _chunks(self) -> AsyncIterator[tuple[memoryview, int]]:
        while True:
            line = await self._line()
            yield memoryview(line), 0
            size = int(line.split(b";")[0], 16)
            if size == 0:
                break
            async for view in self._exactly(size):
                yield view, len(view)
            yield memoryview(await self._line()), 0
        while True:
            line = await self._line()
            yield memoryview(line), 0
            if line == b"\r\n":
                return

    async def _line(self) -> bytes:
        while True:
            at = self._buffer.find(b"\r\n", self._start, self._end)
            if at >= 0:
                raw = bytes(self._view[self._start : at + 2])
                self._start = at + 2
                return raw
            await self._fill(clean=False)

    async def _exactly(self, size: int) -> AsyncIterator[memoryview]:
        while size:
            view = await self._some(size)
            size -= len(view)
            yield view

    async def _some(self, most: int) -> memoryview:
        if not self.buffered:
            await self._fill(clean=False)
        return self.take_buffered(most)

    async def _fill(self, *, clean: bool | None = None) -> None:
        """Read more behind what is there; the start of the buffer is reclaimed first."""
        if self._start == self._end:
            self._start = self._end = 0
        elif self._end == len(self._buffer):
            self._buffer[: self.buffered] = bytes(self._view[self._start : self._end])
            self._start, self._end = 0, self.buffered
            if self._end == len(self._buffer):
                raise ValueError("line longer than 256 KiB")
        got = await self._loop.sock_recv_into(self._sock, self._view[self._end :])
        if not got:
            raise Closed(clean=self.buffered == 0 if clean is None else clean)
        self._end += got
