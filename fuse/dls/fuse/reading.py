"""Readers: who gives a worker the bytes that it packs.

Each worker opens a reader of its own from a description that can be sent to another process: ("module:function",
arguments).  Little is imported here: a worker begins to read 40 ms sooner.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any, Final, NamedTuple, Protocol

from dls.logistics.errors import DlsError

STEP: Final = 1 << 20
"""Bytes of a stretch that are read at once."""
_READING: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""What became a pipe meanwhile is not waited for."""
_OTHER: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.ESPIPE})
"""What is said where a file was: nothing is there, or something else."""


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


def opened(description: Description) -> Any:
    """What a description makes in this process."""
    module, _, function = description[0].partition(":")
    return getattr(import_module(module), function)(*description[1])


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
                        raise _changed(self._where, path)
                finally:
                    closing(fd)
                out.append(body)
        except OSError as exc:
            raise _told(exc, self._where, path) from exc
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
                        raise _changed(self._where, path)
                    yield body
                info = os.fstat(fd)
            finally:
                os.close(fd)
        except OSError as exc:
            raise _told(exc, self._where, path) from exc
        if info.st_size != size or info.st_mtime_ns != mtime_ns:
            raise _changed(self._where, path)


def _changed(where: str, path: bytes) -> DlsError:
    from dls.fuse.source import changed

    return changed(where, path)


def _told(error: OSError, where: str, path: bytes) -> DlsError:
    from dls.logistics.stores.posix_errors import ours

    return _changed(where, path) if error.errno in _OTHER else ours(error, where, path)
