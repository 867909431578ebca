"""What is packed: a stream of items in the order of manifests, every folder included.

Order is that of the bytes of whole paths (`a`, `a-b`, `a/x`, `a0`); every folder stands before what is inside.  The
root comes first, as the folder with the empty path.
"""

from __future__ import annotations

import errno
import os
import stat as st
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from dls.logistics import names
from dls.logistics.errors import Conflict, DlsError, Unsupported
from dls.logistics.stores.posix_errors import ours

NO_XATTRS: Final[tuple[tuple[bytes, bytes], ...]] = ()


Group = tuple[int, int]
"""Same for all names of one inode, and for no other's: by what it is known at the source, device and number mostly."""


class Item(NamedTuple):
    """One name to pack."""

    path: bytes
    mode: int
    """With the type, as in `st_mode`."""
    uid: int
    gid: int
    mtime_ns: int
    size: int = 0
    """Bytes of a file; of a link's text."""
    group: Group | None = None
    """None where the inode has one name only; what lays out an image wants (0, number)."""
    device: int = 0
    """Of a device: as in `st_rdev`."""
    text: bytes = b""
    """Of a symbolic link."""
    xattrs: tuple[tuple[bytes, bytes], ...] = NO_XATTRS
    empty: bool = False
    """Of a folder: nothing is inside."""
    nlink: int = 1
    """Names that the inode has at the source, also outside of what is packed."""


Row = tuple[bytes, Item]


_NO_ATTRIBUTES: Final = frozenset({errno.ENOTSUP, errno.ENOSYS, errno.EPERM, errno.EACCES})
"""Of a file system that has none, or lists none."""
_NOT_SEEN: Final = _NO_ATTRIBUTES | {errno.ENODATA, errno.EINVAL}
"""Of an attribute of the system's that this process may not see, or that has no value to read."""


Attributes = Callable[[bytes], tuple[tuple[bytes, bytes], ...]]
"""The extended attributes to keep of a path on this machine."""


def no_attributes(path: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """Keeps none."""
    return NO_XATTRS


def user_attributes(path: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """Keeps what users set (`user.*`): the others differ from host to host."""
    return _attributes(path, (b"user.",))


def all_attributes(path: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """Keeps all that this process may see."""
    return _attributes(path, (b"",))


def _attributes(path: bytes, prefixes: tuple[bytes, ...]) -> tuple[tuple[bytes, bytes], ...]:
    try:
        found = os.listxattr(path, follow_symlinks=False)
    except OSError as exc:
        if exc.errno in _NO_ATTRIBUTES:
            return NO_XATTRS
        raise _unlisted(path, exc) from exc
    if not found:
        return NO_XATTRS
    out = list[tuple[bytes, bytes]]()
    for name in sorted(map(os.fsencode, found)):
        if name.startswith(prefixes):
            try:
                out.append((name, os.getxattr(path, name, follow_symlinks=False)))
            except OSError as exc:
                if name.startswith(b"user.") or exc.errno not in _NOT_SEEN:
                    raise _unlisted(path, exc) from exc
    return tuple(out)


def _unlisted(path: bytes, error: OSError) -> OSError | DlsError:
    """Attributes that were asked for and are not had: none is left out in silence."""
    where = os.fsdecode(path)
    if error.errno == errno.E2BIG:
        return Unsupported(
            f"{where} has more extended attributes than Linux lists: their names take over 64 KiB",
            code="too-many-attributes", store=where, remedy="take some away, or pack with --xattrs none",
        )  # fmt: skip
    return error if isinstance(error, FileNotFoundError | NotADirectoryError) else ours(error, where)


def walk(root: bytes, keep: Attributes = no_attributes) -> Iterator[Item]:
    """The items of a folder on this machine.  Memory: the names of the folders that are open."""
    where = os.fsdecode(root)
    try:
        info = os.stat(root)
        if not st.S_ISDIR(info.st_mode):
            raise Conflict(f"{where} is no folder", code="not-a-folder", store=where, remedy="pack its folder")
        top = Item(b"", info.st_mode, info.st_uid, info.st_gid, info.st_mtime_ns, xattrs=keep(root))
    except OSError as exc:
        raise ours(exc, where, b"") from exc
    return ordered(top, lambda above: _scan(root + b"/" + above, above, where, keep))


def links(root: bytes) -> Iterator[Group]:
    """The `Item.group` of each name in this folder whose inode has several names."""
    todo = [root]
    while todo:
        folder = todo.pop()
        try:
            with os.scandir(folder) as inside:
                for one in inside:
                    if one.name.startswith(names.HIDDEN):
                        continue
                    if one.is_dir(follow_symlinks=False):
                        todo.append(one.path)
                    elif (info := one.stat(follow_symlinks=False)).st_nlink > 1:
                        yield info.st_dev, info.st_ino
        except (FileNotFoundError, NotADirectoryError) as exc:
            raise changed(os.fsdecode(root), folder[len(root) + 1 :]) from exc
        except OSError as exc:
            raise ours(exc, os.fsdecode(root), folder[len(root) + 1 :]) from exc


def ordered(top: Item, scan: Callable[[bytes], list[Row]]) -> Iterator[Item]:
    """Items in the order of manifests, the root first.  `scan` gives what is in the folder with a path (with a slash
    behind it; the root is ''), sorted."""
    inside = scan(b"")
    yield top._replace(empty=not inside)
    todo: list[tuple[bytes, Item | None, list[Row]]] = [(path, item, []) for path, item in reversed(inside)]
    while todo:
        at, item, rows = todo.pop()
        if item is None:
            todo.extend((path, one, []) for path, one in reversed(rows))
        elif item.mode & 0o170000 != 0o040000:
            yield item
        else:
            # What is inside sorts at the name and a slash: after `name-x`, which is before `name/`.
            place = at + b"/"
            inside = scan(place)
            yield item._replace(empty=True) if not inside else item
            if inside:
                i = len(todo)
                while i and todo[i - 1][0] < place:
                    i -= 1
                todo.insert(i, (place, None, inside))


def _scan(folder: bytes, above: bytes, where: str, keep: Attributes) -> list[Row]:
    rows, new = list[Row](), tuple.__new__
    bare = keep is no_attributes
    try:
        with os.scandir(folder) as found:
            for one in found:
                name = one.name
                if name.startswith(names.HIDDEN):
                    continue
                path = above + name
                info = one.stat(follow_symlinks=False)
                mode = info.st_mode
                kind, size, group, device, text, nlink = mode >> 12, 0, None, 0, b"", 1
                if kind != 4:
                    nlink = info.st_nlink
                    if nlink > 1:
                        group = info.st_dev, info.st_ino
                    if kind == 8:
                        size = info.st_size
                    elif kind == 10:
                        text = os.readlink(folder + name)
                        size = len(text)
                    elif kind in (6, 2):
                        device = info.st_rdev
                fields = (
                    path, mode, info.st_uid, info.st_gid, info.st_mtime_ns, size, group, device, text,
                    NO_XATTRS if bare else keep(folder + name), False, nlink,
                )  # fmt: skip
                rows.append((path, new(Item, fields)))
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise changed(where, above) from exc
    except OSError as exc:
        raise ours(exc, where, above.rstrip(b"/")) from exc
    rows.sort()
    return rows


def changed(where: str, key: bytes) -> DlsError:
    """A source that is not the same any more."""
    shown = names.show(key.rstrip(b"/"))
    return Conflict(
        f"{where}/{shown} changed while it was packed",
        code="source-changed",
        key=shown,
        store=where,
        remedy="pack again once nobody writes there",
    )
