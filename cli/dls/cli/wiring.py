"""Wiring: the only constructor of everything.  `connect()` gives the same objects to a command and to a notebook:

from dls.cli.wiring import connect
from dls.madpp.actions.stage_in import StageIn
dls = connect()
dls.take(StageIn("climate:era5", "scratch"))
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar

from dls.catalogue.sql import SqlCatalogue
from dls.cli import live
from dls.cli.settings import Settings, load
from dls.logistics import url
from dls.logistics.actor import local
from dls.logistics.buffer import Buffers
from dls.logistics.database import Database
from dls.logistics.database_url import is_server
from dls.logistics.errors import DlsError, NotFound, Stop, Unsupported
from dls.logistics.locks import FileLocks, Locks
from dls.logistics.need import Needs
from dls.logistics.registry import PASSING, open_store, schemes
from dls.logistics.site import Sites
from dls.logistics.store import Store
from dls.logistics.transfer.progress import Progress
from dls.logistics.transfer.receipt import SqlReceipts
from dls.logistics.transfer.run import Options
from dls.madpp.action import Action, Context, Facts
from dls.madpp.engine import Durable, Engine
from dls.madpp.execution import Run
from dls.madpp.plan import Plan, Problem, gravest, prove, single
from dls.madpp.previews import previews
from dls.madpp.runs import Runs
from dls.madpp.slots import Slots
from dls.madpp.worker import Worker

T = TypeVar("T")

LOCAL: Final = "local"
"""The site that every installation has: buffers in a folder of DLS_HOME."""


@dataclass(frozen=True)
class Dls:
    """One installation, opened."""

    settings: Settings
    database: Database
    locks: Locks
    context: Context
    runs: Runs
    engine: Engine

    def take(self, action: Action, **how: Any) -> Facts:
        """Prove an action, run it, and return what it answers with the id of its run; `how` overrides the context."""
        run = self.apply(single(action), **how)
        return {"run": run.id, **run.results[action.name]}

    def enqueue(self, plan: Plan) -> Run:
        """Prove a plan and leave it to the workers."""
        with self._stores() as open_store:
            return self.engine.enqueue(plan, self._watched(open_store=open_store))

    def resume(self, id: str, **how: Any) -> Run:
        """Carry on here a run that nobody carries."""
        with self._seen(how) as context:
            return self.engine.resume(id, context)

    def slots(self) -> Slots:
        """The workers of this installation, to look at."""
        return Slots(self.database, self.locks)

    def worker(self, tell: Callable[[str, Mapping[str, Any]], None], *, lease_s: float, grace_s: float) -> Worker:
        """A worker of this process.  It writes by this installation's database, and keeps its lease by another one."""
        beside, locks = _state(self.settings)
        own = Runs(beside, locks)
        slots = Slots(beside, locks, lease_s, lease_s / 2 if is_server(self.settings.database) else 0.0)
        context = replace(self.context, tell=tell)
        host = re.sub(r"[^a-z0-9-]", "-", socket.gethostname().partition(".")[0].lower()) or "host"
        freed = self.context.needs.break_holds
        return Worker(self.database, self.runs, slots, context, host, tell, own, self._opened, freed, grace_s)

    @contextmanager
    def _opened(self, context: Context) -> Iterator[Context]:
        with self._stores() as open_store, live.shown(self._figures, context.progress, context.tell) as tell:
            yield replace(context, open_store=open_store, tell=tell)

    def apply(self, plan: Plan, **how: Any) -> Run:
        """Prove a plan and carry it out; the run as it ended.  Applied again it moves nothing that is proven."""
        with self._seen(how) as context:
            return self.engine.submit(plan, context)

    @property
    def _figures(self) -> Path:
        return self.settings.home / "locks"

    @contextmanager
    def _seen(self, how: dict[str, Any]) -> Iterator[Context]:
        """The context of a run that is carried here, whose figures other processes can see."""
        progress = how.pop("progress", None) or Progress()
        with (
            self._stores() as open_store,
            live.shown(self._figures, progress, how.pop("tell", None)) as tell,
        ):
            yield self._watched(open_store=open_store, progress=progress, tell=tell, **how)

    def prove(self, plan: Plan) -> list[Problem]:
        """Everything that is wrong with a plan, given the world; nothing is changed."""
        with self._stores() as open_store:
            return prove(plan, self._watched(open_store=open_store))

    def show(self, plan: Plan) -> list[Facts]:
        """What each step of a plan would change now, in their order; nothing is changed."""
        with self._stores() as open_store:
            return list(previews(plan, self._watched(open_store=open_store)))

    def preview(self, action: Action, **how: Any) -> Facts:
        """What an action would do; the gravest problem is raised, nothing is changed."""
        with self._stores() as open_store:
            context = self._watched(open_store=open_store, **how)
            problem = gravest(prove(single(action), context))
            if problem is not None:
                raise problem
            return action.preview(context)

    def look(self, work: Callable[[Context], T], **how: Any) -> T:
        """What `work` finds in this world; the stores that it opens are closed afterwards."""
        with self._stores() as open_store:
            return work(self._watched(open_store=open_store, **how))

    def _watched(self, **how: Any) -> Context:
        return replace(self.context, **{"progress": Progress(), **how})

    @contextmanager
    def _stores(self) -> Iterator[Callable[[str], Store]]:
        """Opens stores and closes them at the end; but not those that a hanging thread may still hold."""
        made: list[Store] = []

        def opened(address: str) -> Store:
            made.append(self.context.open_store(address))
            return made[-1]

        try:
            yield opened
        except DlsError as exc:
            if exc.code == "stalled":
                made.clear()
            raise
        except (KeyboardInterrupt, Stop):
            made.clear()
            raise
        finally:
            for store in made:
                store.close()

    def close(self) -> None:
        """Close the state; idempotent."""
        self.locks.close()
        self.database.close()


