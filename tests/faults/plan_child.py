"""A plan of ten steps in a process of its own, killed at a commit if asked.

plan_child.py FOLDER run|resume NUMBER before|after     NUMBER 0: not killed; prints how many commits there were
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dls.logistics.database import Database, Tx
from dls.madpp.actions.compute import Compute
from dls.madpp.actions.register import Register
from dls.madpp.actions.stage_in import StageIn
from dls.madpp.actions.stage_out import StageOut
from dls.madpp.actions.verify import Verify
from dls.madpp.actions.withdraw import Withdraw
from dls.madpp.engine import Durable
from dls.madpp.execution import RunState
from dls.madpp.plan import Plan, Step
from dls.madpp.testing.world import World

COMMITS = [0]


def ten(folder: str) -> Plan:
    """Register, stage in, compute, save, verify, withdraw."""
    steps: list[tuple[str, Any, tuple[str, ...]]] = [
        ("add", Register("t:in", f"{folder}/data"), ()),
        ("fetch", StageIn("t:in", "scratch"), ("add",)),
        ("check", Verify("t:in"), ("fetch",)),
        ("again", StageIn("t:in", "scratch"), ("check",)),
        (
            "work",
            Compute(("sh", "-c", "cat $DLS_IN/* > sum; echo x >> ../../ran"), "scratch", ("t:in",), "t:out"),
            ("again",),
        ),
        ("keep", StageOut("t:out", "archive"), ("work",)),
        ("prove", Verify("t:out", deep=True), ("keep",)),
        ("other", Register("t:more", f"{folder}/more"), ()),
        ("save", StageOut("t:more", "archive"), ("other",)),
        ("drop", Withdraw("t:in", "it was a trial"), ("prove", "save")),
    ]
    return Plan(tuple(Step(*one) for one in steps), "ten")


def main(folder: str, what: str, number: str, when: str) -> None:
    plain = Database.transaction

    @contextmanager
    def counted(self: Database, **how: bool) -> Iterator[Tx]:
        COMMITS[0] += 1
        mine = COMMITS[0]
        with plain(self, **how) as tx:
            yield tx
            if mine == int(number) and when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
        if mine == int(number):
            os.kill(os.getpid(), signal.SIGKILL)

    world = World(Path(folder), "ten")
    if what == "run":
        world.write("data", {"a": b"1", "b": b"22", "c/d": b"333"})
        world.write("more", {"m": b"more"})
        Database.transaction = counted  # type: ignore[method-assign]
        Durable(world.runs).submit(ten(folder), world.context)
    else:
        runs = world.runs.list(5)
        assert len(runs) < 2
        if runs and runs[0].state is RunState.DONE:
            pass  # killed after the last commit
        elif runs:
            Durable(world.runs).resume(runs[0].id, world.context)
        else:
            Durable(world.runs).submit(ten(folder), world.context)
    print(COMMITS[0])


if __name__ == "__main__":
    main(*sys.argv[1:])
