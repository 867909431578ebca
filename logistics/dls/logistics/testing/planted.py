"""Planted violations: for every rule of `specs/store.md` stores that break it, to prove that the suite would tell.

Each is the reference store with one thing wrong.  `failures(suite, rule, folder)` runs a rule's tests without pytest's
machinery; `tests/conformance/test_planted.py` demands a failure for each violation, and none for the reference.
"""

from __future__ import annotations

import errno
import inspect
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest

from dls.logistics import digest as digests
from dls.logistics import names
from dls.logistics.entry import FILE, FOLDER, NO_MODE, NO_TIME, Entry
from dls.logistics.errors import NotFound, Unavailable
from dls.logistics.names import Names
from dls.logistics.store import Can, Done, Got, Keeps, Stat, Store, Want, unsupported
from dls.logistics.stores.memory import MemoryStore
from dls.logistics.testing.contract import StoreContract
from dls.logistics.testing.spec import suite_tests

_Stamps = list[bytes]
_Dones = list[Done]


class MemoryContract(StoreContract):
    """The suite for the reference store and what is made of it, all doors open."""

    store_class: ClassVar[type[MemoryStore]] = MemoryStore
    can = MemoryStore.can
    keeps = MemoryStore.keeps
    names = MemoryStore.names
    raw = True
    in_memory = True

    def _opened(self, place: Path) -> MemoryStore:
        return self.store_class(str(place).strip("/").replace("/", "-"))

    @contextmanager
    def make(self, place: Path) -> Iterator[Store]:
        with closing(self._opened(place)) as store:
            yield store

    def raw_put(self, key: bytes, data: bytes) -> None:
        place = self._opened(self.place)._place
        place.nodes[key].data, place.nodes[key].stamp = data, place.stamp()

    def raw_get(self, key: bytes) -> bytes:
        return self._opened(self.place)._place.nodes[key].data

    def raw_keys(self) -> list[bytes]:
        place = self._opened(self.place)._place
        uploads = [b"upload " + u.key for u in place.uploads.values()]
        return sorted([key for key, node in place.nodes.items() if node.kind != FOLDER] + uploads)

    def take_offline(self, store: Store, key: bytes) -> None:
        inner: Any = getattr(store, "inner", store)
        inner.take_offline(key)

    @contextmanager
    def break_it(self) -> Iterator[None]:
        place = self._opened(self.place)._place
        place.fault = OSError(errno.EIO, "planted")
        try:
            yield
        finally:
            place.fault = None


def failures(suite: type[StoreContract], rule: str, folder: Path) -> dict[str, BaseException]:
    """Run the tests of a rule ('' for all); those that failed, by name."""
    found: dict[str, BaseException] = {}
    for number, (name, test) in enumerate(suite_tests(suite, rule).items()):
        own = folder / f"{number}"
        own.mkdir()
        try:
            _run(suite(), test, own)
        except (Exception, pytest.fail.Exception) as error:
            if "pytest-timeout" in str(error):  # given once: what is caught here would never be stopped again
                raise
            found[name] = error
    return found


def _run(suite: StoreContract, test: Callable[..., None], folder: Path) -> None:
    if "store" not in inspect.signature(test).parameters:
        test(suite, tmp_path=folder)
        return
    with suite.opened(folder / "place") as store:
        test(suite, store=store)


class PlainStore(MemoryStore):
    """The least that a store may be: files, without a capability, with narrow names.  Not a violation."""

    can = frozenset()
    keeps = Keeps()
    names = Names(part_bytes=200, key_bytes=1000, utf8=True, forbidden=b"\n:", dots=False)

    @staticmethod
    def _entry(path: bytes, node: Any, first: bytes = b"") -> Entry:
        return Entry(path, node.kind, len(node.data))

    def stat(self, key: bytes) -> Stat:
        if (found := super().stat(key)).entry.kind == FOLDER:
            raise NotFound(f"no {names.show(key)}", code="no-key", key=names.show(key))
        return found

    def list(self, prefix: bytes = b"") -> Iterator[Entry]:
        return (entry for entry in super().list(prefix) if entry.kind == FILE)

    def make(self, entries: Sequence[Entry]) -> None:
        self._open()
        for entry in entries:
            raise unsupported(self.url, f"make {names.show(self._key(entry.path))}")

    def _cannot(self, *_: Any, **__: Any) -> Any:
        raise unsupported(self.url, "do that")

    move = upload = sums = sync = space = recall = _cannot


Violation = type[MemoryStore]
VIOLATIONS: dict[str, tuple[str, dict[str, Any]]] = {}
"""Name of a violation → the rule that it breaks, and the suite's attributes (its `store_class` among them)."""


