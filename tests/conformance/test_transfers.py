"""Every ordered pair of stores against the suite of transfers."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Callable, Iterator

import pytest

from components.s3 import S3Service
from components.s3_rclone import rclone_s3
from dls.logistics.credentials import S3Credentials
from dls.logistics.store import Store
from dls.logistics.stores.memory import MemoryStore
from dls.logistics.stores.posix import PosixStore
from dls.logistics.stores.s3 import S3Store
from dls.logistics.testing.contract_transfer import TransferContract
from dls.logistics.url import parse

_numbers = itertools.count()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Service]:
    with rclone_s3(tmp_path_factory.mktemp("transfers-s3"), fresh=False) as s3:
        s3.bucket("transfers")
        yield s3


@pytest.fixture
def memory() -> Iterator[Callable[[], Store]]:
    names: list[str] = []

    def make() -> Store:
        names.append(f"transfers-{next(_numbers)}")
        return MemoryStore(names[-1])

    yield make
    for name in names:
        MemoryStore.forget(name)


@pytest.fixture
def posix(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Store]]:
    # A sync flushes the whole file system of this machine: power cuts are tested on a disk of their own.
    monkeypatch.setattr("dls.logistics.stores.posix.syncfs", lambda path: None)
    fast = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=fast, prefix="dls-transfers-") as folder:
        yield lambda: PosixStore(f"{folder}/{next(_numbers)}")


@pytest.fixture
def s3(service: S3Service) -> Iterator[Callable[[], Store]]:
    keys = S3Credentials(service.access_key, service.secret_key, region=service.region, endpoint=service.endpoint)
    made: list[Store] = []

    def make() -> Store:
        made.append(S3Store(parse(f"s3://transfers/{next(_numbers)}"), keys, part_bytes=255, timeout_s=10))
        return made[-1]

    yield make
    for store in made:
        store.close()


class _ToS3:
    """rclone 1.75 sometimes keeps the temporary name of an object that was put beside others into a new folder, and
    then cannot give it until it looks at the folder again."""

    @pytest.fixture
    def look_again(self, service: S3Service) -> Callable[[], bool]:
        return service.look_again


class TestMemoryToMemory(TransferContract):
    again = 5

    @pytest.fixture
    def source(self, memory: Callable[[], Store]) -> Store:
        return memory()

    @pytest.fixture
    def target(self, memory: Callable[[], Store]) -> Store:
        return memory()


class TestMemoryToPosix(TransferContract):
    stride = 3

    @pytest.fixture
    def source(self, memory: Callable[[], Store]) -> Store:
        return memory()

    @pytest.fixture
    def target(self, posix: Callable[[], Store]) -> Store:
        return posix()


@pytest.mark.service
class TestMemoryToS3(_ToS3, TransferContract):
    again = 5
    concurrency = 16
    stride = 11

    @pytest.fixture
    def source(self, memory: Callable[[], Store]) -> Store:
        return memory()

    @pytest.fixture
    def target(self, s3: Callable[[], Store]) -> Store:
        return s3()


class TestPosixToMemory(TransferContract):
    stride = 3
    again = 5

    @pytest.fixture
    def source(self, posix: Callable[[], Store]) -> Store:
        return posix()

    @pytest.fixture
    def target(self, memory: Callable[[], Store]) -> Store:
        return memory()


class TestPosixToPosix(TransferContract):
    @pytest.fixture
    def source(self, posix: Callable[[], Store]) -> Store:
        return posix()

    @pytest.fixture
    def target(self, posix: Callable[[], Store]) -> Store:
        return posix()


@pytest.mark.service
class TestPosixToS3(_ToS3, TransferContract):
    again = 5
    concurrency = 16
    stride = 11

    @pytest.fixture
    def source(self, posix: Callable[[], Store]) -> Store:
        return posix()

    @pytest.fixture
    def target(self, s3: Callable[[], Store]) -> Store:
        return s3()


@pytest.mark.service
class TestS3ToMemory(TransferContract):
    again = 5
    concurrency = 16
    stride = 11

    @pytest.fixture
    def source(self, s3: Callable[[], Store]) -> Store:
        return s3()

    @pytest.fixture
    def target(self, memory: Callable[[], Store]) -> Store:
        return memory()


@pytest.mark.service
class TestS3ToPosix(TransferContract):
    concurrency = 16
    stride = 11

    @pytest.fixture
    def source(self, s3: Callable[[], Store]) -> Store:
        return s3()

    @pytest.fixture
    def target(self, posix: Callable[[], Store]) -> Store:
        return posix()


@pytest.mark.service
class TestS3ToS3(_ToS3, TransferContract):
    again = 5
    concurrency = 16
    stride = 11

    @pytest.fixture
    def source(self, s3: Callable[[], Store]) -> Store:
        return s3()

    @pytest.fixture
    def target(self, s3: Callable[[], Store]) -> Store:
        return s3()
