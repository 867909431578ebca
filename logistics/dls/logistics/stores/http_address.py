"""Where an HTTP service listens, and a socket to it: plain or TLS, its waits bounded by the kernel."""

from __future__ import annotations

import os
import re
import socket
import struct
import time
from typing import Any

from dls.logistics.errors import Denied, DlsError, Unavailable
from dls.logistics.frozen import frozen

_CONNECT_S = 10.0
_QUICK_TRIES = 3  # connections refused: 0.1 + 0.2 s later it is down

Pair = tuple[bytes, bytes]
"""A header: its name in lower case, its value."""

_UNSAFE = re.compile(rb"[^A-Za-z0-9._~/-]")


def quote(key: bytes) -> bytes:
    """A key as a request line has it: every byte but letters, digits and - . _ ~ / as %XX."""
    return _UNSAFE.sub(_percent, key)


def _percent(match: re.Match[bytes]) -> bytes:
    return b"%%%02X" % match[0][0]


@frozen
class Words:
    """What is said of a service that does not answer as it should."""

    kind: str
    """What it should be."""
    code: str
    """The error where it is not."""
    remedy: str
    """What to look at."""
    trust: str
    """The variable that names a file of trusted certificates."""


@frozen
class Address:
    """Where a service listens."""

    host: str
    port: int
    timeout_s: float
    """Silence that counts as hanging."""
    tls: Any = None
    """An `ssl.SSLContext`, None for plain HTTP."""
    words: Words = Words("an HTTP server", code="not-http", remedy="check the address", trust="SSL_CERT_FILE")

    def __str__(self) -> str:
        return f"http{'s' if self.tls else ''}://{self.host}:{self.port}"

    def hangs(self) -> Unavailable:
        return Unavailable(
            f"{self} gave no answer for {self.timeout_s:g} s",
            code="service-hangs",
            service=str(self),
            remedy="look at the service and the network, then run the same again",
        )

    def garbled(self, what: str) -> Unavailable:
        return Unavailable(
            f"{self} does not answer as {self.words.kind}: {what}",
            code=self.words.code,
            service=str(self),
            remedy=self.words.remedy,
        )


def connect(address: Address) -> Any:
    """A connected socket whose waits the kernel bounds.  Unavailable `service-down` after a few quick tries."""
    for attempt in range(_QUICK_TRIES):
        try:
            return _connected(address)
        except ConnectionError as exc:
            if attempt == _QUICK_TRIES - 1:
                raise _down(address, os.strerror(exc.errno or 0)) from exc
            time.sleep(0.1 * 2**attempt)
        except TimeoutError as exc:
            raise address.hangs() from exc
        except OSError as exc:
            raise _untrusted(address, exc) or _down(address, exc.strerror or str(exc)) from exc
    raise AssertionError("unreachable")


def _connected(address: Address) -> Any:
    sock: Any = socket.create_connection((address.host, address.port), min(_CONNECT_S, address.timeout_s))
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if address.tls:
            sock = address.tls.wrap_socket(sock, server_hostname=address.host)
        limit = struct.pack("ll", int(address.timeout_s), int(address.timeout_s % 1 * 1e6))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        # OpenSSL reads again when the kernel's limit is over, for ever: there the limit is Python's own.
        sock.settimeout(address.timeout_s if address.tls else None)
    except BaseException:
        sock.close()
        raise
    return sock


def _down(address: Address, why: str) -> Unavailable:
    return Unavailable(
        f"no connection to {address}: {why}",
        code="service-down",
        service=str(address),
        remedy=f"{address.words.remedy} and the network, then run the same again",
    )


def _untrusted(address: Address, exc: OSError) -> DlsError | None:
    """The error of a certificate that is not trusted, if `exc` is that."""
    why = getattr(exc, "verify_message", "")
    if not why:
        return None
    return Denied(
        f"the certificate of {address} is not trusted: {why}",
        code="bad-certificate",
        service=str(address),
        remedy=f"name the authority's certificate in {address.words.trust}",
    )
