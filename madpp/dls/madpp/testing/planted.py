"""Planted violations: for every rule ACTION-n of `specs/action.md` a way to break it: the suite must tell.

Each patches one thing in an action of ours.  `failures(suite, rule, folder)` runs a rule's tests without pytest's
machinery; a test demands a failure for each violation, and none without.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from dls.catalogue.changes import AddReplica, PutDataset
from dls.catalogue.model import Activity
from dls.logistics import ids
from dls.logistics.buffer import Buffers, State
from dls.logistics.errors import DlsError
from dls.logistics.testing.spec import Suite, suite_tests
from dls.madpp import places, record, saved
from dls.madpp.action import Context
from dls.madpp.actions import register, release, stage_in
from dls.madpp.testing import ours

Patch = pytest.MonkeyPatch
Plant = Callable[[Patch], None]

VIOLATIONS: Final[dict[str, tuple[str, type[Suite], Plant]]] = {}
"""By name: the rule that it breaks, the suite that must tell, and what does it."""


def violation(rule: str, suite: type[Suite] = ours.RegisterContract) -> Callable[[Plant], Plant]:
    """Register a violation under the name of its function."""

    def add(plant: Plant) -> Plant:
        VIOLATIONS[plant.__name__.replace("_", " ")] = (rule, suite, plant)
        return plant

    return add


def failures(suite: type[Suite], rule: str, folder: Path) -> dict[str, BaseException]:
    """The tests of a rule (all where '') that fail, and how.  A bug of the plant itself passes through."""
    found: dict[str, BaseException] = {}
    for name in suite_tests(suite, rule):
        one: Any = suite()
        one.points = 5
        try:
            getattr(one, name)(tmp_path=folder / name)
        except (AssertionError, DlsError, pytest.fail.Exception) as failed:
            found[name] = failed
    return found


def wrap(patch: Patch, owner: Any, name: str, around: Callable[..., Any]) -> None:
    """Replace a function by `around(original, *arguments)`."""
    original = getattr(owner, name)
    patch.setattr(owner, name, lambda *a, **k: around(original, *a, **k))


def nothing(*_: Any, **__: Any) -> Any:
    """Do nothing, find nothing."""
    return []


# ------------------------------------------------------------------------------------- check and preview


@violation("ACTION-1")
def a_wish_can_be_changed(patch: Patch) -> None:
    patch.setattr(register.Register, "__setattr__", object.__setattr__)


@violation("ACTION-2")
def checking_writes_something(patch: Patch) -> None:
    def check(original: Any, self: Any, context: Context) -> Any:
        context.catalogue.apply([PutDataset("x:seen")], actor=context.actor)
        return original(self, context)

    wrap(patch, register.Register, "check", check)


@violation("ACTION-2")
def a_failing_store_breaks_the_check(patch: Patch) -> None:
    patch.setattr(register, "checked", lambda *looks: [look() for look in looks] and [])


@violation("ACTION-3")
def only_the_first_error_is_told(patch: Patch) -> None:
    wrap(patch, register, "checked", lambda checked, *looks: checked(*looks)[:1])


@violation("ACTION-4")
def previewing_writes_something(patch: Patch) -> None:
    def preview(original: Any, self: Any, context: Context) -> Any:
        context.catalogue.apply([PutDataset("x:seen")], actor=context.actor)
        return original(self, context)

    wrap(patch, register.Register, "preview", preview)


@violation("ACTION-4")
def an_estimate_without_an_interval(patch: Patch) -> None:
    patch.setattr(register, "estimate", lambda *_: {"seconds": 1.0, "low": 2.0, "high": 1.0, "from": "hope"})


# ------------------------------------------------------------------------------------ again, interrupted


@violation("ACTION-5")
def every_try_leaves_an_activity(patch: Patch) -> None:
    patch.setattr(record, "activity_id", lambda *_: ids.ulid())


@violation("ACTION-6", ours.StageInContract)
def every_run_gets_a_buffer(patch: Patch) -> None:
    no_sharing(patch)


def no_sharing(patch: Patch) -> None:
    """No reservation joins another."""
    wrap(patch, Buffers, "reserve", lambda reserve, *a, **k: reserve(*a, **{**k, "content": b""}))


@violation("ACTION-7", ours.ReleaseContract)
def a_freeing_that_began_is_not_ended(patch: Patch) -> None:
    def let_go(original: Any, context: Any, buffer: Any, user: str) -> Any:
        return None if buffer.state is State.FREEING else original(context, buffer, user)

    wrap(patch, release, "let_go", let_go)


@violation("ACTION-7", ours.ComputeContract)
def an_output_is_not_found_again(patch: Patch) -> None:
    def reserve(original: Any, *a: Any, **k: Any) -> Any:
        return original(*a, **{**k, "content": b"" if k["label"] == "x:out" else k["content"]})

    wrap(patch, Buffers, "reserve", reserve)


@violation("ACTION-8", ours.StageInContract)
def a_replica_is_recorded_before_its_bytes(patch: Patch) -> None:
    def bring(original: Any, context: Context, storage: Any, work: Any, buffer: Any, options: Any) -> Any:
        root, wanted = places.root_url(context, buffer), work.wish.version
        hope = AddReplica(wanted.dataset, root, wanted.number, storage.id, evidence={"how": "hope"})
        context.catalogue.apply([hope], actor=context.actor)
        return original(context, storage, work, buffer, options)

    wrap(patch, stage_in, "_bring", bring)


@violation("ACTION-8", ours.StageInContract)
def a_buffer_rests_on_itself(patch: Patch) -> None:
    patch.setattr(saved, "overlap", lambda *_: False)
    patch.setattr(saved, "containing", lambda *_: None)


# ------------------------------------------------------------------------------- answers, lineage, world


@violation("ACTION-9")
def an_answer_lists_everything(patch: Patch) -> None:
    wrap(patch, register.Register, "run", lambda run, *a: {**run(*a), "files": ["name" * 10] * 200})


@violation("ACTION-9")
def a_secret_is_told(patch: Patch) -> None:
    def run(original: Any, self: Any, context: Context) -> Any:
        context.note(f"the environment is {dict(context.environ)}")
        return original(self, context)

    wrap(patch, register.Register, "run", run)


@violation("ACTION-10")
def nothing_is_said_of_how_it_came(patch: Patch) -> None:
    patch.setattr(record, "recorded", lambda *_: Activity("", "register", "nobody"))


@violation("ACTION-11")
def an_action_reads_the_environment(patch: Patch) -> None:
    patch.setattr("inspect.getsource", lambda _: "import os\nhome = os.environ['HOME']\n")


@violation("ACTION-12")
def a_closed_pipe_ends_a_run(patch: Patch) -> None:
    def say(self: Context, kind: str, facts: Mapping[str, Any]) -> None:
        self.tell(kind, facts)

    patch.setattr(Context, "say", say)
    wrap(patch, register.Register, "run", lambda run, self, context: [context.note("begun"), run(self, context)][1])


@violation("ACTION-13")
def a_failure_looks_like_success(patch: Patch) -> None:
    def run(original: Any, self: Any, context: Context) -> Any:
        try:
            return original(self, context)
        except DlsError:
            return {}

    wrap(patch, register.Register, "run", run)
