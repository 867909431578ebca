"""The conformance suite of actions: rules ACTION-1 … ACTION-13 of `specs/action.md`, for any implementation.

    class TestMine(ActionContract):
        def build(self, world): world.write("src", {"a": b"x"}) …
        def action(self, world): return Mine("x:data")
        def wrong(self, world): return Mine("no id"), {"bad-dataset-id"}

Register the markers `spec` and `fault` in your own pytest settings.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pytest

from dls.logistics.errors import DlsError
from dls.logistics.testing.spec import spec
from dls.madpp.action import ANSWER_BYTES, Context, Facts
from dls.madpp.plan import action_from, asked
from dls.madpp.testing.hooks import ActionHooks
from dls.madpp.testing.trip import Killed
from dls.madpp.testing.world import SECRET, World

MEASURED: Final = frozenset({"copied", "kept", "read", "trusted", "shared", "new", "inputs"})
"""Facts of an answer that say how much was left to do, and may differ when a step is repeated."""
_FORBIDDEN: Final = frozenset(
    {
        *(f"os.{name}" for name in ("environ", "getenv", "environb", "getenvb", "urandom", "getcwd")),
        *(f"time.{name}" for name in ("time", "time_ns", "monotonic", "sleep", "perf_counter")),
        *(f"{module}.{name}" for module in ("datetime", "date") for name in ("now", "today", "utcnow")),
    }
)
_FORBIDDEN_MODULES: Final = frozenset({"socket", "random", "secrets", "http", "urllib", "requests", "httpx", "boto3"})


class ActionContract(ActionHooks):
    """What holds for every action."""

    # -------------------------------------------------------------------------------------------- record

    @spec("ACTION-1")
    def test_it_is_a_frozen_record_of_json(self, tmp_path: Path) -> None:
        with self.ready(tmp_path / "w") as (_, action):
            fields = json.loads(json.dumps(asked(action)))
            assert action_from(action.name, fields, self.known) == action
            assert action.name == type(action).name in self.known
            for name in fields:
                with pytest.raises(dataclasses.FrozenInstanceError):
                    setattr(action, name, getattr(action, name))

    # --------------------------------------------------------------------------------- check and preview

    @spec("ACTION-2")
    def test_check_changes_nothing(self, tmp_path: Path) -> None:
        with self.ready(tmp_path / "w") as (world, action):
            before = world.dump()
            assert [str(error) for error in action.check(world.context)] == []
            assert world.dump() == before

    @spec("ACTION-2")
    def test_check_raises_nothing_though_the_world_fails(self, tmp_path: Path) -> None:
        with self.ready(tmp_path / "w") as (world, action):
            before = world.dump()
            action.check(world.context)
            for at in range(1, world.trip.count + 1):
                world.trip.arm(at)
                found = action.check(world.context)
                assert all(isinstance(error, DlsError) for error in found)
            world.trip.arm()
            assert world.dump() == before

    @spec("ACTION-3")
    def test_check_tells_everything_at_once(self, tmp_path: Path) -> None:
        with self.ready(tmp_path / "w") as (world, _):
            action, codes = self.wrong(world)
            before = world.dump()
            found = action.check(world.context)
            assert {error.code for error in found} >= set(codes), [str(error) for error in found]
            assert len({str(error) for error in found}) == len(found), "an error is told twice"
            assert world.dump() == before

    @spec("ACTION-4")
    def test_preview_changes_nothing_and_tells_what_would_be(self, tmp_path: Path) -> None:
        with self.ready(tmp_path / "w") as (world, action):
            before = world.dump()
            facts = _answer(action.preview(world.context))
            assert world.dump() == before
            assert all(isinstance(facts[k], int) and facts[k] >= 0 for k in ("files", "bytes")), facts
            assert facts["route"]
            assert all(isinstance(one, str) for one in facts["route"])
            eta = facts["eta"]
            assert 0 <= eta["low"] <= eta["seconds"] <= eta["high"]
            assert eta["from"]

    # -------------------------------------------------------------------------------------------- again

    @spec("ACTION-5")
    def test_again_in_the_same_run_changes_nothing(self, tmp_path: Path) -> None:
        with self.ready(tmp_path / "w") as (world, action):
            context = world.as_run()
            first = _answer(action.run(context))
            before = world.state()
            world.trip.arm()
            second = _answer(action.run(context))
            assert world.state() == before
            assert world.trip.bodies == 0, "it read bodies again"
            assert _lasting(first) == _lasting(second)

    @spec("ACTION-6")
    def test_again_by_another_run_moves_nothing(self, tmp_path: Path) -> None:
        with self.ready(tmp_path / "w") as (world, action):
            action.run(world.as_run())
            before = world.state(lineage=False)
            world.trip.arm()
            again = action.check(world.context)
            assert not again, [str(error) for error in again]
            action.run(world.as_run())
            if not self.anew:
                assert world.trip.bodies == 0, "it read bodies again"
                assert world.state(lineage=False) == before

    # -------------------------------------------------------------------------------------- interrupted

    def _points(self, count: int) -> list[int]:
        step = max(1, count // self.points) if self.points else 1
        return sorted({*range(1, count + 1, step), count})

    def _undisturbed(self, tmp_path: Path) -> tuple[dict[str, Any], int]:
        with self.ready(tmp_path / "undisturbed") as (world, action):
            action.run(world.as_run())
            return world.state(), world.trip.count

    @pytest.mark.fault
    @spec("ACTION-7", "ACTION-8")
    def test_killed_before_any_call_and_repeated_ends_equal(self, tmp_path: Path) -> None:
        self._killed(tmp_path, "killed")

    @pytest.mark.fault
    @spec("ACTION-7", "ACTION-8")
    def test_killed_after_any_call_and_repeated_ends_equal(self, tmp_path: Path) -> None:
        self._killed(tmp_path, "late")

    def _killed(self, tmp_path: Path, how: str) -> None:
        wanted, count = self._undisturbed(tmp_path)
        for at in self._points(count):
            with self.ready(tmp_path / f"{how}-{at}") as (world, action):
                context = world.as_run()
                world.trip.arm(at, how)
                with pytest.raises(Killed):
                    action.run(context)
                where = f"{how} at call {at}, {world.trip.log[-1:]}"
                world.trip.arm()
                assert not world.untruths(), f"{where}: a fact without its bytes"
                action.run(context)
                assert world.state() == wanted, f"{where}: it ends otherwise"
                assert not world.untruths(), where

    @pytest.mark.fault
    @spec("ACTION-7", "ACTION-8")
    def test_failing_at_any_call_and_asked_again_ends_equal(self, tmp_path: Path) -> None:
        self._failing(tmp_path, "error")

    @pytest.mark.fault
    @spec("ACTION-7", "ACTION-8")
    def test_an_answer_lost_at_any_call_and_asked_again_ends_equal(self, tmp_path: Path) -> None:
        self._failing(tmp_path, "lost")

    def _failing(self, tmp_path: Path, how: str) -> None:
        wanted, count = self._undisturbed(tmp_path)
        for at in self._points(count):
            with self.ready(tmp_path / f"{how}-{at}") as (world, action):
                world.trip.arm(at, how)
                with suppress(DlsError):  # some trouble is not the action's, such as with an old buffer
                    action.run(world.as_run())
                where = f"{how} at call {at}, {world.trip.log[at - 1 : at]}"
                world.trip.arm()
                assert not world.untruths(), f"{where}: a fact without its bytes"
                action.run(world.as_run())
                assert not world.untruths(), where
                if not self.anew:
                    now, then = world.state(), dict(wanted)
                    assert set(now.pop("lineage")) == set(then.pop("lineage")), where
                    assert now == then, f"{where}: it ends otherwise"

    # ------------------------------------------------------------------------------ answers and lineage

    @spec("ACTION-9")
    def test_answers_are_small_json_and_nothing_holds_a_secret(self, tmp_path: Path) -> None:
        with self.ready(tmp_path / "w") as (world, action):
            seen = [_answer(action.preview(world.context)), _answer(action.run(world.as_run()))]
            wrong, _ = self.wrong(world)
            seen += [error.to_json() for error in wrong.check(world.context)]
            rows = {k: v for k, v in world.dump().items() if k not in ("mem", "files")}
            for what in (seen, world.told, rows):
                assert SECRET not in repr(what), "a secret was written down"
            assert SECRET not in repr(world.context)

    @spec("ACTION-10")
    def test_lineage_is_left_without_being_asked(self, tmp_path: Path) -> None:
        with self.ready(tmp_path / "w") as (world, action):
            context = world.as_run()
            known = set(_activities(world))
            began = world.clock.now_ns
            action.run(context)
            new = [one for id, one in _activities(world).items() if id not in known]
            if not self.lineage:
                return
            mine = [one for one in new if one.type == self.lineage]
            assert len(mine) == 1, f"{len(mine)} activities of type {self.lineage}"
            (one,) = mine
            assert (one.run, one.actor) == (context.run, context.actor.name)
            assert one.used or one.generated
            assert one.software.get("dls"), "it does not say by which software"
            assert began <= one.started_ns <= one.ended_ns <= world.clock.now_ns, "not the context's clock"

    # ----------------------------------------------------------------------------------------- the world

    @spec("ACTION-11")
    def test_the_world_is_seen_through_the_context_only(self, tmp_path: Path) -> None:
        with self.ready(tmp_path / "w") as (_, action):
            module = inspect.getmodule(type(action))
            assert module is not None
            tree = ast.parse(inspect.getsource(module))
        used = {ast.unparse(n) for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
        modules = {a.name.partition(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        froms = {(n.module or "").partition(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        assert not used & _FORBIDDEN
        assert not (modules | froms) & _FORBIDDEN_MODULES

    @spec("ACTION-12")
    def test_a_listener_that_fails_is_its_own_trouble(self, tmp_path: Path) -> None:
        wanted, _ = self._undisturbed(tmp_path)

        def deaf(kind: str, facts: Mapping[str, Any]) -> None:
            raise BrokenPipeError(kind)

        with self.ready(tmp_path / "w") as (world, action):
            try:
                action.run(world.as_run(tell=deaf))
            except BrokenPipeError:
                pytest.fail("the trouble of a listener ended the work")
            assert world.state() == wanted

    @spec("ACTION-13")
    def test_a_failure_of_the_world_is_told(self, tmp_path: Path) -> None:
        """With no store to be had, nothing may look like success."""
        with self.ready(tmp_path / "w") as (world, action):
            before = world.state()

            def nowhere(address: str) -> Any:
                raise DlsError(f"no way to {address}", code="no-way")

            context: Context = world.as_run(open_store=nowhere)
            if self.lineage in ("", "withdraw", "restore"):
                return  # these need no store
            with pytest.raises(DlsError):
                action.run(context)
            assert {k: v for k, v in world.state().items() if k in before and ":" in k} == {
                k: v for k, v in before.items() if ":" in k
            }, "facts without bytes"


def _answer(facts: Facts) -> Facts:
    """An answer as it comes back from where it was kept."""
    text = json.dumps(facts)
    assert len(text.encode()) <= ANSWER_BYTES, f"an answer of {len(text)} bytes"
    back: Facts = json.loads(text)
    assert back == facts, "an answer that JSON does not keep"
    return back


def _lasting(facts: Facts) -> Facts:
    return {k: v for k, v in facts.items() if k not in MEASURED}


def _activities(world: World) -> dict[str, Any]:
    rows = world.database.all("SELECT id FROM activities")
    return {id: world.catalogue.activity(id, actor=world.context.actor) for (id,) in rows}
