"""The tables of the file system that an image is for the kernel: what writers of them do, and which is taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from dls.fuse import erofs, squashfs
from dls.fuse.blocks import EROFS, Form
from dls.fuse.codec import Packer
from dls.fuse.spool import Spool
from dls.fuse.squashfs import Node, Where

Spot = tuple[int, int]
"""Where an inode lies: two numbers of 32 and 16 bits, whose meaning is the format's own."""


class Super(Protocol):
    """A superblock that is to be written."""

    @property
    def block(self) -> int:
        """Bytes of a block of a file, as our index counts them."""

    @property
    def at(self) -> int:
        """Where it begins in the image."""

    def encode(self) -> bytes:
        """As it is stored; 96 bytes or more."""


class Tables(Protocol):
    """Takes inodes and folders, what is inside a folder before the folder; `finish` writes all."""

    def fragment(self, start: int, stored: int) -> int:
        """Add a block that several files share; returns its number."""

    def xattrs(self, pairs: Sequence[tuple[bytes, bytes]]) -> int:
        """Add a set of extended attributes; returns its number, NONE where the format can hold none of them."""

    def begin(self, number: int, xattr: int) -> None:
        """A folder with this inode number and set of attributes comes; what is inside is added before `folder`."""

    def plain(
        self, mode: int, uid: int, gid: int, mtime: int, number: int, size: int, start: int, fragment: int, offset: int,
        sizes: bytes, mtime_ns: int,
    ) -> Spot:  # fmt: skip
        """The inode of a file with one name, no attributes and no holes."""

    def file(self, node: Node, size: int, where: Where) -> Spot:
        """The inode of a regular file."""

    def link(self, node: Node, text: bytes) -> Spot:
        """The inode of a symbolic link."""

    def special(self, node: Node, kind: int, device: int) -> Spot:
        """The inode of a device, a pipe or a socket."""

    def folder(
        self, node: Node, parent: int, entries: Iterator[tuple[bytes, int, int, int, int]]
    ) -> tuple[int, int, int]:
        """A folder with its entries, sorted; returns its spot and the bytes of its listing."""

    def finish(self, root: Spot, at: int, write: Callable[[bytes], None]) -> Super:
        """Write all tables from position `at` on; returns the superblock, which the caller writes."""


def tables_for(form: Form, spools: Callable[[], Spool]) -> Tables:
    """The writer for this form of image."""
    if form.image == EROFS:
        return erofs.Tables(form.block, spools)
    return squashfs.Tables(form.block, Packer(form.level), spools)
