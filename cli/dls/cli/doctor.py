"""Doctor: what this machine can do: small checks, each of which says what it found and what to do about it.

A check never raises and never shows the value of a credential, only where one was found.
"""

from __future__ import annotations

import os
import platform
import resource
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dls.cli.render import Column
from dls.cli.words import place
from dls.fuse.fast import available
from dls.logistics import event, registry
from dls.logistics.duration import show_duration, show_size
from dls.logistics.errors import DlsError
from dls.logistics.frozen import frozen
from dls.logistics.store import Can
from dls.logistics.stores.posix_fast import files
from dls.logistics.url import parse

if TYPE_CHECKING:
    from dls.cli.front import Front
    from dls.cli.settings import Settings
    from dls.cli.wiring import Dls
    from dls.logistics.site import Storage

PYTHON: Final = (3, 11)
SQLITE: Final = (3, 24)
"""The first with ON CONFLICT DO UPDATE."""
LOW_BYTES: Final = 1_000_000_000
"""Free space of DLS_HOME below which a warning is due: state, listings, and the buffers of the site `local`."""
LATE_S: Final = 2.0
"""A file system's clock may differ from ours by so much."""
_NETWORK = """9p afs beegfs ceph cifs fuse.ceph fuse.glusterfs fuse.sshfs gpfs lustre ncpfs nfs nfs4 panfs pvfs2 smb3
smbfs wekafs"""
NETWORK: Final = frozenset(_NETWORK.split())


class State(StrEnum):
    """How a check ended, best first."""

    OK = "ok"
    WARN = "warn"
    MISSING = "missing"
    """Something optional is not there."""
    BROKEN = "broken"
    """Something needed does not work."""


@frozen
class Check:
    """What one check found."""

    name: str
    state: State
    what: str
    remedy: str = ""

    def to_json(self) -> dict[str, Any]:
        """The check as programs read it."""
        return {"name": self.name, "status": self.state.value, "what": self.what, "remedy": self.remedy}


COLUMNS = (
    Column("CHECK", lambda r: r["name"]),
    Column("STATUS", lambda r: r["status"]),
    Column("FOUND", lambda r: r["what"]),
)


def gravest(checks: Iterable[Check]) -> Check | None:
    """The first check that is broken."""
    return next((one for one in checks if one.state is State.BROKEN), None)


def examine(front: Front) -> list[Check]:
    """All checks."""
    checks = [python(sys.version_info[:3])]
    try:
        settings = front.settings
    except DlsError as exc:
        return [*checks, _broken("settings", exc)]
    checks += [home(settings.home), mount(settings.home), clock(settings.home), limits(settings.streams)]
    checks += [*libraries(), *programs(settings.environ)]
    try:
        dls = front.dls
        checks += [sqlite(dls), past(dls)]
        storages = dls.context.sites.all()
    except DlsError as exc:
        return [*checks, _broken("state", exc)]
    checks += credentials(settings, {parse(one.url).scheme for one in storages})
    return [*checks, *(site(dls, one, settings.timeout_s) for one in storages)]


def _broken(name: str, exc: DlsError) -> Check:
    return Check(name, State.BROKEN, f"{exc.message} [{exc.code}]", exc.remedy or "look at dls doctor --json")


# --------------------------------------------------------------------------------------------- this machine


def python(version: tuple[int, ...]) -> Check:
    """The interpreter."""
    said = ".".join(map(str, version))
    if version < PYTHON:
        return Check("python", State.BROKEN, said, f"use Python {'.'.join(map(str, PYTHON))} or newer")
    return Check("python", State.OK, f"{said}, {platform.system()} {platform.machine()}")


