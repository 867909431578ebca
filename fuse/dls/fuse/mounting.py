"""Mounts: getting a descriptor from the kernel, serving it, and never leaving a dead or hanging mount behind.

A *keeper* process holds the descriptor and answers nothing; *servers* are its children, each with a queue of its own
(FUSE_DEV_IOC_CLONE).  A server that is killed costs the requests it had taken (they end with an error, none hangs) and
is replaced; a keeper that is killed takes its servers with it, which unmount first.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import select
import shutil
import signal
import socket
import stat as st
import struct
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from dls.fuse.background import descriptors, detach, log_line
from dls.fuse.mounts import DEAD, SUBTYPE, on_top, real, unmount_device
from dls.fuse.mounts import Mounted as Mounted  # what else there is to say of mounts: looked for here
from dls.fuse.mounts import mounted as mounted
from dls.fuse.mounts import unmount as unmount
from dls.fuse.server import READ_AHEAD, Server
from dls.fuse.tree import Tree
from dls.logistics.errors import Conflict, Denied, DlsError, Exists, Unavailable, Unsupported
from dls.logistics.frozen import frozen
from dls.logistics.stores.posix_errors import ours

_DEVICE: Final = "/dev/fuse"
_CLONE: Final = 0x8004E500
_LONGEST_NAME: Final = 2000
"""Bytes of the source (of many images, for instance) where mounts are listed.  The kernel takes less than a page;
fusermount3 finds no mount to end whose whole line has more."""
_WRITTEN_OUT: Final = " \t\n\\#"
"""Each is four bytes there."""
_MS_RDONLY, _MS_NOSUID, _MS_NODEV = 1, 2, 4
_PR_SET_PDEATHSIG: Final = 1
_libc = ctypes.CDLL(None, use_errno=True)


@frozen
class MountOptions:
    """How to mount."""

    allow_other: bool | None = None
    """Whether other users may look; None: only where root mounts.  Then the kernel checks modes and owners."""
    servers: int = 0
    """0: one, and for an image of this machine with several processors one more while that has too much to do."""
    idle_s: float = 0.0
    """Unmount after this time without a request and without a user; 0: never."""


_USUAL: Final = MountOptions()


def mount(image: str, folder: str, options: MountOptions = _USUAL) -> int:
    """Mount; returns the descriptor to serve.  Nothing is mounted where an error is raised."""
    folder = real(folder)
    check_folder(folder)
    check_device()
    if len(os.fsencode(image)) + 3 * sum(map(image.count, _WRITTEN_OUT)) > _LONGEST_NAME:
        image = f"{image[: _LONGEST_NAME // 4]}..."  # a character has up to four bytes
    others = options.allow_other if options.allow_other is not None else os.geteuid() == 0
    common = f"max_read={READ_AHEAD}" + (",default_permissions,allow_other" if others else "")
    if os.geteuid() == 0:
        return _by_root(image, folder, common)
    return _by_fusermount(image, folder, common)


def check_folder(folder: str) -> None:
    """Whether there may be a mount on a folder; one that is dead is taken away."""
    taken = on_top(folder)
    if taken is not None:
        if taken.state() != DEAD:
            raise Exists(
                f"{taken.image} is mounted on {folder} already",
                code="mounted-already", store=folder, remedy="dls umount it first, or choose another folder",
            )  # fmt: skip
        unmount(folder, lazy=True)
    try:
        info = os.stat(folder)
        if not st.S_ISDIR(info.st_mode):
            raise Conflict(f"{folder} is no folder", code="not-a-folder", remedy="make an empty folder to mount on")
        if os.geteuid() != 0 and info.st_uid != os.geteuid():
            raise Denied(f"{folder} belongs to another user", code="no-access", remedy="mount on a folder of your own")
        with os.scandir(folder) as inside:
            if next(inside, None) is not None:
                raise Conflict(
                    f"{folder} is not empty: what is in it could not be seen",
                    code="folder-not-empty", store=folder, remedy="make an empty folder to mount on",
                )  # fmt: skip
    except OSError as exc:
        raise ours(exc, folder) from exc


def check_device() -> None:
    """Whether the kernel's side can be opened; servers do it themselves, also where fusermount3 mounts."""
    try:
        os.close(os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as exc:
        raise Unsupported(
            f"{_DEVICE} cannot be opened: {exc.strerror}",
            code="no-fuse",
            remedy="modprobe fuse, give the container /dev/fuse, or have root chmod 666 /dev/fuse",
        ) from exc


def _by_root(image: str, folder: str, common: str) -> int:
    fd = os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC)
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
            remedy = "see `dls doctor`"
            if "user_allow_other" in why:
                remedy = "have root write user_allow_other into /etc/fuse.conf, or leave --allow-other out"
            raise Denied(f"{folder} was not mounted: {why}", code="not-mounted", remedy=remedy)
        _, descriptors, _, _ = socket.recv_fds(ours_end, 1, 1)
    os.set_inheritable(descriptors[0], False)
    return descriptors[0]


