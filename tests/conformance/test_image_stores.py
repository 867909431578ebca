"""Images as stores, against every rule of specs/store.md.

What an image cannot do, change, is done by the side door: a folder that is packed anew before it is next looked at.
"""

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from itertools import islice
from pathlib import Path

from dls.fuse.pack import Options, pack
from dls.fuse.store import ImageStore, open_image_store
from dls.logistics.entry import FILE, FOLDER, LINK, NO_MODE, NO_TIME, Entry
from dls.logistics.errors import Conflict
from dls.logistics.names import Names, is_hidden
from dls.logistics.store import Done, Got, Item, Keeps, Space, Stamps, Stat, Store, Upload, Want
from dls.logistics.stores.posix import PosixStore
from dls.logistics.testing.contract import StoreContract
from dls.logistics.testing.spec import deviation

AS_A_WHOLE = "an image is replaced as a whole: then every stamp in it is another"
NO_HIDDEN = "an image holds no hidden names"


class Packed:
    """A folder, and an image of it that is made when somebody looks."""

    def __init__(self, place: Path) -> None:
        self.folder, self.image = place / "folder", place / "tree.sqfs"
        self.folder.mkdir(exist_ok=True)
        (place / "nothing").mkdir(exist_ok=True)
        self.fresh = False
        self.opened: ImageStore | None = None
        self.lock = threading.RLock()

    def changed(self) -> None:
        self.fresh = False

    def store(self) -> ImageStore:
        with self.lock:
            while self.opened is None or not self.fresh:
                source = self.folder if self.folder.exists() else self.folder.with_name("nothing")
                self.fresh = True
                with suppress(Conflict):  # somebody writes there: once more
                    pack(str(source), str(self.image), Options(workers=0, replace=True))
                    self.opened = open_image_store(PosixStore(self.image.parent), self.image.name.encode())
                    continue
                self.fresh = False
            return self.opened


class Imaged:
    """The suite writes by `writer` and reads from the image."""

    def __init__(self, packed: Packed, writer: PosixStore, above: bytes = b"") -> None:
        self.packed, self.writer, self.above, self.closed = packed, writer, above, False
        reader = self.reader
        self.url, self.can, self.keeps, self.room = reader.url, reader.can, reader.keeps, reader.room
        self.names = ImageContract.names

    @property
    def reader(self) -> ImageStore:
        whole = self.packed.store()
        if not self.closed:
            return whole.below(self.above) if self.above else whole
        found = whole.below(self.above or b"x")
        found.close()
        return found

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
        return self.reader.exists() and self.writer.exists()

    def sums(self, key: bytes) -> dict[str, str]:
        return self.reader.sums(key)

    def write(self, key: bytes, chunks: Iterable[bytes], *, mode: int = NO_MODE, mtime_ns: int = NO_TIME) -> bytes:
        self._alive()
        self.writer.write(key, self._looked(chunks), mode=mode, mtime_ns=mtime_ns)
        self.packed.changed()
        if is_hidden(self.above + b"/" + key):
            return b"hidden"
        return self.reader.stat(key).stamp

    def _looked(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """What is written hidden beside shows to nobody: the image is made while it is written, too."""
        for chunk in chunks:
            yield chunk
            self.packed.changed()

    def put(self, items: Iterable[Item]) -> Iterator[Done]:
        """By sixty-four, each of them under one image."""
        self._alive()
        turn = iter(items)
        while some := list(islice(turn, 64)):
            keys = {item.i: item.key for item in some}
            answers = list(self.writer.put(some))
            self.packed.changed()
            for i, _, error in answers:
                yield Done(i, b"", error) if error else Done(i, self.reader.stamps([keys[i]])[0])

    def _alive(self) -> None:
        if self.closed:
            self.reader.exists()

    def delete(self, key: bytes) -> None:
        self._alive()
        self.writer.delete(key)
        self.packed.changed()

    def wipe(self) -> None:
        self._alive()
        self.writer.wipe()
        self.packed.changed()

    def make(self, entries: Sequence[Entry]) -> None:
        self._alive()
        self.writer.make(entries)
        self.packed.changed()

    def below(self, prefix: bytes, *, staging: bool = False) -> "Imaged":
        self.reader.below(prefix)
        above = self.above + b"/" + prefix if self.above else prefix
        return Imaged(self.packed, self.writer.below(prefix), above)

    def close(self) -> None:
        self.closed = True

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


class ImageContract(StoreContract):
    """The image of a folder."""

    keeps = Keeps(kinds=frozenset({FILE, LINK, FOLDER}), modes=True, mtimes=True, hardlinks=True)
    names = Names(part_bytes=255, key_bytes=2000)
    raw = True
    in_memory = True  # what the side door takes, to write a folder and pack it, is not the store's
    examples = 8
    packed: Packed

    @contextmanager
    def make(self, place: Path) -> Iterator[Store]:
        if not (place / "tree.sqfs").exists() or self.packed.folder.parent != place:
            self.packed = Packed(place)
        with closing(Imaged(self.packed, PosixStore(self.packed.folder))) as store:
            yield store

    def raw_put(self, key: bytes, data: bytes) -> None:
        (self.packed.folder / key.decode()).write_bytes(data)
        self.packed.changed()

    def raw_get(self, key: bytes) -> bytes:
        with open(bytes(self.packed.folder) + b"/" + key, "rb") as file:
            return file.read()

    def raw_keys(self) -> list[bytes]:
        top = self.packed.folder
        return sorted(bytes(p.relative_to(top)) for p in top.rglob("*") if p.is_file() and not p.is_symlink())


class TestImage(ImageContract):
    """Every rule but those that need what only a store that is written to has."""

    @deviation("STORE-21", AS_A_WHOLE)
    def test_stamps_stay_with_the_content(self, store: Store) -> None: ...

    @deviation("STORE-24", NO_HIDDEN)
    def test_hidden_names_are_never_listed(self, store: Store) -> None: ...

    @deviation("STORE-25", NO_HIDDEN)
    def test_staging(self, store: Store) -> None: ...