def breaks(rule: str, **suite: Any) -> Callable[[Violation], Violation]:
    """Register a violation; `suite` are attributes of its suite that differ from those of the reference."""

    def register(cls: Violation) -> Violation:
        VIOLATIONS[cls.__name__] = (rule, {"store_class": cls, "examples": 40, **suite})
        return cls

    return register


def suite_of(name: str) -> type[StoreContract]:
    """The suite of one violation."""
    return type(f"Planted{name}", (MemoryContract,), dict(VIOLATIONS[name][1]))


@breaks("STORE-1")
class LostCapability(MemoryStore):
    can = frozenset(Can) - {Can.MOVE}


@breaks("STORE-1", can=frozenset(Can) - {Can.SUMS})
class SaysNothingInsteadOfUnsupported(MemoryStore):
    can = frozenset(Can) - {Can.SUMS}

    def sums(self, key: bytes) -> dict[str, str]:
        return {}


@breaks("STORE-2")
class UnquotesNames(MemoryStore):
    def _key(self, key: bytes) -> bytes:
        return super()._key(key.replace(b"%2F", b"_").replace(b"+", b" "))


@breaks("STORE-2")
class NormalisesNames(MemoryStore):
    def _key(self, key: bytes) -> bytes:
        text = unicodedata.normalize("NFC", key.decode("utf-8", "surrogateescape"))
        return super()._key(text.encode("utf-8", "surrogateescape"))


@breaks("STORE-3")
class TidiesNames(MemoryStore):
    def _key(self, key: bytes) -> bytes:
        return super()._key(key.replace(b"//", b"/").removesuffix(b"/"))


@breaks("STORE-3")
class ChecksLate(MemoryStore):
    def write(self, key: bytes, chunks: Iterable[bytes], *, mode: int = NO_MODE, mtime_ns: int = NO_TIME) -> bytes:
        return super().write(key, list(chunks), mode=mode, mtime_ns=mtime_ns)


