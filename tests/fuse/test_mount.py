"""Mounts as the kernel sees them: ours, the kernel's own SquashFS and squashfuse, beside the tree."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import random
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from components import trees
from components.command import PROGRAM
from dls.fuse import background, fast, mounting, source
from dls.fuse.aside import THREADS
from dls.fuse.image import open_image
from dls.fuse.pack import Options, pack
from dls.logistics.errors import Conflict, DlsError, Exists, NotFound, Unsupported

pytestmark = [pytest.mark.service, pytest.mark.usefixtures("either_way")]

HERE = Options(workers=0, attributes=source.all_attributes)
EVERY = "%P|%y|%m|%U|%G|%n|%l|%T@|%A@|%i"
NOBODY = 65534


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mounted") / "tree"
    trees.nasty(root)
    os.setxattr(root / "a0", b"user.note", b"kept")
    os.setxattr(root / "a0", b"trusted.note", b"kept too")
    os.utime(root / "a0", (trees.SECONDS, trees.SECONDS))
    return root


@pytest.fixture(scope="module")
def image(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("mounted-images") / "nasty tree.sqfs")
    pack(str(tree), path, HERE)
    return path


@contextlib.contextmanager
def ours(image: str, folder: Path, **options: object) -> Iterator[int]:
    with contextlib.suppress(FileExistsError):
        folder.mkdir()
    log = f"{folder}.log"
    keeper = mounting.in_background(
        image, lambda: open_image(image), str(folder), mounting.MountOptions(**options), log
    )  # type: ignore[arg-type]
    try:
        yield keeper
    finally:
        with contextlib.suppress(NotFound):
            mounting.unmount(str(folder), lazy=True)
        ended(keeper)


def ended(keeper: int) -> None:
    """The keeper is a child of this process, and gone."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        with contextlib.suppress(ChildProcessError):
            if os.waitpid(keeper, os.WNOHANG)[0] == 0:
                time.sleep(0.02)
                continue
        return
    raise AssertionError("the keeper did not end")


def gone(folder: Path) -> bool:
    return not any(one.folder == str(folder) for one in mounting.mounted())


