"""The records that a catalogue keeps: datasets, versions, replicas, activities.  Frozen; times are nanoseconds since
the epoch by the catalogue's clock; JSON fields are plain objects that belong to whoever received the record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from enum import StrEnum
from typing import Any, Final, NamedTuple

from dls.logistics import digest as digests
from dls.logistics import names
from dls.logistics.frozen import frozen

Json = Mapping[str, Any]

LOCAL: Final = "local"
"""The project, the audience and the origin of an installation that has not been told others."""
HIDDEN: Final = "hidden"
"""Stands in lineage for what the actor may not see."""


class State(StrEnum):
    """Whether a dataset's bytes are offered."""

    ACTIVE = "active"
    WITHDRAWN = "withdrawn"
    """The record stays for ever, its replicas are offered no more, it takes no new versions."""


class ReplicaState(StrEnum):
    """What is known of a version's bytes in one place."""

    PARTIAL = "partial"
    """Some of it is there: a copy under way or broken off."""
    COMPLETE = "complete"
    """All of it was proven there, but for the files marked otherwise."""
    LOST = "lost"
    """It was there and is not found."""
    CORRUPT = "corrupt"
    """What is there is not what was recorded."""
    OFFLINE = "offline"
    """All of it is there and must be recalled first."""
    GONE = "gone"
    """Removed on purpose; the row remains for lineage."""


OFFERED: Final = frozenset({ReplicaState.COMPLETE, ReplicaState.OFFLINE})
"""States of replicas that may serve as a source."""


class FileState(StrEnum):
    """How one file of a replica differs from the replica as a whole."""

    LOST = "lost"
    CORRUPT = "corrupt"
    OFFLINE = "offline"


class Layout(StrEnum):
    """How a version lies below a replica's root."""

    SAME = "same"
    """One key per entry, named as in the manifest."""
    IMAGE = "image"
    """All entries inside one image file at the root."""


@frozen
class Dataset:
    """A name, and what is said about it."""

    scope: str
    """First half of the id: who gives the name."""
    name: str
    """Second half of the id."""
    title: str = ""
    """One line for people."""
    description: str = ""
    """Free text, at most 100,000 characters."""
    metadata: Json = field(default_factory=dict)
    """The community's own fields: a JSON object."""
    project: str = LOCAL
    """Tenant that the dataset counts for."""
    origin: str = LOCAL
    """Catalogue that owns the record; it never changes."""
    owner: str = ""
    """Name of the actor who answers for it."""
    audience: str = LOCAL
    """Who may see it (`Actor.audiences`)."""
    state: State = State.ACTIVE
    reason: str = ""
    """Why it was withdrawn; '' while active."""
    created_ns: int = 0
    changed_ns: int = 0
    """Last change of the record or of its list of versions."""
    serial: int = 0
    """Rises by one with each such change; 0 means not there.  Compared with `expected` in `apply`."""

    @property
    def key(self) -> str:
        """`scope:name`."""
        return f"{self.scope}:{self.name}"

    def to_json(self) -> dict[str, Any]:
        """The record as programs read it."""
        return {
            "id": self.key,
            "title": self.title,
            "description": self.description,
            "metadata": dict(self.metadata),
            "project": self.project,
            "origin": self.origin,
            "owner": self.owner,
            "audience": self.audience,
            "state": self.state.value,
            "reason": self.reason,
            "created_ns": self.created_ns,
            "changed_ns": self.changed_ns,
            "serial": self.serial,
        }


