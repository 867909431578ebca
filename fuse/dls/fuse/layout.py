"""The tables of an image, built from items in order: SquashFS's own and those of our index, side by side."""

from __future__ import annotations

import os
import struct
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from heapq import merge
from typing import Any, Final, NamedTuple

from dls.fuse import records, squashfs
from dls.fuse.blocks import Form
from dls.fuse.codec import sum_of
from dls.fuse.groups import Kept, Tally
from dls.fuse.index import EXTENT, Names, frame_packer
from dls.fuse.source import Item
from dls.fuse.spool import Row, Rows, Spool
from dls.fuse.tables import Tables, tables_for
from dls.logistics import names
from dls.logistics.errors import Unsupported

_LONGEST_TEXT = 4095
_SMALL: Final = 0xFFFFFFFF
"""What fits into 32 bits."""
_TYPES: Final = {6: squashfs.BLOCK_DEVICE, 2: squashfs.CHAR_DEVICE, 1: squashfs.FIFO, 12: squashfs.SOCKET}


class Place(NamedTuple):
    """Where the bytes of a file lie."""

    start: int
    """Of the first block, from the start of the image."""
    first: int
    """Number of the first block of its own; of a file that is a part of a block, its sum."""
    holes: int
    fragment: int
    """Number of the fragment in the tables of SquashFS, or NONE."""
    shared: int
    """Number of the block that it shares, or NO_TAIL."""
    offset: int
    """Of its content in that block."""
    inside: int
    """The same, or where its part is: `dls.fuse.blocks`."""
    own: int
    """Blocks of its own."""


NOWHERE: Final = Place(0, 0, 0, squashfs.NONE, records.NO_TAIL, 0, 0, 0)


@dataclass(slots=True)
class _Folder:
    """A folder whose contents are being added."""

    item: Item
    number: int
    parent: int
    prefix: bytes
    rows: Rows
    """Of what is inside, in order: name, block and offset of its inode, number, type, record; or as `records.PLAIN`."""
    folders: list[tuple[bytes, int, int, int, int]]
    xattrs: tuple[int, int]


