"""Rules of needs (NEED-1 … NEED-9 of `specs/buffer.md`) that one process can show."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from dls.logistics.errors import Conflict, Invalid, NotFound, Unavailable
from dls.logistics.need import Claim, NeedState
from dls.logistics.testing.contract_buffer_hooks import PATIENCE_S, BufferHooks, World
from dls.logistics.testing.spec import spec


class NeedRules(BufferHooks):
    """Two requests, one copy."""

    def other(self, world: World, place: Path, run: str, seen: dict[str, Any]) -> threading.Thread:
        """Another worker that asks for the same; finishes the need if it comes to hold it."""
        waits = seen.setdefault("waits", threading.Event())

        def work() -> None:
            def on_wait(holder: str) -> None:
                seen.setdefault("waited for", []).append(holder)
                waits.set()

            with (
                self.make(place, world.clock) as parts,
                parts.needs.claim(b"c", "s/default", run, on_wait=on_wait) as claim,
            ):
                seen.update(held=claim.is_held, done=claim.done, epoch=claim.epoch, error=claim.error, id=claim.id)
                if not claim.done:
                    claim.finish({"by": run})
                seen["result"] = claim.result

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        return thread

    def joined(self, thread: threading.Thread) -> None:
        thread.join(PATIENCE_S)
        assert not thread.is_alive(), "the waiter is stuck"

    @spec("NEED-1")
    def test_one_open_need(self, world: World) -> None:
        one, two = (world.needs.claim(b"c", "s/default", run) for run in ("run1", "run2"))
        assert one.id == two.id
        assert world.needs.claim(b"c", "t/default", "run1").id != one.id
        assert world.needs.claim(b"d", "s/default", "run1").id != one.id
        need = world.needs.open(one.id)
        assert (set(need.runs), need.state, need.holder) == ({"run1", "run2"}, NeedState.OPEN, "")
        assert [n.id for n in world.needs.list() if n.content == b"c" and n.storage == "s/default"] == [one.id]
        with pytest.raises(NotFound):
            world.needs.open("01ABSENT")
        for content, run in ((b"", "run1"), (b"c", "")):
            with pytest.raises(Invalid):
                world.needs.claim(content, "s/default", run)

    @spec("NEED-2", "NEED-3")
    def test_the_second_waits_and_takes_the_result(self, world: World, tmp_path: Path) -> None:
        seen: dict[str, Any] = {}
        with world.needs.claim(b"c", "s/default", "run1") as claim:
            assert (claim.is_held, claim.done, claim.epoch) == (True, False, 1)
            thread = self.other(world, tmp_path, "run2", seen)
            assert seen["waits"].wait(PATIENCE_S)
            assert "held" not in seen
            assert world.needs.open(claim.id).holder == "run1"
            claim.finish({"buffer": "01B"})
        self.joined(thread)
        assert seen["waited for"] == ["run1"]
        assert (seen["held"], seen["done"], seen["result"]) == (False, True, {"buffer": "01B"})
        assert (claim.done, claim.result, claim.is_held) == (True, {"buffer": "01B"}, False)
        need = world.needs.open(claim.id)
        assert (need.state, need.epoch, need.holder, need.runs) == (NeedState.DONE, 1, "run1", ("run1", "run2"))

    @spec("NEED-6")
    @pytest.mark.parametrize("how", ["failed", "error", "bug", "left"])
    def test_a_failure_is_left_to_the_next(self, world: World, tmp_path: Path, how: str) -> None:
        seen: dict[str, Any] = {}
        claim = world.needs.claim(b"c", "s/default", "run1")

        def fails(claim: Claim) -> None:
            if how == "failed":
                claim.failed({"message": "no"})
            elif how == "error":
                raise Unavailable("no", code="no-space")
            elif how == "bug":
                raise ZeroDivisionError

        threads = []
        with suppress(Unavailable, ZeroDivisionError), claim:
            threads.append(self.other(world, tmp_path, "run2", seen))
            assert seen["waits"].wait(PATIENCE_S)
            fails(claim)
        self.joined(threads[0])
        assert (seen["held"], seen["epoch"], seen["id"]) == (True, 2, claim.id)
        message = {"failed": "no", "error": "no", "bug": "ZeroDivisionError", "left": "left unfinished"}[how]
        assert seen["error"]["message"] == message
        assert world.needs.open(claim.id).result == {"by": "run2"}

    @spec("NEED-6", "NEED-7", "NEED-9")
    def test_a_closed_need_is_asked_anew(self, world: World) -> None:
        with world.needs.claim(b"c", "s/default", "run1") as failed:
            failed.failed({"message": "no"})
        assert world.needs.open(failed.id).state is NeedState.FAILED
        with world.needs.claim(b"c", "s/default", "run1") as done:
            assert done.is_held
            assert done.error == {}
            done.finish({"n": 1})
        with world.needs.claim(b"c", "s/default", "run2") as anew:
            assert anew.is_held
            anew.finish({"n": 2})
        assert len({failed.id, done.id, anew.id}) == 3
        assert world.needs.list() == ()
        types = [e.type for e in world.events() if e.subject in {failed.id, done.id}]
        assert types == ["need.opened", "need.held", "need.failed", "need.opened", "need.held", "need.done"]

    @spec("NEED-3")
    def test_asked_before_the_end_gets_the_result(self, world: World) -> None:
        late = world.needs.claim(b"c", "s/default", "run2")
        with world.needs.claim(b"c", "s/default", "run1") as claim:
            claim.finish({"n": 1})
        with late:
            assert (late.done, late.result, late.is_held) == (True, {"n": 1}, False)
        with pytest.raises(Conflict):
            late.finish({"n": 2})

    @spec("NEED-8")
    def test_a_wait_can_be_limited(self, world: World) -> None:
        with world.needs.claim(b"c", "s/default", "run1") as claim:
            for patience in (0, 0.05):
                with pytest.raises(Unavailable) as caught:
                    world.needs.claim(b"c", "s/default", "run2", timeout=patience).__enter__()
                assert (caught.value.code, caught.value.facts["run"]) == ("need-busy", "run1")
                assert "run1" in caught.value.remedy
            assert claim.is_held
            claim.failed({})
        assert world.needs.open(claim.id).state is NeedState.FAILED, "who gave up is not waited for"