@frozen
class Version:
    """One content of a dataset: a manifest.  Never changes."""

    dataset: str
    """`scope:name`."""
    number: int
    """From 1, without gaps."""
    content: bytes
    """`Manifest.content`, 32 bytes: names, sizes and digests; the identity of what a job reads."""
    manifest: bytes
    """`Manifest.digest`, 32 bytes: modes and times too."""
    entries: int
    """Files, links and folders."""
    files: int
    size: int
    """Sum of file sizes, bytes."""
    created_ns: int = 0
    actor: str = ""
    """Who added it."""
    note: str = ""
    """What is new, one line for people."""

    @property
    def id(self) -> str:
        """`scope:name@number`."""
        return f"{self.dataset}@{self.number}"

    def to_json(self) -> dict[str, Any]:
        """The record as programs read it."""
        return {
            "id": self.id,
            "content": digests.text(self.content),
            "manifest": digests.text(self.manifest),
            "entries": self.entries,
            "files": self.files,
            "bytes": self.size,
            "created_ns": self.created_ns,
            "actor": self.actor,
            "note": self.note,
        }


@frozen
class Replica:
    """A version's bytes in one place."""

    id: str
    """ULID."""
    dataset: str
    """`scope:name`."""
    version: int
    storage: str
    """A site's storage, e.g. `scratch/default`; '' for a plain URL."""
    url: str
    """Root of the copy."""
    layout: Layout = Layout.SAME
    state: ReplicaState = ReplicaState.COMPLETE
    evidence: Json = field(default_factory=dict)
    """How and when the state was proven, and by which run: a JSON object, never empty while complete."""
    durability: str = ""
    """`power` or `process`: what the copy survives; '' where the place was not ours to sync."""
    created_ns: int = 0
    changed_ns: int = 0
    serial: int = 0
    """As `Dataset.serial`, for this row and its marks."""

    def to_json(self) -> dict[str, Any]:
        """The record as programs read it."""
        return {
            "id": self.id,
            "version": f"{self.dataset}@{self.version}",
            "storage": self.storage,
            "url": self.url,
            "layout": self.layout.value,
            "state": self.state.value,
            "evidence": dict(self.evidence),
            "durability": self.durability,
            "created_ns": self.created_ns,
            "changed_ns": self.changed_ns,
            "serial": self.serial,
        }


class FileMark(NamedTuple):
    """One file of a replica that is not as the replica's state says."""

    path: bytes
    state: FileState

    def to_json(self) -> dict[str, Any]:
        """The mark as programs read it."""
        return {"path": names.show(self.path), "state": self.state.value}


class Port(NamedTuple):
    """One input or output of an activity."""

    ref: str
    """`scope:name[@version][/path]`, a replica's id, or a URL.  Without a version: the newest when it is recorded."""
    role: str = ""
    """Name of the port, e.g. `--in`, `mask`; '' where there is only one."""


@frozen
class Activity:
    """Something that used data, made data, or both: the lineage."""

    id: str
    """ULID."""
    type: str
    """What kind: register, stage-in, stage-out, compute, verify, pack …"""
    actor: str
    """Who did it."""
    on_behalf_of: str = ""
    """For whom a service did it."""
    run: str = ""
    """The run that it was part of."""
    audience: str = LOCAL
    """Who may see its command, its facts and its URLs; its datasets have audiences of their own."""
    started_ns: int = 0
    ended_ns: int = 0
    command: tuple[str, ...] = ()
    """The words of the command line, if there was one."""
    where: str = ""
    """The site."""
    used: tuple[Port, ...] = ()
    generated: tuple[Port, ...] = ()
    software: Json = field(default_factory=dict)
    """Versions, images, environments: a JSON object."""
    hardware: Json = field(default_factory=dict)
    """Machine, CPU, memory, accelerators: a JSON object."""

    def to_json(self) -> dict[str, Any]:
        """The record as programs read it."""
        return {
            "id": self.id,
            "type": self.type,
            "actor": self.actor,
            "on_behalf_of": self.on_behalf_of,
            "run": self.run,
            "audience": self.audience,
            "started_ns": self.started_ns,
            "ended_ns": self.ended_ns,
            "command": list(self.command),
            "where": self.where,
            "used": [p._asdict() for p in self.used],
            "generated": [p._asdict() for p in self.generated],
            "software": dict(self.software),
            "hardware": dict(self.hardware),
        }
