"""A small HTTP proxy in front of one server: counts what passes, and delays, cuts, corrupts, refuses or hangs at will.

One client connection is one upstream connection, so keep-alive, pipelining and closing behave as without it; requests
travel on while earlier responses are under way, responses keep their order. Heads pass unchanged: SigV4 signs `Host`.
The loop runs in a thread of this process; every attribute and method may be used from any thread.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from components.exchange import Counts, Exchange, Fault, s3_kind
from components.http_wire import PIECE, Closed, Head, Reader


class Proxy:
    """Listens on a free loopback port and passes everything to `upstream` (an `http://host:port` address)."""

    def __init__(self, upstream: str, *, kind: Callable[[str, str], str] = s3_kind) -> None:
        parts = urlsplit(upstream)
        self._upstream = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._kind = kind
        self.delay = 0.0  # seconds added to every request: a round trip
        self.rate = 0.0  # bytes of response body a second over all connections; 0 = no limit
        self.log: list[Exchange] = []
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._free_at = 0.0  # when the rate limiter lets the next piece go
        self._numbers = itertools.count(1)
        self._connections = 0
        self._thread: threading.Thread | None = None

    def add(self, fault: Fault) -> Fault:
        """Arm a fault; the first armed one that hits a request is applied."""
        with self._lock:
            self._faults.append(fault)
        return fault

    def clear(self) -> None:
        """Disarm all faults; requests that hang go on hanging until their client leaves."""
        with self._lock:
            self._faults.clear()

    def reset(self) -> None:
        """Forget what was counted; faults stay."""
        with self._lock:
            self.log = []
            self._connections = 0

    def counts(self) -> Counts:
        """Return the totals since start or `reset()`, of started exchanges (`log` has them one by one)."""
        with self._lock:
            log = list(self.log)
            connections = self._connections
        return Counts(
            Counter(e.kind for e in log),
            Counter((e.kind, e.status) for e in log if e.status),
            sum(e.received for e in log if e.kind == "GET" and e.status in (200, 206)),
            sum(e.sent for e in log),
            connections,
        )

    @property
    def endpoint(self) -> str:
        """Address for clients."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> Self:
        """Listen and serve in a thread."""
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._listener.setblocking(False)
        self._port = self._listener.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="proxy", daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """Close the port and every connection, and end the thread. Repeatable."""
        if self._thread is not None:
            self._loop.call_soon_threadsafe(self._main.cancel)
            self._thread.join()
            self._thread = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._main = self._loop.create_task(self._accept())
        with suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._main)
        self._loop.close()

    async def _accept(self) -> None:
        links: set[asyncio.Task[None]] = set()
        try:
            while True:
                client, _ = await self._loop.sock_accept(self._listener)
                with self._lock:
                    self._connections += 1
                task = self._loop.create_task(_Link(self, client).run())
                links.add(task)
                task.add_done_callback(links.discard)
        finally:
            self._listener.close()
            for task in list(links):
                task.cancel()
            await asyncio.gather(*links, return_exceptions=True)

    def _begin(self, head: Head) -> Exchange:
        """Number, name and log a request, and see whether a fault hits it."""
        method, target, _ = head.words
        kind = self._kind(method, target)
        found = re.search(rb"\r\nrange:\s*([^\r]+)", head.raw, re.IGNORECASE)
        with self._lock:
            fault = next((fault for fault in self._faults if fault.takes(kind, target)), None)
            wanted = found[1].decode("latin-1") if found else ""
            exchange = Exchange(next(self._numbers), method, target, kind, wanted, fault)
            self.log.append(exchange)
        wait = self.delay + (fault.delay if fault else 0.0)
        exchange.has_body = head.chunked or bool(head.length)
        exchange.due = time.monotonic() + wait if wait else 0.0
        return exchange

    async def _pace(self, size: int) -> None:
        """Hold a piece back until the rate allows it."""
        now = time.monotonic()
        self._free_at = max(self._free_at, now) + size / self.rate
        if self._free_at > now:
            await asyncio.sleep(self._free_at - now)