def lives(one: psutil.Process) -> bool:
    """Whether a process is there, and no zombie."""
    try:
        return one.is_running() and one.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until(true: object, seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not true():  # type: ignore[operator]
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.spec("MOUNT-1", "MOUNT-2", "MOUNT-4")
def test_every_field_and_byte_agrees(tree: Path, image: str, tmp_path: Path) -> None:
    with ours(image, tmp_path / "m", servers=2):
        found = tmp_path / "m"
        assert not trees.differences(tree, found)
        fields = "%P|%y|%m|%U|%G|%n|%l|%T@"
        assert trees.shown(found, fields) == trees.shown(tree, fields)
        files = "%y|%P|%s\\0"
        assert [r for r in trees.shown(found, files) if not r.startswith(b"d")] == [
            r for r in trees.shown(tree, files) if not r.startswith(b"d")
        ]
        assert os.getxattr(found / "a0", b"user.note") == b"kept"
        assert os.getxattr(found / "a0", b"trusted.note") == b"kept too"
        assert sorted(os.listxattr(found / "a0")) == ["trusted.note", "user.note"]
        with pytest.raises(OSError, match="No data"):
            os.getxattr(found / "a0", b"user.none")
        assert os.statvfs(found).f_files > 1000
        for command in ("tar c --sort=name -C {} . | sha256sum", "rsync -acn --itemize-changes {}/ " + f"{tree}/"):
            a, b = (subprocess.check_output(command.format(where), shell=True) for where in (tree, found))
            assert a == b
        with pytest.raises(OSError, match="Read-only"):
            (found / "new").write_bytes(b"")
        with open(found / "a-b", "rb"), pytest.raises(Conflict):
            mounting.unmount(str(found))
    assert gone(tmp_path / "m")
    with pytest.raises(NotFound):
        mounting.unmount(str(tmp_path / "m"))


@pytest.mark.spec("IMAGE-2")
@pytest.mark.parametrize("how", ["kernel", "squashfuse", "unsquashfs"])
def test_others_read_it(tree: Path, image: str, tmp_path: Path, how: str) -> None:
    found = tmp_path / "m"
    found.mkdir()
    fields = "%P|%y|%m|%n|%l" if how == "squashfuse" else "%P|%y|%m|%U|%G|%n|%l"
    if how == "kernel":
        subprocess.run(["mount", "-t", "squashfs", "-o", "loop,ro", image, found], check=True)
    elif how == "squashfuse":
        subprocess.run(["squashfuse_ll", image, found], check=True)
    else:
        found.rmdir()
        subprocess.run(["unsquashfs", "-q", "-n", "-d", found, image], check=True, capture_output=True)
    try:
        assert not trees.differences(tree, found)
        assert trees.shown(found, fields) == trees.shown(tree, fields)
        times = "%P|%TY-%Tm-%Td %TH:%TM"
        assert trees.shown(found, times) == trees.shown(tree, times)
        if how != "squashfuse":  # 0.1.105 looks attributes up by another name
            assert os.getxattr(found / "a0", b"user.note") == b"kept"
    finally:
        if how != "unsquashfs":
            subprocess.run(["umount", found], check=True)


@pytest.mark.spec("IMAGE-2", "MOUNT-2")
def test_mounts_agree_with_one_another(image: str, tmp_path: Path) -> None:
    theirs = tmp_path / "kernel"
    theirs.mkdir()
    subprocess.run(["mount", "-t", "squashfs", "-o", "loop,ro", image, theirs], check=True)
    try:
        with ours(image, tmp_path / "m"):
            assert trees.shown(tmp_path / "m", EVERY) == trees.shown(theirs, EVERY)
    finally:
        subprocess.run(["umount", theirs], check=True)


@pytest.fixture
def fuse_device() -> Iterator[None]:
    """Of the whole machine: one test at a time changes its mode, and it is as before afterwards."""
    turn = os.open("/dev", os.O_RDONLY)
    try:
        fcntl.flock(turn, fcntl.LOCK_EX)
        before = os.stat("/dev/fuse").st_mode
        yield
        os.chmod("/dev/fuse", before & 0o7777)
    finally:
        fcntl.flock(turn, fcntl.LOCK_UN)  # for those too that were forked meanwhile
        os.close(turn)


@pytest.fixture
def fuse_for_all(fuse_device: None) -> None:
    """As udev makes it on every usual machine; here nobody did."""
    os.chmod("/dev/fuse", 0o666)


@pytest.mark.spec("MOUNT-1")
@pytest.mark.usefixtures("fuse_for_all")
def test_an_ordinary_user_mounts(tree: Path, image: str, tmp_path: Path) -> None:
    for above in (tmp_path, *tmp_path.parents):
        if above.owner() == "root" and above != Path("/"):
            above.chmod(above.stat().st_mode | 0o055)
    Path(image).parent.chmod(0o755)
    Path(image).parent.parent.chmod(0o755)
    found = tmp_path / "m"
    found.mkdir()
    os.chown(found, NOBODY, NOBODY)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            keeper = mounting.in_background(
                image, lambda: open_image(image), str(found), mounting.MountOptions(), str(tmp_path / "x" / "none")
            )
            del keeper
            assert (found / "a0").read_bytes() == b"beside"
            many = {p.name: p.read_bytes() for p in (found / "many").iterdir() if p.is_file()}
            assert len(many) == 700
            assert all(data == b"%d" % int(name.partition("-")[0]) for name, data in many.items())
            mounting.unmount(str(found))
            status = 0
        except BaseException as problem:  # noqa: BLE001
            print(repr(problem), file=sys.stderr, flush=True)
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert gone(found)


@pytest.mark.spec("MOUNT-3")
@pytest.mark.fault
@pytest.mark.timeout(120)
def test_servers_are_killed_under_load(tree: Path, image: str, tmp_path: Path, rng: random.Random) -> None:
    want = {p.name: p.read_bytes() for p in (tree / "sizes").iterdir()}
    over, wrong, right = threading.Event(), list[object](), [0]

    def look() -> None:
        mine = random.Random(rng.random())
        while not over.is_set():
            name = mine.choice(sorted(want))
            try:
                fd = os.open(tmp_path / "m" / "sizes" / name, os.O_RDONLY)
                try:
                    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                    data = b"".join(iter(lambda fd=fd: os.read(fd, 1 << 20), b""))
                finally:
                    os.close(fd)
            except OSError as exc:
                if exc.errno not in (errno.ECONNABORTED, errno.EIO, errno.EINTR):
                    wrong.append(exc)
                continue
            if data != want[name]:
                wrong.append(name)
            right[0] += 1

    with ours(image, tmp_path / "m", servers=2) as keeper:
        readers = [threading.Thread(target=look) for _ in range(4)]
        for reader in readers:
            reader.start()
        killed = 0
        for _ in range(12):
            time.sleep(0.1)
            for server in psutil.Process(keeper).children()[:1]:
                server.kill()
                killed += 1
        time.sleep(0.3)
        over.set()
        for reader in readers:
            reader.join(30)
            assert not reader.is_alive()
        assert not wrong
        assert killed > 5
        assert right[0] > 20
        assert not trees.differences(tree, tmp_path / "m")
    assert gone(tmp_path / "m")


@pytest.mark.spec("MOUNT-3")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_keeper_that_ends_leaves_no_mount(image: str, tmp_path: Path, number: int) -> None:
    with ours(image, tmp_path / "m", servers=2) as keeper:
        servers = psutil.Process(keeper).children()
        os.kill(keeper, number)
        wait_until(lambda: gone(tmp_path / "m"))
        assert os.listdir(tmp_path / "m") == []
        wait_until(lambda: not any(map(lives, servers)))


@pytest.mark.spec("MOUNT-4")
def test_a_dead_mount_is_replaced(image: str, tmp_path: Path) -> None:
    found = tmp_path / "m"
    found.mkdir()
    fd = mounting.mount(image, str(found))
    os.close(fd)  # nobody will ever answer
    with pytest.raises(OSError, match="not connected"):
        os.listdir(found)
    assert [one.state() for one in mounting.mounted() if one.folder == str(found)] == ["dead"]
    with ours(image, found):
        assert "a-b" in os.listdir(found)


@pytest.mark.spec("MOUNT-4")
def test_a_silent_mount_holds_nobody_up(image: str, tmp_path: Path) -> None:
    found = tmp_path / "m"
    found.mkdir()
    fd = mounting.mount(image, str(found))  # somebody could answer, and does not
    try:
        assert [one.state() for one in mounting.mounted() if one.folder == str(found)] == ["silent"]
        with pytest.raises(Exists):
            mounting.mount(image, str(found))
    finally:
        mounting.unmount(str(found), lazy=True)
        os.close(fd)
    assert gone(found)


@pytest.mark.spec("MOUNT-5")
def test_damage_is_an_input_output_error(tree: Path, image: str, tmp_path: Path) -> None:
    copy = tmp_path / "i.sqfs"
    shutil.copy(image, copy)
    data = bytearray(copy.read_bytes())
    noise = (tree / "sizes" / "random-131072").read_bytes()
    at = data.index(noise[1000:1100])
    data[at] ^= 4
    copy.write_bytes(data)
    with ours(str(copy), tmp_path / "m"):
        with pytest.raises(OSError, match="Input/output"):
            (tmp_path / "m" / "sizes" / "random-131072").read_bytes()
        assert (tmp_path / "m" / "a-b").read_bytes() == b"beside"
    assert "damaged" in Path(f"{tmp_path / 'm'}.log").read_text()


@pytest.mark.spec("MOUNT-6")
def test_an_idle_mount_ends(image: str, tmp_path: Path) -> None:
    with ours(image, tmp_path / "m", idle_s=0.4):
        with open(tmp_path / "m" / "a-b", "rb"):
            time.sleep(1.5)
            assert not gone(tmp_path / "m")
        # Looking whether it is there keeps it no longer.
        here = str(tmp_path / "m")
        wait_until(lambda: all(one.state() for one in mounting.mounted() if one.folder == here) and gone(Path(here)))


def test_a_folder_that_is_not_there(image: str, tmp_path: Path) -> None:
    with pytest.raises(DlsError) as told:
        mounting.mount(image, str(tmp_path / "none"))
    assert told.value.kind == "not-found"


# --------------------------------------------------------------------------------------------- life of a mount


@pytest.fixture
def plain(tmp_path: Path) -> str:
    """The image of a folder with one file, of several blocks."""
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "file").write_bytes(random.Random(1).randbytes(1 << 20))
    pack(str(tmp_path / "plain"), str(tmp_path / "plain.sqfs"), HERE)
    return str(tmp_path / "plain.sqfs")


