"""Answers the kernel's FUSE requests for one image: the only place that reads and writes `/dev/fuse`.

Protocol: include/uapi/linux/fuse.h, version 7.31; newer kernels take its replies.  Names are answered by slices of the
index (`dls.fuse.records`); OPEN and OPENDIR are refused once with ENOSYS, after which the kernel opens by itself; all
may be cached for ever, as an image never changes under a mount.  Without OPEN there is no state per open file.
"""

from __future__ import annotations

import errno
import os
import select
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from mmap import mmap
from typing import Final

from dls.fuse.aside import Aside
from dls.fuse.fast import Reader
from dls.fuse.guess import Guess
from dls.fuse.records import FOR_EVER, length_of
from dls.fuse.tree import Tree
from dls.logistics.errors import DlsError, Invalid, Unsupported

_LOOKUP, _FORGET, _GETATTR, _READLINK, _READ, STATFS = 1, 2, 3, 5, 15, 17
_GETXATTR, _LISTXATTR, _INIT, _READDIR, _ACCESS = 22, 23, 26, 28, 34
_INTERRUPT, _DESTROY, _BATCH_FORGET, _READDIRPLUS = 36, 38, 42, 44
_WRITES: Final = frozenset({4, 6, 8, 9, 10, 11, 12, 13, 16, 21, 24, 35, 43, 45})
_SILENT: Final = frozenset({_FORGET, _BATCH_FORGET, _INTERRUPT, _DESTROY})
"""Requests without an answer."""
_OVER: Final = frozenset({errno.ENODEV, errno.ECONNABORTED, errno.EBADF})
_GONE: Final = frozenset({errno.EINTR, errno.ENOENT, errno.EAGAIN})
"""Whoever asked has gone, or nothing was asked."""
_IN = struct.Struct("<IIQQIIII")
_OUT = struct.Struct("<IiQ")
_READ_IN = struct.Struct("<QQII")  # of a handle that we never gave, offset, size, flags
_BEAT = struct.Struct("d")
_XATTR_IN = struct.Struct("<II")
_INIT_IN = struct.Struct("<IIII")
_INIT_OUT = struct.Struct("<IIIIHHIIHH8I")
_STATFS_OUT = struct.Struct("<QQQQQIIII24x")
assert (_IN.size, _OUT.size, _INIT_OUT.size, _STATFS_OUT.size) == (40, 16, 64, 80)
_ATTR_HEAD = struct.pack("<QII", FOR_EVER, 0, 0)
_NEGATIVE = struct.pack("<QQQQII88x", 0, 0, FOR_EVER, 0, 0, 0)
_MAJOR, _MINOR = 7, 31
_ASYNC_READ, _DO_READDIRPLUS, _NO_OPEN, _PARALLEL_DIROPS = 1 << 0, 1 << 13, 1 << 17, 1 << 18
_MAX_PAGES, _CACHE_SYMLINKS, _NO_OPENDIR = 1 << 22, 1 << 23, 1 << 24
_WANTED = _ASYNC_READ | _DO_READDIRPLUS | _NO_OPEN | _PARALLEL_DIROPS | _MAX_PAGES | _CACHE_SYMLINKS | _NO_OPENDIR
_PAGES: Final = 256
KINDS: Final = ("files", "folders", "links", "others")
_BUFFER: Final = 64 << 10
READ_AHEAD: Final = 1 << 20
AWAKE_S: Final = 50e-6
"""How long a server looks again before it sleeps: waking an idle processor takes longer than most answers."""
_BUSY: Final = 4
"""Requests in a row that were there already when the one before was answered: then help is called."""


