"""One large object written to S3 by parts (multipart upload), from any thread, resumable by its upload id."""

from __future__ import annotations

import hashlib
import re
import threading
from base64 import b64encode
from collections.abc import Callable
from typing import Final

from dls.logistics import digest as digests
from dls.logistics.errors import Conflict, Corrupt, DlsError, NotFound, Unsupported
from dls.logistics.stores.http_pool import Job
from dls.logistics.stores.http_wire import Reply
from dls.logistics.stores.markup import tag
from dls.logistics.stores.s3_listing import bare_etag
from dls.logistics.stores.s3_sign import query
from dls.logistics.stores.s3_wire import Wire

MOST_PARTS: Final = 10_000
LARGEST: Final = 5 << 40
"""Bytes of the largest object, https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html"""

_MD5 = re.compile(rb"[0-9A-Fa-f]{32}\Z")


def part_size(size: int) -> int:
    """Bytes of a part: the least multiple of the digest block that needs no more than 10,000 parts."""
    if size > LARGEST:
        raise Unsupported(
            f"{size} bytes in one object, the largest on S3 has {LARGEST}",
            code="too-large",
            remedy="split it, or choose another storage",
        )
    return digests.BLOCK * max(1, -(-size // (digests.BLOCK * MOST_PARTS)))


def md5(data: bytes | bytearray | memoryview) -> bytes:
    """MD5, which S3 asks for; it guards the way, not the content."""
    return hashlib.md5(data, usedforsecurity=False).digest()


def arrived(reply: Reply, sent: bytes) -> bytes:
    """The ETag of a body that was put, without quotes.  Corrupt where it is an MD5 and not `sent`."""
    etag = bare_etag(reply.header(b"etag"))
    if is_md5(reply, etag) and etag.lower() != sent.hex().encode():
        raise Corrupt("the service holds other bytes than were sent", code="changed-on-the-wire", remedy="run it again")
    return etag


def is_md5(reply: Reply, etag: bytes) -> bool:
    """Whether an ETag is the MD5 of the content.  With keys of KMS or of the customer it only looks like one."""
    if not _MD5.match(etag) or reply.header(b"x-amz-server-side-encryption").startswith(b"aws:kms"):
        return False
    return not reply.header(b"x-amz-server-side-encryption-customer-algorithm")


class S3Upload:
    """Parts may be written in any order, from any thread; a receipt is the part's ETag."""

    def __init__(
        self,
        wire: Wire,
        target: bytes,
        size: int,
        refused: Callable[[Reply], DlsError],
        stamp: Callable[[], bytes],
        token: str = "",
    ) -> None:
        self._wire, self._target, self._size = wire, target, size
        self._refused, self._stamp = refused, stamp
        self.part = part_size(size)
        self._count = max(1, -(-size // self.part))
        self._lock = threading.Lock()
        self._etags: dict[int, str] = {}  # parts that we know to be there, by number
        self._held: dict[int, tuple[str, int]] = {}  # ETag and size of parts that the service holds
        self._finished = b""  # the object's stamp, where an earlier process finished it
        self._told = False  # ETags here are MD5s
        self._over = False
        self.token = token or self._begin()
        if token:
            self._held = self._parts()

    def _begin(self) -> str:
        # On a connection of its own: a stale one would have it sent twice, and the first one stay open for ever.
        reply = self._wire.ask(Job(b"POST", self._target, b"uploads="), fresh=True)
        if reply.status != 200:
            raise self._refused(reply)
        return tag(reply.body, b"UploadId").decode()

    def _args(self, **more: int) -> bytes:
        pairs = [(b"uploadId", self.token.encode())]
        pairs += [(name.encode(), b"%d" % value) for name, value in more.items()]
        return query(pairs)

    def _parts(self) -> dict[int, tuple[str, int]]:
        """ETag and size of the parts that the service holds, by number; {} and `_finished` where it was finished."""
        found: dict[int, tuple[str, int]] = {}
        marker = 0
        while True:
            args = query([(b"uploadId", self.token.encode()), (b"part-number-marker", b"%d" % marker)])
            reply = self._wire.ask(Job(b"GET", self._target, args))
            if reply.status == 404:
                self._finished = self._gone(reply)
                return {}
            if reply.status != 200:
                raise self._refused(reply)
            for block in reply.body.split(b"<Part>")[1:]:
                marker = int(tag(block, b"PartNumber"))
                found[marker - 1] = bare_etag(tag(block, b"ETag")).decode(), int(tag(block, b"Size"))
            if tag(reply.body, b"IsTruncated") != b"true":
                return found

    def _gone(self, reply: Reply) -> bytes:
        """The upload is not known any more: fine where it was finished, which `finish` then proves by the receipts."""
        try:
            stamp = self._stamp()
        except NotFound:
            stamp = b""
        etag, _, size = stamp.partition(b"\0")
        if not (etag.endswith(b"-%d" % self._count) and size == b"%d" % self._size):
            raise NotFound("the upload is gone", code="no-upload", remedy="begin it anew") from self._refused(reply)
        return stamp

    def write(self, number: int, data: bytes | bytearray | memoryview) -> str:
        """Write part `number` (from 0); its ETag, which is its MD5 nearly everywhere, is compared before `finish` can
        show it.  The service is asked to check too (Content-MD5) until its ETags have proven to be MD5s: a second MD5
        there made uploads to rclone 1.6 times slower."""
        digest = md5(data)
        headers = () if self._told else ((b"content-md5", b64encode(digest)),)
        job = Job(b"PUT", self._target, self._args(partNumber=number + 1), headers, data)
        reply = self._wire.ask(job)
        if reply.status == 200:
            etag = arrived(reply, digest).decode() or digest.hex()
            self._told = etag == digest.hex()
        elif reply.status == 501 and self._parts().get(number) == (digest.hex(), len(data)):
            etag = digest.hex()  # rclone takes a part once: it was this one
        else:
            raise self._refused(reply)
        with self._lock:
            self._etags[number] = etag
            self._held[number] = etag, len(data)
        return etag

    def back(self, number: int, receipt: str) -> bool:
        """Whether the service holds part `number` as the receipt says, by its own list of parts."""
        length = min(self.part, self._size - number * self.part)
        there = bool(receipt) and bool(self._finished or self._held.get(number) == (receipt, length))
        if there:
            with self._lock:
                self._etags[number] = receipt
        return there

    def measured(self, count: int, size: int) -> None:
        """Say how much it became, where that was not known at the beginning."""
        self._count, self._size = count, size

    def finish(self) -> bytes:
        """Show the object; its stamp.  Conflict where parts are missing, or an earlier finish made another object."""
        if missing := self._count - len(self._etags):
            raise Conflict(f"{missing} parts were never written", code="upload-incomplete", remedy="write them first")
        if self._finished:
            return self._same(self._finished)
        parts = "".join(
            f"<Part><PartNumber>{n + 1}</PartNumber><ETag>&quot;{etag}&quot;</ETag></Part>"
            for n, etag in sorted(self._etags.items())
        )
        body = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()
        job = Job(b"POST", self._target, self._args(), ((b"content-type", b"application/xml"),), body)
        reply = self._wire.ask(job)
        code = tag(reply.body, b"Code")
        if code == b"NoSuchUpload" and job.sent > 1:  # sent twice: the first one was taken, its answer lost
            stamp = self._same(self._stamp())
        elif reply.status != 200 or b"<Error>" in reply.body:  # AWS may report an error after a status of 200
            raise self._refused(reply)
        else:
            stamp = self._stamp()
        if stamp.partition(b"\0")[2] != b"%d" % self._size:
            raise Conflict("somebody wrote this object meanwhile", code="target-changed", remedy="run the same again")
        self._over = True
        return stamp

    def _same(self, stamp: bytes) -> bytes:
        """The stamp, if it is that of an object made of our parts: S3's ETag is the MD5 of their MD5s."""
        joined = b"".join(bytes.fromhex(self._etags[n]) for n in range(self._count))
        if stamp.partition(b"\0")[0] != md5(joined).hex().encode() + b"-%d" % self._count:
            raise Conflict("the upload was finished by other parts", code="target-changed", remedy="begin it anew")
        self._over = True
        return stamp

    def close(self) -> None:
        """Nothing is held here: connections belong to the store."""

    def abort(self) -> None:
        """Free the parts that the service holds."""
        if self._over or self._finished:
            return
        reply = self._wire.ask(Job(b"DELETE", self._target, self._args()))
        if reply.status not in (200, 204, 404):
            raise self._refused(reply)
        self._over = True
