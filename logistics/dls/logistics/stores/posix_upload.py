"""One large file written by parts into its preallocated place."""

from __future__ import annotations

import errno
import os
import stat as st
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress

from dls.logistics import digest as digests
from dls.logistics import names
from dls.logistics.entry import NO_MODE, NO_TIME
from dls.logistics.errors import Invalid
from dls.logistics.stores.posix_calls import allocate, umask
from dls.logistics.stores.posix_errors import met

_STAMP = struct.Struct("<4q").pack
_CHUNK = 1 << 20
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


class PosixUpload:
    """Parts of 16 MiB by `pwrite`, from any thread.  Its name beside the target is derived from the target's, so a
    later process finds it without a token; which parts it holds, the caller learns by hashing them where they lie."""

    part = digests.BLOCK
    token = ""

    def __init__(self, path: bytes, beside: bytes, size: int, mode: int, mtime_ns: int, where: str, key: bytes) -> None:
        self._path, self._beside, self._size = path, beside, size
        self._mode, self._mtime_ns = mode, mtime_ns
        self._where, self._key = where, key
        try:
            self._fd = os.open(beside, _FLAGS, 0o600)
        except PermissionError:  # a killed run may have given it its mode, 0444, and not its name
            if not st.S_ISREG(os.lstat(beside).st_mode):
                raise
            os.chmod(beside, 0o600)
            self._fd = os.open(beside, _FLAGS, 0o600)
        # Writers of one file queue in the kernel anyway, and burn a core as they do (measured: 1.5 to 10 times slower).
        self._turn = threading.Lock()
        try:
            self._own: set[int] | None = None
            """Parts that this process wrote, where nothing lay here before; None where something may."""
            if os.fstat(self._fd).st_size != size:
                self._own = set()
                os.ftruncate(self._fd, 0)
                allocate(self._fd, size)
        except OSError:
            self.close()
            with suppress(OSError):
                os.unlink(beside)
            raise

    @staticmethod
    def beside(path: bytes) -> bytes:
        """The hidden name under which the parts of `path` gather."""
        cut = path.rfind(b"/") + 1
        return path[:cut] + names.HIDDEN + b"part-" + digests.of(path[cut:]).hex()[:32].encode()

    def _open(self) -> int:
        if self._fd < 0:
            raise Invalid(f"the upload of {names.show(self._key)} is closed", code="closed", store=self._where)
        return self._fd

    def write(self, number: int, data: bytes | bytearray | memoryview) -> str:
        """Write one part at its place."""
        self.piece(number, 0, data)
        return ""

    def piece(self, number: int, at: int, data: bytes | bytearray | memoryview) -> None:
        """Write some of a part's bytes, `at` bytes from its start: a part here need not be gathered first."""
        fd, at = self._open(), number * self.part + at
        if number < 0 or at + len(data) > self._size:
            raise Invalid(f"part {number} reaches past the end of {names.show(self._key)}", code="bad-part")
        view = memoryview(data)
        with met(self._where, self._key), self._turn:
            while view:
                done = os.pwrite(fd, view, at)
                view, at = view[done:], at + done
        if self._own is not None:
            self._own.add(number)

    def back(self, number: int, receipt: str) -> Iterator[bytes] | bool:
        """The bytes that lie at a part's place, to be hashed; False where nothing can lie there yet."""
        fd = self._open()
        if self._own is not None:
            return self._read(number) if number in self._own else False
        try:  # one that was begun before may have been given its room and no more: most of it is no data yet
            written = os.lseek(fd, number * self.part, os.SEEK_DATA) < min((number + 1) * self.part, self._size)
        except OSError as exc:
            written = exc.errno != errno.ENXIO  # a file system that cannot tell
        return self._read(number) if written else False

    def _read(self, number: int) -> Iterator[bytes]:
        at = number * self.part
        stop = min(at + self.part, self._size)
        while at < stop:
            with met(self._where, self._key):
                data = os.pread(self._open(), min(_CHUNK, stop - at), at)
            if not data:
                return
            at += len(data)
            yield data

    def finish(self) -> bytes:
        """Give it its attributes and its name."""
        fd = self._open()
        with met(self._where, self._key):
            os.fchmod(fd, self._mode if self._mode != NO_MODE else 0o666 & ~umask())
            if self._mtime_ns != NO_TIME:
                os.utime(fd, ns=(self._mtime_ns, self._mtime_ns))
            if self._beside != self._path:
                os.rename(self._beside, self._path)
            info = os.fstat(fd)
        self.close()
        return _STAMP(info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)

    def close(self) -> None:
        """Leave it to be continued."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def abort(self) -> None:
        """Remove what was written."""
        self.close()
        with met(self._where, self._key), suppress(FileNotFoundError):
            os.unlink(self._beside)