def connect(settings: Settings | None = None) -> Dls:
    """Open an installation; its folder (mode 0700), its state and the site `local` are made where they are missing.

    State and locks are in DLS_HOME, or both on the PostgreSQL server that the setting `database` names."""
    settings = settings or load()
    database, locks = _state(settings)
    sites = Sites(database)
    runs = Runs(database, locks)
    context = Context(
        SqlCatalogue(database),
        sites,
        Buffers(database),
        Needs(database, locks),
        SqlReceipts(database),
        _opener(settings),
        local(settings.actor),
        settings.home / "transfers",
        options=Options(
            streams=settings.streams,
            durability=settings.durability,
            stall_s=settings.stall_s,
            retries=settings.retries,
        ),
        environ=settings.environ,
        cwd=settings.cwd,
    )
    try:
        sites.get(LOCAL)
    except NotFound:
        sites.add_site(LOCAL, str(settings.home / "buffers"))
    return Dls(settings, database, locks, context, runs, Durable(runs))


def _state(settings: Settings) -> tuple[Database, Locks]:
    if not is_server(settings.database):
        return Database(settings.home / "state.sqlite"), FileLocks(settings.home / "locks")
    from dls.logistics.locks_postgres import PostgresLocks

    named = settings.database, settings.schema
    return Database(*named), PostgresLocks(*named)


def _opener(settings: Settings) -> Callable[[str], Store]:
    """Opens stores with this user's time limit; services are asked by connections, folders are not."""

    def opened(address: str) -> Store:
        at = url.parse(address, settings.cwd)
        if at.scheme == PASSING:
            raise Unsupported(
                f"{at}: what lies there ends with this process, and is no copy for the catalogue",
                code="unknown-scheme",
                scheme=at.scheme,
                remedy=f"choose one of {', '.join(schemes())}",
            )
        silence = {"timeout_s": settings.timeout_s} if at.scheme.startswith(("s3", "http")) else {}
        return open_store(at, settings.environ, **silence)

    return opened
