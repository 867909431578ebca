"""An image opened for reading: names to nodes, nodes to bytes, every byte checked before it is given.

    with open_image("tree.sqfs") as image:
        image.read(image.find(b"dir/file"))

Nothing is loaded but what is asked for: the index is mapped; blocks are decoded when they are needed, and a bounded
number of those that are shared is kept.
"""

from __future__ import annotations

import os
import struct
from collections import OrderedDict
from functools import cached_property
from typing import Final

from dls.fuse import records
from dls.fuse.blocks import INSIDE, INSIDE_AT, LARGEST_PART
from dls.fuse.codec import BYTES, PART_HEAD, PARTS, RAW, sum_of
from dls.fuse.fast import reader_of
from dls.fuse.index import FOOTER, MAGIC, Index, damaged, mapped
from dls.fuse.named import Named
from dls.fuse.records import HEAD, LOW, NO_TAIL, Attr
from dls.fuse.sources import LocalFile as LocalFile
from dls.fuse.sources import Source as Source  # where stored bytes are: looked for here
from dls.fuse.squashfs import SUPER
from dls.logistics import digest as digests
from dls.logistics.errors import Corrupt, Invalid
from dls.logistics.manifest import Manifest
from dls.logistics.segment import Segment

_BLOCKS_KEPT: Final = 64
_AHEAD: Final = 256 << 20
"""Bytes of an index that the kernel is asked to bring at once."""
_CONTENT: Final = struct.Struct("<Q16xII8xQ")
"""From the ninth byte of a record: what says where the bytes of a file are."""


class Image(Named):
    """A tree in a file."""

    forks = True

    def __init__(self, source: Source, index: Index) -> None:
        super().__init__(source, index)
        self._blocks: OrderedDict[int, bytes] = OrderedDict()

    # --------------------------------------------------------------------------------------------- names

    def lookup(self, folder: int, name: bytes) -> bytes:
        """The first HEAD bytes of the record of a name in a folder, b'' where there is none."""
        if self.fast is not None and (found := self.fast.lookup(folder, name)) is not None:
            return found
        return super().lookup(folder, name)

    # --------------------------------------------------------------------------------------------- bytes

    def read(self, attr: Attr, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes `start … stop-1` of a file."""
        if self.fast is not None and start == 0 and (stop is None or stop >= attr.size):
            found = self.fast.content(attr.node)
            if found is not None and len(found) == attr.size:
                return found
        return super().read(attr, start, stop)

    def stored(self, number: int, plain: int) -> bytes:
        """The content of block `number`, `plain` bytes or fewer; not kept."""
        self.source.same()
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
        self.source.same()
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
        frame, at = self.frame(node << 3 >> self._frame_bits), node << 3 & self._in_frame
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
        frame, at = self.frame(node << 3 >> self._frame_bits), node << 3 & self._in_frame
        if at + HEAD > len(frame):
            raise damaged("a record lies outside")
        a, tail, inside, size = _CONTENT.unpack_from(frame, at + 8)
        if size <= LARGEST_PART and tail != NO_TAIL:
            part = self._part(tail, a & LOW, inside, size)
            if part is not None:
                return [part if start == 0 and stop >= size else memoryview(part)[start:stop]]
        return self.pieces(records.unpack(frame, at), start, stop)

    def likely(self, node: int) -> list[bytes | memoryview] | None:
        """All of a file of one block at most, of an image of this machine."""
        attr = self.attr(node)
        if self.far or attr.mode >> 12 != 8 or not 0 < attr.size <= self.block:
            return None
        return self.content(node, 0, attr.size)

    # ------------------------------------------------------------------------------------------ manifest

    @cached_property
    def manifest(self) -> Manifest:
        """What the image holds; its content is that of the tree it was made from."""
        self.source.same()
        refs = self.index.refs()
        numbers = {ref.digest: i for i, ref in enumerate(refs)}

        def load(digest: bytes) -> Segment:
            self.source.same()
            return self.index.segment(numbers[digest], refs[numbers[digest]])

        return Manifest(refs, load)

    def close(self) -> None:
        """Let go of the file.  Idempotent."""
        self.fast = None
        self._frames.clear()
        self._blocks.clear()
        self.__dict__.pop("manifest", None)  # it knows this image: without it, the mapping goes with the last user
        self.source.close()


def open_image(path: str) -> Image:
    """The image in a file on this machine; Invalid where it is none of ours."""
    source = LocalFile(path)
    try:
        size = index_size(source.at(max(0, source.size - FOOTER.size), FOOTER.size), source)
        if size <= _AHEAD:  # soon wanted, and quicker in one sweep than page by page
            os.posix_fadvise(source.fd, source.size - size, size, os.POSIX_FADV_WILLNEED)
        image = matched(source, Index(mapped(source.fd, source.size - size, size)))
        image.fast = reader_of(source, image.index, image.block, image.frame_bytes, image.root)
        return image
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
    begin = digests.text(digests.of(source.at(said.get("at", 0), SUPER.size)))
    if said.get("bytes") != source.size - len(index.data) or begin != said.get("super"):
        raise Corrupt(
            f"the index in {source.name} belongs to another image", code="bad-image", remedy="get the image again"
        )
    return Image(source, index)
