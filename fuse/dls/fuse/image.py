"""An image opened for reading: names to nodes, nodes to bytes, every byte checked before it is given.

    with open_image("tree.sqfs") as image:
        image.read(image.find(b"dir/file"))

Nothing is loaded but what is asked for: the index is mapped, frames are decoded when they are needed and a bounded
number is kept.
"""

from __future__ import annotations

import os
import struct
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import pairwise
from typing import Final
from zlib import crc32

from dls.fuse import records
from dls.fuse.blocks import INSIDE, INSIDE_AT, LARGEST_PART
from dls.fuse.codec import PART_HEAD, Unpacker, sum_of
from dls.fuse.index import BYTES, FOOTER, MAGIC, MARK_AT, PARTS, RAW, Index, damaged, mapped
from dls.fuse.records import FRAME, HEAD, LOW, NO_TAIL, SPREAD, WIDE, Attr, length_of
from dls.fuse.sources import LocalFile as LocalFile
from dls.fuse.sources import Source as Source  # where stored bytes are: looked for here
from dls.fuse.squashfs import SUPER
from dls.fuse.tree import Tree
from dls.logistics import digest as digests
from dls.logistics.errors import Corrupt, Invalid
from dls.logistics.manifest import Manifest

_FRAMES_KEPT: Final = 256
_SPANS_KEPT: Final = 4096
_BLOCKS_KEPT: Final = 64
_AT_ONCE: Final = 4
"""Blocks from which on it pays to have another thread decode some."""
_LANES: Final = 4
_AHEAD: Final = 256 << 20
"""Bytes of an index that the kernel is asked to bring at once."""
_PROBES: Final = 1 << 16
"""Slots looked at for one name; a table that is three quarters full needs some hundred at the very most."""
_OFF_AND_SIZE: Final = struct.Struct("<QI")
_NO_NAMES: Final = frozenset({b"", b".", b".."})
_CONTENT: Final = struct.Struct("<Q16xII8xQ")
"""From the ninth byte of a record: what says where the bytes of a file are."""


