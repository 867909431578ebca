"""The reference store: a small file system inside this process, the model of the contract in `specs/store.md`.

`memory://name/prefix` opens the same bytes as often as it is asked, until `MemoryStore.forget(name)`.  It has every
capability and keeps every attribute, so whatever a suite asks of a store can be shown here first.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count

from dls.logistics import digest as digests
from dls.logistics import names
from dls.logistics.entry import FILE, FOLDER, LINK, NO_MODE, NO_TIME, Entry
from dls.logistics.errors import Conflict, DlsError, Exists, Invalid, NotFound, Unavailable
from dls.logistics.names import Names
from dls.logistics.store import Can, Done, Got, Item, Keeps, Space, Stat, Want, closed
from dls.logistics.url import Url

_Found = list[tuple[bytes, "_Node"]]
_Stamps = list[bytes]  # inside the class `list` is the verb

_CHUNK = 1 << 20
_NO_LIMIT = 1 << 60
_FOLDER_MODE = 0o755
_FILE_MODE = 0o644


@dataclass(eq=False, slots=True)
class _Node:
    """One thing in the tree; two names of a hard-link group share one node."""

    kind: int
    stamp: bytes
    data: bytes = b""
    mode: int = NO_MODE
    mtime_ns: int = NO_TIME
    target: bytes = b""
    online: bool = True


@dataclass(eq=False, slots=True)
class _Parts:
    """An unfinished upload."""

    key: bytes
    size: int
    mode: int
    mtime_ns: int
    parts: dict[int, bytes] = field(default_factory=dict)


class _Place:
    """What all stores of one name share.  Folders are nodes too: every name's folders exist, up to the root b''."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.nodes: dict[bytes, _Node] = {}
        self.uploads: dict[str, _Parts] = {}
        self.numbers = count(1)
        self.capacity = 0  # bytes; 0: no limit
        self.tape = False
        self.fault: OSError | None = None  # set by tests: the device behind this place fails

    def stamp(self) -> bytes:
        return b"%d" % next(self.numbers)

    def free(self) -> int:
        held = {id(n): len(n.data) for n in self.nodes.values()}
        return self.capacity - sum(held.values()) if self.capacity else _NO_LIMIT

    def below(self, key: bytes) -> list[bytes]:
        """The names under a folder, without its own."""
        return [k for k in self.nodes if k and k.startswith(key + b"/" if key else b"")]

    def insert(self, key: bytes, node: _Node) -> None:
        """Put a node under a name, with the folders above it; only a folder replaces a folder that is not empty."""
        if node.kind != FOLDER and self.below(key):
            raise _clash(key)
        self.folders(key)
        self.nodes[key] = node

    def folders(self, key: bytes) -> None:
        """Make the folders above a name."""
        above = [*names.parents(key), b""]
        for folder in above:
            if folder in self.nodes and self.nodes[folder].kind != FOLDER:
                raise _clash(folder)
        for folder in above:
            self.nodes.setdefault(folder, _Node(FOLDER, self.stamp(), mode=_FOLDER_MODE))

    def drop(self, key: bytes) -> None:
        """Remove a name and all below it."""
        for one in self.below(key):
            del self.nodes[one]
        self.nodes.pop(key, None)

    def rename(self, first: bytes, second: bytes, over: bool, shown: bytes) -> None:
        if second == first or second.startswith(first + b"/"):
            raise Invalid(f"cannot move {names.show(shown)} into itself", code="bad-move", key=names.show(shown))
        if self.below(second):
            raise _clash(shown) if over else _exists(shown)
        if second in self.nodes and self.nodes[second].kind != FOLDER:
            if not over:
                raise _exists(shown)
            if self.nodes[first].kind == FOLDER:
                raise _clash(shown)
        self.folders(second)
        moved = {second + k[len(first) :]: self.nodes[k] for k in [first, *self.below(first)]}
        self.drop(first)
        self.nodes |= moved


_PLACES: dict[str, _Place] = {}
_PLACES_LOCK = threading.Lock()


def _missing(key: bytes) -> NotFound:
    return NotFound(f"no {names.show(key)}", code="no-key", key=names.show(key))


def _exists(key: bytes) -> Exists:
    return Exists(f"{names.show(key)} exists already", code="key-exists", key=names.show(key))


def _clash(key: bytes) -> Conflict:
    return Conflict(f"{names.show(key)} is taken by another kind of thing", code="name-clash", key=names.show(key))


