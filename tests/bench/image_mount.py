"""Reading an image of 10^5 (reduced) or 10^6 small files that is mounted: by us, the kernel's SquashFS, squashfuse.

Each figure is of a fresh mount; `cold` after the caches of the kernel were dropped.  walk: `find` with stat of all;
random: open, read, close of random files, a second; sequential: one file of 1 GB (reduced: 256 MB), half of it text.
All mount the same image.  What is read by us is checked, what is read by the others is not.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from bench.contender import drop_caches
from bench.ours import dls
from bench.rounds import Place
from components import tree
from dls.fuse.image import open_image
from dls.fuse.pack import Options, pack

PEER = "squashfuse_ll"
ROUNDS = 3


def run(place: Place, full: bool) -> list[dict[str, Any]]:
    """Measure; the rows, also printed and written to build/bench/image-mount.jsonl by the caller."""
    files = 1_000_000 if full else 100_000
    source, image, folder = place.disk / "mount-source", place.large / "i.sqfs", place.large / "mounted"
    tree.mixed(source, files)
    large = (1 << 30) if full else (256 << 20)
    (source / "large").write_bytes(b"".join(_half(i) for i in range(large >> 20)))
    packed = pack(str(source), str(image), Options())
    folder.mkdir()
    names = [f"d{n // 100:05d}/f{n:07d}" for n in random.Random(2).sample(range(files), min(files, 5000))]
    _compared(source, image, names)
    rows: list[dict[str, Any]] = []
    for number in range(ROUNDS):
        for who in ("dls", "dls-2-servers", "kernel", PEER, "host"):
            rows.append({"contender": who, "files": files, **_all(who, source, image, folder, names)})
            print(f"  image-mount, round {number + 1}: {json.dumps(rows[-1])}", file=sys.stderr, flush=True)
    rows.append({"contender": "dls-python", "files": files, **_python(image, names)})
    _print(rows, files, packed.bytes)
    return rows


def _half(number: int) -> bytes:
    noise = random.Random(number).randbytes(512 << 10)
    return noise + b"%d some words of text " % number * ((512 << 10) // len(b"%d some words of text " % number))


def _compared(source: Path, image: Path, names: list[str]) -> None:
    """The image holds what the source does; a sample is enough here, the tests look at all."""
    with open_image(str(image)) as found:
        for name in names[:500]:
            if found.read(found.find(name.encode())) != (source / name).read_bytes():
                raise RuntimeError(f"{name} differs")


@contextmanager
def _mounted(who: str, source: Path, image: Path, folder: Path) -> Iterator[Path]:
    if who == "host":
        yield source
        return
    command: dict[str, list[str | Path]] = {
        "dls": dls("--quiet", "mount", image, folder),
        "dls-2-servers": dls("--quiet", "mount", "--servers", "2", image, folder),
        "kernel": ["mount", "-t", "squashfs", "-o", "loop,ro", image, folder],
        PEER: [PEER, image, folder],
    }
    subprocess.run(command[who], check=True, stdout=subprocess.DEVNULL)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def _all(who: str, source: Path, image: Path, folder: Path, names: list[str]) -> dict[str, float]:
    out: dict[str, float] = {}

    def timed(name: str, cold: bool, work: Callable[[Path], object]) -> None:
        if cold:
            drop_caches()
        with _mounted(who, source, image, folder) as where:
            began = time.monotonic()
            work(where)
            out[name] = round(time.monotonic() - began, 4)

    timed("first_stat_s", False, lambda where: os.stat(where / names[0]))
    for cold in (True, False):
        heat = "cold" if cold else "warm"
        timed(f"walk_{heat}_s", cold, _walk)
        timed(f"random1_{heat}_s", cold, lambda where: _read(where, names, 1))
        timed(f"random8_{heat}_s", cold, lambda where: _read(where, names, 8))
        timed(f"large_{heat}_s", cold, lambda where: _large(where / "large"))
    if who.startswith("dls"):
        with _mounted(who, source, image, folder) as where:
            _walk(where)
            out["memory_mb"] = _memory(folder)
    return out


def _walk(where: Path) -> None:
    subprocess.run(["find", where, "-printf", "%s\\n"], check=True, stdout=subprocess.DEVNULL)


def _read(where: Path, names: list[str], threads: int) -> None:
    def some(part: list[str]) -> None:
        for name in part:
            fd = os.open(f"{where}/{name}", os.O_RDONLY)
            while os.read(fd, 1 << 20):
                pass
            os.close(fd)

    readers = [threading.Thread(target=some, args=(names[i::threads],)) for i in range(threads)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()


def _large(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    while os.read(fd, 1 << 20):
        pass
    os.close(fd)


def _memory(folder: Path) -> float:
    """Private memory of all processes of our mount, MB: mapped pages of the index belong to the kernel's cache."""
    total = 0
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "mount" in words and str(folder) in words:
            total += process.memory_full_info().uss
    return round(total / 1e6, 1)


def _python(image: Path, names: list[str]) -> dict[str, float]:
    """The same random reads without a mount."""
    times = []
    for _ in range(ROUNDS):
        began = time.monotonic()
        with open_image(str(image)) as found:
            for name in names:
                found.read(found.find(name.encode()))
        times.append(time.monotonic() - began)
    return {"random1_warm_s": round(median(times), 4)}


def _print(rows: list[dict[str, Any]], files: int, size: int) -> None:
    figures = [key for key in rows[0] if key.endswith("_s")]
    who = list(dict.fromkeys(row["contender"] for row in rows))

    def middle(name: str, figure: str) -> float | None:
        found = [row[figure] for row in rows if row["contender"] == name and figure in row]
        return median(found) if found else None

    print(f"image-mount: {files:,} files in {size / 1e6:,.0f} MB; seconds (times {PEER})")
    print(f"{'':18}" + "".join(f"{name:>22}" for name in who))
    for figure in figures:
        peer = middle(PEER, figure)
        cells = [middle(name, figure) for name in who]
        print(
            f"{figure[:-2]:18}"
            + "".join(f"{'–' if c is None else f'{c:.3f} ({peer / c:.2f})' if peer else f'{c:.3f}':>22}" for c in cells)
        )
    print(
        "memory of ours, MB: "
        + ", ".join(f"{name} {middle(name, 'memory_mb')}" for name in who if middle(name, "memory_mb"))
    )
