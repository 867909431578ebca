"""Images under faults: killed packers and unpackers, servers and keepers, stores that lie, stop and change, caches that
fill, break and vanish.  What is read is right or an error, in bounded time; what is killed leaves nothing at a name."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import psutil
import pytest

from components import tree as tree_of
from components import trees
from components.exchange import Fault, http_kind
from components.loopdisk import loop_disk
from components.nginx import HttpService, nginx
from components.proxy import Proxy
from dls.fuse import leftovers, mounting, source
from dls.fuse.image import Image, open_image
from dls.fuse.pack import Options, pack
from dls.fuse.remote import PIECE, open_remote
from dls.fuse.unpack import unpack
from dls.logistics.errors import Corrupt, DlsError, Invalid
from dls.logistics.stores.http import HttpStore
from dls.logistics.url import parse

pytestmark = [pytest.mark.fault, pytest.mark.service, pytest.mark.timeout(3600)]
HERE = Options(workers=0, attributes=source.all_attributes)
BROKEN = (errno.EIO, errno.ENOTCONN, errno.ECONNABORTED, errno.EINTR)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("faulty") / "tree"
    trees.nasty(root)
    tree_of.small(root / "small", 1500, size=9000)
    tree_of.large(root / "big", 24 << 20)
    return root


@pytest.fixture(scope="module")
def image(tree: Path) -> Path:
    pack(str(tree), str(tree.parent / "i.sqfs"), HERE)
    return tree.parent / "i.sqfs"


@pytest.fixture(scope="module")
def sums(tree: Path) -> dict[str, str]:
    """Digests of what is in the tree."""
    found = (p for p in tree.rglob("*") if not p.is_symlink() and p.is_file())
    return {str(p.relative_to(tree)): hashlib.sha256(p.read_bytes()).hexdigest() for p in found}


def wait_until(true: Callable[[], object], seconds: float = 30.0) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until
        time.sleep(0.02)


def workers_gone() -> bool:
    """Whether no process that packs is left of those that this run started, however far they were left behind."""
    mark = os.environ["DLS_TEST_SESSION"]
    for process in psutil.process_iter(["cmdline"]):
        with contextlib.suppress(psutil.Error):
            packs = (
                "dls.fuse.work" in " ".join(process.info["cmdline"] or []) and process.status() != psutil.STATUS_ZOMBIE
            )
            if packs and process.environ().get("DLS_TEST_SESSION") == mark:
                return False
    return True


# ----------------------------------------------------------------------------------------- killed while writing

_PACK = (
    "import sys; from dls.fuse import source; from dls.fuse.pack import Options, pack;"
    "pack(sys.argv[1], sys.argv[2], Options(workers=2, attributes=source.all_attributes, replace=len(sys.argv) > 3))"
)
_UNPACK = (
    "import sys; from dls.fuse.image import open_image; from dls.fuse.unpack import unpack;"
    "unpack(open_image(sys.argv[1]), sys.argv[2])"
)


def killed_often(
    words: list[str], rounds: int, rng: random.Random, seen: Callable[[], bool], ready: Callable[[], None]
) -> tuple[int, int]:
    """Kill a command at random moments; how often it had done nothing, and all, by then."""
    command = [sys.executable, "-c", *words]
    started = time.monotonic()
    subprocess.run(command, check=True)
    took = time.monotonic() - started
    assert seen()
    nothing = whole = 0
    for _ in range(rounds):
        ready()
        child = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        time.sleep(took * (0.2 + 0.9 * rng.random()))
        child.kill()
        child.wait()
        if seen():
            whole += 1
        else:
            nothing += 1
    return nothing, whole


@pytest.mark.spec("IMAGE-4")
@pytest.mark.parametrize("replace", [False, True])
def test_a_packer_is_killed(
    tree: Path, image: Path, tmp_path: Path, rng: random.Random, faults_full: bool, replace: bool
) -> None:
    """Nothing at the name, or the whole; what was there before until then; nothing beside after the next run."""
    want, out, old = image.read_bytes(), tmp_path / "i.sqfs", b"what was there before"

    def seen() -> bool:
        if not out.exists():
            assert not replace
            return False
        found = out.read_bytes()
        assert found == want or (replace and found == old)
        return found == want

    def ready() -> None:
        out.unlink(missing_ok=True)
        if replace:
            out.write_bytes(old)

    ready()
    words = [_PACK, str(tree), str(out), *(["replace"] if replace else [])]
    nothing, _ = killed_often(words, 60 if faults_full else 6, rng, seen, ready)
    assert nothing
    wait_until(workers_gone)
    assert all(name.startswith(".dls-making-") for name in set(os.listdir(tmp_path)) - {"i.sqfs"})
    ready()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leftovers, "_AGE_S", -1.0)
        pack(str(tree), str(out), HERE._replace(replace=True))
    assert os.listdir(tmp_path) == ["i.sqfs"]


@pytest.mark.spec("IMAGE-4")
@pytest.mark.parametrize("replace", [False, True])
def test_a_packer_is_killed_where_every_file_has_a_name(
    tree: Path, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replace: bool
) -> None:
    """Some file systems know no nameless files: what a kill leaves is hidden, and goes with the next run."""
    without = "import os; os.O_TMPFILE = os.O_DIRECTORY;"  # as a kernel reads the flag that does not know it: EISDIR
    out = tmp_path / "i.sqfs"
    if replace:
        out.write_bytes(b"old")
    words = [sys.executable, "-c", without + _PACK, str(tree), str(out), *(["replace"] if replace else [])]
    child = subprocess.Popen(words)
    wait_until(lambda: [n for n in os.listdir(tmp_path) if n.startswith(".dls-making-")])
    time.sleep(0.2)
    child.kill()
    child.wait()
    wait_until(workers_gone)
    assert len(os.listdir(tmp_path)) == 1 + replace
    subprocess.run(words, check=True)  # it is not old enough to be taken away
    assert len(os.listdir(tmp_path)) == 2
    monkeypatch.setattr(leftovers, "_AGE_S", -1.0)
    pack(str(tree), str(out), HERE._replace(replace=True))
    assert os.listdir(tmp_path) == ["i.sqfs"]
    assert out.read_bytes() == image.read_bytes()


@pytest.mark.spec("IMAGE-11")
def test_an_unpacker_is_killed(tree: Path, image: Path, tmp_path: Path, rng: random.Random, faults_full: bool) -> None:
    out = tmp_path / "out"

    def seen() -> bool:
        if out.exists():
            assert trees.differences(tree, out) == ""
        return out.exists()

    def ready() -> None:
        shutil.rmtree(out, ignore_errors=True)

    nothing, _ = killed_often([_UNPACK, str(image), str(out)], 40 if faults_full else 6, rng, seen, ready)
    assert nothing
    left = set(os.listdir(tmp_path)) - {"out"}
    assert left
    assert all(name.startswith(".dls-making-") for name in left)
    ready()
    with pytest.MonkeyPatch.context() as patch, open_image(str(image)) as found:
        patch.setattr(leftovers, "_AGE_S", -1.0)
        held = os.open(tmp_path / min(left), os.O_RDONLY)
        leftovers.hold(held)  # somebody is at work there
        unpack(found, str(out))
        assert sorted(os.listdir(tmp_path)) == [min(left), "out"]
        os.close(held)
        ready()
        unpack(found, str(out))
    assert os.listdir(tmp_path) == ["out"]


# ----------------------------------------------------------------------------------------- damaged images


@pytest.mark.spec("IMAGE-9")
def test_damaged_at_random(tmp_path: Path, rng: random.Random, faults_full: bool) -> None:
    """Bits, stretches, ends: all that a reader gets is what was packed, or an error; through a mount too."""
    root = tmp_path / "tree"
    tree_of.small(root, 40, size=3000, per_folder=10)
    (root / "noise").write_bytes(rng.randbytes(200_000))
    pack(str(root), str(tmp_path / "good"), HERE)
    whole, bad = (tmp_path / "good").read_bytes(), tmp_path / "bad"
    plain = {os.fsencode(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}
    told = mounts = 0
    for n in range(4000 if faults_full else 250):
        data = bytearray(whole)
        how = rng.randrange(4)
        at = rng.randrange(len(data))
        if how == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif how == 1:
            data[at : at + rng.randrange(1, 5000)] = bytes(rng.randrange(1, 5000))
        elif how == 2:
            del data[at:]
        else:
            data[at : at + 4096] = rng.randbytes(min(4096, len(data) - at))
        bad.write_bytes(data)
        told += not _right(bad, plain)
        if n % 100 == 0:
            mounts += 1
            _mounted_right(bad, plain, tmp_path)
    assert told > 50
    assert mounts > 2


def _right(path: Path, plain: dict[bytes, bytes]) -> bool:
    """Whether everything is there; what is there is right in any case."""
    complete = 0
    try:
        with open_image(str(path)) as image:
            for name, attr in image.walk():
                if attr.mode >> 12 == 8:
                    with contextlib.suppress(Corrupt):
                        assert image.read(attr) == plain[name]
                        complete += 1
            complete -= len([error for _, error in image.verify() if error])
    except (Corrupt, Invalid):
        return False
    return complete == len(plain)


def _mounted_right(path: Path, plain: dict[bytes, bytes], work: Path) -> None:
    folder = work / "m"
    folder.mkdir(exist_ok=True)
    try:
        keeper = mounting.in_background(
            str(path), lambda: open_image(str(path)), str(folder), mounting.MountOptions(), str(work / "log")
        )
    except DlsError:
        return
    try:
        for name, body in plain.items():
            with contextlib.suppress(OSError):
                assert (folder / os.fsdecode(name)).read_bytes() == body
    finally:
        mounting.unmount(str(folder), lazy=True)
        os.waitpid(keeper, 0)


# ----------------------------------------------------------------------------------------- mounts under fire


class Readers:
    """Threads that read files of a mount, each asked of whoever serves it, and judge what they get."""

    def __init__(self, folder: Path, sums: dict[str, str], count: int, seed: float) -> None:
        self.folder, self.sums, self.names = folder, sums, sorted(sums)
        self.right = self.errors = 0
        self.wrong: list[str] = []
        self.over = threading.Event()
        self._threads = [threading.Thread(target=self._look, args=(f"{seed} {n}",)) for n in range(count)]

    def _look(self, seed: str) -> None:
        mine = random.Random(seed)
        while not self.over.is_set():
            name = mine.choice(self.names)
            try:
                fd = os.open(self.folder / name, os.O_RDONLY)
                try:
                    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                    hasher = hashlib.sha256()
                    while data := os.read(fd, 1 << 18):
                        hasher.update(data)
                finally:
                    os.close(fd)
            except OSError as exc:
                gone = exc.errno == errno.ENOENT and self.over.is_set()  # unmounted, which is what comes last
                if exc.errno not in BROKEN and not gone:
                    self.wrong.append(f"{name}: {exc}")
                self.errors += 1
                time.sleep(0.01)
                continue
            if hasher.hexdigest() != self.sums[name]:
                self.wrong.append(name)
            self.right += 1

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for thread in self._threads:
            thread.join(90)
            assert not thread.is_alive(), "a reader hangs"
        assert not self.wrong, self.wrong[:5]


@contextlib.contextmanager
def mount(name: str, opener: Callable[[], Image], folder: Path, servers: int = 1) -> Iterator[int]:
    folder.mkdir(exist_ok=True)
    options = mounting.MountOptions(servers=servers)
    keeper = mounting.in_background(name, opener, str(folder), options, f"{folder}.log")
    try:
        yield keeper
    finally:
        with contextlib.suppress(DlsError):
            mounting.unmount(str(folder), lazy=True)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(keeper, 0)


def serving(keeper: int) -> int:
    """How many servers a keeper has that were not killed."""
    try:
        return sum(one.status() != psutil.STATUS_ZOMBIE for one in psutil.Process(keeper).children())
    except psutil.NoSuchProcess:  # one went while it was looked at
        return 0


@pytest.mark.spec("MOUNT-3")
def test_keeper_and_servers_are_killed_under_load(
    image: Path, sums: dict[str, str], tmp_path: Path, rng: random.Random, faults_full: bool
) -> None:
    for n in range(12 if faults_full else 3):
        folder = tmp_path / "m"
        with mount(str(image), lambda: open_image(str(image)), folder, servers=2) as keeper:
            with Readers(folder, sums, 6, rng.random()) as readers:
                for _ in range(4):
                    time.sleep(0.2 * rng.random())
                    wait_until(lambda k=keeper: serving(k) > 0)
                    psutil.Process(keeper).children()[0].kill()
                wait_until(lambda r=readers: r.right > 20)
                wait_until(lambda k=keeper: serving(k) == 2)  # with all killed at once nobody is left to unmount
                everybody = [keeper, *(one.pid for one in psutil.Process(keeper).children())]
                readers.over.set()
                for pid in everybody if n % 2 else everybody[:1]:
                    with contextlib.suppress(ProcessLookupError):  # a server whose keeper went has left, too
                        os.kill(pid, signal.SIGKILL)
            mine = str(tmp_path)
            wait_until(lambda m=mine: all(one.state() == "dead" for one in mounting.mounted() if m in one.folder))
            assert n % 2 or os.listdir(folder) == []
            os.waitpid(keeper, 0)
        with mount(str(image), lambda: open_image(str(image)), folder):  # a dead one is replaced
            assert (folder / "a-b").read_bytes() == b"beside"


# ------------------------------------------------------------------------------------------- a store that fails


@pytest.fixture(scope="module")
def served(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpService]:
    with nginx(tmp_path_factory.mktemp("nginx")) as service:
        shutil.copy(image, service.root / "i.sqfs")
        yield service


@pytest.fixture
def proxy(served: HttpService) -> Iterator[Proxy]:
    with Proxy(served.endpoint, kind=http_kind) as one:
        yield one


def remote(endpoint: str, cache: Path | None = None, limit: int = 1 << 30, timeout_s: float = 1.0) -> Image:
    store = HttpStore(parse(endpoint), timeout_s=timeout_s)
    return open_remote(store, b"i.sqfs", cache_folder=str(cache) if cache else "", cache_bytes=limit)


@pytest.mark.spec("MOUNT-7", "IMAGE-12")
@pytest.mark.parametrize("cached", [True, False])
def test_a_store_on_bad_days(
    proxy: Proxy, sums: dict[str, str], tmp_path: Path, rng: random.Random, faults_full: bool, cached: bool
) -> None:
    """500s, hangs, cuts, resets and flipped bits: right bytes or EIO, and all is well once they are over."""
    cache = tmp_path / "cache" if cached else None
    faults: list[Fault] = []
    with mount("remote", lambda: remote(proxy.endpoint, cache), tmp_path / "m"):  # noqa: SIM117 - so it stays short
        with Readers(tmp_path / "m", sums, 4, rng.random()) as readers:
            for _ in range(60 if faults_full else 8):
                faults.append(
                    rng.choice(
                        [
                            Fault(kind="GET", status=500, times=3),
                            Fault(kind="GET", status=503, times=8),
                            Fault(kind="GET", cut=rng.randrange(400_000)),
                            Fault(kind="GET", cut=rng.randrange(400_000), reset=True, times=4),
                            Fault(kind="GET", flip=rng.randrange(200_000), times=2),
                            Fault(kind="GET", hang=True),
                            Fault(kind="GET", delay=0.5, times=5),
                        ]
                    )
                )
                proxy.add(faults[-1])
                time.sleep(0.3)
                subprocess.run(
                    ["find", str(tmp_path / "cache"), "-name", "[0-9]*", "-delete"], check=False, capture_output=True
                )
            proxy.clear()
            assert sum(fault.fired for fault in faults) >= len(faults) / 2
            before = readers.right
            wait_until(lambda: readers.right > before + 20, 90)
    with mount("remote", lambda: remote(proxy.endpoint, cache), tmp_path / "m2"):
        assert {name: _sha(tmp_path / "m2" / name) for name in sums} == sums


def _sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.spec("MOUNT-7")
def test_a_store_that_stops_and_goes_on(
    served: HttpService, sums: dict[str, str], tmp_path: Path, rng: random.Random
) -> None:
    """While it stands still every reader gets EIO in bounded time, however many wait; then it goes on."""
    workers = [child.pid for child in served.children]
    every = [*workers, *(one.pid for pid in workers for one in psutil.Process(pid).children(recursive=True))]
    with mount("remote", lambda: remote(served.endpoint), tmp_path / "m"):  # noqa: SIM117 - so it stays short
        with Readers(tmp_path / "m", sums, 8, rng.random()) as readers:
            for _ in range(2):
                wait_until(lambda: readers.right > 10)
                for pid in every:
                    os.kill(pid, signal.SIGSTOP)
                try:
                    began, errors = time.monotonic(), readers.errors
                    wait_until(lambda e=errors: readers.errors > e + 16, 60)
                    assert time.monotonic() - began < 30
                finally:
                    for pid in every:
                        os.kill(pid, signal.SIGCONT)
                before = readers.right
                wait_until(lambda b=before: readers.right > b + 10, 60)


@pytest.mark.spec("MOUNT-8", "IMAGE-12")
@pytest.mark.parametrize("cached", [True, False])
def test_an_object_that_changes_under_a_mount(
    image: Path, tree: Path, sums: dict[str, str], tmp_path: Path, cached: bool
) -> None:
    with nginx(tmp_path / "nginx") as service:
        shutil.copy(image, service.root / "i.sqfs")
        other = tmp_path / "other"
        shutil.copytree(tree / "small", other / "small")
        (other / "big").write_bytes(random.Random(9).randbytes(24 << 20))
        pack(str(other), str(service.root / "next"), HERE)
        cache = tmp_path / "cache" if cached else None
        with mount("remote", lambda: remote(service.endpoint, cache), tmp_path / "m"):
            assert _sha(tmp_path / "m" / "a-b") == sums["a-b"]
            time.sleep(1.1)  # nginx tells versions by the second
            os.replace(service.root / "next", service.root / "i.sqfs")
            os.utime(service.root / "i.sqfs")
            with pytest.raises(OSError, match="Input/output"):
                _sha(tmp_path / "m" / "big")
            assert _sha(tmp_path / "m" / "a-b") == sums["a-b"]
        assert "changed, or went" in (tmp_path / "m.log").read_text()
        with mount("remote", lambda: remote(service.endpoint, cache), tmp_path / "m3"):
            assert (tmp_path / "m3" / "big").read_bytes() == (other / "big").read_bytes()


# --------------------------------------------------------------------------------------------- a cache that fails


@pytest.mark.spec("IMAGE-12")
def test_a_cache_that_is_broken_while_mounted(
    served: HttpService, sums: dict[str, str], tmp_path: Path, rng: random.Random, faults_full: bool
) -> None:
    cache = tmp_path / "cache"
    with mount("remote", lambda: remote(served.endpoint, cache), tmp_path / "m"):
        with Readers(tmp_path / "m", sums, 4, rng.random()) as readers:
            for n in range(120 if faults_full else 15):
                time.sleep(0.1)
                pieces = [p for p in cache.rglob("*") if p.is_file()]
                for piece in rng.sample(pieces, min(len(pieces), 30)):
                    with contextlib.suppress(OSError):
                        how = rng.randrange(4)
                        if how == 0:
                            piece.unlink()
                        elif how == 1:
                            os.truncate(piece, rng.randrange(PIECE))
                        elif how == 2:
                            with piece.open("r+b") as out:
                                out.seek(rng.randrange(PIECE))
                                out.write(b"\xff" * 40)
                        else:
                            piece.write_bytes(rng.randbytes(PIECE + 4))
                if n % 10 == 5:
                    shutil.rmtree(cache, ignore_errors=True)
            assert readers.right > 50
        assert readers.errors == 0


@pytest.mark.spec("IMAGE-12")
def test_a_cache_on_a_disk_that_is_full_or_read_only(served: HttpService, sums: dict[str, str], tmp_path: Path) -> None:
    with loop_disk(tmp_path, 12) as small:
        with mount("remote", lambda: remote(served.endpoint, small.folder), tmp_path / "m"):
            assert {name: _sha(tmp_path / "m" / name) for name in sums} == sums
        small.read_only()
        with mount("remote", lambda: remote(served.endpoint, small.folder), tmp_path / "m"):
            assert {name: _sha(tmp_path / "m" / name) for name in sums} == sums
        small.read_only(on=False)
    with mount("remote", lambda: remote(served.endpoint, Path("/proc/no")), tmp_path / "m"):
        assert _sha(tmp_path / "m" / "big") == sums["big"]


@pytest.mark.spec("IMAGE-12")
def test_many_readers_of_many_mounts_of_one_cache(
    proxy: Proxy, image: Path, sums: dict[str, str], tmp_path: Path, rng: random.Random, faults_full: bool
) -> None:
    """Eight mounts of one image share a cache; cold, it is fetched about once; smaller than the image, all is right."""
    mounts, each = 8, 64 if faults_full else 8
    cache, size = tmp_path / "cache", image.stat().st_size
    with contextlib.ExitStack() as stack:
        folders = [tmp_path / f"m{n}" for n in range(mounts)]
        for folder in folders:
            stack.enter_context(mount("remote", lambda: remote(proxy.endpoint, cache, timeout_s=20), folder))
        proxy.reset()
        wrong: list[str] = []

        def all_of_it(folder: Path) -> None:
            wrong.extend(name for name in sorted(sums) if _sha(folder / name) != sums[name])

        looking = [threading.Thread(target=all_of_it, args=(folder,)) for folder in folders]
        for one in looking:
            one.start()
        for one in looking:
            one.join()
        assert not wrong
        fetched = proxy.counts().body_bytes
        assert fetched < 2 * size, (fetched, size)
    limit = size // 3
    shutil.rmtree(cache)
    with contextlib.ExitStack() as stack:
        readers = []
        for folder in folders:
            stack.enter_context(mount("remote", lambda: remote(proxy.endpoint, cache, limit, timeout_s=20), folder))
            readers.append(Readers(folder, sums, each, rng.random()))
        with contextlib.ExitStack() as reading:
            for one in readers:
                reading.enter_context(one)
            wait_until(lambda: sum(one.right for one in readers) > (3000 if faults_full else 400), 300)
        assert sum(one.errors for one in readers) == 0
        kept = sum(p.stat().st_size for p in cache.rglob("*") if p.is_file())
        assert kept < limit + mounts * (limit // 32 + 2 * PIECE)


# --------------------------------------------------------------------------------------------------- full disks


@pytest.mark.spec("IMAGE-4", "IMAGE-11")
def test_unpacking_onto_a_full_disk(tree: Path, image: Path, tmp_path: Path) -> None:
    with loop_disk(tmp_path, 30, inodes=4000) as small, open_image(str(image)) as found:
        before = sorted(os.listdir(small.folder))
        for _ in range(2):
            with pytest.raises(DlsError) as told:
                unpack(found, str(small.folder / "out"))
            assert told.value.code == "disk-full"
            assert sorted(os.listdir(small.folder)) == before
