"""Opens whatever holds a tree, by what its bytes say: an image of ours, or what others write.

    with open_tree("tiles.tar.zst", cache_folder="/var/cache/dls") as tree: …

The first time, the names of a foreign file are read and an index is made, which is kept in the cache; from then on
it opens like an image.  A file behind a store is read by ranges.
"""

from __future__ import annotations

import os

from dls.fuse.cache import LIMIT
from dls.fuse.image import Image, LocalFile, Source, open_image
from dls.fuse.index import FOOTER, MAGIC
from dls.logistics.transfer.progress import Progress
from dls.logistics.url import parse


def open_tree(
    url: str, *, cache_folder: str = "", cache_bytes: int = LIMIT, index_folder: str = "",
    progress: Progress | None = None,
) -> Image:  # fmt: skip
    """The tree in a file of this machine (a path is taken relative to the working folder) or at an address.

    `cache_folder` keeps pieces of remote files, at most `cache_bytes`, and indexes of foreign ones, unless those have a
    folder of their own.
    """
    at = parse(url, os.getcwd())
    kept = index_folder or cache_folder, cache_bytes, progress
    if at.scheme == "file":
        local = LocalFile(os.fsdecode(b"/" + at.path))
        if _is_ours(local.at(max(0, local.size - FOOTER.size), FOOTER.size)):
            local.close()
            return open_image(local.name)
        info = os.fstat(local.fd)
        return _foreign(local, f"{info.st_mtime_ns}/{info.st_dev}/{info.st_ino}", *kept)
    from dls.fuse.remote import RemoteFile, image_in, stored_at

    store, key = stored_at(at)
    try:
        source = RemoteFile(store, key, (cache_folder, cache_bytes) if cache_folder else None)
        tail = source.tail()
        if _is_ours(tail):
            return image_in(source, tail)
    except BaseException:
        store.close()
        raise
    return _foreign(source, source.version, *kept)


def _is_ours(end: bytes) -> bool:
    """Whether a footer of ours is at the end of a file."""
    return len(end) >= FOOTER.size and end[-FOOTER.size :].startswith(MAGIC)


def _foreign(source: Source, stamp: str, folder: str, limit: int, progress: Progress | None) -> Image:
    # Most files are images of ours, and open 15 ms sooner without the readers of all others.
    from dls.fuse.foreign.archive import Context
    from dls.fuse.foreign.recognised import open_foreign

    return open_foreign(source, stamp, Context(folder, limit, progress))
