"""Wiring: the only constructor of everything.  `connect()` gives the same objects to a command and to a notebook:

from dls.cli.wiring import connect
from dls.madpp.actions.stage_in import StageIn
dls = connect()
dls.take(StageIn("climate:era5", "scratch"))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

from dls.catalogue.sql import SqlCatalogue
from dls.cli.settings import Settings, load
from dls.logistics import url
from dls.logistics.actor import local
from dls.logistics.buffer import Buffers
from dls.logistics.database import Database
from dls.logistics.database_url import is_server
from dls.logistics.errors import DlsError, NotFound
from dls.logistics.locks import FileLocks, Locks
from dls.logistics.need import Needs
from dls.logistics.registry import open_store
from dls.logistics.site import Sites
from dls.logistics.store import Store
from dls.logistics.transfer.progress import Progress
from dls.logistics.transfer.receipt import SqlReceipts
from dls.logistics.transfer.run import Options
from dls.madpp.action import Action, Context, Facts
from dls.madpp.engine import Engine, InPlace
from dls.madpp.plan import gravest, prove, single
from dls.madpp.runs import Runs

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
        with self._stores() as open_store:
            run = self.engine.submit(single(action), self._watched(open_store=open_store, **how))
        return {"run": run.id, **run.results[action.name]}

    def preview(self, action: Action, **how: Any) -> Facts:
        """What an action would do; the gravest problem is raised, nothing is changed."""
        with self._stores() as open_store:
            context = self._watched(open_store=open_store, **how)
            problem = gravest(prove(single(action), context))
            if problem is not None:
                raise problem
            return action.preview(context)

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
        except KeyboardInterrupt:
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
        options=Options(settings.streams, settings.durability, settings.stall_s, settings.retries),
        environ=settings.environ,
        cwd=settings.cwd,
    )
    try:
        sites.get(LOCAL)
    except NotFound:
        sites.add_site(LOCAL, str(settings.home / "buffers"))
    return Dls(settings, database, locks, context, runs, InPlace(runs))


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
        silence = {"timeout_s": settings.timeout_s} if at.scheme.startswith("s3") else {}
        return open_store(at, settings.environ, **silence)

    return opened
