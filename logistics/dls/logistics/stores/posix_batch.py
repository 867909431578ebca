"""Many files of a folder at once: their stamps, and the bodies of small ones, one by one or in one call."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence

from dls.logistics import names
from dls.logistics.errors import DlsError, Invalid
from dls.logistics.store import Got, Stamps, Want
from dls.logistics.stores.posix_calls import umask
from dls.logistics.stores.posix_errors import ours
from dls.logistics.stores.posix_fast import Answers, Files, files
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


def taken(root: bytes, keys: Sequence[bytes], sizes: Sequence[int]) -> Answers:
    """The bodies of small files in one call of compiled code; None for each that it leaves to `bodies`."""
    compiled = _compiled(keys)
    return [None] * len(keys) if compiled is None else compiled.take(root or b"/", tuple(keys), tuple(sizes))


def given(
    root: bytes,
    folder_of: Callable[[bytes], None],
    keys: Sequence[bytes],
    found: Sequence[bytes],
    modes: Sequence[int],
    mtimes: Sequence[int],
) -> Answers:
    """Write small files in one call, after `folder_of` has seen to the folder of each path; the stamp of each, None
    where it is left to those who tell errors."""
    compiled = _compiled(keys)
    if compiled is None:
        return [None] * len(keys)
    try:
        for folder in dict.fromkeys([key[: key.rfind(b"/") + 1] for key in keys]):
            folder_of(root + b"/" + folder)
    except (OSError, DlsError):
        return [None] * len(keys)
    return compiled.give(root or b"/", tuple(keys), tuple(found), tuple(modes), tuple(mtimes), umask())


def _compiled(keys: Sequence[bytes]) -> Files | None:
    """Who does these, if they are legal names."""
    compiled = files()
    if compiled is not None:
        try:
            names.check_all(keys)
        except Invalid:
            return None
    return compiled
