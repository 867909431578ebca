"""Rules of what is kept and what may go: ACTION-18, 19 and 20."""

from __future__ import annotations

from pathlib import Path

import pytest

from dls.catalogue.model import ReplicaState
from dls.logistics import url
from dls.logistics.buffer import Buffer, Contents, State
from dls.logistics.errors import Conflict, Corrupt, DlsError, NotFound, Unavailable
from dls.logistics.testing.spec import spec
from dls.madpp.actions.register import Register
from dls.madpp.actions.release import Release, find
from dls.madpp.actions.stage_in import StageIn
from dls.madpp.actions.stage_out import StageOut
from dls.madpp.actions.verify import Verify
from dls.madpp.actions.withdraw import Withdraw
from dls.madpp.testing.bringing import FILES, OurRules, replicas
from dls.madpp.testing.trip import Killed
from dls.madpp.testing.world import World


def remove(folder: Path) -> None:
    """Take a folder away by the side door."""
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    folder.rmdir()


class KeepingRules(OurRules):
    """release, expiry, clean and dirty."""

    @staticmethod
    def made(world: World, files: dict[str, bytes]) -> Buffer:
        """A dirty buffer with these files, as a job leaves it."""
        me = world.context.actor
        buffer = world.buffers.reserve("scratch", content=b"", label="made", bytes=0, inodes=1, user=me.name, actor=me)
        world.buffers.filling(buffer.id)
        for name, body in files.items():
            path = Path(world.buffers.path(buffer), name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(body)
        return world.buffers.settle(buffer.id, 4096, 2)

    # ------------------------------------------------------------------------------------ what may go

    @spec("ACTION-19")
    def test_a_clean_buffer_is_freed(self, tmp_path: Path) -> None:
        with self.world(tmp_path) as world:
            one = world.take(StageIn("x:data", "scratch"))
            facts = world.take(Release(one["path"]))
            assert facts["freed"]
            assert not Path(one["path"]).exists()
            assert world.buffer(one["buffer"]).state is State.FREED
            assert world.buffers.room("scratch").held_bytes == 0
            assert replicas(world, "x:data")[world.plain(f"file://{one['path']}")] is ReplicaState.GONE
            assert list(Path(world.folder, "scratch/dls").iterdir()) == []
            assert world.take(Release(one["buffer"]))["freed"], "asked again, it is freed"

    @spec("ACTION-19")
    def test_nobody_frees_what_another_uses(self, tmp_path: Path) -> None:
        with self.world(tmp_path) as world:
            one = world.take(StageIn("x:data", "scratch"))
            me = world.context.actor
            content = world.buffer(one["buffer"]).content
            world.buffers.reserve("scratch", content=content, label="", bytes=0, inodes=0, user="bob", actor=me)
            assert not world.take(Release(one["buffer"]))["freed"]
            assert world.tree(one["path"]) == FILES
            self.refused(world, Release(one["buffer"]), NotFound, "no-lease")

    @spec("ACTION-19")
    def test_a_run_that_fills_a_buffer_is_not_disturbed(self, tmp_path: Path) -> None:
        with self.world(tmp_path) as world:
            one = world.take(StageIn("x:data", "scratch"))
            buffer = world.buffer(one["buffer"])
            with world.context.needs.claim(buffer.content, buffer.storage, "another run"):
                self.refused(world, Release(one["buffer"]), Unavailable, "need-busy")

    @spec("ACTION-19")
    def test_the_last_copy_is_not_freed(self, tmp_path: Path) -> None:
        """The registered source is gone: withdrawn, found lost, found damaged, or taken away unseen."""
        for how in ("withdrawn", "lost", "damaged", "unseen", "registered anew"):
            with self.world(tmp_path / how) as world:
                one = world.take(StageIn("x:data", "scratch"))
                src = world.folder / "src"
                if how == "withdrawn":
                    world.take(Withdraw("x:data", "wrong"))
                elif how == "damaged":
                    (src / "d/5").write_bytes(b"?")
                elif how == "registered anew":
                    (src / "d/5").write_bytes(b"?")
                    world.take(Register("x:data", "src"))
                else:
                    remove(src)
                if how in ("lost", "damaged"):
                    with pytest.raises(Corrupt):
                        world.submit(Verify("x:data", deep=True))
                told = self.refused(world, Release(one["buffer"]), Conflict, "buffer-dirty")
                assert "stage-out" in told.remedy
                assert world.buffer(one["buffer"]).contents is Contents.DIRTY
                world.take(StageOut(one["path"], "archive", "y:kept"))
                assert world.take(Release(one["buffer"]))["freed"], how

    @spec("ACTION-19")
    def test_two_buffers_that_rest_on_each_other_never_both_go(self, tmp_path: Path) -> None:
        with self.world(tmp_path) as world:
            world.sites.add_site("second", str(world.folder / "second"))
            one = world.take(StageIn("x:data", "scratch"))
            two = world.take(StageIn("x:data", "second"))
            remove(world.folder / "src")
            with pytest.raises(Corrupt):
                world.submit(Verify("x:data"))
            assert world.take(Release(one["buffer"]))["freed"]
            self.refused(world, Release(two["buffer"]), Conflict, "buffer-dirty")
            assert world.tree(two["path"]) == FILES

    @spec("ACTION-19")
    def test_a_changed_buffer_is_no_evidence(self, tmp_path: Path) -> None:
        with self.world(tmp_path) as world:
            world.sites.add_site("second", str(world.folder / "second"))
            one = world.take(StageIn("x:data", "scratch"))
            two = world.take(StageIn("x:data", "second"))
            remove(world.folder / "src")
            Path(two["path"], "d/0").write_bytes(b"mine")
            self.refused(world, Release(one["buffer"]), Conflict, "buffer-dirty")

    @spec("ACTION-19")
    def test_the_same_place_by_another_name_is_no_evidence(self, tmp_path: Path) -> None:
        with self.world(tmp_path) as world:
            made = self.made(world, {"result": b"42"})
            (world.folder / "alias").symlink_to(world.buffers.path(made))
            world.take(Register("x:made", "alias"))
            world.buffers.mark_clean(made.id, f"replica:{self._row(world, 'x:made')}")  # believed by mistake
            self.refused(world, Release(made.id), Conflict, "buffer-dirty")
            assert Path(world.buffers.path(made), "result").read_bytes() == b"42"

    @staticmethod
    def _row(world: World, id: str) -> str:
        return world.catalogue.replicas(url.dataset(id), actor=world.context.actor)[0].id

    @spec("ACTION-19")
    def test_only_all_of_it_saved_makes_it_clean(self, tmp_path: Path) -> None:
        with self.world(tmp_path) as world:
            made = self.made(world, {"sub/a": b"1", "b": b"2"})
            path = world.buffers.path(made)
            for what in (f"{path}/sub", f"{path}/b"):
                assert world.take(StageOut(what, "archive", "x:part"))["saved_buffer"] == ""
                assert world.buffer(made.id).contents is Contents.DIRTY
            assert world.take(StageOut(path, "archive"))["saved_buffer"] == ""
            assert world.buffer(made.id).contents is Contents.DIRTY, "nothing was recorded without a name"
            assert any("--as" in facts.get("text", "") for kind, facts in world.told if kind == "note")
            self.refused(world, Release(made.id), Conflict, "buffer-dirty")
            assert world.take(StageOut(path, "archive", "x:all"))["saved_buffer"] == made.id
            world.trip.arm()
            assert world.take(Release(made.id))["freed"]
            assert world.trip.bodies == 0, "releasing what was just saved reads nothing"

    @spec("ACTION-19")
    def test_nothing_in_it_is_nothing_lost(self, tmp_path: Path) -> None:
        with self.world(tmp_path) as world:
            made = self.made(world, {"result": b"42"})
            self.refused(world, Release(made.id), Conflict, "buffer-dirty")
            remove(Path(world.buffers.path(made)))
            assert world.take(Release(made.id))["freed"], "its owner has removed the files"

    # --------------------------------------------------------------------------------- what was changed

    @spec("ACTION-18")
    def test_what_was_added_or_changed_is_not_freed(self, tmp_path: Path) -> None:
        for n, change in enumerate(("added", "changed", "same size and time", "a link")):
            with self.world(tmp_path / str(n)) as world:
                one = world.take(StageIn("x:data", "scratch"))
                path = Path(one["path"], "d/1" if "chang" in change or "same" in change else "d/new")
                self._change(path, change)
                self.refused(world, Release(one["buffer"]), Conflict, "buffer-dirty")
                assert world.buffer(one["buffer"]).contents is Contents.DIRTY
                assert not world.untruths()
                assert world.take(StageIn("x:data", "scratch"))["buffer"] != one["buffer"], change

    @staticmethod
    def _change(path: Path, change: str) -> None:
        import os

        if change == "a link":
            path.symlink_to("elsewhere")
            return
        before = path.stat() if path.exists() else None
        path.write_bytes(b"??" if change.startswith("same") else b"something else")
        if before is not None and change.startswith("same"):
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    @spec("ACTION-18")
    def test_the_only_copy_is_still_offered_beside_what_was_added(self, tmp_path: Path) -> None:
        with self.world(tmp_path) as world:
            one = world.take(StageIn("x:data", "scratch"))
            Path(one["path"], "notes").write_bytes(b"mine")
            self.refused(world, Release(one["buffer"]), Conflict, "buffer-dirty")
            remove(world.folder / "src")
            facts = world.take(StageOut("x:data", "archive"))
            assert facts["files"] == len(FILES)

    @spec("ACTION-18")
    def test_what_was_removed_is_not_missed(self, tmp_path: Path) -> None:
        with self.world(tmp_path) as world:
            one = world.take(StageIn("x:data", "scratch"))
            Path(one["path"], "d/3").unlink()
            assert world.take(Release(one["buffer"]))["freed"]

    # -------------------------------------------------------------------------------------------- expiry

    @spec("ACTION-20")
    def test_what_expired_goes_if_it_is_elsewhere(self, tmp_path: Path) -> None:
        with self.world(tmp_path) as world:
            clean = world.take(StageIn("x:data", "scratch", "PT10S"))
            other = world.write("other", {"o": b"o"})
            held = world.take(StageIn(other, "scratch", "P1D"))
            made = self.made(world, {"result": b"42"})
            changed = world.take(StageIn(world.write("third", {"t": b"t"}), "scratch", "PT10S"))
            Path(changed["path"], "t").write_bytes(b"mine")
            world.buffers.renew(made.id, world.context.actor.name, 10)
            world.clock.advance(60)
            world.told.clear()
            world.take(StageIn(world.write("new", {"n": b"n"}), "scratch"))
            assert world.buffer(clean["buffer"]).state is State.FREED
            assert not Path(clean["path"]).exists()
            assert world.buffer(held["buffer"]).state is State.READY
            for id, body in ((made.id, {"result": b"42"}), (changed["buffer"], {"t": b"mine"})):
                assert world.buffer(id).state is State.READY
                assert world.tree(world.buffers.path(world.buffer(id))) == body
            assert not world.untruths()

    @spec("ACTION-20")
    def test_a_copy_never_finished_goes_when_its_lease_has_ended(self, tmp_path: Path) -> None:
        for what in ("x:data", "src"):
            with self.world(tmp_path / what.replace(":", "-")) as world:
                world.trip.arm()
                StageIn(what, "archive").run(world.as_run())
                count = world.trip.log.index("store.move") if "store.move" in world.trip.log else world.trip.count
                world.trip.arm(count, "killed")
                with pytest.raises(Killed):
                    StageIn(what, "scratch", "PT10S").run(world.as_run())
                world.trip.arm()
                (left,) = world.buffers.list("scratch")
                assert left.contents is Contents.DIRTY
                assert world.tree("scratch"), "the test means to break off in the middle"
                world.clock.advance(60)
                world.take(StageIn(world.write("new", {"n": b"n"}), "scratch"))
                assert world.buffer(left.id).state is State.FREED
                assert set(world.tree("scratch").values()) == {b"n"}, "staging is left behind"

    @spec("ACTION-20")
    def test_a_freeing_that_was_interrupted_is_ended(self, tmp_path: Path) -> None:
        with self.world(tmp_path) as world:
            one = world.take(StageIn("x:data", "scratch"))
            step = world.buffers.release(one["buffer"], world.context.actor.name)
            assert step is not None
            world.take(StageIn(world.write("new", {"n": b"n"}), "scratch"))
            assert find(world.context, one["buffer"]).state is State.FREED
            assert set(world.tree("scratch").values()) == {b"n"}
            assert not world.untruths()

    @spec("ACTION-20")
    def test_trouble_with_an_old_buffer_stops_nobody(self, tmp_path: Path) -> None:
        with self.world(tmp_path) as world:
            old = world.take(StageIn("x:data", "scratch", "PT10S"))
            world.clock.advance(60)
            inner = world.context.open_store

            def stuck(address: str) -> object:
                if old["path"] in address:
                    raise DlsError("a stale file handle", code="io-error")
                return inner(address)

            new = world.write("new", {"n": b"n"})
            facts = world.take(StageIn(new, "scratch"), open_store=stuck)
            assert world.tree(facts["path"]) == {"n": b"n"}
            assert world.buffer(old["buffer"]).state is State.READY
