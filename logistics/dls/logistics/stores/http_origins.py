"""The servers that one store asks: its own, and those that it is sent to by redirects, a pool of connections for each.

A redirect is followed with the same method, at most five times, never from https to http.  Credentials go to the
store's own server only, and over plain http only on this machine.  HTTP proxies are not supported.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from dls.logistics.credentials import HttpCredentials, token_name
from dls.logistics.errors import Denied, Invalid
from dls.logistics.stores.http_address import Address, Pair, Words
from dls.logistics.stores.http_index import unquoted
from dls.logistics.stores.http_pool import TRIES, Job, Pool
from dls.logistics.stores.http_wire import Connection, Head, Reply

REDIRECTS: Final = 5
"""How often one request may be sent elsewhere."""
MOVED: Final = (301, 302, 303, 307, 308)
_PORTS: Final = {"http": 80, "https": 443}
_PLACE = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^:@\[\]/\s]+)(?::([0-9]{1,5}))?\Z")
_HERE = re.compile(r"localhost|127(\.\d+){3}|::1")
_UNFIT = re.compile(rb"[^!-~]")
_WORDS = Words(
    "an HTTP server", code="not-http", remedy="check the address (HTTP_PROXY is not used)", trust="SSL_CERT_FILE"
)
_ERROR_BODY = 64 << 10


class Origin(NamedTuple):
    """A server: what is asked of one is sent to no other."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + ("" if self.port == _PORTS[self.scheme] else f":{self.port}")

    @classmethod
    def of(cls, scheme: str, place: str) -> Origin:
        """That of an address's `host[:port]`; Invalid."""
        found = _PLACE.match(place)
        if scheme not in _PORTS or not found or int(found[2] or 1) > 65535:
            raise Invalid(
                "not the address of an HTTP server", code="bad-url", remedy="write http(s)://host[:port]/path"
            )
        return cls(scheme, found[1].strip("[]").lower(), int(found[2] or _PORTS[scheme]))


class Where(NamedTuple):
    """A target on a server."""

    origin: Origin
    target: bytes
    """Quoted path, and a query where a redirect had one."""


class Opened(NamedTuple):
    """A reply: whole, or with its body still to come on `conn`."""

    where: Where
    """Where it came from in the end."""
    head: Head
    reply: Reply | None
    conn: Connection | None


class FolderFound(Exception):
    """A name leads to itself with a slash behind it: servers answer so for folders."""


class _Heads:
    """Makes the heads of requests to one server."""

    def __init__(self, origin: Origin, authorization: bytes) -> None:
        host = str(origin).partition("://")[2]
        self._always = b"host: %b\r\naccept-encoding: identity\r\nuser-agent: dls\r\n" % (
            host.encode() if host.isascii() else host.encode("idna")
        )
        if authorization:
            self._always += b"authorization: " + authorization + b"\r\n"

    def head(
        self, method: bytes, target: bytes, args: bytes = b"", headers: Sequence[Pair] = (), length: int = -1
    ) -> bytes:
        more = b"".join([b"%b: %b\r\n" % pair for pair in headers])
        return b"%b %b HTTP/1.1\r\n%b%b\r\n" % (method, target, self._always, more)


