"""Every store that we ship, against every rule of specs/store.md."""

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from unittest import mock

import pytest
from tests.components.s3 import S3Service, http_answers
from tests.components.s3_moto import moto_s3
from tests.components.s3_rclone import rclone_s3

from dls.logistics.entry import FILE, FOLDER, LINK
from dls.logistics.names import Names
from dls.logistics.store import Can, Keeps, Store
from dls.logistics.testing.contract import StoreContract
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
        from dls.logistics.stores.posix import PosixStore

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

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _service(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        with rclone_s3(tmp_path_factory.mktemp("s3")) as cls.service:
            cls.secrets = (cls.service.secret_key,)
            yield

    @deviation("STORE-9", "measured with boto3 alone: rclone 1.75 removes the object e when e/below is deleted")
    def test_delete_below_a_file(self, store: Store) -> None: ...

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