# ------------------------------------------------------------------------------------------------------------- serving


Opener = Callable[[], Tree]
"""Opens what is mounted; each server does it for itself."""


def looked(opener: Opener) -> Tree | None:
    """Open what is to be mounted, so that a bad image is told to whoever asks; the tree, if servers can inherit it."""
    tree = opener()
    if tree.forks:
        return tree
    tree.close()
    return None


def serve(
    opener: Opener, folder: str, fd: int, options: MountOptions, told: Callable[[str], None], tree: Tree | None
) -> None:
    """Keep a mount until it is gone: start servers, replace those that die, unmount on the way out.

    `tree` is what was `looked` at: servers that come later serve what was mounted, even if its file is gone by then.
    """
    _Keeper(opener, real(folder), fd, options, told, tree).run()


class _Keeper:
    """Holds the descriptor, the tree and the servers."""

    def __init__(
        self, opener: Opener, folder: str, fd: int, options: MountOptions, told: Callable[[str], None],
        tree: Tree | None,
    ) -> None:  # fmt: skip
        self._opener, self._folder, self._fd, self._options, self._told = opener, folder, fd, options, told
        self._beats = mmap.mmap(-1, mmap.PAGESIZE)
        self._children: dict[int, int] = {}
        self._over = False
        self._deaths = 0
        self._tree = tree
        self._count, self._bell = options.servers or 1, -1
        if not options.servers and tree is not None and not tree.far and len(os.sched_getaffinity(0)) > 1:
            self._count, self._bell = 2, os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        top = on_top(folder)
        self._device = top.device if top else ""

    def run(self) -> None:
        """Until the mount is gone."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._asked)
        self._heard = time.monotonic()
        try:
            for slot in range(self._count):
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
        self._take_away()
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
        for child in list(self._children):
            with suppress(OSError):
                os.kill(child, signal.SIGKILL)

    def _start(self, slot: int) -> None:
        keeper = os.getpid()
        child = os.fork()
        if child:
            self._children[child] = slot
            return
        status = 1
        try:
            signal.signal(signal.SIGTERM, lambda *_: self._orphaned())
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != keeper:  # it died before it could be watched
                self._orphaned()
            self._serve(slot)
            status = 0
        except DlsError as error:
            self._told(str(error))
        except BaseException as problem:  # noqa: BLE001 - the last line of a process
            self._told(f"{type(problem).__name__}: {problem}")
        finally:
            os._exit(status)

    def _take_away(self) -> None:
        """Unmount, unless it was: the folder, and the number of the device, may be another mount's by now."""
        if self._fd >= 0:
            look = select.poll()
            look.register(self._fd, 0)
            if not look.poll(0):  # an error is told of a descriptor whose mount is gone
                with suppress(DlsError):
                    unmount_device(self._folder, self._device)

    def _orphaned(self) -> None:
        self._take_away()
        os._exit(0)

    def _serve(self, slot: int) -> None:
        clone = os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC)
        fcntl.ioctl(clone, _CLONE, struct.pack("I", self._fd))
        os.close(self._fd)
        self._fd = clone
        beats = (self._beats, 8 * slot) if self._options.idle_s else None
        with self._tree or self._opener() as tree:
            helps = self._bell >= 0 and slot > 0
            Server(tree, clone, self._told, bell=self._bell, helps=helps, beats=beats).run()

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
        if self._bell >= 0:
            os.eventfd_write(self._bell, 1)  # whoever sleeps there looks whether the mount is still there
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
        if self._is_there():
            self._start(slot)

    def _is_there(self) -> bool:
        return any(one.device == self._device for one in mounted())

    def _idle(self, seconds: float) -> None:
        last = max(struct.unpack_from(f"{self._count}d", self._beats))
        if time.monotonic() - max(last, self._heard) > seconds:
            self._heard = time.monotonic()
            with suppress(DlsError):
                unmount(self._folder)  # refused while a file is open or a shell stands there
                self._over = True


def in_background(name: str, opener: Opener, folder: str, options: MountOptions, log: str) -> int:
    """Mount, and serve by a process that outlives this one; returns its number once the mount answers.

    `name` is what the kernel shows as the source.
    """
    strangers = descriptors()
    tree = looked(opener)
    try:
        folder = real(folder)
        fd = mount(name, folder, options)
        strangers.pop(fd, None)
        child = os.fork()
        if child == 0:
            try:
                detach(log, strangers)
                serve(opener, folder, fd, options, log_line, tree)
            except DlsError as error:
                log_line(str(error))
            except BaseException as problem:  # noqa: BLE001 - the last line of a process
                log_line(f"{type(problem).__name__}: {problem}")
            finally:
                os._exit(0)
    finally:
        if tree is not None:
            tree.close()
    os.close(fd)
    try:
        os.stat(folder)  # waits for the first answer
    except OSError as exc:
        with suppress(DlsError):
            unmount(folder, lazy=True)
        raise Unavailable(f"{folder} does not answer: {exc.strerror}", code="mount-died", remedy=f"see {log}") from exc
    return child
