"""Folders, texts of links and extended attributes of ext2, ext3 and ext4."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from dls.fuse.foreign.archive import unreadable
from dls.fuse.foreign.ext import FileSystem, Inode

_ATTRIBUTES: Final = 0xEA020000
_PREFIXES: Final = {
    1: b"user.",
    2: b"system.posix_acl_access",
    3: b"system.posix_acl_default",
    4: b"trusted.",
    6: b"security.",
}
_SYSTEM: Final = 7
_ACLS: Final = (2, 3)
_LONGEST_TEXT: Final = 4096
_MOST_VALUE: Final = 1 << 20
_STEP: Final = 1 << 20


def names_in(disk: FileSystem, folder: Inode) -> Iterator[tuple[bytes, int]]:
    """(Name, number of the inode) of what is in a folder, in no order."""
    if folder.encrypted:
        raise unreadable(disk.name, "it holds an encrypted folder", "mount it with the kernel and its key")
    if folder.inline:
        # Four bytes are the folder above; the rest is one block, what does not fit there another.
        yield from _entries(disk, folder, folder.block[4:])
        if rest := _inline_rest(disk, folder):
            yield from _entries(disk, folder, rest)
        return
    runs = disk.runs(folder)
    if folder.size > disk.blocks * disk.block:
        raise disk.damaged(f"the folder of inode {folder.number:,} has an impossible size")
    step = max(disk.block, _STEP // disk.block * disk.block)
    for at in range(0, folder.size, step):
        data = b"".join(disk.read(folder, runs, at, min(folder.size, at + step)))
        for start in range(0, len(data), disk.block):
            yield from _entries(disk, folder, data[start : start + disk.block])


def _entries(disk: FileSystem, folder: Inode, data: bytes) -> Iterator[tuple[bytes, int]]:
    at, size = 0, len(data)
    typed = disk.incompat & 2
    while at + 8 <= size:
        number, length, long = struct.unpack_from("<IHH", data, at)
        long = long & 0xFF if typed else long
        if length in (0, 0xFFFF) and disk.block == 1 << 16:
            length = 1 << 16
        if length < 8 or length & 3 or at + length > size or (number and 8 + long > length):
            if not any(data[at:]):
                return  # never used
            raise disk.damaged(f"the folder of inode {folder.number:,} is impossible")
        name = data[at + 8 : at + 8 + long]
        at += length
        if number and name not in (b".", b".."):
            if not name or b"/" in name or b"\0" in name:
                raise disk.damaged(f"the folder of inode {folder.number:,} has an impossible name")
            yield name, number


def text_of(disk: FileSystem, link: Inode) -> bytes:
    """The text of a symbolic link."""
    if link.encrypted:
        raise unreadable(disk.name, "it holds an encrypted link", "mount it with the kernel and its key")
    if link.size > _LONGEST_TEXT:
        raise disk.damaged(f"the link of inode {link.number:,} is impossible")
    if link.inline:
        return inline_data(disk, link)
    if link.size < 60 and not link.flags & 0x80000:
        return link.block[: link.size]
    return b"".join(disk.read(link, disk.runs(link), 0, link.size))


def inline_data(disk: FileSystem, inode: Inode) -> bytes:
    """The bytes of a file that are in its inode; what is missing is zeros."""
    if inode.size <= len(inode.block):
        return inode.block[: inode.size]
    return (inode.block + _inline_rest(disk, inode))[: inode.size]


def _inline_rest(disk: FileSystem, inode: Inode) -> bytes:
    for kind, name, value in _pairs(disk, inode, inode.extra[4:], 0) if _has_pairs(inode.extra) else ():
        if kind == _SYSTEM and name == b"data":
            return value
    return b""


def xattrs_of(disk: FileSystem, inode: Inode) -> tuple[tuple[bytes, bytes], ...]:
    """The extended attributes of an inode, sorted."""
    found: dict[bytes, bytes] = {}
    pairs = list(_pairs(disk, inode, inode.extra[4:], 0)) if _has_pairs(inode.extra) else []
    if inode.acl:
        data = disk.at(inode.acl)
        if struct.unpack_from("<I", data)[0] != _ATTRIBUTES:
            raise disk.damaged(f"the attributes of inode {inode.number:,} are impossible")
        pairs += _pairs(disk, inode, data, 32)
    for kind, name, value in pairs:
        if kind in _ACLS and not name:
            found[_PREFIXES[kind]] = _acl(disk, inode, value)
        elif kind in _PREFIXES:
            found[_PREFIXES[kind] + name] = value
    return tuple(sorted(found.items()))


def _has_pairs(extra: bytes) -> bool:
    return len(extra) >= 8 and struct.unpack_from("<I", extra)[0] == _ATTRIBUTES


def _pairs(disk: FileSystem, inode: Inode, data: bytes, at: int) -> Iterator[tuple[int, bytes, bytes]]:
    """(Kind of prefix, name, value); places of values count from the beginning of `data`."""
    while at + 16 <= len(data) and data[at : at + 4] != bytes(4):
        long, kind, where, elsewhere, size, _ = struct.unpack_from("<BBHIII", data, at)
        name = data[at + 16 : at + 16 + long]
        at += 16 + (long + 3 & ~3)
        if size > _MOST_VALUE:
            raise disk.damaged(f"the attributes of inode {inode.number:,} are impossible")
        if elsewhere:
            other = disk.inode(elsewhere)
            value = b"".join(disk.read(other, disk.runs(other), 0, size))
        else:
            value = data[where : where + size]
        if len(value) != size or len(name) != long:
            raise disk.damaged(f"the attributes of inode {inode.number:,} are impossible")
        yield kind, name, value


def _acl(disk: FileSystem, inode: Inode, data: bytes) -> bytes:
    """A list of access rights, from how it is stored to how the kernel shows it."""
    out, at = bytearray(struct.pack("<I", 2)), 4
    while at + 4 <= len(data):
        tag, rights = struct.unpack_from("<HH", data, at)
        at += 4
        who = 0xFFFFFFFF
        if tag in (0x02, 0x08):
            if at + 4 > len(data):
                raise disk.damaged(f"the attributes of inode {inode.number:,} are impossible")
            (who,) = struct.unpack_from("<I", data, at)
            at += 4
        out += struct.pack("<HHI", tag, rights, who)
    return bytes(out)
