"""The log of a running transfer: what happened since the last receipt, one checked record at a time.

It spares a killed transfer the second fetch of bytes whose digest only the log knows, and names open multipart
uploads.  It is a hint, never evidence: what it says lies somewhere is hashed, or compared with a stamp, before use.
A torn record at its end is left out.  One process writes it.
"""

from __future__ import annotations

import os
import struct
import threading
import zlib
from pathlib import Path

from dls.logistics.errors import Unavailable

_HEAD = struct.Struct("<IBQIH")
"""CRC-32 of the rest, kind, segment (the first eight bytes of its digest), ordinal, length of the payload."""
PLACED, BLOCK, TOKEN, PART = range(4)
_NUMBER = struct.Struct("<I")


class Log:
    """Records by (segment, ordinal); `path` None keeps them in memory only."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._fd = -1
        self._lock = threading.Lock()
        self._placed: dict[tuple[int, int], tuple[bytes, bytes, bytes]] = {}
        self._blocks: dict[tuple[int, int], dict[int, bytes]] = {}
        self._tokens: dict[tuple[int, int], str] = {}
        self._parts: dict[tuple[int, int], dict[int, str]] = {}
        if path is not None:
            self._load(path)

    def _load(self, path: Path) -> None:
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as exc:
            raise Unavailable(f"cannot read {path}: {exc.strerror}", code="no-state", path=str(path)) from exc
        at = 0
        while at + _HEAD.size <= len(data):
            crc, kind, segment, ordinal, length = _HEAD.unpack_from(data, at)
            end = at + _HEAD.size + length
            if end > len(data) or zlib.crc32(data[at + 4 : end]) != crc:
                break
            self._take(kind, (segment, ordinal), data[at + _HEAD.size : end])
            at = end
        if at < len(data):
            os.truncate(path, at)

    def _take(self, kind: int, key: tuple[int, int], data: bytes) -> None:
        if kind == PLACED:
            cut = 33 + data[32]
            self._placed[key] = (data[:32], data[33:cut], data[cut:])
        elif kind == BLOCK:
            (number,) = _NUMBER.unpack_from(data)
            self._blocks.setdefault(key, {})[number] = data[4:]
        elif kind == TOKEN:
            self._tokens[key] = data.decode()
            self._parts.pop(key, None)
        elif kind == PART:
            (number,) = _NUMBER.unpack_from(data)
            self._parts.setdefault(key, {})[number] = data[4:].decode()

    def _add(self, kind: int, key: tuple[int, int], data: bytes) -> None:
        rest = _HEAD.pack(0, kind, *key, len(data))[4:] + data
        record = struct.pack("<I", zlib.crc32(rest)) + rest
        with self._lock:
            self._take(kind, key, data)
            if self._path is None:
                return
            try:
                if self._fd < 0:
                    self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                    self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
                os.write(self._fd, record)
            except OSError as exc:
                raise Unavailable(
                    f"cannot write {self._path}: {exc.strerror}", code="no-state", path=str(self._path)
                ) from exc

    def placed(self, segment: int, ordinal: int) -> tuple[bytes, bytes, bytes] | None:
        """(digest, stamp at the target, stamp of the source) of a file that was placed since the last receipt."""
        return self._placed.get((segment, ordinal))

    def add_placed(self, segment: int, ordinal: int, digest: bytes, stamp: bytes, source: bytes) -> None:
        """A file was placed."""
        self._add(PLACED, (segment, ordinal), digest + bytes((len(stamp),)) + stamp + source)

    def blocks(self, segment: int, ordinal: int) -> dict[int, bytes]:
        """Digests of the 16 MiB blocks of a large file that were read, by number."""
        return self._blocks.get((segment, ordinal), {})

    def add_block(self, segment: int, ordinal: int, number: int, digest: bytes) -> None:
        """A block was read from the source and written."""
        self._add(BLOCK, (segment, ordinal), _NUMBER.pack(number) + digest)

    def token(self, segment: int, ordinal: int) -> str:
        """The open upload of a large file, or ''."""
        return self._tokens.get((segment, ordinal), "")

    def add_token(self, segment: int, ordinal: int, token: str) -> None:
        """An upload was opened."""
        self._add(TOKEN, (segment, ordinal), token.encode())

    def parts(self, segment: int, ordinal: int) -> dict[int, str]:
        """What the target answered to each part of the open upload."""
        return self._parts.get((segment, ordinal), {})

    def add_part(self, segment: int, ordinal: int, number: int, receipt: str) -> None:
        """A part was accepted."""
        self._add(PART, (segment, ordinal), _NUMBER.pack(number) + receipt.encode())

    def forget(self, segment: int, ordinal: int) -> None:
        """A large file starts afresh: what is known of its blocks was wrong."""
        with self._lock:
            for kept in (self._placed, self._blocks, self._tokens, self._parts):
                kept.pop((segment, ordinal), None)

    def open_uploads(self) -> dict[tuple[int, int], str]:
        """All uploads that were opened, by (segment, ordinal)."""
        return dict(self._tokens)

    def close(self, *, done: bool = False) -> None:
        """Close; `done` removes the file too.  Idempotent."""
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1
            if done and self._path is not None:
                self._path.unlink(missing_ok=True)