def home(folder: Path) -> Check:
    """DLS_HOME: can be written, and has room."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.NamedTemporaryFile(dir=folder):
            free = shutil.disk_usage(folder).free
    except OSError as exc:
        remedy = "set DLS_HOME to a folder that you may write"
        return Check("home", State.BROKEN, f"{folder} cannot be written: {exc.strerror}", remedy)
    if free < LOW_BYTES:
        remedy = "free space there, or set DLS_HOME to a larger file system"
        return Check("home", State.WARN, f"{folder} has only {show_size(free)} free", remedy)
    return Check("home", State.OK, f"{folder}, {show_size(free)} free")


def mount(folder: Path, mounts: str | None = None) -> Check:
    """Whether DLS_HOME is on a file system of this machine: the locks of SQLite and ours need that."""
    try:
        text = Path("/proc/self/mountinfo").read_text(errors="surrogateescape") if mounts is None else mounts
    except OSError:
        return Check("home-file-system", State.WARN, "this system does not tell", "keep DLS_HOME on a local disk")
    kind = file_system(str(folder), text)
    if kind in NETWORK:
        remedy = "set DLS_HOME to a local disk: locks are not sure on a network file system"
        return Check("home-file-system", State.WARN, f"{kind}, a network file system", remedy)
    return Check("home-file-system", State.OK, kind or "unknown")


def file_system(folder: str, mounts: str) -> str:
    """The type of the file system that holds a folder, by /proc/self/mountinfo; '' where that does not say."""
    best, kind = "", ""
    for line in mounts.splitlines():
        head, _, tail = line.partition(" - ")
        fields = head.split(" ")
        if len(fields) < 5 or not tail:
            continue
        point = fields[4].replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
        if (folder == point or folder.startswith(point.rstrip("/") + "/")) and len(point) >= len(best):
            best, kind = point, tail.split(" ")[0]
    return kind


def clock(folder: Path, now: Callable[[], float] = time.time) -> Check:
    """Our clock against that of the file system."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            file.write(b"x")
            file.flush()
            off = now() - os.fstat(file.fileno()).st_mtime
    except OSError as exc:
        return Check("clock", State.WARN, f"cannot be compared: {exc.strerror}", "make DLS_HOME writable")
    if abs(off) > LATE_S:
        said = f"{show_duration(abs(off))} {'ahead of' if off > 0 else 'behind'} the file system's"
        return Check("clock", State.WARN, said, "let both machines follow one time service (chrony, ntpd)")
    return Check("clock", State.OK, "agrees with the file system's")


def past(dls: Dls) -> Check:
    """Our clock against what is on record: leases end by it."""
    last = list(event.since(dls.database, event.newest(dls.database) - 1))
    ahead = (last[-1].time_ns - dls.database.now_ns()) / 1e9 if last else 0.0
    if ahead > LATE_S:
        said = f"the newest event is {show_duration(ahead)} in the future"
        return Check("clock-record", State.WARN, said, "the clock was set back: correct it")
    return Check("clock-record", State.OK, "no event lies in the future")