class Image(Tree):
    """A tree in a file.  The number of a node is the position of its record in space, divided by 8."""

    forks = True

    def __init__(self, source: Source, index: Index) -> None:
        header = index.header
        self.source, self.index = source, index
        self.name, self.size, self.counts = source.name, source.size, header.counts
        self.block: int = int(header.image["block"])
        self.root = header.root >> 3
        self.attributed = bool(index.xattrs.count)
        self.far = source.far
        if not 0 < self.block <= 1 << 20 or not records.FIRST <= header.root < header.space:
            raise damaged("its header says what cannot be")
        self._borders: dict[int, list[int]] = {}
        self._spans: dict[int, tuple[int, int, int]] = {}
        self._above: dict[bytes, int] = {b"": self.root}
        self._word, self._mask = index.names.word, index.names.count - 1
        self._frames: OrderedDict[int, bytes] = OrderedDict()
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._frame_data = index.section("frame data")
        self._local = threading.local()
        self._lock = threading.Lock()
        self._lanes: ThreadPoolExecutor | None = None

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
        at, stored, check = self.index.frames[number]
        self.source.at(0, 0)  # an image that is overwritten in place is told before old and new names mix
        data = self._frame_data[at : at + stored]
        if len(data) != stored or sum_of(data) != check:
            raise damaged(f"frame {number} of its names")
        plain = self._unpacker.one(data, FRAME)
        with self._lock:
            self._frames[number] = plain
            if len(self._frames) > _FRAMES_KEPT:
                self._frames.popitem(last=False)
        return plain

    def record(self, node: int) -> bytes:
        """The record of a node, and whatever lies behind it in its frame."""
        frame, at = self.frame(node >> 13), node << 3 & FRAME - 1
        if at + HEAD > len(frame):
            raise damaged("a record lies outside")
        return frame[at : at + HEAD]

    def attr(self, node: int) -> Attr:
        """The attributes of a node."""
        frame, at = self.frame(node >> 13), node << 3 & FRAME - 1
        if at + HEAD > len(frame):
            raise damaged("a record lies outside")
        return records.unpack(frame, at)

    # --------------------------------------------------------------------------------------------- names

    def _span(self, node: int) -> tuple[int, int, int]:
        """(inode number, first position of the listing, where it ends) of a folder."""
        above = self.attr(node)
        start = above.a << 3
        found = above.ino, start, start + above.b + (above.c << 32)
        if len(self._spans) >= _SPANS_KEPT:
            self._spans.clear()
        self._spans[node] = found
        return found

    def _position(self, folder: int, name: bytes) -> int:
        """Where the record of a name in a folder is, -1 where there is none."""
        ino, start, stop = self._spans.get(folder) or self._span(folder)
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
                    frame, inside = self.frame(position >> 16), position & FRAME - 1
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
        at = position & FRAME - 1
        return self.frame(position >> 16)[at : at + HEAD]

    def find(self, path: bytes) -> Attr:
        """The node of a path; NotFound with the path."""
        above, _, name = path.rpartition(b"/")
        folder = self._above.get(above)
        if folder is None or not name:
            found = super().find(path)
            if above and name:
                if len(self._above) >= _SPANS_KEPT:
                    self._above.clear()
                self._above[above] = super().find(above).node
            return found
        position = self._position(folder, name)
        return self.attr(position >> 3) if position >= 0 else super().find(path)

    def listing(self, folder: int, offset: int, size: int) -> list[bytes]:
        """Whole records of a folder from `offset` bytes on, at most `size` bytes."""
        above = self.attr(folder)
        start, length = above.a << 3, above.b + (above.c << 32)
        at, stop = start + offset, start + length
        out: list[bytes] = []
        while at < stop:
            number, inside = at >> 16, at & FRAME - 1
            frame = self.frame(number)
            borders = self._borders_in(number, frame, start)
            limit = min(stop - (number << 16), inside + size, borders[-1])
            end = borders[bisect_right(borders, limit) - 1]
            if end == borders[-1] < stop - (number << 16) and any(frame[end + 144 : end + 148]):
                raise damaged("a listing is not in order")
            if end > inside:
                out.append(frame[inside:end])
                size -= end - inside
                if end < min(borders[-1], stop - (number << 16)):
                    break  # full
            elif borders[-1] > inside:
                break  # the next one does not fit
            at = number + 1 << 16
        return out

    def _borders_in(self, number: int, frame: bytes, start: int) -> list[int]:
        """Where records begin in a frame, from a folder's start on, and where the last one of that folder ends: each
        says where the next one is, and the kernel goes there, so it must be so."""
        first = max(0, start - (number << 16))
        key = number << 17 | first
        found = self._borders.get(key)
        if found is None:
            at, found, limit, base = first, [first], len(frame), (number << 16) - start
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
            frame, inside = self.frame(at >> 16), at & FRAME - 1
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
            at = (at | FRAME - 1) + 1

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
        frame, at = self.frame(position >> 16), position & FRAME - 1
        if at + link.size > len(frame):
            raise damaged("the text of a link lies outside")
        return frame[at : at + link.size]

    def xattrs(self, attr: Attr) -> dict[bytes, bytes]:
        """The extended attributes of a node."""
        if attr.xattrs < 0:
            return {}
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

    # --------------------------------------------------------------------------------------------- bytes

    def stored(self, number: int, plain: int) -> bytes:
        """The content of block `number`, `plain` bytes or fewer; not kept."""
        at, size, check = self.index.blocks[number]
        raw, size = size & RAW, size & BYTES
        if not size:
            return bytes(plain)
        if size > max(plain, self.block) or at + size > self.source.size:  # what does not shrink is stored as it is
            raise damaged("a block is larger than blocks are, or lies outside")
        data = self._checked(at, size, check)
        return data if raw else self._unpacker.one(data, max(plain, self.block))

    def _checked(self, at: int, size: int, check: int) -> bytes:
        """Stored bytes with this sum."""
        data = self.source.at(at, size)
        if len(data) != size or sum_of(data) != check:
            data = self.source.again(at, size)
            if len(data) != size or sum_of(data) != check:
                raise Corrupt(
                    f"{self.source.name} is damaged at byte {at} ({size} bytes)",
                    code="bad-image", store=self.source.name, remedy="get the image again",
                )  # fmt: skip
        return data

    def _part(self, number: int, check: int, inside: int, size: int) -> bytes | None:
        """The content of a small file that is a part of a block; None where that has no parts."""
        at, stored, _ = self.index.blocks[number]
        if not stored & PARTS:
            return None
        at += inside & INSIDE
        length = (inside >> INSIDE_AT) + (1 if stored & RAW else 1 + PART_HEAD)
        if at + length > self.size:
            raise damaged("a part lies outside")
        data = self._checked(at, length, check)
        if not stored & RAW:
            data = self._unpacker.part(data, size)
        if len(data) != size:
            raise damaged("a part has another length than its file")
        return data

    def kept(self, number: int, plain: int) -> bytes:
        """As `stored`, and kept for whoever asks next."""
        found = self._blocks.get(number)
        if found is None:
            found = self.stored(number, plain)
            with self._lock:
                self._blocks[number] = found
                if len(self._blocks) > _BLOCKS_KEPT:
                    self._blocks.popitem(last=False)
        return found

    def _side_by_side(self, first: int, many: int) -> list[bytes]:
        """Whole blocks that follow one another: each thread decodes some, as many threads as there are processors."""
        if self._lanes is None:
            self._lanes = ThreadPoolExecutor(max(1, min(_LANES, os.cpu_count() or 1) - 1), "dls-decode")

        def some(start: int, stop: int) -> list[bytes]:
            return [self.stored(number, self.block) for number in range(start, stop)]

        step = -(-many // min(_LANES, os.cpu_count() or 1))
        cuts = [first + at for at in range(0, many, step)] + [first + many]
        others = [self._lanes.submit(some, a, b) for a, b in pairwise(cuts[1:])]
        out = some(cuts[0], cuts[1])
        for other in others:
            out += other.result()
        if any(len(data) != self.block for data in out):
            raise damaged("a block has another length than its file")
        return out

    def pieces(self, attr: Attr, start: int, stop: int) -> list[bytes | memoryview]:
        """The bytes `start … stop-1` of a file, as they lie in its blocks; past the end gives what there is."""
        size, block, tail = attr.size, self.block, attr.b
        stop = min(stop, size)
        if start >= stop:
            return []
        if tail != NO_TAIL and size <= LARGEST_PART:
            part = self._part(tail, attr.a, attr.c, size)
            if part is not None:
                return [part if start == 0 and stop == size else memoryview(part)[start:stop]]
        out: list[bytes | memoryview] = []
        own = size if tail == NO_TAIL else size // block * block
        while start < stop:
            if start >= own:
                data, at = self.kept(tail, block), attr.c + start - own
                end = attr.c + stop - own
                if end > len(data):
                    raise damaged("a file ends outside of its block")
                out.append(data if at == 0 and end == len(data) else memoryview(data)[at:end])
                break
            number, inside = divmod(start, block)
            many = (min(stop, own) - start) // block if inside == 0 else 0
            if many >= _AT_ONCE:
                out += self._side_by_side(attr.a + number, many)
                start += many * block
                continue
            plain = min(block, own - number * block)
            whole = inside == 0 and stop - start >= plain
            data = (self.stored if whole else self.kept)(attr.a + number, plain)
            if len(data) != plain:
                raise damaged("a block has another length than its file")
            end = min(plain, inside + stop - start)
            out.append(data if whole else memoryview(data)[inside:end])
            start += end - inside
        return out

    def ready(self, node: int, start: int) -> bool:
        """Whether the block that holds byte `start` of a file is here."""
        frame, at = self.frame(node >> 13), node << 3 & FRAME - 1
        if at + HEAD > len(frame):
            return True  # whoever reads is told
        a, tail, inside, size = _CONTENT.unpack_from(frame, at + 8)
        if tail == NO_TAIL or size > LARGEST_PART:
            tail, inside = (a & LOW) + start // self.block, 0
        if tail >= self.index.blocks.count:
            return True
        return self.source.ready(self.index.blocks[tail][0] + (inside & INSIDE))

    def content(self, node: int, start: int, stop: int) -> list[bytes | memoryview]:
        """As `pieces`, of a node: a small file is read without looking at all its attributes."""
        frame, at = self.frame(node >> 13), node << 3 & FRAME - 1
        if at + HEAD > len(frame):
            raise damaged("a record lies outside")
        a, tail, inside, size = _CONTENT.unpack_from(frame, at + 8)
        if size <= LARGEST_PART and tail != NO_TAIL:
            part = self._part(tail, a & LOW, inside, size)
            if part is not None:
                return [part if start == 0 and stop >= size else memoryview(part)[start:stop]]
        return self.pieces(records.unpack(frame, at), start, stop)

    # ------------------------------------------------------------------------------------------ manifest

    @cached_property
    def manifest(self) -> Manifest:
        """What the image holds; its content is that of the tree it was made from."""
        refs = self.index.refs()
        numbers = {ref.digest: i for i, ref in enumerate(refs)}
        return Manifest(refs, lambda digest: self.index.segment(numbers[digest], refs[numbers[digest]]))

    def close(self) -> None:
        """Let go of the file.  Idempotent."""
        self._frames.clear()
        self._blocks.clear()
        lanes, self._lanes = self._lanes, None
        if lanes is not None:
            lanes.shutdown(wait=False)
        self.__dict__.pop("manifest", None)  # it knows this image: without it, the mapping goes with the last user
        self.source.close()


def open_image(path: str) -> Image:
    """The image in a file on this machine; Invalid where it is none of ours."""
    source = LocalFile(path)
    try:
        size = index_size(source.at(max(0, source.size - FOOTER.size), FOOTER.size), source)
        if size <= _AHEAD:  # soon wanted, and quicker in one sweep than page by page
            os.posix_fadvise(source.fd, source.size - size, size, os.POSIX_FADV_WILLNEED)
        return matched(source, Index(mapped(source.fd, source.size - size, size)))
    except BaseException:
        source.close()
        raise


def index_size(end: bytes, source: Source) -> int:
    """Bytes of the index, as the end of the image says; Invalid where it is none of ours."""
    if len(end) >= FOOTER.size:
        magic, *_, size = FOOTER.unpack(end[-FOOTER.size :])
        if magic == MAGIC and FOOTER.size < size <= source.size:
            return int(size)
    raise Invalid(
        f"{source.name} is no image of ours, or was cut short",
        code="not-an-image",
        remedy="pack it: dls pack FOLDER IMAGE",
    )


def matched(source: Source, index: Index) -> Image:
    """The image, if the index is its own; Corrupt otherwise."""
    said = index.header.image
    begin = digests.text(digests.of(source.at(0, SUPER.size)))
    if said.get("bytes") != source.size - len(index.data) or begin != said.get("super"):
        raise Corrupt(
            f"the index in {source.name} belongs to another image", code="bad-image", remedy="get the image again"
        )
    return Image(source, index)
