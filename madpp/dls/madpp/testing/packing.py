"""Rules of images that we make: ACTION-26."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dls.catalogue.model import Layout, ReplicaState
from dls.logistics import url
from dls.logistics.buffer import Contents
from dls.logistics.errors import Conflict, Corrupt, Exists, Invalid, Unsupported
from dls.logistics.testing.spec import spec
from dls.madpp.actions.pack import Pack
from dls.madpp.actions.register import Register
from dls.madpp.actions.release import Release
from dls.madpp.actions.stage_in import StageIn
from dls.madpp.actions.stage_out import StageOut
from dls.madpp.actions.verify import Verify
from dls.madpp.testing.bringing import OurRules, marks, replicas
from dls.madpp.testing.imaging import NOISE, SHOWN, TREE
from dls.madpp.testing.keeping import KeepingRules, remove
from dls.madpp.testing.trip import Killed
from dls.madpp.testing.world import World


def held(image: str | Path) -> dict[str, bytes]:
    """Names and bodies in an image, by the side door; links as `-> target`."""
    from dls.fuse.image import open_image

    out = {}
    with open_image(str(image)) as found:
        for path, attr in found.walk():
            if attr.mode >> 12 == 8:
                out[path.decode()] = found.read(attr)
            elif attr.mode >> 12 == 10:
                out[path.decode()] = b"-> " + found.text(attr)
    return out


class OnBareWorlds(OurRules):
    """What both suites share."""

    @staticmethod
    def tree(world: World) -> None:
        """`x:data` in `src`."""
        world.write("src", TREE)
        world.take(Register("x:data", "src"))

    def bare(self, folder: Path) -> Any:
        """A world with nothing in it."""
        return _Bare(folder / "w")


class PackRules(OnBareWorlds):
    """pack."""

    @spec("ACTION-26")
    def test_an_image_holds_the_version_and_is_a_replica_of_it(self, tmp_path: Path) -> None:
        with self.bare(tmp_path) as world:
            self.tree(world)
            facts = world.take(Pack("x:data", "i.sqfs"))
            assert held(world.folder / "i.sqfs") == SHOWN
            row = world.catalogue.replica(facts["replica"], actor=world.context.actor)
            assert (row.layout, row.version, row.url) == (Layout.IMAGE, 1, facts["url"])
            assert len(world.catalogue.versions(url.dataset("x:data"), actor=world.context.actor)) == 1
            assert sorted(p.name for p in world.folder.glob("*.sqfs")) == ["i.sqfs"]
            assert not [p for p in world.folder.iterdir() if p.name.startswith(".dls-")]
            assert not world.untruths()
            (row_of,) = world.take(Verify("x:data"))["replicas"][1:]
            assert (row_of["read"], row_of["trusted"]) == (0, len(TREE) - 1), "packing has proven it"

    @spec("ACTION-26")
    def test_what_is_in_no_catalogue_is_read_once_and_registered(self, tmp_path: Path) -> None:
        with self.bare(tmp_path) as world:
            world.write("raw", TREE)
            facts = world.take(Pack("raw", "i.sqfs", "x:data"))
            assert (facts["dataset"], facts["new"]) == ("x:data@1", True)
            assert held(world.folder / "i.sqfs") == SHOWN
            assert world.take(Register("x:data", "raw"))["new"] is False, "the same content as by reading the folder"
            used = world.catalogue.lineage(url.dataset("x:data"), actor=world.context.actor)[0].used
            assert [port.ref for port in used] == [f"file://{world.folder}/raw"]

    @spec("ACTION-26")
    def test_packed_twice_is_packed_once_until_it_changes(self, tmp_path: Path) -> None:
        for what, as_ in (("x:data", ""), ("src", "y:raw"), ("src", "")):
            with self.bare(tmp_path / f"{what[0]}{as_[:1]}") as world:
                self.tree(world)
                action = Pack(what, "i.sqfs", as_)
                first = world.take(action)
                inode = (world.folder / "i.sqfs").stat().st_ino
                world.trip.arm()
                second = world.take(action)
                assert (second["copied"], world.trip.bodies) == (0, 0)
                assert (world.folder / "i.sqfs").stat().st_ino == inode
                assert (second["url"], second["dataset"]) == (first["url"], first["dataset"])
                if what == "src":
                    (world.folder / "src/d/1").write_bytes(b"changed")
                    self.refused(world, action, Exists, "target-differs")
                    assert held(world.folder / "i.sqfs") == SHOWN

    @spec("ACTION-26")
    def test_what_lies_there_goes_only_when_asked(self, tmp_path: Path) -> None:
        with self.bare(tmp_path) as world:
            world.write("src", TREE)
            (world.folder / "i.sqfs").write_bytes(b"my notes")
            self.refused(world, Pack("src", "i.sqfs", "x:data"), Exists, "target-differs")
            assert (world.folder / "i.sqfs").read_bytes() == b"my notes"
            one = world.take(Pack("src", "i.sqfs", "x:data", replace=True))
            staged = world.take(StageIn("x:data", "scratch"))
            remove(world.folder / "src")
            world.write("src", {**TREE, "d/1": b"changed"})
            assert world.buffer(staged["buffer"]).contents is Contents.CLEAN
            two = world.take(Pack("src", "i.sqfs", "x:data", replace=True))
            assert (one["dataset"], two["dataset"]) == ("x:data@1", "x:data@2")
            assert replicas(world, "x:data@1")["file://$W/i.sqfs"] is ReplicaState.GONE
            assert world.buffer(staged["buffer"]).contents is Contents.DIRTY, "what it rested on was replaced"
            assert not world.untruths()

    @spec("ACTION-26")
    def test_a_source_that_holds_something_else_gives_no_image(self, tmp_path: Path) -> None:
        with self.bare(tmp_path) as world:
            self.tree(world)
            (world.folder / "src/large").write_bytes(NOISE[::-1])
            with pytest.raises(Corrupt) as told:
                world.submit(Pack("x:data", "i.sqfs"))
            assert told.value.code == "content-differs"
            assert not (world.folder / "i.sqfs").exists()
            assert not [p for p in world.folder.iterdir() if p.name.startswith(".dls-")]
            (row,) = world.catalogue.replicas(url.dataset("x:data"), actor=world.context.actor)
            assert marks(world, row.id) == {b"large": "corrupt"}
            world.write("copy", TREE)
            world.take(Register("x:data", "copy"))
            facts = world.take(Pack("x:data", "i.sqfs"))
            assert facts["from"].endswith("/copy")
            assert held(world.folder / "i.sqfs") == SHOWN

    @spec("ACTION-26")
    def test_a_file_that_is_gone_is_told_and_the_next_source_serves(self, tmp_path: Path) -> None:
        with self.bare(tmp_path) as world:
            self.tree(world)
            world.take(StageOut("x:data", "archive"))
            (world.folder / "src/d/3").unlink()
            facts = world.take(Pack("x:data", "i.sqfs"))
            assert "/archive/" in facts["from"]
            assert held(world.folder / "i.sqfs") == SHOWN
            (row,) = (r for r in self.rows(world) if r.url.endswith("/src"))
            assert marks(world, row.id) == {b"d/3": "lost"}

    @staticmethod
    def rows(world: World) -> Any:
        """Replicas of the version."""
        return world.catalogue.replicas(url.dataset("x:data"), actor=world.context.actor, offered=False)

    @spec("ACTION-26")
    def test_from_and_to_places_that_are_no_folders(self, tmp_path: Path) -> None:
        with self.bare(tmp_path) as world:
            self.tree(world)
            prefix = world.take(StageOut("x:data", f"memory://{world.place}/data/tree"))["url"]
            facts = world.take(Pack(prefix, f"memory://{world.place}/data/i.sqfs", "y:prefix"))
            assert facts["dataset"] == "y:prefix@1"
            body = world.tree(f"memory://{world.place}/data")["i.sqfs"]
            (world.folder / "fetched.sqfs").write_bytes(body)
            assert {k: v for k, v in held(world.folder / "fetched.sqfs").items() if k != "link"} == {
                k: v for k, v in SHOWN.items() if k != "link"
            }
            assert not list((world.folder / "transfers").glob("*.image")), "the spool is gone"
            world.take(StageIn("y:prefix", "scratch"))
            assert not world.untruths()

    @spec("ACTION-26")
    def test_a_source_that_changes_meanwhile_gives_no_image(self, tmp_path: Path) -> None:
        with self.bare(tmp_path) as world:
            self.tree(world)
            prefix = world.take(StageOut("x:data", f"memory://{world.place}/data/tree"))["url"]
            inner, done = world.context.open_store, list[int]()

            def meddled(address: str) -> Any:
                store = inner(address)
                if address == prefix and not done:
                    fetch = store.fetch

                    def fetched(wants: Any) -> Any:
                        done.append(1)
                        yield from fetch(wants)
                        world.store(prefix).write(b"d/5", [b"Z" * 6])

                    store.fetch = fetched
                return store

            with pytest.raises(Conflict) as told:
                world.submit(Pack(prefix, "i.sqfs", "y:prefix"), open_store=meddled)
            assert told.value.code == "source-changed"
            assert not (world.folder / "i.sqfs").exists()

    @spec("ACTION-26")
    def test_wishes_that_cannot_be_are_refused(self, tmp_path: Path) -> None:
        with self.bare(tmp_path) as world:
            self.tree(world)
            one = world.take(StageIn("x:data", "scratch"))
            for what, to, code in (
                ("src", "src/i.sqfs", "same-place"),
                ("src", one["path"] + "/i.sqfs", "in-buffer"),
                ("x:data", one["path"] + "/i.sqfs", "in-buffer"),
            ):
                self.refused(world, Pack(what, to), Invalid, code)
            self.refused(world, Pack("x:data/d", "i.sqfs"), Unsupported, "part-of-dataset")
            self.refused(world, Pack("x:data", "i.sqfs", "y:name"), Invalid, "named-twice")
            self.refused(world, Pack("x:data", "i.sqfs", xattrs="some"), Invalid, "bad-usage")
            self.refused(world, Pack("x:data", "i.sqfs", owner="me"), Invalid, "bad-usage")

    @spec("ACTION-26")
    def test_a_buffer_that_is_packed_and_recorded_is_saved(self, tmp_path: Path) -> None:
        with self.bare(tmp_path) as world:
            buffer = KeepingRules.made(world, {"d/1": b"one", "d/2": b"two"})
            path = world.buffers.path(buffer)
            world.take(Pack(path, "unnamed.sqfs"))
            self.refused(world, Release(path), Conflict, "buffer-dirty")
            facts = world.take(Pack(path, "i.sqfs", "y:made"))
            assert facts["saved_buffer"] == buffer.id
            assert world.take(Release(path))["freed"]
            assert held(world.folder / "i.sqfs") == {"d/1": b"one", "d/2": b"two"}
            assert not world.untruths()

    @spec("ACTION-26")
    def test_a_kill_leaves_nothing_at_the_name_or_the_whole(self, tmp_path: Path) -> None:
        with self.bare(tmp_path / "count") as world:
            self.tree(world)
            world.trip.arm()
            Pack("x:data", "i.sqfs").run(world.as_run())
            count = world.trip.count
        for at in range(1, count + 1, max(1, count // 12)):
            with self.bare(tmp_path / f"at-{at}") as world:
                self.tree(world)
                context = world.as_run()
                world.trip.arm(at, "late")
                with pytest.raises(Killed):
                    Pack("x:data", "i.sqfs").run(context)
                world.trip.arm()
                assert not (world.folder / "i.sqfs").exists() or held(world.folder / "i.sqfs") == SHOWN
                assert not world.untruths()


class _Bare:
    """A world, closed at the end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> World:
        self._world = World(self._folder)
        return self._world

    def __exit__(self, *ended: object) -> None:
        self._world.close()
