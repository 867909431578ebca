"""Mounts: getting a descriptor from the kernel, serving it, and never leaving a dead or hanging mount behind.

A *keeper* process holds the descriptor and answers nothing; *servers* are its children, each with a queue of its own
(FUSE_DEV_IOC_CLONE).  A server that is killed costs the requests it had taken (they end with an error, none hangs) and
is replaced; a keeper that is killed takes its servers with it, which unmount first.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import shutil
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, NamedTuple

from dls.fuse.server import READ_AHEAD, Server
from dls.fuse.tree import Tree
from dls.logistics.errors import Conflict, Denied, DlsError, NotFound, Unavailable, Unsupported
from dls.logistics.stores.posix_errors import ours

_CLONE: Final = 0x8004E500
_MS_RDONLY, _MS_NOSUID, _MS_NODEV = 1, 2, 4
_MNT_DETACH: Final = 2
_PR_SET_PDEATHSIG: Final = 1
SUBTYPE: Final = "dls"
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class MountOptions:
    """How to mount."""

    allow_other: bool | None = None
    """Whether other users may look; None: only where root mounts.  Then the kernel checks modes and owners."""
    servers: int = 1
    idle_s: float = 0.0
    """Unmount after this time without a request and without a user; 0: never."""


class Mounted(NamedTuple):
    """One mount of ours, as the kernel lists it."""

    folder: str
    image: str

    @property
    def alive(self) -> bool:
        """Whether somebody answers; the kernel knows the root by heart, so this does not wait for a slow one."""
        try:
            os.stat(self.folder)
        except OSError as exc:
            return exc.errno != errno.ENOTCONN
        return True


def mount(image: str, folder: str, options: MountOptions = MountOptions()) -> int:
    """Mount; returns the descriptor to serve.  Nothing is mounted where an error is raised."""
    folder = os.path.abspath(folder)
    _check_folder(folder)
    others = options.allow_other if options.allow_other is not None else os.geteuid() == 0
    common = f"max_read={READ_AHEAD}" + (",default_permissions,allow_other" if others else "")
    if os.geteuid() == 0:
        return _by_root(image, folder, common)
    return _by_fusermount(image, folder, common)


def _check_folder(folder: str) -> None:
    try:
        info = os.stat(folder)
    except OSError as exc:
        if exc.errno == errno.ENOTCONN:  # the server of an earlier mount is dead
            unmount(folder, lazy=True)
            info = os.stat(folder)
        else:
            raise ours(exc, folder) from exc
    if not os.path.isdir(folder):
        raise Conflict(f"{folder} is no folder", code="not-a-folder", remedy="make an empty folder to mount on")
    if os.geteuid() != 0 and info.st_uid != os.geteuid():
        raise Denied(f"{folder} belongs to another user", code="no-access", remedy="mount on a folder of your own")


def _by_root(image: str, folder: str, common: str) -> int:
    try:
        fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as exc:
        raise Unsupported(
            f"/dev/fuse cannot be opened: {exc.strerror}",
            code="no-fuse",
            remedy="modprobe fuse, or give the container /dev/fuse",
        ) from exc
    data = f"fd={fd},rootmode=40000,user_id=0,group_id=0,{common}"
    flags = _MS_RDONLY | _MS_NOSUID | _MS_NODEV
    done = _libc.mount(os.fsencode(image), os.fsencode(folder), b"fuse." + SUBTYPE.encode(), flags, data.encode())
    if done != 0:
        number = ctypes.get_errno()
        os.close(fd)
        raise ours(OSError(number, os.strerror(number)), folder)
    return fd


def _by_fusermount(image: str, folder: str, common: str) -> int:
    program = shutil.which("fusermount3") or shutil.which("fusermount")
    if program is None:
        raise Unsupported(
            "there is no fusermount3, which ordinary users need to mount",
            code="no-fuse",
            remedy="apt-get install fuse3",
        )
    ours_end, theirs = socket.socketpair()
    shown = image.replace("\\", "\\\\").replace(",", "\\,")
    wish = f"ro,nosuid,nodev,fsname={shown},subtype={SUBTYPE},{common}"
    with ours_end, theirs:
        child = subprocess.run(
            ["env", f"_FUSE_COMMFD={theirs.fileno()}", program, "-o", wish, "--", folder],
            pass_fds=(theirs.fileno(),),
            capture_output=True,
            check=False,
        )
        if child.returncode != 0:
            why = child.stderr.decode(errors="replace").strip() or "no reason given"
            raise Denied(f"{folder} was not mounted: {why}", code="not-mounted", remedy="see `dls doctor`")
        _, descriptors, _, _ = socket.recv_fds(ours_end, 1, 1)
    os.set_inheritable(descriptors[0], False)
    return descriptors[0]


def unmount(folder: str, *, lazy: bool = False) -> None:
    """Unmount; Conflict where it is in use and not `lazy`, NotFound where nothing is mounted."""
    folder = os.path.abspath(folder)
    if os.geteuid() == 0:
        if _libc.umount2(os.fsencode(folder), _MNT_DETACH if lazy else 0) == 0:
            return
        number = ctypes.get_errno()
        if number == errno.EBUSY:
            raise _busy(folder)
        if number == errno.EINVAL:
            raise NotFound(f"nothing is mounted on {folder}", code="not-mounted", remedy="see `dls mounts`")
        raise ours(OSError(number, os.strerror(number)), folder)
    program = shutil.which("fusermount3") or shutil.which("fusermount") or "fusermount3"
    child = subprocess.run(
        [program, "-u", *(["-z"] if lazy else []), "--", folder], capture_output=True, text=True, check=False
    )
    if child.returncode != 0:
        if "busy" in child.stderr.lower():
            raise _busy(folder)
        if not any(one.folder == folder for one in mounted()):
            raise NotFound(f"nothing is mounted on {folder}", code="not-mounted", remedy="see `dls mounts`")
        raise Unavailable(
            f"{folder} was not unmounted: {child.stderr.strip()}", code="not-unmounted", remedy="see fuser -m"
        )


def _busy(folder: str) -> Conflict:
    return Conflict(
        f"{folder} is in use",
        code="in-use",
        remedy="end what uses it (fuser -m), or take it away with --lazy",
        store=folder,
    )


def mounted() -> list[Mounted]:
    """What of ours is mounted in this name space of mounts."""
    out = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as found:
        for line in found:
            before, _, after = line.partition(" - ")
            kind, source, *_ = after.split()
            if kind == f"fuse.{SUBTYPE}":
                out.append(Mounted(_plain(before.split()[4]), _plain(source)))
    return out


def _plain(text: str) -> str:
    for code, sign in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, sign)
    return text


# ------------------------------------------------------------------------------------------------------------- serving


Opener = Callable[[], Tree]
"""Opens what is mounted; each server does it for itself."""


def serve(opener: Opener, folder: str, fd: int, options: MountOptions, told: Callable[[str], None]) -> None:
    """Keep a mount until it is gone: start servers, replace those that die, unmount on the way out."""
    _Keeper(opener, os.path.abspath(folder), fd, options, told).run()


class _Keeper:
    """Holds the descriptor and the servers."""

    def __init__(
        self, opener: Opener, folder: str, fd: int, options: MountOptions, told: Callable[[str], None]
    ) -> None:
        self._opener, self._folder, self._fd, self._options, self._told = opener, folder, fd, options, told
        self._beats = mmap.mmap(-1, mmap.PAGESIZE)
        self._children: dict[int, int] = {}
        self._over = False
        self._deaths = 0

    def run(self) -> None:
        """Until the mount is gone."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._asked)
        self._heard = time.monotonic()
        try:
            for slot in range(self._options.servers):
                self._start(slot)
            while self._children:
                self._wait()
        finally:
            self._leave()

    def _asked(self, number: int, frame: object) -> None:
        self._over = True
        self._leave()

    def _leave(self) -> None:
        """Whatever happens, nobody shall find a dead mount."""
        with suppress(DlsError):
            unmount(self._folder, lazy=True)
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
        for child in list(self._children):
            with suppress(OSError):
                os.kill(child, signal.SIGKILL)

    def _start(self, slot: int) -> None:
        child = os.fork()
        if child:
            self._children[child] = slot
            return
        status = 1
        try:
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            signal.signal(signal.SIGTERM, lambda *_: self._orphaned())
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            self._serve(slot)
            status = 0
        except DlsError as error:
            self._told(str(error))
        except BaseException as problem:  # noqa: BLE001 - the last line of a process
            self._told(f"{type(problem).__name__}: {problem}")
        finally:
            os._exit(status)

    def _orphaned(self) -> None:
        with suppress(DlsError):
            unmount(self._folder, lazy=True)
        os._exit(0)

    def _serve(self, slot: int) -> None:
        clone = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        fcntl.ioctl(clone, _CLONE, struct.pack("I", self._fd))
        os.close(self._fd)
        beats, at, now = self._beats, 8 * slot, time.monotonic
        pack_into = struct.pack_into

        def beat() -> None:
            pack_into("d", beats, at, now())

        with self._opener() as tree:
            Server(tree, clone, self._told).run(beat if self._options.idle_s else lambda: None)

    def _wait(self) -> None:
        """One child has ended, or it is time to look whether anybody is there."""
        idle = self._options.idle_s
        if idle:
            time.sleep(min(1.0, idle / 4))
            self._idle(idle)
        try:
            child, status = os.waitpid(-1, os.WNOHANG if idle else 0)
        except InterruptedError:
            return
        except ChildProcessError:
            self._children.clear()
            return
        if not child:
            return
        slot = self._children.pop(child, 0)
        if status == 0 or self._over:
            return
        self._deaths += 1
        self._told(f"a server of {self._folder} ended with status {status}; another one takes its place")
        if self._deaths > 100:
            raise Unavailable(
                f"the servers of {self._folder} die again and again", code="mount-died", remedy="see the log"
            )
        if self._deaths > 5:
            time.sleep(0.2)
        if any(one.folder == self._folder for one in mounted()):
            self._start(slot)

    def _idle(self, seconds: float) -> None:
        last = max(struct.unpack_from(f"{self._options.servers}d", self._beats))
        if time.monotonic() - max(last, self._heard) > seconds:
            self._heard = time.monotonic()
            with suppress(DlsError):
                unmount(self._folder)  # refused while a file is open or a shell stands there
                self._over = True


