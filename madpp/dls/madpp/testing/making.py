"""Rules of stage-out and compute: ACTION-22 and 23."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from dls.catalogue.model import Activity
from dls.logistics import url
from dls.logistics.buffer import Contents
from dls.logistics.errors import Exists, Invalid, NotFound, Unavailable, Unsupported
from dls.logistics.testing.spec import spec
from dls.madpp.action import Facts
from dls.madpp.actions.compute import Compute
from dls.madpp.actions.register import Register
from dls.madpp.actions.release import Release
from dls.madpp.actions.stage_in import StageIn
from dls.madpp.actions.stage_out import StageOut
from dls.madpp.testing.bringing import FILES, OurRules, marks, replicas
from dls.madpp.testing.world import World


def sh(script: str, *inputs: str, output: str = "x:out") -> Compute:
    """A computation by the shell."""
    return Compute(("sh", "-c", script), "scratch", inputs, output)


class MakingRules(OurRules):
    """stage-out and compute."""

    # ----------------------------------------------------------------------------------------- stage-out

    @spec("ACTION-22")
    def test_saving_twice_saves_once(self, tmp_path: Path) -> None:
        for what, name in (("x:data", ""), ("src", "y:saved"), ("src", "")):
            for to in ("archive", "elsewhere/deep", "mem"):
                with self.world(tmp_path / f"{what[0]}{name[:1]}{to[0]}") as world:
                    action = StageOut(what, to if "/" not in to else str(world.folder / to), name)
                    first = world.take(action)
                    before = world.state(lineage=False)
                    world.trip.arm()
                    second = world.take(action)
                    assert (second["copied"], world.trip.bodies) == (0, 0)
                    assert (second["url"], second["dataset"]) == (first["url"], first["dataset"])
                    assert world.state(lineage=False) == before
                    assert world.tree(first["url"]) == FILES

    @spec("ACTION-22")
    def test_what_is_only_there_is_saved_there(self, tmp_path: Path) -> None:
        with self.world(tmp_path) as world:
            first = world.take(StageOut("x:data", "archive"))
            (world.folder / "src").rename(world.folder / "away")
            second = world.take(StageOut("x:data", "archive"))
            assert (second["url"], second["copied"]) == (first["url"], 0)

    @spec("ACTION-22")
    def test_other_content_is_never_replaced(self, tmp_path: Path) -> None:
        with self.world(tmp_path) as world:
            world.write("taken", {"d/1": b"other", "mine": b"mine"})
            before = world.tree("taken")
            self.refused(world, StageOut("x:data", str(world.folder / "taken")), Exists, "target-differs")
            assert world.tree("taken") == before

    @spec("ACTION-22")
    def test_targets_within_the_source_or_a_buffer_are_refused(self, tmp_path: Path) -> None:
        with self.world(tmp_path) as world:
            one = world.take(StageIn("x:data", "scratch"))
            for what, to, code in (
                ("src", "src/below", "same-place"),
                ("src", "src", "same-place"),
                ("src/d", "src", "same-place"),
                ("src", one["path"] + "/sub", "in-buffer"),
                ("x:data", one["path"], "in-buffer"),
            ):
                where = to if to.startswith("/") else str(world.folder / to)
                self.refused(world, StageOut(what, where), Invalid, code)
            self.refused(world, StageOut("x:data/d", "archive"), Unsupported, "part-of-dataset")

    @spec("ACTION-22")
    def test_a_new_name_is_a_name(self, tmp_path: Path) -> None:
        with self.world(tmp_path) as world:
            self.refused(world, StageOut("src", "archive", "x:data@1"), Invalid, "bad-dataset-id")
            self.refused(world, StageOut("x:data", "archive", "y:data"), Invalid, "named-twice")
            world.write("src2", {"only": b"1"})
            assert world.take(StageOut("src2", "archive", "x:data"))["dataset"] == "x:data@2"
            assert not world.untruths()

    @spec("ACTION-22")
    def test_odd_names_of_folders(self, tmp_path: Path) -> None:
        with self.world(tmp_path) as world:
            for name in ("a:b@c", "tab\there", "100%41"):
                world.write(name, {"x": b"1"})
                facts = world.take(StageOut("./" + name, "archive"))
                assert world.tree(facts["url"]) == {"x": b"1"}, name

    @spec("ACTION-22")
    def test_a_registered_buffer_is_saved_without_a_name(self, tmp_path: Path) -> None:
        with self.world(tmp_path) as world:
            made = world.take(sh("echo 42 > result"))
            facts = world.take(StageOut(made["path"], "archive"))
            assert (facts["dataset"], facts["saved_buffer"]) == ("x:out@1", made["buffer"])
            assert world.take(Release(made["buffer"]))["freed"]
            assert not world.untruths()

    # ------------------------------------------------------------------------------------------- compute

    @staticmethod
    def activity(world: World, facts: Facts) -> Activity:
        """The lineage of a computation."""
        return world.catalogue.activity(facts["activity"], actor=world.context.actor)

    @spec("ACTION-23")
    def test_what_made_what_is_recorded(self, tmp_path: Path) -> None:
        with self.world(tmp_path) as world:
            world.write("src2", {"e": b"two"})
            world.take(Register("x:data", "src2"))
            world.take(Register("y:more", "src2"))
            facts = world.take(sh("cat $DLS_IN_2/e {in1}/d/0 > sum; echo told; pwd > where", "x:data@1", "y:more"))
            out = world.tree(facts["path"])
            assert out["sum"] == b"twoA"
            assert out["where"].decode().strip() == facts["path"]
            one = self.activity(world, facts)
            assert [(p.ref, p.role) for p in one.used] == [("x:data@1", "in"), ("y:more@1", "in1")]
            assert ("x:out@1", "out") in [(p.ref, p.role) for p in one.generated]
            assert one.command == ("sh", "-c", "cat $DLS_IN_2/e {in1}/d/0 > sum; echo told; pwd > where")
            assert "program" in one.software
            assert one.hardware
            assert ("line", {"text": "told"}) in world.told
            assert world.buffer(facts["buffer"]).contents is Contents.DIRTY
            assert world.take(sh("echo other > sum"))["dataset"] == "x:out@2"

    @spec("ACTION-23")
    def test_writing_nothing_is_a_result(self, tmp_path: Path) -> None:
        with self.world(tmp_path) as world:
            facts = world.take(sh("true"))
            assert (facts["files"], facts["dataset"]) == (0, "x:out@1")
            assert world.take(Release(facts["buffer"]))["freed"], "nothing would be lost"

    @spec("ACTION-23")
    def test_a_command_that_fails_leaves_its_output_and_no_record(self, tmp_path: Path) -> None:
        with self.world(tmp_path) as world:
            with pytest.raises(Unavailable) as told:
                world.submit(sh("echo half > part; exit 3", "x:data"))
            assert told.value.code == "command-failed"
            assert told.value.facts["status"] == 3
            path = told.value.facts["path"]
            assert path in told.value.remedy
            assert world.tree(path) == {"part": b"half\n"}
            (dirty,) = [b for b in world.buffers.list() if b.contents is Contents.DIRTY]
            assert world.buffers.path(dirty) == path
            with pytest.raises(NotFound):
                world.catalogue.dataset(url.dataset("x:out"), actor=world.context.actor)
            inputs = [b for b in world.buffers.list() if b.id != dirty.id]
            assert [len(b.leases) for b in inputs] == [1], "the run's own lease is given back"

    @spec("ACTION-23")
    def test_changing_an_input_is_found(self, tmp_path: Path) -> None:
        with self.world(tmp_path) as world:
            facts = world.take(sh("echo 1 > r; echo oops > {in}/d/0; rm {in}/d/1", "x:data"))
            assert facts["inputs_changed"] == ["x:data@1"]
            assert facts["dataset"] == "x:out@1", "the output is registered all the same"
            assert self.activity(world, facts).software["inputs_changed"] == ["x:data@1"]
            staged = next(b for b in world.buffers.list() if b.id != facts["buffer"])
            assert staged.contents is Contents.DIRTY
            assert not world.untruths()
            row = next(
                r
                for r in world.catalogue.replicas(url.dataset("x:data"), actor=world.context.actor, offered=False)
                if "/scratch/" in r.url
            )
            assert set(marks(world, row.id)) == {b"d/0", b"d/1"}
            again = world.take(StageIn("x:data", "scratch"))
            assert again["buffer"] != staged.id
            assert world.tree(again["path"]) == FILES

    @spec("ACTION-23")
    def test_an_interrupt_ends_the_command_and_what_it_started(self, tmp_path: Path) -> None:
        with self.world(tmp_path) as world:
            pids = world.folder / "pids"
            script = f"echo $$ > {pids}; (sleep 100 & echo $! >> {pids}; wait)"
            interrupt = threading.Thread(target=_interrupt_when, args=(pids,))
            interrupt.start()
            with pytest.raises(KeyboardInterrupt):
                world.submit(sh(script))
            interrupt.join()
            for pid in map(int, pids.read_text().split()):
                assert _gone(pid), f"process {pid} is left behind"
            assert world.runs.list()[0].error["code"] == "interrupted"

    @spec("ACTION-23")
    def test_an_input_is_held_while_the_command_runs(self, tmp_path: Path) -> None:
        with self.world(tmp_path) as world:
            seen = list[Any]()

            def listen(kind: str, facts: Any) -> None:
                if kind == "line":
                    staged = next(b for b in world.buffers.list() if b.label.startswith("x:data"))
                    seen.append(world.take(Release(staged.id)))

            facts = world.take(sh("echo now; read x < /dev/null; cat {in}/d/0 > sum", "x:data"), tell=listen)
            assert seen
            assert not seen[0]["freed"]
            assert world.tree(facts["path"])["sum"] == b"A"
            assert [b.id for b in world.buffers.list()] == [facts["buffer"]], "its lease was the last: now it is freed"

    @spec("ACTION-23")
    def test_programs_are_found_as_written(self, tmp_path: Path) -> None:
        with self.world(tmp_path) as world:
            script = world.folder / "mine.sh"
            script.write_text("#!/bin/sh\necho mine > r\n")
            script.chmod(0o755)
            facts = world.take(Compute(("./mine.sh",), "scratch"))
            assert world.tree(facts["path"])["r"] == b"mine\n"
            assert facts["dataset"] == ""
            self.refused(world, Compute(("./other.sh",), "scratch"), NotFound, "no-program")
            self.refused(world, Compute((), "scratch"), Invalid, "no-command")

    @spec("ACTION-23")
    def test_a_command_that_ended_is_not_run_again_in_its_run(self, tmp_path: Path) -> None:
        with self.world(tmp_path) as world:
            count = world.folder / "count"
            action = sh(f"echo x >> {count}; echo 1 > r", "x:data")
            context = world.as_run()
            assert action.run(context)["dataset"] == action.run(context)["dataset"] == "x:out@1"
            assert count.read_text() == "x\n"
            assert len(replicas(world, "x:out")) == 1


def _interrupt_when(path: Path) -> None:
    until = time.monotonic() + 20
    while time.monotonic() < until and not (path.exists() and len(path.read_text().split()) == 2):
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)


def _gone(pid: int) -> bool:
    until = time.monotonic() + 5
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False
