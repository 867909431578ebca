"""What a store's test class gives to the suite, and the small tools that all its rules share."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pytest

from dls.logistics import digest as digests
from dls.logistics.entry import FILE, FOLDER, LINK, Entry
from dls.logistics.names import Names
from dls.logistics.store import SMALL, Can, Done, Got, Item, Keeps, Store, Want
from dls.logistics.testing.spec import Suite

MIB = 1 << 20


class StoreHooks(Suite):
    """Hooks of a store's test class.  Only `make`, `can`, `keeps` and `names` are needed."""

    can: ClassVar[frozenset[Can]] = frozenset()
    """The promised capabilities."""
    keeps: ClassVar[Keeps] = Keeps()
    """What it promises to keep."""
    names: ClassVar[Names] = Names()
    """The names that it promises to hold."""
    secrets: ClassVar[tuple[str, ...]] = ()
    """Texts that may appear in no error, text or repr."""
    raw: ClassVar[bool] = False
    """Whether the side doors `raw_…` are given."""
    in_memory: ClassVar[bool] = False
    """Whether the bytes stored lie in this process: then they do not count as memory in use."""
    room_is_flat: ClassVar[bool] = False
    """Whether a part of the store takes no room of a key (its names have no longest key)."""
    read_ahead: ClassVar[int] = 512
    """Items that `put` may take before it has answered the first of them (STORE-22)."""
    gap: ClassVar[bool] = False
    """Whether a file may be gone for a moment while it is replaced: readers may find none then, but never a part."""
    examples: ClassVar[int] = 15
    """Random histories to try."""
    place: Path
    """The folder given to `make` in this test."""

    def make(self, place: Path) -> AbstractContextManager[Store]:
        """A store of this test's own, closed at the end; called again with the same folder, the same bytes again."""
        raise NotImplementedError

    def raw_put(self, key: bytes, data: bytes) -> None:
        """Replace a file's bytes not through the store."""
        raise NotImplementedError

    def raw_get(self, key: bytes) -> bytes:
        """A file's bytes, not through the store."""
        raise NotImplementedError

    def raw_keys(self) -> list[bytes]:
        """Names of all files, not through the store; hidden ones and open uploads (under any name) included."""
        raise NotImplementedError

    def break_it(self) -> AbstractContextManager[None] | None:
        """Fault door: while open, no verb can work.  None where the suite has no way to do it."""
        return None

    def take_offline(self, store: Store, key: bytes) -> None:
        """RECALL: send a file to tape."""
        raise NotImplementedError

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[Store]:
        """The store under test."""
        with self.opened(tmp_path / "place") as store:
            yield store

    @contextmanager
    def opened(self, place: Path) -> Iterator[Store]:
        """A new place; `again` opens it once more."""
        place.mkdir(exist_ok=True)
        self.place = place
        with self.make(place) as store:
            yield store

    def again(self) -> AbstractContextManager[Store]:
        """Another store object on the same place."""
        return self.make(self.place)

    def holds(self, key: bytes, room: int = 0) -> bool:
        """Whether a key is among those promised."""
        return not self.names.refuses(key, room)

    @property
    def folders(self) -> bool:
        """Whether this store is made of folders."""
        return FOLDER in self.keeps.kinds


E = TypeVar("E", bound=BaseException)


class Boom(Exception):
    """The caller's own error: stores let it through."""


def body(size: int, seed: int = 0) -> bytes:
    """Bytes that differ from place to place and from seed to seed."""
    return random.Random(f"{size}/{seed}").randbytes(size)


def pieces(data: bytes, chunk: int = SMALL) -> Iterator[bytes]:
    """The bytes in chunks."""
    return (data[at : at + chunk] for at in range(0, len(data), chunk))


def failing(data: bytes, chunk: int = SMALL) -> Iterator[bytes]:
    """The bytes in chunks, then the caller's error."""
    yield from pieces(data, chunk)
    raise Boom


