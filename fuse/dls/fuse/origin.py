"""Where packed bytes come from: a folder of this machine, or any tree.  Others are made by whoever needs them.

An origin lists items; each worker of a packer opens a reader of its own for the bytes, from a description that can
be sent to another process: ("module:function", arguments).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any, Final, NamedTuple, Protocol

from dls.fuse.source import Attributes, Item, changed, walk
from dls.fuse.tree import Tree
from dls.logistics.stores.posix_errors import ours

STEP: Final = 1 << 20
"""Bytes of a stretch that are read at once."""
_READING: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


class File(NamedTuple):
    """A file to read whole, or from `start` to `stop`."""

    path: bytes
    size: int
    mtime_ns: int
    start: int = 0
    stop: int = -1


class Reader(Protocol):
    """Gives the bytes of files as the items said they are, or the Conflict `source-changed`."""

    def bodies(self, files: Sequence[File]) -> list[bytes]:
        """Each of the files, whole; they are few enough for memory."""
        ...

    def stretch(self, file: File) -> Iterator[bytes]:
        """The bytes `start … stop-1` of a file, by STEP (the last piece may be shorter)."""
        ...


Description = tuple[str, tuple[Any, ...]]
"""What a worker calls for its reader: "module:function" and the arguments."""


class Origin(Protocol):
    """Something that can be packed."""

    name: str

    def items(self, keep: Attributes) -> Iterator[Item]:
        """Everything in the order of manifests, folders before what is in them, the root (b'') first."""
        ...

    def reader(self) -> Description:
        """What a worker calls for its reader."""
        ...


def opened(description: Description) -> Any:
    """What a description makes in this process."""
    module, _, function = description[0].partition(":")
    return getattr(import_module(module), function)(*description[1])


class FolderOrigin:
    """A folder of this machine."""

    def __init__(self, root: bytes) -> None:
        self.name, self._root = os.fsdecode(root), root

    def items(self, keep: Attributes) -> Iterator[Item]:
        """As they lie there."""
        return walk(self._root, keep)

    def reader(self) -> Description:
        """Reads them there."""
        return f"{__name__}:{FolderReader.__name__}", (self._root,)


class FolderReader:
    """Reads files of a folder; one that has another size or time than its item is no more what it was."""

    def __init__(self, root: bytes) -> None:
        self._root, self._where = root + b"/", os.fsdecode(root)

    def bodies(self, files: Sequence[File]) -> list[bytes]:
        """Each of the files, whole."""
        root, out, path = self._root, list[bytes](), b""
        opening, reading, looking, closing, flags = os.open, os.read, os.fstat, os.close, _READING
        try:
            for path, size, mtime_ns, _, _ in files:
                fd = opening(root + path, flags)
                try:
                    body = reading(fd, size + 1)
                    while 0 < len(body) < size and (more := reading(fd, size + 1 - len(body))):
                        body += more
                    if looking(fd).st_mtime_ns != mtime_ns or len(body) != size:
                        raise changed(self._where, path)
                finally:
                    closing(fd)
                out.append(body)
        except FileNotFoundError:
            raise changed(self._where, path) from None
        except OSError as exc:
            raise ours(exc, self._where, path) from exc
        return out

    def stretch(self, file: File) -> Iterator[bytes]:
        """The bytes `start … stop-1` of a file."""
        path, size, mtime_ns, start, stop = file
        try:
            fd = os.open(self._root + path, _READING)
            try:
                for at in range(start, stop, STEP):
                    body = os.pread(fd, min(STEP, stop - at), at)
                    if len(body) != min(STEP, stop - at):
                        raise changed(self._where, path)
                    yield body
                info = os.fstat(fd)
            finally:
                os.close(fd)
        except FileNotFoundError:
            raise changed(self._where, path) from None
        except OSError as exc:
            raise ours(exc, self._where, path) from exc
        if info.st_size != size or info.st_mtime_ns != mtime_ns:
            raise changed(self._where, path)


class TreeOrigin:
    """A tree that is open here, and how a worker opens it."""

    def __init__(self, tree: Tree, opener: Description) -> None:
        self.name, self._tree, self._opener = tree.name, tree, opener

    def items(self, keep: Attributes) -> Iterator[Item]:
        """As the tree has them, with all attributes that it has."""
        return self._tree.items()

    def reader(self) -> Description:
        """Reads them from the tree."""
        return f"{__name__}:{TreeReader.__name__}", self._opener


class TreeReader:
    """Reads files of a tree, which a function opens."""

    def __init__(self, function: str, arguments: tuple[Any, ...]) -> None:
        self._tree: Tree = opened((function, arguments))

    def bodies(self, files: Sequence[File]) -> list[bytes]:
        """Each of the files, whole."""
        return [self._checked(file, 0, file.size) for file in files]

    def stretch(self, file: File) -> Iterator[bytes]:
        """The bytes `start … stop-1` of a file."""
        for at in range(file.start, file.stop, STEP):
            yield self._checked(file, at, min(at + STEP, file.stop))

    def _checked(self, file: File, start: int, stop: int) -> bytes:
        attr = self._tree.find(file.path)
        body = self._tree.read(attr, start, stop)
        if attr.size != file.size or len(body) != stop - start:
            raise changed(self._tree.name, file.path)
        return body