def in_background(name: str, opener: Opener, folder: str, options: MountOptions, log: str) -> int:
    """Mount, and serve by a process that outlives this one; returns its number once the mount answers.

    `name` is what the kernel shows as the source.
    """
    with opener():
        pass  # a bad image is told here, to whoever asked
    fd = mount(name, folder, options)
    child = os.fork()
    if child == 0:
        try:
            _detach(log)
            serve(opener, folder, fd, options, _log)
        except BaseException as problem:  # noqa: BLE001 - the last line of a process
            _log(f"{type(problem).__name__}: {problem}")
        finally:
            os._exit(0)
    os.close(fd)
    try:
        os.stat(folder)  # waits for the first answer
    except OSError as exc:
        with suppress(DlsError):
            unmount(folder, lazy=True)
        raise Unavailable(f"{folder} does not answer: {exc.strerror}", code="mount-died", remedy=f"see {log}") from exc
    return child


def _detach(log: str) -> None:
    os.setsid()
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    out = null
    with suppress(OSError):  # a mount without a log is better than none
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) if log else null
    os.dup2(null, 0)
    os.dup2(out, 1)
    os.dup2(out, 2)


def _log(text: str) -> None:
    line = f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {text}\n".encode(errors="replace")
    with suppress(OSError):
        os.write(2, line)