def limits(streams: int, soft: int | None = None) -> Check:
    """Open files: each stream and each batch holds some."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0] if soft is None else soft
    needed = 128 + 16 * streams
    if soft != resource.RLIM_INFINITY and soft < needed:
        remedy = f"ulimit -n {needed}, or lower the setting streams"
        return Check("open-files", State.WARN, f"{soft} allowed, {streams} streams may need {needed}", remedy)
    shown = "no limit" if soft == resource.RLIM_INFINITY else f"{soft} allowed"
    return Check("open-files", State.OK, f"{shown}, {streams} streams")


def sqlite(dls: Dls) -> Check:
    """The library that holds the state."""
    row = dls.database.one("SELECT sqlite_version()")
    said = str(row[0]) if row else "0"
    if tuple(int(n) for n in said.split(".")[:2]) < SQLITE:
        remedy = f"use a Python with SQLite {'.'.join(map(str, SQLITE))} or newer"
        return Check("sqlite", State.BROKEN, said, remedy)
    return Check("sqlite", State.OK, said)


# --------------------------------------------------------------------------------------------- optional parts


def libraries() -> list[Check]:
    """Python packages that some parts need."""
    checks = [Check("s3", State.OK, "built in, nothing to install")]
    if files() is not None:
        checks.append(Check("files-compiled", State.OK, "dls_files is installed: machine code copies small files"))
    else:
        remedy = "pip install ./logistics/accelerator, from the sources of this dls; needed only for speed"
        checks.append(Check("files-compiled", State.MISSING, "no dls_files, or one of another dls", remedy))
    if find_spec("zstandard") and find_spec("xxhash"):
        checks.append(Check("images", State.OK, "zstandard and xxhash are installed"))
        if available():
            checks.append(
                Check("images-compiled", State.OK, "dls_fast is installed: small files are read by machine code")
            )
        else:
            remedy = "pip install ./fuse/accelerator, from the sources of this dls; needed only for speed"
            checks.append(Check("images-compiled", State.MISSING, "no dls_fast, or one of another dls", remedy))
    else:
        remedy = "pip install 'dls[images]'; needed only for dls pack, mount and the like"
        checks.append(Check("images", State.MISSING, "no zstandard or no xxhash", remedy))
    if find_spec("psycopg"):
        return [*checks, Check("postgresql", State.OK, "psycopg is installed")]
    remedy = "pip install 'psycopg[binary]'; needed only for state in PostgreSQL"
    return [*checks, Check("postgresql", State.MISSING, "no psycopg", remedy)]


def programs(environ: Mapping[str, str], device: str = "/dev/fuse") -> list[Check]:
    """Programs and devices that some parts use."""
    path = environ.get("PATH", os.defpath)
    checks = []
    fuse, mounter = os.access(device, os.R_OK | os.W_OK), shutil.which("fusermount3", path=path)
    if fuse and mounter:
        checks.append(Check("fuse", State.OK, f"{device}, {mounter}"))
    else:
        lacks = [w for w, there in ((f"no access to {device}", fuse), ("no fusermount3", mounter)) if not there]
        remedy = (
            "ask for the package fuse3 (apt install fuse3, dnf install fuse3) and the device; needed only for mounts"
        )
        checks.append(Check("fuse", State.MISSING, ", ".join(lacks), remedy))
    if sbatch := shutil.which("sbatch", path=path):
        checks.append(Check("slurm", State.OK, sbatch))
    else:
        remedy = "work on a login node of the cluster, or load its module; needed only for batch jobs"
        checks.append(Check("slurm", State.MISSING, "no sbatch", remedy))
    return checks


# ------------------------------------------------------------------------------------- credentials and sites


def credentials(settings: Settings, used: Iterable[str]) -> list[Check]:
    """Where credentials were found, by protocol; needed where a site speaks it."""
    checks, needed = [], set(used)
    for find in {known.credentials: None for known in registry.BUILT_IN.values() if known.credentials}:
        spoken = [scheme for scheme, known in registry.BUILT_IN.items() if known.credentials is find]
        name = f"credentials-{spoken[0]}"
        try:
            checks.append(Check(name, State.OK, f"from {find(environ=settings.environ).source}"))
        except DlsError as exc:
            state = State.BROKEN if needed.intersection(spoken) or exc.kind != "denied" else State.MISSING
            checks.append(Check(name, state, f"{exc.message} [{exc.code}]", exc.remedy))
    return checks


def site(dls: Dls, storage: Storage, patience_s: float) -> Check:
    """Whether a storage answers: it is opened and its first entry listed, in a thread that may hang."""
    name = f"site {storage.id.removesuffix('/default')}"
    answers: list[Check] = []
    thread = threading.Thread(target=lambda: answers.append(_asked(dls, storage, name)), daemon=True)
    thread.start()
    thread.join(patience_s)
    if not answers:
        said = f"{place(storage.url)} does not answer within {show_duration(patience_s)}"
        return Check(name, State.BROKEN, said, "look at the network, or at a mount that hangs")
    return answers[0]


def _asked(dls: Dls, storage: Storage, name: str) -> Check:
    started = time.monotonic()
    try:
        store = dls.context.open_store(storage.url)
        try:
            first = next(iter(store.list()), None)
            room = f", {show_size(store.space().bytes)} free" if Can.SPACE in store.can else ""
        finally:
            store.close()
    except DlsError as exc:
        return _broken(name, exc)
    except Exception as exc:  # noqa: BLE001 - a doctor that falls ill helps nobody: what a foreign store raises is its finding
        return Check(
            name, State.BROKEN, f"{place(storage.url)}: {type(exc).__name__}", "report it to those who made it"
        )
    took = (time.monotonic() - started) * 1000
    held = "" if first is not None else ", nothing there yet"
    return Check(name, State.OK, f"{place(storage.url)} answers in {took:.0f} ms{held}{room}")
