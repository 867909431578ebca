"""Archives that other programs make, and whether a tree of ours agrees with the folder that they were made from."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from pathlib import Path

from dls.fuse.tree import Tree
from dls.logistics import digest as digests

SECOND = 1_000_000_000
SHORT = "cp -a {tree} {to}-tree && rm {to}-tree/links/long && touch -r {tree}/links {to}-tree/links && "
"""A link may be as long as a block there."""
KERNEL = (
    " && mkdir {to}-mounted && mount -o loop {to} {to}-mounted && cp -a {to}-tree/. {to}-mounted/"
    "; status=$?; umount {to}-mounted; exit $status"
)
"""Written by the kernel, through a mount."""
FEW = " -e sizes/large links/hard-large"
"""Without 17 MB for which these take ten seconds; 3 MB of noise are several blocks, too."""
TOOLS = {
    "gnu.tar": "tar --format=gnu --sparse -C {tree} -cf {to} .",
    "oldgnu.tar": "tar --format=oldgnu --sparse -C {tree} -cf {to} .",
    "pax.tar": "tar --format=pax --xattrs --xattrs-include=* -C {tree} -cf {to} .",
    "pax-sparse.tar": "tar --format=pax --sparse -C {tree} -cf {to} .",
    "pax-sparse-0.0.tar": "tar --format=pax --sparse --sparse-version=0.0 -C {tree} -cf {to} .",
    "pax-sparse-0.1.tar": "tar --format=pax --sparse --sparse-version=0.1 -C {tree} -cf {to} .",
    "bsd.tar": "bsdtar --format=pax -C {tree} -cf {to} .",
    "plain.tar.gz": "tar --format=pax -C {tree} -czf {to} .",
    "plain.tar.bz2": "tar --format=pax -C {tree} -c . | bzip2 -1 > {to}",
    "plain.tar.xz": "tar --format=pax -C {tree} -c . | xz -0 -T2 --block-size=1MiB > {to}",
    "plain.tar.zst": "tar --format=pax -C {tree} -c . | zstd -q -o {to}",
    "info.zip": "cd {tree} && zip -q -r -y {to} . -i '*' 2>/dev/null || test $? = 18",
    "bsd.zip": "bsdtar --format=zip -C {tree} -cf {to} .",
    "gzip.sqfs": "mksquashfs {tree} {to} -comp gzip -quiet -no-progress",
    "lzma.sqfs": "mksquashfs {tree} {to} -comp lzma -quiet -no-progress" + FEW,
    "lzo.sqfs": "mksquashfs {tree} {to} -comp lzo -quiet -no-progress",
    "lz4.sqfs": "mksquashfs {tree} {to} -comp lz4 -Xhc -quiet -no-progress",
    "xz.sqfs": "mksquashfs {tree} {to} -comp xz -b 1M -quiet -no-progress" + FEW,
    "zstd.sqfs": "mksquashfs {tree} {to} -comp zstd -b 4096 -quiet -no-progress",
    "stored.sqfs": "mksquashfs {tree} {to} -noI -noD -noF -noX -quiet -no-progress",
    "gensquashfs.sqfs": "gensquashfs -c gzip -q -x -k -D {tree} {to}",
    "tar2sqfs.sqfs": "tar --format=pax --xattrs --xattrs-include=* -C {tree} -c . | tar2sqfs -c zstd -q {to}",
    "tree.ext4": "mkfs.ext4 -q -b 4096 -d {tree} {to} 128M",
    "made-inline.ext4": "cp -a {tree} {to}-tree && rm {to}-tree/sizes/hole && touch -r {tree}/sizes {to}-tree/sizes && "
    "mkfs.ext4 -q -b 4096 -O inline_data,meta_bg,^resize_inode -I 512 -d {to}-tree {to} 128M",
    "old.ext4": "mkfs.ext4 -q -b 4096 -O ^64bit,^extent,^metadata_csum,^dir_index -I 128 -d {tree} {to} 128M",
    "small-blocks.ext3": SHORT + "mkfs.ext3 -q -b 1024 -d {to}-tree {to} 128M",
    "small-blocks.ext2": SHORT + "mkfs.ext2 -q -b 1024 -d {to}-tree {to} 128M",
    "kernel.ext4": SHORT + "mkfs.ext4 -q -b 2048 {to} 128M" + KERNEL,
    "kernel-inline.ext4": SHORT + "mkfs.ext4 -q -b 1024 -I 1024 -O inline_data,ea_inode {to} 128M" + KERNEL,
}
"""File name → the command that makes it; the name says how it may differ from the tree."""
NO_LINKS = ("zip", "gensquashfs")
"""Makers that write each name of an inode as a file of its own."""
NO_XATTRS = ("gnu.tar", "oldgnu", "sparse", "plain", "zip")


def made(name: str, tree: Path, folder: Path) -> str:
    """The archive of a folder, by the tool of this name."""
    to = folder / name
    command = TOOLS[name].format(tree=tree, to=to)
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command}: {done.stderr.decode(errors='replace')[-500:]}")
    return str(to)


def have(name: str) -> bool:
    """Whether the programs that make it are installed."""
    programs = {"bsd": "bsdtar", "info": "zip", "gensquashfs": "gensquashfs", "tar2sqfs": "tar2sqfs"}
    return shutil.which(programs.get(name.split(".")[0], "sh")) is not None


def differences(tree: Tree, folder: Path, name: str, *, seed: int = 3) -> list[str]:
    """Everything in which a tree of ours is not the folder; `name` says what its format cannot hold."""
    rng, top, out = random.Random(seed), os.fsencode(folder), list[str]()
    coarse = "sqfs" in name or "gnu" in name or ("ext" in name and "kernel" not in name)
    grain = 2 * SECOND if "zip" in name else SECOND if coarse else 1
    seen = set()
    for path, attr in tree.walk():
        if path == b"lost+found" and "ext" in name:
            continue
        seen.add(path)
        info, full = os.lstat(top + b"/" + path), top + b"/" + path
        told = {
            "mode": (attr.mode, info.st_mode), "owner": (attr.uid, info.st_uid), "group": (attr.gid, info.st_gid),
            "node": (tree.find(path), attr),
        }  # fmt: skip
        if not any(one in name for one in NO_LINKS) and attr.mode >> 12 != 4:
            told["links"] = attr.nlink, info.st_nlink
        if attr.mode >> 12 not in (2, 6):
            told["time"] = abs(attr.mtime_ns - info.st_mtime_ns) < grain, True
        else:
            told["device"] = (
                attr.rdev,
                (info.st_rdev & 0xFF) | os.major(info.st_rdev) << 8 | (os.minor(info.st_rdev) & ~0xFF) << 12,
            )
        if attr.mode >> 12 == 8:
            told["size"] = attr.size, info.st_size
            told["bytes"] = _content(tree, attr), _of_file(full)
            with open(full, "rb") as plain:
                start = rng.randrange(attr.size + 1)
                stop = min(attr.size + 5, start + rng.randrange(300_000))
                plain.seek(start)
                told["stretch"] = tree.read(attr, start, stop), plain.read(stop - start)
        elif attr.mode >> 12 == 10:
            told["text"] = tree.text(attr), os.readlink(full)
        if not any(one in name for one in NO_XATTRS):
            told["xattrs"] = tree.xattrs(attr), _xattrs(full)
        out += [f"{path!r} {what}: {a!r:.200} for {b!r:.200}" for what, (a, b) in told.items() if a != b]
    every = {os.path.relpath(os.path.join(a, n), top) for a, ds, fs in os.walk(top) for n in (*ds, *fs)}
    if "small-blocks" in name or "kernel" in name:
        every.discard(b"links/long")
    elif name == "made-inline.ext4":
        every.discard(b"sizes/hole")  # mke2fs of Debian 12 cuts it
    if TOOLS.get(name, "").endswith(FEW):
        every -= {b"sizes/large", b"links/hard-large"}
    held = {path for path in every if _holds(name, os.lstat(top + b"/" + path).st_mode >> 12)}
    return out + [f"{path!r} is not there" for path in held - seen] + [f"{path!r} is new" for path in seen - every]


def _holds(name: str, kind: int) -> bool:
    if "zip" in name:
        return kind in (4, 8, 10)
    return kind != 12 or ("sqfs" in name and "tar2sqfs" not in name) or "ext" in name


def _content(tree: Tree, attr: object) -> bytes:
    hasher = digests.Hasher(0)
    for at in range(0, attr.size, 300_001):  # type: ignore[attr-defined]
        for piece in tree.pieces(attr, at, at + 300_001):  # type: ignore[arg-type]
            hasher.update(piece)
    return hasher.digest()


def _of_file(path: bytes) -> bytes:
    with open(path, "rb") as plain:
        return digests.of(plain.read())


def _xattrs(path: bytes) -> dict[bytes, bytes]:
    found = map(os.fsencode, os.listxattr(path, follow_symlinks=False))
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in found}
