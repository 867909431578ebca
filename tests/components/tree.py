"""Trees of files for tests and benches: many small ones, odd ones, real ones; one large file."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

REAL = (Path("/usr/share/casacore"), Path("/usr/share/gmt-gshhg"), Path("/usr/share/gmt"))
ODD_NAMES: tuple[bytes, ...] = (
    b"plain",
    b"with space",
    b" leading space",
    b"trailing space ",
    b"percent%2Fslash",
    b"percent%zz",
    b"plus+sign",
    b"query?#&=;",
    b"quote'\"`",
    b"star*[a]{b}",
    b"colon:name",
    b"tilde~",
    b"-dash",
    b".hidden",
    b"trailing dot.",
    b"...",
    b"back\\slash",
    b"new\nline",
    b"tab\tname",
    b"bell\x07",
    b"del\x7f",
    b"dollar$HOME",
    "é nfc".encode(),
    "e\u0301 nfd".encode(),
    "日本語".encode(),
    "emoji😀".encode(),
    "zero\u200bwidth".encode(),
    b"latin1 \xe9\xe8",
    b"invalid \xff\xfe utf-8",
    b"UPPER",
    b"upper",
    b"CON",
    b"n" * 255,
    "é".encode() * 127,
)
OLD_NS = -86_400 * 10**9  # 1969-12-31
FAR_NS = 4_102_444_800 * 10**9 + 123_456_789  # 2100-01-01
FINE_NS = 1_600_000_000 * 10**9 + 999_999_999


def mixed(root: Path, count: int, *, seed: int = 7) -> int:
    """Write `count` files of log-normal sizes (100 B to 64 KB), 100 to a folder, every second one text; the bytes.

    Names are `d00000/f0000000`.
    """
    rng = random.Random(seed)
    words = [f"{rng.getrandbits(40):x}".encode() for _ in range(4000)]
    text = b" ".join(rng.choice(words) for _ in range(600_000))
    noise = rng.randbytes(8 << 20)
    total = 0
    for number in range(count):
        if number % 100 == 0:
            folder = root / f"d{number // 100:05d}"
            folder.mkdir(parents=True)
        size = min(65536, max(100, int(rng.lognormvariate(8.4, 1.1))))
        pool = text if number % 2 else noise
        at = rng.randrange(len(pool) - size)
        with open(f"{folder}/f{number:07d}", "wb") as out:
            out.write(pool[at : at + size])
        total += size
    return total


def small(root: Path, count: int, *, size: int = 10_000, seed: int = 1, per_folder: int = 500) -> int:
    """Write `count` files of `size` bytes, all different, `per_folder` to a folder (made here); return the bytes.

    Names are `d0000/f000000`. A file is its number and a slice of one random megabyte: about 30,000 files a second.
    """
    pool = random.Random(seed).randbytes(size + (1 << 20))
    root.mkdir(parents=True, exist_ok=True)
    for first in range(0, count, per_folder):
        folder = root / f"d{first // per_folder:04d}"
        folder.mkdir()
        fd = os.open(folder, os.O_RDONLY)
        try:
            for number in range(first, min(first + per_folder, count)):
                start = number * 7919 % (1 << 20)
                data = (number.to_bytes(8, "big") + pool[start : start + size])[:size]
                file = os.open(f"f{number:06d}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=fd)
                os.write(file, data)
                os.close(file)
        finally:
            os.close(fd)
    return count * size


def large(path: Path, size: int, *, seed: int = 1) -> int:
    """Write one file of `size` bytes that neither compresses nor repeats within a block; return the bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    block = bytearray(random.Random(seed).randbytes(1 << 23))
    with path.open("wb", buffering=0) as file:
        for at in range(0, size, len(block)):
            block[:8] = at.to_bytes(8, "big")
            file.write(memoryview(block)[: size - at])
    return size


