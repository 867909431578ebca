"""S3 object stores: files' bytes by key in a bucket, over our own wire.

Keeps bytes and names only: no modes, no modification times (LastModified is when it was written), no links, no
folders.  Keys that end in '/' are folder markers of other programs and are left out.  Names are UTF-8 of up to 1,024
bytes without control characters: services accept them, then lose or rename them (rclone writes U+2401 for 0x01).
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from operator import itemgetter
from typing import Final

from dls.logistics import credentials as sources
from dls.logistics import digest as digests
from dls.logistics import names as legal
from dls.logistics.credentials import S3Credentials
from dls.logistics.entry import FILE, NO_MODE, NO_TIME, Entry
from dls.logistics.errors import Conflict, DlsError, Invalid, NotFound, Unsupported
from dls.logistics.names import Names, show
from dls.logistics.store import Can, Done, Got, Item, Keeps, Space, Stat, Want, closed, unsupported
from dls.logistics.stores.http_address import Pair, quote
from dls.logistics.stores.http_pool import TRIES, Job
from dls.logistics.stores.http_wire import Reply
from dls.logistics.stores.s3_batch import batch
from dls.logistics.stores.s3_errors import refused
from dls.logistics.stores.s3_listing import Listed, bare_etag, in_common, is_utf8, listing
from dls.logistics.stores.s3_upload import S3Upload, arrived, is_md5, md5
from dls.logistics.stores.s3_wipe import wipe
from dls.logistics.stores.s3_wire import Wire
from dls.logistics.url import Url

LONGEST_KEY: Final = 1024
_BUCKET = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._-]{0,254}\Z")
_CONTROL = bytes((*range(1, 32), 127))
_ARCHIVED = (b"GLACIER", b"DEEP_ARCHIVE")
_SUMS = ("crc32", "crc32c", "crc64nvme", "sha1", "sha256")
_BY_LISTING = 50  # keys from which asking for pages of 1,000 names beats one HEAD each
_SPARSE = 10  # names listed for each one wanted at which it does not
_SERVICE = frozenset({"wrong-credentials", "credentials-expired", "clock-skew", "no-bucket", "wrong-region"})
"""Refusals that every request of a batch would meet."""


class S3Store:
    """A prefix of a bucket.  Safe to use from many threads.

    `credentials` are the user's own (`dls.logistics.credentials`) unless given; `concurrency` is the number of
    connections of a batch, `timeout_s` the silence that counts as hanging; `part_bytes` is the longest part of a name
    where the service keeps objects as files (255 on rclone and MinIO; S3 itself has no limit).
    """

    can = frozenset({Can.UPLOAD, Can.SUMS})
    keeps = Keeps(frozenset({FILE}))

    def __init__(
        self,
        url: Url,
        credentials: S3Credentials | None = None,
        *,
        concurrency: int = 8,
        timeout_s: float = 30,
        tries: int = TRIES,
        part_bytes: int = 0,
        wire: Wire | None = None,
    ) -> None:
        credentials = credentials or sources.s3()
        bucket, prefix = url.place.encode(), url.path
        endpoint = credentials.endpoint or f"https://s3.{credentials.region}.amazonaws.com"
        if url.scheme != "s3":
            endpoint = f"{url.scheme.removeprefix('s3+')}://{url.place}"
            bucket, _, prefix = url.path.partition(b"/")
        if not _BUCKET.match(bucket):
            raise Invalid(f"no bucket in {url}", code="bad-url", remedy="write s3://bucket/prefix")
        self.url = str(url)
        self._place, self._credentials = url, credentials
        self._root = prefix + b"/" if prefix else b""
        self.room = len(self._root)
        self.names = Names(part_bytes=part_bytes, key_bytes=LONGEST_KEY, utf8=True, forbidden=_CONTROL)
        self._bucket = quote(b"/" + bucket)
        self._base = quote(b"/" + bucket + b"/" + self._root)
        self._owner = wire is None
        self.wire = wire or Wire(endpoint, credentials, concurrency=concurrency, timeout_s=timeout_s, tries=tries)
        """The connections, shared with every store `below`; counts requests."""
        self._closed = False

    def __repr__(self) -> str:
        return f"S3Store({self.url!r})"

    # --------------------------------------------------------------------------------------------------------- names

    def _open(self) -> None:
        if self._closed or self.wire.closed:
            raise closed(self.url)

    def _found(self, key: bytes) -> bytes:
        """The target of a key that is looked for.  NotFound for names that no service can have."""
        self._open()
        legal.check(key)
        if len(key) + self.room > LONGEST_KEY or not is_utf8(key):
            raise self._missing(key)
        return self._base + quote(key)

    def _made(self, key: bytes) -> bytes:
        """The target of a key that is written."""
        self._open()
        self.names.check(legal.check(key), self.url, self.room)
        return self._base + quote(key)

    def _missing(self, key: bytes) -> NotFound:
        return NotFound(
            f"there is no {self.url}/{show(key)}", code="no-such-key", key=show(key), store=self.url, remedy="check it"
        )

    def _refused(self, reply: Reply, key: bytes | None = None) -> DlsError:
        return refused(reply, self.url, self._credentials.source, key)

    # ---------------------------------------------------------------------------------------------------------- verbs

    def stat(self, key: bytes) -> Stat:
        reply = self._head(key)
        size = _length(reply)
        archived = reply.header(b"x-amz-storage-class") in _ARCHIVED
        online = not archived or b'ongoing-request="false"' in reply.header(b"x-amz-restore")
        return Stat(Entry(key, FILE, size), _stamp(bare_etag(reply.header(b"etag")), size), online)

    def _head(self, key: bytes, headers: Sequence[Pair] = ()) -> Reply:
        target = self._found(key)
        reply = self.wire.ask(Job(b"HEAD", target, headers=headers))
        if reply.status != 200:
            if reply.status not in (403, 404):  # the answer to a HEAD has no body that says why: ask for one
                raise self._refused(reply, key)
            why = self.wire.ask(Job(b"GET", target, headers=((b"range", b"bytes=0-0"),)))
            raise self._refused(why if why.status >= 400 and why.status != 416 else reply, key)
        return reply

    def _entries(self, prefix: bytes) -> Iterator[tuple[Entry, bytes]]:
        skip = self.room
        for page in self._pages(prefix):
            self._open()
            for full, size, etag in page:
                path = full[skip:]
                if path.endswith(b"/") or not path or legal.is_hidden(path):
                    continue
                yield Entry(legal.check(path), FILE, size), _stamp(etag, size)

    def _pages(self, prefix: bytes, after: bytes = b"") -> Iterator[Sequence[Listed]]:
        if not is_utf8(prefix):
            # A prefix may end inside a character: list what precedes it.
            head = prefix.decode("utf-8", "ignore").encode()
            if prefix.startswith(head):
                full = self._root + prefix
                for page in self._pages(head, after):
                    yield [one for one in page if one.key.startswith(full)]
            return
        yield from listing(self.wire, self._bucket, self._root + prefix, self._refused, after=after)

    def read(self, key: bytes, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        return self.read_version(key, b"", start, stop)

    def read_version(self, key: bytes, stamp: bytes, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        target, etag = self._found(key), stamp.rpartition(b"\0")[0]
        return self.wire.stream(target, show(key), start, stop, lambda reply: self._refused(reply, key), etag)

    def write(self, key: bytes, chunks: Iterable[bytes], *, mode: int = NO_MODE, mtime_ns: int = NO_TIME) -> bytes:
        target, source = self._made(key), iter(chunks)
        held, last = _gathered(source, digests.BLOCK)
        if last:
            return self._write_whole(key, target, held)
        upload = self._upload(key, target, 0)
        try:
            number = total = 0
            while held:
                upload.write(number, held)
                number, total = number + 1, total + len(held)
                held = b""  # one part in memory at a time
                if not last:
                    # At most 10,000 parts: they double every 2,000, which holds a terabyte of unknown length.
                    held, last = _gathered(source, digests.BLOCK << number // 2000)
            upload.measured(number, total)
            return upload.finish()
        except BaseException:
            with suppress(DlsError):
                upload.abort()
            raise

    def _write_whole(self, key: bytes, target: bytes, body: bytes | bytearray) -> bytes:
        digest = md5(body)
        reply = self.wire.ask(Job(b"PUT", target, headers=_md5_header(digest), body=body))
        if reply.status != 200:
            raise self._refused(reply, key)
        etag = arrived(reply, digest)
        return _stamp(etag, len(body)) if etag else self.stat(key).stamp

    def delete(self, key: bytes) -> None:
        try:
            # Looked for first: rclone, asked to delete a/b where only a is, deletes a.
            self._head(key)
        except NotFound as absent:
            if absent.code != "no-such-key":
                raise
            return
        reply = self.wire.ask(Job(b"DELETE", self._found(key)))
        if reply.status not in (200, 204):
            error = self._refused(reply, key)
            if error.code != "no-such-key":
                raise error

    def stamps(self, keys: Sequence[bytes]) -> list[bytes]:
        self._open()
        for key in keys:
            legal.check(key)
        found: dict[bytes, bytes] = {}
        rest: Sequence[bytes] = keys
        if len(keys) >= _BY_LISTING and all(a < b for a, b in pairwise(keys)):
            rest = keys[self._stamps_listed(keys, found) :]
        jobs = (
            Job(b"HEAD", self._base + quote(key), key=key)
            for key in rest
            if len(key) + self.room <= LONGEST_KEY and is_utf8(key)
        )
        for job, reply in batch(self.wire, jobs, self._bucket, self._fatal):
            if isinstance(reply, DlsError):
                raise reply
            if reply.status == 200:
                found[job.key] = _stamp(bare_etag(reply.header(b"etag")), _length(reply))
            elif reply.status != 404:
                raise self._refused(reply, job.key)
        return [found.get(key, b"") for key in keys]

    def _stamps_listed(self, keys: Sequence[bytes], found: dict[bytes, bytes]) -> int:
        """Fill `found` by merging sorted keys with a listing; how many keys it settled before it seemed too sparse."""
        shared = in_common(keys[0], keys[-1]).decode("utf-8", "ignore").encode()
        after = keys[0].decode("utf-8", "ignore")[:-1].encode()
        at, seen, skip = 0, 0, self.room
        for page in self._pages(shared, self._root + after if after > shared else b""):
            for full, size, etag in page:
                path = full[skip:]
                while at < len(keys) and keys[at] < path:
                    at += 1
                if at < len(keys) and keys[at] == path:
                    found[path] = _stamp(etag, size)
                    at += 1
            seen += len(page)
            if at == len(keys) or seen > _SPARSE * (at + 100):
                return at
        return len(keys)

    def fetch(self, wants: Sequence[Want]) -> Iterator[Got]:
        self._open()
        return self._fetched(wants)

    def _fetched(self, wants: Sequence[Want]) -> Iterator[Got]:
        bad: list[Got] = []

        def jobs() -> Iterator[Job]:
            for i, key, size in wants:
                try:
                    yield Job(b"GET", self._found(key), i=i, key=key, size=size)
                except DlsError as error:
                    bad.append(Got(i, b"", error))

        for job, reply in batch(self.wire, jobs(), self._bucket, self._fatal):
            if isinstance(reply, DlsError):
                yield Got(job.i, b"", reply)
            elif reply.status == 200 and len(reply.body) == job.size:
                yield Got(job.i, reply.body)
            else:
                yield Got(job.i, b"", self._not_got(job, reply))
            while bad:
                yield bad.pop()
        yield from bad

    def _not_got(self, job: Job, reply: Reply) -> DlsError:
        if reply.status != 200:
            return self._refused(reply, job.key)
        has = reply.head.length if reply.head.length >= 0 else len(reply.body)
        return Conflict(
            f"{self.url}/{show(job.key)} has {has} bytes, expected {job.size}",
            code="source-changed",
            key=show(job.key),
            store=self.url,
            remedy="register it again, or run the same again once nobody writes there",
        )

    def _fatal(self, reply: Reply) -> DlsError | None:
        """The refusal that every request of a batch would meet, if this is one."""
        error = self._refused(reply)
        return error if error.code in _SERVICE else None

    def put(self, items: Iterable[Item]) -> Iterator[Done]:
        self._open()
        return self._stored(items)

    def _stored(self, items: Iterable[Item]) -> Iterator[Done]:
        bad: list[Done] = []
        sent: dict[int, bytes] = {}

        def jobs() -> Iterator[Job]:
            for item in items:
                try:
                    target = self._made(item.key)
                except DlsError as error:
                    bad.append(Done(item.i, b"", error))
                    continue
                sent[item.i] = digest = md5(item.body)
                yield Job(b"PUT", target, b"", _md5_header(digest), item.body, i=item.i, key=item.key)

        for job, reply in batch(self.wire, jobs(), self._bucket, self._fatal):
            yield self._put_done(job, reply, sent.pop(job.i))
            while bad:
                yield bad.pop()
        yield from bad

    def _put_done(self, job: Job, reply: Reply | DlsError, digest: bytes) -> Done:
        if isinstance(reply, DlsError):
            return Done(job.i, b"", reply)
        if reply.status != 200:
            return Done(job.i, b"", self._refused(reply, job.key))
        try:
            etag = arrived(reply, digest)
            return Done(job.i, _stamp(etag, len(job.body or b"")) if etag else self.stat(job.key).stamp)
        except DlsError as error:
            return Done(job.i, b"", error)

    def make(self, entries: Sequence[Entry]) -> None:
        self._open()
        for entry in entries:
            raise Unsupported(
                f"{self.url} keeps no links, folders or hard links: {show(entry.path)}",
                code="kind-not-kept",
                key=show(entry.path),
                store=self.url,
                remedy="pack the tree into one image, or choose another storage",
            )

    def below(self, prefix: bytes, *, staging: bool = False) -> S3Store:
        self._open()
        legal.check(prefix.replace(legal.HIDDEN, b"dls-"))
        self.names.check(prefix, self.url, self.room)
        return S3Store(self._place.below(prefix), self._credentials, part_bytes=self.names.part_bytes, wire=self.wire)

    def exists(self) -> bool:
        self._open()
        pages = listing(self.wire, self._bucket, self._root, self._refused, most=1)
        return any(pages)

    def wipe(self) -> None:
        self._open()
        wipe(self.wire, self._bucket, self._root, self._refused)

    def upload(
        self, key: bytes, size: int, *, token: str = "", mode: int = NO_MODE, mtime_ns: int = NO_TIME
    ) -> S3Upload:
        return self._upload(key, self._made(key), size, token)

    def _upload(self, key: bytes, target: bytes, size: int, token: str = "") -> S3Upload:
        return S3Upload(
            self.wire, target, size, lambda reply: self._refused(reply, key), lambda: self.stat(key).stamp, token
        )

    def sums(self, key: bytes) -> dict[str, str]:
        reply = self._head(key, ((b"x-amz-checksum-mode", b"ENABLED"),))
        out: dict[str, str] = {}
        for name in _SUMS:
            value = reply.header(b"x-amz-checksum-" + name.encode())
            if value and b"-" not in value and reply.header(b"x-amz-checksum-type") != b"COMPOSITE":
                out[name] = b64decode(value).hex()
        etag = bare_etag(reply.header(b"etag"))
        if is_md5(reply, etag):
            out["md5"] = etag.decode().lower()
        return out

    def move(self, pairs: Sequence[tuple[bytes, bytes]], *, over: bool = False) -> None:
        raise self._cannot("move")

    def sync(self) -> None:
        raise self._cannot("sync")

    def space(self) -> Space:
        raise self._cannot("space")

    def recall(self, keys: Sequence[bytes]) -> None:
        raise self._cannot("recall")

    def _cannot(self, verb: str) -> DlsError:
        self._open()
        return unsupported(self.url, verb)

    def list(self, prefix: bytes = b"") -> Iterator[Entry]:
        self._open()
        return map(itemgetter(0), self._entries(prefix))

    def list_stamped(self) -> Iterator[tuple[Entry, bytes]]:
        self._open()
        return self._entries(b"")

    def close(self) -> None:
        """A store opened by `below` leaves the connections to the one that it came from."""
        self._closed = True
        if self._owner:
            self.wire.close()


def _stamp(etag: bytes, size: int) -> bytes:
    """What `stat`, `stamps` and every write give for the same content.  No version id: listings do not have it."""
    return b"%b\0%d" % (etag, size)


def _length(reply: Reply) -> int:
    """The size that a HEAD reports."""
    try:
        return int(reply.header(b"content-length"))
    except ValueError:
        raise Invalid("the service does not say how large an object is", code="not-s3") from None


def _md5_header(digest: bytes) -> tuple[Pair, ...]:
    return ((b"content-md5", b64encode(digest)),)


def _gathered(chunks: Iterator[bytes], size: int) -> tuple[bytes | bytearray, bool]:
    """The next `size` bytes or a little more, and whether they are the last."""
    first = next(chunks, None)
    if first is None:
        return b"", True
    if len(first) >= size:
        return first, False
    held = bytearray(first)
    for chunk in chunks:
        held += chunk
        if len(held) >= size:
            return held, False
    return held, True
