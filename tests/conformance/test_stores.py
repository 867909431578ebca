"""Every store that we ship, against every rule of specs/store.md."""

import errno
import os
import stat
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from unittest import mock

import pytest
from tests.components.s3 import S3Service, http_answers
from tests.components.s3_moto import moto_s3
from tests.components.s3_rclone import rclone_s3

from dls.logistics import names
from dls.logistics.digest import BLOCK
from dls.logistics.entry import FILE, FOLDER, LINK, NO_TIME, Entry
from dls.logistics.errors import Conflict, Denied, DlsError, Invalid, Unavailable, Unsupported
from dls.logistics.names import Names
from dls.logistics.registry import open_store
from dls.logistics.store import Apart, Can, Item, Keeps, Store, Want
from dls.logistics.stores.posix import PosixStore
from dls.logistics.stores.posix_calls import umask
from dls.logistics.stores.posix_files import _entered, remove_tree
from dls.logistics.stores.posix_upload import PosixUpload
from dls.logistics.testing.contract import StoreContract
from dls.logistics.testing.contract_hooks import Boom, failing, files, get, put_all, write_parts
from dls.logistics.testing.faults import Recording
from dls.logistics.testing.planted import MemoryContract, PlainStore
from dls.logistics.testing.spec import deviation

ALL = Keeps(frozenset({FILE, LINK, FOLDER}), modes=True, mtimes=True, hardlinks=True)


class TestMemory(MemoryContract):
    """The reference."""


class TestPlainMemory(MemoryContract):
    """A store that can and keeps as little as is allowed."""

    store_class = PlainStore
    can = PlainStore.can
    keeps = PlainStore.keeps
    names = PlainStore.names


class TestMemoryBelow(MemoryContract):
    """A part of a store is a store like others, also where other things lie beside it."""

    @contextmanager
    def make(self, place: Path) -> Iterator[Store]:
        with super().make(place) as whole:
            whole.write(b"part-", [b"beside"])
            with closing(whole.below(b"part")) as store:
                yield store

    raw = False


class TestRecording(MemoryContract):
    """A store around a store changes nothing."""

    @contextmanager
    def make(self, place: Path) -> Iterator[Store]:
        with super().make(place) as inner:
            yield Recording(inner)


# fmt: off
FILE_CALLS = [
    "open", "stat", "lstat", "scandir", "listdir", "mkdir", "makedirs", "rename", "replace", "unlink", "remove",
    "rmdir", "link", "symlink", "readlink", "chmod", "utime", "statvfs", "truncate",
]
# fmt: on


