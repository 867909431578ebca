"""The S3 wire: signed requests over a pool of connections, one at a time or as a stream (`s3_batch`: many at once).

Every request here may be sent twice, and is: after a cut connection, a busy answer, a body damaged on its way.
Why not a library: this is 3 times s5cmd with an eighth of its CPU where the best library (obstore) has 1.9, and a
store opens without the 0.3 s that importing boto3 takes.
"""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeVar

from dls.logistics.credentials import S3Credentials
from dls.logistics.errors import Conflict, DlsError, Invalid, Unavailable
from dls.logistics.stores.s3_errors import BUSY, tag
from dls.logistics.stores.s3_http import Address, Connection, CutError, Head, Reply
from dls.logistics.stores.s3_sign import Pair, Signer

_T = TypeVar("_T")
_RANGE = re.compile(rb"bytes (\d+)-(\d+)/")

TRIES: Final = 5
"""How often one request is sent before its failure counts."""
_BACKOFF_S = 0.1
_JOIN = 64 << 10  # bodies up to this size travel in one piece with their head
_IDLE = 64  # connections kept
_STALE = 8  # kept connections that may turn out to be closed before a cut counts as one


class Job:
    """One request.  `target` is a quoted path, `args` a query, `headers` sorted pairs in lower case."""

    __slots__ = ("alone", "args", "body", "headers", "i", "key", "method", "sent", "size", "target", "tries")

    def __init__(
        self,
        method: bytes,
        target: bytes,
        args: bytes = b"",
        headers: Sequence[Pair] = (),
        body: bytes | bytearray | memoryview | None = None,
        *,
        i: int = 0,
        key: bytes = b"",
        size: int = 0,
    ) -> None:
        self.method, self.target, self.args, self.headers, self.body = method, target, args, headers, body
        self.i, self.key = i, key  # the caller's
        self.size = size
        """Bytes of body expected with status 200; the reply is cut off well beyond."""
        self.sent = 0
        self.tries = 0
        """Failed attempts that count."""
        self.alone = False
        """To be sent with no other request ahead or behind."""