class Origins:
    """The servers of a store and of all stores `below` it.  All methods may be called from any thread."""

    def __init__(
        self,
        home: Origin,
        credentials: HttpCredentials,
        *,
        concurrency: int = 8,
        timeout_s: float = 30,
        tries: int = TRIES,
    ) -> None:
        self.home = home
        self.closed = False
        self._credentials = credentials
        self._options: dict[str, Any] = {"concurrency": concurrency, "tries": tries}
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._pools: dict[Origin, Pool] = {}
        self._tls: Any = None
        usual = _PORTS[home.scheme]
        self._authorization, self.source = credentials.header(home.host, home.port, usual)
        self.how = f"set DLS_HTTP_TOKEN_{token_name(home.host, 0 if home.port == usual else home.port)}, or ~/.netrc"
        if self._authorization and home.scheme == "http" and not _HERE.fullmatch(home.host):
            self._authorization = b""
            self.how = f"write https://{home.host}: {self.source} are not sent where everybody could read them"

    def pool(self, origin: Origin) -> Pool:
        """The connections to one server."""
        if found := self._pools.get(origin):  # without the lock, which a fork may have caught held
            return found
        with self._lock:
            found = self._pools.get(origin)
            if found is None:
                tls = self._trust() if origin.scheme == "https" else None
                address = Address(origin.host, origin.port, self._timeout_s, tls, _WORDS)
                heads = _Heads(origin, self._authorization if self._is_home(origin) else b"")
                found = self._pools[origin] = Pool(address, heads, **self._options)
            return found

    def requests(self) -> int:
        """Requests sent so far, to all servers."""
        return sum(pool.requests for pool in self._pools.values())

    def _is_home(self, origin: Origin) -> bool:
        home = self.home
        return origin == home or (origin == Origin("https", home.host, 443) and home == Origin("http", home.host, 80))

    def _trust(self) -> Any:
        if self._tls is None:
            import ssl  # costs 20 ms of start, so only where it is used

            bundle = self._credentials.ca_bundle
            try:
                self._tls = ssl.create_default_context(cafile=bundle or None)
            except (OSError, ssl.SSLError) as exc:
                raise Invalid(f"cannot use SSL_CERT_FILE {bundle}: {exc}", code="bad-certificate") from exc
        return self._tls

    def close(self) -> None:
        """Close the connections.  Idempotent."""
        self.closed = True
        with self._lock:
            for pool in self._pools.values():
                pool.close()

    # ----------------------------------------------------------------------------------------------------- asking

    def ask(self, method: bytes, where: Where, headers: Sequence[Pair] = (), most: int = 1 << 20) -> Opened:
        """Send a request and wait for the whole reply; a body longer than `most` is left out."""
        return self._followed(method, where, headers, lambda conn, head: _whole(conn, most))

    def open(self, where: Where, headers: Sequence[Pair] = (), most: int = 0) -> Opened:
        """Ask for a body, to be streamed where it is longer than `most`; everything but 200 and 206 comes whole."""

        def once(conn: Connection, head: Head) -> Reply | None:
            if head.status in (200, 206) and not 0 <= head.length <= most:
                return None
            return _whole(conn, most if head.status in (200, 206) else _ERROR_BODY)

        return self._followed(b"GET", where, headers, once)

    def _followed(
        self,
        method: bytes,
        where: Where,
        headers: Sequence[Pair],
        body: Callable[[Connection, Head], Reply | None],
    ) -> Opened:
        for _ in range(REDIRECTS + 1):
            pool = self.pool(where.origin)
            job = Job(method, where.target, headers=headers)

            found = pool.tried(job, partial(_once, pool, job, where, body))
            if found.head.status not in MOVED:
                return found
            where = self.moved(where, found.head)
        raise _lost(self.home, f"sends on more than {REDIRECTS} times")

    def moved(self, where: Where, head: Head) -> Where:
        """Where a redirect leads.  FolderFound, Invalid, Denied."""
        from urllib.parse import urljoin, urlsplit  # for redirects only

        said = head.header(b"location")
        if not said:
            raise _lost(where.origin, "says that something lies elsewhere, and not where")
        text = _UNFIT.sub(lambda found: b"%%%02X" % found[0][0], said).decode("ascii")
        try:
            parts = urlsplit(urljoin(f"{where.origin}{where.target.decode('ascii')}", text))
            if "@" in parts.netloc:
                raise ValueError("user in an address")
            origin = Origin.of(parts.scheme, parts.netloc)
        except (ValueError, Invalid):
            raise _lost(where.origin, "sends on to what is no HTTP address") from None
        path = parts.path.encode("ascii") or b"/"
        if unquoted(path) == unquoted(where.target.partition(b"?")[0]) + b"/":
            raise FolderFound
        if where.origin.scheme == "https" and origin.scheme == "http":
            raise Denied(
                f"{where.origin} sends on to {origin}, where anybody could change what is read",
                code="bad-redirect",
                service=str(where.origin),
                remedy="tell those who run it",
            )
        return Where(origin, path + b"?" + parts.query.encode("ascii") if parts.query else path)


def _once(
    pool: Pool, job: Job, where: Where, body: Callable[[Connection, Head], Reply | None], conn: Connection
) -> tuple[Head, Opened]:
    conn.send(*pool.ready(job))
    head = conn.head(job.method == b"HEAD")
    reply = body(conn, head)
    if reply is None:
        return head, Opened(where, head, None, conn)
    pool.give(conn, head.keep)
    return head, Opened(where, head, reply, None)


def _whole(conn: Connection, most: int) -> Reply:
    """The rest of a reply whose head has come, without a body longer than `most`."""
    return conn.reply(most=most)


def _lost(origin: Origin, what: str) -> Invalid:
    return Invalid(
        f"{origin} {what}", code="bad-redirect", service=str(origin), remedy="write the address that it leads to"
    )
