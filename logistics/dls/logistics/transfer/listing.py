"""What lies at a source, before anything is moved: listed once, spooled by segments, so memory holds one of them."""

from __future__ import annotations

import tempfile
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

from dls.logistics import names
from dls.logistics.entry import FOLDER, Entry
from dls.logistics.errors import Conflict, NotFound
from dls.logistics.frozen import frozen
from dls.logistics.manifest import Manifest, SegmentRef
from dls.logistics.segment import Segment, cut
from dls.logistics.store import Stamped, Store
from dls.logistics.transfer.receipt import decode_stamps, encode_stamps


@frozen
class Wanted:
    """What a transfer shall bring: a manifest, and where its digests are not known yet the stamps that were listed."""

    manifest: Manifest
    name: str
    """Place.wanted: `blake3:…`, or `from:<url>`."""
    known: bool
    """Whether every digest is known."""
    stamps: Callable[[bytes], Sequence[bytes]] | None = None
    """The stamps of one segment's entries, by the segment's digest, when they were listed."""


def known(manifest: Manifest) -> Wanted:
    """What is wanted, by a hashed manifest."""
    return Wanted(manifest, f"blake3:{manifest.content.hex()}", known=True)


class _Spool:
    """Encoded segments and stamps in an unnamed file that ends with the process; nothing is added once one is read."""

    def __init__(self, folder: Path | None) -> None:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by the next line
        weakref.finalize(self, self._file.close)  # when nobody wants the listing any more
        self._at: dict[bytes, tuple[int, int, int, int]] = {}
        self._lock = threading.Lock()

    def add(self, segment: Segment, stamps: Sequence[bytes]) -> None:
        body, marks = segment.encode(), encode_stamps(stamps)
        start = self._file.tell()
        self._file.write(body)
        self._file.write(marks)
        self._at[segment.digest] = (start, len(body), len(marks), len(segment))

    def _bytes(self, start: int, length: int) -> bytes:
        with self._lock:
            self._file.seek(start)
            return self._file.read(length)

    def segment(self, digest: bytes) -> Segment:
        start, length, _, _ = self._at[digest]
        return Segment.decode(self._bytes(start, length), digest)

    def stamps(self, digest: bytes) -> Sequence[bytes]:
        start, length, marks, count = self._at[digest]
        return decode_stamps(self._bytes(start + length, marks), count)


def listed(
    source: Store, spool: Path | None = None, *, only: bytes = b"", tick: Callable[[], None] = lambda: None
) -> Wanted:
    """What lies at `source` (or the one file `only` there), as a manifest without digests; `spool` is a folder for
    the listing.  NotFound where nothing lies there; Conflict where it changes meanwhile."""
    kept, refs, stamps = _Spool(spool), list[SegmentRef](), deque[bytes]()
    for segment in cut(single(source, only) if only else _entries(source, stamps)):
        kept.add(segment, _stamps(source, segment, stamps))
        refs.append(SegmentRef.of(segment))
        tick()
    if not refs and (only or not source.exists()):
        where = f"{source.url}/{names.show(only)}" if only else source.url
        raise NotFound(f"there is nothing at {where}", code="no-source", store=where, remedy="check the address")
    name = f"from:{source.url}" + (f"/{names.show(only)}" if only else "")
    return Wanted(Manifest(tuple(refs), kept.segment), name, known=False, stamps=kept.stamps)


def _entries(source: Store, stamps: deque[bytes]) -> Iterator[Entry]:
    """What is listed; the stamps that come with it go to `stamps`."""
    if not isinstance(source, Stamped):
        yield from source.list()
        return
    for entry, stamp in source.list_stamped():
        stamps.append(stamp)
        yield entry


def _stamps(source: Store, segment: Segment, listed: deque[bytes]) -> Sequence[bytes]:
    """Those of the next segment, asked for where the listing did not tell them."""
    found = [listed.popleft() for _ in range(min(len(listed), len(segment)))] or [b""] * len(segment)
    unknown = [i for i, stamp in enumerate(found) if not stamp]
    if unknown:
        for i, stamp in zip(unknown, source.stamps([segment.paths[i] for i in unknown]), strict=True):
            found[i] = stamp
            if not stamp:
                raise moving(source.url, segment.paths[i])
    return found


def single(source: Store, name: bytes) -> list[Entry]:
    """The one file or link of this name, as a listing would give it, also where the place cannot list."""
    try:
        entry = source.stat(name).entry
    except NotFound:
        return []
    return [] if entry.kind == FOLDER else [entry]


def moving(where: str, key: bytes) -> Conflict:
    """The error of a source that is being written."""
    return Conflict(
        f"{where}/{names.show(key)} changed while it was read",
        code="source-changed",
        store=where,
        key=names.show(key),
        remedy="wait until nobody writes there, then run the same again",
    )
