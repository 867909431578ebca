"""What an OSError of a file system means to a user."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from dls.logistics import names
from dls.logistics.errors import Conflict, Denied, DlsError, Exists, NotFound, Unavailable, Unsupported

_ROWS: dict[int, tuple[type[DlsError], str, str, str]] = {
    errno.ENOENT: (NotFound, "no-such-key", "there is no {0}", "check the name"),
    errno.EACCES: (Denied, "no-access", "no permission for {0}", "ask its owner for access, or run as another user"),
    errno.EPERM: (Denied, "no-access", "not permitted: {0}", "ask its owner for access, or run as another user"),
    errno.EROFS: (Denied, "read-only", "{0} is on a read-only file system", "choose another target"),
    errno.ENOSPC: (Unavailable, "disk-full", "no space left for {0}", "free space there and run the same again"),
    errno.EDQUOT: (Unavailable, "disk-full", "the quota leaves no space for {0}", "free space, then run it again"),
    errno.EFBIG: (Unsupported, "too-large", "{0} is larger than files may be there", "see `ulimit -f`, and the disk"),
    errno.EEXIST: (Exists, "key-exists", "{0} exists already", "choose another name"),
    errno.ENOTEMPTY: (Conflict, "folder-not-empty", "the folder {0} is not empty", "empty it first"),
    errno.ENOTDIR: (NotFound, "no-such-key", "there is no {0}: a part of it is a file", "check the name"),
    errno.EISDIR: (Conflict, "name-clash", "{0} is a folder", "rename one of the two"),
    errno.ELOOP: (Conflict, "not-a-file", "{0} is a link where a file was expected", "look again at what is there"),
    errno.ENAMETOOLONG: (Unsupported, "name-not-held", "the name {0} is too long for this file system", "rename it"),
    errno.ENXIO: (Unsupported, "special-file", "{0} is a socket, pipe or device", "leave it out"),
    errno.EIO: (Unavailable, "io-error", "the disk gave an input/output error at {0}", "look at the disk's health"),
    errno.ESTALE: (Unavailable, "io-error", "the file server lost its handle of {0}", "run the same again"),
    errno.EMFILE: (Unavailable, "too-many-files", "too many open files at {0}", "raise `ulimit -n`"),
}


def ours(exc: OSError, where: str, key: bytes = b"") -> DlsError:
    """Our error for an OSError met at `key` of the store `where`, with it as the cause."""
    found = _found(exc, where, key)
    found.__cause__ = exc
    return found


def _found(exc: OSError, where: str, key: bytes) -> DlsError:
    name = f"{where}/{names.show(key)}" if key else where
    row = _ROWS.get(exc.errno or 0)
    if row is None:
        return Unavailable(
            f"{name}: {exc.strerror or exc}", code="io-error", store=where, key=names.show(key) if key else None
        )
    kind, code, message, remedy = row
    facts = {"store": where, "key": names.show(key)} if key else {"store": where}
    return kind(message.format(name), code=code, remedy=remedy, **facts)


def clash(where: str, key: bytes) -> Conflict:
    """The error of a file where a folder is needed, or the other way round."""
    return Conflict(
        f"{where}/{names.show(key)}, or a part of it, is a file where a folder is needed",
        code="name-clash",
        remedy="rename one of the two",
        store=where,
        key=names.show(key),
    )


def linked(where: str, key: bytes) -> Conflict:
    """The error of a link where a folder is needed: nothing is written through it."""
    return Conflict(
        f"{where}/{names.show(key)} is a link where a folder is needed",
        code="linked-folder",
        remedy="replace the link by a folder, or name the place it leads to as the target",
        store=where,
        key=names.show(key),
    )


@contextmanager
def met(where: str, key: bytes = b"") -> Iterator[None]:
    """Translate any OSError inside the block."""
    try:
        yield
    except OSError as exc:
        raise ours(exc, where, key) from exc
