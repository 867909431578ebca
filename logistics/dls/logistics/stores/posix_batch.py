"""Many files of a folder at once: their stamps, and the bodies of small ones."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from dls.logistics import names
from dls.logistics.errors import DlsError, Invalid
from dls.logistics.store import Got, Stamps, Want
from dls.logistics.stores.posix_errors import ours
from dls.logistics.stores.posix_files import changed, check_regular, stamp_of

READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


def stamps(root: bytes, where: str, keys: Sequence[bytes]) -> Stamps:
    """The stamps of many keys below a folder, b'' where absent; `where` is its URL."""
    names.check_all(keys)
    above, lstat = root + b"/", os.lstat
    out: Stamps = []
    for key in keys:
        try:
            info = lstat(above + key)
        except (FileNotFoundError, NotADirectoryError):
            out.append(b"")
        except OSError as exc:
            raise ours(exc, where, key) from exc
        else:
            out.append(stamp_of(info))
    return out


def bodies(root: bytes, where: str, wants: Sequence[Want]) -> Iterator[Got]:
    """The bodies of small files, in the order asked."""
    try:
        names.check_all([want[1] for want in wants])
    except (Invalid, TypeError):  # each is told for itself
        return (_checked(root, where, want) for want in wants)
    above = root + b"/"
    return (_body(above, where, want) for want in wants)


def _checked(root: bytes, where: str, want: Want) -> Got:
    try:
        names.check(want.key)
    except DlsError as exc:
        return Got(want.i, b"", exc)
    return _body(root + b"/", where, want)


def _body(above: bytes, where: str, want: Want) -> Got:
    i, key, size = want
    try:
        fd = os.open(above + key, READ)
        try:
            if not size:  # a pipe or a device has no bytes either
                check_regular(os.fstat(fd), where, key)
            body = os.read(fd, size + 1)
            while 0 < len(body) < size and (more := os.read(fd, size + 1 - len(body))):
                body += more
        finally:
            os.close(fd)
    except OSError as exc:
        return Got(i, b"", ours(exc, where, key))
    except DlsError as exc:
        return Got(i, b"", exc)
    if len(body) != size:
        return Got(i, b"", changed(where, key, size, len(body)))
    return Got(i, body)
