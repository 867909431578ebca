"""Compressed streams: gzip, bzip2, xz and zstd, unpacked in order once, with bounded memory, and kept in frames.

Members that follow one another in one file are one stream, as the tools have it.  Checks of the formats are
made; a stream that ends early is Corrupt, never a shorter one.
"""

from __future__ import annotations

import bz2
import lzma
import queue
import struct
import threading
import zlib
from collections.abc import Iterator
from typing import Any, Final, Protocol

from dls.fuse.codec import FrameStream
from dls.fuse.foreign.archive import Context, damaged, unreadable
from dls.fuse.foreign.framed import Frames
from dls.fuse.image import Source
from dls.logistics.errors import Corrupt

MAGICS: Final = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_SKIPPABLE: Final = 0x184D2A50
_READ: Final = 1 << 20
_MOST: Final = 1 << 20
"""Bytes that a decoder may give at once."""
_ZSTD_BITE: Final = 4096
"""Bytes that a zstd decoder is given at once: they become 128 MiB at the worst."""
_XZ_MEMORY: Final = 256 << 20
_AHEAD: Final = 4


def form_of(begin: bytes) -> str:
    """The compressor of a stream that begins so, '' where it is none."""
    for magic, form in MAGICS.items():
        if begin.startswith(magic):
            return form
    skips = len(begin) >= 8 and struct.unpack_from("<I", begin)[0] & 0xFFFFFFF0 == _SKIPPABLE
    return "zstd" if skips else ""


class _Decoder(Protocol):
    """Decodes one member."""

    def feed(self, data: bytes) -> Iterator[bytes]: ...
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...


class _Gzip:
    def __init__(self) -> None:
        self._one = zlib.decompressobj(wbits=31)

    def feed(self, data: bytes) -> Iterator[bytes]:
        while data and not self._one.eof:
            yield self._one.decompress(data, _MOST)
            data = self._one.unconsumed_tail

    @property
    def eof(self) -> bool:
        return self._one.eof

    @property
    def unused_data(self) -> bytes:
        return self._one.unused_data


class _Buffered:
    """bz2 and lzma hold back what they were given."""

    def __init__(self, one: Any) -> None:
        self._one = one

    def feed(self, data: bytes) -> Iterator[bytes]:
        yield self._one.decompress(data, _MOST)
        while not self._one.eof and not self._one.needs_input:
            yield self._one.decompress(b"", _MOST)

    @property
    def eof(self) -> bool:
        return bool(self._one.eof)

    @property
    def unused_data(self) -> bytes:
        return bytes(self._one.unused_data)


class _Zstd:
    def __init__(self) -> None:
        self._one, self.unused_data = FrameStream(), b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        for at in range(0, len(data), _ZSTD_BITE):
            yield self._one.decompress(data[at : at + _ZSTD_BITE])
            if self._one.eof:
                self.unused_data = self._one.unused_data + data[at + _ZSTD_BITE :]
                return

    @property
    def eof(self) -> bool:
        return self._one.eof


def _decoder(form: str) -> _Decoder:
    if form == "gzip":
        return _Gzip()
    if form == "bzip2":
        return _Buffered(bz2.BZ2Decompressor())
    if form == "xz":
        return _Buffered(lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY))
    return _Zstd()


