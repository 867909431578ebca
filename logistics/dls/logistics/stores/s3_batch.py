"""Many small S3 requests at once, and how it is learnt whether a service answers in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from dls.logistics.errors import DlsError
from dls.logistics.stores import http_batch
from dls.logistics.stores.http_batch import DEPTH, Outcome, in_order
from dls.logistics.stores.http_pool import Job
from dls.logistics.stores.http_wire import Reply
from dls.logistics.stores.markup import tag
from dls.logistics.stores.s3_sign import query
from dls.logistics.stores.s3_wire import Wire

__all__ = ["DEPTH", "batch"]

_LEARN_S = 5.0


def batch(
    wire: Wire,
    jobs: Iterable[Job],
    bucket: bytes,
    fatal: Callable[[Reply], DlsError | None] = lambda reply: None,
) -> Iterator[Outcome]:
    """Send all jobs and give each one's outcome once, in any order; takes jobs as it has room.

    `bucket` is the quoted target of a bucket whose listing may be asked for while learning what the service can:
    four listings of nothing that differ in the number of names they ask for, which a listing repeats.  `fatal` tells
    the refusals that every other job would meet.
    """
    asked = [Job(b"GET", bucket, query(_listing(most))) for most in (3, 1, 4, 2)]
    return http_batch.batch(wire, jobs, lambda: in_order(wire, asked, _right, _LEARN_S), fatal)


def _right(replies: Sequence[Reply]) -> bool:
    found = [tag(reply.body, b"MaxKeys") for reply in replies if reply.status == 200]
    return found == [b"3", b"1", b"4", b"2"]


def _listing(most: int) -> list[tuple[bytes, bytes]]:
    return [(b"list-type", b"2"), (b"max-keys", b"%d" % most), (b"prefix", b".dls-none/")]
