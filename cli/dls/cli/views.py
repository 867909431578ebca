"""Views: which copy of a dataset a mount shows, and how a process that outlives this one opens it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from dls.catalogue.model import Layout
from dls.cli.front import Front
from dls.cli.images import opened
from dls.logistics.errors import DlsError, worst
from dls.logistics.registry import open_store
from dls.madpp import reading
from dls.madpp.action import Context
from dls.madpp.source import From, Wish, wish

if TYPE_CHECKING:
    from dls.fuse.tree import Tree
    from dls.logistics.manifest import Manifest


class View(NamedTuple):
    """What is to be mounted."""

    dataset: str
    """`scope:name@number`."""
    name: str
    """The address that is shown."""
    opener: Callable[[], Tree]
    """Needs neither settings nor state."""


def best(front: Front, text: str, kept: Mapping[str, Any]) -> View:
    """The best copy of a dataset that can be opened; `kept` says where pieces of remote images are kept."""
    return front.dls.look(lambda context: _best(context, text, kept), tell=front.out.tell)


def _best(context: Context, text: str, kept: Mapping[str, Any]) -> View:
    wanted = wish(context, text)
    errors = list[DlsError]()
    for one in reading.places(context, wanted):
        view = View(wanted.version.id, one.url, _opener(wanted, one, kept))
        try:
            view.opener().close()
        except DlsError as error:
            errors.append(error)
            context.note(f"{one.text} cannot be mounted: {error}")
        else:
            return view
    raise worst(errors) or errors[-1]


def _opener(wanted: Wish, one: From, kept: Mapping[str, Any]) -> Callable[[], Tree]:
    if one.replica is not None and one.replica.layout is Layout.IMAGE:
        return partial(opened, one.url, **kept)
    return partial(_plain, one.url, reading.by_itself(wanted.manifest), kept)


def _plain(address: str, manifest: Manifest, kept: Mapping[str, Any]) -> Tree:
    """A version that lies file by file, as a tree."""
    from dls.fuse.plain import open_plain

    return open_plain(open_store(address), manifest, **kept)
