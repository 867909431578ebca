"""HTTP/1.1 over one socket, as much of it as our stores need: keep-alive, pipelining, three ways of framing a body.

A connection is used in one of two ways: by one thread that waits (`send`, `reply`, `stream`), or by a loop that polls
many (`receive`, `take`, `flush` after `wait(False)`).  Waiting is bounded by the kernel (SO_RCVTIMEO), so that a body
of a mebibyte is one system call without the interpreter's lock and without a copy.  HTTP proxies are not supported.
"""

from __future__ import annotations

import re
import select
import socket
import time
from collections import deque
from collections.abc import Iterator
from typing import Any, Final

from dls.logistics.stores.http_address import Address, connect

CHUNK: Final = 1 << 20
"""Bytes of a streamed piece."""
_ROOM = 128 << 10
_LONGEST_HEAD = 64 << 10
_WANT_READ_WRITE = (2, 3)  # ssl.SSL_ERROR_WANT_READ, _WRITE without importing ssl


_CHUNK = re.compile(rb"[0-9A-Fa-f]{1,15}\Z")


class CutError(Exception):
    """The connection ended before the reply did; asking again on another one may help."""


class Head:
    """Status and headers of a reply; `raw` ends with the CRLF of the last one."""

    __slots__ = ("chunked", "keep", "length", "low", "raw", "status")

    def __init__(self, raw: bytes, bare: bool) -> None:
        if not raw.startswith(b"HTTP/1.") or not raw[9:12].isdigit():
            raise ValueError("no status")
        self.raw = raw
        self.low = low = raw.lower()
        self.status = int(raw[9:12])
        self.keep = raw.startswith(b"HTTP/1.1")
        if b"\r\nconnection:" in low and b"close" in self.header(b"connection").lower():
            self.keep = False
        self.chunked = b"\r\ntransfer-encoding:" in low
        if self.chunked and self.header(b"transfer-encoding").lower() != b"chunked":
            raise ValueError("transfer-encoding")
        self.length = -1
        """Bytes of the body; -1 where its end is said by chunks or by closing."""
        if bare or self.status in (204, 304) or self.status < 200:
            self.length, self.chunked = 0, False
        elif not self.chunked:
            at = low.find(b"\r\ncontent-length:")
            if at >= 0:
                said = raw[at + 17 : low.find(b"\r\n", at + 17)].strip()
                if not said.isdigit() or len(said) > 18 or low.find(b"\r\ncontent-length:", at + 17) >= 0:
                    raise ValueError("content-length")
                self.length = int(said)
            else:
                self.keep = False

    def header(self, name: bytes) -> bytes:
        """The value of a header, its name in lower case; b'' where absent."""
        at = self.low.find(b"\r\n" + name + b":")
        if at < 0:
            return b""
        end = self.raw.find(b"\r\n", at + 2)
        return self.raw[at + len(name) + 3 : end].strip()


class Reply:
    """A whole reply."""

    __slots__ = ("body", "head", "status")

    def __init__(self, head: Head, body: bytes) -> None:
        self.head, self.status, self.body = head, head.status, body

    def header(self, name: bytes) -> bytes:
        """The value of a header, its name in lower case; b'' where absent."""
        return self.head.header(name)