class MemoryStore:
    """Bytes by key in this process.  `capacity` bytes (0: no limit); on `tape` every file written is offline at once;
    both hold for the whole place."""

    can = frozenset(Can)
    keeps = Keeps(frozenset({FILE, LINK, FOLDER}), modes=True, mtimes=True, hardlinks=True)
    names = Names()

    def __init__(
        self, name: str, prefix: bytes = b"", *, capacity: int | None = None, tape: bool | None = None
    ) -> None:
        with _PLACES_LOCK:
            self._place = _PLACES.setdefault(name, _Place())
        if capacity is not None:
            self._place.capacity = capacity
        if tape is not None:
            self._place.tape = tape
        self._name, self._root, self._closed = name, prefix, False
        self.room = len(prefix) + 1 if prefix else 0
        self.url = str(Url("memory", name, prefix))

    def __repr__(self) -> str:
        return f"MemoryStore({self.url!r})"

    @staticmethod
    def forget(name: str) -> None:
        """Drop a place and its bytes; stores that are open keep what they see."""
        with _PLACES_LOCK:
            _PLACES.pop(name, None)

    def take_offline(self, *keys: bytes) -> None:
        """Send files to tape."""
        for key in keys:
            self._node(key).online = False

    def _alive(self) -> None:
        if self._closed:
            raise closed(self.url)

    def _open(self) -> _Place:
        self._alive()
        if self._place.fault:
            raise Unavailable(f"{self.url} fails", code="io-error", store=self.url) from self._place.fault
        return self._place

    def _full(self, key: bytes) -> bytes:
        return self._root + b"/" + key if self._root else key

    def _key(self, key: bytes) -> bytes:
        return self._full(self.names.check(names.check(key), self.url, self.room))

    def _moved(self, key: bytes) -> bytes:
        """As `_key`, for verbs that may name what is hidden."""
        names.check(key.replace(names.HIDDEN, b"dls-"))
        return self._full(key)

    def _node(self, key: bytes, *, file: bool = False) -> _Node:
        node = self._open().nodes.get(self._key(key))
        if node is None:
            raise _missing(key)
        if file and node.kind != FILE:
            raise Conflict(f"{names.show(key)} is not a file", code="not-a-file", key=names.show(key))
        if file and not node.online:
            raise Unavailable(
                f"{names.show(key)} is offline", code="offline", key=names.show(key), remedy="recall it first"
            )
        return node

    def stat(self, key: bytes) -> Stat:
        node = self._node(key)
        return Stat(self._entry(key, node), node.stamp, node.online)

    @staticmethod
    def _entry(path: bytes, node: _Node, first: bytes = b"") -> Entry:
        target = node.target or (first if first != path else b"")
        return Entry(path, node.kind, len(node.data), digests.UNKNOWN, node.mode, node.mtime_ns, target)

    def list(self, prefix: bytes = b"") -> Iterator[Entry]:
        place = self._open()
        skip = len(self._full(b""))
        with place.lock:
            under = place.below(self._root)
            found = sorted((k[skip:], place.nodes[k]) for k in under if not names.is_hidden(k[skip:]))
        return self._listed(found, prefix)

    def list_stamped(self) -> Iterator[tuple[Entry, bytes]]:
        return ((entry, self.stamps([entry.path])[0]) for entry in self.list())

    def _listed(self, found: _Found, prefix: bytes) -> Iterator[Entry]:
        busy = {path.rpartition(b"/")[0] for path, _ in found}
        first: dict[int, bytes] = {}
        for path, node in found:
            if path.startswith(prefix) and not (node.kind == FOLDER and node.mode == _FOLDER_MODE and path in busy):
                yield self._entry(path, node, first.setdefault(id(node), path))

    def read(self, key: bytes, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        data = self._node(key, file=True).data
        end = len(data) if stop is None else min(stop, len(data))
        return (data[at : min(at + _CHUNK, end)] for at in range(start, end, _CHUNK))

    def read_version(self, key: bytes, stamp: bytes, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        node = self._node(key, file=True)
        if node.stamp != stamp:
            raise Conflict(
                f"{names.show(key)} changed",
                code="source-changed",
                key=names.show(key),
                remedy="run the same again later",
            )
        end = len(node.data) if stop is None else min(stop, len(node.data))
        return (node.data[at : min(at + _CHUNK, end)] for at in range(start, end, _CHUNK))

    def write(self, key: bytes, chunks: Iterable[bytes], *, mode: int = NO_MODE, mtime_ns: int = NO_TIME) -> bytes:
        self._open()
        full, data = self._key(key), bytearray()
        for chunk in chunks:
            data += chunk
        return self._show(full, bytes(data), mode, mtime_ns)

    def _show(self, full: bytes, data: bytes, mode: int, mtime_ns: int) -> bytes:
        """Put whole bytes under a name, in one step."""
        place = self._open()
        with place.lock:
            old = place.nodes.get(full)
            if len(data) - (len(old.data) if old else 0) > place.free():
                raise Unavailable(f"no space left in {self.url}", code="disk-full", store=self.url)
            mode = _FILE_MODE if mode == NO_MODE else mode
            mtime_ns = time.time_ns() if mtime_ns == NO_TIME else mtime_ns
            node = _Node(FILE, place.stamp(), data, mode, mtime_ns, online=not place.tape)
            place.insert(full, node)
            return node.stamp

    def delete(self, key: bytes) -> None:
        place, full = self._open(), self._key(key)
        with place.lock:
            if place.below(full):
                raise _clash(key)
            place.nodes.pop(full, None)

    def stamps(self, keys: Sequence[bytes]) -> _Stamps:
        nodes = [self._open().nodes.get(self._key(key)) for key in keys]
        return [node.stamp if node else b"" for node in nodes]

    def fetch(self, wants: Sequence[Want]) -> Iterator[Got]:
        self._alive()
        return map(self._fetched, wants)

    def _fetched(self, want: Want) -> Got:
        try:
            data = self._node(want.key, file=True).data
            if len(data) != want.size:
                raise Conflict(
                    f"{names.show(want.key)} has {len(data)} bytes, expected {want.size}",
                    code="size-changed",
                    key=names.show(want.key),
                )
        except DlsError as error:
            return Got(want.i, b"", error)
        return Got(want.i, data)

    def put(self, items: Iterable[Item]) -> Iterator[Done]:
        self._alive()
        return map(self._stored, items)

    def _stored(self, item: Item) -> Done:
        try:
            return Done(item.i, self.write(item.key, [bytes(item.body)], mode=item.mode, mtime_ns=item.mtime_ns))
        except DlsError as error:
            return Done(item.i, b"", error)

    def make(self, entries: Sequence[Entry]) -> None:
        place = self._open()
        for entry in entries:
            full = self._key(entry.path)
            with place.lock:
                place.insert(full, self._made(entry, place.nodes.get(full)))

    def _made(self, entry: Entry, old: _Node | None) -> _Node:
        if entry.kind == FILE:
            return self._node(entry.target, file=True)
        if entry.kind == LINK:
            return _Node(LINK, self._place.stamp(), b"", NO_MODE, entry.mtime_ns, entry.target)
        mode = _FOLDER_MODE if entry.mode == NO_MODE else entry.mode
        if old is not None and old.kind == FOLDER:
            old.mode = mode
            return old
        return _Node(FOLDER, self._place.stamp(), b"", mode)

    def below(self, prefix: bytes, *, staging: bool = False) -> MemoryStore:
        self._open()
        return type(self)(self._name, self._moved(prefix))

    def exists(self) -> bool:
        return self._root in self._open().nodes

    def wipe(self) -> None:
        place = self._open()
        with place.lock:
            place.drop(self._root)

    def move(self, pairs: Sequence[tuple[bytes, bytes]], *, over: bool = False) -> None:
        place = self._open()
        for first, second in pairs:
            with place.lock:
                old, new = self._moved(first), self._moved(second)
                if old not in place.nodes:
                    raise _missing(first)
                place.rename(old, new, over, second)

    def upload(
        self, key: bytes, size: int, *, token: str = "", mode: int = NO_MODE, mtime_ns: int = NO_TIME
    ) -> MemoryUpload:
        place, full = self._open(), self._key(key)
        if not token:
            token = str(next(place.numbers))
            place.uploads[token] = _Parts(full, size, mode, mtime_ns)
        if token not in place.uploads or place.uploads[token].key != full:
            raise NotFound(f"no upload {token} of {names.show(key)}", code="no-upload", key=names.show(key))
        return MemoryUpload(token, place, self._show)

    def sums(self, key: bytes) -> dict[str, str]:
        return digests.sums_of(self._node(key, file=True).data, ("md5", "crc32"))

    def sync(self) -> None:
        self._open()

    def space(self) -> Space:
        return Space(self._open().free(), -1, 1)

    def recall(self, keys: Sequence[bytes]) -> None:
        for key in keys:
            self._node(key).online = True

    def close(self) -> None:
        self._closed = True


class MemoryUpload:
    """One object of a MemoryStore being written by parts."""

    part = digests.BLOCK

    def __init__(self, token: str, place: _Place, show: Callable[[bytes, bytes, int, int], bytes]) -> None:
        self.token, self._place, self._show = token, place, show
        self._parts = place.uploads[token]

    def write(self, number: int, data: bytes | bytearray | memoryview) -> str:
        length = min(self.part, self._parts.size - number * self.part)
        if number < 0 or len(data) != length:
            raise Invalid(f"part {number} has {len(data)} bytes, expected {length}", code="bad-part")
        self._parts.parts[number] = bytes(data)
        return digests.of(data).hex()

    def back(self, number: int, receipt: str) -> Iterator[bytes] | bool:
        data = self._parts.parts.get(number)
        if data is None:
            return False
        return True if digests.of(data).hex() == receipt else iter([data])

    def finish(self) -> bytes:
        p = self._parts
        data = b"".join(p.parts[n] for n in sorted(p.parts))
        if len(data) != p.size:
            raise Invalid(f"parts are missing: {len(data)} of {p.size} bytes", code="bad-part", key=names.show(p.key))
        stamp = self._show(p.key, data, p.mode, p.mtime_ns)
        self.abort()
        return stamp

    def close(self) -> None:
        pass

    def abort(self) -> None:
        self._place.uploads.pop(self.token, None)
