"""A tree that is read only: what a mount, a store and a packer see of an image, of layers, of anything that has names.

Nodes are numbers of 64 bits, as FUSE has them; paths are bytes, relative, '' the root.  Safe for several threads.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

from dls.fuse import records
from dls.fuse.fast import Reader
from dls.fuse.records import Attr
from dls.fuse.source import Item, Row, ordered
from dls.logistics import digest as digests
from dls.logistics import names
from dls.logistics.entry import FILE, Entry
from dls.logistics.errors import Conflict, Corrupt, DlsError, NotFound
from dls.logistics.manifest import Manifest


class Tree(ABC):
    """Names and bytes, read only."""

    name: str
    """For people and errors."""
    block: int
    """Bytes that are best read at once."""
    root: int
    """Number of the root's node."""
    size: int
    """Bytes as they are stored."""
    counts: dict[str, int]
    """How many `files`, `folders`, `links`, `others`."""
    attributed: bool
    """Whether any node may have extended attributes."""
    far: bool = False
    """Whether bytes come over a network: then `ready` is asked before each read."""
    notes: Sequence[str] = ()
    """What people should know of it: names that were left out, for instance."""
    fast: Reader | None = None
    """A compiled path for names and small files, where there is one."""
    forks: bool = False
    """Whether a child process may go on with what its parent opened."""

    @abstractmethod
    def record(self, node: int) -> bytes:
        """The record of a node: `dls.fuse.records`; at least its first HEAD bytes."""

    @abstractmethod
    def lookup(self, folder: int, name: bytes) -> bytes:
        """The first HEAD bytes of the record of a name in a folder as its listing has it, b'' where there is none."""

    @abstractmethod
    def listing(self, folder: int, offset: int, size: int) -> list[bytes]:
        """Whole records of a folder from `offset` bytes on, at most `size` bytes: a reply to READDIRPLUS."""

    @abstractmethod
    def rows(self, folder: Attr) -> Iterator[tuple[bytes, Attr]]:
        """The names in a folder, in order of the listing, without `.` and `..`."""

    @abstractmethod
    def pieces(self, attr: Attr, start: int, stop: int) -> list[bytes | memoryview]:
        """The bytes `start … stop-1` of a file, as they lie; past the end gives what there is."""

    @abstractmethod
    def text(self, link: Attr) -> bytes:
        """The text of a symbolic link."""

    @abstractmethod
    def xattrs(self, attr: Attr) -> dict[bytes, bytes]:
        """The extended attributes of a node."""

    @property
    @abstractmethod
    def manifest(self) -> Manifest:
        """What the tree holds; Unsupported where digests are not known."""

    @abstractmethod
    def close(self) -> None:
        """Let go of everything.  Idempotent."""

    # ------------------------------------------------------------------------------------- what follows

    def attr(self, node: int) -> Attr:
        """The attributes of a node."""
        return records.unpack(self.record(node))

    def ready(self, node: int, start: int) -> bool:
        """Whether bytes of a file from `start` on come without waiting for a disk or a network, as far as is known."""
        return True

    def content(self, node: int, start: int, stop: int) -> list[bytes | memoryview]:
        """As `pieces`, of a node."""
        return self.pieces(self.attr(node), start, stop)

    def likely(self, node: int) -> list[bytes | memoryview] | None:
        """All of a small file, where it costs little, may be in vain, and nobody has asked for it; else None."""
        return None

    def find(self, path: bytes) -> Attr:
        """The node of a path; NotFound with the path."""
        attr = self.attr(self.root)
        if path:
            names.check(path)
            for name in path.split(b"/"):
                found = self.lookup(attr.node, name) if attr.mode >> 12 == 4 else b""
                if not found:
                    raise NotFound(
                        f"there is no {names.show(path)} in {self.name}",
                        code="no-such-key", key=names.show(path), store=self.name, remedy="check the name",
                    )  # fmt: skip
                attr = records.unpack(found)
        return attr

    def listdir(self, path: bytes = b"") -> list[bytes]:
        """The names in a folder."""
        return [name for name, _ in self.rows(self._folder(path))]

    def walk(self, path: bytes = b"") -> Iterator[tuple[bytes, Attr]]:
        """Everything below a folder, folders before what is in them."""
        todo = [(path + b"/" if path else b"", self._folder(path))]
        while todo:
            prefix, folder = todo.pop()
            inside = []
            for name, attr in self.rows(folder):
                yield prefix + name, attr
                if attr.mode >> 12 == 4:
                    inside.append((prefix + name + b"/", attr))
            todo.extend(reversed(inside))

    def _folder(self, path: bytes) -> Attr:
        attr = self.find(path)
        if attr.mode >> 12 != 4:
            shown = names.show(path)
            raise Conflict(f"{shown} is no folder", code="not-a-folder", key=shown, remedy="name a folder")
        return attr

    def read(self, attr: Attr, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes `start … stop-1` of a file."""
        return b"".join(self.pieces(attr, start, attr.size if stop is None else stop))

    def verify(self, *, every: int = 1) -> Iterator[tuple[Entry, DlsError | None]]:
        """Read every file (or each `every`th) and compare it with the manifest."""
        for number, entry in enumerate(entry for entry in self.manifest if entry.kind == FILE):
            if number % every == 0:
                yield entry, self._wrong(entry)

    def _wrong(self, entry: Entry) -> DlsError | None:
        try:
            attr, hasher = self.find(entry.path), digests.Hasher(0)
            for at in range(0, attr.size, 1 << 20):
                for piece in self.pieces(attr, at, at + (1 << 20)):
                    hasher.update(piece)
        except DlsError as error:
            return error
        if hasher.digest() == entry.digest and attr.size == entry.size:
            return None
        shown = names.show(entry.path)
        return Corrupt(f"{shown} has another content than was packed", code="content-differs", key=shown)

    def items(self) -> Iterator[Item]:
        """Everything as a packer takes it: in order of the manifest, folders before what is in them, the root first."""
        top = self.attr(self.root)
        return ordered(self._item(b"", top), self._inside)

    def _inside(self, above: bytes) -> list[Row]:
        rows = [(above + name, self._item(above + name, attr)) for name, attr in self.rows(self.find(above[:-1]))]
        rows.sort()  # a listing has a folder where its name and a slash would stand
        return rows

    def _item(self, path: bytes, attr: Attr) -> Item:
        kind = attr.mode >> 12
        return Item(
            path, attr.mode, attr.uid, attr.gid, attr.mtime_ns, attr.size if kind in (8, 10) else 0,
            (0, attr.ino) if attr.nlink > 1 and kind != 4 else None,
            records.device_of(attr.rdev), self.text(attr) if kind == 10 else b"",
            tuple(sorted(self.xattrs(attr).items())), False, attr.nlink if kind != 4 else 1,
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
