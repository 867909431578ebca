"""The verbs of a store that is only read: those that would change something, each refused at the call."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NoReturn

from dls.logistics import names
from dls.logistics.entry import NO_MODE, NO_TIME, Entry
from dls.logistics.errors import Unsupported
from dls.logistics.store import Done, Item, Space, Upload, closed


class Refusing:
    """Half of a store; the other half reads, and sets `_closed` when it is closed."""

    url: str
    why: str
    """Ends the sentence `URL cannot write: …`."""
    _closed = False

    def _open(self) -> None:
        if self._closed:
            raise closed(self.url)

    def write(self, key: bytes, chunks: Iterable[bytes], *, mode: int = NO_MODE, mtime_ns: int = NO_TIME) -> bytes:
        self._cannot("write", key)

    def delete(self, key: bytes) -> None:
        self._cannot("delete", key)

    def put(self, items: Iterable[Item]) -> Iterator[Done]:
        self._cannot("write")

    def make(self, entries: Sequence[Entry]) -> None:
        self._open()
        if entries:
            self._cannot("make links and folders")

    def wipe(self) -> None:
        self._cannot("delete")

    def move(self, pairs: Sequence[tuple[bytes, bytes]], *, over: bool = False) -> None:
        self._cannot("move")

    def upload(self, key: bytes, size: int, *, token: str = "", mode: int = NO_MODE, mtime_ns: int = NO_TIME) -> Upload:
        self._cannot("write", key)

    def sums(self, key: bytes) -> dict[str, str]:
        self._cannot("give checksums without reading", key)

    def sync(self) -> None:
        self._cannot("sync")

    def space(self) -> Space:
        self._cannot("tell its space")

    def recall(self, keys: Sequence[bytes]) -> None:
        self._cannot("recall")

    def _cannot(self, verb: str, key: bytes | None = None) -> NoReturn:
        self._open()
        if key is not None:
            names.check(key)
        raise Unsupported(
            f"{self.url} cannot {verb}: {self.why}",
            code="no-such-verb",
            store=self.url,
            verb=verb,
            remedy="choose a folder or an S3 bucket as target",
        )
