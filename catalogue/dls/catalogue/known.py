"""The records that a change or a query names: found and visible, or the one error for what is absent or hidden.

The two cannot be told apart: an actor does not learn that a record exists which it may not see.
"""

from __future__ import annotations

import re
from typing import Any, Final

from dls.catalogue.model import Dataset, Replica, State
from dls.catalogue.rows import Rows
from dls.logistics import url
from dls.logistics.actor import Actor
from dls.logistics.errors import Invalid, NotFound
from dls.logistics.event import Event

ULID: Final = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}\Z")

DATASET_EVENTS: Final = (
    "dataset.added",
    "dataset.changed",
    "dataset.withdrawn",
    "dataset.restored",
    "version.added",
    "replica.added",
    "replica.changed",
    "replica.marked",
    "replica.cleared",
)
"""Types whose subject is a dataset's `scope:name`: its audience sees them."""
ACTIVITY_EVENT: Final = "activity.added"
"""Its subject is the activity's id."""


def dataset_key(value: str) -> str:
    found = url.dataset(value)
    if found.version or found.path:
        raise Invalid(f"{value}: name the dataset alone", code="bad-dataset-id", remedy=f"write {found.key}")
    return found.key


def no_dataset(key: str) -> NotFound:
    """The error of a dataset that is not there, or not for this actor: the two cannot be told apart."""
    return NotFound(
        f"no dataset {key}", code="no-dataset", dataset=key, remedy="dls catalogue list shows those that you may see"
    )


def no_version(key: str, number: int) -> NotFound:
    """The error of a version that is not there; number 0 for a dataset without any."""
    which = f"no version {key}@{number}" if number else f"{key} has no version yet"
    return NotFound(which, code="no-version", dataset=key, remedy=f"dls catalogue show {key} lists its versions")


def no_replica(replica: str) -> NotFound:
    """The error of a replica that is not there, or not for this actor."""
    return NotFound(
        f"no replica {replica}", code="no-replica", replica=replica, remedy="dls catalogue show DATASET lists replicas"
    )


def no_activity(activity: str) -> NotFound:
    """The error of an activity that is not there, or not for this actor."""
    return NotFound(
        f"no activity {activity}",
        code="no-activity",
        activity=activity,
        remedy="dls catalogue lineage DATASET lists activities",
    )


def seen(rows: Rows, key: str, actor: Actor) -> Dataset:
    dataset = rows.dataset(dataset_key(key))
    if dataset is None or not actor.sees(dataset.audience):
        raise no_dataset(key)
    return dataset


def active(rows: Rows, key: str, actor: Actor) -> Dataset:
    dataset = seen(rows, key, actor)
    if dataset.state is State.WITHDRAWN:
        raise Invalid(
            f"{key} is withdrawn: {dataset.reason}",
            code="withdrawn",
            dataset=key,
            remedy="restore it first, or choose another name",
        )
    return dataset


def present(rows: Rows, ident: str, actor: Actor) -> Replica:
    """The replica, visible to the actor and not gone."""
    replica = rows.replica(ident)
    dataset = rows.dataset(replica.dataset) if replica else None
    if replica is None or dataset is None or not actor.sees(dataset.audience):
        raise no_replica(ident)
    return replica


def tell(rows: Rows, kind: str, subject: str, actor: Actor, **data: Any) -> None:
    rows.record(Event(kind, subject, actor.name, data))
