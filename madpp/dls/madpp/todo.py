"""Todo: what of a plan need not be done again.  So applying a plan twice moves nothing, also where it gives buffers
back: what was brought only for a computation is not brought again when the computation has been made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dls.catalogue.model import Activity
from dls.logistics import url
from dls.logistics.errors import NotFound
from dls.madpp.action import Context
from dls.madpp.plan import Plan, Step

NOT_NEEDED = "nothing needs it: what follows is done"


def needless(plan: Plan, step: Step, context: Context) -> str:
    """Why a step of a plan has nothing to do now; '' where it has to be taken."""
    if step.action.name == "compute":
        return _settled(step, context)
    if step.action.name != "stage-in":
        return ""
    after = [one for one in plan.steps if step.name in one.after]
    users = [one for one in after if not _gives_back(one, step)]
    if not users or len(users) == len(after) or not all(_settled(one, context) for one in users):
        return ""
    return NOT_NEEDED


def _gives_back(one: Step, step: Step) -> bool:
    given: Any = one.action
    staged: Any = step.action
    if one.action.name != "release":
        return False
    return (given.buffer, given.at, given.as_image) == (staged.what, staged.to, staged.as_image)


def _settled(step: Step, context: Context) -> str:
    look = getattr(step.action, "settled", None)
    return str(look(context)) if look else ""


def made_before(context: Context, command: Sequence[str], at: str, inputs: Sequence[str], output: str) -> str:
    """Which activity has made the newest version of `output` by this command, there, from the newest inputs, so long
    as a copy is offered; '' where none has.  What this run has made itself is not meant: it may not have ended."""
    if not output or not all(url.is_dataset(one) for one in inputs):
        return ""
    try:
        used = [context.catalogue.version(url.dataset(one), actor=context.actor).id for one in inputs]
        newest = url.dataset(context.catalogue.version(url.dataset(output), actor=context.actor).id)
    except NotFound:
        return ""
    if not context.catalogue.replicas(newest, actor=context.actor):
        return ""
    site = context.sites.get(at).site
    for one in context.catalogue.lineage(newest, actor=context.actor, direction="up", depth=1):
        if one.run != context.run and _same(one, command, site, used, str(newest)):
            return f"{newest} was made by it before, see {one.id}"
    return ""


def _same(one: Activity, command: Sequence[str], site: str, used: Sequence[str], made: str) -> bool:
    if one.type != "compute" or tuple(one.command) != tuple(command) or one.where != site:
        return False
    return [port.ref for port in one.used] == list(used) and made in {port.ref for port in one.generated}
