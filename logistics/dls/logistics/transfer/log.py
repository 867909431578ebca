"""The logs of a running transfer: what happened since the last receipt, one checked record at a time.

They spare a killed transfer the second fetch of bytes whose digest only the log knows, and name open multipart uploads.
A log is a hint, never evidence: what it says lies somewhere is hashed, or compared with a stamp, before use.  So it is
not synced: after a power cut a missing or torn record costs a second fetch, and a record without its bytes is found
out.  There is one file for each segment under way, removed once the segment's receipt is recorded.  One process
writes it.
"""

from __future__ import annotations

import errno
import os
import struct
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from dls.logistics import digest as digests
from dls.logistics.errors import DlsError, Unavailable

_HEAD = struct.Struct("<IBIH")
"""CRC-32 of the rest, kind, ordinal, length of the payload."""
PLACED, BLOCK, TOKEN, PART, BEGUN, FORGET = range(6)
_NUMBER = struct.Struct("<I")
_SIZE = struct.Struct("<QH")


class Placed(NamedTuple):
    """A file that was written and not yet covered by a receipt."""

    digest: bytes
    stamp: bytes
    """What it had where it was written."""
    source: bytes
    """The stamp of what was read, b'' where the digest was known before."""


class Opened(NamedTuple):
    """A multipart upload that was begun."""

    token: str
    key: bytes
    size: int


