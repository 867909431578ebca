"""Names and attributes of a tree whose index is open: the half of an image that never looks at the files' bytes.

Frames of space are decoded when they are needed, and a bounded number is kept; so are places of folders.
"""

from __future__ import annotations

import struct
import threading
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from typing import Final
from zlib import crc32

from dls.fuse import records
from dls.fuse.codec import Unpacker, sum_of
from dls.fuse.index import MARK_AT, Index, damaged
from dls.fuse.records import FORMER_FRAME, HEAD, LOW, MODE, SPREAD, WIDE, Attr, length_of
from dls.fuse.sources import Source
from dls.fuse.tree import Tree

_FRAMES_KEPT: Final = 16 << 20
"""Bytes of decoded frames that are kept."""
_FRAMES: Final = frozenset(1 << shift for shift in range(13, 21))
"""What a frame may be."""
_SPANS_KEPT: Final = 4096
_PROBES: Final = 1 << 16
"""Slots looked at for one name; a table that is three quarters full needs some hundred at the very most."""
_OFF_AND_SIZE: Final = struct.Struct("<QI")
_SPAN: Final = struct.Struct("<Q16xIIQ")
"""From the ninth byte of a folder's record: where its listing is, its bytes, its inode number."""
_NO_NAMES: Final = frozenset({b"", b".", b".."})


