"""A tree as a store: names and bytes of an image behind the contract of `dls.logistics.store`, read only.

    store = open_image_store(PosixStore("/data"), b"tiles.sqfs")
    for got in store.fetch(wants): …

What reads stores (transfers, proofs, probes) so reads images.  The stamp of whatever is in it is that of the image:
one that was touched proves nothing of any file.  Rules: `specs/image.md`.
"""

from __future__ import annotations

import os
import struct
import weakref
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter
from typing import Any, Final

from dls.fuse import layers, opening, records
from dls.fuse.image import Image
from dls.fuse.records import LOW, NO_TAIL, Attr
from dls.fuse.source import Item as Packable
from dls.fuse.tree import Tree
from dls.fuse.union import Union
from dls.logistics import digest as digests
from dls.logistics import names as legal
from dls.logistics import url as urls
from dls.logistics.entry import FILE, FOLDER, LINK, NO_MODE, NO_TIME, Entry
from dls.logistics.errors import Conflict, DlsError, NotFound, Unsupported
from dls.logistics.manifest import Manifest
from dls.logistics.names import Names, show
from dls.logistics.registry import open_store
from dls.logistics.segment import Segment
from dls.logistics.store import Can, Got, Keeps, Stamps, Stat, Store, Want
from dls.logistics.stores.refusing import Refusing

CHUNK: Final = 1 << 20
_FOLDERS_KEPT: Final = 4096
_MANY: Final = 64
"""Keys from which on it pays to open a segment instead of looking each of them up."""
_FOLDER, _FILE, _LINK = 4, 8, 10
"""Types in the upper four bits of a mode."""
_FACTS: Final = struct.Struct("<QQ16xII8xQ44xI")
"""Of a record: node, first block, block of the tail, where that begins, size, mode (`dls.fuse.records`)."""
_PLACE: Final = itemgetter(0, 1)
_PLAIN: Final = 0o755
"""Mode of a folder that needs no entry of its own."""