class Layout:
    """Builds all tables from items in order."""

    def __init__(
        self, form: Form, spools: Callable[[], Spool], blocks: Spool,
        count: Callable[[int, int], int] = lambda group, said: said, tables: Tables | None = None,
    ) -> None:  # fmt: skip
        self._form, self._spools, self._blocks = form, spools, blocks
        self.tables = tables or tables_for(form, spools)
        self.names = Names(spools())
        self.frames, self.frame_data = spools(), spools()
        self.space = records.Space(self._frame)
        self._frame_at, self._pack_frame = 0, frame_packer()
        self.xattr_rows, self.xattr_data = spools(), spools()
        self._xattrs: dict[Any, tuple[int, int]] = {}
        self._stack: list[_Folder] = []
        self._pending: dict[bytes, _Folder] = {}
        self._groups = Kept(spools())
        """Of an inode with several names: block and offset, number and type; its record; its first name."""
        self.found = Tally()
        """How many names of each group were met."""
        self._count, self._nlinks = count, Tally()
        self._number = 0
        self.kinds = {"files": 0, "folders": 0, "links": 0, "others": 0}
        self.root: tuple[int, int, int] = (0, 0, 0)

    def _frame(self, plain: bytes) -> None:
        data = self._pack_frame.one(plain)
        self.frames.add(EXTENT.pack(self._frame_at, len(data), sum_of(data)))
        self.frame_data.add(data)
        self._frame_at += len(data)

    # --------------------------------------------------------------------------------------------- items

    def add(self, item: Item, place: Place = NOWHERE) -> bytes:
        """The next item; returns the first name of its hard-link group, b'' where it is the first or only one."""
        path, kind, group = item.path, item.mode >> 12, item.group
        if kind == 4:
            self._begun(item)
            return b""
        self.kinds["files" if kind == 8 else "links" if kind == 10 else "others"] += 1
        folder = self._parent(path)
        name = path[len(folder.prefix) :]
        nlink = 1
        if group is not None:
            if (known := self._groups.get(group[1])) is not None:
                entry, record, first = known
                self.found[group[1]] += 1
                folder.rows.add((name, *entry, _renamed(record, name)))
                folder.rows.settle()
                return bytes(first)
            nlink = self._count(group[1], item.nlink)
        self._number = number = self._number + 1
        squash_xattr, own_xattr = self._xattrs_of(item) if item.xattrs else (squashfs.NONE, -1)
        mode, uid, gid = item.mode, item.uid, item.gid
        node = _node(item, number, nlink, squash_xattr)
        generation, blocks, device = own_xattr + 1 << 40, -(-item.size // 512), 0
        if kind == 8:
            type_ = squashfs.FILE
            sizes = self._sizes(place) if place.own else ()
            where = squashfs.Where(place.start, sizes, place.fragment, place.offset, place.holes)
            at = self.tables.file(node, item.size, where)
            generation |= place.first
            blocks = -(-(item.size - place.holes) // 512)
        elif kind == 10:
            type_ = squashfs.LINK
            at = self.tables.link(node, item.text)
            generation |= self._text(item) >> 3
        else:
            type_, device = _TYPES[kind], _device(item.device)
            at = self.tables.special(node, type_, device)
        record = records.pack(
            name, 0, generation, place.shared, place.inside, number, item.size, blocks, item.mtime_ns, mode, nlink, uid,
            gid, device, self._form.block,
        )  # fmt: skip
        entry = (*at, number, type_)
        if group is not None:
            record = self._group(group[1], nlink, record, entry, path)
        folder.rows.add((name, *entry, record))
        folder.rows.settle()
        return b""

    def extend(self, rows: Iterable[tuple[Item, Place]]) -> None:
        """The next items, where nobody asks for first names: files without anything special, as most are, go fast."""
        plain, sizes_of, number, prefix, folder = self.tables.plain, self._sizes, self._number, None, None
        first_number, others = number, 0
        for item, place in rows:
            path, mode, uid, gid, mtime_ns, size, group, _, _, xattrs, _, _ = item
            start, first, holes, fragment, shared, offset, inside, own = place
            if mode >> 12 != 8 or group is not None or xattrs or holes or start > _SMALL or size > _SMALL:
                self._number, prefix = number, None
                self.add(item, place)
                others += self._number - number
                number = self._number
                continue
            cut_at = path.rfind(b"/") + 1
            if folder is None or path[:cut_at] != prefix:
                prefix = path[:cut_at]
                folder = self._parent(path)
            if not number & 1023:
                folder.rows.settle()
            number += 1
            seconds = mtime_ns // 1_000_000_000
            if not 0 <= seconds <= _SMALL:
                seconds = _seconds(mtime_ns)
            sizes = array("I", sizes_of(place)).tobytes() if own else b""
            at, inode = plain(mode & 0o7777, uid, gid, seconds, number, size, start, fragment, offset, sizes, mtime_ns)
            folder.rows.add(
                (path[cut_at:], at, inode, number, squashfs.FILE, size, mtime_ns, mode, uid, gid, first, shared, inside)
            )
        self._number = number
        self.kinds["files"] += number - first_number - others

    def _begun(self, item: Item) -> None:
        """A folder: what is inside comes later, unless it is empty."""
        path = item.path
        self._number += 1
        self.kinds["folders"] += 1
        above = self._parent(path).number if path else 0
        prefix = path + b"/" if path else b""
        rows = self._spools
        folder = _Folder(item, self._number, above, prefix, Rows(rows), [], self._xattrs_of(item))
        self.tables.begin(self._number, folder.xattrs[0])
        if item.empty:
            self._stack.append(folder)
            self._close()
        else:
            self._pending[prefix] = folder

    def _group(self, group: int, nlink: int, record: bytes, entry: tuple[int, int, int, int], path: bytes) -> bytes:
        """The first name of an inode with several: names in several folders mean one node, so it has a record of its
        own, known before any folder is closed."""
        position = self.space.lone(record)
        record = records.U64.pack(position >> 3) + record[8:]
        self._groups.put(group, (entry, record, path))
        self.found[group], self._nlinks[group] = 1, nlink
        return record

    def _text(self, item: Item) -> int:
        if len(item.text) > _LONGEST_TEXT:
            shown = names.show(item.path)
            raise Unsupported(
                f"the link {shown} has a longer text than any kernel reads", code="long-link", key=shown,
                remedy="leave it out",
            )  # fmt: skip
        return self.space.text(item.text)

    def _sizes(self, place: Place) -> list[int]:
        rows = self._blocks.at(place.first * EXTENT.size, place.own * EXTENT.size)
        return [stored for _, stored, _ in EXTENT.iter_unpack(rows)]  # a file's own blocks have no other mark than RAW

    def _xattrs_of(self, item: Item) -> tuple[int, int]:
        """Numbers of the set in SquashFS and in the index; NONE and -1 where there is none."""
        pairs = item.xattrs
        if not pairs:
            return squashfs.NONE, -1
        known = self._xattrs.get(pairs)
        if known is None:
            data = struct.pack("<H", len(pairs)) + b"".join(
                struct.pack("<HI", len(name), len(value)) + name + value for name, value in pairs
            )
            self.xattr_rows.add(EXTENT.pack(len(self.xattr_data), len(data), sum_of(data)))
            self.xattr_data.add(data)
            known = self._xattrs[pairs] = (self.tables.xattrs(pairs), len(self._xattrs))
        return known

    # ------------------------------------------------------------------------------------------- folders

    def _parent(self, path: bytes) -> _Folder:
        """The folder of a path, now open; those that are over are closed."""
        stack = self._stack
        cut_at = path.rfind(b"/") + 1
        prefix = path[:cut_at]
        while stack and stack[-1].prefix != prefix:
            if prefix.startswith(stack[-1].prefix):
                stack.append(self._pending.pop(prefix))
                return stack[-1]
            self._close()
        if not stack:
            stack.append(self._pending.pop(prefix))
        return stack[-1]

    def _close(self) -> None:
        """Everything inside the innermost open folder is known: write it, and tell the folder above."""
        folder = self._stack.pop()
        item, number = folder.item, folder.number
        nlink = 2 + len(folder.folders)
        squash_xattr, own_xattr = folder.xattrs
        node = _node(item, number, nlink, squash_xattr)
        # SquashFS gives the root a parent that no inode has.
        parent = folder.parent or self._number + 1
        block, offset, size = self.tables.folder(node, parent, self._listing(folder))
        position, length, rows = self.space.listing(self._records(folder), number, self._form.block)
        self.names.add(rows)
        generation = (own_xattr + 1 << 40) | position >> 3
        name = item.path[item.path.rfind(b"/") + 1 :]
        record = records.pack(
            name, 0, generation, length & 0xFFFFFFFF, length >> 32, number, size, -(-size // 512), item.mtime_ns,
            item.mode, nlink, item.uid, item.gid, 0, self._form.block,
        )  # fmt: skip
        folder.rows.close()
        if not item.path:
            self.root = block, offset, self.space.lone(record)
            return
        above = self._stack[-1]  # every folder is begun with the one above it open
        above.folders.append((name, block, offset, number, squashfs.DIR))
        above.rows.add((name, block, offset, number, squashfs.DIR, record))
        above.rows.settle()

    @staticmethod
    def _listing(folder: _Folder) -> Iterator[Row]:
        if not folder.folders:
            return (row[:5] for row in folder.rows)
        return merge((row[:5] for row in folder.rows if row[4] != squashfs.DIR), sorted(folder.folders))

    def _records(self, folder: _Folder) -> Iterator[Row]:
        item, parent = folder.item, folder.parent or folder.number
        nothing = (0, 0, 0)
        yield b".", records.pack(b".", 0, *nothing, folder.number, 0, 0, item.mtime_ns, item.mode, 2, 0, 0, 0, 0)
        yield b"..", records.pack(b"..", 0, *nothing, parent, 0, 0, 0, 0o040000, 2, 0, 0, 0, 0)
        yield from folder.rows

    def settled(self) -> bool:
        """Whether every hard-link group has as many names as its inode says."""
        return all(self._nlinks[group] == count for group, count in self.found.items())

    def finish(self) -> None:
        """Close what is open, the root last."""
        while self._stack:
            self._close()
        if self._pending:
            raise AssertionError(f"folders were never closed: {list(self._pending)[:3]}")


def _node(item: Item, number: int, nlink: int, xattr: int) -> squashfs.Node:
    seconds = _seconds(item.mtime_ns)
    return squashfs.Node(item.mode & 0o7777, item.uid, item.gid, seconds, number, nlink, xattr, item.mtime_ns)


def _seconds(mtime_ns: int) -> int:
    """The nearest time that SquashFS can hold."""
    seconds = mtime_ns // 1_000_000_000
    return seconds if 0 <= seconds < 1 << 32 else 0 if seconds < 0 else (1 << 32) - 1


def _renamed(record: bytes, name: bytes) -> bytes:
    head = record[: records.NAME_SIZE] + len(name).to_bytes(4, "little") + record[records.TYPE : records.HEAD]
    return head + name + bytes(-len(name) % 8)


def _device(number: int) -> int:
    major, minor = os.major(number), os.minor(number)
    return (minor & 0xFF) | major << 8 | (minor & ~0xFF) << 12
