"""A whole embedded world below one folder: the model of how a Context is built, and the place where actions are tried.

Sites: `scratch` and `archive` are folders, `mem` is a store in memory.  The clock stands until it is moved.  `state()`
is what the world holds, without ids that differ from run to run; `dump()` is every row and byte of it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, Final

from dls.catalogue.model import Layout, Port, Replica, ReplicaState
from dls.catalogue.sql import SqlCatalogue
from dls.logistics import digest as digests
from dls.logistics import ids, names, url
from dls.logistics.actor import local
from dls.logistics.buffer import Buffer, Buffers, Contents, State
from dls.logistics.database import Database
from dls.logistics.database_sqlite import Sqlite
from dls.logistics.entry import FILE
from dls.logistics.errors import DlsError
from dls.logistics.locks import FileLocks
from dls.logistics.need import Needs
from dls.logistics.registry import open_store
from dls.logistics.site import Sites
from dls.logistics.store import Store
from dls.logistics.transfer.receipt import SqlReceipts
from dls.logistics.transfer.run import Options
from dls.madpp.action import Action, Context, Facts
from dls.madpp.engine import Durable
from dls.madpp.execution import Run
from dls.madpp.plan import single
from dls.madpp.runs import Runs
from dls.madpp.testing.trip import Trip

START_NS: Final = 2_000_000_000_000_000_000
SECRET: Final = "hunter2-nobody-may-see-this"
_PLACES = count(1)
_ULID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")
_TAIL = re.compile(r"-[0-9A-HJKMNP-TV-Z]{10}\.\d+")
_STAGED = re.compile(r"(staged:[A-Za-z0-9._-]+)-[0-9a-f]{8}")


class Clock:
    """The one clock of a world, nanoseconds; it creeps, so that times rise."""

    def __init__(self) -> None:
        self.now_ns = START_NS

    def __call__(self) -> int:
        self.now_ns += 1000
        return self.now_ns

    def advance(self, seconds: float) -> None:
        """Move it on."""
        self.now_ns += int(seconds * 1e9)


class _Unsynced(Sqlite):
    """State that need not survive a power cut."""

    def connect(self) -> Any:
        connection = super().connect()
        connection.execute("PRAGMA synchronous=OFF")
        return connection


class _Database(Database):
    """State with the world's clock."""

    def __init__(self, path: Path, clock: Clock) -> None:
        super().__init__(path)
        self._kind = _Unsynced(path)
        self._clock = clock

    def now_ns(self) -> int:
        return self._clock()