class ImageStore(Refusing):
    """What lies in a tree.  Safe to use from several threads.

    `mark` stands for the state of whatever holds the tree; where none is given, stamps hold in this object alone.
    """

    can: frozenset[Can] = frozenset()
    keeps = Keeps(kinds=frozenset({FILE, LINK, FOLDER}), modes=True, mtimes=True, hardlinks=True)
    names = Names()  # nothing is written, so nothing is refused
    why = "an image is only read"

    def __init__(self, tree: Tree, url: str, mark: bytes = b"") -> None:
        self.tree, self.url = tree, str(urls.parse(url))
        self.room = 0
        self.mark = mark or os.urandom(16)
        """The stamp of whatever is in it."""
        self._above = b""
        self._whole: ImageStore | None = None
        """The store of the whole tree, where this is a part of it."""
        self._folders: dict[bytes, int] = {}
        self._let_go = weakref.finalize(self, tree.close)

    def __repr__(self) -> str:
        return f"ImageStore({self.url!r})"

    # --------------------------------------------------------------------------------------------------------- names

    def _attr(self, key: bytes) -> Attr:
        """The node under a key; NotFound with the key."""
        legal.check(key)
        record = self._record(self._above + key)
        if not record:
            raise self._missing(key)
        return records.unpack(record)

    def _found(self, key: bytes) -> bytes:
        """The record under a key, b'' where there is none or none can be."""
        try:
            return self._record(self._above + legal.check(key))
        except DlsError:
            return b""

    def _record(self, path: bytes) -> bytes:
        """The record of a name in the tree, b'' where there is none."""
        cut = path.rfind(b"/")
        folder = self._folder(path[:cut] if cut > 0 else b"")
        return self.tree.lookup(folder, path[cut + 1 :]) if folder >= 0 else b""

    def _folder(self, path: bytes) -> int:
        """The number of a folder, -1 where there is none.  Those looked at lately are remembered."""
        found = self.tree.root if not path else self._folders.get(path)
        if found is None:
            record = self._record(path)
            attr = records.unpack(record) if record else None
            found = attr.node if attr is not None and attr.mode >> 12 == _FOLDER else -1
            if len(self._folders) >= _FOLDERS_KEPT:
                self._folders.clear()
            self._folders[path] = found
        return found

    def _missing(self, key: bytes) -> NotFound:
        shown = show(key)
        return NotFound(
            f"there is no {self.url}/{shown}", code="no-such-key", key=shown, store=self.url, remedy="check the name"
        )

    def _file(self, key: bytes) -> Attr:
        attr = self._attr(key)
        if attr.mode >> 12 != _FILE:
            raise Conflict(
                f"{self.url}/{show(key)} is no file",
                code="not-a-file",
                key=show(key),
                store=self.url,
                remedy="look again at what is there",
            )
        return attr

    # ------------------------------------------------------------------------------------------------------- reading

    def stat(self, key: bytes) -> Stat:
        self._open()
        attr = self._attr(key)
        return Stat(self._entry(key, attr), self.mark)

    def _entry(self, key: bytes, attr: Attr) -> Entry:
        kind, mode = attr.mode >> 12, attr.mode & 0o7777
        if kind == _FILE:
            return Entry(key, FILE, attr.size, digests.UNKNOWN, mode, attr.mtime_ns)
        if kind == _FOLDER:
            return Entry(key, FOLDER, 0, digests.UNKNOWN, mode, attr.mtime_ns)
        if kind == _LINK:
            return Entry(key, LINK, 0, digests.UNKNOWN, NO_MODE, attr.mtime_ns, self.tree.text(attr))
        raise Unsupported(
            f"{self.url}/{show(key)} is a socket, pipe or device",
            code="special-file",
            key=show(key),
            store=self.url,
            remedy="leave it out",
        )

    def stamps(self, keys: Sequence[bytes]) -> Stamps:
        """The image's own for whatever is in it: it changes as a whole."""
        self._open()
        known = self._known(keys)
        return [self.mark if key in known or self._has(key) else b"" for key in keys]

    def _has(self, key: bytes) -> bool:
        return bool(self._record(self._above + legal.check(key)))

    def _known(self, keys: Sequence[bytes]) -> frozenset[bytes] | set[bytes]:
        """Names that are there: those of the manifest's segment in which the first key stands, where there are many."""
        if len(keys) < _MANY or self._above:
            return frozenset()
        try:
            manifest = self.tree.manifest
        except Unsupported:
            return frozenset()
        return (
            set(manifest.load(manifest.refs[_segment_of(manifest, keys[0])].digest).paths) if manifest.refs else set()
        )

    def read(self, key: bytes, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        self._open()
        attr = self._file(key)
        return self._chunks(attr, start, attr.size if stop is None else min(stop, attr.size))

    def _chunks(self, attr: Attr, start: int, stop: int) -> Iterator[bytes]:
        while start < stop:
            self._open()
            data = self.tree.read(attr, start, min(start + CHUNK, stop))
            if not data:
                return
            start += len(data)
            yield data

    def fetch(self, wants: Sequence[Want]) -> Iterator[Got]:
        """Bodies in the order in which they lie, so that no block is decoded twice."""
        self._open()
        return self._fetched(wants)

    def _fetched(self, wants: Sequence[Want]) -> Iterator[Got]:
        rows: list[tuple[int, int, int, Want]] = []
        for want in wants:
            i, key, size = want
            record = self._found(key)
            if record:
                node, first, tail, inside, has, mode = _FACTS.unpack_from(record)
                if has == size and mode >> 12 == _FILE:
                    rows.append((first & LOW, 0, node, want) if tail == NO_TAIL else (tail, inside, node, want))
                    continue
            try:
                attr = self._file(key)  # says what is wrong
                yield Got(i, b"", self._changed(want, attr.size))
            except DlsError as error:
                yield Got(i, b"", error)
        rows.sort(key=_PLACE)
        content = self.tree.content
        for _, _, node, want in rows:
            self._open()
            try:
                pieces = content(node, 0, want.size)
                body = pieces[0] if len(pieces) == 1 and type(pieces[0]) is bytes else b"".join(pieces)
                yield Got(want.i, body) if len(body) == want.size else Got(want.i, b"", self._changed(want, len(body)))
            except DlsError as error:
                yield Got(want.i, b"", error)

    def _changed(self, want: Want, size: int) -> Conflict:
        return Conflict(
            f"{self.url}/{show(want.key)} has {size} bytes, {want.size} were expected",
            code="source-changed",
            key=show(want.key),
            store=self.url,
            remedy="register what the image holds with dls catalogue add --image",
        )

    # ------------------------------------------------------------------------------------------------------- listing

    def list(self, prefix: bytes = b"") -> Iterator[Entry]:
        self._open()
        return self._listed(self._above + prefix, len(self._above))

    def _listed(self, prefix: bytes, cut: int) -> Iterator[Entry]:
        """Entries by their manifest, where there is one: no name is looked up.  A group of hard links is told by the
        first of its names that is listed."""
        first: dict[bytes, bytes] = {}
        for entry in self._entries(prefix):
            self._open()
            target = entry.target
            if entry.kind == FILE and target:
                if not target.startswith(prefix):
                    target = first.setdefault(target, entry.path)
                target = b"" if target == entry.path else target[cut:]
            yield entry._replace(path=entry.path[cut:], digest=digests.UNKNOWN, target=target, blocks=b"")

    def _entries(self, prefix: bytes) -> Iterator[Entry]:
        try:
            manifest = self.tree.manifest
        except Unsupported:
            return (one for one in entries_of(self.tree.items()) if one.path.startswith(prefix))
        return _below(manifest, prefix)

    def exists(self) -> bool:
        self._open()
        return not self._above or bool(self._record(self._above[:-1]))

    def below(self, prefix: bytes, *, staging: bool = False) -> ImageStore:
        self._open()
        legal.check(prefix.replace(legal.HIDDEN, b"dls-"))
        part = ImageStore.__new__(ImageStore)
        part.tree, part.mark = self.tree, self.mark
        part.url = str(urls.parse(self.url).below(prefix))
        part.room = self.room + len(prefix) + 1
        part._above = self._above + prefix + b"/"
        part._whole = self._whole or self  # it closes the tree when nobody has it any more
        part._folders = self._folders
        return part

    def close(self) -> None:
        """A part leaves the tree to the store that it came from."""
        self._closed = True
        if self._whole is None:
            self._let_go()


def _segment_of(manifest: Manifest, path: bytes) -> int:
    """The number of the segment in which a path stands, if it stands anywhere: looked for by halves."""
    low, high = 0, len(manifest.refs)
    while low < high - 1:
        middle = (low + high) // 2
        if manifest.load(manifest.refs[middle].digest).paths[0] <= path:
            low = middle
        else:
            high = middle
    return low


def _below(manifest: Manifest, prefix: bytes) -> Iterator[Entry]:
    """The entries of a manifest whose path begins so; segments behind them are not opened."""
    for ref in manifest.refs[_segment_of(manifest, prefix) if prefix else 0 :]:
        segment: Segment = manifest.load(ref.digest)
        for i in range(bisect_left(segment.paths, prefix), len(segment)):
            if not segment.paths[i].startswith(prefix):
                return
            yield segment.entry(i)


def entries_of(items: Iterable[Packable]) -> Iterator[Entry]:
    """The entries of a manifest, undigested, that packable items stand for: pipes and devices have none."""
    first: dict[tuple[int, int], bytes] = {}
    for item in items:
        kind, mode, path = item.mode >> 12, item.mode & 0o7777, item.path
        if kind == _FILE:
            known = path if item.group is None else first.setdefault(item.group, path)
            target = b"" if known == path else known
            yield Entry(path, FILE, item.size, digests.UNKNOWN, mode, item.mtime_ns, target)
        elif kind == _LINK:
            yield Entry(path, LINK, 0, digests.UNKNOWN, NO_MODE, item.mtime_ns, item.text)
        elif kind == _FOLDER and path and (item.empty or mode != _PLAIN):
            yield Entry(path, FOLDER, 0, digests.UNKNOWN, mode, item.mtime_ns if item.empty else NO_TIME)


def open_image_store(above: Store, key: bytes, **options: Any) -> ImageStore:
    """The image under a key of a store, as a store; a layer with all that it lies on.  `options` are those of
    `dls.fuse.remote`.

    NotFound where there is none, Invalid where it is no image of ours, Conflict where it changes meanwhile.
    """
    address = urls.parse(above.url).below(key)
    found = above.stat(key)
    image = _opened(above, key, address, options)
    tree, stamp = _stacked(image, address, found.stamp, options) if layers.below(image) else (image, found.stamp)
    if above.stamps([key]) != [found.stamp]:
        tree.close()
        raise Conflict(
            f"{address} changed while it was opened",
            code="source-changed",
            key=show(key),
            store=above.url,
            remedy="run the same again once nobody writes there",
        )
    return ImageStore(tree, str(address), mark_of(stamp))


def _opened(above: Store, key: bytes, address: urls.Url, options: dict[str, Any]) -> Image:
    return opening.open_tree(str(address), **options)


def _stacked(layer: Image, address: urls.Url, stamp: bytes, options: dict[str, Any]) -> tuple[Tree, bytes]:
    """The tree of a layer and all that it lies on; its stamp is that of all of them."""
    layer.close()
    text = os.fsdecode(b"/" + address.path) if address.scheme == "file" else str(address)
    images = layers.opened([text], **options)
    for image in images[:-1]:
        place = urls.parse(image.name, "/")
        above, key = place.parent
        stamp += open_store(above).stat(key).stamp + layers.Below.of(image, "").header.encode()
    return Union(text, images), stamp


def mark_of(stamp: bytes) -> bytes:
    """The stamp of whatever is in an image, from that of the image."""
    return digests.of(stamp)[:16]
