"""Trees in rar archives, of version 4 and 5: unpacked once, in order, by libarchive, and kept in frames."""

from __future__ import annotations

import stat as st
from zlib import crc32

from dls.fuse.foreign.archive import Context, damaged, index_of, unreadable
from dls.fuse.foreign.framed import FRAME, Framed, Frames
from dls.fuse.foreign.libarchive import Found, Reader
from dls.fuse.foreign.members import DANGLING, Member, Members
from dls.fuse.foreign.rarhead import Head, heads
from dls.fuse.image import Source
from dls.fuse.indexing import Making
from dls.fuse.records import LOW, Attr
from dls.logistics import names


class Rar(Framed):
    """A rar."""

    form = "rar"

    def pieces(self, attr: Attr, start: int, stop: int) -> list[bytes | memoryview]:
        """The bytes `start … stop-1` of a file."""
        stop = min(stop, attr.size)
        if start >= stop:
            return []
        if attr.b == DANGLING:
            raise self.damaged("a hard link leads to what is not in the archive")
        at = attr.a | attr.b << 40
        return list(self.unpacked(at + start, at + stop))


def open_rar(source: Source, stamp: str, context: Context) -> Rar:
    """The tree in a rar."""

    def make(making: Making) -> None:
        context.progress.bytes_total = source.size
        members, frames = Members(making.spool), Frames(making, context, source.name)
        told = heads(source)
        reader = Reader(source)
        try:
            for one in reader.members():
                before = reader.at
                head = next(told, None)
                if head is None:
                    raise damaged(source.name, "its headers say less than there is", reader.at)
                _add(members, frames, reader, one, head, source.name)
                context.progress.moved(max(0, reader.at - before))
        finally:
            reader.close()
        for head in told:
            raise damaged(source.name, f"{names.show(head.name)} cannot be read")
        frames.finish()
        making.index(members.rows(), {"notes": members.notes}, FRAME)

    fd, index = index_of(source, "rar", stamp, context, make)
    return Rar(source, index, fd).keep(context)


def _add(members: Members, frames: Frames, reader: Reader, one: Found, head: Head, shown: str) -> None:
    at, kind, check = frames.size, st.S_IFMT(one.mode), 0
    if one.encrypted:
        why = f"{names.show(one.name)} is encrypted"
        raise unreadable(shown, why, "unpack it with unrar and its password", one.name)
    if kind == st.S_IFREG and not one.hardlink:
        for data in reader.bytes_of(one.name):
            frames.add(data)
            check = crc32(data, check)
        # libarchive of Debian 12 gives stored members whose sum is wrong without a word.
        if head.crc is not None and check != head.crc:
            raise damaged(shown, f"{names.show(one.name)} has another CRC-32 than its header says")
    mode = one.mode if kind in (st.S_IFDIR, st.S_IFLNK) else st.S_IFREG | one.mode & 0o7777
    member = Member(
        mode, one.uid, one.gid, one.mtime_ns, frames.size - at, a=at & LOW, b=at >> 40,
        text=one.symlink if kind == st.S_IFLNK else b"",
    )  # fmt: skip
    if one.hardlink:
        members.link(one.name, one.hardlink, member)
    else:
        members.add(one.name, member)