def forgotten(path: Path) -> bytes:
    """What is in a file, asked of whoever serves it."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        return b"".join(iter(lambda: os.read(fd, 1 << 20), b""))
    finally:
        os.close(fd)


def both(keeper: int) -> list[psutil.Process]:
    """The servers of a local image's keeper, which answers as soon as the first one is there."""
    count = min(2, len(os.sched_getaffinity(0)))
    wait_until(lambda: len(psutil.Process(keeper).children()) == count)
    return sorted(psutil.Process(keeper).children(), key=lambda child: child.pid)


def killed_servers(keeper: int) -> None:
    """Kill all servers of a keeper, and wait for the next ones."""
    servers = {one.pid for one in both(keeper)}
    for pid in servers:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: len({one.pid for one in psutil.Process(keeper).children()} - servers) == len(servers))


@pytest.mark.spec("MOUNT-8")
@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_what_was_mounted_stays_whatever_becomes_of_its_file(plain: str, tmp_path: Path, how: str) -> None:
    want = (tmp_path / "plain" / "file").read_bytes()
    with ours(plain, tmp_path / "m") as keeper:
        if how == "removed":
            os.unlink(plain)
        else:
            (tmp_path / "plain" / "file").write_bytes(random.Random(2).randbytes(1 << 20))
            pack(str(tmp_path / "plain"), plain, HERE._replace(replace=True))
        killed_servers(keeper)
        assert forgotten(tmp_path / "m" / "file") == want
    if how == "replaced":
        with ours(plain, tmp_path / "m"):
            assert (tmp_path / "m" / "file").read_bytes() == (tmp_path / "plain" / "file").read_bytes()


