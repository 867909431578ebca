"""What a file that is no image of ours holds, by what its bytes say, and who reads it."""

from __future__ import annotations

from typing import Final

from dls.fuse import erofs
from dls.fuse.foreign import stream, tarhead
from dls.fuse.foreign.archive import Context, unreadable
from dls.fuse.image import Image, Source
from dls.fuse.squashfs import SUPER
from dls.logistics.errors import Corrupt, DlsError, Invalid

_BEGIN: Final = 2048
_PADDING: Final = 2 << 20
"""Some tools fill up with zeros, to a page or to a megabyte."""
_SMALL: Final = 64 << 10


def open_foreign(source: Source, stamp: str, context: Context) -> Image:
    """The tree in a file that others wrote, which is closed where it is none; `stamp` tells versions of it apart."""
    try:
        begin = source.at(0, _BEGIN)
        if begin[:4] == b"hsqs":
            used = SUPER.unpack_from(begin)[12] if len(begin) >= SUPER.size else 0
            _check_end(source, used, "SquashFS", f"to read it unchecked: truncate -s {used} FILE")
            from dls.fuse.foreign.squash import open_squash

            return open_squash(source, stamp, context)
        if (size := erofs.bytes_used(begin)) is not None:
            raise _without_index(source, size)
        if form := stream.form_of(begin):
            return _compressed(source, form, stamp, context)
        if tarhead.is_tar(begin) or (source.size <= _SMALL and tarhead.is_empty_tar(source.at(0, _SMALL))):
            from dls.fuse.foreign.tar import open_tar

            return open_tar(source, "tar", stamp, context)
        return _others(source, begin, stamp, context)
    except BaseException:
        source.close()
        raise


def _others(source: Source, begin: bytes, stamp: str, context: Context) -> Image:
    from dls.fuse.foreign.zip import open_zip
    from dls.fuse.foreign.zip_directory import directory_of

    if begin[:4] in (b"PK\3\4", b"PK\5\6", b"PK\7\x08") or directory_of(source) is not None:
        return open_zip(source, stamp, context)
    if begin[1080:1082] == b"\x53\xef":
        from dls.fuse.foreign.ext_tree import open_ext

        return open_ext(source, stamp, context)
    if begin.startswith(b"Rar!\x1a\x07"):
        from dls.fuse.foreign.rar import open_rar

        return open_rar(source, stamp, context)
    raise Invalid(
        f"{source.name} is no image or archive that dls knows, or was cut short", code="not-an-image",
        remedy="name a SquashFS, tar, zip, rar or ext file, or pack a folder: dls pack FOLDER IMAGE",
        store=source.name,
    )  # fmt: skip


def _compressed(source: Source, form: str, stamp: str, context: Context) -> Image:
    first = b""
    for part in stream.Unpacked(source, form, Context()).parts():
        first += part
        if len(first) >= 2 * tarhead.BLOCK:
            break
    if not tarhead.is_tar(first) and not tarhead.is_empty_tar(first[: 2 * tarhead.BLOCK]):
        raise unreadable(source.name, f"it is compressed by {form}, and what is inside is no tar", "unpack it")
    from dls.fuse.foreign.tar import open_tar

    return open_tar(source, form, stamp, context)


def _without_index(source: Source, used: int) -> DlsError:
    """An EROFS that does not end with an index of ours: nothing of it is read."""
    by_kernel = "mount -t erofs -o loop,ro FILE FOLDER"
    _check_end(source, used, "EROFS", f"to read it unchecked: {by_kernel}")
    if source.size < used:
        return Corrupt(
            f"{source.name} is cut short: of {used:,} bytes of its EROFS there are {source.size:,}",
            code="bad-image", store=source.name, remedy="get the image again",
        )  # fmt: skip
    return unreadable(
        source.name, "it is an EROFS without an index of ours",
        f"mount it with the kernel: {by_kernel}; or pack what is in it: dls pack FOLDER IMAGE",
    )  # fmt: skip


def _check_end(source: Source, used: int, what: str, otherwise: str) -> None:
    """What is longer than its file system had an index of ours behind it once, or has something else: without the
    index nothing would be checked, and nobody would know."""
    rest = source.size - used
    if rest <= 0 or (rest <= _PADDING and not source.at(used, rest).strip(b"\0")):
        return
    raise Corrupt(
        f"{source.name}: behind the {what} are {source.size - used:,} bytes that are no whole index of ours:"
        " it was cut short or is damaged",
        code="bad-image", store=source.name,
        remedy=f"get the image again; or, {otherwise}",
    )  # fmt: skip
