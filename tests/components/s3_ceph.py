"""Ceph's S3 gateway over one monitor, one manager and one OSD in memory: the server closest to production.

It proves ETags, preconditions on GET, real multipart uploads, versions, presigned URLs, and it refuses a wrong secret.
Debian packages: ceph-mon ceph-mgr ceph-osd radosgw ceph-common (`--no-install-recommends`).
Everything lies under one folder; all ports are on loopback; daemons run in the foreground as our children.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from components.process import Child, NotReady, free_port
from components.s3 import S3Service, http_answers

PROGRAMS = ("ceph-mon", "ceph-mgr", "ceph-osd", "radosgw", "radosgw-admin", "ceph", "ceph-authtool", "monmaptool")


def ceph_installed() -> bool:
    """Tell whether every program that `ceph_s3` needs is there."""
    return all(shutil.which(name) for name in PROGRAMS)


@contextmanager
def ceph_s3(work: Path, *, memory: int = 2 << 30) -> Iterator[S3Service]:
    """Start the cluster and its gateway; `memory` bytes is the size of the OSD, all in RAM."""
    if not ceph_installed():
        raise NotReady("Ceph is not installed: apt-get install --no-install-recommends " + " ".join(PROGRAMS[:4]))
    home = work / "ceph"
    home.mkdir(parents=True)
    ports = [free_port() for _ in range(3)]
    fsid = str(uuid.uuid4())
    _write_settings(home, fsid, ports[0], ports[2], memory)
    _make_keys(home)
    _call(home, "monmaptool", "--create", "--fsid", fsid, "--addv", "a", f"[v2:127.0.0.1:{ports[0]}]", home / "monmap")
    _call(home, "ceph-mon", "-i", "a", "--mkfs", "--monmap", home / "monmap", "--keyring", home / "keyring")
    endpoint = f"http://127.0.0.1:{ports[2]}"
    with ExitStack() as stack:
        mon = stack.enter_context(_daemon(home, "ceph-mon", "-i", "a"))
        mon.wait_ready(lambda: _answers(home, "status"), within=60, every=0.2)
        _call(home, "ceph", "osd", "new", _osd_uuid(home), timeout=30)
        _call(home, "ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", _osd_uuid(home))
        osd = stack.enter_context(_daemon(home, "ceph-osd", "-i", "0"))
        mgr = stack.enter_context(_daemon(home, "ceph-mgr", "-i", "x"))
        osd.wait_ready(lambda: _osd_up(home), within=60, every=0.2)
        gateway = stack.enter_context(_daemon(home, "radosgw", "-n", "client.rgw"))
        gateway.wait_ready(lambda: http_answers(endpoint), within=120, every=0.2)
        access_key, secret_key = _make_user(home)
        yield S3Service(endpoint, access_key, secret_key, (gateway, osd, mgr, mon))


def _write_settings(home: Path, fsid: str, mon: int, gateway: int, memory: int) -> None:
    settings = f"""
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{mon}]
ms bind ipv4 = true
ms bind ipv6 = false
ms bind msgr1 = false
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
auth allow insecure global id reclaim = false
keyring = {home}/keyring
run dir = {home}
admin socket = {home}/$name.asok
log file = {home}/$name.log
pid file =
crash dir = {home}/crash
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pgp num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon warn on pool no redundancy = false
mon max pg per osd = 1000
[mon]
mon data = {home}/mon
mon cluster log file = {home}/cluster.log
[mgr]
mgr data = {home}/mgr
mgr initial modules =
public addr = 127.0.0.1
[osd]
public addr = 127.0.0.1
cluster addr = 127.0.0.1
osd data = {home}/osd
osd objectstore = memstore
memstore device bytes = {memory}
memstore page set = false
osd class load list = *
osd class default list = *
osd scrub begin hour = 0
osd scrub end hour = 0
[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:{gateway}
rgw data = {home}/rgw
rgw enable usage log = false
rgw run sync thread = false
rgw enable ops log = false
rgw thread pool size = 64
debug rgw = 0
"""
    (home / "ceph.conf").write_text(settings)
    for name in ("mon", "mgr", "osd", "rgw", "crash"):
        (home / name).mkdir()


def _make_keys(home: Path) -> None:
    keyring = home / "keyring"
    rights = {
        "mon.": ["--cap", "mon", "allow *"],
        "client.admin": ["--cap", "mon", "allow *", "--cap", "osd", "allow *", "--cap", "mgr", "allow *"],
        "mgr.x": ["--cap", "mon", "allow profile mgr", "--cap", "osd", "allow *", "--cap", "mds", "allow *"],
        "osd.0": ["--cap", "mon", "allow profile osd", "--cap", "mgr", "allow profile osd", "--cap", "osd", "allow *"],
        "client.rgw": ["--cap", "mon", "allow rw", "--cap", "osd", "allow rwx", "--cap", "mgr", "allow rw"],
    }
    keyring.touch(mode=0o600)
    for name, caps in rights.items():
        _call(home, "ceph-authtool", keyring, "--gen-key", "-n", name, *caps)


def _make_user(home: Path) -> tuple[str, str]:
    """Make the S3 user; Ceph draws its keys, so neither stands in an argument list."""
    made = _call(home, "radosgw-admin", "-n", "client.rgw", "user", "create", "--uid=dls", "--display-name=dls")
    key = json.loads(made)["keys"][0]
    return key["access_key"], key["secret_key"]


def _osd_uuid(home: Path) -> str:
    path = home / "osd-uuid"
    if not path.exists():
        path.write_text(str(uuid.uuid4()))
    return path.read_text()


def _osd_up(home: Path) -> bool:
    status = json.loads(_call(home, "ceph", "osd", "stat", "--format=json", timeout=30))
    return bool(status.get("num_up_osds"))


def _answers(home: Path, *words: str) -> bool:
    try:
        _call(home, "ceph", "--connect-timeout", "5", *words, timeout=15)
    except (NotReady, subprocess.TimeoutExpired):
        return False
    return True


def _call(home: Path, name: str, *words: str | Path, timeout: float = 60) -> str:
    """Run one Ceph tool on our settings; return its standard output."""
    argv = [name, *(os.fspath(word) for word in words)]
    if name not in ("ceph-authtool", "monmaptool"):
        argv += ["-c", str(home / "ceph.conf")]
    if name == "radosgw-admin":
        argv += ["--admin-socket="]  # the gateway holds the socket of that name
    done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise NotReady(f"{' '.join(argv)} gave {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout


def _daemon(home: Path, name: str, *words: str) -> Child:
    return Child([name, "-f", "-c", home / "ceph.conf", *words], log=home / f"{name}.out")
