"""Images that lie behind HTTP and S3."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from components import tree as tree_of
from components import trees
from components.exchange import http_kind
from components.loopdisk import loop_disk
from components.nginx import HttpService, nginx
from components.proxy import Proxy
from components.s3_rclone import rclone_s3
from dls.fuse import mounting, source
from dls.fuse.beside import open_beside
from dls.fuse.cache import Cache
from dls.fuse.image import Image, open_image
from dls.fuse.pack import Options, pack
from dls.fuse.remote import PIECE, RemoteFile, open_remote
from dls.logistics.credentials import S3Credentials
from dls.logistics.errors import Conflict, Corrupt
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


def eventually(path: Path, seconds: float = 20.0) -> bytes:
    """What a file holds, once it can be read."""
    until = time.monotonic() + seconds
    while True:
        try:
            return path.read_bytes()
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


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
        source = image.source
        assert isinstance(source, RemoteFile)
        real = source.parts
        source.parts = lambda a, b: (bytes(x ^ 1 for x in part) for part in real(a, b))  # type: ignore[method-assign]
        with pytest.raises(Corrupt):
            image.read(image.find(b"sizes/large"))
        source.parts = real  # type: ignore[method-assign]
        same(image, tree)


@pytest.mark.spec("IMAGE-12")
def test_the_cache_keeps_to_its_limit(tmp_path: Path) -> None:
    cache = Cache(str(tmp_path), "one", 1 << 20)
    for number in range(256):
        cache.put(str(number), bytes([number]) * 10_000)
    kept = sum(p.stat().st_size for p in tmp_path.rglob("*") if p.is_file())
    assert kept <= (1 << 20) + 65 * 10_004
    assert cache.get("255", 10_000) == bytes([255]) * 10_000
    assert cache.get("0", 10_000) is None
    full = Cache("/proc/no such place", "one", 1)
    full.put("1", b"x")
    assert full.get("1", 1) is None


# ------------------------------------------------------------------------------------------------------ requests


@pytest.fixture(scope="module")
def broad(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """A tree with a large file and many small ones, and its image: of the size of some hundred pieces."""
    root = tmp_path_factory.mktemp("broad") / "tree"
    root.mkdir()
    tree_of.small(root / "many", 2000, size=9000)
    tree_of.large(root / "large", 40 << 20)
    path = root.parent / "i.sqfs"
    pack(str(root), str(path), HERE)
    return root, path.read_bytes()


@pytest.fixture
def wide(broad: tuple[Path, bytes], request: pytest.FixtureRequest) -> Iterator[Store]:
    store = MemoryStore(request.node.name)
    store.write(b"i.sqfs", [broad[1]])
    yield store
    MemoryStore.forget(request.node.name)


def requests_of(image: Image) -> int:
    source = image.source
    assert isinstance(source, RemoteFile)
    settled = -1
    while source.requests != settled:  # what goes ahead
        settled = source.requests
        time.sleep(0.05)
    return settled


@pytest.mark.spec("IMAGE-12")
def test_a_large_file_in_order_comes_in_few_requests_ahead_of_the_reader(
    wide: Store, broad: tuple[Path, bytes]
) -> None:
    with open_remote(again(wide), b"i.sqfs") as image:
        attr, begun = image.find(b"large"), requests_of(image)
        want, waited = (broad[0] / "large").read_bytes(), 0
        source = image.source
        assert isinstance(source, RemoteFile)
        for at in range(0, attr.size, 128 << 10):
            time.sleep(0.0005)
            before = source.waited
            assert image.read(attr, at, at + (128 << 10)) == want[at : at + (128 << 10)]
            waited += source.waited > before
        pieces = attr.size / PIECE
        assert requests_of(image) - begun < pieces / 5
        assert waited < pieces / 3


@pytest.mark.spec("IMAGE-12")
def test_files_in_order_of_names_come_in_few_requests(wide: Store, broad: tuple[Path, bytes]) -> None:
    with open_remote(again(wide), b"i.sqfs") as image:
        begun, size = requests_of(image), 0
        for path, attr in image.walk(b"many"):
            if attr.mode >> 12 == 8:
                assert image.read(attr) == (broad[0] / os.fsdecode(path)).read_bytes()
                size += attr.size
        assert requests_of(image) - begun < size / PIECE / 3


@pytest.mark.spec("IMAGE-12")
def test_at_random_no_more_is_fetched_than_is_asked_for(wide: Store, rng: random.Random) -> None:
    with open_remote(again(wide), b"i.sqfs") as image:
        attr, begun = image.find(b"large"), requests_of(image)
        source = image.source
        assert isinstance(source, RemoteFile)
        for _ in range(30):
            at = rng.randrange(attr.size - 4096)
            image.read(attr, at, at + 4096)
        assert requests_of(image) - begun <= 30 * 1.3
        assert len(source._held) <= 30 * 2


@pytest.mark.spec("IMAGE-12")
def test_at_random_from_far_away_neighbours_come_along(
    wide: Store, broad: tuple[Path, bytes], tmp_path: Path, rng: random.Random
) -> None:
    """Where a round trip takes as long as some megabytes do."""

    class Distant(MemoryStore):
        def read_version(self, key: bytes, stamp: bytes, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
            time.sleep(0.02)
            for at in range(start, stop or 0, 64 << 10):
                yield from super().read_version(key, stamp, at, min(at + (64 << 10), stop or 0))

    want = (broad[0] / "large").read_bytes()
    name = wide.url.removeprefix("memory://").strip("/")
    with open_remote(Distant(name), b"i.sqfs", cache_folder=str(tmp_path)) as image:
        attr, begun = image.find(b"large"), requests_of(image)
        source = image.source
        assert isinstance(source, RemoteFile)
        for _ in range(200):
            at = rng.randrange(attr.size - 4096)
            assert image.read(attr, at, at + 4096) == want[at : at + 4096]
        assert source.waited < 60  # 200 reads of 160 pieces: by ones they would be about 115
        assert requests_of(image) - begun < 90


@pytest.mark.spec("IMAGE-12")
def test_many_threads_fetch_each_piece_once(wide: Store, broad: tuple[Path, bytes]) -> None:
    want = (broad[0] / "large").read_bytes()
    with open_remote(again(wide), b"i.sqfs") as image:
        attr, wrong = image.find(b"large"), list[int]()
        source = image.source
        assert isinstance(source, RemoteFile)
        bytes_, real = [0], source.range

        def counted(start: int, stop: int) -> bytes:
            bytes_[0] += stop - start
            time.sleep(0.005)  # so that the others come meanwhile
            return real(start, stop)

        source.range = counted  # type: ignore[method-assign]

        def look() -> None:
            for at in range(0, 8 << 20, 100_000):
                if image.read(attr, at, at + 100_000) != want[at : at + 100_000]:
                    wrong.append(at)

        threads = [threading.Thread(target=look) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        requests_of(image)
        assert not wrong
        assert bytes_[0] <= (8 << 20) + 40 * PIECE


@pytest.mark.spec("IMAGE-12")
def test_a_piece_is_had_before_the_rest_of_its_request(wide: Store, broad: tuple[Path, bytes]) -> None:
    want = (broad[0] / "large").read_bytes()
    with open_remote(again(wide), b"i.sqfs") as image:
        attr, source = image.find(b"large"), image.source
        assert isinstance(source, RemoteFile)
        real = source.parts
        begun, go_on, rest = threading.Event(), threading.Event(), threading.Event()

        def slow(start: int, stop: int) -> Iterator[bytes]:
            whole = b"".join(real(start, stop))
            yield whole[:1000]
            yield whole[1000 : 2 * PIECE + 5]
            begun.set()
            go_on.wait(20)
            rest.set()
            yield whole[2 * PIECE + 5 :]

        source.parts = slow  # type: ignore[method-assign]
        source._later(range(21, 29))
        assert begun.wait(20)
        at = 21 * PIECE - image.index.blocks[attr.a][0]  # what lies there does not shrink
        at += -at % image.block
        assert image.read(attr, at, at + 1000) == want[at : at + 1000]
        assert not rest.is_set()
        go_on.set()
        assert image.read(attr) == want


@pytest.mark.spec("IMAGE-12")
def test_a_fork_while_pieces_are_on_their_way(wide: Store, broad: tuple[Path, bytes]) -> None:
    """The child has none of the threads that were fetching, and the lock may be held by one of them for ever."""
    want = (broad[0] / "large").read_bytes()
    with open_remote(again(wide), b"i.sqfs") as image:
        attr, source = image.find(b"large"), image.source
        assert isinstance(source, RemoteFile)
        real, go_on = source.parts, threading.Event()

        def slow(start: int, stop: int) -> Iterator[bytes]:
            if threading.current_thread().name == "image-ahead":
                go_on.wait(30)
            yield from real(start, stop)

        source.parts = slow  # type: ignore[method-assign]
        for number in range(3):
            image.read(attr, number * PIECE, number * PIECE + 10)
        until = time.monotonic() + 10
        while not source._coming and time.monotonic() < until:
            time.sleep(0.01)
        assert source._coming
        source._lock.acquire()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                signal.alarm(20)
                source.parts = real  # type: ignore[method-assign]
                status = int(image.read(attr, 0, 8 << 20) != want[: 8 << 20])
            finally:
                os._exit(status)
        source._lock.release()
        assert os.waitpid(child, 0)[1] == 0
        go_on.set()
        assert image.read(attr) == want


@pytest.mark.spec("IMAGE-12", "IMAGE-9")
@pytest.mark.parametrize("cached", [True, False])
def test_an_object_that_changes_is_told_and_never_mixed(
    wide: Store, broad: tuple[Path, bytes], packed: bytes, tmp_path: Path, cached: bool
) -> None:
    with open_remote(again(wide), b"i.sqfs", cache_folder=str(tmp_path) if cached else "") as image:
        attr = image.find(b"large")
        first = image.read(attr, 0, 1000)
        requests_of(image)
        wide.write(b"i.sqfs", [packed + broad[1][len(packed) :]])
        assert image.read(attr, 0, 1000) == first
        with pytest.raises(Conflict) as told:
            image.read(attr, attr.size // 2)
        assert told.value.code == "source-changed"
        wide.write(b"i.sqfs", [broad[1]])  # the same bytes, but nobody can know
        with pytest.raises(Conflict):
            image.read(attr, attr.size // 2)
    with open_remote(again(wide), b"i.sqfs", cache_folder=str(tmp_path) if cached else "") as image:
        assert image.read(attr) == (broad[0] / "large").read_bytes()
    wide.delete(b"i.sqfs")


@pytest.mark.spec("IMAGE-12")
def test_a_wrong_index_is_fetched_again_and_never_kept(wide: Store, broad: tuple[Path, bytes], tmp_path: Path) -> None:
    class Flipping(MemoryStore):
        """Flips a bit of the first long answers."""

        left = 1

        def read_version(self, key: bytes, stamp: bytes, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
            data = bytearray(b"".join(super().read_version(key, stamp, start, stop)))
            if self.left and len(data) > 70_000 and start > len(broad[1]) // 2:
                self.left -= 1
                data[len(data) // 2] ^= 1
            return iter([bytes(data)])

    name = wide.url.removeprefix("memory://").strip("/")
    for _ in range(2):
        flipping = Flipping(name)
        with open_remote(flipping, b"i.sqfs", cache_folder=str(tmp_path)) as image:
            assert len(list(image.walk())) == 2006
        assert not flipping.left or _
    with open_remote(again(wide), b"i.sqfs", cache_folder=str(tmp_path)) as image:
        assert len(list(image.walk())) == 2006


# --------------------------------------------------------------------------------------------------------- cache


def test_two_images_and_many_hands_in_one_cache(tmp_path: Path, rng: random.Random) -> None:
    wrong: list[str] = []

    def work(seed: int) -> None:
        mine = random.Random(seed)
        caches = [Cache(str(tmp_path), image, 1 << 20) for image in ("one", "two")]
        for _ in range(300):
            which, number = mine.randrange(2), mine.randrange(40)
            body = bytes([which * 100 + number]) * 20_000
            if mine.random() < 0.5:
                caches[which].put(str(number), body)
            elif caches[which].get(str(number), 20_000) not in (None, body):
                wrong.append(f"{which} {number}")

    children = []
    for _ in range(3):
        child = os.fork()
        if child == 0:
            try:
                threads = [threading.Thread(target=work, args=(rng.random(),)) for _ in range(4)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
            finally:
                os._exit(len(wrong) and 1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    kept = [p for p in tmp_path.rglob("*") if p.is_file() and p.name[0] != "."]
    assert 0 < sum(p.stat().st_size for p in kept) < (1 << 20) + 12 * 60_000
    assert not [p for p in tmp_path.rglob(".*") if p.name not in (".lock", ".claims")]


@pytest.mark.spec("IMAGE-12")
def test_an_index_stays_as_long_as_anything_of_its_image(tmp_path: Path) -> None:
    used, idle = Cache(str(tmp_path), "used", 1 << 20), Cache(str(tmp_path), "idle", 1 << 20)
    for cache in (used, idle):
        cache.put("index-0", bytes(200_000))
    now = time.time()
    for piece in tmp_path.rglob("index-0"):
        os.utime(piece, (now - 1000, now - 1000))
    for number in range(20):
        used.put(str(number), bytes(50_000))
    assert used.get("index-0", 200_000)
    assert idle.get("index-0", 200_000) is None
    assert used.get("0", 50_000) is None


def test_what_others_may_write_is_not_read(tmp_path: Path) -> None:
    Cache(str(tmp_path), "one", 1 << 20).put("1", b"mine" * 100)
    assert Cache(str(tmp_path), "one", 1 << 20).get("1", 400)
    (own,) = tmp_path.iterdir()
    assert own.stat().st_mode & 0o777 == 0o700
    own.chmod(0o777)
    assert Cache(str(tmp_path), "one", 1 << 20).get("1", 400) is None
    Cache(str(tmp_path), "one", 1 << 20).put("2", b"x")
    assert sorted(p.name for p in (own / "one").iterdir()) == ["1"]
    own.chmod(0o700)
    if os.geteuid() == 0:
        os.chown(own, 65534, 65534)
        assert Cache(str(tmp_path), "one", 1 << 20).get("1", 400) is None


def test_odd_things_in_a_cache_do_not_hang(tmp_path: Path) -> None:
    cache = Cache(str(tmp_path), "one", 1 << 20)
    cache.put("1", b"body")
    (folder,) = tmp_path.glob("user-*/one")
    os.mkfifo(folder / "2")
    (folder / "3").mkdir()
    (folder / "4").symlink_to("/dev/zero")
    with open(folder / "5", "wb") as out:
        out.truncate(1 << 40)
    for name in "2345":
        assert cache.get(name, 4) is None
        cache.put(name, b"body")
    assert [cache.get(name, 4) for name in "1245"] == [b"body"] * 4


@pytest.mark.service
def test_a_cache_on_a_full_disk(store: Store, tree: Path, packed: bytes, tmp_path: Path) -> None:
    with loop_disk(tmp_path, 8) as small:
        for _ in range(2):
            with open_remote(again(store), b"i.sqfs", cache_folder=str(small.folder)) as image:
                same(image, tree)
        kept = [p for p in small.folder.rglob("*") if p.is_file() and p.stat().st_size >= PIECE]
        assert len(kept) > 5
        small.read_only()
        with open_remote(again(store), b"i.sqfs", cache_folder=str(small.folder)) as image:
            same(image, tree)
            assert image.source.requests < len(packed) / PIECE  # type: ignore[attr-defined]
        small.read_only(on=False)


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
        assert eventually(folder / "sizes" / "large") == (tree / "sizes" / "large").read_bytes()
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
        with open_remote(S3Store(parse(f"s3://{bucket}/some"), keys), b"i.sqfs") as image:
            with contextlib.closing(S3Store(parse(f"s3://{bucket}/some"), keys)) as store:
                store.write(b"i.sqfs", [packed[:-1] + b"x"])
            with pytest.raises(Conflict) as told:
                image.read(image.find(b"sizes/large"))
            assert told.value.code == "source-changed"


@pytest.mark.service
@pytest.mark.spec("IMAGE-12")
def test_requests_through_a_mount(broad: tuple[Path, bytes], tmp_path: Path, rng: random.Random) -> None:
    """What a far server is asked for, counted on the way: in order, by names, at random."""
    root, whole = broad
    with nginx(tmp_path / "nginx") as service, Proxy(service.endpoint, kind=http_kind) as proxy:
        (service.root / "i.sqfs").write_bytes(whole)
        proxy.delay = 0.005
        folder = tmp_path / "m"
        folder.mkdir()

        def opener() -> Image:
            return open_remote(HttpStore(parse(proxy.endpoint)), b"i.sqfs")

        def counted(work: Callable[[], object]) -> tuple[int, int]:
            keeper = mounting.in_background("far", opener, str(folder), mounting.MountOptions(), f"{folder}.log")
            try:
                assert proxy.counts().requests["GET"] < 10  # the index, and no data
                proxy.reset()
                work()
                return proxy.counts().requests["GET"], proxy.counts().body_bytes
            finally:
                mounting.unmount(str(folder), lazy=True)
                os.waitpid(keeper, 0)
                proxy.reset()

        def by_names() -> None:
            for path in sorted((folder / "many").rglob("f*"))[:1000]:
                assert path.read_bytes() == (root / path.relative_to(folder)).read_bytes()

        def at_random() -> None:
            with (folder / "large").open("rb", buffering=0) as file:
                for _ in range(20):
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
                    os.pread(file.fileno(), 4096, rng.randrange(40 << 20))

        requests, size = counted(lambda: (folder / "large").read_bytes() == (root / "large").read_bytes())
        assert requests <= 40
        assert size <= (40 << 20) + 36 * PIECE  # and what lies behind the file
        requests, size = counted(by_names)
        assert requests <= 16
        assert size <= 9_000_000 + 36 * PIECE
        requests, size = counted(at_random)
        assert requests <= 60
        assert size <= (20 + 48 + 8 * 20) * PIECE  # neighbours come along, as IMAGE-12 bounds them


@pytest.mark.spec("MOUNT-9")
def test_images_side_by_side_say_what_has_to_be_waited_for(
    wide: Store, broad: tuple[Path, bytes], tmp_path: Path
) -> None:
    near = tmp_path / "near.sqfs"
    near.write_bytes(broad[1])
    with open_beside(
        [(b"far", lambda: open_remote(again(wide), b"i.sqfs")), (b"near", lambda: open_image(str(near)))]
    ) as both:
        assert both.far
        assert both.ready(both.root, 0)
        here, there = both.find(b"near/large"), both.find(b"far/large")
        both.read(here, 0, 4096)
        assert both.ready(here.node, 0)
        assert not both.ready(there.node, 20 << 20)
        both.read(there, 20 << 20, (20 << 20) + 4096)
        assert both.ready(there.node, 20 << 20)
