"""A store that is only read, with a side door for writing, so that the whole suite can be run on it.

    with closing(Served(HttpStore(…), PosixStore(folder), Names(part_bytes=255))) as store: ...

Every answer comes from the reader: what is written by the side door has to be found by it, or the write fails.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from dls.logistics import names as legal
from dls.logistics.entry import NO_MODE, NO_TIME, Entry
from dls.logistics.errors import DlsError
from dls.logistics.names import Names
from dls.logistics.store import Done, Got, Item, Space, Stamps, Stat, Store, Upload, Want


class Served:
    """What `writer` puts into a place is served to `reader`; `names` are those that both can have there."""

    def __init__(self, reader: Store, writer: Store, names: Names) -> None:
        self.reader, self.writer, self.names = reader, writer, names
        self.url, self.can, self.keeps, self.room = reader.url, reader.can, reader.keeps, reader.room

    def __repr__(self) -> str:
        return f"Served({self.reader!r})"

    def stat(self, key: bytes) -> Stat:
        return self.reader.stat(key)

    def list(self, prefix: bytes = b"") -> Iterator[Entry]:
        return self.reader.list(prefix)

    def read(self, key: bytes, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        return self.reader.read(key, start, stop)

    def stamps(self, keys: Sequence[bytes]) -> Stamps:
        return self.reader.stamps(keys)

    def fetch(self, wants: Sequence[Want]) -> Iterator[Got]:
        return self.reader.fetch(wants)

    def exists(self) -> bool:
        return self.reader.exists()

    def sums(self, key: bytes) -> dict[str, str]:
        return self.reader.sums(key)

    def write(self, key: bytes, chunks: Iterable[bytes], *, mode: int = NO_MODE, mtime_ns: int = NO_TIME) -> bytes:
        self.names.check(legal.check(key), self.url, self.room)
        self.writer.write(key, chunks)
        return self.reader.stat(key).stamp

    def put(self, items: Iterable[Item]) -> Iterator[Done]:
        for item in items:
            try:
                yield Done(item.i, self.write(item.key, [bytes(item.body)]))
            except DlsError as error:
                yield Done(item.i, b"", error)

    def delete(self, key: bytes) -> None:
        self.reader.stamps([key])
        self.writer.delete(key)

    def wipe(self) -> None:
        self.reader.exists()
        self.writer.wipe()

    def below(self, prefix: bytes, *, staging: bool = False) -> Served:
        return Served(self.reader.below(prefix), self.writer.below(prefix), self.names)

    def close(self) -> None:
        self.reader.close()
        self.writer.close()

    # What HTTP has no word for: the reader refuses it.

    def make(self, entries: Sequence[Entry]) -> None:
        self.reader.make(entries)

    def move(self, pairs: Sequence[tuple[bytes, bytes]], *, over: bool = False) -> None:
        self.reader.move(pairs, over=over)

    def upload(self, key: bytes, size: int, *, token: str = "", mode: int = NO_MODE, mtime_ns: int = NO_TIME) -> Upload:
        return self.reader.upload(key, size, token=token, mode=mode, mtime_ns=mtime_ns)

    def sync(self) -> None:
        self.reader.sync()

    def space(self) -> Space:
        return self.reader.space()

    def recall(self, keys: Sequence[bytes]) -> None:
        self.reader.recall(keys)
