"""What all foreign trees share: names from our index, bytes from a reader of the format, no digests."""

from __future__ import annotations

import os
import threading
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Final, Self

from dls.fuse.image import Image, Source
from dls.fuse.index import Index
from dls.fuse.indexing import Making, kept, path_of
from dls.fuse.records import Attr
from dls.logistics import digest as digests
from dls.logistics import names
from dls.logistics.entry import FILE, Entry
from dls.logistics.errors import Corrupt, DlsError, Unsupported
from dls.logistics.manifest import Manifest
from dls.logistics.transfer.progress import Progress

_STEP: Final = 1 << 20
VERSION: Final = 1
"""Of what the readers write into indexes: an index of another version is made anew."""


class Context:
    """Where a foreign tree keeps its index, how much may be kept, and who is told."""

    def __init__(
        self, folder: str = "", limit: int = 10 << 30, progress: Progress | None = None,
        told: Callable[[str], None] = lambda text: None,
    ) -> None:  # fmt: skip
        self.folder, self.limit, self.told = folder, limit, told
        self.progress = progress or Progress()


class Indexed(Image):
    """Names as an image has them, bytes from elsewhere."""

    @abstractmethod
    def pieces(self, attr: Attr, start: int, stop: int) -> list[bytes | memoryview]:
        """The bytes `start … stop-1` of a file."""

    def content(self, node: int, start: int, stop: int) -> list[bytes | memoryview]:
        """The same, of a node by its number."""
        return self.pieces(self.attr(node), start, stop)

    def ready(self, node: int, start: int) -> bool:
        """Not known."""
        return True


class Archive(Indexed):
    """A tree in a file that somebody else wrote.  `attr.a`, `attr.b`, `attr.c` say where the bytes of a file are."""

    form: str
    """The format, for people."""

    def __init__(self, source: Source, index: Index, fd: int) -> None:
        super().__init__(source, index)
        self._fd = fd
        self.notes = tuple(index.header.image.get("notes", ()))
        self._recent: OrderedDict[Any, Any] = OrderedDict()
        self._kept_in = ""
        """The file that has the index, where it is kept."""
        self._turn = threading.RLock()

    def frame(self, number: int) -> bytes:
        """A frame of space; an index that is damaged is not kept."""
        try:
            return super().frame(number)
        except Corrupt:
            self.forget()
            raise self.damaged("the index that was kept of it; open it again, then it is made anew") from None

    def forget(self) -> None:
        """Keep the index no more: it is damaged."""
        if self._kept_in:
            with suppress(OSError):
                os.unlink(self._kept_in)

    def keep(self, context: Context) -> Self:
        """Remember where the index is kept."""
        if context.folder:
            self._kept_in = path_of(context.folder, str(self.index.header.image.get("of")))
        return self

    def recent(self, key: Any, make: Callable[[], Any], most: int) -> Any:
        """What `make` gives, kept while it is among the `most` last ones that were asked for."""
        with self._turn:
            found = self._recent.get(key)
            if found is None:
                found = self._recent[key] = make()
                while len(self._recent) > most:
                    self._recent.popitem(last=False)
            else:
                self._recent.move_to_end(key)
            return found

    @property
    def manifest(self) -> Manifest:
        """Not known: the format has no digests."""
        raise Unsupported(
            f"{self.name} ({self.form}) holds no digests of its files",
            code="no-digests",
            remedy="register it, which reads and hashes all: dls catalogue add --image",
            store=self.name,
        )

    def verify(self, *, every: int = 1) -> Iterator[tuple[Entry, DlsError | None]]:
        """Read every file (or each `every`th) to its end: what the format can check is checked."""
        number = 0
        for path, attr in self.walk():
            if attr.mode >> 12 != 8:
                continue
            if number % every == 0:
                yield Entry(path, FILE, attr.size, mtime_ns=attr.mtime_ns), self._unreadable(attr)
            number += 1

    def _unreadable(self, attr: Attr) -> DlsError | None:
        try:
            for at in range(0, attr.size, _STEP):
                found = sum(map(len, self.pieces(attr, at, at + _STEP)))
                if found != min(_STEP, attr.size - at):
                    raise self.damaged("a file is shorter than its archive says", at)
        except DlsError as error:
            return error
        return None

    def damaged(self, why: str, at: int = -1) -> Corrupt:
        """What is wrong with the archive, and where."""
        return damaged(self.name, why, at)

    def close(self) -> None:
        """Let go of everything.  Idempotent."""
        super().close()
        self._recent.clear()
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def damaged(name: str, why: str, at: int = -1) -> Corrupt:
    """An archive that is not what its format says."""
    where = f" (byte {at:,})" if at >= 0 else ""
    return Corrupt(f"{name} is damaged: {why}{where}", code="bad-archive", store=name, remedy="get the file again")


def unreadable(name: str, why: str, remedy: str, key: bytes = b"") -> Unsupported:
    """Something that the format has and this reader has not."""
    facts = {"key": names.show(key)} if key else {}
    return Unsupported(f"{name}: {why}", code="not-readable", remedy=remedy, store=name, **facts)


def index_of(
    source: Source, form: str, stamp: str, context: Context, make: Callable[[Making], None]
) -> tuple[int, Index]:
    """The index of an archive, from the folder of indexes or made now; `stamp` changes when the archive does."""
    said = f"{VERSION}\0{form}\0{source.name}\0{source.size}\0{stamp}"
    version = digests.of(os.fsencode(said)).hex()[:32]

    def made(making: Making) -> None:
        making.version = version
        context.progress.phase = "indexing"
        make(making)

    return kept(context.folder, version, made)
