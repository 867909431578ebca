"""`dls doctor`: what this machine can do, and what is missing."""

from __future__ import annotations

import click

from dls.cli import doctor as doctors
from dls.cli.command import verb
from dls.cli.front import Front


@verb("doctor")
def doctor(front: Front) -> None:
    """Check this installation: versions, DLS_HOME, the clock, optional parts, programs, sites and credentials.

    Each check is ok, a warning, missing (something optional) or broken.  Exit status 1 where something needed is
    broken; the gravest is named last.
    """
    checks = doctors.examine(front)
    front.out.rows("check", doctors.COLUMNS, [one.to_json() for one in checks])
    grave = doctors.gravest(checks)
    counts = {state.value: sum(one.state is state for one in checks) for state in doctors.State}
    lines = [f"{', '.join(f'{n} {state}' for state, n in counts.items() if n)}"]
    lines += [f"  {one.name}: {one.remedy}" for one in checks if one.remedy and one.state != doctors.State.OK]
    if grave:
        lines.append(f"gravest: {grave.name}: {grave.what}")
    facts = {"action": "doctor", "count": len(checks), "healthy": grave is None, **counts}
    front.out.result({**facts, "gravest": grave.name if grave else ""}, "broken" if grave else "ok", lines)
    if grave:
        raise click.exceptions.Exit(1)
