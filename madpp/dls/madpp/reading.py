"""Reading a version where it lies, without copying it: which place is best, and single files, each byte proven."""

from __future__ import annotations

from collections.abc import Iterator

from dls.catalogue.model import Layout
from dls.logistics import digest as digests
from dls.logistics import names, url
from dls.logistics.entry import FILE, Entry
from dls.logistics.errors import Corrupt, DlsError, Invalid, NotFound, worst
from dls.logistics.manifest import Manifest
from dls.logistics.segment import Segment
from dls.logistics.store import Store
from dls.madpp.action import Context
from dls.madpp.layout import open_replica
from dls.madpp.source import From, Wish, sources, wish


def places(context: Context, wanted: Wish) -> list[From]:
    """Where a version can be read, best first: images of this machine, images elsewhere, then trees of files."""

    def turn(one: From) -> bool:
        return one.replica is None or one.replica.layout is not Layout.IMAGE

    return sorted(sources(context, wanted), key=turn)  # each in the order of sources: what is near comes first


def found(context: Context, text: str) -> Wish:
    """The version that an id names, whatever path it has."""
    id = url.dataset(text)
    return wish(context, f"{id.key}@{id.version}" if id.version else id.key)


def entry_of(context: Context, wanted: Wish, path: bytes) -> Entry:
    """One file of a version; NotFound where it has none of this name, Invalid where that is no file."""
    names.check(path)
    id = url.DatasetId(wanted.id.scope, wanted.id.name, wanted.id.version, path)
    page = context.catalogue.files(id, actor=context.actor, limit=1)
    if not page:
        raise NotFound(
            f"{wanted.version.id} has no entry {names.show(path)}",
            code="no-entry",
            key=names.show(path),
            remedy=f"dls catalogue files {wanted.version.id}",
        )
    if page[0].path != path or page[0].kind != FILE:
        raise Invalid(f"{names.show(path)} is no file", code="not-a-file", remedy="name a file of the dataset")
    return page[0]


def pieces(context: Context, wanted: Wish, entry: Entry) -> Iterator[bytes]:
    """The bytes of one file, at most 64 MiB at once and each piece proven before it is given.  Where a place fails
    the next goes on from there."""
    done, errors = 0, list[DlsError]()
    for one in places(context, wanted):
        try:
            store = open_replica(context, one.replica) if one.replica else context.open_store(one.url)
            for piece in _proven(store, entry, done):
                yield piece
                done += len(piece)
        except DlsError as error:
            errors.append(error)
            context.note(f"{one.text} could not give it: {error}")
        else:
            return
    raise worst(errors) or errors[-1]


def _proven(store: Store, entry: Entry, start: int) -> Iterator[bytes]:
    """From `start`, a border of blocks, on."""
    step = digests.BLOCK if entry.blocks else max(1, entry.size)
    for at in range(start, entry.size, step):
        stop = min(at + step, entry.size)
        data = b"".join(store.read(entry.path, at, stop))
        number = at // digests.BLOCK
        expected = entry.blocks[32 * number : 32 * number + 32] if entry.blocks else entry.digest
        if digests.of(data) != expected:
            shown = names.show(entry.path)
            raise Corrupt(
                f"{store.url}/{shown} no longer holds the bytes that were registered",
                code="content-differs",
                store=store.url,
                key=shown,
                remedy="run dls verify: what is wrong is marked, and another copy serves",
            )
        yield data


def by_itself(manifest: Manifest) -> Manifest:
    """The same manifest, for a process that outlives the catalogue's connection: 39 bytes a file in memory."""
    kept = {segment.digest: segment.encode() for segment in manifest.segments()}
    return Manifest(manifest.refs, lambda digest: Segment.decode(kept[digest], digest))