@breaks("STORE-4")
class LosesTheLastByte(MemoryStore):
    def read(self, key: bytes, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        return (chunk for chunk in super().read(key, start, stop) if len(chunk) > 1)


@breaks("STORE-4")
class KeepsBuffers(MemoryStore):
    def write(self, key: bytes, chunks: Iterable[bytes], *, mode: int = NO_MODE, mtime_ns: int = NO_TIME) -> bytes:
        self._key(key)
        return super().write(key, list(chunks), mode=mode, mtime_ns=mtime_ns)


@breaks("STORE-5")
class MissesLate(MemoryStore):
    def read(self, key: bytes, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        yield from super().read(key, start, stop)


@breaks("STORE-5")
class MissesWithoutName(MemoryStore):
    def stat(self, key: bytes) -> Stat:
        try:
            return super().stat(key)
        except NotFound:
            raise NotFound("not found") from None


@breaks("STORE-6")
class ReadsInclusive(MemoryStore):
    def read(self, key: bytes, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        return super().read(key, start, stop if stop is None else stop + 1)


@breaks("STORE-7")
class WritesInPlace(MemoryStore):
    def write(self, key: bytes, chunks: Iterable[bytes], *, mode: int = NO_MODE, mtime_ns: int = NO_TIME) -> bytes:
        data = b""
        for chunk in chunks:
            data += chunk
            super().write(key, [data], mode=mode, mtime_ns=mtime_ns)
        return super().write(key, [data], mode=mode, mtime_ns=mtime_ns)


@breaks("STORE-7")
class LeavesTemporaries(MemoryStore):
    def write(self, key: bytes, chunks: Iterable[bytes], *, mode: int = NO_MODE, mtime_ns: int = NO_TIME) -> bytes:
        temporary = self._full(b".dls-tmp")
        self._show(temporary, b"", mode, mtime_ns)
        stamp = super().write(key, chunks, mode=mode, mtime_ns=mtime_ns)
        self._place.drop(temporary)
        return stamp


@breaks("STORE-8")
class ListsByFolder(MemoryStore):
    def list(self, prefix: bytes = b"") -> Iterator[Entry]:
        return iter(sorted(super().list(prefix), key=lambda e: e.path.split(b"/")))


@breaks("STORE-8")
class ListsOnePage(MemoryStore):
    def list(self, prefix: bytes = b"") -> Iterator[Entry]:
        return (entry for _, entry in zip(range(1000), super().list(prefix), strict=False))


@breaks("STORE-8")
class TakesPrefixForFolder(MemoryStore):
    def list(self, prefix: bytes = b"") -> Iterator[Entry]:
        folder = prefix if not prefix or prefix.endswith(b"/") else prefix + b"/"
        return super().list(folder)


@breaks("STORE-9")
class DeletesOnce(MemoryStore):
    def delete(self, key: bytes) -> None:
        self.stat(key)
        super().delete(key)


@breaks("STORE-9")
class DeletesByPrefix(MemoryStore):
    def delete(self, key: bytes) -> None:
        for entry in super().list(key):
            super().delete(entry.path)


@breaks("STORE-10")
class ForgetsWhatComesBack(MemoryStore):
    """A cache of deletions that a second write of the same key does not clear."""

    gone: ClassVar[set[bytes]] = set()

    def delete(self, key: bytes) -> None:
        super().delete(key)
        self.gone.add(self._key(key))

    def write(self, key: bytes, chunks: Iterable[bytes], *, mode: int = NO_MODE, mtime_ns: int = NO_TIME) -> bytes:
        stamp = super().write(key, chunks, mode=mode, mtime_ns=mtime_ns)
        if self._key(key) in self.gone:
            super().delete(key)
        return stamp


@breaks("STORE-11")
class SharesOneTemporary(MemoryStore):
    halves: ClassVar[dict[bytes, bytearray]] = {}

    def write(self, key: bytes, chunks: Iterable[bytes], *, mode: int = NO_MODE, mtime_ns: int = NO_TIME) -> bytes:
        half = self.halves.setdefault(self._key(key), bytearray())
        for chunk in chunks:
            half += chunk
        self.halves.pop(self._key(key), None)
        return super().write(key, [bytes(half)], mode=mode, mtime_ns=mtime_ns)


@breaks("STORE-12")
class SharesOneCursor(MemoryStore):
    def read(self, key: bytes, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        self._now = super().read(key, start, stop)
        return self._next()

    def _next(self) -> Iterator[bytes]:
        while (chunk := next(self._now, None)) is not None:
            yield chunk


@breaks("STORE-13")
class ReadsWhole(MemoryStore):
    def read(self, key: bytes, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        return iter([b"".join(super().read(key, start, stop))])


@breaks("STORE-13")
class FetchesAllFirst(MemoryStore):
    def fetch(self, wants: Sequence[Want]) -> Iterator[Got]:
        return iter([g._replace(body=bytearray(g.body)) for g in super().fetch(wants)])


@breaks("STORE-14")
class SumsOfSomethingElse(MemoryStore):
    def sums(self, key: bytes) -> dict[str, str]:
        return digests.sums_of(self._node(key, file=True).data[: digests.BLOCK], ("md5",))


@breaks("STORE-15")
class NeverCloses(MemoryStore):
    def close(self) -> None:
        pass


@breaks("STORE-15")
class ClosesOnce(MemoryStore):
    def close(self) -> None:
        self._open()
        super().close()


@breaks("STORE-16")
class LetsForeignErrorsCross(MemoryStore):
    def _open(self) -> Any:
        if self._place.fault:
            raise self._place.fault
        return super()._open()


@breaks("STORE-16")
class HidesTheCause(MemoryStore):
    def _open(self) -> Any:
        if self._place.fault:
            raise Unavailable("something failed")
        return super()._open()


@breaks("STORE-16")
class SaysAbsentWhenBroken(MemoryStore):
    def exists(self) -> bool:
        try:
            return super().exists()
        except Unavailable:
            return False


@breaks("STORE-16", secrets=("hunter2",))
class TellsSecrets(MemoryStore):
    def stat(self, key: bytes) -> Stat:
        try:
            return super().stat(key)
        except NotFound as error:
            error.facts["request"] = "GET /?key=hunter2"
            raise


@breaks("STORE-17")
class AlwaysOnline(MemoryStore):
    def stat(self, key: bytes) -> Stat:
        return super().stat(key)._replace(online=True)


@breaks("STORE-17")
class ReadsNothingOffline(MemoryStore):
    def read(self, key: bytes, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        return super().read(key, start, stop) if self.stat(key).online else iter(())


@breaks("STORE-18")
class MovesByCopying(MemoryStore):
    def move(self, pairs: Sequence[tuple[bytes, bytes]], *, over: bool = False) -> None:
        for first, second in pairs:
            under = self._place.below(self._full(first))
            if over or not under or self.exists_at(second):
                super().move([(first, second)], over=over)
                continue
            for key in under:
                time.sleep(0.001)
                self._place.insert(self._full(second) + key[len(self._full(first)) :], self._place.nodes[key])
            self._place.drop(self._full(first))

    def exists_at(self, key: bytes) -> bool:
        return self._full(key) in self._place.nodes


@breaks("STORE-18")
class RemovesBeforeMoving(MemoryStore):
    def move(self, pairs: Sequence[tuple[bytes, bytes]], *, over: bool = False) -> None:
        for first, second in pairs:
            if over and not self._place.below(self._full(second)):
                self._place.drop(self._full(second))
                time.sleep(0.05)
            super().move([(first, second)])


@breaks("STORE-18")
class MovesOverAnything(MemoryStore):
    def move(self, pairs: Sequence[tuple[bytes, bytes]], *, over: bool = False) -> None:
        super().move(pairs, over=True)
