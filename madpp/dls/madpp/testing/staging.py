"""Rules of datasets that are staged as images: ACTION-27."""

from __future__ import annotations

from pathlib import Path

import pytest

from dls.catalogue.model import Layout
from dls.logistics.buffer import Contents, State
from dls.logistics.errors import Conflict, Corrupt, DlsError, Exists, NotFound, Unavailable, Unsupported
from dls.logistics.testing.spec import spec
from dls.madpp.actions.pack import Pack
from dls.madpp.actions.register import Register
from dls.madpp.actions.release import Release
from dls.madpp.actions.stage_in import StageIn
from dls.madpp.actions.stage_out import StageOut
from dls.madpp.actions.verify import Verify
from dls.madpp.testing.bringing import marks
from dls.madpp.testing.imaging import SHOWN, TREE, flip, packed
from dls.madpp.testing.keeping import remove
from dls.madpp.testing.packing import OnBareWorlds, held
from dls.madpp.testing.trip import Killed


class StageImageRules(OnBareWorlds):
    """stage-in as an image."""

    @spec("ACTION-27")
    def test_one_file_lands_in_a_buffer_of_its_own(self, tmp_path: Path) -> None:
        with self.bare(tmp_path) as world:
            self.tree(world)
            plain = world.take(StageIn("x:data", "scratch"))
            facts = world.take(StageIn("x:data", "scratch", as_image=True))
            assert facts["buffer"] != plain["buffer"]
            assert held(facts["path"]) == SHOWN
            buffer = world.buffer(facts["buffer"])
            assert (buffer.used_inodes, buffer.state, buffer.contents) == (2, State.READY, Contents.CLEAN)
            size = Path(facts["path"]).stat().st_size
            assert size <= buffer.used_bytes < size + 4096
            assert world.catalogue.replica(facts["replica"], actor=world.context.actor).layout is Layout.IMAGE
            assert not world.untruths()

    @spec("ACTION-27")
    def test_two_requests_share_one_image(self, tmp_path: Path) -> None:
        with self.bare(tmp_path) as world:
            self.tree(world)
            one = world.take(StageIn("x:data", "scratch", as_image=True))
            world.trip.arm()
            world.write("copy", TREE)
            world.take(Register("y:same", "copy"))
            world.trip.arm()
            two = world.take(StageIn("y:same", "scratch", as_image=True))
            assert (two["buffer"], two["copied"], two["shared"]) == (one["buffer"], 0, True)
            assert world.trip.bodies == 0
            assert two["dataset"] == "y:same@1"

    @spec("ACTION-27")
    def test_an_image_is_copied_and_not_packed_again(self, tmp_path: Path) -> None:
        with self.bare(tmp_path) as world:
            self.tree(world)
            image = packed(world, "src", "other-name.sqfs")
            world.take(Register("x:data", str(image), image=True))
            for site in ("scratch", "mem"):
                facts = world.take(StageIn("x:data", site, as_image=True))
                assert facts["from"] == str(image)
                root, _, leaf = facts["path"].rpartition("/")
                assert world.tree(root)[leaf] == image.read_bytes()
            assert not world.untruths()

    @spec("ACTION-27")
    def test_a_damaged_image_is_no_source(self, tmp_path: Path) -> None:
        for damage in ("block", "cut"):
            with self.bare(tmp_path / damage) as world:
                self.tree(world)
                image = packed(world, "src", "i.sqfs")
                replica = world.take(Register("x:data", str(image), image=True))["replica"]
                if damage == "block":
                    flip(image, b"large")
                else:
                    image.write_bytes(image.read_bytes()[:-7])
                facts = world.take(StageIn("x:data", "scratch", as_image=True))
                assert facts["from"].endswith("/src"), "packed from the folder instead"
                assert held(facts["path"]) == SHOWN
                if damage == "block":
                    assert marks(world, replica) == {b"large": "corrupt"}
                assert not world.untruths()

    @spec("ACTION-27")
    def test_a_damaged_image_in_a_buffer_is_found_and_repaired(self, tmp_path: Path) -> None:
        with self.bare(tmp_path) as world:
            self.tree(world)
            one = world.take(StageIn("x:data", "scratch", as_image=True))
            flip(Path(one["path"]), b"large")
            self.refused(world, StageIn("x:data", "scratch", as_image=True), Exists, "buffer-changed")
            with pytest.raises(Corrupt):
                world.submit(Verify("x:data", "scratch"))
            assert marks(world, one["replica"]) == {b"large": "corrupt"}
            two = world.take(StageIn("x:data", "scratch", as_image=True))
            assert two["buffer"] == one["buffer"]
            assert held(two["path"]) == SHOWN
            assert not marks(world, one["replica"])
            world.take(Verify("x:data", deep=True))

    @spec("ACTION-27")
    def test_it_is_freed_only_beside_another_copy(self, tmp_path: Path) -> None:
        for how in ("right", "gone", "added", "changed"):
            with self.bare(tmp_path / how) as world:
                self.tree(world)
                one = world.take(StageIn("x:data", "scratch", as_image=True))
                image = Path(one["path"])
                if how == "gone":
                    remove(world.folder / "src")
                elif how == "added":
                    (image.parent / "notes").write_bytes(b"mine")
                elif how == "changed":
                    flip(image, b"large")
                if how == "right":
                    assert world.take(Release(str(image)))["freed"]
                    assert not image.parent.exists()
                    assert not list((world.folder / "scratch/dls").iterdir())
                    continue
                self.refused(world, Release(str(image)), Conflict, "buffer-dirty")
                assert image.exists()
                assert not world.untruths()

    @spec("ACTION-27")
    def test_the_last_copy_is_saved_as_a_tree_or_as_the_file_that_it_is(self, tmp_path: Path) -> None:
        for how in ("tree", "image", "file"):
            with self.bare(tmp_path / how) as world:
                self.tree(world)
                one = world.take(StageIn("x:data", "scratch", as_image=True))
                remove(world.folder / "src")
                root = str(Path(one["path"]).parent)
                self.refused(world, Release(root), Conflict, "buffer-dirty")
                if how == "tree":
                    world.take(StageOut("x:data", "archive"))
                elif how == "image":
                    world.take(Pack("x:data", "saved.sqfs"))
                else:
                    world.take(StageOut(root, "archive", "y:kept"))
                assert world.take(Release(root))["freed"]
                assert not world.untruths()

    @spec("ACTION-27")
    def test_it_serves_and_vouches_like_another_copy(self, tmp_path: Path) -> None:
        with self.bare(tmp_path) as world:
            self.tree(world)
            image = world.take(StageIn("x:data", "scratch", as_image=True))
            plain = world.take(StageIn("x:data", "scratch"))
            remove(world.folder / "src")
            with pytest.raises(Corrupt):
                world.submit(Verify("x:data"))
            saved = world.take(StageOut("x:data", "archive"))
            assert world.tree(saved["url"]) == SHOWN
            remove(Path(saved["url"].removeprefix("file://")))
            with pytest.raises(Corrupt):
                world.submit(Verify("x:data"))
            assert world.take(Release(plain["buffer"]))["freed"], "the image has it all"
            self.refused(world, Release(image["buffer"]), Conflict, "buffer-dirty")
            assert held(image["path"]) == SHOWN

    @spec("ACTION-27")
    def test_an_expired_image_that_was_never_recorded_goes(self, tmp_path: Path) -> None:
        with self.bare(tmp_path) as world:
            self.tree(world)
            world.trip.arm()
            world.take(StageIn("x:data", "scratch", as_image=True))
            late = next(n for n, verb in enumerate(world.trip.log, 1) if verb == "buffers.settle")
        with self.bare(tmp_path / "killed") as world:
            self.tree(world)
            context = world.as_run()
            world.trip.arm(late, "killed")
            with pytest.raises(Killed):
                StageIn("x:data", "scratch", "PT1H", as_image=True).run(context)
            world.trip.arm()
            (left,) = world.buffers.list("scratch")
            world.clock.advance(10_000)
            world.write("other", {"a": b"1"})
            world.take(StageIn("other", "scratch"))
            assert world.buffer(left.id).state is State.FREED
            assert not world.untruths()

    @spec("ACTION-27")
    def test_no_room_is_said_before_anything_moves(self, tmp_path: Path) -> None:
        with self.bare(tmp_path) as world:
            self.tree(world)
            world.sites.add_site("small", str(world.folder / "small"), capacity_bytes=100_000)
            self.refused(world, StageIn("x:data", "small", as_image=True), Unavailable, "no-space-in-buffer")
            self.refused(world, StageIn("src", "scratch", as_image=True), Unsupported, "no-dataset-to-pack")
            world.sites.add_site("few", str(world.folder / "few"), capacity_inodes=2)
            assert world.take(StageIn("x:data", "few", as_image=True))["layout"] == "image"
            remove(world.folder / "src")
            with pytest.raises(DlsError):
                world.submit(StageIn("x:none", "scratch", as_image=True))
            with pytest.raises(NotFound):
                world.submit(Pack("x:none", "i.sqfs"))
