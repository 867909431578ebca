"""A server over raw sockets that does what HTTP servers do on bad days; one thread for each connection."""

from __future__ import annotations

import contextlib
import hashlib
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes


@dataclass
class Request:
    """One request, strictly parsed."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    number: int
    """From 0, over all connections."""
    nth: int
    """From 0, on its connection."""

    @property
    def key(self) -> bytes:
        return unquote_to_bytes(self.target.partition("?")[0]).removeprefix(b"/b/")


@dataclass
class Answer:
    """What is sent, piece by piece."""

    pieces: list[bytes]
    pause: float = 0.0
    close: bool = False


Behaviour = Callable[[Request], Answer | None]


def reply(status: int, body: bytes = b"", *headers: str, length: bool = True) -> bytes:
    """A whole reply."""
    lines = [f"HTTP/1.1 {status} Said", *headers] + ([f"Content-Length: {len(body)}"] if length else [])
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def etag(body: bytes) -> str:
    return f'ETag: "{hashlib.md5(body).hexdigest()}"'


@dataclass
class BadServer:
    """Objects by key; `behave` may answer first, its None leaves the request to the plain answer."""

    behave: Behaviour = lambda request: None
    objects: dict[bytes, bytes] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    connections: int = 0
    tls: ssl.SSLContext | None = None
    deaf: bool = False
    """Forget what was sent ahead of an answer."""

    def __post_init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.lock = threading.Lock()
        self.open: set[socket.socket] = set()
        self.threads = [threading.Thread(target=self._accept)]
        self.threads[0].start()

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for sock in list(self.open):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join(10)
        assert not self.broken, self.broken

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            thread = threading.Thread(target=self._serve, args=(sock,))
            self.threads.append(thread)
            thread.start()

    def _serve(self, plain: socket.socket) -> None:
        sock = plain
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.tls:
                sock = self.tls.wrap_socket(plain, server_side=True)
            self.open.add(sock)
            self._talk(sock)
        except OSError:
            pass
        finally:
            self.open.discard(sock)
            sock.close()

    def _talk(self, sock: socket.socket) -> None:
        waiting = b""
        for nth in range(1 << 30):
            while (end := waiting.find(b"\r\n\r\n")) < 0:
                if not (more := sock.recv(65536)):
                    return
                waiting += more
            line, *lines = waiting[:end].decode("ascii").split("\r\n")
            waiting = waiting[end + 4 :]
            headers = {n.lower(): v.strip() for n, _, v in (text.partition(":") for text in lines)}
            size = int(headers.get("content-length", 0))
            while len(waiting) < size:
                if not (more := sock.recv(1 << 20)):
                    return
                waiting += more
            body, waiting = waiting[:size], waiting[size:]
            if self.deaf:
                waiting = b""
            method, target, version = line.split(" ")
            if version != "HTTP/1.1" or "host" not in headers or re.search(r"[^!-~]", target):
                self.broken.append(line)
            with self.lock:
                request = Request(method, target, headers, body, len(self.requests), nth)
                self.requests.append(request)
            answer = self.behave(request) or self.plain(request)
            for piece in answer.pieces:
                sock.sendall(piece)
                time.sleep(answer.pause)
            if answer.close:
                return

    def plain(self, request: Request) -> Answer:
        """What a good server answers."""
        raise NotImplementedError