class Unpacked:
    """The bytes of a compressed file, in order."""

    def __init__(self, source: Source, form: str, context: Context) -> None:
        self._source, self._form, self._context = source, form, context
        self._at = 0
        self.notes: list[str] = []

    def parts(self) -> Iterator[bytes]:
        """Everything; Corrupt where it is damaged or ends early."""
        rest, members = b"", 0
        while True:
            rest = self._to_next(rest, members)
            if not rest:
                return
            decoder = _decoder(self._form)
            try:
                while True:
                    yield from filter(None, decoder.feed(rest))
                    if decoder.eof:
                        break
                    rest = self._read()
                    if not rest:
                        raise damaged(self._source.name, f"its {self._form} stream was cut short", self._source.size)
            except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError) as exc:
                if "memory" in str(exc).lower():
                    raise unreadable(
                        self._source.name, f"to unpack it takes more than {_XZ_MEMORY >> 20} MiB of memory",
                        "compress it again with a smaller dictionary",
                    ) from exc  # fmt: skip
                raise damaged(self._source.name, f"its {self._form} stream cannot be decoded", self._at) from exc
            except Corrupt as exc:
                raise damaged(self._source.name, f"its {self._form} stream: {exc.message}", self._at) from exc
            rest = decoder.unused_data
            members += 1

    def _read(self) -> bytes:
        data = self._source.at(self._at, _READ)
        self._at += len(data)
        self._context.progress.moved(len(data))
        return data

    def _to_next(self, rest: bytes, members: int) -> bytes:
        """The beginning of the next member, b'' where there is none; zeros and skippable frames are passed over."""
        while True:
            if len(rest) < 16:
                rest += self._read()
            if not rest:
                return b""
            if members and not rest[0]:
                rest = rest.lstrip(b"\0")
                continue
            if self._form == "zstd" and len(rest) >= 8:
                magic, size = struct.unpack_from("<II", rest)
                if magic & 0xFFFFFFF0 == _SKIPPABLE:
                    rest = self._skip(rest, 8 + size)
                    continue
            if members and form_of(rest) != self._form:
                self.notes.append(f"bytes behind the {self._form} stream are passed over")
                return b""
            return rest

    def _skip(self, rest: bytes, size: int) -> bytes:
        if size > len(rest):
            self._at += size - len(rest)
            if self._at > self._source.size:
                raise damaged(self._source.name, "its zstd stream was cut short", self._source.size)
        return rest[size:]


class Forward:
    """A stream that passes by: looked at in order, and written down in frames."""

    def __init__(self, parts: Iterator[bytes], frames: Frames, name: str) -> None:
        self._parts, self._frames, self._name = _threaded(parts), frames, name
        self._start, self._held = 0, bytearray()

    def at(self, offset: int, size: int) -> bytes:
        """Bytes from `offset`, which never falls."""
        while offset + size > self._start + len(self._held) and self._pull(offset):
            pass
        inside = offset - self._start
        return bytes(self._held[inside : inside + size])

    def _pull(self, wanted: int) -> bool:
        """One part more; what lies before `wanted` is let go."""
        part = next(self._parts, None)
        if part is None:
            return False
        self._frames.add(part)
        self._held += part
        gone = min(wanted - self._start, len(self._held))
        if gone > 0:
            del self._held[:gone]
            self._start += gone
        return True

    def reach(self, stop: int, what: str) -> None:
        """Corrupt where the stream ends before `stop`."""
        if stop and len(self.at(stop - 1, 1)) != 1:
            raise damaged(self._name, f"the archive in it was cut short inside {what}", stop)

    def beyond(self, ended: int) -> bool:
        """Read to the end; whether anything but zeros follows `ended`."""
        found = bool(self.at(ended, 1 << 16).strip(b"\0"))
        while self._pull(1 << 62):
            pass
        self._frames.finish()
        return found


def _threaded(parts: Iterator[bytes]) -> Iterator[bytes]:
    """The same, made by a thread of its own, a few ahead: unpacking and packing take a processor each."""
    ready: queue.Queue[bytes | BaseException | None] = queue.Queue(_AHEAD)
    over = threading.Event()

    def put(what: bytes | BaseException | None) -> bool:
        while not over.is_set():
            try:
                ready.put(what, timeout=0.2)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        try:
            for part in parts:
                if not put(part):
                    return
            put(None)
        except BaseException as problem:  # noqa: BLE001 - raised again by whoever takes the parts
            put(problem)

    thread = threading.Thread(target=work, name="image-unpack", daemon=True)
    thread.start()
    try:
        while (part := ready.get()) is not None:
            if isinstance(part, BaseException):
                raise part
            yield part
    finally:
        over.set()
        thread.join()
