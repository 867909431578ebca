"""The system library libarchive, as far as rar needs it: the only home of its functions.

Reads what libarchive reads, in order, from any source.
"""

from __future__ import annotations

import ctypes as c
from collections.abc import Iterator
from functools import cache
from typing import Any, Final, NamedTuple

from dls.fuse.foreign.archive import damaged, unreadable
from dls.fuse.image import Source
from dls.logistics.errors import DlsError, Unsupported

_LIBRARY: Final = "libarchive.so.13"
_OK, _EOF, _WARN, _FATAL = 0, 1, -20, -30
_STEP: Final = 1 << 20
_READ = c.CFUNCTYPE(c.c_ssize_t, c.c_void_p, c.c_void_p, c.POINTER(c.c_void_p))
_SKIP = c.CFUNCTYPE(c.c_int64, c.c_void_p, c.c_void_p, c.c_int64)
_SEEK = c.CFUNCTYPE(c.c_int64, c.c_void_p, c.c_void_p, c.c_int64, c.c_int)
_TAKES: Final[dict[str, tuple[Any, list[Any]]]] = {
    "archive_read_new": (c.c_void_p, []),
    "archive_read_support_format_rar": (c.c_int, [c.c_void_p]),
    "archive_read_support_format_rar5": (c.c_int, [c.c_void_p]),
    "archive_read_set_read_callback": (c.c_int, [c.c_void_p, _READ]),
    "archive_read_set_skip_callback": (c.c_int, [c.c_void_p, _SKIP]),
    "archive_read_set_seek_callback": (c.c_int, [c.c_void_p, _SEEK]),
    "archive_read_set_callback_data": (c.c_int, [c.c_void_p, c.c_void_p]),
    "archive_read_open1": (c.c_int, [c.c_void_p]),
    "archive_read_next_header": (c.c_int, [c.c_void_p, c.POINTER(c.c_void_p)]),
    "archive_read_data": (c.c_ssize_t, [c.c_void_p, c.c_void_p, c.c_size_t]),
    "archive_read_free": (c.c_int, [c.c_void_p]),
    "archive_error_string": (c.c_char_p, [c.c_void_p]),
    "archive_entry_pathname_utf8": (c.c_char_p, [c.c_void_p]),
    "archive_entry_pathname": (c.c_char_p, [c.c_void_p]),
    "archive_entry_symlink_utf8": (c.c_char_p, [c.c_void_p]),
    "archive_entry_hardlink_utf8": (c.c_char_p, [c.c_void_p]),
    "archive_entry_mode": (c.c_uint, [c.c_void_p]),
    "archive_entry_mtime": (c.c_int64, [c.c_void_p]),
    "archive_entry_mtime_nsec": (c.c_long, [c.c_void_p]),
    "archive_entry_uid": (c.c_int64, [c.c_void_p]),
    "archive_entry_gid": (c.c_int64, [c.c_void_p]),
    "archive_entry_is_encrypted": (c.c_int, [c.c_void_p]),
}


class Found(NamedTuple):
    """A member, whose bytes are to be taken before the next one is asked for."""

    name: bytes
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    symlink: bytes
    hardlink: bytes
    encrypted: bool


@cache
def _library() -> Any:
    try:
        library = c.CDLL(_LIBRARY)
        for name, (result, takes) in _TAKES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, takes
    except (OSError, AttributeError) as exc:
        raise Unsupported(
            "rar needs the library libarchive, which is not installed", code="not-installed",
            remedy="apt-get install libarchive13",
        ) from exc  # fmt: skip
    return library


class Reader:
    """Reads a rar in order."""

    def __init__(self, source: Source) -> None:
        self._source, self._at, self._error = source, 0, list[DlsError]()
        self._library = library = _library()
        self._held = c.create_string_buffer(0)
        self._calls = _READ(self._read), _SKIP(self._skip), _SEEK(self._seek)  # kept as long as the reader
        self._archive = library.archive_read_new()
        library.archive_read_support_format_rar(self._archive)
        library.archive_read_support_format_rar5(self._archive)
        library.archive_read_set_read_callback(self._archive, self._calls[0])
        library.archive_read_set_skip_callback(self._archive, self._calls[1])
        library.archive_read_set_seek_callback(self._archive, self._calls[2])
        library.archive_read_set_callback_data(self._archive, None)
        self._check(library.archive_read_open1(self._archive), "")

    def _read(self, archive: int, data: int, out: Any) -> int:
        try:
            found = self._source.at(self._at, _STEP)
        except DlsError as error:
            self._error.append(error)
            return -1
        self._at += len(found)
        self._held = c.create_string_buffer(found, len(found))
        out[0] = c.addressof(self._held)
        return len(found)

    def _skip(self, archive: int, data: int, count: int) -> int:
        count = max(0, min(count, self._source.size - self._at))
        self._at += count
        return count

    def _seek(self, archive: int, data: int, offset: int, whence: int) -> int:
        base = (0, self._at, self._source.size)[whence]
        self._at = min(max(0, base + offset), self._source.size)
        return self._at

    @property
    def at(self) -> int:
        """How far the source was read."""
        return self._at

    def members(self) -> Iterator[Found]:
        """Every member."""
        library, entry = self._library, c.c_void_p()
        last = ""
        while True:
            status = library.archive_read_next_header(self._archive, c.byref(entry))
            if status == _EOF:
                return
            self._check(status, last)
            name = library.archive_entry_pathname_utf8(entry) or library.archive_entry_pathname(entry) or b""
            last = name.decode("utf-8", "replace")
            yield Found(
                name, library.archive_entry_mode(entry), library.archive_entry_uid(entry),
                library.archive_entry_gid(entry),
                library.archive_entry_mtime(entry) * 1_000_000_000 + library.archive_entry_mtime_nsec(entry),
                library.archive_entry_symlink_utf8(entry) or b"", library.archive_entry_hardlink_utf8(entry) or b"",
                library.archive_entry_is_encrypted(entry) > 0,
            )  # fmt: skip

    def bytes_of(self, name: bytes) -> Iterator[bytes]:
        """The bytes of the member that came last."""
        buffer = c.create_string_buffer(_STEP)
        while True:
            count = self._library.archive_read_data(self._archive, buffer, _STEP)
            if count == 0:
                return
            if count < 0:
                self._check(int(count), name.decode("utf-8", "replace"))
            else:
                yield buffer.raw[:count]

    def _check(self, status: int, member: str) -> None:
        if status in (_OK, _WARN):
            return
        if self._error:
            raise self._error[0]
        why = (self._library.archive_error_string(self._archive) or b"no reason given").decode("utf-8", "replace")
        where = f"{member}: " if member else ""
        if "ncrypt" in why or "not supported" in why or "unsupported" in why.lower():
            raise unreadable(self._source.name, where + why, "unpack it with unrar or 7-Zip")
        raise damaged(self._source.name, where + why, self._at)

    def close(self) -> None:
        """Let go of it.  Idempotent."""
        archive, self._archive = self._archive, None
        if archive:
            self._library.archive_read_free(archive)