class World:
    """An installation of its own, with sites, a person and a clock."""

    def __init__(self, folder: Path, place: str = "") -> None:
        """`place` names what is in memory: given, the folder can be opened again by another process."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.clock = Clock()
        self.place = place or f"world-{os.getpid()}-{next(_PLACES)}"
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.trip = Trip()
        """Watches every call that actions make; `trip.arm(…)` lets one go wrong."""
        self.database = _Database(folder / "state.sqlite", self.clock)
        self.catalogue = SqlCatalogue(self.database)
        self.sites, self.buffers = Sites(self.database), Buffers(self.database)
        self.runs = Runs(self.database, FileLocks(folder / "locks"))
        self.sites.add_site("scratch", str(folder / "scratch"), capacity_bytes=10**9, capacity_inodes=10**6)
        self.sites.add_site("archive", str(folder / "archive"))
        self.sites.add_site("mem", f"memory://{self.place}/site")
        for name in ("scratch", "archive"):
            (folder / name).mkdir(exist_ok=True)
        self.context = self._context()

    def _context(self) -> Context:
        watch = self.trip.around
        return Context(
            watch("catalogue", self.catalogue),
            watch("sites", self.sites),
            watch("buffers", self.buffers),
            self.trip.needs(Needs(self.database, FileLocks(self.folder / "locks"))),
            watch("receipts", SqlReceipts(self.database)),
            lambda address: self.trip.store(self.store(address)),
            local("ada@here"),
            self.folder / "transfers",
            run=ids.ulid(START_NS),
            options=Options(streams=2, stall_s=20.0, retries=0),
            tell=lambda kind, facts: self.told.append((kind, dict(facts))),
            now=self.clock,
            environ={"PATH": os.defpath, "TOKEN": SECRET},
            cwd=str(self.folder),
        )

    def close(self) -> None:
        """Close the state and forget what memory held."""
        from dls.logistics.stores.memory import MemoryStore

        self.database.close()
        MemoryStore.forget(self.place)

    # --------------------------------------------------------------------------------------------- doing

    def store(self, address: str) -> Store:
        """A store by the side door, unwatched."""
        return open_store(url.parse(address, str(self.folder)), {})

    def write(self, where: str, files: Mapping[str, bytes | str]) -> str:
        """Make a folder below the world with these files (a text makes a link); all times are the same."""
        root = self.folder / where
        for name, body in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(body, str):
                path.symlink_to(body)
            else:
                path.write_bytes(body)
            os.utime(path, ns=(START_NS, START_NS), follow_symlinks=False)
        return str(root)

    def as_run(self, run: str = "", **changes: Any) -> Context:
        """The context of a run, a new one where none is named."""
        return replace(self.context, run=run or ids.ulid(), **changes)

    def take(self, action: Action, **changes: Any) -> Facts:
        """Submit an action as a plan of one step and return its answer."""
        facts: Facts = self.submit(action, **changes).results[action.name]
        return facts

    def submit(self, action: Action, **changes: Any) -> Run:
        """The same; the run."""
        return Durable(self.runs).submit(single(action), replace(self.context, **changes))

    @contextmanager
    def listening(self) -> Iterator[list[tuple[str, dict[str, Any]]]]:
        """What is told inside the block."""
        self.told.clear()
        yield self.told

    # ------------------------------------------------------------------------------------------- looking

    def buffer(self, id: str) -> Buffer:
        """A buffer as it is now."""
        return self.buffers.open(id)

    def tree(self, address: str) -> dict[str, bytes]:
        """Names and bodies below an address, hidden ones too where it is a folder; links as `-> target`."""
        at = url.parse(address, str(self.folder))
        if at.scheme == "file":
            return dict(_walk(Path("/" + os.fsdecode(at.path))))
        store = self.store(address)
        return {names.show(e.path): b"".join(store.read(e.path)) for e in store.list() if e.kind == FILE}

    def dump(self) -> dict[str, Any]:
        """Every row of the state and every byte of the sites and folders below the world."""
        out: dict[str, Any] = {"mem": self.tree(f"memory://{self.place}/site")}
        out["files"] = {
            name: body
            for name, body in _walk(self.folder)
            if not name.startswith(("state.sqlite", "transfers/", "locks/"))
        }
        for (table,) in self.database.all("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"):
            out[table] = self.database.all(f"SELECT * FROM {table} ORDER BY 1, 2")
        return out

    def plain(self, text: str) -> str:
        """A text without what differs from world to world."""
        text = text.replace(str(self.folder), "$W").replace(self.place, "$M")
        return _STAGED.sub(r"\1-#", _ULID.sub("ULID", _TAIL.sub("-#", text)))

    def state(self, *, lineage: bool = True) -> dict[str, Any]:
        """What the world holds: places, datasets, replicas, buffers, and lineage."""
        me, out = self.context.actor, dict[str, Any]()
        for site in ("scratch", "archive"):
            out[site] = {self.plain(k): v for k, v in self.tree(str(self.folder / site)).items()}
        out["mem"] = {self.plain(k): v for k, v in self.tree(f"memory://{self.place}/site").items()}
        seen = dict[str, Any]()
        for dataset in self.catalogue.datasets(actor=me, limit=10_000):
            rows = list[Any]()
            for version in self.catalogue.versions(url.dataset(dataset.key), actor=me):
                id = url.dataset(version.id)
                rows.append((version.number, version.content.hex(), version.files, version.size))
                rows += sorted(
                    (version.number, r.storage, self.plain(r.url), r.state.value, *self._marks(r.id))
                    for r in self.catalogue.replicas(id, actor=me, offered=False)
                )
                for one in self.catalogue.lineage(id, actor=me, direction="both", depth=1):
                    seen[one.id] = (one.type, self._ports(one.used), self._ports(one.generated))
            out[self.plain(dataset.key)] = (dataset.state.value, rows)
        held = (self._held(b) for b in self.buffers.list())
        out["buffers"] = sorted(held)
        out["open needs"] = len(Needs(self.database, FileLocks(self.folder / "locks")).list())
        if lineage:
            out["lineage"] = sorted(seen.values())
        return out

    def _ports(self, ports: Iterable[Port]) -> tuple[str, ...]:
        return tuple(self.plain(f"{port.role} {port.ref}") for port in ports)

    def _marks(self, replica: str) -> list[str]:
        marks = self.catalogue.exceptions(replica, actor=self.context.actor)
        return [f"{names.show(m.path)} {m.state.value}" for m in marks]

    def _held(self, b: Buffer) -> tuple[Any, ...]:
        users = tuple(sorted(self.plain(lease.user) for lease in b.leases))
        sizes = (b.reserved_bytes, b.reserved_inodes, b.used_bytes, b.used_inodes)
        kinds = tuple(sorted({ref.partition(":")[0] for ref in b.evidence}))
        return (self.plain(b.label), b.storage, b.state.value, b.contents.value, *sizes, users, kinds)

    # ----------------------------------------------------------------------------------------- believing

    def untruths(self) -> list[str]:
        """What the state says and is not so: replicas whose bytes are not there, clean buffers that rest on nothing."""
        me, wrong = self.context.actor, list[str]()
        for dataset in self.catalogue.datasets(actor=me, limit=10_000):
            for version in self.catalogue.versions(url.dataset(dataset.key), actor=me):
                id = url.dataset(version.id)
                for one in self.catalogue.replicas(id, actor=me, offered=False):
                    if one.state is ReplicaState.COMPLETE:
                        marked = {m.path for m in self.catalogue.exceptions(one.id, actor=me)}
                        entries = [e for e in self.catalogue.manifest(id, actor=me) if e.path not in marked]
                        wrong += [f"{version.id} at {one.url}: {names.show(k)}" for k in self._bad(one, entries)]
        return wrong + [f"buffer {b.id} {b.label} is clean by {b.evidence}" for b in self._bare()]

    def _bad(self, replica: Replica, entries: list[Any]) -> Iterator[bytes]:
        try:
            store = self.replica(replica)
        except DlsError:
            yield b""
            return
        for entry in entries:
            if entry.kind == FILE:
                there = store.stamps([entry.path])[0]
                if not there or not self._holds(store, entry):
                    yield entry.path

    @staticmethod
    def _holds(store: Store, entry: Any) -> bool:
        try:
            return bool(digests.of(b"".join(store.read(entry.path))) == entry.digest)
        except DlsError:
            return False

    def replica(self, replica: Replica) -> Store:
        """A replica by the side door: an image is read as one."""
        if replica.layout is Layout.SAME:
            return self.store(replica.url)
        from dls.fuse.store import open_image_store

        above, key = url.parse(replica.url).parent
        return open_image_store(self.store(str(above)), key)

    def _bare(self) -> Iterator[Buffer]:
        for buffer in self.buffers.list():
            said = buffer.contents is Contents.CLEAN and buffer.state is not State.FREEING
            if said and not all(self._stands(buffer, ref) for ref in buffer.evidence):
                yield buffer

    def _stands(self, buffer: Buffer, ref: str) -> bool:
        kind, _, id = ref.partition(":")
        root = str(url.parse(self.sites.get(buffer.storage).url).below(buffer.root))
        if kind == "replica":
            row = self.catalogue.replica(id, actor=self.context.actor)
            return row.state is ReplicaState.COMPLETE and not row.url.startswith(root)
        if kind == "buffer":
            return id != buffer.id and self.buffers.open(id).state is State.READY
        return not self.tree(root)


def _walk(folder: Path) -> Iterator[tuple[str, bytes]]:
    for at, folders, files in os.walk(folder):
        for name in sorted((*folders, *files)):
            path = Path(at, name)
            if path.is_symlink():
                yield str(path.relative_to(folder)), b"-> " + os.fsencode(path.readlink())
            elif path.is_file():
                yield str(path.relative_to(folder)), path.read_bytes()