class Untouched:
    """Chunks that must not be asked for."""

    def __iter__(self) -> Iterator[bytes]:
        raise AssertionError("the chunks were asked for before the refusal")


def get(store: Store, key: bytes, start: int = 0, stop: int | None = None) -> bytes:
    """The bytes of a key, joined."""
    return b"".join(store.read(key, start, stop))


def files(store: Store, prefix: bytes = b"") -> list[bytes]:
    """The names of listed files."""
    return [e.path for e in store.list(prefix) if e.kind == FILE]


def put_all(store: Store, bodies: dict[bytes, bytes]) -> None:
    """Put many small files; raise the first failure."""
    answers = list(store.put(Item(i, key, data) for i, (key, data) in enumerate(bodies.items())))
    assert sorted(d.i for d in answers) == list(range(len(bodies))), "each item is answered once"
    answered(answers)


def answered(answers: Iterable[Done | Got]) -> Sequence[Done | Got]:
    """The answers; the first failure among them is raised."""
    kept = list(answers)
    for one in kept:
        if one.error is not None:
            raise one.error
    return kept


def same(found: bytes | bytearray | memoryview, wanted: bytes, said: object = "") -> None:
    """Assert that bytes are those wanted; tells sizes and the first difference, where pytest would compare megabytes
    line by line (hours, where it is told to show all)."""
    if found == wanted:
        return
    first = next((i for i, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b), "the end of one")
    raise AssertionError(f"{said}: {len(found)} bytes, not the {len(wanted)} wanted; they differ first at {first}")


def refusal(kind: type[E], call: Callable[[], object], said: str) -> E:
    """The error of this kind that the call raises; `said` is what is wrong where it raises none."""
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(said)


def together(*jobs: Callable[[], Any]) -> list[Any]:
    """Run jobs in threads of their own; their results, or the first exception."""
    out: list[Any] = [None] * len(jobs)
    failed: list[BaseException] = []

    def run(i: int, job: Callable[[], Any]) -> None:
        try:
            out[i] = job()
        except BaseException as exc:  # noqa: BLE001 - carried to the caller's thread and raised there
            failed.append(exc)

    threads = [threading.Thread(target=run, args=pair, daemon=True) for pair in enumerate(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return out


def write_parts(store: Store, key: bytes, data: bytes, **attributes: Any) -> bytes:
    """Write a file through `upload`; its stamp."""
    upload = store.upload(key, len(data), **attributes)
    for number, at in enumerate(range(0, len(data), upload.part)):
        upload.write(number, data[at : at + upload.part])
    stamp = upload.finish()
    upload.close()
    return stamp


def verbs(store: Store, keeps: Keeps, key: bytes) -> dict[str, Callable[[], Any]]:
    """A call of each verb of the contract that must reach the place, lazy ones consumed; uploads are aborted."""

    def upload() -> None:
        begun = store.upload(key, digests.BLOCK + 1)
        try:
            begun.write(1, b"x")
        finally:
            begun.abort()

    calls: dict[str, Callable[[], Any]] = {
        "stat": lambda: store.stat(key),
        "list": lambda: list(store.list()),
        "read": lambda: get(store, key),
        "write": lambda: store.write(key, [b"x"]),
        "delete": lambda: store.delete(key),
        "stamps": lambda: store.stamps([key]),
        "fetch": lambda: answered(store.fetch([Want(0, key, 1)])),
        "put": lambda: answered(store.put([Item(0, key, b"x")])),
        "exists": lambda: store.exists(),
        Can.MOVE: lambda: store.move([(key, key + b"-moved")]),
        Can.UPLOAD: upload,
        Can.SUMS: lambda: store.sums(key),
        Can.SYNC: lambda: store.sync(),
        Can.SPACE: lambda: store.space(),
        Can.RECALL: lambda: store.recall([key]),
        "wipe": lambda: store.wipe(),
    }
    if LINK in keeps.kinds:
        calls["make"] = lambda: store.make([Entry(b"made/link", LINK, target=b"x")])
    return calls