class Connection:
    """One socket to a service.  `jobs` are the requests sent and not yet answered, kept by the polling loop."""

    __slots__ = (
        "_buf",
        "_head",
        "_hi",
        "_lo",
        "_view",
        "address",
        "answered",
        "blocked",
        "deep",
        "jobs",
        "out",
        "sock",
        "used",
    )

    def __init__(self, address: Address) -> None:
        self.address = address
        self.sock: Any = connect(address)
        self.jobs: deque[Any] = deque()
        self.out: deque[memoryview] = deque()
        self.answered = 0
        self.deep = False
        """Requests were sent ahead here."""
        self.blocked = False
        """The socket took not all of `out`."""
        self.used = time.monotonic()
        self._head: Head | None = None
        self._buf = bytearray(_ROOM)
        self._view = memoryview(self._buf)
        self._lo = self._hi = 0

    def close(self) -> None:
        """Idempotent."""
        self.sock.close()

    def wait(self, waits: bool) -> None:
        """Make the socket wait for the network, or not."""
        self.sock.settimeout((self.address.timeout_s if self.address.tls else None) if waits else 0)

    def alive(self) -> bool:
        """Whether an idle connection is worth using again."""
        if self.begun() or self.sock.fileno() < 0:
            return False
        if self.address.tls:
            poll = select.poll()  # whatever comes unasked, an end or a record, makes it unfit
            poll.register(self.sock.fileno(), select.POLLIN)
            return not self.sock.pending() and not poll.poll(0)
        try:
            self.sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    # ------------------------------------------------------------------------------------- one thread that waits

    def send(self, *buffers: bytes | memoryview) -> None:
        """Send all of it.  CutError, or Unavailable when the service takes nothing."""
        try:
            for buffer in buffers:
                self.sock.sendall(buffer)
        except OSError as exc:
            raise self._ours(exc) from exc

    def head(self, bare: bool = False) -> Head:
        """Wait for the head of the next reply; `bare` where its request was a HEAD."""
        while (found := self._take_head(bare)) is None:
            if not self._fill():
                raise CutError(f"{self.address} closed the connection")
        return found

    def reply(self, bare: bool = False, most: int = 1 << 62) -> Reply:
        """Wait for the next reply and its whole body, left out where it is longer than `most`."""
        while (found := self.take(bare, most)) is None:
            if not self._fill():
                ended = self.ended()
                if ended is None:
                    raise CutError(f"{self.address} closed the connection")
                return ended
        return found

    def stream(self, head: Head) -> Iterator[bytes]:
        """The body after `head`, in pieces of up to a mebibyte; CutError where it ends early."""
        self._head = None
        left = head.length
        if left < 0:
            yield from self._chunks() if head.chunked else self._unmeasured(head)
            return
        yield from self._exactly(left)
        self.answered += 1

    def _exactly(self, left: int) -> Iterator[bytes]:
        if have := min(left, self._hi - self._lo):
            yield bytes(self._view[self._lo : self._lo + have])
            self._lo += have
            left -= have
        flags = 0 if self.address.tls else socket.MSG_WAITALL
        while left:
            try:
                piece = self.sock.recv(min(left, CHUNK), flags) if flags else self._gather(min(left, CHUNK))
            except OSError as exc:
                raise self._ours(exc) from exc
            if not piece:
                raise CutError(f"{self.address} closed the connection {left} bytes early")
            left -= len(piece)
            yield piece

    def _chunks(self) -> Iterator[bytes]:
        """A body in chunks, as they come."""
        while size := _chunk_size(self._line(), self.address):
            yield from self._exactly(size)
            while self._hi - self._lo < 2:
                if not self._fill():
                    raise CutError(f"{self.address} closed the connection")
            if self._buf[self._lo : self._lo + 2] != b"\r\n":
                raise self.address.garbled("broken chunks")
            self._lo += 2
        while self._line():  # trailers end with an empty line
            pass
        self.answered += 1

    def _line(self) -> bytes:
        while (end := self._buf.find(b"\r\n", self._lo, self._hi)) < 0:
            if self._hi - self._lo > _LONGEST_HEAD:
                raise self.address.garbled("an endless line")
            if not self._fill():
                raise CutError(f"{self.address} closed the connection")
        line, self._lo = bytes(self._view[self._lo : end]), end + 2
        return line

    def _gather(self, size: int) -> bytes:
        """Up to `size` bytes of a TLS connection, whose records are of 16 KiB."""
        out, filled = bytearray(size), 0
        with memoryview(out) as view:
            while filled < size and (got := self.sock.recv_into(view[filled:])):
                filled += got
        return bytes(out) if filled == size else bytes(out[:filled])

    def _unmeasured(self, head: Head) -> Iterator[bytes]:
        """A body that ends with the connection: rare for objects, so it is gathered whole."""
        self._head = head
        yield self.reply().body

    def _fill(self) -> int:
        try:
            return self.receive()
        except OSError as exc:
            raise self._ours(exc) from exc

    def _ours(self, exc: OSError) -> Exception:
        if isinstance(exc, TimeoutError) or self.wants(exc):
            return self.address.hangs()
        return CutError(f"{self.address}: {exc.strerror or exc}")

    # -------------------------------------------------------------------------------------- a loop that polls many

    def wants(self, exc: OSError) -> bool:
        """Whether an OSError only says that the socket is not ready."""
        return isinstance(exc, BlockingIOError) or (self.address.tls is not None and exc.errno in _WANT_READ_WRITE)

    def receive(self) -> int:
        """Take what the socket has into the buffer; 0 at its end.  OSError passes through."""
        if self._lo == self._hi:
            self._lo = self._hi = 0
        elif self._hi == len(self._buf):
            self._make_room(self._hi - self._lo + _ROOM)
        got: int = self.sock.recv_into(self._view[self._hi :])
        self._hi += got
        return got

    def begun(self) -> bool:
        """Whether a part of the next reply has come."""
        return self._head is not None or self._hi != self._lo

    def pending(self) -> int:
        """Bytes that TLS has decrypted already, which a poll does not show."""
        return self.sock.pending() if self.address.tls else 0

    def take(self, bare: bool = False, most: int = 1 << 62) -> Reply | None:
        """The next whole reply in the buffer, or None.  A body longer than `most` is not read: the reply comes without
        it and does not keep the connection."""
        head = self._head or self._take_head(bare)
        if head is None:
            return None
        if head.length > most:
            head.keep = False
            return self._answer(head, b"", 0)
        if head.length >= 0:
            end = self._lo + head.length
            if end > self._hi:
                if end > len(self._buf):
                    self._make_room(head.length)
                return None
            return self._answer(head, bytes(self._view[self._lo : end]), head.length)
        if head.chunked:
            if self._hi - self._lo > 2 * most + _ROOM:  # chunks may be small, but not as small as that
                head.keep = False
                return self._answer(head, b"", 0)
            try:
                found = _dechunk(self._buf, self._lo, self._hi)
            except ValueError:
                raise self.address.garbled("broken chunks") from None
            return self._answer(head, *found) if found else None
        return None

    def ended(self) -> Reply | None:
        """The reply whose body the end of the connection completes, if there is one."""
        head = self._head
        if head is None or head.chunked or head.length >= 0:
            return None
        return self._answer(head, bytes(self._view[self._lo : self._hi]), self._hi - self._lo)

    def flush(self) -> bool:
        """Send what waits in `out`; False while some is left.  OSError passes through."""
        out = self.out
        while out:
            try:
                sent = self.sock.send(out[0])
            except OSError as exc:
                if self.wants(exc):
                    return False
                raise
            if sent < len(out[0]):
                out[0] = out[0][sent:]
            else:
                out.popleft()
        return True

    def _answer(self, head: Head, body: bytes, taken: int) -> Reply:
        self._lo += taken
        self._head = None
        self.answered += 1
        return Reply(head, body)

    def _take_head(self, bare: bool) -> Head | None:
        while True:
            end = self._buf.find(b"\r\n\r\n", self._lo, self._hi)
            if end < 0:
                if self._hi - self._lo > _LONGEST_HEAD:
                    raise self.address.garbled("an endless head")
                return None
            try:
                head = Head(bytes(self._view[self._lo : end + 2]), bare)
            except ValueError:
                raise self.address.garbled("no HTTP status or length") from None
            self._lo = end + 4
            if head.status >= 200:  # 100 Continue and its like announce the real one
                self._head = head
                return head

    def _make_room(self, size: int) -> None:
        """A buffer of at least `size` bytes that begins with what is not taken yet."""
        bigger = bytearray(max(size + _LONGEST_HEAD, _ROOM))
        bigger[: self._hi - self._lo] = self._view[self._lo : self._hi]
        self._buf, self._view = bigger, memoryview(bigger)
        self._lo, self._hi = 0, self._hi - self._lo


def _dechunk(buf: bytearray, at: int, end: int) -> tuple[bytes, int] | None:
    """The body of chunks that begin at `at` and the bytes they take, or None while the last one is missing."""
    start, out = at, []
    while True:
        line = buf.find(b"\r\n", at, end)
        if line < 0:
            return None
        size = _hexadecimal(bytes(buf[at:line]))
        at = line + 2
        if size == 0:
            break
        if at + size + 2 > end:
            return None
        out.append(bytes(buf[at : at + size]))
        if buf[at + size : at + size + 2] != b"\r\n":
            raise ValueError("chunk")
        at += size + 2
    while True:  # trailers end with an empty line
        line = buf.find(b"\r\n", at, end)
        if line < 0:
            return None
        empty, at = line == at, line + 2
        if empty:
            return b"".join(out), at - start


def _hexadecimal(line: bytes) -> int:
    """The size in the line before a chunk; ValueError."""
    said = line.partition(b";")[0].strip()
    if not _CHUNK.match(said):
        raise ValueError("chunk size")
    return int(said, 16)


def _chunk_size(line: bytes, address: Address) -> int:
    try:
        return _hexadecimal(line)
    except ValueError:
        raise address.garbled("broken chunks") from None
