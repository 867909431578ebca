"""Bytes of one file over HTTP, checked to be those asked for: the range, the version, the length."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from typing import Final, NamedTuple

from dls.logistics.errors import DlsError
from dls.logistics.stores.http_errors import changed, coded, no_length, wrong_range
from dls.logistics.stores.http_headers import (
    Range,
    Version,
    conditions,
    content_range,
    encoded,
    nothing_of,
    size_of,
    stamp,
    version,
)
from dls.logistics.stores.http_origins import Opened, Origins, Where
from dls.logistics.stores.http_pool import pause
from dls.logistics.stores.http_wire import CHUNK, CutError, Head

ENDLESS: Final = 1 << 62


class Task(NamedTuple):
    """What is read."""

    url: str
    key: bytes
    where: Where
    start: int
    stop: int
    """ENDLESS to the end."""
    stamp: bytes
    """The version wanted, b'' for any."""
    refused: Callable[[Head], DlsError]
    size: Callable[[], int]
    """Asks for the size of the file; NotFound."""


def reading(origins: Origins, task: Task, nobody: bytes) -> Iterator[bytes]:
    """The bytes in pieces; everything that the first reply tells is raised here, not later."""
    pieces = _Reading(origins, task, nobody).pieces()
    first = next(pieces)  # b'': begun, so it gives its connection back also where nobody reads from it
    assert not first
    return pieces


class _Reading:
    def __init__(self, origins: Origins, task: Task, nobody: bytes) -> None:
        self._origins, self._task, self._nobody = origins, task, nobody
        self._at = task.start
        self._seen: Version | None = None
        self._total = -1
        self._stamp = task.stamp

    def pieces(self) -> Iterator[bytes]:
        opened: Opened | None = self._open()
        try:
            yield b""
        except GeneratorExit:
            if opened is not None:
                self._leave(opened, whole=False)
            raise
        tries = 0
        while opened is not None:
            before = self._at
            try:
                yield from self._body(opened)
                if self._at >= self._end():
                    return
            except CutError as cut:
                if self._at > before:
                    tries = 0
                tries += 1
                pool = self._origins.pool(opened.where.origin)
                # Without anything that names the version, what comes next could be of another one.
                if tries >= pool.tries or not self._stamp or self._stamp.startswith(b"n"):
                    raise pool.lost(cut, opened.where.target, amid=True) from cut
                pool.again += 1
                time.sleep(pause(tries))
            opened = self._open()

    def _end(self) -> int:
        return min(self._task.stop, self._total if self._total >= 0 else ENDLESS)

    def _open(self) -> Opened | None:
        """Ask for what is left; None where nothing is."""
        task, at = self._task, self._at
        headers = list(conditions(self._stamp))
        if at or task.stop != ENDLESS:
            asked = b"bytes=%d-" % at if task.stop == ENDLESS else b"bytes=%d-%d" % (at, task.stop - 1)
            headers.append((b"range", asked))
        opened = self._origins.open(task.where, headers, CHUNK if task.stop - at <= CHUNK else 0)
        head = opened.head
        try:
            if head.status == 416:
                self._nothing(head)
                return None
            if head.status not in (200, 206):
                if self._seen and head.status in (404, 410):
                    raise changed(task.url, task.key)
                raise task.refused(head)
            self._check(head)
        except BaseException:
            self._leave(opened, whole=False)
            raise
        return opened

    def _nothing(self, head: Head) -> None:
        """A range that the server cannot give: fine where it begins at or behind the end."""
        size = nothing_of(head.header(b"content-range"))
        if size < 0:
            size = self._task.size()
        known = self._total if self._seen else size_of(self._stamp)
        if known >= 0 and size != known:
            raise changed(self._task.url, self._task.key)
        if size > self._at:
            raise wrong_range(self._task.url, self._task.key, head.header(b"content-range"))

    def _check(self, head: Head) -> None:
        """Is it the version wanted, and are these the bytes?"""
        task, said = self._task, self._range(head)
        if coding := encoded(head):
            raise coded(task.url, task.key, coding)
        if head.status == 200:
            if head.length < 0 and not head.chunked:
                raise no_length(task.url, task.key)
            total = head.length
        elif said is None:
            raise wrong_range(task.url, task.key, head.header(b"content-range"))
        else:
            total = said.total
        which = version(head)
        size = total if total >= 0 else size_of(self._stamp)
        if self._stamp and stamp(which, size, self._nobody) != self._stamp:
            raise changed(task.url, task.key)
        if self._seen is not None and (which != self._seen or (total >= 0 <= self._total != total)):
            raise changed(task.url, task.key)
        self._seen = which
        if total >= 0:
            self._total, self._stamp = total, stamp(which, total, self._nobody)

    def _range(self, head: Head) -> Range | None:
        """What a reply 206 brings, where that is what was asked for."""
        said = content_range(head.header(b"content-range"))
        if said is None or said.start != self._at or said.stop > self._task.stop:
            return None
        return said if head.length < 0 or head.length == said.stop - said.start else None

    def _body(self, opened: Opened) -> Iterator[bytes]:
        """What a reply brings of what is wanted; CutError where it ends early."""
        whole = False
        try:
            if opened.reply is not None:
                pieces: Iterator[bytes] = iter((opened.reply.body,))
            else:
                assert opened.conn is not None
                pieces = opened.conn.stream(opened.head)
            if opened.head.status == 206:
                yield from self._ranged(pieces, opened.head)
                whole = True
            else:
                whole = yield from self._cut_out(pieces)
        finally:
            self._leave(opened, whole=whole)

    def _ranged(self, pieces: Iterator[bytes], head: Head) -> Iterator[bytes]:
        said = content_range(head.header(b"content-range"))
        assert said is not None
        for piece in pieces:
            if self._at + len(piece) > said.stop:
                raise wrong_range(self._task.url, self._task.key, b"more bytes than that")
            self._at += len(piece)
            if piece:
                yield piece
        if self._at != said.stop:
            raise CutError("a reply in chunks ended early")

    def _cut_out(self, pieces: Iterator[bytes]) -> Generator[bytes, None, bool]:
        """Of a whole file, what is wanted and was not given yet; returns whether the reply was read to its end."""
        passed, stop = 0, self._task.stop
        for piece in pieces:
            part = piece[max(0, self._at - passed) : max(0, stop - passed)]
            passed += len(piece)
            self._at += len(part)
            if part:
                yield part
            if passed >= stop:
                return passed == self._total
        self._total = passed
        return True

    def _leave(self, opened: Opened, *, whole: bool) -> None:
        if opened.conn is not None:
            self._origins.pool(opened.where.origin).give(opened.conn, whole and opened.head.keep)
