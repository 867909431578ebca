"""Where the stored bytes of an image are: here in a file of this machine, in `dls.fuse.remote` behind a store."""

from __future__ import annotations

import os
import stat as st
from typing import Protocol

from dls.logistics.errors import Conflict, Invalid
from dls.logistics.stores.posix_errors import ours


class Source(Protocol):
    """Where the stored bytes of an image are."""

    name: str
    size: int
    far: bool
    """Whether bytes come over a network."""

    def at(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset`, fewer at the end."""
        ...

    def same(self) -> None:
        """Conflict where what is mapped of it may be gone: who reads memory of a file cut short meanwhile is killed."""
        ...

    def ready(self, offset: int) -> bool:
        """Whether `at` gives what begins there without waiting, as far as is known."""
        ...

    def again(self, offset: int, size: int) -> bytes:
        """The same, past whatever is kept on the way: what came was damaged."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


class LocalFile:
    """An image on this machine."""

    far = False

    def __init__(self, path: str) -> None:
        self.name = path
        try:
            self.fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # nobody waits for a pipe's other end
        except OSError as exc:
            raise ours(exc, path) from exc
        info = os.fstat(self.fd)
        if not st.S_ISREG(info.st_mode):
            raise Invalid(
                f"{path} is no file, and so no image or archive",
                code="not-an-image", store=path, remedy="name a file, or pack a folder: dls pack FOLDER IMAGE",
            )  # fmt: skip
        self.size, self.mtime_ns = info.st_size, info.st_mtime_ns

    @classmethod
    def over(cls, fd: int, name: str) -> LocalFile:
        """One that is open already, and is closed with it."""
        made = cls.__new__(cls)
        info = os.fstat(fd)
        made.name, made.fd, made.size, made.mtime_ns = name, fd, info.st_size, info.st_mtime_ns
        return made

    def at(self, offset: int, size: int) -> bytes:
        """From the file; Conflict where somebody wrote into it since it was opened."""
        try:
            data = os.pread(self.fd, size, offset)
            while 0 < len(data) < size and (more := os.pread(self.fd, size - len(data), offset + len(data))):
                data += more
        except OSError as exc:
            raise ours(exc, self.name) from exc
        self.same()
        return data

    def same(self) -> None:
        """Conflict where somebody wrote into the file since it was opened; once it is closed nobody can tell."""
        if self.fd < 0:
            return  # a manifest may be looked through that was taken of it before
        try:
            info = os.fstat(self.fd)
        except OSError as exc:
            raise ours(exc, self.name) from exc
        if info.st_mtime_ns != self.mtime_ns or info.st_size != self.size:
            raise Conflict(
                f"{self.name} was written to since it was opened",
                code="source-changed", store=self.name, remedy="mount or open it again",
            )  # fmt: skip

    def ready(self, offset: int) -> bool:
        """Whether the kernel has it."""
        try:
            os.preadv(self.fd, [bytearray(1)], offset, os.RWF_NOWAIT)
        except BlockingIOError:
            return False
        except OSError:
            pass  # not known here: as if it were
        return True

    def again(self, offset: int, size: int) -> bytes:
        """As `at`: nothing is kept on the way."""
        return self.at(offset, size)

    def __del__(self) -> None:
        if hasattr(self, "fd"):  # whoever was given only the manifest of a packed image has nothing to close
            self.close()

    def close(self) -> None:
        """Close the file."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)
