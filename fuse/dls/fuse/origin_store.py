"""Packing from a store: what a manifest (or a listing, spooled as one) names, its bytes in batches.

    origin = StoreOrigin(store, wanted.manifest, ("dls.logistics.registry:open_store", (store.url,)))
    pack(origin, "tree.sqfs", options)

Every worker opens the store for itself by the description; in this process the store that is open serves.  Owners
are 0:0 (a manifest knows none), a mode or time that nobody knows is 0644, 0777 (links), 0755 (folders) and 1970, so
the same manifest gives the same image from whatever store.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from dls.fuse.reading import STEP, Description, File, opened
from dls.fuse.source import Attributes, Group, Item, changed
from dls.logistics.entry import FILE, FOLDER, LINK, NO_MODE, NO_TIME, Entry
from dls.logistics.manifest import Manifest
from dls.logistics.store import SMALL, Store, Want

_FILE, _LINK, _FOLDER = 0o100000, 0o120000, 0o040000
_MODES: Final = {FILE: 0o644, LINK: 0o777, FOLDER: 0o755}
_TYPES: Final = {FILE: _FILE, LINK: _LINK, FOLDER: _FOLDER}


class Door:
    """A store that is open here, and opened anew where it is sent to."""

    def __init__(self, store: Store, opener: Description) -> None:
        self.store, self._opener = store, opener

    def __reduce__(self) -> tuple[Any, ...]:
        return _elsewhere, (self._opener,)


def _elsewhere(opener: Description) -> Door:
    return Door(opened(opener), opener)


class StoreOrigin:
    """What a manifest names in a store."""

    def __init__(self, store: Store, manifest: Manifest, opener: Description) -> None:
        self.name, self._manifest = store.url, manifest
        self._door = Door(store, opener)

    def items(self, keep: Attributes) -> Iterator[Item]:
        """The entries as items, with every folder above them."""
        names, own = self._looked()
        above: list[bytes] = [b""]
        yield _folder(b"", None, empty=not self._manifest.refs)
        for entry in self._manifest:
            for folder in _fresh(entry.path, above):
                if folder not in own:
                    yield _folder(folder, None, empty=False)
            if entry.kind == FOLDER:
                yield _folder(entry.path, entry, empty=not own[entry.path])
            else:
                yield self._item(entry, names)

    def _looked(self) -> tuple[dict[bytes, tuple[int, int]], dict[bytes, bool]]:
        """What has to be known beforehand: first name of each hard-link group → its number, and how many names it has;
        folder with an entry of its own → whether anything is inside."""
        names: dict[bytes, tuple[int, int]] = {}
        own: dict[bytes, bool] = {}
        above: list[bytes] = [b""]
        for segment in self._manifest.segments():
            for i, first in segment.targets.items():
                if segment.kinds[i] == FILE:
                    number, many = names.get(first, (len(names), 1))
                    names[first] = number, many + 1
            for path, kind in zip(segment.paths, segment.kinds, strict=True):
                for folder in _fresh(path, above):
                    if folder in own:
                        own[folder] = True
                if kind == FOLDER:
                    own[path] = False
        return names, own

    @staticmethod
    def _item(entry: Entry, names: dict[bytes, tuple[int, int]]) -> Item:
        mode = _TYPES[entry.kind] | (_MODES[entry.kind] if entry.mode == NO_MODE else entry.mode)
        mtime = 0 if entry.mtime_ns == NO_TIME else entry.mtime_ns
        if entry.kind == LINK:
            return Item(entry.path, mode, 0, 0, mtime, len(entry.target), text=entry.target)
        number, many = names.get(entry.target or entry.path, (0, 1))
        group = (0, number) if many > 1 else None
        return Item(entry.path, mode, 0, 0, mtime, entry.size, group, nlink=many)

    def links(self) -> Iterable[Group]:
        """As the manifest says."""
        return ()

    def reader(self) -> Description:
        """Reads them from the store."""
        return f"{__name__}:{StoreReader.__name__}", (self._door,)


def _folder(path: bytes, entry: Entry | None, *, empty: bool) -> Item:
    """A folder; one without an entry of its own is 0755."""
    known = entry is not None and entry.mode != NO_MODE
    mode = _FOLDER | (entry.mode if entry is not None and known else _MODES[FOLDER])
    mtime = entry.mtime_ns if entry is not None and entry.mtime_ns != NO_TIME else 0
    return Item(path, mode, 0, 0, mtime, empty=empty)


def _fresh(path: bytes, above: list[bytes]) -> list[bytes]:
    """The folders above a path that were not given yet, outermost first; `above` is what leads to the last of them."""
    cut = path.rfind(b"/")
    folder = path[:cut] if cut > 0 else b""
    if folder == above[-1]:
        return []
    while above[-1] and not folder.startswith(above[-1] + b"/"):
        if folder == above[-1]:
            return []
        above.pop()
    fresh: list[bytes] = []
    while folder != above[-1]:
        fresh.append(folder)
        cut = folder.rfind(b"/")
        folder = folder[:cut] if cut > 0 else b""
    fresh.reverse()
    above.extend(fresh)
    return fresh


class StoreReader:
    """Reads files of a store: small ones in one batch, others by ranges."""

    def __init__(self, door: Door) -> None:
        self._store = door.store

    def bodies(self, files: Sequence[File]) -> list[bytes]:
        """Each of the files, whole."""
        out: list[bytes] = [b""] * len(files)
        wants = [Want(i, file.path, file.size) for i, file in enumerate(files) if file.size <= SMALL]
        for i, body, error in self._store.fetch(wants) if wants else ():
            if error is not None:
                raise error
            out[i] = bytes(body)
        for i, file in enumerate(files):
            if file.size > SMALL:
                out[i] = b"".join(self._read(file, 0, file.size))
        return out

    def stretch(self, file: File) -> Iterator[bytes]:
        """The bytes `start … stop-1` of a file."""
        return self._read(file, file.start, file.stop)

    def _read(self, file: File, start: int, stop: int) -> Iterator[bytes]:
        """By STEP, however the store cuts what it gives."""
        held, left = bytearray(), stop - start
        more = stop == file.size  # a longer file is found out
        for chunk in self._store.read(file.path, start, stop + 1 if more else stop):
            held += chunk
            if len(held) > left:
                raise changed(self._store.url, file.path)
            while len(held) >= STEP and left > STEP:
                yield bytes(held[:STEP])
                del held[:STEP]
                left -= STEP
        if len(held) != left:
            raise changed(self._store.url, file.path)
        if held:
            yield bytes(held)


def image_store(above: str, key: bytes) -> Store:
    """The image under a key of the store at an address, opened here: for descriptions."""
    from dls.fuse.store import open_image_store
    from dls.logistics.registry import open_store

    return open_image_store(open_store(above), key)
