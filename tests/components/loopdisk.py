"""A small ext4 disk of our own: an image file, loop-mounted at a folder, always unmounted.

For full disks, read-only targets and power cuts: the raw image copied while mounted is what a dead machine leaves.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from components.process import NotReady, own_mount


class LoopDisk:
    """A mounted image. `folder` is the mount point; use `loop_disk` or `LoopDisk.mount_copy` to get one."""

    def __init__(self, image: Path, folder: Path) -> None:
        self.image = image
        self.folder = folder

    def mount(self, *options: str) -> None:
        """Mount the image; the kernel frees the loop device by itself at the unmount."""
        self.folder.mkdir(parents=True, exist_ok=True)
        own_mount(self.folder, owned=True)
        _call("mount", "-t", "ext4", "-o", ",".join(("loop", *options)), self.image, self.folder)

    def unmount(self) -> None:
        """Unmount; lazily when somebody still holds a file. Repeatable."""
        for _ in range(20):
            if not self.mounted:
                break
            if subprocess.run(["umount", self.folder], capture_output=True).returncode == 0:
                break
            time.sleep(0.05)
        if self.mounted:
            _call("umount", "-l", self.folder)
        own_mount(self.folder, owned=False)

    @property
    def mounted(self) -> bool:
        """Whether something is mounted at the folder."""
        wanted = os.fsencode(self.folder.resolve()).replace(b" ", b"\\040")
        return any(line.split()[4] == wanted for line in Path("/proc/self/mountinfo").read_bytes().splitlines())

    def read_only(self, *, on: bool = True) -> None:
        """Remount read-only, or writable again."""
        _call("mount", "-o", f"remount,{'ro' if on else 'rw'}", self.folder)

    def copy_image(self, to: Path) -> Path:
        """Copy the raw image as it is at this moment: what a power cut leaves.

        The loop device writes through the page cache of the image file, so a plain read sees every block that the
        mounted file system has written so far, and none that it still holds back.
        """
        _call("cp", "--sparse=always", "--reflink=auto", self.image, to)
        return to

    @contextmanager
    def mount_copy(self, image: Path, folder: Path) -> Iterator[LoopDisk]:
        """Mount a copy made by `copy_image`: ext4 replays its journal, as after a reboot."""
        copy = LoopDisk(image, folder)
        try:
            copy.mount()
            yield copy
        finally:
            copy.unmount()


@contextmanager
def loop_disk(work: Path, megabytes: int, *, inodes: int | None = None, name: str = "disk") -> Iterator[LoopDisk]:
    """Make an ext4 image of that size under `work` and mount it at `work`/`name`; root owns no reserved blocks."""
    image = work / f"{name}.ext4"
    with image.open("wb") as file:
        file.truncate(megabytes << 20)
    count = ("-N", str(inodes)) if inodes else ()
    _call("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0", *count, image)
    disk = LoopDisk(image, work / name)
    try:
        disk.mount()
        yield disk
    finally:
        disk.unmount()


def _call(*words: str | Path) -> None:
    done = subprocess.run([os.fspath(word) for word in words], capture_output=True, text=True)
    if done.returncode:
        raise NotReady(f"{' '.join(map(str, words))} gave {done.returncode}: {done.stderr.strip()}")