class _Link:
    """One client connection and its upstream connection: requests one way, responses in order the other way."""

    def __init__(self, proxy: Proxy, client: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._waiting: asyncio.Queue[Exchange | None] = asyncio.Queue()
        self._left = asyncio.Event()  # the client has no more to say
        self._line: asyncio.Queue[tuple[float, bytes]] | None = None  # delayed requests on their way

    async def run(self) -> None:
        self._client.setblocking(False)
        self._client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._server = socket.socket()
        self._server.setblocking(False)
        self._server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        tasks: list[asyncio.Task[None]] = []
        try:
            await self._loop.sock_connect(self._server, self._proxy._upstream)
            tasks = [self._loop.create_task(self._requests()), self._loop.create_task(self._responses())]
            self._tasks = tasks
            await tasks[1]
        except (OSError, Closed, ValueError):
            pass
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._client.close()
            self._server.close()

    async def _requests(self) -> None:
        reader = Reader(self._client)
        try:
            while True:
                head = await reader.head()
                exchange = self._proxy._begin(head)
                self._waiting.put_nowait(exchange)
                fault = exchange.fault
                refused = fault is not None and (fault.status is not None or fault.hang)
                if not refused:
                    await self._forward(head.raw, exchange.due)
                async for piece, payload in reader.body(head, until_close=False):
                    exchange.sent += payload
                    if not refused:
                        await self._forward(piece, exchange.due)
        except (Closed, OSError, ValueError):
            self._left.set()
            self._waiting.put_nowait(None)  # let the responses under way finish

    async def _forward(self, data: bytes | memoryview, due: float) -> None:
        """Send towards the server now, or through the delay line, which keeps the order."""
        if self._line is None:
            if not due:
                await self._loop.sock_sendall(self._server, data)
                return
            self._line = asyncio.Queue(maxsize=256)
            self._tasks.append(self._loop.create_task(self._delayed(self._line)))
        await self._line.put((due, bytes(data)))

    async def _delayed(self, line: asyncio.Queue[tuple[float, bytes]]) -> None:
        while True:
            due, data = await line.get()
            wait = due - time.monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
            await self._loop.sock_sendall(self._server, data)

    async def _responses(self) -> None:
        reader = Reader(self._server)
        while (exchange := await self._waiting.get()) is not None:
            fault = exchange.fault or Fault()
            if fault.hang:
                await self._left.wait()
                return
            if fault.status is not None:
                if not await self._refuse(exchange, fault.status):
                    return
                continue
            head = await reader.head()
            while head.status < 200 and head.status != 101:
                await self._loop.sock_sendall(self._client, head.raw)
                head = await reader.head()
            exchange.status = head.status
            if not await self._respond(reader, head, exchange, fault):
                return

    async def _refuse(self, exchange: Exchange, status: int) -> bool:
        """Answer with an error; where a request body is on its way, close, as a server does that will not read it."""
        exchange.status = status
        body = f"<?xml version='1.0'?><Error><Code>{'SlowDown' if status == 503 else 'InternalError'}</Code></Error>"
        text = f"HTTP/1.1 {status} Planted\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n"
        text += "Connection: close\r\n" if exchange.has_body else ""
        text += "\r\n" if exchange.method == "HEAD" else f"\r\n{body}"
        await self._loop.sock_sendall(self._client, text.encode())
        exchange.finished = True
        if exchange.has_body:
            await asyncio.sleep(0.05)  # a close over unread bytes resets: let the answer be read first
        return not exchange.has_body

    async def _respond(self, reader: Reader, head: Head, exchange: Exchange, fault: Fault) -> bool:
        """Pass one response on; return whether the connection lives."""
        if exchange.method == "HEAD" or head.status in (204, 304):
            await self._loop.sock_sendall(self._client, head.raw)
            exchange.finished = True
            return not head.close
        plain = fault.cut is None and fault.flip is None and not self._proxy.rate
        if plain and not head.chunked and head.length is not None and head.length <= reader.buffered:
            await self._loop.sock_sendall(self._client, head.raw + reader.take_buffered(head.length))
            exchange.received, exchange.finished = head.length, True
            return not head.close
        await self._loop.sock_sendall(self._client, head.raw)
        async for piece, payload in reader.body(head, until_close=True):
            if payload and not plain:
                await self._spoil(piece, exchange, fault)
            else:
                await self._loop.sock_sendall(self._client, piece)
                exchange.received += payload
        exchange.finished = True
        return not head.close and (head.chunked or head.length is not None)

    async def _spoil(self, piece: memoryview, exchange: Exchange, fault: Fault) -> None:
        """Pass a piece of body on, cut, flipped or slowed."""
        at = exchange.received
        if fault.flip is not None and at <= fault.flip < at + len(piece):
            piece[fault.flip - at] ^= 1
        if fault.cut is not None:
            piece = piece[: max(0, fault.cut - at)]
        step = min(PIECE, max(4096, int(self._proxy.rate / 50))) if self._proxy.rate else PIECE
        for start in range(0, len(piece), step):
            part = piece[start : start + step]
            if self._proxy.rate:
                await self._proxy._pace(len(part))
            await self._loop.sock_sendall(self._client, part)
            exchange.received += len(part)
        if fault.cut is not None and exchange.received >= fault.cut:
            if fault.reset:
                self._client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            raise Closed(clean=False)