class Log:
    """Records of one segment, by ordinal; `path` None keeps them in memory only."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._fd = -1
        self._lock = threading.Lock()
        self._placed: dict[int, Placed] = {}
        self._blocks: dict[int, dict[int, bytes]] = {}
        self._opened: dict[int, Opened] = {}
        self._parts: dict[int, dict[int, str]] = {}
        self._begun: dict[int, bytes] = {}
        if path is not None:
            self._load(path)

    def _load(self, path: Path) -> None:
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as exc:
            raise _unwritable(path, exc) from exc
        at = 0
        while at + _HEAD.size <= len(data):
            crc, kind, ordinal, length = _HEAD.unpack_from(data, at)
            end = at + _HEAD.size + length
            if end > len(data) or zlib.crc32(data[at + 4 : end]) != crc:
                break
            self._take(kind, ordinal, data[at + _HEAD.size : end])
            at = end
        if at < len(data):
            os.truncate(path, at)

    def _take(self, kind: int, i: int, data: bytes) -> None:
        if kind == PLACED:
            cut = 33 + data[32]
            self._placed[i] = Placed(data[:32], data[33:cut], data[cut:])
        elif kind == BLOCK:
            self._blocks.setdefault(i, {})[_NUMBER.unpack_from(data)[0]] = data[4:]
        elif kind == TOKEN:
            size, length = _SIZE.unpack_from(data)
            at = _SIZE.size + length
            self._opened[i] = Opened(data[_SIZE.size : at].decode(), data[at:], size)
            self._parts.pop(i, None)
        elif kind == PART:
            self._parts.setdefault(i, {})[_NUMBER.unpack_from(data)[0]] = data[4:].decode()
        elif kind == BEGUN:
            self._begun[i] = data
        elif kind == FORGET:
            for kept in (self._placed, self._blocks, self._opened, self._parts, self._begun):
                kept.pop(i, None)

    def _add(self, kind: int, i: int, data: bytes) -> None:
        rest = _HEAD.pack(0, kind, i, len(data))[4:] + data
        record = zlib.crc32(rest).to_bytes(4, "little") + rest
        with self._lock:
            self._take(kind, i, data)
            if self._path is None:
                return
            try:
                if self._fd < 0:
                    self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                    self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
                if os.write(self._fd, record) != len(record):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError as exc:
                raise _unwritable(self._path, exc) from exc

    def placed(self, i: int) -> Placed | None:
        """A file that was placed since the last receipt."""
        return self._placed.get(i)

    def add_placed(self, i: int, digest: bytes, stamp: bytes, source: bytes) -> None:
        """A file was placed."""
        self._add(PLACED, i, digest + bytes((len(stamp),)) + stamp + source)

    def blocks(self, i: int, first: int, count: int) -> list[bytes] | None:
        """Digests of `count` blocks of a large file from number `first`, if all of them were read."""
        seen = self._blocks.get(i, {})
        found = [seen[k] for k in range(first, first + count) if k in seen]
        return found if len(found) == count else None

    def add_blocks(self, i: int, first: int, found: list[bytes]) -> None:
        """Blocks of 16 MiB were read from the source and written."""
        for k, digest in enumerate(found, first):
            self._add(BLOCK, i, _NUMBER.pack(k) + digest)

    def begin(self, i: int, source: bytes) -> bool:
        """A large file is read from a source of that stamp; False where the log speaks of another source."""
        if self._begun.get(i, source) != source:
            return False
        if i not in self._begun:
            self._add(BEGUN, i, source)
        return True

    def token(self, i: int) -> str:
        """The open upload of a large file, or ''."""
        return self._opened[i].token if i in self._opened else ""

    def add_token(self, i: int, opened: Opened) -> None:
        """An upload was opened."""
        token = opened.token.encode()
        self._add(TOKEN, i, _SIZE.pack(opened.size, len(token)) + token + opened.key)

    def part(self, i: int, number: int) -> str:
        """What the target answered to one part of the open upload, or ''."""
        return self._parts.get(i, {}).get(number, "")

    def add_part(self, i: int, number: int, receipt: str) -> None:
        """A part was accepted."""
        self._add(PART, i, _NUMBER.pack(number) + receipt.encode())

    def forget(self, i: int) -> None:
        """A large file starts afresh: what is known of it is wrong."""
        self._add(FORGET, i, b"")

    def unfinished(self) -> list[Opened]:
        """Uploads that were opened and whose file was not placed."""
        return [opened for i, opened in self._opened.items() if i not in self._placed]

    def close(self) -> None:
        """Idempotent."""
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1


Abort = Callable[[Opened], None]
"""Frees an upload that nobody will continue."""


class Logs:
    """The logs of one place, in `folder` (None: in memory only)."""

    def __init__(self, folder: Path | None, place: str) -> None:
        self._folder, self._place = folder, place
        self._open: dict[bytes, Log] = {}
        self._lock = threading.Lock()

    def _path(self, name: str) -> Path | None:
        return self._folder / f"{self._place}.{name}" if self._folder is not None else None

    def of(self, digest: bytes) -> Log:
        """The log of the segment with this digest."""
        with self._lock:
            if digest not in self._open:
                self._open[digest] = Log(self._path(f"{digest[:8].hex()}.log"))
            return self._open[digest]

    def shut(self, digest: bytes) -> None:
        """Close one for now; what is in memory only stays."""
        if self._folder is not None:
            with self._lock:
                log = self._open.pop(digest, None)
            if log is not None:
                log.close()

    def settled(self, digest: bytes, abort: Abort) -> None:
        """A segment's receipt is recorded: free uploads that came to nothing, and forget the log."""
        log = self.of(digest)
        for opened in log.unfinished():
            abort(opened)
        with self._lock:
            log = self._open.pop(digest)
        log.close()
        path = self._path(f"{digest[:8].hex()}.log")
        if path is not None:
            path.unlink(missing_ok=True)

    @property
    def published(self) -> bool:
        """Whether an earlier run may have published and not come to its end."""
        path = self._path("publishing")
        return path is None or path.exists()

    def publishing(self) -> None:
        """Publishing begins."""
        path = self._path("publishing")
        if path is not None:
            try:
                path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                path.touch(mode=0o600)
            except OSError as exc:
                raise _unwritable(path, exc) from exc

    def done(self, abort: Abort) -> None:
        """The transfer is over: free uploads that came to nothing, and remove every file."""
        self.close()
        if self._folder is None:
            return
        for path in self._folder.glob(f"{self._place}.*.log"):
            for opened in Log(path).unfinished():
                abort(opened)
            path.unlink(missing_ok=True)
        (self._folder / f"{self._place}.publishing").unlink(missing_ok=True)

    def close(self) -> None:
        """Close what is open; idempotent."""
        with self._lock:
            for log in self._open.values():
                log.close()
            self._open.clear()


def _unwritable(path: Path, exc: OSError) -> DlsError:
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        return Unavailable(f"no space left for {path}", code="disk-full", path=str(path), remedy="free space there")
    return Unavailable(f"cannot use {path}: {exc.strerror}", code="no-state", path=str(path), remedy="check DLS_HOME")


def blocks_of(size: int) -> int:
    """How many blocks of 16 MiB a file has."""
    return -(-size // digests.BLOCK)
