"""Many small requests at once: one polling loop over a few connections, in the caller's thread.

Requests are sent ahead of their replies (HTTP/1.1 pipelining) only after the service has shown that it answers in
order, and never again once it breaks that.  A failure of the service itself (down, hanging, credentials refused) is
the outcome of every job that is left, without asking for each.
"""

from __future__ import annotations

import heapq
import select
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, count
from typing import Final

from dls.logistics.errors import DlsError
from dls.logistics.stores.http_pool import Job, Pool, pause
from dls.logistics.stores.http_wire import Connection, CutError, Reply

DEPTH: Final = 8
"""Requests ahead of their replies on one connection, where the service allows it."""
_LEARN_AFTER = 64  # replies of a batch after which asking how deep we may go is worth four requests
_MANNERS_S = 1.0  # how long a batch that is left early listens for what it has begun to write
_AHEAD = 1 << 20  # bytes expected or queued on one connection beyond which no request is sent ahead
_MARGIN = 64 << 10  # a body this much longer than expected is not read: an error's text is shorter
_TICK_S = 1.0

Outcome = tuple[Job, Reply | DlsError]
Probe = Callable[[], bool | None]
"""Asks the service a little, to find out whether it answers requests sent ahead in their order; None: not now."""


def batch(
    wire: Pool,
    jobs: Iterable[Job],
    probe: Probe,
    fatal: Callable[[Reply], DlsError | None] = lambda reply: None,
) -> Iterator[Outcome]:
    """Send all jobs and give each one's outcome once, in any order; takes jobs as it has room.

    `probe` is asked once, after some answers; `fatal` tells the refusals that every other job would meet.
    """
    loop = _Loop(wire, iter(jobs), probe, fatal)
    try:
        try:
            yield from loop.run()
            return
        except DlsError as error:
            if loop.outside:  # the error of whoever gives the jobs
                raise
            failure = error
            loop.manners_s = 0.0
        left = loop.left()
    finally:
        loop.leave()
    yield from loop.done
    for job in chain(left, loop.jobs):
        yield job, failure


