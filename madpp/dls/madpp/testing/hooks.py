"""What the suite of actions needs of an implementation: a world, a wish that can be carried out, one that cannot."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from dls.logistics.testing.spec import Suite
from dls.madpp.action import Action
from dls.madpp.actions import BUILT_IN
from dls.madpp.testing.world import World


class ActionHooks(Suite):
    """What an implementation gives."""

    known: Mapping[str, str] = BUILT_IN
    """The list of verbs in which the action stands."""
    points: int = 12
    """How many interruptions are tried of each kind, spread over all calls; 0: every one."""
    lineage: ClassVar[str] = ""
    """Type of the activity that it leaves; '' where it only moves leases."""
    anew: ClassVar[bool] = False
    """Whether a new run does the work again by its nature (a computation)."""

    def make(self, folder: Path) -> World:
        """The world that the action is tried in."""
        return World(folder)

    def build(self, world: World) -> None:
        """What has to be there first."""
        raise NotImplementedError

    def action(self, world: World) -> Action:
        """A wish that can be carried out."""
        raise NotImplementedError

    def wrong(self, world: World) -> tuple[Action, Collection[str]]:
        """A wish that is wrong in several independent ways, and the codes of all of them."""
        raise NotImplementedError

    @contextmanager
    def ready(self, folder: Path) -> Iterator[tuple[World, Action]]:
        """A world in which the wish can be carried out."""
        world = self.make(folder)
        try:
            self.build(world)
            world.trip.arm()
            world.told.clear()
            yield world, self.action(world)
        finally:
            world.close()
