"""withdraw: offer the bytes of a dataset no more; and restore, which takes that back.  No byte is removed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from dls.catalogue import changes
from dls.catalogue.model import Port, Replica
from dls.logistics import url
from dls.logistics.buffer import Contents
from dls.logistics.errors import DlsError, Invalid
from dls.logistics.frozen import frozen
from dls.madpp.action import AT_ONCE, Context, Facts, bounded, checked
from dls.madpp.facts import software
from dls.madpp.places import containing
from dls.madpp.record import record
from dls.madpp.saved import withdraw
from dls.madpp.source import shown


@frozen
class Withdraw:
    """`dls catalogue withdraw DATASET --reason WHY`."""

    dataset: str
    reason: str
    name: ClassVar[str] = "withdraw"

    def check(self, context: Context) -> list[DlsError]:
        """Is there such a dataset, named as a whole, and a reason?"""
        return checked(lambda: _key(context, self.dataset), self._reason)

    def _reason(self) -> None:
        if not self.reason.strip():
            raise Invalid("a withdrawal gives its reason", code="bad-record", field="reason", remedy="--reason 'why'")

    def preview(self, context: Context) -> Facts:
        """Which copies would be offered no more."""
        found = list(_replicas(context, _key(context, self.dataset)))
        return _would(self.dataset, found)

    def run(self, context: Context) -> Facts:
        """First take back the evidence that buffers rest on, so that none is freed; then record."""
        key = _key(context, self.dataset)
        _revoke(context, key)
        done = record(context, f"withdraw {key}", [changes.Withdraw(key, self.reason)], _seen(context, self.name, key))
        _revoke(context, key)  # whoever found a copy between the two must not rest on it
        facts = {
            "dataset": key,
            "new": done.of(changes.Withdraw).changed,
            "activity": done.activity,
            "unsaved": _unsaved(context, key),
        }
        return bounded(facts)


@frozen
class Restore:
    """`dls catalogue restore DATASET`."""

    dataset: str
    name: ClassVar[str] = "restore"

    def check(self, context: Context) -> list[DlsError]:
        """Is there such a dataset, named as a whole?"""
        return checked(lambda: _key(context, self.dataset))

    def preview(self, context: Context) -> Facts:
        """Which copies would be offered again."""
        found = list(_replicas(context, _key(context, self.dataset)))
        return _would(self.dataset, found)

    def run(self, context: Context) -> Facts:
        """Record it."""
        key = _key(context, self.dataset)
        done = record(context, f"restore {key}", [changes.Restore(key)], _seen(context, self.name, key))
        return {"dataset": key, "new": done.of(changes.Restore).changed, "activity": done.activity}


def _revoke(context: Context, key: str) -> None:
    """Take the evidence back that buffers rest on."""
    for replica in _replicas(context, key):
        withdraw(context, replica)


def _unsaved(context: Context, key: str) -> list[str]:
    """Paths of the buffers that hold versions of a dataset and must be kept."""
    inside = (containing(context, replica.url) for replica in _replicas(context, key))
    dirty = {b.id: context.buffers.path(b) for b in inside if b is not None and b.contents is Contents.DIRTY}
    return list(dirty.values())


def _would(dataset: str, found: list[Replica]) -> Facts:
    route = [shown(url.parse(r.url)) for r in found]
    return bounded({"what": dataset, "dataset": dataset, "route": route, "files": 0, "bytes": 0, "eta": AT_ONCE})


def _key(context: Context, text: str) -> str:
    """`scope:name` of a dataset that is there; Invalid where a version or a part of it is named."""
    id = url.dataset(text)
    if id.version or id.path:
        raise Invalid(f"{text}: name the dataset alone", code="bad-dataset-id", remedy=f"write {id.key}")
    return context.catalogue.dataset(id, actor=context.actor).key


def _replicas(context: Context, key: str) -> Iterator[Replica]:
    """Every copy of every version."""
    after = 0
    while page := context.catalogue.versions(url.dataset(key), actor=context.actor, after=after):
        for one in page:
            yield from context.catalogue.replicas(url.dataset(one.id), actor=context.actor, offered=False)
        after = page[-1].number


def _seen(context: Context, type: str, key: str) -> changes.AddActivity:
    known = context.catalogue.versions(url.dataset(key), actor=context.actor, limit=1)
    used = (Port(key),) if known else ()
    return changes.AddActivity(type, used=used, started_ns=context.now(), software=software())
