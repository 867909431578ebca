"""Stores in a folder of a POSIX file system."""

from __future__ import annotations

import errno
import os
import stat as st
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

from dls.logistics import digest as digests
from dls.logistics import ids, names
from dls.logistics.entry import FILE, FOLDER, LINK, NO_MODE, NO_TIME, Entry
from dls.logistics.errors import DlsError, Invalid
from dls.logistics.names import Names
from dls.logistics.store import Can, Done, Got, Item, Keeps, Space, Stamps, Stat, Want, closed, unsupported
from dls.logistics.stores.posix_batch import READ, bodies, given, stamps, taken
from dls.logistics.stores.posix_calls import rename_new, syncfs
from dls.logistics.stores.posix_errors import clash, linked, met, ours
from dls.logistics.stores.posix_fast import Answers, files
from dls.logistics.stores.posix_files import (
    check_regular,
    dress,
    entry_of,
    make_folder,
    make_link,
    remove_tree,
    same_file,
    same_link,
    stamp_of,
    write_all,
)
from dls.logistics.stores.posix_upload import PosixUpload
from dls.logistics.stores.posix_walk import walk
from dls.logistics.url import Url

T = TypeVar("T")
CHUNK = 1 << 20

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDERS_KEPT = 4096


class PosixStore:
    """The folder `root`, which need not exist yet.  Safe to use from several threads.

    With `staging` nobody else reads it: files are written at their names instead of beside them and renamed.
    """

    can = frozenset({Can.MOVE, Can.UPLOAD, Can.SYNC, Can.SPACE})
    keeps = Keeps(kinds=frozenset({FILE, LINK, FOLDER}), modes=True, mtimes=True, hardlinks=True)
    names = Names(part_bytes=255, key_bytes=4095 - 42)  # PATH_MAX, less the longest hidden name beside a short one

    def __init__(self, root: str | bytes | Path, *, staging: bool = False) -> None:
        self.root = os.path.abspath(os.fsencode(root)).rstrip(b"/")
        self.url = str(Url("file", "", self.root.lstrip(b"/")))
        self.room = len(self.root) + 1
        self._short = min(self.names.part_bytes, self.names.key_bytes - self.room)
        """Bytes of a key that is not too long, whatever its parts."""
        self._staging = staging
        self._closed = False
        self._folders: set[bytes] = set()
        self._lock = threading.Lock()

    def _path(self, key: bytes) -> bytes:
        if self._closed:
            raise closed(self.url)
        names.check(key)
        self.names.check(key, self.url, self.room)
        return self.root + b"/" + key

    def _alive(self) -> None:
        if self._closed:
            raise closed(self.url)

    def stat(self, key: bytes) -> Stat:
        """What a key is."""
        path = self._path(key)
        with met(self.url, key):
            info = os.lstat(path)
            return Stat(entry_of(key, path, info, self.url), stamp_of(info))

    def list(self, prefix: bytes = b"") -> Iterator[Entry]:
        """Entries below a textual prefix, sorted, lazily."""
        self._alive()
        return map(itemgetter(0), walk(self.root, prefix, self.url))

    def list_stamped(self) -> Iterator[tuple[Entry, bytes]]:
        """All entries with their stamps."""
        self._alive()
        return walk(self.root, b"", self.url)

    def read(self, key: bytes, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Bytes of a file, in chunks of at most 1 MiB."""
        path = self._path(key)
        with met(self.url, key):
            fd = os.open(path, READ)
            try:
                check_regular(os.fstat(fd), self.url, key)
            except BaseException:
                os.close(fd)
                raise
        return self._chunks(fd, key, start, stop)

    def _chunks(self, fd: int, key: bytes, start: int, stop: int | None) -> Iterator[bytes]:
        try:
            while stop is None or start < stop:
                want = CHUNK if stop is None else min(CHUNK, stop - start)
                with met(self.url, key):
                    data = os.pread(fd, want, start)
                if not data:
                    return
                start += len(data)
                yield data
        finally:
            os.close(fd)

    def write(self, key: bytes, chunks: Iterable[bytes], *, mode: int = NO_MODE, mtime_ns: int = NO_TIME) -> bytes:
        """Write a whole file beside its name and rename it there."""
        path = self._path(key)
        with met(self.url, key):
            self._folder_of(path)
            beside = self._beside(path)
            fd = self._create(beside, mode)
            try:
                try:
                    for chunk in chunks:
                        write_all(fd, chunk)
                    dress(fd, mode, mtime_ns)
                finally:
                    os.close(fd)
                self._over(beside, path)
            except BaseException:
                with suppress(OSError):
                    os.unlink(beside)
                raise
            return stamp_of(os.lstat(path))

    def delete(self, key: bytes) -> None:
        """Remove a file, a link or an empty folder."""
        path = self._path(key)
        with met(self.url, key):
            try:
                os.unlink(path)
            except (FileNotFoundError, NotADirectoryError):
                return
            except (IsADirectoryError, PermissionError):
                if not st.S_ISDIR(os.lstat(path).st_mode):
                    raise
                os.rmdir(path)
                self._forget()

    def stamps(self, keys: Sequence[bytes]) -> Stamps:
        """The stamps of many keys, b'' where absent."""
        self._alive()
        return stamps(self.root, self.url, keys)

    def fetch(self, wants: Sequence[Want]) -> Iterator[Got]:
        """Bodies of small files, in the order asked."""
        self._alive()
        return bodies(self.root, self.url, wants)

    def put(self, items: Iterable[Item]) -> Iterator[Done]:
        """Write small files one after the other, as they come."""
        self._alive()
        return map(self._put_one, items)

    def _put_one(self, item: Item) -> Done:
        i, key, body, mode, mtime_ns = item
        try:
            if len(key) <= self._short and not self._closed:
                path = self.root + b"/" + names.check(key)
            else:
                path = self._path(key)
            if not self._staging:
                return Done(i, self.write(key, (bytes(body),), mode=mode, mtime_ns=mtime_ns))
            cut = path.rfind(b"/")
            if path[:cut] not in self._folders:
                self._folder_of(path)
            fd = self._create(path, mode)
            try:
                if os.write(fd, body) != len(body):
                    os.lseek(fd, 0, os.SEEK_SET)
                    write_all(fd, body)
                dress(fd, mode, mtime_ns)
                return Done(i, stamp_of(os.fstat(fd)))
            finally:
                os.close(fd)
        except OSError as exc:
            return Done(i, b"", ours(exc, self.url, key))
        except DlsError as exc:
            return Done(i, b"", exc)

    def batches(self) -> bool:
        """Whether compiled code does many small files at once."""
        return files() is not None

    def take(self, keys: Sequence[bytes], sizes: Sequence[int]) -> Answers:
        """Bodies of many small files at once; None for each that is not plain."""
        return [None] * len(keys) if self._closed else taken(self.root, keys, sizes)

    def give(
        self, keys: Sequence[bytes], bodies: Sequence[bytes], modes: Sequence[int], mtimes: Sequence[int]
    ) -> Answers:
        """Write many small files at once, where nobody reads yet; None for each that is not plain."""
        plain = self._staging and not self._closed and max(map(len, keys), default=0) <= self._short
        return given(self.root, self._folder_of, keys, bodies, modes, mtimes) if plain else [None] * len(keys)

    def make(self, entries: Sequence[Entry]) -> None:
        """Create links, folders and further names of hard-linked files."""
        for entry in entries:
            path = self._path(entry.path)
            with met(self.url, entry.path):
                self._in_folder(path, partial(self._make_one, path, entry))

    def _make_one(self, path: bytes, entry: Entry) -> None:
        if entry.kind == FOLDER:
            make_folder(path, entry)
        elif entry.kind == LINK:
            if not same_link(path, entry):
                self._place(path, partial(make_link, entry))
        elif entry.target:
            first = self._path(entry.target)
            if not same_file(first, path):
                self._place(path, partial(os.link, first, follow_symlinks=False))
        else:
            raise Invalid(f"{names.show(entry.path)} is a file, not something to make", code="not-made")

    def _place(self, path: bytes, create: Callable[[bytes], None]) -> None:
        """Create something beside its name and rename it there.  The name beside is derived from the name: what a
        killed run left there is replaced, not left over for ever."""
        cut = path.rfind(b"/") + 1
        beside = path[:cut] + names.HIDDEN + b"made-" + digests.of(path[cut:]).hex()[:32].encode()
        try:
            create(beside)
        except FileExistsError:
            os.unlink(beside)
            create(beside)
        try:
            self._over(beside, path)
        except BaseException:
            os.unlink(beside)
            raise

    def below(self, prefix: bytes, *, staging: bool = False) -> PosixStore:
        """The store of a folder further down."""
        self._alive()
        if any(part in (b"", b".", b"..") for part in prefix.split(b"/")) or b"\0" in prefix:
            raise Invalid(f"illegal name: {names.show(prefix)}", code="bad-name", key=names.show(prefix))
        self.names.check(prefix, self.url, self.room)
        return PosixStore(self.root + b"/" + prefix, staging=staging)

    def apart(self) -> tuple[str, dict[str, Any]]:
        """How another process opens the same folder."""
        return self.url, {"staging": self._staging}

    def exists(self) -> bool:
        """Whether the root is there."""
        self._alive()
        with met(self.url):
            try:
                os.lstat(self.root or b"/")
            except (FileNotFoundError, NotADirectoryError):
                return False
            return True

    def wipe(self) -> None:
        """Remove the root and everything in it."""
        self._alive()
        self._forget()
        with met(self.url):
            remove_tree(self.root)

    def move(self, pairs: Sequence[tuple[bytes, bytes]], *, over: bool = False) -> None:
        """Rename files and folders."""
        for first, second in pairs:
            old, new = self._hidden_path(first), self._hidden_path(second)
            with met(self.url, first):
                is_folder = st.S_ISDIR(os.lstat(old).st_mode)
            with met(self.url, second):
                self._in_folder(new, partial(self._over if over else self._beyond, old, new))
            if is_folder:
                self._forget()

    def _beyond(self, old: bytes, new: bytes) -> None:
        """Rename to a name that is free, or that of an empty folder."""
        try:
            rename_new(old, new)
        except FileExistsError:
            if not st.S_ISDIR(os.lstat(new).st_mode):
                raise
            try:
                self._over(old, new)
            except OSError as exc:
                if exc.errno != errno.ENOTEMPTY:
                    raise
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from exc

    def _hidden_path(self, key: bytes) -> bytes:
        """As `_path`, for our own hidden names too."""
        self._alive()
        if any(part in (b"", b".", b"..") for part in key.split(b"/")) or b"\0" in key:
            raise Invalid(f"illegal name: {names.show(key)}", code="bad-name", key=names.show(key))
        return self.root + b"/" + key

    def upload(
        self, key: bytes, size: int, *, token: str = "", mode: int = NO_MODE, mtime_ns: int = NO_TIME
    ) -> PosixUpload:
        """Write one large file by parts."""
        path = self._path(key)
        with met(self.url, key):
            beside = path if self._staging else PosixUpload.beside(path)
            return self._in_folder(path, partial(PosixUpload, path, beside, size, mode, mtime_ns, self.url, key))

    def sums(self, key: bytes) -> dict[str, str]:
        """A file system keeps no checksums."""
        raise unsupported(self.url, "give checksums without reading")

    def sync(self) -> None:
        """Flush the file system that holds the root."""
        self._alive()
        with met(self.url):
            syncfs(self._standing())

    def space(self) -> Space:
        """Room left for this user on the file system that holds the root."""
        self._alive()
        with met(self.url):
            info = os.statvfs(self._standing())
        return Space(info.f_bavail * info.f_frsize, info.f_favail if info.f_files else -1, info.f_frsize)

    def _standing(self) -> bytes:
        """The root, or the nearest folder above it that is there."""
        path = self.root
        while path:
            try:
                os.lstat(path)
            except (FileNotFoundError, NotADirectoryError):
                path = path[: path.rfind(b"/")]
            else:
                break
        return path or b"/"

    def recall(self, keys: Sequence[bytes]) -> None:
        """A folder is always online."""
        raise unsupported(self.url, "recall")

    def close(self) -> None:
        """Nothing is held open."""
        self._closed = True

    def _folder_of(self, path: bytes) -> None:
        """Make the folders above a path; those made or seen lately are remembered.

        Below the root a link is no folder: what is written to a/b stays in this tree even where somebody made `a` a
        link.  (One who swaps a folder for a link while we write is not kept out: that needs openat for each part.)
        """
        folder = path[: path.rfind(b"/")]
        if folder in self._folders:
            return
        try:
            self._make_folders(path, folder)
        except FileNotFoundError:  # one that is remembered was removed
            self._forget()
            self._make_folders(path, folder)

    def _make_folders(self, path: bytes, folder: bytes) -> None:
        todo = []
        while folder not in self._folders and len(folder) > len(self.root):
            todo.append(folder)
            folder = folder[: folder.rfind(b"/")]
        try:
            if folder not in self._folders:
                os.makedirs(folder or b"/", exist_ok=True)
                todo.append(folder)
            for one in reversed(todo):
                self._stand(one)
        except (FileExistsError, NotADirectoryError) as exc:
            raise clash(self.url, path[len(self.root) + 1 :]) from exc

    def _stand(self, folder: bytes) -> None:
        """See to it that a folder is there, and is no link."""
        if len(folder) > len(self.root):
            try:
                os.mkdir(folder)
            except FileExistsError:
                kind = os.lstat(folder).st_mode
                if st.S_ISLNK(kind):
                    raise linked(self.url, folder[len(self.root) + 1 :]) from None
                if not st.S_ISDIR(kind):
                    raise
        with self._lock:
            if len(self._folders) >= _FOLDERS_KEPT:
                self._folders.clear()
            self._folders.add(folder)

    def _in_folder(self, path: bytes, act: Callable[[], T]) -> T:
        """Do something in the folder of a path; once more where somebody removed that folder since we made it."""
        self._folder_of(path)
        try:
            return act()
        except FileNotFoundError:
            self._forget()
            self._folder_of(path)
            return act()

    def _forget(self) -> None:
        with self._lock:
            self._folders.clear()

    def _beside(self, path: bytes) -> bytes:
        hidden = path[: path.rfind(b"/") + 1] + names.HIDDEN + b"new-"
        return path if self._staging else hidden + ids.ulid().encode()

    def _create(self, path: bytes, mode: int) -> int:
        """A new file, replacing a leftover of the same name; bits that the umask hides are set by `_dress`."""
        want = 0o666 if mode == NO_MODE else mode & 0o777 | 0o200
        for _ in range(2):
            try:
                return os.open(path, _NEW, want)
            except FileExistsError:
                if not self._staging:
                    raise
                os.unlink(path)
            except FileNotFoundError:
                self._forget()
                self._folder_of(path)
        return os.open(path, _NEW, want)

    def _over(self, old: bytes, new: bytes) -> None:
        if old == new:
            return
        try:
            os.rename(old, new)
        except IsADirectoryError:
            os.rmdir(new)  # a folder that is not empty is not ours to replace: ENOTEMPTY
            self._forget()
            os.rename(old, new)
        except NotADirectoryError as exc:  # a folder replaces folders only
            raise clash(self.url, new[len(self.root) + 1 :]) from exc
