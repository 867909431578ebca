"""Files on an HTTP server, by key below an address; read only.

Keeps bytes and names only.  `Last-Modified` counts seconds and is part of the stamp, not a time that is kept.  Folders
are listed where the server shows an index of them (nginx, Apache, Python's http.server); what the index leaves out
(nginx and Apache: names that begin with a dot) is not listed, and can be read by name all the same.  A `?` is part of a
name: addresses have no queries.  `HTTP_PROXY` and its like are not used.  Rules: `specs/http.md`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter
from typing import Final, NamedTuple

from dls.logistics import credentials as sources
from dls.logistics import names as legal
from dls.logistics.credentials import HttpCredentials
from dls.logistics.entry import FILE, Entry
from dls.logistics.errors import Conflict, DlsError, NotFound, Unsupported
from dls.logistics.names import Names, show
from dls.logistics.store import Can, Got, Keeps, Stamps, Stat, Want, closed
from dls.logistics.stores import http_errors, http_headers, http_index
from dls.logistics.stores.http_address import quote
from dls.logistics.stores.http_many import many
from dls.logistics.stores.http_origins import FolderFound, Opened, Origin, Origins, Where
from dls.logistics.stores.http_pool import TRIES, Job
from dls.logistics.stores.http_read import ENDLESS, Task, reading
from dls.logistics.stores.http_wire import Head, Reply
from dls.logistics.stores.refusing import Refusing
from dls.logistics.url import Url

_NO_HEAD: Final = (400, 403, 405, 501)
"""Answers after which a file is asked for by its first byte: some servers refuse HEAD, or have no rule for it."""
_ABSENT: Final = (404, 410)
_ONE_BYTE = (b"range", b"bytes=0-0")
_LONGEST_INDEX = 256 << 20


class _Facts(NamedTuple):
    """What a server says of one file."""

    size: int
    stamp: bytes
    head: Head


class HttpStore(Refusing):
    """What lies below an address.  Safe to use from many threads, and in a child after a fork.

    `credentials` are the user's own (`dls.logistics.credentials`) unless given; `concurrency` is the number of
    connections of a batch, `timeout_s` the silence that counts as hanging.
    """

    can = frozenset({Can.SUMS})
    keeps = Keeps()
    names = Names()  # nothing is written, so nothing is refused
    why = "over HTTP it is only read"

    def __init__(
        self,
        url: Url,
        credentials: HttpCredentials | None = None,
        *,
        concurrency: int = 8,
        timeout_s: float = 30,
        tries: int = TRIES,
        origins: Origins | None = None,
        nobody: bytes = b"",
    ) -> None:
        self.url = str(url)
        self._place = url
        self._home = Origin.of(url.scheme, url.place)
        self._owner = origins is None
        self.origins = origins or Origins(
            self._home, credentials or sources.http(), concurrency=concurrency, timeout_s=timeout_s, tries=tries
        )
        """The connections, shared with every store `below`."""
        self._nobody = nobody or os.urandom(8)
        self._base = b"/" + url.path + b"/" if url.path else b"/"
        self.room = len(self._base) - 1

    def __repr__(self) -> str:
        return f"HttpStore({self.url!r})"

    # --------------------------------------------------------------------------------------------------------- names

    def _open(self) -> None:
        if self._closed or self.origins.closed:
            raise closed(self.url)

    def _at(self, path: bytes) -> Where:
        return Where(self._home, quote(self._base + path))

    def _found(self, key: bytes) -> Where:
        self._open()
        return self._at(legal.check(key))

    def _missing(self, key: bytes) -> NotFound:
        return NotFound(
            f"there is no {http_errors.place(self.url, key)}",
            code="no-such-key",
            key=show(key),
            store=self.url,
            remedy="check the name",
        )

    def _refused(self, head: Head, key: bytes | None = None) -> DlsError:
        return http_errors.refused(head, self.url, key, self.origins.source, self.origins.how)

    # ------------------------------------------------------------------------------------------------------- reading

    def stat(self, key: bytes) -> Stat:
        facts = self._facts(key)
        return Stat(Entry(key, FILE, facts.size), facts.stamp)

    def _facts(self, key: bytes, headers: tuple[tuple[bytes, bytes], ...] = ()) -> _Facts:
        where = self._found(key)
        try:
            opened = self.origins.ask(b"HEAD", where, headers)
            if opened.head.status in _NO_HEAD or (opened.head.status == 200 and _length(opened.head) < 0):
                opened = self.origins.ask(b"GET", where, (*headers, _ONE_BYTE))
        except FolderFound:
            raise self._missing(key) from None
        return self._told(key, opened.head)

    def _told(self, key: bytes, head: Head) -> _Facts:
        """What a reply to HEAD, or to a GET of one byte, says."""
        if coding := http_headers.encoded(head):
            raise http_errors.coded(self.url, key, coding)
        if head.status == 206:
            said = http_headers.content_range(head.header(b"content-range"))
            size = said.total if said is not None else -1
        elif head.status == 416:
            size = http_headers.nothing_of(head.header(b"content-range"))
            if size:
                raise self._refused(head, key)
        elif head.status == 200:
            size = _length(head)
        else:
            raise self._refused(head, key)
        if size < 0:
            raise http_errors.no_length(self.url, key)
        return _Facts(size, http_headers.stamp(http_headers.version(head), size, self._nobody), head)

    def read(self, key: bytes, start: int = 0, stop: int | None = None, *, stamp: bytes = b"") -> Iterator[bytes]:
        """The bytes in pieces, one round trip on a kept connection for a range of up to a mebibyte.

        With `stamp`, those of that version and no other: Conflict `source-changed` where it is gone.
        """
        where = self._found(key)
        if stop is not None and stop <= start:
            self._facts(key)
            return iter(())
        task = Task(
            self.url,
            key,
            where,
            start,
            ENDLESS if stop is None else stop,
            stamp,
            lambda head: self._refused(head, key),
            lambda: self._facts(key).size,
        )
        try:
            return reading(self.origins, task, self._nobody)
        except FolderFound:
            raise self._missing(key) from None

    def read_version(self, key: bytes, stamp: bytes, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        return self.read(key, start, stop, stamp=stamp)

    def sums(self, key: bytes) -> dict[str, str]:
        return http_headers.sums(self._facts(key, http_headers.WANTED).head)

    def stamps(self, keys: Sequence[bytes]) -> Stamps:
        self._open()
        found = self._many_facts([legal.check(key) for key in keys])
        return [found[key].stamp if key in found else b"" for key in keys]

    def _many_facts(self, keys: Iterable[bytes]) -> dict[bytes, _Facts]:
        """What the server says of many files, those that are not there left out."""
        found: dict[bytes, _Facts] = {}
        jobs = ((self._home, Job(b"HEAD", self._at(key).target, key=key)) for key in keys)
        for job, reply in many(self.origins, jobs, self._fatal):
            if isinstance(reply, FolderFound):
                continue
            if isinstance(reply, DlsError):
                raise reply
            head = reply.head
            try:
                alone = head.status in _NO_HEAD or (head.status == 200 and _length(head) < 0)
                found[job.key] = self._facts(job.key) if alone else self._told(job.key, head)
            except NotFound:
                continue
        return found

    def fetch(self, wants: Sequence[Want]) -> Iterator[Got]:
        self._open()
        return self._fetched(wants)

    def _fetched(self, wants: Sequence[Want]) -> Iterator[Got]:
        bad: list[Got] = []

        def jobs() -> Iterator[tuple[Origin, Job]]:
            for i, key, size in wants:
                try:
                    yield self._home, Job(b"GET", self._found(key).target, i=i, key=key, size=size)
                except DlsError as error:
                    bad.append(Got(i, b"", error))

        for job, reply in many(self.origins, jobs(), self._fatal):
            if isinstance(reply, FolderFound):
                yield Got(job.i, b"", self._missing(job.key))
            elif isinstance(reply, DlsError):
                yield Got(job.i, b"", reply)
            elif (error := self._not_got(job, reply)) is not None:
                yield Got(job.i, b"", error)
            else:
                yield Got(job.i, reply.body)
            while bad:
                yield bad.pop()
        yield from bad

    def _not_got(self, job: Job, reply: Reply) -> DlsError | None:
        head = reply.head
        if head.status != 200:
            return self._refused(head, job.key)
        if coding := http_headers.encoded(head):
            return http_errors.coded(self.url, job.key, coding)
        if head.length < 0 and not head.chunked:
            return http_errors.no_length(self.url, job.key)
        if len(reply.body) == job.size and head.length in (-1, job.size):
            return None
        has = head.length if head.length >= 0 else len(reply.body)
        return Conflict(
            f"{http_errors.place(self.url, job.key)} has {has} bytes, expected {job.size}",
            code="source-changed",
            key=show(job.key),
            store=self.url,
            remedy="register it again, or run the same again once nobody writes there",
        )

    def _fatal(self, reply: Reply) -> DlsError | None:
        """The refusal that every request of a batch would meet, if this is one."""
        return self._refused(reply.head) if reply.status in (401, 407) else None

    # ------------------------------------------------------------------------------------------------------- listing

    def list(self, prefix: bytes = b"") -> Iterator[Entry]:
        self._open()
        return map(itemgetter(0), self._entries(prefix))

    def list_stamped(self) -> Iterator[tuple[Entry, bytes]]:
        """Stamps are told of those files whose sizes had to be asked for."""
        self._open()
        return self._entries(b"")

    def _entries(self, prefix: bytes) -> Iterator[tuple[Entry, bytes]]:
        folder, slash, _ = prefix.rpartition(b"/")
        try:
            above = legal.check(folder.replace(legal.HIDDEN, b"dls-")) if slash else b""
        except DlsError:  # nothing can lie below what is no name
            return
        if above != folder:  # hidden names are not listed
            return
        yield from self._walk(folder + slash, prefix)

    def _walk(self, folder: bytes, prefix: bytes) -> Iterator[tuple[Entry, bytes]]:
        """What lies below `folder` ('' or with a slash at its end), in the order of whole paths: a folder is sorted by
        its name with a slash behind it."""
        rows = {}
        for row in self._index(folder):
            path = folder + row.name + (b"/" if row.folder else b"")
            if not row.name.startswith(legal.HIDDEN) and (
                path.startswith(prefix) or (row.folder and prefix.startswith(path))
            ):
                rows[path] = row
        unknown = self._many_facts([path for path, row in rows.items() if not row.folder and row.size < 0])
        for path in sorted(rows):
            self._open()
            row = rows[path]
            if row.folder:
                yield from self._walk(path, prefix)
            elif row.size >= 0:
                yield Entry(path, FILE, row.size), b""
            elif path in unknown:
                yield Entry(path, FILE, unknown[path].size), unknown[path].stamp

    def _index(self, folder: bytes) -> Sequence[http_index.Row]:
        """The names directly in a folder; [] where it is not there.  Unsupported where the server does not list it."""
        opened = self._ask_folder(b"GET", folder, _LONGEST_INDEX)
        head = opened.head
        if head.status == 200 and opened.reply is not None:
            path = http_index.unquoted(opened.where.target.partition(b"?")[0])
            try:
                found = http_index.rows(head.header(b"content-type"), opened.reply.body, path)
            except http_index.Special as special:
                name = folder + special.args[0]
                raise Unsupported(
                    f"{http_errors.place(self.url, name)} is neither a file nor a folder",
                    code="special-file",
                    key=show(name),
                    store=self.url,
                    remedy="remove it there, or register the folders beside it",
                ) from None
            if found is not None:
                return found
            said = "the page is no index"
        elif head.status in _ABSENT:
            return []
        elif head.status == 403 or head.status < 400:
            said = str(head.status)
        else:
            raise self._refused(head, folder.rstrip(b"/") or None)
        if not folder and self._is_file():  # nothing lies below a file
            return []
        raise http_errors.no_index(self.url, folder, said)

    def _ask_folder(self, method: bytes, folder: bytes, most: int = 0) -> Opened:
        try:
            return self.origins.ask(method, self._at(folder), most=most)
        except FolderFound:  # x/ leads to x//: no index that we could read
            raise http_errors.no_index(self.url, folder, "its address leads to another one") from None

    def _is_file(self) -> bool:
        """Whether this store's own address is a file."""
        target = self._at(b"").target[:-1]
        if not target:
            return False
        try:
            return self.origins.ask(b"HEAD", Where(self._home, target)).head.status == 200
        except FolderFound:
            return False

    def exists(self) -> bool:
        self._open()
        status = self._ask_folder(b"HEAD", b"").head.status
        if status in (400, 405, 501):
            status = self._ask_folder(b"GET", b"").head.status
        if status in _ABSENT:
            return False
        if status >= 400 and status != 403:  # 403: there, and not listed
            raise self._refused(self._ask_folder(b"GET", b"").head)
        return True

    def below(self, prefix: bytes, *, staging: bool = False) -> HttpStore:
        self._open()
        legal.check(prefix.replace(legal.HIDDEN, b"dls-"))
        return HttpStore(self._place.below(prefix), origins=self.origins, nobody=self._nobody)

    def close(self) -> None:
        """A store opened by `below` leaves the connections to the one that it came from."""
        self._closed = True
        if self._owner:
            self.origins.close()


def _length(head: Head) -> int:
    """The size that a reply without its body reports; -1 where it does not."""
    said = head.header(b"content-length")
    once = head.low.count(b"\r\ncontent-length:") == 1
    return int(said) if once and said.isdigit() and len(said) < 19 else -1