def odd(root: Path) -> None:
    """Write everything that a tree may legally hold and software forgets."""
    top = os.fsencode(root)
    os.makedirs(os.path.join(top, b"names"), exist_ok=True)
    for number, name in enumerate(ODD_NAMES):
        _write(os.path.join(top, b"names", name), b"%d:" % number + name)
        os.makedirs(os.path.join(top, b"folders", name))
        _write(os.path.join(top, b"folders", name, b"inside"), name)
    deep = os.path.join(top, b"deep", *(b"level%02d" % level for level in range(40)))
    os.makedirs(deep)
    _write(os.path.join(deep, b"bottom"), b"deep")
    _write(os.path.join(top, b"empty file"), b"")
    os.makedirs(os.path.join(top, b"empty folder", b"nested empty"))
    _sort_traps(top)
    _links(os.path.join(top, b"links"))
    _modes_and_times(os.path.join(top, b"attributes"))
    with open(os.path.join(top, b"sparse"), "wb") as file:
        file.truncate(8 << 20)
        file.seek(4 << 20)
        file.write(b"island")


def _sort_traps(top: bytes) -> None:
    """Names whose order differs between whole paths as bytes and a walk folder by folder (`.` and `-` before `/`)."""
    for path in (b"order/a/x", b"order/a-b/x", b"order/a.b/x", b"order/a.txt", b"order/a0", b"order/ab/x"):
        os.makedirs(os.path.dirname(os.path.join(top, path)), exist_ok=True)
        _write(os.path.join(top, path), path)


def _links(folder: bytes) -> None:
    os.makedirs(os.path.join(folder, b"target folder"))
    _write(os.path.join(folder, b"target"), b"target")
    _write(os.path.join(folder, b"target folder", b"file"), b"file")
    for name, to in (
        (b"to file", b"target"),
        (b"to folder", b"target folder"),
        (b"dangling", b"no such file"),
        (b"absolute", b"/etc/hostname"),
        (b"to itself", b"to itself"),
        (b"up", b"../plain/.."),
        (b"not utf-8 \xff", b"to \xfe"),
        (b"long", b"x" * 1000),
    ):
        os.symlink(to, os.path.join(folder, name))
    for number in range(3):
        os.link(os.path.join(folder, b"target"), os.path.join(folder, b"hard %d" % number))
    os.link(os.path.join(folder, b"target folder", b"file"), os.path.join(folder, b"hard across"))


def _modes_and_times(folder: bytes) -> None:
    os.makedirs(folder)
    for mode in (0o400, 0o444, 0o600, 0o640, 0o644, 0o755, 0o777, 0o4755, 0o1644):
        path = os.path.join(folder, b"mode %04o" % mode)
        _write(path, b"%04o" % mode)
        os.chmod(path, mode)
    for name, stamp in ((b"old", OLD_NS), (b"epoch", 0), (b"far", FAR_NS), (b"fine", FINE_NS)):
        path = os.path.join(folder, b"mtime " + name)
        _write(path, name)
        os.utime(path, ns=(stamp, stamp))
    for name, mode in ((b"private folder", 0o700), (b"sticky folder", 0o1777), (b"read-only folder", 0o555)):
        path = os.path.join(folder, name)
        os.mkdir(path)
        _write(os.path.join(path, b"inside"), name)
        os.utime(path, ns=(FINE_NS, FINE_NS))
        os.chmod(path, mode)


def real() -> list[Path]:
    """Return the folders of real astronomy and geoscience data that Debian's packages installed here.

    casacore-data-* (tables and ephemerides), gmt-gshhg-low (coastlines, netCDF), gmt-common (colour tables, tides).
    """
    return [folder for folder in REAL if folder.is_dir()]


def walk(root: Path) -> Iterator[tuple[bytes, os.stat_result]]:
    """Give every path below `root` as bytes relative to it, with its lstat, in the order of a plain recursive scan."""
    top = os.fsencode(root)
    stack = [b""]
    while stack:
        here = stack.pop()
        with os.scandir(os.path.join(top, here) if here else top) as entries:
            for entry in entries:
                path = os.path.join(here, entry.name)
                yield path, entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    stack.append(path)


def _write(path: bytes, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