class TestPosix(StoreContract):
    """A folder."""

    can = frozenset({Can.MOVE, Can.UPLOAD, Can.SYNC, Can.SPACE})
    keeps = ALL
    names = Names(part_bytes=255, key_bytes=4053)
    raw = True

    @contextmanager
    def make(self, place: Path) -> Iterator[Store]:
        with closing(PosixStore(place / "root")) as store:
            yield store

    def _path(self, key: bytes) -> bytes:
        return os.fsencode(self.place / "root") + b"/" + key

    def raw_put(self, key: bytes, data: bytes) -> None:
        before = os.stat(self._path(key))
        with open(self._path(key), "r+b") as file:
            file.write(data)
        os.utime(self._path(key), ns=(before.st_atime_ns, before.st_mtime_ns))

    def raw_get(self, key: bytes) -> bytes:
        with open(self._path(key), "rb") as file:
            return file.read()

    def raw_keys(self) -> list[bytes]:
        top = os.fsencode(self.place / "root")
        return sorted(
            os.path.relpath(os.path.join(folder, name), top) for folder, _, found in os.walk(top) for name in found
        )

    @contextmanager
    def break_it(self) -> Iterator[None]:
        """Every call to the file system fails, as on a dead disk."""

        def dead(*_: object, **__: object) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        with ExitStack() as patches:
            for name in FILE_CALLS:
                patches.enter_context(mock.patch.object(os, name, dead))
            yield

    # What only a file system has.

    def test_space_is_that_of_the_file_system(self, store: Store) -> None:
        space, info = store.below(b"not/there").space(), os.statvfs(self.place)
        assert space.block == info.f_frsize
        assert abs(space.bytes - info.f_bavail * info.f_frsize) < 1 << 30
        assert (space.inodes >= 0) == (info.f_files > 0)
        with closing(PosixStore("/")) as top:
            assert top.space().block == os.statvfs("/").f_frsize

    def test_room_is_what_the_root_takes(self, store: Store) -> None:
        root = os.fsencode(self.place / "root")
        assert store.room == len(root) + 1
        assert store.below(b"a/b").room == len(root) + 1 + 4
        assert PosixStore(os.fsdecode(root) + "/").url == store.url

    def test_permissions_of_a_file_are_told(self, store: Store) -> None:
        store.write(b"d/a", [b"x"])
        planted = PermissionError(errno.EACCES, "planted")
        with mock.patch.object(os, "unlink", side_effect=planted), pytest.raises(Denied):
            store.delete(b"d/a")
        assert files(store) == [b"d/a"]

    def test_a_root_that_is_a_file_is_wiped(self, store: Store) -> None:
        store.write(b"d/a", [b"x"])
        store.below(b"d/a").wipe()
        assert files(store) == []

    @pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
    def test_locked_folders_are_opened_to_be_removed(self) -> None:
        """By a user who is not root, who needs no rights; what links point to is left alone."""
        with tempfile.TemporaryDirectory(dir="/var/tmp") as top:  # others may go through
            outside, inside = Path(top) / "outside", Path(top) / "tree/a/b"
            for folder in (outside, inside):
                folder.mkdir(parents=True)
            (outside / "kept").touch()
            (inside / "link").symlink_to(outside)
            for folder, mode in ((Path(top), 0o700), (outside, 0o500), (inside, 0), (inside.parent, 0o500)):
                folder.chmod(mode)
            for folder in (Path(top), outside, inside, inside.parent, inside.parent.parent):
                os.chown(folder, 65534, 65534)
            os.seteuid(65534)
            try:
                remove_tree(os.fsencode(Path(top) / "tree"))
            finally:
                os.seteuid(0)
            assert os.listdir(top) == ["outside"]
            assert outside.stat().st_mode & 0o777 == 0o500
            assert os.listdir(outside) == ["kept"]

    def test_a_tree_of_any_depth_is_removed(self, tmp_path: Path) -> None:
        """Deeper than a path may be, and than calls may be inside one another."""
        os.mkdir(tmp_path / "tree")
        at = os.open(tmp_path / "tree", os.O_RDONLY)
        for _ in range(3000):
            os.mkdir("folder", dir_fd=at)
            below = os.open("folder", os.O_RDONLY, dir_fd=at)
            os.close(at)
            at = below
        os.close(os.open("leaf", os.O_CREAT | os.O_WRONLY, dir_fd=at))
        os.close(at)
        remove_tree(os.fsencode(tmp_path / "tree"))
        assert os.listdir(tmp_path) == []

    def test_removing_a_tree_leaves_no_descriptor(self, tmp_path: Path) -> None:
        (tmp_path / "t/a/b/c").mkdir(parents=True)
        (tmp_path / "t/d").mkdir()
        before = len(os.listdir("/proc/self/fd"))
        remove_tree(os.fsencode(tmp_path / "t"))
        assert len(os.listdir("/proc/self/fd")) == before

    def test_removing_enters_folders_only(self, tmp_path: Path) -> None:
        """What was a folder when it was listed may be a link or a file when it is entered."""
        (tmp_path / "folder").mkdir()
        (tmp_path / "link").symlink_to("folder")
        (tmp_path / "file").write_bytes(b"")
        os.close(_entered(os.fsencode(tmp_path / "folder")))
        for name in ("link", "file"):
            with pytest.raises(NotADirectoryError):
                _entered(os.fsencode(tmp_path / name))

    def test_a_folder_that_is_moved_while_it_is_removed_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "t/a/b").mkdir(parents=True)
        (tmp_path / "other/b").mkdir(parents=True)
        real = os.open

        def moved(path: bytes, flags: int, *more: int, dir_fd: int | None = None) -> int:
            if path == b"..":
                return real(tmp_path / "other", flags)
            return real(path, flags, *more, dir_fd=dir_fd)

        with mock.patch.object(os, "open", moved), pytest.raises(OSError, match="moved"):
            remove_tree(os.fsencode(tmp_path / "t"))
        assert (tmp_path / "other/b").is_dir()

    def test_what_is_made_gets_what_was_asked_for_and_no_more(self, store: Store) -> None:
        began = time.time_ns()
        store.make([Entry(b"d/link", LINK, target=b"x"), Entry(b"d", FOLDER)])
        assert store.stat(b"d").entry.mode == 0o777 & ~umask()
        assert abs(store.stat(b"d/link").entry.mtime_ns - began) < 60 * 10**9

    @pytest.mark.parametrize("mtime", [NO_TIME, 5 * 10**9])
    def test_a_link_that_is_right_is_left_alone(self, store: Store, mtime: int) -> None:
        """Its folder may be closed for writing by now; root would not notice, so the link itself is looked at."""
        link = Entry(b"d/link", LINK, mtime_ns=mtime, target=b"x")
        store.make([link])
        before = os.lstat(self._path(b"d/link"))
        store.make([link])
        assert os.lstat(self._path(b"d/link")).st_ino == before.st_ino
        store.make([link._replace(mtime_ns=9 * 10**9)])
        assert store.stat(b"d/link").entry.mtime_ns == 9 * 10**9
        store.make([link._replace(target=b"y")])
        assert store.stat(b"d/link").entry.target == b"y"

    def test_the_stamp_of_a_folder_does_not_tell_what_is_in_it(self, store: Store) -> None:
        store.make([Entry(b"d", FOLDER, mode=0o755)])
        (before,) = store.stamps([b"d"])
        store.write(b"d/a", [b"x"])
        assert store.stamps([b"d"]) == [before]
        assert len(before) == 32
        store.make([Entry(b"d", FOLDER, mode=0o700)])
        assert store.stamps([b"d"]) != [before]

    def test_a_root_that_is_a_link_is_the_callers(self, store: Store, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to("real")
        with closing(PosixStore(tmp_path / "link")) as other:
            other.write(b"d/a", [b"x"])
            other.write(b"b", [b"y"])
            assert files(other) == [b"b", b"d/a"]
        assert (tmp_path / "real/d/a").read_bytes() == b"x"

    def test_what_is_too_long_or_closed_is_refused_at_once(self, store: Store) -> None:
        with pytest.raises(DlsError):
            store.below(b"x" * 256)
        store.close()
        with pytest.raises(Invalid) as told:
            store.put([])
        assert told.value.code == "closed"

    def test_nothing_is_written_through_a_link_in_the_tree(self, store: Store, tmp_path: Path) -> None:
        store.make([Entry(b"d", LINK, target=os.fsencode(tmp_path))])
        with pytest.raises(Conflict) as told:
            store.write(b"d/a", [b"x"])
        assert told.value.code == "linked-folder"
        (done,) = store.put([Item(0, b"d/a", b"x")])
        assert done.error is not None
        assert not (tmp_path / "a").exists()

    @pytest.mark.parametrize("staging", [False, True])
    def test_folders_that_were_removed_are_made_again(self, store: Store, staging: bool) -> None:
        """By whoever, at any height above what is written, however it is written."""
        part = store.below(b"top", staging=staging)

        def put(key: bytes) -> None:
            assert [done.error for done in part.put([Item(0, key, b"x")])] == [None]

        acts = {
            b"d/e/f": lambda key: part.write(key, [b"x"]),
            b"d/e/g": put,
            b"d/e/h": lambda key: part.upload(key, 1).abort() or part.write(key, [b"x"]),
            b"d/e/i": lambda key: part.make([Entry(key, LINK, target=b"x")]),
        }
        for key, act in acts.items():
            for gone in (b"top", b"top/d", b"top/d/e"):
                part.write(b"first", [b"x"])
                part.write(b"d/first", [b"x"])
                store.below(gone).wipe()
                act(key)
                assert part.stamps([key]) != [b""]

    def test_what_is_in_the_way_is_named(self, store: Store, tmp_path: Path) -> None:
        store.write(b"d/file", [b"x"])
        os.symlink(tmp_path, self._path(b"d/link"))
        for key, code, named in ((b"d/file/x", "name-clash", "d/file/x"), (b"d/link/x", "linked-folder", "d/link")):
            with pytest.raises(Conflict) as told:
                store.write(key, [b"x"])
            assert (told.value.code, told.value.facts["key"]) == (code, named)
            assert f"/{named}" in str(told.value)

    def test_a_hard_link_to_a_link_is_one_to_the_link_itself(self, store: Store) -> None:
        store.write(b"file", [b"x"])
        os.symlink("file", self._path(b"link"))
        store.make([Entry(b"name", FILE, target=b"link")])
        assert os.readlink(self._path(b"name")) == b"file"

    def test_another_process_opens_the_same(self, store: Store) -> None:
        store.write(b"k", [b"x"])
        part = store.below(b"d", staging=True)
        for one, staging in ((store, False), (part, True)):
            assert isinstance(one, Apart)
            url, options = one.apart()
            assert (url, options) == (one.url, {"staging": staging})
            assert open_store(url, {}, **options).url == one.url

    def test_what_a_killed_run_left_beside_a_link_is_replaced(self, store: Store) -> None:
        link = Entry(b"d/link", LINK, target=b"x")
        before: list[bytes] = []
        with mock.patch.object(os, "rename", side_effect=OSError(errno.EIO, "dead")):
            with pytest.raises(DlsError):
                store.make([link])
            before += os.listdir(self._path(b"d"))
        assert before == [], "taken away again"
        with mock.patch.object(os, "rename"):
            store.make([link])  # killed before its name was given
        (left,) = os.listdir(self._path(b"d"))
        assert left.startswith(names.HIDDEN)
        store.make([link])
        assert os.listdir(self._path(b"d")) == [b"link"]

    def test_a_tree_that_is_locked_is_opened_and_removed(self, store: Store) -> None:
        store.write(b"d/a", [b"x"])
        real, modes = os.open, list[int]()

        def once(path: bytes, *words: int, **where: int) -> int:
            if path == b"d":
                if not modes:
                    os.chmod(self._path(b"d"), 0o500)
                modes.append(os.stat(self._path(b"d")).st_mode & 0o777)
                if len(modes) == 1:
                    raise PermissionError(errno.EACCES, "planted")
            return real(path, *words, **where)

        with mock.patch.object(os, "open", once):
            store.wipe()
        assert modes == [0o500, 0o700]
        assert not store.exists()

    def test_a_file_is_nothing_to_make(self, store: Store) -> None:
        with pytest.raises(Invalid) as told:
            store.make([Entry(b"a", FILE)])
        assert told.value.code == "not-made"

    def test_a_full_disk_is_the_answer_of_each_item(self, store: Store) -> None:
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        for place in (store, store.below(b"s", staging=True)):
            with mock.patch.object(os, "write", side_effect=full):
                (done,) = place.put([Item(0, b"a", b"x")])
            assert done.error is not None
            assert done.error.code == "disk-full"

    def test_two_names_are_enough_for_a_hard_link(self, store: Store) -> None:
        store.write(b"a", [b"x"])
        store.make([Entry(b"b", FILE, target=b"a")])
        assert [(e.path, e.target) for e in store.list()] == [(b"a", b""), (b"b", b"a")]

    def test_a_folder_that_cannot_be_looked_at_is_told(self, store: Store) -> None:
        store.write(b"d/e/a", [b"x"])
        real = os.lstat

        def dead(path: bytes) -> os.stat_result:
            if path.endswith(b"/d/e"):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return real(path)

        with mock.patch.object(os, "lstat", dead), pytest.raises(DlsError) as told:
            list(store.list())
        assert told.value.facts["key"] == "d/e"

    def test_a_part_may_come_in_pieces(self, store: Store) -> None:
        size = 2 * BLOCK + 5
        upload = store.upload(b"d/a", size)
        assert isinstance(upload, PosixUpload)
        for number, at, data in ((2, 0, b"end"), (2, 3, b"!!"), (0, 0, b"begin"), (1, 7, b"seven")):
            upload.piece(number, at, data)
        for number, at in ((-1, 0), (2, 5), (3, 0)):
            with pytest.raises(Invalid) as told:
                upload.piece(number, at, b"x")
            assert told.value.code == "bad-part"
        upload.finish()
        data = b"".join(store.read(b"d/a"))
        assert (len(data), data.count(0)) == (size, size - 15)
        assert (data[:5], data[BLOCK + 7 :][:5], data[-5:]) == (b"begin", b"seven", b"end!!")

    def test_special_files_are_refused(self, store: Store) -> None:
        store.write(b"d/a", [b"x"])
        os.mkfifo(self._path(b"d/pipe"))
        with pytest.raises(Unsupported) as told:
            list(store.list())
        assert told.value.code == "special-file"
        for ask in (store.stat, store.read):
            with pytest.raises(Unsupported):
                ask(b"d/pipe")
        for size in (0, 1):
            (got,) = store.fetch([Want(0, b"d/pipe", size)])
            assert got.error is not None, "and nobody waits for a writer"
        store.write(b"empty", [])
        assert [g.error for g in store.fetch([Want(0, b"empty", 0)])] == [None]

    def test_a_listing_that_cannot_go_on_says_so(self, store: Store) -> None:
        store.write(b"d/a", [b"x"])
        for number, kind in ((errno.EIO, Unavailable), (errno.EACCES, Denied), (errno.ENOENT, Conflict)):
            with mock.patch.object(os, "scandir", side_effect=OSError(number, "planted")), pytest.raises(kind) as told:
                list(store.list())
            assert told.value.__cause__ is not None

    def test_parts_are_private_and_reserved(self, store: Store) -> None:
        """The bytes of an upload lie in one hidden file beside the key, as long as the whole, its blocks allocated."""
        size = 2 * BLOCK
        for _ in range(2):
            upload = store.upload(b"d/k", size, mode=0o644)
            (hidden,) = self.raw_keys()
            assert names.is_hidden(hidden)
            info = os.stat(self._path(hidden))
            assert (info.st_mode & 0o777, info.st_size) == (0o600, size)
            assert info.st_blocks * 512 >= size
            for number in (2, -1):
                with pytest.raises(Invalid):
                    upload.write(number, b"x")
            upload.write(0, b"x" * BLOCK)
            upload.close()
            for ask in (lambda u=upload: u.write(0, b"x"), lambda u=upload: u.back(0, ""), upload.finish):
                with pytest.raises(Invalid):
                    ask()
        upload = store.upload(b"d/k", size - 1)
        held = upload.back(0, "")
        assert held is False or b"".join(held) == bytes(BLOCK), "of an upload of another size nothing is kept"
        assert os.stat(self._path(hidden)).st_size == size - 1
        upload.write(0, b"x" * BLOCK)
        upload.close()
        upload = store.upload(b"d/k", size - 1)
        os.truncate(self._path(hidden), 10)
        held = upload.back(0, "")
        assert not isinstance(held, bool)
        assert b"".join(held) == b"x" * 10, "what somebody cut short ends"
        upload.abort()

    def test_what_was_never_written_is_not_read_back(self, store: Store) -> None:
        """A file that was given its room and a part or two holds no more than these: the rest is not hashed for
        nothing.  Where a file system cannot tell, all of it is read."""
        part, fifth = 64 << 10, os.urandom(64 << 10)
        with mock.patch.object(PosixUpload, "part", part):
            first = store.upload(b"f", 6 * part - 5)
            first.write(2, fifth)
            first.write(5, fifth[:-5])
            assert first.back(0, "") is False
            first.close()
            later = store.upload(b"f", 6 * part - 5)
            told = [later.back(number, "") for number in range(6)]
            assert [isinstance(one, bool) for one in told] == [True, True, False, True, True, False]
            assert not any(one for one in told if isinstance(one, bool))
            assert b"".join(told[2]) == fifth  # type: ignore[arg-type]
            assert b"".join(told[5]) == fifth[:-5]  # type: ignore[arg-type]
            with mock.patch.object(os, "lseek", side_effect=OSError(errno.EINVAL, "planted")):
                assert b"".join(later.back(0, "")) == bytes(part)  # type: ignore[arg-type]
            later.abort()

    def test_an_upload_that_finds_no_room_leaves_nothing(self, store: Store) -> None:
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with (
            mock.patch("dls.logistics.stores.posix_upload.allocate", side_effect=full),
            pytest.raises(Unavailable) as told,
        ):
            store.upload(b"d/k", BLOCK)
        assert told.value.code == "disk-full"
        assert self.raw_keys() == []

    def test_parts_that_were_given_their_mode_are_opened_again(self, store: Store) -> None:
        """A run killed between mode and name leaves parts that their owner may not write (root may, hence the mock)."""
        store.upload(b"k", 3, mode=0o444).close()
        (hidden,) = self.raw_keys()
        path, real = self._path(hidden), os.open

        def strict(what: bytes, flags: int, mode: int = 0o777) -> int:
            if what == path and not (stat.S_ISREG(os.lstat(path).st_mode) and os.lstat(path).st_mode & 0o200):
                raise PermissionError(errno.EACCES, "planted")
            return real(what, flags, mode)

        os.chmod(path, 0o444)
        with mock.patch.object(os, "open", strict):
            write_parts(store, b"k", b"123", mode=0o444)
            assert (get(store, b"k"), self.raw_keys()) == (b"123", [b"k"])
            os.symlink(self._path(b"k"), path)
            with pytest.raises(Denied):
                store.upload(b"k", 3)
        assert os.stat(self._path(b"k")).st_mode & 0o777 == 0o444, "what a link points to is not touched"

    def test_no_descriptor_is_left_open(self, store: Store) -> None:
        def count() -> int:
            return len(os.listdir("/proc/self/fd"))

        store.write(b"d/a", [b"x" * 100])
        before = count()
        for _ in range(3):
            store.write(b"d/b", [b"x"])
            with pytest.raises(Boom):
                store.write(b"d/b", failing(b"part"))
            get(store, b"d/a")
            half = store.read(b"d/a")
            next(half)
            half.close()
            for bad in (b"d", b"absent"):
                with pytest.raises(DlsError):
                    store.read(bad)
            put_all(store, {b"p": b"1"})
            put_all(store.below(b"s", staging=True), {b"p": b"1"})
            list(store.fetch([Want(0, b"d/a", 100), Want(1, b"d/a", 1), Want(2, b"d", 1)]))
            list(store.list())
            store.sync()
            for end in ("finish", "close", "abort"):
                upload = store.upload(b"u", 3)
                upload.write(0, b"123")
                getattr(upload, end)()
            full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            with mock.patch("dls.logistics.stores.posix_upload.allocate", side_effect=full), pytest.raises(Unavailable):
                store.upload(b"v", BLOCK)
        assert count() == before

    def test_the_root_may_be_a_link_and_parts_are_not_followed(self, store: Store) -> None:
        store.write(b"d/a", [b"x"])
        os.symlink(self._path(b"d"), self._path(b"l"))
        assert files(store) == files(store, b"d") == [b"d/a"]
        assert files(store, b"l/") == []
        link = os.fsencode(self.place / "alias")
        os.symlink(self._path(b"d"), link)
        assert files(PosixStore(link)) == [b"a"]

    def test_writing_again_in_staging_parts_hard_links(self, store: Store) -> None:
        staged = store.below(b".dls-s", staging=True)
        staged.write(b"a", [b"one"])
        staged.make([Entry(b"b", FILE, 3, target=b"a")])
        list(staged.put([Item(0, b"b", b"two")]))
        assert (get(staged, b"a"), get(staged, b"b")) == (b"one", b"two")
        with pytest.raises(Boom):
            staged.write(b"c", failing(b"part"))
        assert files(staged) == [b"a", b"b"]

    def test_what_is_written_short_is_written_on(self, store: Store) -> None:
        """write(2) may take less than it is given."""
        whole = os.write
        data = bytes(range(256)) * 40
        with mock.patch.object(os, "write", lambda fd, view: whole(fd, view[: max(1, len(view) // 3)])):
            put_all(store, {b"a": data})
            put_all(store.below(b"s", staging=True), {b"b": data})
        assert get(store, b"a") == get(store, b"s/b") == data
        part = os.pwrite
        with mock.patch.object(os, "pwrite", lambda fd, view, at: part(fd, view[: max(1, len(view) // 3)], at)):
            write_parts(store, b"u", data)
        assert get(store, b"u") == data
        half = os.read
        with mock.patch.object(os, "read", lambda fd, n: half(fd, min(n, 1))):
            (got,) = store.fetch([Want(0, b"a", len(data))])
        assert (got.error, bytes(got.body)) == (None, data)


class S3Contract(StoreContract):
    """A bucket of a real server on loopback."""

    can = frozenset({Can.UPLOAD, Can.SUMS})
    keeps = Keeps()
    raw = True
    examples = 8
    service: S3Service

    @contextmanager
    def make(self, place: Path) -> Iterator[Store]:
        from dls.logistics import credentials
        from dls.logistics.registry import open_store

        named = place / "bucket"  # the same folder, the same bucket
        if not named.exists():
            named.write_text(f"b-{uuid.uuid4().hex[:20]}")
            self.service.bucket(named.read_text())
        url = self.service.endpoint.replace("http://", "s3+http://", 1) + f"/{named.read_text()}/pre fix"
        found = credentials.s3(environ=self.service.env())
        with closing(open_store(url, credentials=found, part_bytes=self.names.part_bytes)) as store:
            yield store

    def _bucket(self) -> str:
        return (self.place / "bucket").read_text()

    def raw_put(self, key: bytes, data: bytes) -> None:
        self.service.client().put_object(Bucket=self._bucket(), Key=f"pre fix/{key.decode()}", Body=data)

    def raw_get(self, key: bytes) -> bytes:
        found = self.service.client().get_object(Bucket=self._bucket(), Key=f"pre fix/{key.decode()}")
        return found["Body"].read()

    def raw_keys(self) -> list[bytes]:
        client = self.service.client()
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket())
        found = [o["Key"].encode().removeprefix(b"pre fix/") for page in pages for o in page.get("Contents", [])]
        try:
            uploads = client.list_multipart_uploads(Bucket=self._bucket()).get("Uploads", [])
        except client.exceptions.NoSuchUpload:  # rclone's word for none
            uploads = []
        return sorted([*found, *(b"upload " + u["Key"].encode() for u in uploads)])

    @contextmanager
    def break_it(self) -> Iterator[None]:
        """The server is gone: nobody listens on its port."""
        (child,) = self.service.children
        child.stop()
        try:
            yield
        finally:
            child.start().wait_ready(lambda: http_answers(self.service.endpoint))


_CONTROL = bytes((*range(1, 32), 127))


@pytest.mark.service
class TestS3(S3Contract):
    """On rclone, which keeps objects as files."""

    names = Names(part_bytes=255, key_bytes=1024, utf8=True, forbidden=_CONTROL)
    gap = True

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _service(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        with rclone_s3(tmp_path_factory.mktemp("s3")) as cls.service:
            cls.secrets = (cls.service.secret_key,)
            yield

    @deviation("STORE-23", "rclone appends parts to a file as they come and takes none again")
    def test_a_part_is_written_again(self, store: Store) -> None: ...


@pytest.mark.service
@pytest.mark.slow
class TestS3Moto(S3Contract):
    """On moto, which keeps objects in memory and forgets them when it is stopped."""

    names = Names(key_bytes=1024, utf8=True, forbidden=_CONTROL)

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _service(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        with moto_s3(tmp_path_factory.mktemp("s3")) as cls.service:
            cls.secrets = (cls.service.secret_key,)
            yield

    def break_it(self) -> None:
        """A moto that was stopped would not serve its objects again; rclone is stopped instead."""
