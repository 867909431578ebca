"""Trees to pack: nasty ones, and how to look at one independently of our code."""

from __future__ import annotations

import os
import random
import socket
import stat
import subprocess
from pathlib import Path

SECONDS = 1_600_000_000
NASTY = (
    b" ",
    b"-n",
    b"%41",
    b"a\nb",
    b"back\\slash",
    "é".encode(),
    b"\xff\xfe",
    b"x" * 255,
    b"a",
    b"a-b",
    b"a.b",
    b"a0",
    b"~",
    b"'",
)


def nasty(root: Path, *, special: bool = True, large: int = 17) -> None:
    """Odd names, every kind, all sizes around borders, holes, hard links, attributes, modes, times; a file of `large`
    MiB and a bit: the usual one has a second block of digests."""
    rng = random.Random(11)
    top = os.fsencode(root)
    os.makedirs(top + b"/names", exist_ok=True)
    for name in NASTY:
        _file(top + b"/names/" + name, name)
    os.makedirs(top + b"/a/x")
    _file(top + b"/a/x/inside", b"in a, which sorts between a-b and a0")
    _file(top + b"/a-b", b"beside")
    _file(top + b"/a.b", b"beside")
    _file(top + b"/a0", b"beside")
    os.makedirs(top + b"/sizes")
    for size in (
        0,
        1,
        100,
        4095,
        16 << 10,
        (16 << 10) + 1,
        32 << 10,
        (128 << 10) - 1,
        128 << 10,
        (128 << 10) + 1,
        3 << 20,
    ):
        _file(top + b"/sizes/random-%d" % size, rng.randbytes(size))
        _file(top + b"/sizes/text-%d" % size, (b"words and words again " * (size // 22 + 1))[:size])
    _file(top + b"/sizes/large", rng.randbytes(1 << 20) * large + b"end")
    with open(top + b"/sizes/hole", "wb") as hole:
        hole.write(b"begin")
        hole.seek(1 << 20)
        hole.write(b"middle")
        hole.truncate(2 << 20)
    with open(top + b"/sizes/all-hole", "wb") as hole:
        hole.truncate((512 << 10) + 5)
    os.makedirs(top + b"/links")
    os.symlink(b"../a-b", top + b"/links/to")
    os.symlink(b"no such \xff", top + b"/links/nowhere")
    os.symlink(b"t" * 4000, top + b"/links/long")
    os.link(top + b"/a-b", top + b"/links/hard")
    os.link(top + b"/sizes/large", top + b"/links/hard-large")
    os.makedirs(top + b"/empty/deep/" + b"/".join([b"d"] * 40))
    os.makedirs(top + b"/many")
    for n in range(700):
        _file(top + b"/many/%05d-%s" % (n, b"n" * (n % 90)), b"%d" % n)
    for n in range(300):
        os.mkdir(top + b"/many/folder-%03d" % n)
    _file(top + b"/again", (b"words and words again " * 745)[: 16 << 10])
    if special:
        os.mkfifo(top + b"/pipe", 0o640)
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(str(root / "socket"))
        if os.geteuid() == 0:
            os.mknod(top + b"/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
            os.mknod(top + b"/loop", stat.S_IFBLK | 0o660, os.makedev(7, 300))
            os.chown(top + b"/a0", 1234, 4321)
    os.chmod(top + b"/a.b", 0o4711)
    os.chmod(top + b"/empty", 0o2770)
    os.chmod(top + b"/a0", 0o000)
    for n, (above, inside, files) in enumerate(os.walk(top, topdown=False)):
        for name in (*files, *inside):
            os.utime(above + b"/" + name, (SECONDS + n, SECONDS + n), follow_symlinks=False)
    os.utime(top, (SECONDS, SECONDS))


def _file(path: bytes, data: bytes) -> None:
    with open(path, "wb") as out:
        out.write(data)


def shown(root: Path | str, fields: str) -> list[bytes]:
    """What `find -printf` says of everything below a folder, sorted."""
    found = subprocess.run(
        ["find", ".", "-printf", fields + "\\0"], cwd=root, capture_output=True, check=True, env={"LC_ALL": "C"}
    )
    return sorted(found.stdout.split(b"\0"))


def differences(a: Path | str, b: Path | str) -> str:
    """What `diff` says of contents and kinds, links not followed."""
    done = subprocess.run(
        ["diff", "-r", "--no-dereference", str(a), str(b)], capture_output=True, check=False, env={"LC_ALL": "C"}
    )
    lines = [
        line
        for line in done.stdout.decode(errors="replace").splitlines()
        if " is a fifo" not in line and " is a socket" not in line and "special file" not in line
    ]
    return "\n".join([*lines, done.stderr.decode(errors="replace")]).strip()
