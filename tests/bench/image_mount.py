"""Reading 10^5 (reduced) or 10^6 small files, and at full size a real tree, through mounts: ours and its peers'.

Each figure is of a fresh mount; `cold` after the caches of the kernel were dropped, `warm` after the same was done by
another mount just before, so that what is stored is in memory.  walk: `find` with stat of all;
random: open, read, close of random files; listed: the same behind a walk, as by who lists files first; sequential: one
file of 1 GB (reduced: 256 MB), half of it text.  dls, the kernel's SquashFS and squashfuse mount one image, ours; what
they would take of mksquashfs's own (zstd 3, 128 KiB a block), as who has no dls does, is a row of its own, for there
many small files share what must be decoded for one of them.  The others mount what their own tools make of the same
tree, not compressed (EROFS, ext4, tar).  What is read by us is checked, what is read by the others is not.
`nothing` is what a server reaches that answers at once, without index, image, decoding or sums.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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
OWN = "squashfuse_ll-own"
"""The same, of an image that mksquashfs made."""
PLAIN = "dls-python"
"""Ours without the compiled path."""
NOTHING = "nothing"
"""The floor: a server in C that has nothing to do (nothing.c); it can look up and read only."""
REDUCED = ("dls", PLAIN, "dls-2-servers", "kernel-squashfs", PEER, OWN, NOTHING, "host")
FULL = (*REDUCED, "kernel-erofs", "fuse2fs", "ratarmount")
REAL = Path("/usr")
Words = Sequence[str | Path]


@dataclass(frozen=True)
class Scene:
    """What is read: the tree, its image, where to mount, and names of files in an order of chance."""

    title: str
    source: Path
    image: Path
    folder: Path
    names: list[str]
    large: str

    def made(self, end: str, command: Words) -> Path:
        """What a peer's own tool makes of the tree, made once."""
        out = self.image.with_suffix(end)
        if not out.exists():
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return out


def run(place: Place, full: bool, rounds: int) -> list[dict[str, Any]]:
    """Measure; the rows, also printed and written to build/bench/image-mount.jsonl by the caller."""
    files = 1_000_000 if full else 100_000
    source = place.disk / "mount-source"
    tree.mixed(source, files)
    large = (1 << 30) if full else (256 << 20)
    (source / "large").write_bytes(b"".join(_half(i) for i in range(large >> 20)))
    names = [f"d{n // 100:05d}/f{n:07d}" for n in random.Random(2).sample(range(files), min(files, 5000))]
    rows = read(
        Scene(f"{files:,} files", source, place.large / "i.sqfs", place.large / "mounted", names, "large"), full, rounds
    )
    if full:
        rows += read(real(place), full, rounds, who=[one for one in FULL if one != NOTHING])
    return rows


def real(place: Place) -> Scene:
    """A tree that nobody made for a bench."""
    found = sorted(
        (str(Path(above, name).relative_to(REAL)) for above, _, some in os.walk(REAL) for name in some), key=os.fsencode
    )
    files = [name for name in found if (REAL / name).is_file() and not (REAL / name).is_symlink()]
    large = max(files, key=lambda name: (REAL / name).stat().st_size)
    names = random.Random(3).sample(files, min(len(files), 5000))
    return Scene(str(REAL), REAL, place.large / "real.sqfs", place.large / "mounted", names, large)


def read(scene: Scene, full: bool, rounds: int, *, who: Sequence[str] = ()) -> list[dict[str, Any]]:
    """All figures of one tree."""
    packed = pack(str(scene.source), str(scene.image), Options(replace=True))
    scene.folder.mkdir(exist_ok=True)
    _compared(scene)
    rows: list[dict[str, Any]] = []
    for number in range(rounds):
        for one in who or (FULL if full else REDUCED):
            try:
                rows.append({"contender": one, "tree": scene.title, **_all(one, scene)})
            except (OSError, subprocess.CalledProcessError) as problem:  # a row of the table, not the end of the bench
                rows.append({"contender": one, "tree": scene.title, "problem": str(problem)})
            print(f"  image-mount, round {number + 1}: {json.dumps(rows[-1])}", file=sys.stderr, flush=True)
        rows.append({"contender": "dls-no-mount", "tree": scene.title, **_python(scene)})
        os.environ["DLS_FAST"] = "0"
        rows.append({"contender": "dls-python-no-mount", "tree": scene.title, **_python(scene)})
        del os.environ["DLS_FAST"]
    _print(rows, scene.title, packed.bytes)
    return rows