@pytest.mark.spec("MOUNT-8")
def test_an_image_that_is_written_to_is_told_and_never_mixed(plain: str, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "file").write_bytes(random.Random(2).randbytes(1 << 20))
    pack(str(other), str(tmp_path / "other.sqfs"), HERE)
    want = (tmp_path / "plain" / "file").read_bytes()
    with ours(plain, tmp_path / "m"):
        assert (tmp_path / "m" / "file").read_bytes()[:1000] == want[:1000]
        with open(plain, "r+b") as out:
            out.write(Path(tmp_path / "other.sqfs").read_bytes())
        with pytest.raises(OSError, match="Input/output"):
            forgotten(tmp_path / "m" / "file")
    assert "was written to since" in Path(f"{tmp_path / 'm'}.log").read_text()


@pytest.mark.spec("MOUNT-4")
def test_a_folder_is_mounted_once(image: str, plain: str, tmp_path: Path) -> None:
    with ours(image, tmp_path / "m"):
        with pytest.raises(Exists) as told:
            mounting.mount(plain, str(tmp_path / "m"))
        assert told.value.code == "mounted-already"
        assert image in str(told.value)
        assert (tmp_path / "m" / "a-b").read_bytes() == b"beside"
        with pytest.raises(Conflict) as told_:
            mounting.mount(plain, str(tmp_path / "plain"))
        assert told_.value.code == "folder-not-empty"
        with pytest.raises(DlsError):
            mounting.mount(plain, str(tmp_path / "plain" / "file"))


