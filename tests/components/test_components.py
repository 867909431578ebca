"""Each component starts, is ready, does what it is for, and leaves no process, port or mount."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from components import tree
from components.compare import same_tree
from components.loopdisk import LoopDisk, loop_disk
from components.process import Child, NotReady, port_answers
from components.s3 import S3Service
from components.s3_ceph import ceph_installed, ceph_s3
from components.s3_moto import moto_s3
from components.s3_rclone import rclone_s3

pytestmark = pytest.mark.service
BODY = bytes(range(256)) * 4096  # 1 MiB
Need = Callable[[str, object, str], None]

# ---------------------------------------------------------------------------------------------- process


def test_a_child_that_ends_early_shows_its_log(tmp_path: Path) -> None:
    child = Child([sys.executable, "-c", "print('the reason'); raise SystemExit(3)"], log=tmp_path / "log")
    with pytest.raises(NotReady, match=r"(?s)ended with 3.*the reason"), child:
        child.wait_ready(lambda: False, within=10)
    assert not child.alive


def test_a_stubborn_child_and_its_own_children_are_killed_also_when_an_exception_passes(tmp_path: Path) -> None:
    stubborn = "import signal, subprocess; signal.signal(15, signal.SIG_IGN); p = subprocess.Popen(['sleep', '100'])"
    child = Child([sys.executable, "-uc", stubborn + "; print(p.pid); p.wait()"], log=tmp_path / "log")
    grandchild = 0

    def fail_inside() -> None:
        nonlocal grandchild
        with child:
            child.wait_ready(lambda: bool(child.tail()))
            grandchild = int(child.tail())
            child.pause()
            assert psutil.Process(child.pid).status() == psutil.STATUS_STOPPED
            child.stop(grace=0.3)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_inside()
    assert not _running(child.pid)
    until = time.monotonic() + 10  # killed with its parent; it goes as soon as it is scheduled
    while _running(grandchild):
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.parametrize("thread", [False, True], ids=["main", "thread"])
def test_nothing_outlives_a_parent_that_is_killed(tmp_path: Path, thread: bool) -> None:
    code = f"""
import sys, threading, time; sys.path[:0] = {sys.path!r}
from pathlib import Path
from components.process import Child
c = Child(["sh", "-c", "sleep 100 & wait"], log=Path({str(tmp_path / "log")!r}))
if {thread}: t = threading.Thread(target=c.start); t.start(); t.join()
else: c.start()
print(c.pid, flush=True); time.sleep(100)"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    group = int(parent.stdout.readline())
    everyone = [psutil.Process(group), *psutil.Process(parent.pid).children(recursive=True)]
    assert len(everyone) >= 3
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert not psutil.wait_procs(everyone, timeout=5)[1]


# --------------------------------------------------------------------------------------------------- S3

SERVERS: dict[str, Callable[[Path], AbstractContextManager[S3Service]]] = {
    "rclone": rclone_s3,
    "rclone-cached": partial(rclone_s3, fresh=False),
    "moto": moto_s3,
    "ceph": ceph_s3,
}


@pytest.mark.parametrize("name", SERVERS)
def test_an_s3_server_works_and_goes(name: str, tmp_path: Path, need: Need) -> None:
    need("ceph", name != "ceph" or ceph_installed(), "not installed")
    with SERVERS[name](tmp_path) as server:
        client = server.client()
        bucket = server.bucket("first-bucket")
        client.put_object(Bucket=bucket, Key="folder/é name+%2F", Body=b"hello")
        client.put_object(Bucket=bucket, Key="folder/big", Body=BODY)
        listed = client.list_objects_v2(Bucket=bucket)["Contents"]
        assert [(item["Key"], item["Size"]) for item in listed] == [("folder/big", 1 << 20), ("folder/é name+%2F", 5)]
        assert client.get_object(Bucket=bucket, Key="folder/é name+%2F")["Body"].read() == b"hello"
        part = client.get_object(Bucket=bucket, Key="folder/big", Range="bytes=255-257")
        assert part["Body"].read() == b"\xff\x00\x01"
        wrong = server.client(secret_key="wrong" * 8)
        if name == "moto":
            assert wrong.list_objects_v2(Bucket=bucket)["KeyCount"] == 2  # known: accepts everything
        else:
            with pytest.raises(wrong.exceptions.ClientError, match="SignatureDoesNotMatch"):
                wrong.list_objects_v2(Bucket=bucket)
        pids = [child.pid for child in server.children]
        for pid in pids:
            assert server.secret_key not in " ".join(psutil.Process(pid).cmdline())
        assert server.secret_key not in repr(server)
        assert set(server.env("http://127.0.0.1:1").values()) >= {server.secret_key, "http://127.0.0.1:1"}
    assert not any(map(_running, pids))
    assert not port_answers(urlsplit(server.endpoint).port or 0)


