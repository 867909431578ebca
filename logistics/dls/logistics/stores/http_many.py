"""Many small requests at once over HTTP: pipelined batches, one for each server that redirects lead to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from dls.logistics.errors import DlsError, Invalid
from dls.logistics.stores.http_batch import batch, in_order
from dls.logistics.stores.http_headers import content_range
from dls.logistics.stores.http_origins import MOVED, REDIRECTS, FolderFound, Origin, Origins, Where
from dls.logistics.stores.http_pool import Job
from dls.logistics.stores.http_wire import Reply

Outcome = tuple[Job, Reply | DlsError | FolderFound]
_LEARN_S = 5.0
_ASKED = (3, 1, 4, 2)  # bytes asked for, in this order, to learn whether they are answered in it
_KEPT = 10_000  # redirected requests kept for the next round


def many(
    origins: Origins, jobs: Iterable[tuple[Origin, Job]], fatal: Callable[[Reply], DlsError | None]
) -> Iterator[Outcome]:
    """Each job's outcome once, in any order: a reply that is no redirect, an error, or that it is a folder.

    The first round goes to one server; what it sends elsewhere is asked for there, in rounds of their own.
    """
    first = iter(jobs)
    head = next(first, None)
    if head is None:
        return
    origin, job = head
    yield from _round(origins, origin, _chain(job, first), fatal, REDIRECTS)


def _chain(job: Job, rest: Iterator[tuple[Origin, Job]]) -> Iterator[Job]:
    yield job
    for _, one in rest:
        yield one


def _round(
    origins: Origins, origin: Origin, jobs: Iterable[Job], fatal: Callable[[Reply], DlsError | None], left: int
) -> Iterator[Outcome]:
    pool, known = origins.pool(origin), _Known()
    moved: dict[Origin, list[Job]] = {}
    count = 0

    def probe() -> bool | None:
        if known.target is None:
            return None
        asked = [Job(b"GET", known.target, headers=((b"range", b"bytes=0-%d" % (n - 1)),)) for n in _ASKED]
        return in_order(pool, asked, _right, _LEARN_S, most=_ASKED[2])

    for job, reply in batch(pool, jobs, probe, fatal):
        if isinstance(reply, DlsError):
            yield job, reply
            continue
        known.see(job, reply)
        if reply.status not in MOVED:
            yield job, reply
            continue
        try:
            if not left:
                raise Invalid(
                    f"{origins.home} sends on more than {REDIRECTS} times",
                    code="bad-redirect",
                    service=str(origins.home),
                    remedy="write the address that it leads to",
                )
            there = origins.moved(Where(origin, job.target), reply.head)
            moved.setdefault(there.origin, []).append(_again(job, there.target))
            count += 1
        except (DlsError, FolderFound) as told:
            yield job, told
        if count >= _KEPT:
            yield from _elsewhere(origins, moved, fatal, left)
            count = 0
    yield from _elsewhere(origins, moved, fatal, left)


def _elsewhere(
    origins: Origins, moved: dict[Origin, list[Job]], fatal: Callable[[Reply], DlsError | None], left: int
) -> Iterator[Outcome]:
    while moved:
        there, jobs = moved.popitem()
        yield from _round(origins, there, jobs, fatal, left - 1)


def _again(job: Job, target: bytes) -> Job:
    return Job(job.method, target, headers=job.headers, i=job.i, key=job.key, size=job.size)


class _Known:
    """A target of which some bytes can be asked for to learn how a server behaves."""

    def __init__(self) -> None:
        self.target: bytes | None = None

    def see(self, job: Job, reply: Reply) -> None:
        """Note a file of at least as many bytes as are asked for."""
        if self.target is None and reply.status == 200 and _says(reply) >= _ASKED[2]:
            self.target = job.target


def _says(reply: Reply) -> int:
    said = reply.header(b"content-length")
    return int(said) if said.isdigit() else 0


def _right(replies: Sequence[Reply]) -> bool:
    found = [content_range(reply.header(b"content-range")) for reply in replies if reply.status == 206]
    return [said and said.stop for said in found] == list(_ASKED)