@pytest.mark.spec("MOUNT-4")
def test_what_is_not_ours_is_not_unmounted(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", other], check=True)
    try:
        for lazy in (False, True):
            with pytest.raises(NotFound):
                mounting.unmount(str(other), lazy=lazy)
        assert os.path.ismount(other)
    finally:
        subprocess.run(["umount", other], check=True)


@pytest.mark.spec("MOUNT-3")
def test_a_keeper_does_not_take_the_next_mount_away(image: str, plain: str, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    keepers = []
    for n in range(12):
        which = (image, plain)[n % 2]
        keepers.append(
            mounting.in_background(which, lambda w=which: open_image(w), str(folder), mounting.MountOptions(), "")
        )
        mounting.unmount(str(folder), lazy=bool(n % 3))
    with ours(image, folder):
        for keeper in keepers:
            ended(keeper)
        time.sleep(0.2)
        assert (folder / "a-b").read_bytes() == b"beside"


@pytest.mark.spec("MOUNT-3")
@pytest.mark.parametrize(
    "name", ["with space", "new\nline", "tab\there", "back\\slash", "é 日本", "\udcff\udcfe", "a#b", "\u2003\x85\r"]
)
def test_odd_names_of_folders(plain: str, tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    with ours(plain, folder) as keeper:
        assert [one.folder for one in mounting.mounted() if one.image == plain] == [str(folder)]
        killed_servers(keeper)
        assert (folder / "file").stat().st_size == 1 << 20
        with pytest.raises(Exists):
            mounting.mount(plain, str(folder))
    assert gone(folder)


@pytest.mark.spec("LAYER-16", "MOUNT-1")
@pytest.mark.parametrize("name", ["x" * 4095, ", ".join(["/données/é.sqfs"] * 900), ",\\" * 1600])
def test_what_is_mounted_may_have_a_long_name(plain: str, tmp_path: Path, name: str) -> None:
    """Many images side by side, for instance: the kernel takes less than a page."""
    folder = tmp_path / "m"
    folder.mkdir()
    keeper = mounting.in_background(name, lambda: open_image(plain), str(folder), mounting.MountOptions(), "")
    try:
        assert (folder / "file").stat().st_size == 1 << 20
        (shown,) = [one.image for one in mounting.mounted() if one.folder == str(folder)]
        assert shown.endswith("...")
        assert name.startswith(shown[:-3])
        assert len(shown) > 500
    finally:
        mounting.unmount(str(folder))
        ended(keeper)


@pytest.mark.spec("MOUNT-2")
def test_whoever_seeks_in_a_folder_makes_no_names(tree: Path, image: str, tmp_path: Path) -> None:
    libc = ctypes.CDLL(None)
    room = ctypes.create_string_buffer(4096)
    with ours(image, tmp_path / "m"):
        fd = os.open(tmp_path / "m" / "many", os.O_RDONLY | os.O_DIRECTORY)
        try:
            for offset in (8, 16, 24, 100, 1000, 5000, 8192, 8200, 20_000, 1 << 40, (1 << 63) - 1):
                os.lseek(fd, offset, os.SEEK_SET)
                left = libc.syscall(217, fd, room, len(room))  # getdents64
                assert left >= 0, offset
                at = 0
                while at < left:
                    (length,) = struct.unpack_from("<H", room, at + 16)
                    name = room.raw[at + 19 : at + length].split(b"\0")[0]
                    assert name in (b".", b"..") or os.path.lexists(os.fsencode(tree / "many") + b"/" + name), offset
                    at += length
        finally:
            os.close(fd)
        assert sorted(os.listdir(tmp_path / "m" / "many")) == sorted(os.listdir(tree / "many"))


@pytest.mark.spec("MOUNT-3")
def test_a_folder_behind_links_and_relative(plain: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real" / "m").mkdir(parents=True)
    os.symlink("real", tmp_path / "to-real")
    os.symlink("real/m", tmp_path / "to-m")
    monkeypatch.chdir(tmp_path)
    for folder in ("to-real/m", "to-m", "./to-real/../real/m"):
        keeper = mounting.in_background(plain, lambda: open_image(plain), folder, mounting.MountOptions(), "")
        try:
            killed_servers(keeper)
            assert forgotten(tmp_path / "real" / "m" / "file") == (tmp_path / "plain" / "file").read_bytes()
        finally:
            mounting.unmount(folder)
            ended(keeper)


@pytest.mark.spec("MOUNT-3")
def test_inside_another_mount_and_below_one(image: str, plain: str, tmp_path: Path) -> None:
    with ours(image, tmp_path / "m"):
        inside = tmp_path / "m" / "empty" / "deep"
        while list(inside.iterdir()):
            (inside,) = inside.iterdir()
        with ours(plain, inside):
            assert (inside / "file").stat().st_size == 1 << 20
            with pytest.raises(Conflict) as told:
                mounting.unmount(str(tmp_path / "m"))
            assert told.value.code == "in-use"
        assert (tmp_path / "m" / "a-b").read_bytes() == b"beside"


@pytest.mark.spec("MOUNT-3")
def test_the_caller_is_let_go(plain: str, tmp_path: Path) -> None:
    """`x=$(dls mount …)` ends, and the mount outlives the session it was made in."""
    (tmp_path / "m").mkdir()
    line = " ".join(map(shlex.quote, [*PROGRAM, "mount", plain, str(tmp_path / "m")]))
    script = f'exec 9>{tmp_path}/held; x=$({line}) || exit 1; echo "$x" | head -1'
    env = {**os.environ, "DLS_HOME": str(tmp_path / "home")}
    done = subprocess.run(["setsid", "bash", "-c", script], capture_output=True, text=True, timeout=60, env=env)
    try:
        assert done.returncode == 0, done.stderr
        assert "is mounted on" in done.stdout
        keeper = next(p for p in psutil.process_iter(["pid"]) if _keeps(p, plain))
        assert os.getsid(keeper.pid) == keeper.pid
        assert keeper.cwd() == "/"
        for one in (keeper, *keeper.children()):
            held = {os.path.basename(os.readlink(p)) for p in Path(f"/proc/{one.pid}/fd").iterdir()}
            assert "held" not in held
            assert not [name for name in held if name.startswith("pipe:")]
        (log,) = (tmp_path / "home" / "mounts").iterdir()
        assert log.read_text() == ""
    finally:
        mounting.unmount(str(tmp_path / "m"), lazy=True)
    wait_until(lambda: not lives(keeper))


def _keeps(process: psutil.Process, image: str) -> bool:
    try:
        return image in process.cmdline() and os.getsid(process.pid) == process.pid and bool(process.children())
    except psutil.Error:
        return False


def as_nobody(work: object) -> str:
    """Do something as an ordinary user; the code of the error of ours that came of it, or what else happened."""
    ours_end, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        said = "nothing"
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            work()  # type: ignore[operator]
        except DlsError as error:
            said = f"{error.code}: {error} {error.remedy}"
        except BaseException as problem:  # noqa: BLE001
            said = repr(problem)
        finally:
            os.write(theirs, said.encode())
            os._exit(0)
    os.close(theirs)
    with open(ours_end, "rb") as found:
        said = found.read().decode()
    os.waitpid(child, 0)
    return said


@pytest.mark.spec("MOUNT-1")
@pytest.mark.usefixtures("fuse_device")
def test_what_is_missing_is_said(plain: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    for above in (tmp_path, *tmp_path.parents):
        if above.owner() == "root" and above != Path("/"):
            above.chmod(above.stat().st_mode | 0o055)
    os.chmod("/dev/fuse", 0o600)
    os.chown(folder, NOBODY, NOBODY)
    assert as_nobody(lambda: mounting.mount(plain, str(folder))).startswith("no-fuse: /dev/fuse cannot be opened: P")
    os.chmod("/dev/fuse", 0o666)
    others = mounting.MountOptions(allow_other=True)
    if "\nuser_allow_other" not in "\n" + Path("/etc/fuse.conf").read_text():
        said = as_nobody(lambda: mounting.mount(plain, str(folder), others))
        assert said.startswith("not-mounted:")
        assert "have root write user_allow_other into /etc/fuse.conf" in said
    os.chown(folder, 0, 0)
    assert as_nobody(lambda: mounting.mount(plain, str(folder))).startswith("no-access:")
    os.chown(folder, NOBODY, NOBODY)
    monkeypatch.setenv("PATH", "/nowhere")
    assert as_nobody(lambda: mounting.mount(plain, str(folder))).startswith("no-fuse: there is no fusermount3")
    monkeypatch.setattr(mounting, "_DEVICE", "/dev/no-such-fuse")
    with pytest.raises(Unsupported) as told:
        mounting.mount(plain, str(folder))
    assert told.value.code == "no-fuse"
    assert gone(folder)


@pytest.mark.spec("MOUNT-5")
def test_a_log_does_not_fill_the_disk(plain: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "_LONGEST_LOG", 2000)
    with ours(plain, tmp_path / "m"):
        with open(plain, "r+b") as out:
            out.write(bytes(1 << 19))
        for _ in range(60):
            with pytest.raises(OSError, match="Input/output"):
                forgotten(tmp_path / "m" / "file")
    log = Path(f"{tmp_path / 'm'}.log").read_text()
    assert len(log) < 3000
    assert log.startswith("(earlier lines were left out)")


@pytest.mark.spec("MOUNT-4")
def test_a_mount_whose_processes_are_all_killed(plain: str, tmp_path: Path) -> None:
    """Also where the kernel knows everything by heart that was ever asked."""
    with ours(plain, tmp_path / "m") as keeper:
        assert (tmp_path / "m" / "file").stat().st_size == 1 << 20
        os.listdir(tmp_path / "m")
        for process in (psutil.Process(keeper), *both(keeper)):
            process.suspend()
        for pid in [keeper, *(one.pid for one in psutil.Process(keeper).children())]:
            os.kill(pid, signal.SIGKILL)
        os.waitpid(keeper, 0)
        (found,) = [one for one in mounting.mounted() if one.folder == str(tmp_path / "m")]
        wait_until(lambda: found.state() == "dead")
        with ours(plain, tmp_path / "m"):
            assert (tmp_path / "m" / "file").read_bytes() == (tmp_path / "plain" / "file").read_bytes()


@pytest.mark.spec("MOUNT-1", "MOUNT-6")
def test_by_mount_and_fstab(plain: str, tmp_path: Path) -> None:
    """As an administrator does it: mount -t dls, a line of fstab, umount; in a name space of mounts of its own, whose
    /sbin has the helper."""
    helper = Path(sys.executable).with_name("mount.dls")
    assert helper.exists()
    for name in ("sbin", "m", "home"):
        (tmp_path / name).mkdir()
    (tmp_path / "sbin" / "mount.dls").symlink_to(helper)
    (tmp_path / "fstab").write_text(f"{plain} {tmp_path}/m dls defaults,nofail,servers=2,idle_timeout=PT1H 0 0\n")
    script = f"""
        set -e
        mount --make-rprivate /
        mount -t overlay none -o lowerdir={tmp_path}/sbin:/usr/sbin /usr/sbin
        mount -t dls -o servers=2,ro {plain} {tmp_path}/m
        cmp {tmp_path}/m/file {tmp_path}/plain/file
        mount -t dls {plain} {tmp_path}/m && exit 1
        umount {tmp_path}/m
        mount -T {tmp_path}/fstab {tmp_path}/m
        cmp {tmp_path}/m/file {tmp_path}/plain/file
        mount -t dls -o nonsense {plain} {tmp_path}/home && exit 1
        umount {tmp_path}/m
        echo all
    """
    env = {**os.environ, "DLS_HOME": str(tmp_path / "home")}
    words = ["unshare", "--mount", "bash", "-c", script]
    done = subprocess.run(words, capture_output=True, text=True, timeout=90, env=env)
    assert done.stdout.endswith("all\n"), done.stderr
    assert "is mounted on" in done.stderr
    assert "unknown option" in done.stderr
    wait_until(lambda: not [p for p in psutil.process_iter(["pid"]) if _keeps(p, plain)])


@pytest.mark.spec("MOUNT-9")
def test_reads_that_wait_are_answered_by_threads(
    tree: Path, image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The compiled path leaves such reads to this one (test_fast.py), but is so quick that none waits for another here.
    monkeypatch.setattr(fast, "_module", lambda: None)
    want = {p.name: p.read_bytes() for p in (tree / "many").iterdir() if p.is_file()}
    wrong: list[str] = []
    most = 0
    with ours(image, tmp_path / "m", servers=1) as keeper:
        (server,) = psutil.Process(keeper).children()

        def look(names: list[str]) -> None:
            for name in names:
                with open(image, "rb") as file:  # whatever was read of the image is read from the disk again
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                if (tmp_path / "m" / "many" / name).read_bytes() != want[name]:
                    wrong.append(name)

        readers = [threading.Thread(target=look, args=(sorted(want)[i::32],)) for i in range(32)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(60)
            most = max(most, server.num_threads())
        assert not wrong
        assert 1 < most <= THREADS + 1


@pytest.mark.spec("MOUNT-10")
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one processor: one server")
def test_a_second_server_comes_when_there_is_too_much_to_do(tree: Path, image: str, tmp_path: Path) -> None:
    names = sorted(p.name for p in (tree / "many").iterdir() if p.is_file())

    def look(order: random.Random, rounds: int) -> None:
        for name in (order.choice(names) for _ in range(rounds)):
            fd = os.open(tmp_path / "m" / "many" / name, os.O_RDONLY)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            assert os.read(fd, 1 << 20) == (tree / "many" / name).read_bytes()
            os.close(fd)

    with ours(image, tmp_path / "m") as keeper:
        one, other = both(keeper)
        wait_until(lambda: other.status() == psutil.STATUS_SLEEPING)

        def woken() -> int:
            return int(other.num_ctx_switches().voluntary)

        before = woken()
        until, number = time.monotonic() + 30, 0
        while woken() - before < 100 and time.monotonic() < until:
            readers = [threading.Thread(target=look, args=(random.Random(number + n), 50)) for n in range(16)]
            for reader in readers:
                reader.start()
            for reader in readers:
                reader.join(60)
            number += 16
        assert woken() - before >= 100
        one.kill()  # the one that is left sleeps: whoever asks waits for the one that takes its place
        look(random.Random(2), 50)
        other.kill()
        look(random.Random(3), 50)
        assert not trees.differences(tree, tmp_path / "m")
    wait_until(lambda: gone(tmp_path / "m"))
