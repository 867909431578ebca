"""Images for whoever speaks fsspec (pandas, dask, zarr, datasets …): the only home of that library here.

    fsspec.open("dlsimage://2024/a.tif::tiles.sqfs")
    fsspec.filesystem("dlsimage", fo="s3://bucket/tiles.sqfs").glob("2024/*.tif")

The image is read by our own stores, not by fsspec's.  Links inside of the image are followed; one that leads to a
folder, or out, is listed as a link and not walked into.  Errors are those of files: FileNotFoundError and so on,
and OSError (EIO) where bytes are damaged or a store is away.
"""

from __future__ import annotations

import errno
import io
import os
import stat as st
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final, NoReturn

from fsspec.spec import AbstractFileSystem

from dls.fuse.files import Files, ImageFile
from dls.fuse.records import Attr, unpack
from dls.logistics.errors import Conflict, Denied, DlsError, Invalid, NotFound

_LINKS: Final = 40
_KINDS: Final = {st.S_IFREG: "file", st.S_IFDIR: "directory", st.S_IFLNK: "link"}


class ImageFileSystem(AbstractFileSystem):  # type: ignore[misc]
    """What is in an image.  `fo` is the image's file or address; other words are those of `dls.fuse.remote`."""

    protocol = "dlsimage"
    root_marker = ""
    cachable = False  # the same address may hold another image tomorrow

    def __init__(
        self,
        fo: str = "",
        *,
        target_protocol: str | None = None,
        target_options: dict[str, Any] | None = None,
        cache_folder: str = "",
        cache_bytes: int = 0,
        **words: Any,
    ) -> None:
        super().__init__(**words)
        if target_protocol not in (None, "file", "local") and "://" not in fo:
            fo = f"{target_protocol}://{fo}"
        options: dict[str, Any] = {"cache_folder": cache_folder} if cache_folder else {}
        if cache_bytes:
            options["cache_bytes"] = cache_bytes
        self.fo, self._files = fo, Files(fo, **options)
        with _as_files(fo):
            self._files.image  # noqa: B018 - opens it

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        found = super()._strip_protocol(path)
        return [one.lstrip("/") for one in found] if isinstance(found, list) else found.lstrip("/")

    def close(self) -> None:
        """Let go of the image."""
        self._files.close()

    # ------------------------------------------------------------------------------------------------ names

    def _found(self, path: str) -> Attr:
        """The node of a path, links on the way and at its end followed."""
        tree, hops = self._files.image, 0
        todo, done = [part for part in os.fsencode(path).split(b"/") if part], list[bytes]()
        attr = tree.attr(tree.root)
        while todo:
            name = todo.pop(0)
            if name == b"..":
                if not done:
                    raise _outside(path)
                done = done[:-1]
                attr = tree.find(b"/".join(done))
                continue
            if name == b".":
                continue
            below = tree.find(b"/".join([*done, name])) if st.S_ISDIR(attr.mode) else None
            if below is None:
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
            if not st.S_ISLNK(below.mode):
                done.append(name)
                attr = below
                continue
            text, hops = tree.text(below), hops + 1
            if text.startswith(b"/") or hops > _LINKS:
                raise _outside(path)
            todo = [part for part in text.split(b"/") if part] + todo
        return attr

    def _info(self, path: str, attr: Attr) -> dict[str, Any]:
        kind, (seconds, nanos) = _KINDS.get(st.S_IFMT(attr.mode), "other"), divmod(attr.mtime_ns, 1_000_000_000)
        info = {
            "name": path, "size": attr.size if kind == "file" else 0, "type": kind, "mode": attr.mode,
            "uid": attr.uid, "gid": attr.gid, "nlink": attr.nlink, "mtime": seconds + 1e-9 * nanos, "ino": attr.ino,
            "islink": kind == "link",
        }  # fmt: skip
        if kind == "link":
            info["destination"] = os.fsdecode(self._files.image.text(attr))
            try:
                to = self._found(path)
            except (OSError, DlsError):
                return info
            if st.S_ISREG(to.mode):
                info |= {"type": "file", "size": to.size}
        return info

    def info(self, path: str, **words: Any) -> dict[str, Any]:
        """What a name is; of a link to a folder, the folder."""
        path = self._strip_protocol(path)
        with _as_files(path):
            above, _, name = path.rpartition("/")
            folder = self._found(above)
            if not name:
                return self._info("", folder)
            if not st.S_ISDIR(folder.mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
            record = self._files.image.lookup(folder.node, os.fsencode(name)) if name not in (".", "..") else b""
            attr = unpack(record) if record else self._found(path)
            if st.S_ISLNK(attr.mode) and st.S_ISDIR((to := self._followed(path, attr)).mode):
                attr = to
            return self._info(path, attr)

    def _followed(self, path: str, link: Attr) -> Attr:
        try:
            return self._found(path)
        except (OSError, DlsError):
            return link

    def ls(self, path: str, detail: bool = True, **words: Any) -> list[Any]:
        """The names in a folder, or the one file that a path is."""
        path = self._strip_protocol(path)
        with _as_files(path):
            attr = self._found(path)
            if not st.S_ISDIR(attr.mode):
                return [self._info(path, attr) if detail else path]
            prefix = path + "/" if path else ""
            rows = [(prefix + os.fsdecode(name), one) for name, one in self._files.image.rows(attr)]
            return [self._info(name, one) for name, one in rows] if detail else [name for name, _ in rows]

    def exists(self, path: str, **words: Any) -> bool:
        """Whether there is such a name; damage is an error, not an answer."""
        try:
            self.info(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def modified(self, path: str) -> datetime:
        """When it was last changed, before it was packed."""
        return datetime.fromtimestamp(self.info(path)["mtime"], UTC)

    # ------------------------------------------------------------------------------------------------ bytes

    def _file(self, path: str) -> Attr:
        attr = self._found(path)
        if st.S_ISDIR(attr.mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        if not st.S_ISREG(attr.mode):
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO), path)
        return attr

    def _open(self, path: str, mode: str = "rb", block_size: Any = None, **words: Any) -> io.BufferedReader:
        if mode != "rb":
            _refuse(path)
        with _as_files(path):
            return io.BufferedReader(_File(self._files.image, self._file(path), path), 128 << 10)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **words: Any) -> bytes:
        """The bytes of a file, or some of them; what is negative counts from its end."""
        path = self._strip_protocol(path)
        with _as_files(path):
            attr = self._file(path)
            first, stop, _ = slice(start, end).indices(attr.size)
            return self._files.image.read(attr, first, max(first, stop))

    # --------------------------------------------------------------------------------------- what it cannot

    def mkdir(self, path: str, create_parents: bool = True, **words: Any) -> None:
        """Refused."""
        _refuse(path)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Refused."""
        _refuse(path)

    def rmdir(self, path: str) -> None:
        """Refused."""
        _refuse(path)

    def _rm(self, path: str) -> None:
        _refuse(path)

    def rm(self, path: Any, recursive: bool = False, maxdepth: int | None = None) -> None:
        """Refused."""
        _refuse(str(path))

    def cp_file(self, path1: str, path2: str, **words: Any) -> None:
        """Refused."""
        _refuse(path2)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **words: Any) -> None:
        """Refused."""
        _refuse(path)


class _File(ImageFile):
    """A file whose errors are those of files."""

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer; how much came."""
        with _as_files(self.name):
            return super().readinto(buffer)


def _outside(path: str) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, "a link leads out of the image, or round in circles", path)


def _refuse(path: str) -> NoReturn:
    raise OSError(errno.EROFS, "an image cannot be written", path)


@contextmanager
def _as_files(path: str) -> Iterator[None]:
    """Errors of ours as those that users of files look for, with our words in them."""
    try:
        yield
    except DlsError as error:
        number = errno.EIO
        if isinstance(error, NotFound) or error.code == "bad-name":
            number = errno.ENOENT
        elif isinstance(error, Denied):
            number = errno.EACCES
        elif isinstance(error, Invalid):
            number = errno.EINVAL
        elif isinstance(error, Conflict) and error.code == "not-a-folder":
            number = errno.ENOTDIR
        raise OSError(number, error.message, path) from error