class Wire:
    """A service as one user reaches it.  All methods may be called from any thread."""

    def __init__(
        self,
        endpoint: str,
        credentials: S3Credentials,
        *,
        concurrency: int = 8,
        timeout_s: float = 30,
        tries: int = TRIES,
    ) -> None:
        self.address, host = _address(endpoint, credentials.ca_bundle, timeout_s)
        self.concurrency, self.tries = concurrency, tries
        self.depth = 0
        """Requests ahead on one connection; 0 while it is not known."""
        self.requests = 0
        """Requests sent, those sent again included."""
        self.again = 0
        """Requests sent again."""
        self.closed = False
        self.learning = threading.Lock()
        """Held while `s3_batch` learns `depth`."""
        self._signer = Signer(credentials, host)
        self._lock = threading.Lock()
        self._idle: list[Connection] = []

    def close(self) -> None:
        """Close the idle connections; those in use close when they come back.  Idempotent."""
        with self._lock:
            self.closed = True
            idle, self._idle = self._idle, []
        for conn in idle:
            conn.close()

    # ------------------------------------------------------------------------------------------------ connections

    def borrow(self, fresh: bool = False) -> Connection:
        """A connection of one's own, until `give` or `close`."""
        while not fresh:
            with self._lock:
                conn = self._idle.pop() if self._idle else None
            if conn is None:
                break
            if conn.alive():
                return conn
            conn.close()
        return Connection(self.address)

    def give(self, conn: Connection, keep: bool) -> None:
        """Give a connection back; `keep` where it may serve again."""
        conn.used = time.monotonic()
        with self._lock:
            keep = keep and not self.closed and len(self._idle) < _IDLE
            if keep:
                self._idle.append(conn)
        if not keep:
            conn.close()

    def borrow_many(self, wanted: int) -> list[Connection]:
        """Several connections, opened at the same time; fewer than wanted where the service accepts fewer."""
        conns: list[Connection] = []
        failed: list[BaseException] = []

        def one() -> None:
            try:
                conns.append(self.borrow())
            except Exception as exc:  # noqa: BLE001 - raised below where no connection came about
                failed.append(exc)

        threads = [threading.Thread(target=one) for _ in range(wanted - 1)]
        for thread in threads:
            thread.start()
        one()
        for thread in threads:
            thread.join()
        if not conns:
            raise failed[0]
        return conns

    def ready(self, job: Job) -> list[memoryview]:
        """What to send for a job, signed now."""
        body = job.body
        length = -1 if body is None else len(body)
        head = self._signer.head(job.method, job.target, job.args, job.headers, length)
        self.requests += 1
        self.again += job.sent > 0
        job.sent += 1
        if not body:
            return [memoryview(head)]
        return [memoryview(head + body)] if length <= _JOIN else [memoryview(head), memoryview(body)]

    # ---------------------------------------------------------------------------------------------- one at a time

    def ask(self, job: Job, *, fresh: bool = False) -> Reply:
        """Send one request and wait for the whole answer; sent again while the service is busy or cuts the line."""
        return self._tried(job, lambda conn: self._asked(conn, job), fresh)

    def _asked(self, conn: Connection, job: Job) -> tuple[Head, Reply]:
        cut: CutError | None = None
        try:
            conn.send(*self.ready(job))
        except CutError as exc:  # it may have said why before it hung up
            cut = exc
        try:
            reply = conn.reply(job.method == b"HEAD")
        except CutError:
            raise cut or CutError(f"{self.address} closed the connection") from None
        self.give(conn, reply.head.keep and cut is None)
        return reply.head, reply

    def _tried(self, job: Job, once: Callable[[Connection], tuple[Head, _T]], fresh: bool = False) -> _T:
        """`once` on a connection, again while that may help."""
        stale = _STALE
        while True:
            conn = self.borrow(fresh)
            kept = conn.answered > 0
            try:
                head, result = once(conn)
            except CutError as cut:
                conn.close()
                if kept and stale:  # the service had closed an idle connection
                    stale -= 1
                    continue
                if not self.may_repeat(job):
                    raise self.lost(cut) from cut
            except BaseException:
                conn.close()
                raise
            else:
                if not (busy(head, result) and self.may_repeat(job)):
                    return result
            time.sleep(pause(job.tries))

    def may_repeat(self, job: Job) -> bool:
        """Count one failed attempt; whether another one is due."""
        job.tries += 1
        return job.tries < self.tries

    def lost(self, cut: CutError) -> Unavailable:
        """The error of connections that keep breaking."""
        error = Unavailable(
            f"{cut}, {self.tries} times", code="service-down", service=str(self.address), remedy="run the same again"
        )
        error.__cause__ = cut
        return error

    # ---------------------------------------------------------------------------------------------------- a stream

    def stream(
        self, target: bytes, key: str, start: int, stop: int | None, refused: Callable[[Reply], DlsError]
    ) -> Iterator[bytes]:
        """The bytes `start … stop-1` of an object in pieces; its absence and other refusals are raised here, not later.

        A cut body is asked for again from where it broke; Conflict `source-changed` where it is another one by then.
        """
        if stop is not None and stop <= start:
            reply = self.ask(Job(b"HEAD", target))
            if reply.status != 200:
                raise refused(reply)
            return iter(())
        opened = self._open(target, start, stop, b"")
        if isinstance(opened[1], Reply):
            if opened[0].status == 416:  # nothing lies at or behind `start`
                return iter(())
            raise refused(opened[1])
        pieces = self._pieces(target, key, start, stop, opened[0], opened[1], refused)
        next(pieces)  # started: it gives the connection back also when nobody reads from it
        return pieces

    def _open(self, target: bytes, start: int, stop: int | None, etag: bytes) -> tuple[Head, Connection | Reply]:
        headers: list[Pair] = [(b"if-match", etag)] if etag else []
        if start or stop is not None:
            headers.append((b"range", b"bytes=%d-" % start if stop is None else b"bytes=%d-%d" % (start, stop - 1)))
        job = Job(b"GET", target, headers=headers)
        return self._tried(job, lambda conn: self._opened(conn, job))

    def _opened(self, conn: Connection, job: Job) -> tuple[Head, tuple[Head, Connection | Reply]]:
        conn.send(*self.ready(job))
        head = conn.head()
        if head.status in (200, 206):
            return head, (head, conn)
        reply = conn.reply()
        self.give(conn, reply.head.keep)
        return head, (head, reply)

    def _pieces(
        self,
        target: bytes,
        key: str,
        at: int,
        stop: int | None,
        head: Head,
        conn: Connection,
        refused: Callable[[Reply], DlsError],
    ) -> Iterator[bytes]:
        etag, tries = head.header(b"etag"), 0
        while True:
            whole = False
            try:
                if not tries:
                    yield b""
                for piece in _clipped(conn.stream(head), at, stop, head):
                    at += len(piece)
                    tries = 0
                    yield piece
                whole = stop is None or head.low.find(b"\r\ncontent-range:") >= 0
                return
            except CutError as cut:
                tries += 1
                if tries >= self.tries:
                    raise self.lost(cut) from cut
            finally:
                self.give(conn, whole and head.keep)
            time.sleep(pause(tries))
            self.again += 1
            head, opened = self._open(target, at, stop, etag)
            if isinstance(opened, Reply):
                if opened.status in (404, 412, 416):
                    raise _changed(key)
                raise refused(opened)
            conn = opened
            if head.header(b"etag") != etag:
                conn.close()
                raise _changed(key)


