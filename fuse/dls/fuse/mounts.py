"""What is mounted here, as the kernel lists it, and taking it away."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import subprocess
import threading
from typing import Final, NamedTuple

from dls.logistics.errors import Conflict, NotFound, Unavailable
from dls.logistics.stores.posix_errors import ours

SUBTYPE: Final = "dls"
ANSWERS, SILENT, DEAD = "answers", "silent", "dead"
_PATIENCE_S: Final = 2.0
"""How long a mount is given to answer who looks at it."""
_MNT_DETACH: Final = 2
_LINKS: Final = 40
"""Links on the way to a folder, as many as the kernel follows."""
_libc = ctypes.CDLL(None, use_errno=True)


class Mounted(NamedTuple):
    """One mount of ours, as the kernel lists it."""

    folder: str
    """As the kernel knows it: without links in it."""
    image: str
    device: str = ""
    """Of this mount and no other, as long as it is there."""

    def state(self) -> str:
        """ANSWERS; DEAD where nobody ever will; SILENT where nobody does now (the store of a remote image, maybe)."""
        heard = list[str]()

        def ask() -> None:
            try:
                os.statvfs(self.folder)  # not stat: the kernel knows that by heart, also of the dead
            except OSError as exc:
                heard.append(DEAD if exc.errno == errno.ENOTCONN else ANSWERS)
            else:
                heard.append(ANSWERS)

        asking = threading.Thread(target=ask, name="image-mount-ask", daemon=True)
        asking.start()
        asking.join(_PATIENCE_S)
        return heard[0] if heard else SILENT


def mounted() -> list[Mounted]:
    """What of ours is mounted in this name space of mounts; where several lie on one folder, the top one last."""
    out = []
    with open("/proc/self/mountinfo", "rb") as found:
        for line in found.read().split(b"\n"):
            before, _, after = line.partition(b" - ")
            words, (kind, _, rest) = before.split(b" "), after.partition(b" ")
            if kind == b"fuse." + SUBTYPE.encode():
                out.append(Mounted(_plain(words[4]), _plain(rest.partition(b" ")[0]), words[2].decode()))
    return out


def _plain(text: bytes) -> str:
    """A path as it is: the kernel writes blanks, backslashes and the like as octal numbers."""
    first, *rest = text.split(b"\\")
    return os.fsdecode(first + b"".join(bytes((int(one[:3], 8),)) + one[3:] for one in rest))


def real(folder: str) -> str:
    """The path of a folder without links in it; what is mounted there is not asked, as it may not answer yet."""
    path = os.path.abspath(folder)
    for _ in range(_LINKS):
        path = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
        if on_top(path) is not None or not os.path.islink(path):
            break
        path = os.path.normpath(os.path.join(os.path.dirname(path), os.readlink(path)))
    return path


def on_top(folder: str) -> Mounted | None:
    """The mount of ours that is seen on a folder (its real path), if one is."""
    found = [one for one in mounted() if one.folder == folder]
    return found[-1] if found else None


def unmount(folder: str, *, lazy: bool = False) -> None:
    """Unmount; Conflict where it is in use and not `lazy`, NotFound where nothing of ours is mounted."""
    folder = real(folder)
    if on_top(folder) is None:
        raise _nothing(folder)
    if os.geteuid() == 0:
        if _libc.umount2(os.fsencode(folder), _MNT_DETACH if lazy else 0) == 0:
            return
        number = ctypes.get_errno()
        if number == errno.EBUSY:
            raise _busy(folder)
        if number == errno.EINVAL:
            raise _nothing(folder)
        raise ours(OSError(number, os.strerror(number)), folder)
    program = shutil.which("fusermount3") or shutil.which("fusermount") or "fusermount3"
    try:
        child = subprocess.run(
            [program, "-u", *(["-z"] if lazy else []), "--", folder],
            capture_output=True, text=True, errors="replace", check=False,
        )  # fmt: skip
    except OSError as exc:
        raise ours(exc, program) from exc
    if child.returncode != 0:
        if "busy" in child.stderr.lower():
            raise _busy(folder)
        if on_top(folder) is None:
            raise _nothing(folder)
        raise Unavailable(
            f"{folder} was not unmounted: {child.stderr.strip()}", code="not-unmounted", remedy="see fuser -m"
        )


def unmount_device(folder: str, device: str) -> None:
    """Take a mount away whoever uses it, if it is still that one: another may lie on the folder by now."""
    top = on_top(folder)
    if top is not None and top.device == device:
        unmount(folder, lazy=True)


def _nothing(folder: str) -> NotFound:
    return NotFound(f"no image is mounted on {folder}", code="not-mounted", remedy="see `dls mounts`")


def _busy(folder: str) -> Conflict:
    return Conflict(
        f"{folder} is in use",
        code="in-use",
        remedy="end what uses it (fuser -m), or take it away with --lazy",
        store=folder,
    )
