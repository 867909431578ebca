"""Runs with state and locks on PostgreSQL: alive while their process is, broken off after it."""

import subprocess
import sys
from contextlib import closing

import pytest

from dls.logistics.actor import local
from dls.logistics.database import Database
from dls.logistics.errors import Conflict
from dls.logistics.locks_postgres import PostgresLocks
from dls.madpp.execution import RunState
from dls.madpp.plan import Plan
from dls.madpp.runs import Runs

RUN = """
import sys
from dls.logistics.actor import local
from dls.logistics.database import Database
from dls.logistics.locks_postgres import PostgresLocks
from dls.madpp.plan import Plan
from dls.madpp.runs import Runs
with Runs(Database(*sys.argv[1:]), PostgresLocks(*sys.argv[1:])).begun(Plan((), "p"), local("me")) as hold:
    print(hold.run, flush=True)
    sys.stdin.readline()
"""


@pytest.mark.service
@pytest.mark.spec("LOCKS-2")
def test_runs_are_alive_while_their_process_is(pg_state: tuple[str, str]) -> None:
    with closing(Database(*pg_state)) as database, closing(PostgresLocks(*pg_state)) as locks:
        runs = Runs(database, locks)
        argv, pipe = [sys.executable, "-c", RUN, *pg_state], subprocess.PIPE
        with subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True) as child:
            assert child.stdout is not None
            dead = child.stdout.readline().strip()
            assert runs.get(dead).state is RunState.RUNNING
            child.kill()
        locks.hold(f"run-{dead}", 30).release()
        assert runs.get(dead).state is RunState.BROKEN_OFF
        with runs.begun(Plan((), "p"), local("me")) as hold:
            id = hold.run
            assert runs.get(id).state is RunState.RUNNING
            runs.turn(hold, None, "a")
            runs.end(hold, local("me"), None, ("a", {"n": 1}))
            with pytest.raises(Conflict):
                runs.end(hold, local("me"), {"code": "late"})
        assert runs.get(id).results == {"a": {"n": 1}}
        assert [run.state for run in runs.list()] == [RunState.DONE, RunState.BROKEN_OFF]
