"""Where bytes come from and go to: which replica, which address, by which link.  Deciding is pure, and explained."""

from __future__ import annotations

from collections.abc import Sequence

from dls.catalogue.model import Replica, State, Version
from dls.logistics import duration, names, url
from dls.logistics.entry import FILE
from dls.logistics.errors import Invalid, NotFound, Unsupported
from dls.logistics.frozen import frozen
from dls.logistics.manifest import Manifest
from dls.logistics.site import Storage
from dls.logistics.store import Store
from dls.logistics.url import DatasetId, Url
from dls.madpp.action import Context


@frozen
class Wish:
    """A dataset's version and its content."""

    version: Version
    manifest: Manifest

    @property
    def id(self) -> DatasetId:
        """`scope:name@number`."""
        return url.dataset(self.version.id)


@frozen
class From:
    """A place to copy from."""

    text: str
    """Its address as people write it."""
    url: str
    end: str
    """Its end of the link."""
    replica: Replica | None = None
    """The catalogue's row, where there is one."""


def wish(context: Context, text: str) -> Wish:
    """The version that an id names; NotFound, Unsupported for a part of one."""
    id = url.dataset(text)
    if id.path:
        raise Unsupported(
            f"{text}: only whole datasets can be staged",
            code="part-of-dataset",
            dataset=id.key,
            remedy=f"stage {id.key}, or register that folder as a dataset of its own",
        )
    version = context.catalogue.version(id, actor=context.actor)
    return Wish(version, context.catalogue.manifest(url.dataset(version.id), actor=context.actor))


def new_name(context: Context, text: str) -> str:
    """`scope:name` for something to be registered; Invalid for a version or a part, and for what is withdrawn."""
    id = url.dataset(text)
    if id.version or id.path:
        raise Invalid(f"{text}: name the dataset alone", code="bad-dataset-id", remedy=f"write {id.key}")
    try:
        known = context.catalogue.dataset(id, actor=context.actor)
    except NotFound:
        return id.key
    if known.state is State.WITHDRAWN:
        raise Invalid(
            f"{id.key} is withdrawn: {known.reason}",
            code="withdrawn",
            dataset=id.key,
            remedy="restore it first, or choose another name",
        )
    return id.key


def lifetime(text: str, storage: Storage) -> int:
    """Seconds that a lease shall last: what is asked, or what the storage says; Invalid for none at all."""
    if not text:
        return storage.lifetime_s
    seconds = duration.read_duration(text)
    if not seconds:
        raise Invalid(f"a lifetime of nothing: {text}", code="bad-lifetime", remedy="give one such as P7D")
    return seconds


def sources(context: Context, wanted: Wish, *, to: str = "") -> list[From]:
    """Places to copy from, best first; NotFound where none is offered.  `to` is the target's URL: neither it nor what
    lies within it is a source."""
    offered = context.catalogue.replicas(wanted.id, actor=context.actor)
    found = rank([r for r in offered if not (to and lies_in(r.url, to))])
    if not found:
        raise NotFound(
            f"no replica of {wanted.version.id} is offered"
            + (": the dataset is withdrawn" if _withdrawn(context, wanted) else ""),
            code="no-replica",
            dataset=wanted.version.id,
            remedy="register a copy with dls catalogue add, or ask its owner",
        )
    return [From(shown(url.parse(r.url)), r.url, ends(context, url.parse(r.url)), r) for r in found]


def _withdrawn(context: Context, wanted: Wish) -> bool:
    return context.catalogue.dataset(wanted.id, actor=context.actor).state is State.WITHDRAWN


_NEAR = {"memory": 0, "file": 1}


def rank(replicas: Sequence[Replica]) -> list[Replica]:
    """Online before offline; local file systems first, then the rest; older (more settled) first."""
    return sorted(
        replicas,
        key=lambda r: (r.state.value != "complete", _NEAR.get(url.parse(r.url).scheme, 2), r.created_ns, r.id),
    )


def lies_in(address: str, root: str) -> bool:
    """Whether an address is a root's, or lies below it."""
    return address == root or address.startswith(root.rstrip("/") + "/")


def overlap(one: str, other: str) -> bool:
    """Whether one address lies in the other."""
    return lies_in(one, other) or lies_in(other, one)


def address(context: Context, text: str) -> Url:
    """The URL or path that a person wrote."""
    return url.parse(text, context.cwd)


def is_site(text: str) -> bool:
    """Whether a target is named as a site (`scratch`, `scratch/default`) rather than as an address."""
    return "://" not in text and not text.startswith(("/", "./", "../", "~")) and ":" not in text and text not in ".."


def opened(context: Context, at: Url) -> tuple[Store, bytes]:
    """The store and the one name in it that an address means: a folder or prefix is a store (name b''), a single file
    is a name in the store above."""
    store = context.open_store(str(at))
    above, leaf = at.parent
    if at.scheme == "file":
        if leaf and store.exists() and context.open_store(str(above)).stat(leaf).entry.kind == FILE:
            return context.open_store(str(above)), leaf
        return store, b""
    if leaf and next(iter(store.list()), None) is None:
        parent = context.open_store(str(above))
        if parent.stamps([leaf])[0] and parent.stat(leaf).entry.kind == FILE:
            return parent, leaf
    return store, b""


def there(context: Context, at: Url) -> tuple[Store, bytes]:
    """The same; NotFound where nothing lies there."""
    store, only = opened(context, at)
    if not only and not store.exists():
        raise NotFound(f"there is nothing at {shown(at)}", code="no-source", store=str(at), remedy="check the address")
    return store, only


def target(context: Context, at: Url) -> tuple[Store, bytes]:
    """The store and root to copy to: an address that is taken is filled in place, a new one appears at once."""
    store = context.open_store(str(at))
    above, leaf = at.parent
    if not leaf or store.exists():
        return store, b""
    return context.open_store(str(above)), leaf


def site_of(context: Context, at: Url) -> Storage | None:
    """The storage that an address lies in, if it is one of ours."""
    inside = [s for s in context.sites.all() if lies_in(str(at), s.url)]
    return max(inside, key=lambda s: len(s.url), default=None)


def ends(context: Context, at: Url) -> str:
    """The name of one end of a link: the storage that holds it, or the service."""
    inside = site_of(context, at)
    return inside.id if inside else f"{at.scheme}://{at.place}"


def shown(at: Url) -> str:
    """An address as people write it."""
    return "/" + names.show(at.path) if at.scheme == "file" else str(at)
