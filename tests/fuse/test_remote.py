"""Images that lie behind HTTP and S3."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from components import trees
from components.nginx import HttpService, nginx
from components.s3_rclone import rclone_s3
from dls.fuse import mounting, source
from dls.fuse.cache import Cache
from dls.fuse.image import Image
from dls.fuse.pack import Options, pack
from dls.fuse.remote import PIECE, open_remote
from dls.logistics.credentials import S3Credentials
from dls.logistics.errors import Corrupt
from dls.logistics.store import Store
from dls.logistics.stores.http import HttpStore
from dls.logistics.stores.memory import MemoryStore
from dls.logistics.stores.s3 import S3Store
from dls.logistics.url import parse

HERE = Options(workers=0, attributes=source.user_attributes)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("remote") / "tree"
    trees.nasty(root)
    return root


@pytest.fixture(scope="module")
def packed(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("remote-image") / "i.sqfs"
    pack(str(tree), str(path), HERE)
    return path.read_bytes()


@pytest.fixture
def store(packed: bytes, request: pytest.FixtureRequest) -> Iterator[Store]:
    store = MemoryStore(request.node.name)
    store.write(b"i.sqfs", [packed])
    yield store
    MemoryStore.forget(request.node.name)


def again(store: Store) -> Store:
    """The same place by another object, to be closed by whoever gets it."""
    return MemoryStore(store.url.removeprefix("memory://").strip("/"))


def same(image: Image, tree: Path) -> None:
    """All files of the image are those of the tree."""
    top = os.fsencode(tree)
    for path, attr in image.walk():
        if attr.mode >> 12 == 8:
            with open(top + b"/" + path, "rb") as plain:
                assert image.read(attr) == plain.read()


@pytest.mark.spec("IMAGE-12")
def test_all_is_read_by_ranges_once(store: Store, tree: Path, packed: bytes, tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    with open_remote(again(store), b"i.sqfs", cache_folder=cache) as image:
        same(image, tree)
        first = image.source.requests  # type: ignore[attr-defined]
        assert first < len(packed) / PIECE
    with open_remote(again(store), b"i.sqfs", cache_folder=cache) as image:
        same(image, tree)
        assert image.source.requests == 1  # type: ignore[attr-defined]


@pytest.mark.spec("IMAGE-12", "IMAGE-9")
def test_a_damaged_cache_is_no_cache(store: Store, tree: Path, tmp_path: Path, rng: random.Random) -> None:
    cache = tmp_path / "cache"
    with open_remote(again(store), b"i.sqfs", cache_folder=str(cache)) as image:
        same(image, tree)
    for piece in list(cache.rglob("*")):
        if piece.is_file():
            data = bytearray(piece.read_bytes())
            how = rng.randrange(3)
            if how == 0 and data:
                data[rng.randrange(len(data))] ^= 1
            elif how == 1:
                del data[rng.randrange(len(data) + 1) :]
            piece.write_bytes(data)
    with open_remote(again(store), b"i.sqfs", cache_folder=str(cache)) as image:
        same(image, tree)


@pytest.mark.spec("IMAGE-12", "IMAGE-9")
def test_wrong_bytes_from_afar_are_told_and_mended(store: Store, tree: Path, packed: bytes, tmp_path: Path) -> None:
    with open_remote(again(store), b"i.sqfs", cache_folder=str(tmp_path / "cache")) as image:
        real = image.source.range  # type: ignore[attr-defined]
        image.source.range = lambda a, b: bytes(x ^ 1 for x in real(a, b))  # type: ignore[attr-defined]
        with pytest.raises(Corrupt):
            image.read(image.find(b"sizes/large"))
        image.source.range = real  # type: ignore[attr-defined]
        same(image, tree)


@pytest.mark.spec("IMAGE-12")
def test_the_cache_keeps_to_its_limit(tmp_path: Path) -> None:
    cache = Cache(str(tmp_path), "one", 1 << 20)
    for number in range(256):
        cache.put(str(number), bytes([number]) * 10_000)
    kept = sum(p.stat().st_size for p in tmp_path.rglob("*") if p.is_file())
    assert kept <= (1 << 20) + 65 * 10_004
    assert cache.get("255") == bytes([255]) * 10_000
    assert cache.get("0") is None
    full = Cache("/proc/no such place", "one", 1)
    full.put("1", b"x")
    assert full.get("1") is None


@pytest.fixture(scope="module")
def served(packed: bytes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpService]:
    with nginx(tmp_path_factory.mktemp("nginx")) as service:
        (service.root / "deep").mkdir()
        (service.root / "deep" / "i.sqfs").write_bytes(packed)
        yield service


@pytest.mark.service
@pytest.mark.spec("IMAGE-12", "MOUNT-7")
def test_mounted_from_http_by_many(served: HttpService, tree: Path, tmp_path: Path) -> None:
    def opener() -> Image:
        store = HttpStore(parse(f"{served.endpoint}/deep"))
        return open_remote(store, b"i.sqfs", cache_folder=str(tmp_path / "cache"))

    folders = [tmp_path / f"m{n}" for n in range(3)]
    keepers = []
    try:
        for folder in folders:
            folder.mkdir()
            keepers.append(
                mounting.in_background(
                    f"{served.endpoint}/deep/i.sqfs", opener, str(folder), mounting.MountOptions(), f"{folder}.log"
                )
            )
        wrong: list[str] = []
        looking = [
            threading.Thread(target=lambda f=folder: wrong.append(trees.differences(tree, f))) for folder in folders
        ]
        for one in looking:
            one.start()
        for one in looking:
            one.join()
        assert wrong == ["", "", ""]
    finally:
        for folder in folders[: len(keepers)]:
            mounting.unmount(str(folder), lazy=True)
        for keeper in keepers:
            os.waitpid(keeper, 0)


@pytest.mark.service
@pytest.mark.fault
@pytest.mark.timeout(120)
@pytest.mark.spec("MOUNT-7")
def test_a_server_that_stops_and_comes_back(served: HttpService, tree: Path, tmp_path: Path) -> None:
    def opener() -> Image:
        return open_remote(HttpStore(parse(f"{served.endpoint}/deep"), timeout_s=1.0), b"i.sqfs")

    folder = tmp_path / "m"
    folder.mkdir()
    keeper = mounting.in_background("remote", opener, str(folder), mounting.MountOptions(), f"{folder}.log")
    workers = [child.pid for child in served.children]
    every = [*workers, *(one.pid for pid in workers for one in psutil.Process(pid).children(recursive=True))]
    try:
        for pid in every:
            os.kill(pid, signal.SIGSTOP)
        began = time.monotonic()
        with pytest.raises(OSError, match="Input/output"):
            (folder / "sizes" / "large").read_bytes()
        assert time.monotonic() - began < 60
        for pid in every:
            os.kill(pid, signal.SIGCONT)
        assert (folder / "sizes" / "large").read_bytes() == (tree / "sizes" / "large").read_bytes()
    finally:
        for pid in every:
            os.kill(pid, signal.SIGCONT)
        mounting.unmount(str(folder), lazy=True)
        os.waitpid(keeper, 0)


@pytest.mark.service
@pytest.mark.spec("IMAGE-12")
def test_read_from_s3(packed: bytes, tree: Path, tmp_path: Path) -> None:
    with rclone_s3(tmp_path / "s3", fresh=False) as service:
        bucket = service.bucket("images")
        keys = S3Credentials(service.access_key, service.secret_key, region=service.region, endpoint=service.endpoint)
        with contextlib.closing(S3Store(parse(f"s3://{bucket}/some"), keys)) as store:
            store.write(b"i.sqfs", [packed])
        with open_remote(S3Store(parse(f"s3://{bucket}/some"), keys), b"i.sqfs") as image:
            same(image, tree)
