"""Planted violations of STORE-19 to STORE-27, as in `planted`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count
from typing import Any, ClassVar

from dls.logistics import names
from dls.logistics.entry import FILE, FOLDER, LINK, NO_MODE, NO_TIME, Entry
from dls.logistics.names import Names
from dls.logistics.store import Done, Got, Item, Keeps, Space, Want
from dls.logistics.stores.memory import MemoryStore, MemoryUpload
from dls.logistics.testing.planted import breaks

_Stamps = list[bytes]


@breaks("STORE-19")
class AppliesTheUmask(MemoryStore):
    def write(self, key: bytes, chunks: Iterable[bytes], *, mode: int = NO_MODE, mtime_ns: int = NO_TIME) -> bytes:
        return super().write(key, chunks, mode=mode if mode == NO_MODE else mode & 0o755, mtime_ns=mtime_ns)


@breaks("STORE-19")
class RoundsTimes(MemoryStore):
    def write(self, key: bytes, chunks: Iterable[bytes], *, mode: int = NO_MODE, mtime_ns: int = NO_TIME) -> bytes:
        return super().write(key, chunks, mode=mode, mtime_ns=mtime_ns if mtime_ns == NO_TIME else mtime_ns & ~0x3FF)


@breaks("STORE-19", keeps=Keeps(frozenset({FILE, LINK, FOLDER}), modes=True, hardlinks=True))
class InventsTimes(MemoryStore):
    keeps = Keeps(frozenset({FILE, LINK, FOLDER}), modes=True, hardlinks=True)


@breaks("STORE-19")
class FollowsLinks(MemoryStore):
    def _key(self, key: bytes) -> bytes:
        full = super()._key(key)
        node = self._place.nodes.get(full)
        if node is not None and node.kind == LINK:
            return full.rpartition(b"/")[0] + b"/" + node.target
        return full


@breaks("STORE-19")
class CopiesHardLinks(MemoryStore):
    def make(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            if entry.kind == FILE:
                self.write(entry.path, self.read(entry.target))
            else:
                super().make([entry])


@breaks("STORE-19")
class ListsEveryFolder(MemoryStore):
    def _listed(self, found: Any, prefix: bytes) -> Iterator[Entry]:
        for path, node in found:
            if path.startswith(prefix):
                yield self._entry(path, node)


NARROW = Names(part_bytes=100)


@breaks("STORE-20", names=NARROW)
class CutsLongNames(MemoryStore):
    names = NARROW

    def _key(self, key: bytes) -> bytes:
        return super()._key(b"/".join(part[:100] for part in key.split(b"/")))


@breaks("STORE-20", names=NARROW)
class RefusesLate(MemoryStore):
    names = NARROW

    def write(self, key: bytes, chunks: Iterable[bytes], *, mode: int = NO_MODE, mtime_ns: int = NO_TIME) -> bytes:
        names.check(key)
        return super().write(key, list(chunks), mode=mode, mtime_ns=mtime_ns)


@breaks("STORE-20")
class RefusesWhatItPromised(MemoryStore):
    def _key(self, key: bytes) -> bytes:
        return NARROW.check(super()._key(key), self.url)


@breaks("STORE-21")
class StampsBySizeAndTime(MemoryStore):
    def _show(self, full: bytes, data: bytes, mode: int, mtime_ns: int) -> bytes:
        super()._show(full, data, mode, mtime_ns)
        node = self._place.nodes[full]
        node.stamp = b"%d/%d" % (len(data), node.mtime_ns)
        return node.stamp


@breaks("STORE-21")
class StampsByReader(MemoryStore):
    def stamps(self, keys: Sequence[bytes]) -> _Stamps:
        return [stamp and b"%d/%s" % (id(self), stamp) for stamp in super().stamps(keys)]


@breaks("STORE-21")
class StampsTheVisit(MemoryStore):
    def read(self, key: bytes, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        self._node(key).stamp = self._place.stamp()
        return super().read(key, start, stop)


@breaks("STORE-22")
class StopsAtTheFirstFailure(MemoryStore):
    def fetch(self, wants: Sequence[Want]) -> Iterator[Got]:
        for got in super().fetch(wants):
            yield got
            if got.error:
                return


@breaks("STORE-22")
class RaisesForOneItem(MemoryStore):
    def put(self, items: Iterable[Item]) -> Iterator[Done]:
        for done in super().put(items):
            if done.error:
                raise done.error
            yield done


@breaks("STORE-22")
class TakesEverythingFirst(MemoryStore):
    def put(self, items: Iterable[Item]) -> Iterator[Done]:
        return super().put([item for _, item in zip(range(5000), items, strict=False)])


@breaks("STORE-22")
class BelievesTheLength(MemoryStore):
    def _fetched(self, want: Want) -> Got:
        return super()._fetched(want._replace(size=self._node(want.key).data.__len__()))


@breaks("STORE-22")
class AnswersTwice(MemoryStore):
    def put(self, items: Iterable[Item]) -> Iterator[Done]:
        for done in super().put(items):
            yield done
            yield done


class OtherUpload(MemoryStore):
    """A store whose uploads are of another class."""

    made: ClassVar[Callable[..., MemoryUpload]] = MemoryUpload

    def upload(
        self, key: bytes, size: int, *, token: str = "", mode: int = NO_MODE, mtime_ns: int = NO_TIME
    ) -> MemoryUpload:
        begun = super().upload(key, size, token=token, mode=mode, mtime_ns=mtime_ns)
        return type(self).made(begun.token, self._place, self._show)


class _InOrderOfArrival(MemoryUpload):
    def write(self, number: int, data: bytes | bytearray | memoryview) -> str:
        receipt = super().write(number, data)
        parts = self._parts.parts
        parts[number] = parts.pop(number)
        return receipt

    def finish(self) -> bytes:
        self._parts.parts = dict(enumerate(self._parts.parts.values()))
        return super().finish()


@breaks("STORE-23")
class JoinsInOrderOfArrival(OtherUpload):
    made = _InOrderOfArrival


class _Shown(MemoryUpload):
    def write(self, number: int, data: bytes | bytearray | memoryview) -> str:
        receipt = super().write(number, data)
        parts = self._parts.parts
        self._show(self._parts.key, b"".join(parts[n] for n in sorted(parts)), NO_MODE, NO_TIME)
        return receipt


@breaks("STORE-23")
class ShowsUnfinishedUploads(OtherUpload):
    made = _Shown


class _Kept(MemoryUpload):
    def abort(self) -> None:
        pass


@breaks("STORE-23")
class KeepsAbortedUploads(OtherUpload):
    made = _Kept


class _Trusting(MemoryUpload):
    def back(self, number: int, receipt: str) -> bool:
        return number in self._parts.parts


@breaks("STORE-23")
class TrustsOldReceipts(OtherUpload):
    made = _Trusting


@breaks("STORE-23")
class ForgetsUploads(MemoryStore):
    def close(self) -> None:
        for parts in self._place.uploads.values():
            parts.parts.clear()
        super().close()


@breaks("STORE-24")
class ListsHiddenNames(MemoryStore):
    def list(self, prefix: bytes = b"") -> Iterator[Entry]:
        skip = len(self._full(b""))
        found = sorted((key[skip:], self._place.nodes[key]) for key in self._open().below(self._root))
        return self._listed(found, prefix)


@breaks("STORE-24")
class HidesByFirstPartOnly(MemoryStore):
    def list(self, prefix: bytes = b"") -> Iterator[Entry]:
        skip = len(self._full(b""))
        found = sorted((key[skip:], self._place.nodes[key]) for key in self._open().below(self._root))
        return self._listed([pair for pair in found if not pair[0].startswith(names.HIDDEN)], prefix)


@breaks("STORE-25")
class WipesByPrefix(MemoryStore):
    def wipe(self) -> None:
        for key in [k for k in self._open().nodes if k.startswith(self._root)]:
            self._place.drop(key)


@breaks("STORE-25")
class WipesOnlyWhatItLists(MemoryStore):
    def wipe(self) -> None:
        for entry in self.list():
            self._place.drop(self._full(entry.path))


@breaks("STORE-25")
class ExistsAlways(MemoryStore):
    def exists(self) -> bool:
        self._open()
        return True


@breaks("STORE-25")
class ClosesItsParent(MemoryStore):
    def below(self, prefix: bytes, *, staging: bool = False) -> MemoryStore:
        part = super().below(prefix, staging=staging)
        part.close = lambda: (MemoryStore.close(part), self.close())[0]  # type: ignore[method-assign, func-returns-value]
        return part


@breaks("STORE-25")
class AppendsInStaging(MemoryStore):
    def _stored(self, item: Item) -> Done:
        old = self._place.nodes.get(self._full(item.key))
        longer = item._replace(body=bytes(item.body) + old.data[len(item.body) :]) if old and old.data else item
        return super()._stored(longer if b".dls-" in self._root else item)


@breaks("STORE-26")
class NegativeSpace(MemoryStore):
    def space(self) -> Space:
        return super().space()._replace(bytes=-1)


@breaks("STORE-26")
class SyncsOnlyWhatExists(MemoryStore):
    numbers = count()

    def sync(self) -> None:
        self._open().nodes[self._root]


@breaks("STORE-27")
class ListsStampsOfItsOwn(MemoryStore):
    def list_stamped(self) -> Iterator[tuple[Entry, bytes]]:
        return ((entry, b"listed-" + stamp) for entry, stamp in super().list_stamped())


@breaks("STORE-27")
class ListsFilesOnlyWithStamps(MemoryStore):
    def list_stamped(self) -> Iterator[tuple[Entry, bytes]]:
        return (pair for pair in super().list_stamped() if pair[0].kind == FILE)