class _Loop:
    """The state of one batch."""

    def __init__(
        self, wire: Pool, jobs: Iterator[Job], probe: Probe, fatal: Callable[[Reply], DlsError | None]
    ) -> None:
        self.jobs = jobs
        self.outside = False
        """While the next job is asked for."""
        self.done: list[Outcome] = []
        """Outcomes not given yet."""
        self.manners_s = _MANNERS_S
        self._wire, self._probe, self._fatal = wire, probe, fatal
        self._poll = select.epoll()
        self._conns: dict[int, Connection] = {}
        self._again: list[tuple[float, int, Job]] = []  # due times of jobs to be sent again
        self._numbers = count()
        self._more = True
        self._answers = 0
        self._whole = time.monotonic()  # when the last whole answer came
        self._heard = time.monotonic()  # when the service last sent anything

    def left(self) -> list[Job]:
        """Jobs taken and without an outcome."""
        return [job for conn in self._conns.values() for job in conn.jobs] + [job for _, _, job in self._again]

    def leave(self) -> None:
        """Give idle connections back, close those with replies under way; but hear what became of objects that are
        being written, for a little while: written again at once, some services would do both at the same time."""
        until = time.monotonic() + self.manners_s
        while (left := until - time.monotonic()) > 0:
            writing = [c for c in self._conns.values() if any(job.method == b"PUT" for job in c.jobs)]
            if not writing or not all(self._heard_out(conn) for conn in writing):
                break
            self._poll.poll(min(left, _TICK_S))
        for conn in list(self._conns.values()):
            self._drop(conn, keep=not conn.jobs)
        self._poll.close()

    @staticmethod
    def _heard_out(conn: Connection) -> bool:
        """Take what a connection has to say of its jobs; whether it still makes sense to listen."""
        try:
            conn.flush()
            if not conn.receive():
                return False
            while conn.jobs and (reply := conn.take(conn.jobs[0].method == b"HEAD")):
                conn.jobs.popleft()
                if not reply.head.keep:
                    return False
        except OSError as exc:
            return conn.wants(exc)
        except (CutError, DlsError):
            return False
        return True

    def run(self) -> Iterator[Outcome]:
        first: list[Job] = []
        while len(first) < self._wire.concurrency and (job := self._next()):
            first.append(job)
        if not first:
            return
        for job in first:
            self._later(job, 0.0)
        for conn in self._wire.borrow_many(len(first)):
            self._take_in(conn)
        self._heard = time.monotonic()
        while True:
            for conn in list(self._conns.values()):
                if not conn.jobs:
                    self._top_up(conn)
            if not any(conn.jobs for conn in self._conns.values()):
                if not self._again:
                    return
                time.sleep(max(0.0, self._again[0][0] - time.monotonic()))
                continue
            yield from self._turn()

    def _turn(self) -> Iterator[Outcome]:
        events = self._poll.poll(min(_TICK_S, self._wire.address.timeout_s / 4))
        for fd, event in events:
            conn = self._conns.get(fd)
            if conn is None:
                continue
            if event & ~select.EPOLLOUT:
                self._hear(conn)
            if conn.sock.fileno() == fd and self._conns.get(fd) is conn:
                self._top_up(conn)
        if events:
            self._heard = time.monotonic()
        else:
            self._look_for_silence()
        done, self.done = self.done, []
        self._answers += len(done)
        if not self._wire.depth and self._answers >= _LEARN_AFTER:
            learn(self._wire, self._probe)
        yield from done

    # ------------------------------------------------------------------------------------------------------ sending

    def _room(self) -> int:
        """How many jobs may be taken: those asked for and those not yet handed on are bounded together, so that a kill
        costs at most this many requests made again."""
        asked = sum(len(conn.jobs) for conn in self._conns.values())
        return max(0, self._wire.concurrency * DEPTH - asked - len(self.done))

    def _next(self) -> Job | None:
        if self._again and self._again[0][0] <= time.monotonic():
            return heapq.heappop(self._again)[2]
        if self._more:
            self.outside = True
            job = next(self.jobs, None)
            self.outside = False
            if job is not None:
                return job
            self._more = False
        return None

    def _later(self, job: Job, seconds: float) -> None:
        heapq.heappush(self._again, (time.monotonic() + seconds if seconds else 0.0, next(self._numbers), job))

    def _top_up(self, conn: Connection) -> None:
        """Send what fits ahead on this connection."""
        if not conn.jobs:
            conn.deep = False
        elif conn.jobs[-1].alone:
            return
        depth, small = self._wire.depth or 1, []
        ahead = sum(job.size for job in conn.jobs) + sum(map(len, conn.out))
        room = self._room()
        while len(conn.jobs) < depth and (not conn.jobs or ahead < _AHEAD) and room and (job := self._next()):
            room -= 1
            if not conn.jobs:
                conn.used = time.monotonic()
            elif job.alone:
                self._later(job, 0.0)
                break
            else:
                conn.deep = True
            conn.jobs.append(job)
            ahead += job.size + (len(job.body) if job.body else 0)
            ready = self._wire.ready(job)
            small.append(ready[0])
            if len(ready) > 1:
                conn.out.append(memoryview(b"".join(small)))
                conn.out.extend(ready[1:])
                small = []
            if job.alone:
                break
        if small:
            conn.out.append(memoryview(b"".join(small)) if len(small) > 1 else small[0])
        if not conn.out:
            return
        try:
            empty = conn.flush()
        except OSError:  # what it has still to say is heard first; then its end shows
            conn.out.clear()
            return
        if conn.blocked == empty:
            conn.blocked = not empty
            self._poll.modify(conn.sock.fileno(), select.EPOLLIN if empty else select.EPOLLIN | select.EPOLLOUT)

    # ------------------------------------------------------------------------------------------------------ hearing

    def _hear(self, conn: Connection) -> None:
        while True:
            try:
                got = conn.receive()
            except OSError as exc:
                if not conn.wants(exc):
                    self._cut(conn, CutError(str(exc)))
                return
            if not got:
                if conn.jobs and (reply := conn.ended()):
                    self._settle(conn, reply)
                if conn.sock.fileno() in self._conns:
                    self._cut(conn, CutError(f"{self._wire.address} closed the connection"))
                return
            conn.used = time.monotonic()
            self._read(conn)
            if conn.sock.fileno() < 0 or not conn.pending():
                return

    def _read(self, conn: Connection) -> None:
        """Take the whole replies that have come."""
        while conn.jobs:
            job = conn.jobs[0]
            reply = conn.take(job.method == b"HEAD", job.size + _MARGIN)
            if reply is None:
                return
            if not self._settle(conn, reply):
                return

    def _settle(self, conn: Connection, reply: Reply) -> bool:
        """One reply; whether the connection goes on."""
        job, self._whole = conn.jobs[0], time.monotonic()
        if self._doubtful(conn, job, reply):
            job.alone = True
            self._later(job, 0.0)
        elif self._wire.busy(reply.head, reply) and self._wire.may_repeat(job):
            self._later(job, pause(job.tries, reply.head))
        elif reply.status >= 300 and (error := self._fatal(reply)):
            raise error
        else:
            self.done.append((job, reply))
        conn.jobs.popleft()
        if not reply.head.keep:
            self._replace(conn)
            return False
        return True

    def _doubtful(self, conn: Connection, job: Job, reply: Reply) -> bool:
        """Whether an object of another length may in truth be another object: it is then asked for again, alone."""
        if job.method != b"GET" or reply.status != 200 or not (conn.deep or job.alone):
            return False
        if len(reply.body) != job.size:
            return not job.alone  # twice the same: that object did change
        if job.alone:
            self._wire.depth = 1
            raise self._wire.address.garbled("replies in another order than their requests")
        return False

    def _cut(self, conn: Connection, why: CutError) -> None:
        """A connection broke: the first of its jobs may be the reason, the others are only sent again.  Where none
        has come whole for long, the service is."""
        if conn.jobs:
            job = conn.jobs.popleft()
            if conn.answered and not conn.begun():  # closed between two requests, which says nothing of this one
                self._later(job, 0.0)
            elif self._wire.may_repeat(job):
                self._later(job, pause(job.tries))
            else:
                if time.monotonic() - self._whole > self._wire.address.timeout_s:
                    conn.jobs.appendleft(job)
                    raise self._wire.lost(why, job.target, amid=False)
                self.done.append((job, self._wire.lost(why, job.target, conn.begun())))
        self._replace(conn)

    def _replace(self, conn: Connection) -> None:
        """Close a connection, queue its jobs again, open another one if there is work for it."""
        for job in conn.jobs:
            self._later(job, 0.0)
        conn.jobs.clear()
        self._drop(conn, keep=False)
        if self._again or self._more:
            try:
                self._take_in(self._wire.borrow())
            except DlsError:
                if not self._conns:
                    raise

    def _look_for_silence(self) -> None:
        """Give up where the service is silent; send the jobs of one silent connection elsewhere where the service has
        gone on answering others."""
        now, limit = time.monotonic(), self._wire.address.timeout_s
        for conn in [c for c in self._conns.values() if c.jobs and now - c.used > limit]:
            went_on = self._heard - conn.used > limit / 4
            if not went_on or not all(self._wire.may_repeat(job) for job in conn.jobs):
                raise self._wire.address.hangs()
            self._replace(conn)

    def _take_in(self, conn: Connection) -> None:
        conn.wait(False)
        conn.deep = conn.blocked = False
        self._conns[conn.sock.fileno()] = conn
        self._poll.register(conn.sock.fileno(), select.EPOLLIN)

    def _drop(self, conn: Connection, *, keep: bool) -> None:
        fd = conn.sock.fileno()
        if fd < 0:  # the store was closed while this batch waited to be taken up again
            self._conns = {number: one for number, one in self._conns.items() if one is not conn}
            return
        del self._conns[fd]
        self._poll.unregister(fd)
        if keep:
            conn.wait(True)
        self._wire.give(conn, keep)


def learn(wire: Pool, probe: Probe) -> None:
    """Find out, once, whether the service answers requests sent ahead in their order."""
    if not wire.learning.acquire(blocking=False):
        return
    try:
        told = probe()
        if told is not None:
            wire.depth = DEPTH if told else 1
    finally:
        wire.learning.release()


def in_order(
    wire: Pool,
    asked: Sequence[Job],
    right: Callable[[Sequence[Reply]], bool],
    patience_s: float,
    most: int = 1 << 20,
) -> bool:
    """Send some requests at once on one connection; whether every answer came, none with a body longer than `most`, and
    they are `right`, in this order."""
    try:
        conn = wire.borrow()
    except DlsError:
        return False
    kept = False
    try:
        conn.sock.settimeout(patience_s)
        conn.send(b"".join(wire.ready(job)[0] for job in asked))
        replies = []
        for job in asked:
            replies.append(conn.reply(job.method == b"HEAD", most))
            if not replies[-1].head.keep:
                return False
        kept = True
        return right(replies)
    except (CutError, DlsError, TimeoutError):
        return False
    finally:
        conn.wait(True)
        wire.give(conn, kept)