class Named(Tree):
    """A tree with an index.  The number of a node is the position of its record in space, divided by 8."""

    def __init__(self, source: Source, index: Index) -> None:
        header = index.header
        self.source, self.index = source, index
        self.name, self.size, self.counts = source.name, source.size, header.counts
        self.block: int = int(header.image["block"])
        self.root = header.root >> 3
        self.attributed = bool(index.xattrs.count)
        self.far = source.far
        size = header.image.get("frame", FORMER_FRAME)
        if not 0 < self.block <= 1 << 20 or not records.FIRST <= header.root < header.space or size not in _FRAMES:
            raise damaged("its header says what cannot be")
        self.frame_bytes, self._in_frame, self._frame_bits = size, size - 1, size.bit_length() - 1
        self._frames_kept = max(2, _FRAMES_KEPT // size)
        self._borders: dict[tuple[int, int], list[int]] = {}
        self._spans: dict[int, tuple[int, int, int]] = {}
        self._above: dict[bytes, int] = {b"": self.root}
        self._word, self._mask = index.names.word, index.names.count - 1
        self._frames: OrderedDict[int, bytes] = OrderedDict()
        self._frame_data = index.section("frame data")
        self._local = threading.local()
        self._lock = threading.Lock()

    # -------------------------------------------------------------------------------------------- frames

    @property
    def _unpacker(self) -> Unpacker:
        found: Unpacker | None = getattr(self._local, "unpacker", None)
        if found is None:
            found = self._local.unpacker = Unpacker()
        return found

    def frame(self, number: int) -> bytes:
        """A frame of space."""
        found = self._frames.get(number)
        if found is not None:
            return found
        self.source.same()  # an image that is overwritten in place is told before old and new names mix
        at, stored, check = self.index.frames[number]
        data = self._frame_data[at : at + stored]
        if len(data) != stored or sum_of(data) != check:
            raise damaged(f"frame {number} of its names")
        plain = self._unpacker.one(data, self.frame_bytes)
        with self._lock:
            self._frames[number] = plain
            if len(self._frames) > self._frames_kept:
                self._frames.popitem(last=False)
        return plain

    def record(self, node: int) -> bytes:
        """The record of a node, and whatever lies behind it in its frame."""
        frame, at = self.frame(node << 3 >> self._frame_bits), node << 3 & self._in_frame
        if at + HEAD > len(frame):
            raise damaged("a record lies outside")
        return frame[at : at + HEAD]

    def attr(self, node: int) -> Attr:
        """The attributes of a node."""
        frame, at = self.frame(node << 3 >> self._frame_bits), node << 3 & self._in_frame
        if at + HEAD > len(frame):
            raise damaged("a record lies outside")
        return records.unpack(frame, at)

    # --------------------------------------------------------------------------------------------- names

    def _span(self, node: int) -> tuple[int, int, int]:
        """(inode number, first position of the listing, where it ends) of a folder."""
        frame, at = self.frame(node << 3 >> self._frame_bits), node << 3 & self._in_frame
        if at + HEAD > len(frame):
            raise damaged("a record lies outside")
        generation, low, high, ino = _SPAN.unpack_from(frame, at + 8)
        start = (generation & LOW) << 3
        found = ino, start, start + low + (high << 32)
        if len(self._spans) >= _SPANS_KEPT:
            self._spans.clear()
        self._spans[node] = found
        return found

    def _position(self, folder: int, name: bytes) -> int:
        """Where the record of a name in a folder is, -1 where there is none."""
        ino, start, stop = self._spans.get(folder) or self._span(folder)
        self.source.same()
        hashed = crc32(name, ino) * SPREAD & WIDE
        mark, word, mask = hashed >> 40, self._word, self._mask
        at, want = hashed >> 20 & mask, len(name)
        for _ in range(min(mask, _PROBES)):
            slot = word(at)
            if not slot:
                return -1
            if slot >> MARK_AT == mark:
                position = (slot & LOW) << 3
                if start <= position < stop:
                    frame, inside = self.frame(position >> self._frame_bits), position & self._in_frame
                    size = int.from_bytes(frame[inside + 144 : inside + 148], "little")
                    if size == want and frame[inside + HEAD : inside + HEAD + size] == name:
                        return position
            at = at + 1 & mask
        raise damaged("its table of names is full")

    def lookup(self, folder: int, name: bytes) -> bytes:
        """The record of a name in a folder, b'' where there is none."""
        position = self._position(folder, name)
        if position < 0:
            return b""
        at = position & self._in_frame
        return self.frame(position >> self._frame_bits)[at : at + HEAD]

    def find(self, path: bytes) -> Attr:
        """The node of a path; NotFound with the path."""
        above, _, name = path.rpartition(b"/")
        folder = self._above.get(above)
        if folder is None:
            folder = self._known(above)
        if folder >= 0 and name and (found := self.lookup(folder, name)):
            return records.unpack(found)
        return super().find(path)  # which says what is wrong

    def _known(self, path: bytes) -> int:
        """The node of a folder, from now on without looking for it; -1 where it is none."""
        above, _, name = path.rpartition(b"/")
        folder = self._above.get(above, -1)
        todo = [name] if folder >= 0 else path.split(b"/")
        node = folder if folder >= 0 else self.root
        for name in todo:
            found = self.lookup(node, name) if name else b""
            if not found or int.from_bytes(found[MODE : MODE + 4], "little") >> 12 != 4:
                return -1
            node = int.from_bytes(found[:8], "little")
        if len(self._above) >= _SPANS_KEPT:
            self._above.clear()
            self._above[b""] = self.root
        self._above[path] = node
        return node

    def listing(self, folder: int, offset: int, size: int) -> list[bytes]:
        """Whole records of a folder from `offset` bytes on, at most `size` bytes."""
        _, start, stop = self._spans.get(folder) or self._span(folder)
        at = start + offset
        if at >= stop:
            return []
        if offset:
            at = self._border(at, start)
        if stop - at <= size and (all_ := self._rest(start, at, stop)) is not None:
            return all_
        out: list[bytes] = []
        while at < stop:
            number, inside = at >> self._frame_bits, at & self._in_frame
            frame = self.frame(number)
            borders = self._borders_in(number, frame, start)
            limit = min(stop - (number << self._frame_bits), inside + size, borders[-1])
            end = borders[bisect_right(borders, limit) - 1]
            if end == borders[-1] < stop - (number << self._frame_bits) and any(frame[end + 144 : end + 148]):
                raise damaged("a listing is not in order")
            if end > inside:
                out.append(frame[inside:end])
                size -= end - inside
                if end < min(borders[-1], stop - (number << self._frame_bits)):
                    break  # full
            elif borders[-1] > inside:
                break  # the next one does not fit
            at = number + 1 << self._frame_bits
        return out

    def _rest(self, start: int, at: int, stop: int) -> list[bytes] | None:
        """All records of a listing from `at` on, as most folders are asked for; None where they are not in order."""
        bits, in_frame, out = self._frame_bits, self._in_frame, list[bytes]()
        while at < stop:
            frame, inside = self.frame(at >> bits), at & in_frame
            rest = inside + stop - at
            end = _ordered(frame, inside, min(rest, len(frame)), at - start)
            if end < 0 or (rest <= in_frame + 1 and end != rest):
                return None
            if end > inside:
                out.append(frame[inside:end])
            at = (at | in_frame) + 1
        return out

    def _border(self, at: int, start: int) -> int:
        """Where the first record from a position on begins: anybody may seek in a folder, to where none does, too."""
        number, inside = at >> self._frame_bits, at & self._in_frame
        borders = self._borders_in(number, self.frame(number), start)
        return at if inside >= borders[-1] else at - inside + borders[bisect_left(borders, inside)]

    def _borders_in(self, number: int, frame: bytes, start: int) -> list[int]:
        """Where records begin in a frame, from a folder's start on, and where the last one of that folder ends: each
        says where the next one is, and the kernel goes there, so it must be so."""
        first = max(0, start - (number << self._frame_bits))
        key = number, start  # what begins elsewhere may say of the same frame what is wrong for this folder
        found = self._borders.get(key)
        if found is None:
            at, found, limit, base = first, [first], len(frame), (number << self._frame_bits) - start
            while at + HEAD < limit:
                said, size = _OFF_AND_SIZE.unpack_from(frame, at + 136)
                if not size:
                    break
                at += length_of(size)
                if at > limit or said != base + at:
                    break
                found.append(at)
            if len(self._borders) > 512:
                self._borders.clear()
            self._borders[key] = found
        return found

    def rows(self, folder: Attr) -> Iterator[tuple[bytes, Attr]]:
        """The names in a folder, in order of the manifest, without `.` and `..`."""
        at, stop, number = folder.a << 3, (folder.a << 3) + folder.b + (folder.c << 32), 0
        while at < stop:
            frame, inside = self.frame(at >> self._frame_bits), at & self._in_frame
            limit = min(len(frame), inside + stop - at)
            while inside + HEAD < limit:
                size = int.from_bytes(frame[inside + 144 : inside + 148], "little")
                length = records.length_of(size)
                if not size or inside + length > limit:
                    if size:
                        raise damaged("a record crosses its frame")
                    break
                if number > 1:
                    name, attr = frame[inside + HEAD : inside + HEAD + size], records.unpack(frame, inside)
                    if b"/" in name or b"\0" in name or name in _NO_NAMES:
                        raise damaged("it holds a name that cannot be")
                    if attr.mode >> 12 == 4 and attr.a >= folder.a:  # what is inside is written first
                        raise damaged("a folder is inside itself")
                    yield name, attr
                number += 1
                inside += length
            at = (at | self._in_frame) + 1

    def walk(self, path: bytes = b"") -> Iterator[tuple[bytes, Attr]]:
        """Everything below a folder, folders before what is in them."""
        most = self.index.names.count
        for number, row in enumerate(super().walk(path)):
            if number >= most:  # each name has a slot of its own
                raise damaged("it shows more names than it holds")
            yield row

    def text(self, link: Attr) -> bytes:
        """The text of a symbolic link."""
        position = link.a << 3
        frame, at = self.frame(position >> self._frame_bits), position & self._in_frame
        if at + link.size > len(frame):
            raise damaged("the text of a link lies outside")
        return frame[at : at + link.size]

    def xattrs(self, attr: Attr) -> dict[bytes, bytes]:
        """The extended attributes of a node."""
        if attr.xattrs < 0:
            return {}
        self.source.same()
        at, size, check = self.index.xattrs[attr.xattrs]
        data = bytes(self.index.section("xattr data")[at : at + size])
        if len(data) != size or sum_of(data) != check:
            raise damaged("extended attributes")
        out: dict[bytes, bytes] = {}
        try:
            (count,) = struct.unpack_from("<H", data)
            inside = 2
            for _ in range(count):
                a, b = struct.unpack_from("<HI", data, inside)
                inside += 6
                out[data[inside : inside + a]] = data[inside + a : inside + a + b]
                inside += a + b
        except struct.error as exc:
            raise damaged("extended attributes") from exc
        if inside > size or any(not name or b"\0" in name for name in out):
            raise damaged("extended attributes")
        return out


def _ordered(frame: bytes, at: int, end: int, offset: int) -> int:
    """Where the records end that begin here, each of which must say where the next one is in the listing; -1 where one
    does not, or crosses the end.  Before the end of a frame there may be nothing more."""
    base, unpack = offset - at, _OFF_AND_SIZE.unpack_from
    while at + HEAD < end:
        said, size = unpack(frame, at + 136)
        if not size:
            return at
        at += HEAD + (size + 7 & ~7)
        if said != base + at:
            return -1
    return at if at <= end else -1
