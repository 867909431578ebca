"""Our actions, for the suite: a small world for each, and wishes that are wrong in several ways."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import ClassVar, Final

from dls.madpp.action import Action
from dls.madpp.actions.compute import Compute
from dls.madpp.actions.pack import Pack
from dls.madpp.actions.register import Register
from dls.madpp.actions.release import Release
from dls.madpp.actions.site import Site
from dls.madpp.actions.stage_in import StageIn
from dls.madpp.actions.stage_out import StageOut
from dls.madpp.actions.verify import Verify
from dls.madpp.actions.wait_for import WaitFor
from dls.madpp.actions.withdraw import Restore, Withdraw
from dls.madpp.testing.contract import ActionContract
from dls.madpp.testing.imaging import packed
from dls.madpp.testing.keeping import remove
from dls.madpp.testing.world import World

FILES: Final[Mapping[str, bytes | str]] = {
    "a/one": b"1" * 100,
    "a/two": b"22",
    "big": b"large" * 400_000,
    "empty": b"",
    "link": "a/one",
}
"""A tree with a file over 1 MiB, an empty one and a link."""


class RegisterContract(ActionContract):
    lineage: ClassVar[str] = "register"

    def build(self, world: World) -> None:
        world.write("src", FILES)

    def action(self, world: World) -> Action:
        return Register("x:data", "src", "A title", "a note")

    def wrong(self, world: World) -> tuple[Action, Collection[str]]:
        return Register("x:data@2", "nowhere"), {"bad-dataset-id", "no-source"}


class RegisterImageContract(RegisterContract):
    """What an image holds."""

    def build(self, world: World) -> None:
        world.write("src", FILES)
        packed(world, "src", "i.sqfs")

    def action(self, world: World) -> Action:
        return Register("x:data", str(world.folder / "i.sqfs"), "A title", "a note", image=True)

    def wrong(self, world: World) -> tuple[Action, Collection[str]]:
        return Register("x:data@2", "nowhere", image=True), {"bad-dataset-id", "no-such-key"}


class StageInContract(ActionContract):
    lineage: ClassVar[str] = "stage-in"

    def build(self, world: World) -> None:
        world.write("src", FILES)
        world.take(Register("x:data", "src"))

    def action(self, world: World) -> Action:
        return StageIn("x:data", "scratch", "P1D")

    def wrong(self, world: World) -> tuple[Action, Collection[str]]:
        return StageIn("x:nothing", "nosite", "tomorrow"), {"no-dataset", "unknown-site", "bad-duration"}


class StageInAddressContract(StageInContract):
    """What lies at an address and is in no catalogue."""

    def action(self, world: World) -> Action:
        return StageIn("src", "scratch")

    def wrong(self, world: World) -> tuple[Action, Collection[str]]:
        return StageIn("./nothing", "nosite", "PT0S"), {"no-source", "unknown-site"}


class StageInMemoryContract(StageInContract):
    """A site that is no folder."""

    def action(self, world: World) -> Action:
        return StageIn("x:data", "mem")


class StageInFromImageContract(StageInContract):
    """A dataset that lies in an image alone."""

    def build(self, world: World) -> None:
        world.write("src", FILES)
        image = packed(world, "src", "i.sqfs")
        world.take(Register("x:data", str(image), image=True))
        remove(world.folder / "src")


class StageInAsImageContract(StageInContract):
    """A folder, packed on the way."""

    def action(self, world: World) -> Action:
        return StageIn("x:data", "scratch", "P1D", as_image=True)

    def wrong(self, world: World) -> tuple[Action, Collection[str]]:
        return StageIn("x:nothing", "scratch", "tomorrow", as_image=True), {"no-dataset", "bad-duration"}


class StageInImageMemoryContract(StageInAsImageContract):
    """To a site that is no folder: spooled and sent."""

    def action(self, world: World) -> Action:
        return StageIn("x:data", "mem", as_image=True)


class StageInImageCopyContract(StageInAsImageContract):
    """What is an image already is copied."""

    def build(self, world: World) -> None:
        world.write("src", FILES)
        world.take(Register("x:data", str(packed(world, "src", "i.sqfs")), image=True))


class ReleaseImageContract(ActionContract):
    """A buffer that holds an image."""

    lineage: ClassVar[str] = "release"

    def build(self, world: World) -> None:
        world.write("src", FILES)
        world.take(Register("x:data", "src"))
        world.take(StageIn("x:data", "scratch"))
        self.path = world.take(StageIn("x:data", "scratch", as_image=True))["path"]

    def action(self, world: World) -> Action:
        return Release("x:data", "scratch", as_image=True)

    def wrong(self, world: World) -> tuple[Action, Collection[str]]:
        return Release("x:data", "nosite", as_image=True), {"unknown-site"}


class StageOutContract(ActionContract):
    lineage: ClassVar[str] = "stage-out"

    def build(self, world: World) -> None:
        world.write("made", FILES)

    def action(self, world: World) -> Action:
        return StageOut("made", "archive", "x:saved")

    def wrong(self, world: World) -> tuple[Action, Collection[str]]:
        return StageOut("./nothing", "nosite", "no id"), {"no-source", "unknown-site", "bad-dataset-id"}


class StageOutDatasetContract(StageOutContract):
    def build(self, world: World) -> None:
        super().build(world)
        world.take(Register("x:data", "made"))

    def action(self, world: World) -> Action:
        return StageOut("x:data", "memory://" + world.place + "/elsewhere/deep")

    def wrong(self, world: World) -> tuple[Action, Collection[str]]:
        return StageOut("x:data", "nosite", "x:other"), {"named-twice", "unknown-site"}


class PackContract(ActionContract):
    """A dataset."""

    lineage: ClassVar[str] = "pack"

    def build(self, world: World) -> None:
        world.write("src", FILES)
        world.take(Register("x:data", "src"))

    def action(self, world: World) -> Action:
        return Pack("x:data", "archive/deep.sqfs")

    def wrong(self, world: World) -> tuple[Action, Collection[str]]:
        return Pack("x:nothing", "https://example.org/i.sqfs", "x:other", level=99), {
            "no-dataset",
            "no-such-verb",
            "named-twice",
            "bad-usage",
        }


class PackSpooledContract(PackContract):
    """To a store that is no folder."""

    def action(self, world: World) -> Action:
        return Pack("x:data", f"memory://{world.place}/site/i.sqfs")


class PackFolderContract(PackContract):
    """What is in no catalogue yet."""

    def build(self, world: World) -> None:
        world.write("src", FILES)

    def action(self, world: World) -> Action:
        return Pack("src", "packed.sqfs", "x:data")

    def wrong(self, world: World) -> tuple[Action, Collection[str]]:
        return Pack("./nothing", "./nothing/i.sqfs", "no id"), {"no-source", "same-place", "bad-dataset-id"}


class PackImageContract(PackContract):
    """From an image alone, into another."""

    def build(self, world: World) -> None:
        world.write("src", FILES)
        world.take(Register("x:data", str(packed(world, "src", "i.sqfs")), image=True))
        remove(world.folder / "src")


class VerifyContract(ActionContract):
    lineage: ClassVar[str] = "verify"

    def build(self, world: World) -> None:
        world.write("src", FILES)
        world.take(Register("x:data", "src"))

    def action(self, world: World) -> Action:
        return Verify("x:data")

    def wrong(self, world: World) -> tuple[Action, Collection[str]]:
        return Verify("x:nothing", "nosite"), {"no-dataset", "unknown-site"}


class ComputeContract(ActionContract):
    lineage: ClassVar[str] = "compute"
    anew: ClassVar[bool] = True

    def build(self, world: World) -> None:
        world.write("src", FILES)
        world.take(Register("x:data", "src"))

    def action(self, world: World) -> Action:
        return Compute(("sh", "-c", "cat {in}/a/* > sum; echo done"), "scratch", ("x:data",), "x:out")

    def wrong(self, world: World) -> tuple[Action, Collection[str]]:
        codes = {"no-program", "no-dataset", "bad-dataset-id", "bad-duration", "no-executor"}
        return Compute(("no-such-program",), "mem", ("x:nothing",), "no id", "soon"), codes


class ReleaseContract(ActionContract):
    lineage: ClassVar[str] = "release"

    def build(self, world: World) -> None:
        world.write("src", FILES)
        world.take(Register("x:data", "src"))
        self.path = world.take(StageIn("x:data", "scratch"))["path"]

    def action(self, world: World) -> Action:
        return Release(self.path)

    def wrong(self, world: World) -> tuple[Action, Collection[str]]:
        return Release("/no/such/buffer"), {"no-buffer"}


class WithdrawContract(ActionContract):
    lineage: ClassVar[str] = "withdraw"

    def build(self, world: World) -> None:
        world.write("src", FILES)
        world.take(Register("x:data", "src"))
        world.take(StageIn("x:data", "scratch"))

    def action(self, world: World) -> Action:
        return Withdraw("x:data", "wrong calibration")

    def wrong(self, world: World) -> tuple[Action, Collection[str]]:
        return Withdraw("x:nothing", " "), {"no-dataset", "bad-record"}


class RestoreContract(WithdrawContract):
    lineage: ClassVar[str] = "restore"

    def build(self, world: World) -> None:
        super().build(world)
        world.take(Withdraw("x:data", "by mistake"))

    def action(self, world: World) -> Action:
        return Restore("x:data")

    def wrong(self, world: World) -> tuple[Action, Collection[str]]:
        return Restore("x:nothing"), {"no-dataset"}


OURS: Final[tuple[type[ActionContract], ...]] = (
    RegisterContract,
    RegisterImageContract,
    StageInContract,
    StageInFromImageContract,
    StageInAddressContract,
    StageInMemoryContract,
    StageOutContract,
    StageOutDatasetContract,
    PackContract,
    PackSpooledContract,
    PackFolderContract,
    PackImageContract,
    VerifyContract,
    ComputeContract,
    ReleaseContract,
    WithdrawContract,
    RestoreContract,
)


class ReleaseAtContract(ReleaseContract):
    """By dataset and site, as plans say it."""

    def action(self, world: World) -> Action:
        return Release("x:data", "scratch")

    def wrong(self, world: World) -> tuple[Action, Collection[str]]:
        return Release("x:data", "nosite"), {"unknown-site"}


class ComputeOnceContract(ComputeContract):
    """As plans say it: made once, it is not made again; what failed is."""

    def action(self, world: World) -> Action:
        return Compute(("sh", "-c", "cat {in}/a/* > sum"), "scratch", ("x:data",), "x:out", once=True)


class SiteContract(ActionContract):
    def build(self, world: World) -> None:
        """Nothing is needed."""

    def action(self, world: World) -> Action:
        return Site("tape", str(world.folder / "tape"), "10GB", 1000, "tape", "P30D", 512)

    def wrong(self, world: World) -> tuple[Action, Collection[str]]:
        return Site("scratch", str(world.folder / "elsewhere"), lifetime="soon"), {"bad-duration"}


class WaitForContract(ActionContract):
    def build(self, world: World) -> None:
        world.write("src", FILES)
        world.take(Register("x:data", "src"))

    def action(self, world: World) -> Action:
        return WaitFor("x:data@1")

    def wrong(self, world: World) -> tuple[Action, Collection[str]]:
        return WaitFor("no id", "soon"), {"bad-dataset-id", "bad-time"}
