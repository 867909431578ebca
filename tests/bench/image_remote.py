"""An image behind HTTP, 20 ms away: the first walk and the first files, by us, by squashfuse on `rclone mount`, without
and with a cache on the disk, and by ratarmount of the same tree as tar.

nginx serves the image, a proxy holds every request back for 20 ms; once the line has no limit of rate (as fast as
loopback), once 1 Gb/s, as a node's line to another site may have.  Each turn mounts anew with empty caches; the clock
runs from the mount command on, so fetching an index is inside.  walk: `find` with stat of all; then, each in a
mount of its own, 1,000 files in order of names and 1,000 by chance; ready: the mount command alone.  What is read
is compared with the tree.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

from bench.contender import drop_caches
from bench.ours import dls
from bench.rounds import Place
from components import tree
from components.nginx import nginx
from components.proxy import Proxy
from dls.fuse.pack import Options, pack

PEER = "rclone+squashfuse"
"""`rclone mount` as it comes: nothing is kept on the disk."""
KEPT = "rclone-kept+squashfuse"
"""`rclone mount --vfs-cache-mode full`: what was read stays on the disk, and much is read ahead."""
TAR = "ratarmount"
AWAY_S = 0.02
LINES = {"no limit of rate": 0.0, "1 Gb/s": 125e6}
"""Bytes a second; ratarmount takes part in the first only, for it takes minutes."""
FILES = 1000
PATIENCE_S = 600


def run(place: Place, full: bool, rounds: int) -> list[dict[str, Any]]:
    """Measure; the rows, also printed and written to build/bench/image-remote.jsonl by the caller."""
    files = 100_000 if full else 20_000
    source, served = place.disk / "remote-source", place.large / "served"
    served.mkdir()
    tree.mixed(source, files)
    packed = pack(str(source), str(served / "i.sqfs"), Options())
    subprocess.run(["tar", "cf", served / "i.tar", "-C", source, "."], check=True)
    names = [f"d{n // 100:05d}/f{n:07d}" for n in range(files)]
    first, some = (
        {name: (source / name).read_bytes() for name in which}
        for which in (names[:FILES], random.Random(4).sample(names, FILES))
    )
    work: dict[str, Callable[[Path], object]] = {
        "ready_s": os.stat,
        "walk_s": _walk,
        "in_order_s": lambda where: _read(where, first),
        "by_chance_s": lambda where: _read(where, some),
    }
    rows: list[dict[str, Any]] = []
    with ExitStack() as stack:
        service = stack.enter_context(nginx(place.large, served, index="html"))
        proxy = stack.enter_context(Proxy(service.endpoint))
        proxy.delay = AWAY_S
        for number in range(rounds):
            for (line, rate), who in product(LINES.items(), ("dls", PEER, KEPT, TAR)):
                if who == TAR and (number or rate):
                    continue
                proxy.rate = rate
                row: dict[str, Any] = {"contender": who, "files": files, "line": line}
                for figure, what in work.items():
                    proxy.reset()
                    drop_caches()
                    row[figure] = _timed(who, proxy.endpoint, place.large, what)
                    row[figure.replace("_s", "_requests")] = len(proxy.log)
                rows.append(row)
                print(f"  image-remote, round {number + 1}: {json.dumps(row)}", file=sys.stderr, flush=True)
    _print(rows, files, packed.bytes)
    return rows


def _timed(who: str, endpoint: str, place: Path, work: Callable[[Path], object]) -> float:
    with tempfile.TemporaryDirectory(dir=place) as scratch:
        began = time.monotonic()
        with HOW[who](endpoint, Path(scratch)) as where:
            work(where)
            return round(time.monotonic() - began, 3)


@contextmanager
def _ours(endpoint: str, scratch: Path) -> Iterator[Path]:
    folder = scratch / "mounted"
    folder.mkdir()
    env = {**os.environ, "HOME": str(scratch), "DLS_HOME": str(scratch / "home"), "XDG_CACHE_HOME": str(scratch)}
    subprocess.run(
        dls("--quiet", "mount", f"{endpoint}/i.sqfs", folder), check=True, env=env, stdout=subprocess.DEVNULL
    )
    try:
        yield folder
    finally:
        _unmount(folder)


@contextmanager
def _rclone(endpoint: str, scratch: Path, *how: str) -> Iterator[Path]:
    far, folder = scratch / "far", scratch / "mounted"
    far.mkdir()
    folder.mkdir()
    rclone = Path(sys.executable).parent / "rclone"
    words = ["mount", ":http:", far, "--http-url", endpoint, "--read-only", *how]
    places = ["--cache-dir", scratch / "cache", "--config", scratch / "none", "--log-file", scratch / "log"]
    with _served([rclone, *words, *places], far, scratch):
        subprocess.run(["squashfuse_ll", far / "i.sqfs", folder], check=True, stdout=subprocess.DEVNULL)
        try:
            yield folder
        finally:
            _unmount(folder)


def _rclone_kept(endpoint: str, scratch: Path) -> AbstractContextManager[Path]:
    return _rclone(endpoint, scratch, "--vfs-cache-mode", "full")


@contextmanager
def _ratarmount(endpoint: str, scratch: Path) -> Iterator[Path]:
    folder = scratch / "mounted"
    folder.mkdir()
    program = Path(sys.executable).parent / "ratarmount"
    # In the foreground: in the background it does not mount what is behind HTTP.
    with _served([program, "-f", "--index-file", scratch / "index", f"{endpoint}/i.tar", folder], folder, scratch):
        yield folder


HOW = {"dls": _ours, PEER: _rclone, KEPT: _rclone_kept, TAR: _ratarmount}


@contextmanager
def _served(command: Sequence[str | Path], folder: Path, scratch: Path) -> Iterator[None]:
    """What a program mounts that stays in the foreground."""
    with (scratch / "said").open("wb") as said:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
    try:
        until = time.monotonic() + PATIENCE_S
        while not os.path.ismount(folder):
            if child.poll() is not None or time.monotonic() > until:
                raise OSError(f"{command[0]} does not mount: {(scratch / 'said').read_text()[-300:]}")
            time.sleep(0.005)
        yield
    finally:
        _unmount(folder)
        with suppress(subprocess.TimeoutExpired):
            child.wait(20)
        child.kill()
        child.wait()


def _unmount(folder: Path) -> None:
    for _ in range(50):
        if subprocess.run(["umount", folder], capture_output=True).returncode == 0:
            return
        time.sleep(0.1)
    subprocess.run(["umount", "-l", folder], capture_output=True)


def _walk(where: Path) -> None:
    subprocess.run(
        ["find", where, "-printf", "%s\\n"], check=True, stdout=subprocess.DEVNULL, timeout=PATIENCE_S
    )  # fmt: skip


def _read(where: Path, wanted: dict[str, bytes]) -> None:
    for name, body in wanted.items():
        if (where / name).read_bytes() != body:
            raise RuntimeError(f"{name} differs")


def _print(rows: list[dict[str, Any]], files: int, size: int) -> None:
    print(f"image-remote: {files:,} files in {size / 1e6:,.0f} MB, {AWAY_S * 1000:.0f} ms away; seconds, requests")
    for line, figure in product(LINES, ("ready", "walk", "in_order", "by_chance")):
        if figure == "ready":
            print(f"  {line}")
        there = [row for row in rows if row["line"] == line]
        peer = median(row[f"{figure}_s"] for row in there if row["contender"] == PEER)
        for who in ("dls", PEER, KEPT, TAR):
            if not (mine := [row for row in there if row["contender"] == who]):
                continue
            took = median(row[f"{figure}_s"] for row in mine)
            asked = median(row[f"{figure}_requests"] for row in mine)
            print(f"  {figure:10} {who:18} {took:8.2f} ({peer / took:.2f})  {asked:6.0f}")