def test_rclone_shows_at_once_what_is_written_behind_its_back(tmp_path: Path) -> None:
    with rclone_s3(tmp_path) as server:
        client, bucket = server.client(), server.bucket("bucket")
        client.put_object(Bucket=bucket, Key="a/one", Body=b"1")
        assert client.list_objects_v2(Bucket=bucket)["KeyCount"] == 1
        (tmp_path / "s3-root/bucket/a/two").write_bytes(b"22")
        (tmp_path / "s3-root/bucket/a/one").write_bytes(b"longer")
        time.sleep(0.01)
        found = [(item["Key"], item["Size"]) for item in client.list_objects_v2(Bucket=bucket)["Contents"]]
        assert found == [("a/one", 6), ("a/two", 2)]
        assert client.get_object(Bucket=bucket, Key="a/one")["Body"].read() == b"longer"


def test_a_frozen_server_answers_nothing_until_it_goes_on(tmp_path: Path) -> None:
    with rclone_s3(tmp_path) as server:
        server.bucket("bucket")
        server.pause()
        address = urlsplit(server.endpoint)
        link = http.client.HTTPConnection(address.hostname or "", address.port, timeout=0.5)
        link.request("GET", "/bucket")
        with pytest.raises(TimeoutError):
            link.getresponse()
        link.close()
        server.resume()
        assert server.client().head_bucket(Bucket="bucket")


# ------------------------------------------------------------------------------------------------- disk


def test_a_loop_disk_fills_up_turns_read_only_and_gives_power_cut_images(tmp_path: Path) -> None:
    with loop_disk(tmp_path, 16) as disk:
        (disk.folder / "kept").write_bytes(b"synced")
        os.sync()
        (disk.folder / "late").write_bytes(b"not synced")
        copy = disk.copy_image(tmp_path / "copy.ext4")
        with disk.mount_copy(copy, tmp_path / "copy") as after:
            assert (after.folder / "kept").read_bytes() == b"synced"
            late = after.folder / "late"
            assert not late.exists() or late.read_bytes() in (b"", b"not synced")
        disk.read_only()
        with pytest.raises(OSError, match="Read-only"):
            (disk.folder / "new").touch()
        disk.read_only(on=False)
        with pytest.raises(OSError, match="No space"):
            (disk.folder / "big").write_bytes(bytes(32 << 20))
    assert not disk.mounted


def test_a_disk_in_use_is_unmounted_all_the_same(tmp_path: Path) -> None:
    with loop_disk(tmp_path, 8) as disk:
        held = (disk.folder / "held").open("wb")
    assert not disk.mounted
    held.close()


def test_a_mount_goes_when_its_owner_is_killed(tmp_path: Path) -> None:
    code = f"""
import sys, time; sys.path[:0] = {sys.path!r}
from pathlib import Path
from components.loopdisk import loop_disk
with loop_disk(Path({str(tmp_path)!r}), 8):
    print(flush=True); time.sleep(100)"""
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert owner.stdout is not None
    owner.stdout.readline()
    disk = LoopDisk(tmp_path / "disk.ext4", tmp_path / "disk")
    was_mounted = disk.mounted
    os.kill(owner.pid, signal.SIGKILL)
    owner.wait()
    owner.stdout.close()
    for _ in range(100):
        if not disk.mounted:
            break
        time.sleep(0.05)
    assert (was_mounted, disk.mounted) == (True, False)


# ------------------------------------------------------------------------------------------------ trees


def test_trees_are_made_and_compared(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    tree.odd(first)
    subprocess.run(["cp", "-a", first, second], check=True)
    assert same_tree(first, second) == []
    inside = second / "names" / "plain"
    stamp = inside.stat().st_mtime_ns
    inside.write_bytes(b"0:plaim")
    os.utime(inside, ns=(stamp, stamp))
    assert same_tree(first, second) == ["b'names/plain': content differs"]
    (second / "links" / "dangling").unlink()
    (second / "attributes" / "mode 0600").chmod(0o644)
    os.utime(second / "attributes" / "mtime fine", ns=(0, 0))
    (second / "links" / "hard 1").unlink()
    (second / "links" / "hard 1").write_bytes(b"target")
    (second / "empty folder" / "nested empty").rmdir()
    found = "\n".join(same_tree(first, second))
    for word in ("only in the first: b'links/dangling'", "mode 0600", "mtime_ns", "hard links differ", "nested empty"):
        assert word in found
    assert tree.small(tmp_path / "small", 1200, size=100) == 120_000
    assert sum(found.st_size for _, found in tree.walk(tmp_path / "small") if found.st_nlink == 1) == 120_000
    assert tree.large(tmp_path / "large", 10_000_001) == (tmp_path / "large").stat().st_size


def _running(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