def _half(number: int) -> bytes:
    noise = random.Random(number).randbytes(512 << 10)
    return noise + b"%d some words of text " % number * ((512 << 10) // len(b"%d some words of text " % number))


def _compared(scene: Scene) -> None:
    """The image holds what the source does; a sample is enough here, the tests look at all."""
    with open_image(str(scene.image)) as found:
        for name in scene.names[:500]:
            if found.read(found.find(os.fsencode(name))) != (scene.source / name).read_bytes():
                raise RuntimeError(f"{name} differs")


def _command(who: str, scene: Scene) -> Words:
    image, folder, source = scene.image, scene.folder, scene.source
    if who.startswith("dls"):
        return dls("--quiet", "mount", *(["--servers", "2"] if who == "dls-2-servers" else []), image, folder)
    if who == "kernel-squashfs":
        return ["mount", "-t", "squashfs", "-o", "loop,ro", image, folder]
    if who == "kernel-erofs":
        made = scene.made(".erofs", ["mkfs.erofs", "--quiet", image.with_suffix(".erofs"), source])
        return ["mount", "-t", "erofs", "-o", "loop,ro", made, folder]
    if who == "fuse2fs":
        used = int(subprocess.check_output(["du", "-sk", "-x", source]).split()[0])
        made = image.with_suffix(".ext4")
        options = ["-q", "-F", "-m", "0", "-i", "4096", "-d", source, made, f"{used * 3 // 2 + 65536}k"]
        return ["fuse2fs", "-o", "ro", scene.made(".ext4", ["mkfs.ext4", *options]), folder]
    if who == "ratarmount":
        made = image.with_suffix(".tar")
        scene.made(".tar", ["tar", "cf", made, "-C", source, "."])
        return [Path(sys.executable).parent / "ratarmount", "--index-file", image.with_suffix(".tar.idx"), made, folder]
    if who == NOTHING:
        program, sizes = image.with_suffix(".nothing"), image.with_suffix(".sizes")
        if not sizes.exists():
            told = array("I", (os.path.getsize(one) for one in sorted(source.glob("d*/f*"))))
            sizes.write_bytes(told.tobytes())
        code = Path(__file__).with_name("nothing.c")
        return [scene.made(".nothing", ["gcc", "-O2", "-o", program, code]), folder, sizes]
    if who == OWN:
        made = image.with_suffix(".own")
        options = ["-comp", "zstd", "-Xcompression-level", "3", "-noappend", "-quiet", "-no-progress"]
        return [PEER, scene.made(".own", ["mksquashfs", source, made, *options]), folder]
    return [PEER, image, folder]


@contextmanager
def _mounted(who: str, scene: Scene) -> Iterator[Path]:
    if who == "host":
        yield scene.source
        return
    quiet = subprocess.DEVNULL
    env = {**os.environ, "DLS_FAST": "0"} if who == PLAIN else None
    subprocess.run(_command(who, scene), check=True, stdin=quiet, stdout=quiet, stderr=quiet, env=env)
    try:
        yield scene.folder
    finally:
        subprocess.run(["umount", scene.folder], check=True)


def _all(who: str, scene: Scene) -> dict[str, float]:
    out: dict[str, float] = {}
    with _mounted(who, scene):
        pass  # what is made once is made now

    def timed(name: str, cold: bool, work: Callable[[Path], object]) -> None:
        if cold:
            drop_caches()
        else:
            with _mounted(who, scene) as where:
                work(where)
        with _mounted(who, scene) as where:
            began = time.monotonic()
            work(where)
            out[name] = round(time.monotonic() - began, 4)

    names, able = scene.names, who != NOTHING
    if able:
        timed("first_stat_s", False, lambda where: os.stat(where / names[0]))
    for cold in (True, False):
        heat = "cold" if cold else "warm"
        if able:
            timed(f"walk_{heat}_s", cold, _walk)
        timed(f"random1_{heat}_s", cold, lambda where: _read(where, names, 1))
        timed(f"random8_{heat}_s", cold, lambda where: _read(where, names, 8))
        if able:
            timed(f"large_{heat}_s", cold, lambda where: _large(where / scene.large))
    for threads in (1, 8) if able else ():
        with _mounted(who, scene) as where:
            _walk(where)
            began = time.monotonic()
            _read(where, names, threads)
            out[f"random{threads}_listed_s"] = round(time.monotonic() - began, 4)
    if who.startswith("dls"):
        with _mounted(who, scene) as where:
            _walk(where)
            out["memory_mb"] = _memory(scene.folder)
            out["idle_cpu_s"] = _idle(scene.folder)
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


def _ours(folder: Path) -> list[psutil.Process]:
    found = psutil.process_iter(["cmdline"])
    return [one for one in found if {"mount", str(folder)} <= set(one.info["cmdline"] or [])]


def _memory(folder: Path) -> float:
    """Private memory of all processes of our mount, MB: mapped pages of the index belong to the kernel's cache."""
    return round(sum(one.memory_full_info().uss for one in _ours(folder)) / 1e6, 1)


def _idle(folder: Path) -> float:
    """CPU seconds in two seconds in which nobody asks."""
    before = [sum(one.cpu_times()[:2]) for one in _ours(folder)]
    time.sleep(2)
    return round(sum(sum(one.cpu_times()[:2]) for one in _ours(folder)) - sum(before), 3)


def _python(scene: Scene) -> dict[str, float]:
    """The same random reads without a mount: warm, as the others are when they read for the second time."""
    took = 0.0
    for _ in range(2):
        began = time.monotonic()
        with open_image(str(scene.image)) as found:
            for name in scene.names:
                found.read(found.find(os.fsencode(name)))
        took = time.monotonic() - began
    return {"random1_warm_s": round(took, 4)}


def _print(rows: list[dict[str, Any]], title: str, size: int) -> None:
    figures = [key for key in rows[0] if key.endswith("_s")]
    who = list(dict.fromkeys(row["contender"] for row in rows))

    def middle(name: str, figure: str) -> float | None:
        found = [row[figure] for row in rows if row["contender"] == name and figure in row]
        return median(found) if found else None

    print(f"image-mount: {title} in {size / 1e6:,.0f} MB; seconds (times {PEER}; times {OWN})")
    print(f"{'':18}" + "".join(f"{name:>24}" for name in who))
    for figure in figures:
        peers = [peer for name in (PEER, OWN) if (peer := middle(name, figure))]
        cells = [
            "–"
            if (c := middle(name, figure)) is None
            else f"{c:.3f} ({'; '.join(f'{peer / c:.2f}' for peer in peers)})"
            for name in who
        ]
        print(f"{figure[:-2]:18}" + "".join(f"{cell:>24}" for cell in cells))
    print(
        "memory of ours, MB: "
        + ", ".join(f"{name} {middle(name, 'memory_mb')}" for name in who if middle(name, "memory_mb"))
    )