def _clipped(pieces: Iterator[bytes], at: int, stop: int | None, head: Head) -> Iterator[bytes]:
    """The wanted part of a body: all of it, unless the service ignored the range.  A range is known by its header:
    rclone answers it with status 200."""
    ranged = head.header(b"content-range")
    if ranged or head.status == 206:
        said = _RANGE.match(ranged)
        if not said or int(said[1]) != at or (stop is not None and int(said[2]) >= stop):
            raise Invalid("the service sent another range than that asked for", code="wrong-range")
        yield from pieces
        return
    skip = at
    left = 1 << 62 if stop is None else stop - at
    for piece in pieces:
        part = piece[skip : skip + left]
        skip = max(0, skip - len(piece))
        left -= len(part)
        if part:
            yield part
        if not left:
            return


def _changed(key: str) -> Conflict:
    return Conflict(
        f"{key} changed while it was read", code="source-changed", key=key, remedy="run the same again later"
    )


def busy(head: Head, result: Any) -> bool:
    """Whether the same request may have a better answer soon."""
    if head.status in BUSY:
        return True
    return (
        head.status == 400
        and isinstance(result, Reply)
        and tag(result.body, b"Code") in (b"BadDigest", b"RequestTimeout")
    )


def pause(tries: int) -> float:
    """Seconds to wait before an attempt: doubling, with jitter so that many clients do not come back together."""
    return float(_BACKOFF_S * 2 ** (tries - 1) * random.uniform(0.75, 1.25)) if tries else 0.0  # noqa: S311


def _address(endpoint: str, ca_bundle: str, timeout_s: float) -> tuple[Address, str]:
    """Where an endpoint listens, and its `Host` header."""
    scheme, _, place = endpoint.partition("://")
    place = place.rstrip("/")
    host, _, port = place.rpartition(":") if place.rpartition(":")[2].isdigit() else (place, "", "")
    if scheme not in ("http", "https") or not host or "/" in place or "@" in place:
        raise Invalid(
            "not the address of an S3 service", code="bad-endpoint", remedy="AWS_ENDPOINT_URL=http(s)://host[:port]"
        )
    tls = None
    if scheme == "https":
        import ssl  # costs 20 ms of start, so only where it is used

        try:
            tls = ssl.create_default_context(cafile=ca_bundle or None)
        except (OSError, ssl.SSLError) as exc:
            raise Invalid(f"cannot use AWS_CA_BUNDLE {ca_bundle}: {exc}", code="bad-certificate") from exc
    usual = 443 if tls else 80
    number = int(port or usual)
    shown = host if number == usual else f"{host}:{number}"
    return Address(host.strip("[]"), number, timeout_s, tls), shown
