"""Requests over a pool of connections to one HTTP service, one at a time (`http_batch`: many at once).

Every request here may be sent twice, and is: after a cut connection, a busy answer.  What stands before the body of a
request, signature or authorisation included, comes from a `Heads`.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, TypeVar

from dls.logistics.errors import Unavailable
from dls.logistics.stores.http_address import Address, Pair
from dls.logistics.stores.http_wire import Connection, CutError, Head, Reply

_T = TypeVar("_T")

TRIES: Final = 5
"""How often one request is sent before its failure counts."""
BUSY: Final = frozenset({408, 429, 500, 502, 503, 504})
"""Statuses after which the same request is sent again."""
LONGEST_WAIT_S: Final = 30.0
"""A service that asks to be left alone for longer than this (Retry-After) is not asked again."""
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


class Heads(Protocol):
    """Makes the heads of requests.  Used from many threads."""

    def head(
        self, method: bytes, target: bytes, args: bytes = b"", headers: Sequence[Pair] = (), length: int = -1
    ) -> bytes:
        """The head of one request, made now; `length` is that of its body, -1 without one."""
        ...


class Pool:
    """A service as one user reaches it.  All methods may be called from any thread, and after a fork."""

    def __init__(self, address: Address, heads: Heads, *, concurrency: int = 8, tries: int = TRIES) -> None:
        self.address = address
        self.concurrency, self.tries = concurrency, tries
        self.depth = 0
        """Requests ahead on one connection; 0 while it is not known."""
        self.requests = 0
        """Requests sent, those sent again included."""
        self.again = 0
        """Requests sent again."""
        self.closed = False
        self.learning = threading.Lock()
        """Held while a batch learns `depth`."""
        self._heads = heads
        self._lock = threading.Lock()
        self._idle: list[Connection] = []
        self._owner = os.getpid()

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
        if self._owner != os.getpid():
            self._forked()
        while not fresh:
            with self._lock:
                conn = self._idle.pop() if self._idle else None
            if conn is None:
                break
            if conn.alive():
                return conn
            conn.close()
        return Connection(self.address)

    def _forked(self) -> None:
        """A child shares its parent's sockets: what was idle is the parent's, and a lock may be held by nobody."""
        self._lock, self.learning = threading.Lock(), threading.Lock()
        idle, self._idle, self._owner = self._idle, [], os.getpid()
        for conn in idle:
            conn.close()

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
        head = self._heads.head(job.method, job.target, job.args, job.headers, length)
        self.requests += 1
        self.again += job.sent > 0
        job.sent += 1
        if not body:
            return [memoryview(head)]
        return [memoryview(head + body)] if length <= _JOIN else [memoryview(head), memoryview(body)]

    # ---------------------------------------------------------------------------------------------- one at a time

    def ask(self, job: Job, *, fresh: bool = False) -> Reply:
        """Send one request and wait for the whole answer; sent again while the service is busy or cuts the line."""
        return self.tried(job, lambda conn: self._asked(conn, job), fresh)

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

    def tried(self, job: Job, once: Callable[[Connection], tuple[Head, _T]], fresh: bool = False) -> _T:
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
                    raise self.lost(cut, job.target, conn.begun()) from cut
            except BaseException:
                conn.close()
                raise
            else:
                if not (self.busy(head, result) and self.may_repeat(job)):
                    return result
                time.sleep(pause(job.tries, head))
                continue
            time.sleep(pause(job.tries))

    def busy(self, head: Head, result: Any) -> bool:
        """Whether the same request may have a better answer soon: `result` is the reply, or what was made of it."""
        return head.status in BUSY and wait_asked(head) <= LONGEST_WAIT_S

    def may_repeat(self, job: Job) -> bool:
        """Count one failed attempt; whether another one is due."""
        job.tries += 1
        return job.tries < self.tries

    def lost(self, cut: CutError, target: bytes, amid: bool) -> Unavailable:
        """The error of connections that keep breaking: of this object where that is `amid` its answer, as the service
        is there; of the service otherwise."""
        service = str(self.address)
        if amid:
            what = service + target.partition(b"?")[0].decode("latin-1")  # a query may hold a signature
            error = Unavailable(
                f"the answer for {what} was cut short",
                code="cut-short",
                service=service,
                object=what,
                remedy="look into the service's log for it, then run the same again",
            )
        else:
            error = Unavailable(
                f"{cut}, {self.tries} times", code="service-down", service=service, remedy="run the same again"
            )
        error.__cause__ = cut
        return error


def wait_asked(head: Head) -> float:
    """Seconds that a busy service asks to be left alone: its Retry-After; 0 where it names none (or names a date)."""
    said = head.header(b"retry-after")
    return float(said) if said.isdigit() and len(said) < 10 else 0.0


def pause(tries: int, head: Head | None = None) -> float:
    """Seconds to wait before an attempt: doubling, with jitter so that many clients do not come back together, and
    not less than the service asks for."""
    wait = float(_BACKOFF_S * 2 ** (tries - 1) * random.uniform(0.75, 1.25)) if tries else 0.0  # noqa: S311
    return max(wait, wait_asked(head)) if head is not None else wait
