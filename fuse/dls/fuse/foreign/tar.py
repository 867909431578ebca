"""Trees in tar archives, plain or compressed.

A plain archive is read where it lies.  A compressed one is unpacked once, into frames of 256 KiB in the file of the
index: then any byte is one frame away, whatever the compressor, and each frame has a sum.
"""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_right
from typing import Any, Final

from dls.fuse.foreign.archive import Archive, Context, damaged, index_of
from dls.fuse.foreign.framed import FRAME, Framed, Frames
from dls.fuse.foreign.members import DANGLING, Member, Members
from dls.fuse.foreign.stream import Forward, Unpacked
from dls.fuse.foreign.tarhead import Head, Headers
from dls.fuse.image import Source
from dls.fuse.index import Index
from dls.fuse.indexing import Making
from dls.fuse.records import Attr
from dls.logistics import names

_PLAIN, _SPARSE = 0, 1
"""`attr.b`: `attr.a` × 512 is where the bytes begin; where the headers begin, which have a map of the file."""
_MAPS_KEPT: Final = 64
_WINDOW: Final = 1 << 20
_LOOK: Final = 16 << 10


class _Tar(Archive):
    """A tar archive, wherever its bytes are."""

    def pieces(self, attr: Attr, start: int, stop: int) -> list[bytes | memoryview]:
        """The bytes `start … stop-1` of a file."""
        stop = min(stop, attr.size)
        if start >= stop:
            return []
        if attr.b == DANGLING:
            raise self.damaged("a hard link leads to what is not in the archive")
        if attr.b == _SPARSE:
            return self._from_map(attr, start, stop)
        return self._bytes((attr.a << 9) + start, (attr.a << 9) + stop)

    @abstractmethod
    def _bytes(self, start: int, stop: int) -> list[bytes | memoryview]:
        """Bytes of the archive, unpacked."""

    def _from_map(self, attr: Attr, start: int, stop: int) -> list[bytes | memoryview]:
        pieces, begins = self.recent(attr.node, lambda: self._map(attr.a << 9), _MAPS_KEPT)
        out: list[bytes | memoryview] = []
        at, i = start, max(0, bisect_right(begins, start) - 1)
        while at < stop:
            first, count, where = pieces[i] if i < len(pieces) else (stop, 0, 0)
            i += 1
            if first > at:
                out.append(bytes(min(first, stop) - at))
                at = min(first, stop)
            end = min(first + count, stop)
            if at < end:
                out += self._bytes(where + at - first, where + end - first)
                at = end
        return out

    def _map(self, start: int) -> tuple[Any, list[int]]:
        head = Headers(lambda at, size: b"".join(self._bytes(at, at + size)), self.name).one(start)
        if head is None or head.pieces is None:
            raise self.damaged("a header is not what it was", start)
        return head.pieces, [first for first, _, _ in head.pieces]


class Tar(_Tar):
    """A tar archive that is read where it lies."""

    form = "tar"

    def _bytes(self, start: int, stop: int) -> list[bytes | memoryview]:
        found = self.source.at(start, stop - start)
        if len(found) != stop - start:
            raise self.damaged("it was cut short", start + len(found))
        return [found]


class PackedTar(_Tar, Framed):
    """A tar archive in a compressed stream."""

    def __init__(self, source: Source, form: str, index: Index, fd: int) -> None:
        super().__init__(source, index, fd)
        self.form = form

    def _bytes(self, start: int, stop: int) -> list[bytes | memoryview]:
        return list(self.unpacked(start, stop))


def open_tar(source: Source, form: str, stamp: str, context: Context) -> Archive:
    """The tree in a tar; `form` is `tar`, or the name of its compressor."""

    def make(making: Making) -> None:
        context.progress.bytes_total = source.size
        window: Any = Window(source, context)
        notes: list[str] = []
        if form != "tar":
            stream = Unpacked(source, form, context)
            frames = Frames(making, context, source.name)
            window, notes = Forward(stream.parts(), frames, source.name), stream.notes
        members = _members(window, making, source)
        making.index(members.rows(), {"notes": notes + members.notes}, FRAME)

    fd, index = index_of(source, form, stamp, context, make)
    tar = Tar(source, index, fd) if form == "tar" else PackedTar(source, form, index, fd)
    return tar.keep(context)


def _members(window: Any, making: Making, source: Source) -> Members:
    members = Members(making.spool)
    headers = Headers(window.at, source.name)
    for head in headers.all():
        window.reach(head.data + head.stored, names.show(head.name)[:200])
        _add(members, head)
    if window.beyond(headers.ended):
        members.note("behind the end of the archive there is more, which is not shown (another archive?)")
    return members


def _add(members: Members, head: Head) -> None:
    text = head.link if head.mode >> 12 == 10 else b""
    holes = max(0, head.size - head.stored) if head.pieces is not None else 0
    at, kind = (head.start, _SPARSE) if head.pieces is not None else (head.data, _PLAIN)
    one = Member(
        head.mode, head.uid, head.gid, head.mtime_ns, head.size, head.device, at >> 9, kind, 0, holes, text, head.xattrs
    )
    if head.hard and not head.stored:
        members.link(head.name, head.link, one)
    else:
        members.add(head.name, one)


class Window:
    """A plain archive, read forwards: what lies between headers is passed over."""

    def __init__(self, source: Source, context: Context) -> None:
        self._source, self._context = source, context
        self._start, self._held = 0, b""

    def at(self, offset: int, size: int) -> bytes:
        """Bytes from `offset`."""
        inside = offset - self._start
        if inside < 0 or inside + size > len(self._held):
            near = 0 <= inside <= len(self._held) + _LOOK
            self._held = self._source.at(offset, max(size, _WINDOW if near else _LOOK))
            self._context.progress.moved(offset - self._start)
            self._start, inside = offset, 0
        return self._held[inside : inside + size]

    def reach(self, stop: int, what: str) -> None:
        """Corrupt where the archive ends before `stop`."""
        if stop > self._source.size:
            raise damaged(self._source.name, f"it was cut short inside {what}", self._source.size)

    def beyond(self, ended: int) -> bool:
        """Whether anything but zeros follows the end."""
        return bool(self._source.at(ended, 1 << 16).strip(b"\0"))
