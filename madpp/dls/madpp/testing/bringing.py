"""Rules of our stage-in, verify and register, on a world of their own: ACTION-14 … 17, 21 and 24."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dls.catalogue.model import ReplicaState
from dls.logistics import url
from dls.logistics.buffer import Contents, State
from dls.logistics.errors import Corrupt, DlsError, Exists, Invalid, NotFound, Unavailable, Unsupported
from dls.logistics.testing.spec import Suite, spec
from dls.madpp.action import Action
from dls.madpp.actions.register import Register
from dls.madpp.actions.stage_in import StageIn
from dls.madpp.actions.stage_out import StageOut
from dls.madpp.actions.verify import Verify
from dls.madpp.actions.withdraw import Restore, Withdraw
from dls.madpp.testing.world import World

FILES = {f"d/{n}": bytes([65 + n]) * (n + 1) for n in range(6)}


class OurRules(Suite):
    """What the tests of our own actions share."""

    @contextmanager
    def world(self, folder: Path) -> Iterator[World]:
        """A world in which `x:data` lies in `src`."""
        world = World(folder / "w")
        try:
            world.write("src", FILES)
            world.take(Register("x:data", "src"))
            yield world
        finally:
            world.close()

    @staticmethod
    def refused(world: World, action: Action, kind: type[DlsError], code: str, **changes: Any) -> DlsError:
        """An action that must end so, with no site touched."""
        before = (world.tree("scratch"), world.tree("archive"))
        with pytest.raises(kind) as told:
            world.submit(action, **changes)
        assert told.value.code == code, told.value
        assert told.value.remedy, f"{code} says no remedy"
        assert (world.tree("scratch"), world.tree("archive")) == before, "something was moved"
        return told.value


def replicas(world: World, id: str) -> dict[str, ReplicaState]:
    """State of each replica of a version, by its plain address."""
    me = world.context.actor
    return {world.plain(r.url): r.state for r in world.catalogue.replicas(url.dataset(id), actor=me, offered=False)}


def marks(world: World, replica: str) -> dict[bytes, str]:
    """What is marked of a replica."""
    return {m.path: m.state.value for m in world.catalogue.exceptions(replica, actor=world.context.actor)}


class BringingRules(OurRules):
    """stage-in, verify, register."""

    @spec("ACTION-14")
    def test_one_content_has_one_buffer(self, tmp_path: Path) -> None:
        with self.world(tmp_path) as world:
            world.write("copy", FILES)
            world.take(Register("y:same", "copy"))
            first = world.take(StageIn("x:data", "scratch"))
            world.trip.arm()
            second = world.take(StageIn("y:same", "scratch"))
            assert (second["buffer"], second["copied"], second["shared"]) == (first["buffer"], 0, True)
            assert world.trip.bodies == 0
            assert second["dataset"] == "y:same@1"
            assert len(replicas(world, "y:same")) == len(replicas(world, "x:data")) == 2

    @spec("ACTION-14")
    def test_versions_do_not_serve_for_each_other(self, tmp_path: Path) -> None:
        with self.world(tmp_path) as world:
            one = world.take(StageIn("x:data", "scratch"))
            world.write("src2", {**FILES, "d/0": b"Z"})
            assert world.take(Register("x:data", "src2"))["dataset"] == "x:data@2"
            two = world.take(StageIn("x:data", "scratch"))
            assert two["buffer"] != one["buffer"]
            assert world.tree(two["path"])["d/0"] == b"Z"
            assert world.tree(one["path"])["d/0"] == b"A"
            again = world.take(StageIn("x:data@1", "scratch"))
            assert (again["buffer"], again["copied"]) == (one["buffer"], 0)

    @spec("ACTION-14")
    def test_an_address_is_staged_once_until_it_changes(self, tmp_path: Path) -> None:
        with self.world(tmp_path) as world:
            world.write("raw", FILES)
            one = world.take(StageIn("raw", "scratch"))
            world.trip.arm()
            two = world.take(StageIn("raw", "scratch"))
            assert (two["buffer"], two["copied"], two["dataset"]) == (one["buffer"], 0, one["dataset"])
            assert world.trip.bodies == 0
            (world.folder / "raw/d/0").write_bytes(b"changed")
            three = world.take(StageIn("raw", "scratch"))
            assert three["buffer"] != one["buffer"]
            assert three["dataset"] == one["dataset"].replace("@1", "@2")

    @spec("ACTION-14")
    def test_hard_links_of_an_address_are_hashed(self, tmp_path: Path) -> None:
        with self.world(tmp_path) as world:
            root = Path(world.write("raw", {"a": b"x" * 3000, "z/b": b"y"}))
            for name in ("a2", "z/a3"):
                os.link(root / "a", root / name)
            one = world.take(StageIn("raw", "scratch"))
            assert one["files"] == 4
            assert not world.untruths()
            assert world.take(Verify(one["dataset"], deep=True))
            assert Path(one["path"], "a").stat().st_nlink == 3

    @spec("ACTION-15")
    def test_the_next_source_serves_where_one_fails(self, tmp_path: Path) -> None:
        with self.world(tmp_path) as world:
            world.take(StageOut("x:data", "archive"))
            (world.folder / "src").rename(world.folder / "away")
            facts = world.take(StageIn("x:data", "scratch"))
            assert "/archive/" in facts["from"]
            assert world.tree(facts["path"]) == FILES
            assert not world.untruths(), "the source that failed is still said to be complete"

    @spec("ACTION-15")
    def test_what_one_source_gave_is_not_fetched_again(self, tmp_path: Path) -> None:
        with self.world(tmp_path) as world:
            world.take(StageOut("x:data", "archive"))
            (world.folder / "src/d/3").write_bytes(b"!" * 4)  # right size, wrong bytes
            world.trip.arm()
            facts = world.take(StageIn("x:data", "scratch"))
            assert world.tree(facts["path"]) == FILES
            assert world.trip.log.count("store.fetch.item") <= len(FILES) + 1 + len(FILES), "more than one look at each"
            asked = [k for k, _ in world.told if k == "note"]
            assert asked, "nobody was told that a source failed"
            row = next(
                r for r in world.catalogue.replicas(url.dataset("x:data"), actor=world.context.actor) if "src" in r.url
            )
            assert marks(world, row.id) == {b"d/3": "corrupt"}
            assert facts["copied"] == 1, "files that the first source gave were copied again"

    @spec("ACTION-15")
    def test_an_unreachable_source_is_passed_over(self, tmp_path: Path) -> None:
        with self.world(tmp_path) as world:
            world.take(StageOut("x:data", "archive"))
            inner = world.context.open_store

            def dead(address: str) -> Any:
                if address.endswith("/src"):
                    raise Unavailable("the service is down", code="service-down")
                return inner(address)

            facts = world.take(StageIn("x:data", "scratch"), open_store=dead)
            assert "/archive/" in facts["from"]
            assert replicas(world, "x:data")["file://$W/src"] is ReplicaState.COMPLETE, "unreachable is not damaged"

    @spec("ACTION-16")
    def test_withdrawn_data_are_no_source(self, tmp_path: Path) -> None:
        with self.world(tmp_path) as world:
            one = world.take(StageIn("x:data", "scratch"))
            gone = world.take(Withdraw("x:data", "wrong"))
            assert gone["unsaved"] == [one["path"]]
            assert world.buffer(one["buffer"]).contents is Contents.DIRTY
            for site in ("scratch", "archive"):
                self.refused(world, StageIn("x:data", site), NotFound, "no-replica")
            self.refused(world, Register("x:data", "src"), Invalid, "withdrawn")
            world.take(Restore("x:data"))
            world.take(StageIn("x:data", "scratch"))
            assert world.buffer(one["buffer"]).contents is Contents.CLEAN

    @spec("ACTION-17")
    def test_a_flipped_byte_is_found_and_repaired(self, tmp_path: Path) -> None:
        with self.world(tmp_path) as world:
            one = world.take(StageIn("x:data", "scratch"))
            path = Path(one["path"], "d/4")
            before = path.stat()
            path.write_bytes(b"!" * before.st_size)
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
            self.refused(world, Verify("x:data", deep=True), Corrupt, "replica-damaged")
            assert marks(world, one["replica"]) == {b"d/4": "corrupt"}
            inodes = {p: Path(one["path"], p).stat().st_ino for p in FILES}
            two = world.take(StageIn("x:data", "scratch"))
            assert (two["buffer"], two["copied"]) == (one["buffer"], 1)
            assert world.tree(one["path"]) == FILES
            assert [p for p in FILES if Path(one["path"], p).stat().st_ino != inodes[p]] == ["d/4"]
            assert not marks(world, one["replica"])
            world.take(Verify("x:data", deep=True))

    @spec("ACTION-17")
    def test_a_buffer_that_vanished_is_lost(self, tmp_path: Path) -> None:
        with self.world(tmp_path) as world:
            one = world.take(StageIn("x:data", "scratch"))
            Path(one["path"]).rename(world.folder / "stolen")
            self.refused(world, Verify("x:data", "scratch"), Corrupt, "replica-lost")
            assert world.buffer(one["buffer"]).state is State.LOST
            two = world.take(StageIn("x:data", "scratch"))
            assert two["buffer"] != one["buffer"]
            assert world.tree(two["path"]) == FILES

    @spec("ACTION-17")
    def test_verification_looks_at_every_copy(self, tmp_path: Path) -> None:
        with self.world(tmp_path) as world:
            one = world.take(StageIn("x:data", "scratch"))
            inner = world.context.open_store

            def dead(address: str) -> Any:
                if address.endswith("/src"):
                    raise Unavailable("the service is down", code="service-down")
                return inner(address)

            Path(one["path"], "d/0").unlink()
            with pytest.raises(Corrupt) as told:
                world.submit(Verify("x:data"), open_store=dead)
            assert told.value.code == "replica-damaged", "the gravest is told"
            assert marks(world, one["replica"]) == {b"d/0": "lost"}

    @spec("ACTION-21")
    def test_an_address_read_again_contradicts_what_was_recorded(self, tmp_path: Path) -> None:
        with self.world(tmp_path) as world:
            one = world.take(StageIn("x:data", "scratch"))
            (world.folder / "src/d/1").write_bytes(b"changed")
            (world.folder / "src/d/2").unlink()
            assert world.take(Register("x:data", "src"))["dataset"] == "x:data@2"
            assert not world.untruths(), "version 1 is still said to lie there"
            assert world.buffer(one["buffer"]).contents is Contents.DIRTY, "the last copy of version 1"

    @spec("ACTION-21")
    def test_more_beside_it_contradicts_nothing(self, tmp_path: Path) -> None:
        with self.world(tmp_path) as world:
            one = world.take(StageIn("x:data", "scratch"))
            world.write("src", {"more": b"more"})
            world.take(Register("x:data", "src"))
            world.take(Register("y:single", "src/more"))
            assert world.buffer(one["buffer"]).contents is Contents.CLEAN

    @spec("ACTION-21")
    def test_a_staged_address_that_changed_leaves_its_buffer_dirty(self, tmp_path: Path) -> None:
        with self.world(tmp_path) as world:
            world.write("raw", FILES)
            one = world.take(StageIn("raw", "scratch"))
            assert world.buffer(one["buffer"]).contents is Contents.CLEAN
            (world.folder / "raw/d/0").write_bytes(b"changed")
            world.take(StageIn("raw", "scratch"))
            assert world.buffer(one["buffer"]).contents is Contents.DIRTY
            assert not world.untruths()

    @spec("ACTION-21")
    def test_what_lies_in_buffers_is_not_registered(self, tmp_path: Path) -> None:
        with self.world(tmp_path) as world:
            one = world.take(StageIn("x:data", "scratch"))
            for where in (one["path"], one["path"] + "/d", "scratch", "scratch/dls"):
                self.refused(world, Register("y:wrong", where), Invalid, "in-buffer")
                self.refused(world, StageIn(str(world.folder / where), "archive"), Invalid, "in-buffer")

    @spec("ACTION-24")
    def test_room_is_counted_as_it_is_taken(self, tmp_path: Path) -> None:
        with self.world(tmp_path) as world:
            world.write("deep", {"a/b/c/d": b"1", "a/b/e": b"2", "f": b"", "g": "f"})
            world.take(Register("x:deep", "deep"))
            facts = world.take(StageIn("x:deep", "scratch"))
            buffer, root = world.buffer(facts["buffer"]), facts["path"]
            real = 1 + sum(len(folders) + len(files) for _, folders, files in os.walk(root))
            assert buffer.used_inodes == real == 8
            blocks = sum(os.lstat(os.path.join(at, f)).st_blocks * 512 for at, _, fs in os.walk(root) for f in fs)  # noqa: PTH118
            assert buffer.used_bytes >= blocks or buffer.used_bytes == 2 * 4096

    @spec("ACTION-24")
    def test_no_room_is_said_before_anything_moves(self, tmp_path: Path) -> None:
        with self.world(tmp_path) as world:
            world.sites.add_site("small", str(world.folder / "small"), capacity_inodes=7)
            self.refused(world, StageIn("x:data", "small"), Unavailable, "no-space-in-buffer")
            assert not world.buffers.list("small")

    @spec("ACTION-24")
    def test_wishes_out_of_bounds_are_refused(self, tmp_path: Path) -> None:
        with self.world(tmp_path) as world:
            self.refused(world, StageIn("x:data/d/1", "scratch"), Unsupported, "part-of-dataset")
            self.refused(world, StageIn("x:data", "scratch", "PT0S"), Invalid, "bad-lifetime")
            self.refused(world, StageIn("x:data", "scratch", "P1Y"), Invalid, "ambiguous-duration")
            self.refused(world, StageIn("x:data", "scratch", "P40000D"), Invalid, "bad-duration")
            facts = world.take(StageIn("x:data", "scratch", "PT1S"))
            assert len(world.buffer(facts["buffer"]).leases) == 1

    @spec("ACTION-18")
    def test_what_somebody_changed_is_not_overwritten(self, tmp_path: Path) -> None:
        with self.world(tmp_path) as world:
            one = world.take(StageIn("x:data", "scratch"))
            Path(one["path"], "d/2").write_bytes(b"my notes")
            told = self.refused(world, StageIn("x:data", "scratch"), Exists, "buffer-changed")
            assert one["path"] in str(told)
            assert Path(one["path"], "d/2").read_bytes() == b"my notes"