class Server:
    """Serves one tree from one descriptor of `/dev/fuse`.

    Servers may share a `bell`, an eventfd: one rings it when it has more to do than it can, one that `helps` sleeps
    until it is rung, takes what waits, and sleeps again.  The time of each request but STATFS, by which nobody uses a
    mount, is written to `beats`, at an offset: 8 bytes, seconds as `time.monotonic` has them.
    """

    def __init__(
        self, tree: Tree, fd: int, told: Callable[[str], None] = lambda text: None, *, bell: int = -1,
        helps: bool = False, beats: tuple[bytearray | mmap, int] | None = None,
    ) -> None:  # fmt: skip
        self._tree, self._fd, self._told = tree, fd, told
        self._bell, self._helps, self._beats = bell, helps, beats
        self._root = tree.root
        self._guess = Guess(tree)
        self._answers = {
            _LOOKUP: self._lookup,
            _GETATTR: self._getattr,
            _READ: self._read,
            _READDIRPLUS: self._readdirplus,
            _READDIR: self._readdir,
            _READLINK: self._readlink,
            _INIT: self._init,
            STATFS: self._statfs,
        }
        if tree.attributed:  # else ENOSYS, once: the kernel then asks of no file any more
            self._answers |= {_GETXATTR: self._getxattr, _LISTXATTR: self._listxattr}

    def run(self) -> None:
        """Answer until the mount is gone."""
        unpack_in, send, aside = _IN.unpack_from, self._send, Aside(self._send)
        following = self._following() if self._tree.fast is None else self._left(self._tree.fast)
        far, beats = self._tree.far, self._beats
        for data, others in following:
            _, opcode, unique, node, *_ = unpack_in(data)
            if beats and opcode != STATFS:
                _BEAT.pack_into(*beats, time.monotonic())
            if opcode in _SILENT:
                if opcode == _DESTROY:
                    return
            elif opcode == _READ and (others or far) and self._waits(node, data):
                aside.take(opcode, unique, node, data)
            elif not send(opcode, unique, node, data):
                return

    def _left(self, fast: Reader) -> Iterator[tuple[bytes, bool]]:
        """As `_following`, of what the compiled path leaves to us."""
        os.set_blocking(self._fd, False)
        beats, at = self._beats or (bytearray(8), -1)
        while (found := fast.serve(self._fd, self._bell, self._helps, beats, at)) is not None:
            yield found

    def _following(self) -> Iterator[tuple[bytes, bool]]:
        """Requests, and whether each was there already when the one before it was answered: then others wait too."""
        fd, read, now = self._fd, os.read, time.monotonic
        os.set_blocking(fd, False)
        asleep = select.poll()
        # Whoever polls the mount is woken by each request: who helps must not, and is rung for when the mount is gone.
        asleep.register(self._bell if self._helps else fd, select.POLLIN)
        calls = self._bell >= 0 and not self._helps
        others, row = False, 0
        until = now() + AWAKE_S
        while True:
            try:
                data = read(fd, _BUFFER)
            except BlockingIOError:
                others = False
                if self._guess.open:
                    self._guess.prepare()
                elif now() > until:
                    asleep.poll()
                    if self._helps:
                        with suppress(BlockingIOError):  # another one that helps was quicker
                            os.eventfd_read(self._bell)
                    until = now() + AWAKE_S
                continue
            except OSError as exc:
                if exc.errno in _OVER:
                    return
                if exc.errno not in _GONE:
                    raise
                continue
            if calls:
                row = row + 1 if others else 0
                if row == _BUSY:
                    row = 0
                    os.eventfd_write(self._bell, 1)
            yield data, others
            others, until = True, now() + AWAKE_S

    def _waits(self, node: int, data: bytes) -> bool:
        try:
            return not self._tree.ready(node, _READ_IN.unpack_from(data, 40)[1])
        except DlsError:
            return False  # whoever reads is told

    def _send(self, opcode: int, unique: int, node: int, data: bytes) -> bool:
        """Answer; whether the mount is still there."""
        error, parts = self._answer(opcode, node, data)
        try:
            os.writev(self._fd, [_OUT.pack(16 + sum(map(len, parts)), -error, unique), *parts])
        except OSError as exc:
            if exc.errno not in _GONE and exc.errno not in _OVER:
                raise
            return exc.errno in _GONE
        return True

    def _answer(self, opcode: int, node: int, data: bytes) -> tuple[int, list[bytes]]:
        """(number of the error or 0, what is sent)."""
        answer = self._answers.get(opcode)
        if answer is None:
            return errno.EROFS if opcode in _WRITES else errno.ENOSYS, []
        try:
            return 0, answer(node, data)
        except _Errno as problem:
            return problem.number, []
        except DlsError as problem:
            self._told(f"request {opcode} on node {node}: {problem}")
            return _errno_of(problem), []
        except Exception as problem:  # noqa: BLE001 - a bug of ours must not hang whoever waits for the answer
            self._told(f"request {opcode} on node {node}: {type(problem).__name__}: {problem}")
            return errno.EIO, []

    # -------------------------------------------------------------------------------------------- answers

    def _node(self, node: int) -> int:
        return self._root if node == 1 else node

    def _init(self, node: int, data: bytes) -> list[bytes]:
        major, _, ahead, flags = _INIT_IN.unpack_from(data, 40)
        if major < _MAJOR:
            raise _Errno(errno.EPROTO)
        return [
            _INIT_OUT.pack(
                _MAJOR, _MINOR, max(ahead, READ_AHEAD), flags & _WANTED, 64, 48, 4096, 1, _PAGES, 0, *(0,) * 8
            )
        ]

    def _lookup(self, node: int, data: bytes) -> list[bytes]:
        found = self._tree.lookup(self._root if node == 1 else node, data[40:-1])
        if found:
            self._guess.looked(int.from_bytes(found[:8], "little"))
            return [found[:128]]
        if data[40:-1] in (b".", b".."):
            raise _Errno(errno.ENOENT)
        return [_NEGATIVE]

    def _getattr(self, node: int, data: bytes) -> list[bytes]:
        return [_ATTR_HEAD, self._tree.record(self._node(node))[40:128]]

    def _read(self, node: int, data: bytes) -> list[bytes]:
        _, offset, size, _ = _READ_IN.unpack_from(data, 40)
        if not offset and (found := self._guess.taken(node, size)) is not None:
            return found  # type: ignore[return-value]
        return self._tree.content(node, offset, offset + size)  # type: ignore[return-value]

    def _readdirplus(self, node: int, data: bytes) -> list[bytes]:
        _, offset, size, _ = _READ_IN.unpack_from(data, 40)
        return self._tree.listing(self._node(node), offset, size)

    def _readdir(self, node: int, data: bytes) -> list[bytes]:
        """Only asked by kernels without READDIRPLUS: names and numbers out of the same records."""
        _, offset, size, _ = _READ_IN.unpack_from(data, 40)
        room, out = size, list[bytes]()
        for part in self._tree.listing(self._node(node), offset, 1 << 30):
            at = 0
            while at < len(part):
                length = length_of(int.from_bytes(part[at + 144 : at + 148], "little"))
                entry = part[at + 128 : at + length]
                if len(entry) > room:
                    return out
                out.append(entry)
                room -= len(entry)
                at += length
        return out

    def _readlink(self, node: int, data: bytes) -> list[bytes]:
        return [self._tree.text(self._tree.attr(self._node(node)))]

    def _statfs(self, node: int, data: bytes) -> list[bytes]:
        tree = self._tree
        return [
            _STATFS_OUT.pack(
                -(-tree.size // 4096), 0, 0, sum(tree.counts.get(k, 0) for k in KINDS), 0, 4096, 255, 4096, 0
            )
        ]

    def _getxattr(self, node: int, data: bytes) -> list[bytes]:
        size, _ = _XATTR_IN.unpack_from(data, 40)
        value = self._tree.xattrs(self._tree.attr(self._node(node))).get(data[48:-1])
        if value is None:
            raise _Errno(errno.ENODATA)
        return self._sized(value, size)

    def _listxattr(self, node: int, data: bytes) -> list[bytes]:
        size, _ = _XATTR_IN.unpack_from(data, 40)
        found = self._tree.xattrs(self._tree.attr(self._node(node)))
        return self._sized(b"".join(name + b"\0" for name in found), size)

    @staticmethod
    def _sized(value: bytes, size: int) -> list[bytes]:
        if not size:
            return [struct.pack("<II", len(value), 0)]
        if len(value) > size:
            raise _Errno(errno.ERANGE)
        return [value]


class _Errno(Exception):
    """An answer that is a number."""

    def __init__(self, number: int) -> None:
        super().__init__(os.strerror(number))
        self.number = number


def _errno_of(error: DlsError) -> int:
    """What a program sees: damage, an absent service, an image that is another one now are input/output errors."""
    return errno.EINVAL if isinstance(error, Invalid | Unsupported) else errno.EIO
