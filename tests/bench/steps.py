"""N steps that do nothing, one after the other, each kept durably: `steps.py ours|dbos|prefect|commits FOLDER N`.

Runs in the interpreter of whoever is measured; prints JSON: seconds from the first step to the end.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path


def ours(folder: Path, count: int) -> float:
    """One plan of `count` steps, through the engine as a command takes it."""
    from dataclasses import dataclass
    from typing import Any, ClassVar

    from dls.cli.settings import load
    from dls.cli.wiring import connect
    from dls.madpp.engine import Durable
    from dls.madpp.plan import Plan, Step

    @dataclass(frozen=True)
    class Nothing:
        n: int
        name: ClassVar[str] = "nothing"

        def check(self, context: Any) -> list[Any]:
            return []

        def preview(self, context: Any) -> dict[str, Any]:
            return {}

        def run(self, context: Any) -> dict[str, Any]:
            return {"n": self.n}

    os.environ["DLS_HOME"] = str(folder)
    dls = connect(load())
    began = time.monotonic()
    Durable(dls.runs).submit(Plan(tuple(Step(f"s{n}", Nothing(n)) for n in range(count))), dls.context)
    took = time.monotonic() - began
    dls.close()
    return took


def dbos(folder: Path, count: int) -> float:
    """One workflow of `count` steps; SQLite in WAL mode that survives a power cut, as ours does."""
    import sqlalchemy as sa  # type: ignore[import-not-found,unused-ignore]
    from dbos import DBOS, DBOSConfig  # type: ignore[import-not-found,unused-ignore]
    from sqlalchemy import event

    path = f"sqlite:///{folder}/dbos.sqlite"
    engine = sa.create_engine(path, pool_size=20, max_overflow=20)

    @event.listens_for(engine, "connect")
    def settings(connection: object, _: object) -> None:
        connection.isolation_level = "IMMEDIATE"  # type: ignore[attr-defined]
        for pragma in ("busy_timeout=30000", "foreign_keys=ON", "journal_mode=WAL", "synchronous=FULL"):
            connection.execute(f"PRAGMA {pragma}")  # type: ignore[attr-defined]

    DBOS(
        config=DBOSConfig(
            name="bench-steps",
            system_database_url=path,
            system_database_engine=engine,
            application_version="1",
            executor_id="one",
            log_level="ERROR",
        )
    )

    @DBOS.step()
    def nothing(n: int) -> dict[str, int]:
        return {"n": n}

    @DBOS.workflow()
    def work(many: int) -> int:
        for n in range(many):
            nothing(n)
        return many

    DBOS.launch()
    began = time.monotonic()
    work(count)
    took = time.monotonic() - began
    print(json.dumps({"seconds": took}), flush=True)
    os._exit(0)  # its threads take a second to end, which is not the cost of a step


def prefect(folder: Path, count: int) -> float:
    """One flow of `count` tasks, on the server that the library starts for itself."""
    os.environ["PREFECT_HOME"] = str(folder)
    os.environ["PREFECT_LOGGING_LEVEL"] = "CRITICAL"
    os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
    from prefect import flow, task  # type: ignore[import-not-found,unused-ignore]

    @task(persist_result=True)
    def nothing(n: int) -> dict[str, int]:
        return {"n": n}

    @flow
    def work(many: int) -> int:
        for n in range(many):
            nothing(n)
        return many

    work(1)  # starts the server
    began = time.monotonic()
    work(count)
    return time.monotonic() - began


def commits(folder: Path, count: int) -> float:
    """The floor: `count` bare commits that survive a power cut."""
    import sqlite3

    connection = sqlite3.connect(folder / "bare.sqlite", isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE steps (n INTEGER PRIMARY KEY, answer TEXT)")
    began = time.monotonic()
    for n in range(count):
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO steps VALUES (?, ?)", (n, json.dumps({"n": n})))
        connection.execute("COMMIT")
    return time.monotonic() - began


if __name__ == "__main__":
    who, folder, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    folder.mkdir(parents=True, exist_ok=True)
    seconds = {"ours": ours, "dbos": dbos, "prefect": prefect, "commits": commits}[who](folder, count)
    print(json.dumps({"seconds": seconds}))
