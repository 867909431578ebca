"""Rules of images as replicas: ACTION-25."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from dls.catalogue.model import Layout, ReplicaState
from dls.logistics import url
from dls.logistics.buffer import Contents
from dls.logistics.errors import Conflict, Corrupt, DlsError, Invalid, NotFound
from dls.logistics.testing.spec import spec
from dls.madpp.actions.register import Register
from dls.madpp.actions.release import Release
from dls.madpp.actions.stage_in import StageIn
from dls.madpp.actions.stage_out import StageOut
from dls.madpp.actions.verify import Verify
from dls.madpp.actions.withdraw import Withdraw
from dls.madpp.testing.bringing import FILES, OurRules, marks
from dls.madpp.testing.keeping import remove
from dls.madpp.testing.world import START_NS, World

NOISE = random.Random(5).randbytes(300_000)
TREE: Final[Mapping[str, bytes | str]] = {**FILES, "large": NOISE, "link": "d/1"}
SHOWN = {**FILES, "large": NOISE, "link": b"-> d/1"}
"""The same, as `World.tree` tells it."""


def packed(world: World, source: str, image: str) -> Path:
    """An image of a folder, made by the side door; the same in every world."""
    from dls.fuse.pack import Options, pack

    path = world.folder / image
    for at, _, _ in os.walk(world.folder / source):
        os.utime(at, ns=(START_NS, START_NS))
    pack(str(world.folder / source), str(path), Options(workers=0))
    return path


def flip(image: Path, name: bytes) -> None:
    """Damage the block in which a file lies."""
    from dls.fuse.image import open_image

    with open_image(str(image)) as found:
        attr = found.find(name)
        at, _, _ = found.index.blocks[attr.a if attr.b == 0xFFFFFFFF or attr.size > 1 << 17 else attr.b]
    data = bytearray(image.read_bytes())
    data[at + 10] ^= 0xFF
    image.write_bytes(data)


class ImageRules(OurRules):
    """A replica whose entries lie inside an image."""

    @contextmanager
    def imaged(self, folder: Path, *, only: bool = False) -> Iterator[tuple[World, Path, str]]:
        """A world in which `x:data` lies in `src` and in `i.sqfs` (`only`: there alone); the image, its replica."""
        world = World(folder / "w")
        try:
            world.write("src", TREE)
            image = packed(world, "src", "i.sqfs")
            if not only:
                world.take(Register("x:data", "src"))
            facts = world.take(Register("x:data", str(image), image=True))
            if only:
                remove(world.folder / "src")
            yield world, image, facts["replica"]
        finally:
            world.close()

    @staticmethod
    def state(world: World, replica: str) -> ReplicaState:
        """What is on record of a replica."""
        return world.catalogue.replica(replica, actor=world.context.actor).state

    @spec("ACTION-25")
    def test_an_image_is_a_copy_of_the_same_version(self, tmp_path: Path) -> None:
        with self.imaged(tmp_path) as (world, image, replica):
            assert len(world.catalogue.versions(url.dataset("x:data"), actor=world.context.actor)) == 1
            row = world.catalogue.replica(replica, actor=world.context.actor)
            assert (row.layout, row.url, row.version) == (Layout.IMAGE, f"file://{image}", 1)
            names = [e.path for e in world.catalogue.files(url.dataset("x:data"), actor=world.context.actor)]
            assert names == sorted(name.encode() for name in TREE), "what lies inside is found"
            assert not world.untruths()
            world.trip.arm()
            again = world.take(Register("x:data", str(image), image=True))
            assert (again["read"], again["replica"]) == (0, replica), "its receipts vouch"

    @spec("ACTION-25")
    def test_what_is_no_image_or_damaged_is_not_registered(self, tmp_path: Path) -> None:
        with self.imaged(tmp_path) as (world, image, _):
            self.refused(world, Register("y:no", str(world.folder / "src/large"), image=True), Invalid, "not-an-image")
            self.refused(world, Register("y:no", str(world.folder / "none"), image=True), NotFound, "no-such-key")
            flip(image, b"large")
            self.refused(world, Register("y:no", str(image), image=True), Corrupt, "bad-image")
            with pytest.raises(NotFound):
                world.catalogue.dataset(url.dataset("y:no"), actor=world.context.actor)

    @spec("ACTION-25")
    def test_it_serves_where_nothing_else_is(self, tmp_path: Path) -> None:
        with self.imaged(tmp_path, only=True) as (world, image, _):
            for site in ("scratch", "mem"):
                facts = world.take(StageIn("x:data", site))
                assert facts["from"] == str(image)
                there = world.tree(facts["path"])
                assert {k: v for k, v in there.items() if k != "link"} == {**FILES, "large": NOISE}
            saved = world.take(StageOut("x:data", "archive"))
            assert world.tree(saved["url"]) == SHOWN
            assert not world.untruths()

    @spec("ACTION-25")
    def test_what_is_damaged_in_it_is_marked_and_the_next_serves(self, tmp_path: Path) -> None:
        with self.imaged(tmp_path) as (world, image, replica):
            (world.folder / "src").rename(world.folder / "later")  # the folder is asked first, and is not there
            flip(image, b"large")
            self.failed(world, StageIn("x:data", "scratch"))
            assert marks(world, replica) == {b"large": "corrupt"}
            assert not world.untruths(), "it is still said to be whole"
            (world.folder / "later").rename(world.folder / "src")
            world.take(Register("x:data", "src"))
            facts = world.take(StageIn("x:data", "scratch"))
            assert world.tree(facts["path"]) == SHOWN
            assert facts["copied"] == 1, "what the image gave was fetched again"

    @staticmethod
    def failed(world: World, action: Any) -> None:
        """An action that no source can serve."""
        with pytest.raises(DlsError):
            world.submit(action)

    @spec("ACTION-25")
    def test_verification_reads_it_and_marks_its_files(self, tmp_path: Path) -> None:
        with self.imaged(tmp_path, only=True) as (world, image, replica):
            world.trip.arm()
            (row,) = world.take(Verify("x:data"))["replicas"]
            assert (row["read"], row["trusted"], row["state"]) == (0, 7, "complete")
            assert world.take(Verify("x:data", deep=True))["replicas"][0]["read"] == 7
            flip(image, b"large")
            self.refused(world, Verify("x:data"), Corrupt, "replica-damaged")
            assert marks(world, replica) == {b"large": "corrupt"}
            data = image.read_bytes()
            image.write_bytes(data[:-50])
            self.refused(world, Verify("x:data"), Corrupt, "replica-damaged")
            assert self.state(world, replica) is ReplicaState.CORRUPT
            self.failed(world, StageIn("x:data", "scratch"))
            image.unlink()
            self.refused(world, Verify("x:data"), Corrupt, "replica-lost")
            assert self.state(world, replica) is ReplicaState.LOST
            world.write("src", TREE)
            packed(world, "src", "i.sqfs")
            world.take(Register("x:data", str(image), image=True))
            assert not marks(world, replica)
            assert self.state(world, replica) is ReplicaState.COMPLETE

    @spec("ACTION-25")
    def test_an_image_that_cannot_be_opened_is_recorded_so(self, tmp_path: Path) -> None:
        for how, state in (("gone", ReplicaState.LOST), ("cut", ReplicaState.CORRUPT)):
            with self.imaged(tmp_path / how, only=True) as (world, image, replica):
                one = world.take(StageIn("x:data", "scratch"))
                assert world.buffer(one["buffer"]).contents is Contents.CLEAN
                if how == "gone":
                    image.unlink()
                else:
                    image.write_bytes(image.read_bytes()[:-1])
                world.sites.add_site("second", str(world.folder / "second"))
                two = world.take(StageIn("x:data", "second"))
                assert world.tree(two["path"]) == SHOWN, "from the buffer"
                assert self.state(world, replica) is state
                assert world.buffer(one["buffer"]).contents is Contents.DIRTY, "it rested on the image"
                assert not world.untruths()

    @spec("ACTION-25")
    def test_it_vouches_for_a_buffer_as_long_as_it_is_right(self, tmp_path: Path) -> None:
        for how in ("right", "gone", "withdrawn", "damaged"):
            with self.imaged(tmp_path / how, only=True) as (world, image, _):
                one = world.take(StageIn("x:data", "scratch"))
                assert world.buffer(one["buffer"]).contents is Contents.CLEAN
                if how == "gone":
                    image.unlink()
                elif how == "withdrawn":
                    world.take(Withdraw("x:data", "wrong"))
                elif how == "damaged":
                    flip(image, b"large")
                    with pytest.raises(Corrupt):
                        world.submit(Verify("x:data"))
                if how == "right":
                    assert world.take(Release(one["buffer"]))["freed"]
                else:
                    self.refused(world, Release(one["buffer"]), Conflict, "buffer-dirty")
                    assert world.tree(one["path"]) == SHOWN

    @spec("ACTION-25")
    def test_another_image_in_its_place_contradicts_it(self, tmp_path: Path) -> None:
        with self.imaged(tmp_path, only=True) as (world, image, replica):
            one = world.take(StageIn("x:data", "scratch"))
            world.write("other", {**TREE, "d/1": b"changed"})
            image.unlink()
            packed(world, "other", "i.sqfs")
            assert world.take(Register("x:data", str(image), image=True))["dataset"] == "x:data@2"
            assert marks(world, replica) == {b"d/1": "corrupt"}
            assert world.buffer(one["buffer"]).contents is Contents.DIRTY, "the last copy of version 1"
            assert not world.untruths()

    @spec("ACTION-25")
    def test_a_layer_is_a_version_with_what_it_lies_on(self, tmp_path: Path) -> None:
        from dls.fuse.layering import layer
        from dls.fuse.pack import Options

        with self.imaged(tmp_path, only=True) as (world, image, replica):
            world.write("src", {**TREE, "d/1": b"changed", "d/new": b"new"})
            above = world.folder / "v2.sqfs"
            layer(str(image), str(world.folder / "src"), str(above), Options(workers=0))
            assert world.take(Register("x:data", str(above), image=True))["dataset"] == "x:data@2"
            remove(world.folder / "src")
            for wanted, body in (("x:data@1", FILES["d/1"]), ("x:data@2", b"changed")):
                facts = world.take(StageIn(wanted, "scratch"))
                assert world.tree(facts["path"])["d/1"] == body
            packed_again = world.take(StageIn("x:data@2", "scratch", as_image=True))
            assert packed_again["from"] == str(above)
            image.unlink()
            assert world.take(Verify("x:data@2", "scratch"))
            for id in ("x:data@2", "x:data@1"):
                with pytest.raises(Corrupt):
                    world.submit(Verify(id))
            assert not world.untruths()
            assert self.state(world, replica) is ReplicaState.LOST
