"""What may be asked of a catalogue's `apply`: one frozen record per change, and the answer.

A change says what is wanted, so that sending it twice is harmless.  `fingerprint` names a list of changes: an
idempotency key belongs to one fingerprint.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import field, fields
from typing import Any, Final

from dls.catalogue.fields import packed
from dls.catalogue.model import LOCAL, FileState, Json, Layout, Port, ReplicaState
from dls.logistics import digest as digests
from dls.logistics import names
from dls.logistics.errors import Conflict
from dls.logistics.frozen import frozen
from dls.logistics.manifest import SegmentRef


@frozen
class PutDataset:
    """Create a dataset, or change what is said about it; None leaves a field as it is."""

    dataset: str
    """`scope:name`."""
    title: str | None = None
    description: str | None = None
    metadata: Json | None = None
    """Replaces the whole object."""
    project: str | None = None
    origin: str | None = None
    """Only when the record is created; the default is the catalogue's own name."""
    owner: str | None = None
    """The default at creation is the actor."""
    audience: str | None = None
    """One that the actor belongs to."""


@frozen
class AddVersion:
    """Add a content.  The content of the newest version again makes no new one: the answer names that version."""

    dataset: str
    refs: tuple[SegmentRef, ...]
    """`Manifest.refs`; their segments were put before."""
    note: str = ""


@frozen
class AddReplica:
    """Say that a version lies in a place.  One row per version, storage and URL: again, it updates that row."""

    dataset: str
    url: str
    version: int = 0
    """0: the newest, also one that the same `apply` adds before."""
    storage: str = ""
    layout: Layout = Layout.SAME
    state: ReplicaState = ReplicaState.COMPLETE
    evidence: Json = field(default_factory=dict)
    durability: str = ""
    id: str = ""
    """ULID of a new row; made here where ''."""


@frozen
class SetReplica:
    """Record what became of a replica; None leaves a field as it is.  A replica that is gone stays gone."""

    replica: str
    state: ReplicaState | None = None
    evidence: Json | None = None
    durability: str | None = None


@frozen
class MarkFiles:
    """Single files of a replica that are lost, corrupt or offline; marks of other files stay."""

    replica: str
    files: Mapping[bytes, FileState]


@frozen
class ClearFiles:
    """Take marks away: of these files, or of all where None."""

    replica: str
    paths: tuple[bytes, ...] | None = None


@frozen
class Withdraw:
    """Offer a dataset's bytes no more.  The record, its versions and its lineage stay for ever."""

    dataset: str
    reason: str


@frozen
class Restore:
    """Take a withdrawal back."""

    dataset: str


@frozen
class AddActivity:
    """Record lineage (see `model.Activity` for the fields); the actor is who applies."""

    type: str
    used: tuple[Port, ...] = ()
    generated: tuple[Port, ...] = ()
    run: str = ""
    on_behalf_of: str | None = None
    """None: as the actor says."""
    audience: str = LOCAL
    started_ns: int = 0
    ended_ns: int = 0
    """0: now."""
    command: tuple[str, ...] = ()
    where: str = ""
    software: Json = field(default_factory=dict)
    hardware: Json = field(default_factory=dict)
    id: str = ""
    """ULID; made here where ''."""


Change = PutDataset | AddVersion | AddReplica | SetReplica | MarkFiles | ClearFiles | Withdraw | Restore | AddActivity


@frozen
class Outcome:
    """What one change led to."""

    id: str
    """The dataset's `scope:name`, `scope:name@number`, the replica's or the activity's id."""
    serial: int
    """Of that dataset or replica afterwards; 0 for activities."""
    changed: bool
    """False where all was so already."""


@frozen
class Applied:
    """The answer of `apply`: one outcome per change, in order."""

    outcomes: tuple[Outcome, ...]
    replayed: bool = False
    """The key was known: this is the first answer again and nothing was done."""

    def encode(self) -> str:
        """JSON text, for the row of an idempotency key."""
        return json.dumps([[o.id, o.serial, o.changed] for o in self.outcomes])

    @classmethod
    def decode(cls, answer: str) -> Applied:
        """What `encode` wrote, as a replay."""
        return cls(tuple(Outcome(*row) for row in json.loads(answer)), replayed=True)


MEASURED: Final = frozenset({"evidence", "started_ns", "ended_ns", "software", "hardware"})
"""Fields that a second try of the same work observes anew; they do not count in a fingerprint."""


def fingerprint(changes: Sequence[Change]) -> bytes:
    """32 bytes that name what is asked; what was measured is left out."""
    rows = [[type(c).__name__, {f.name: _plain(getattr(c, f.name)) for f in _asked(c)}] for c in changes]
    return digests.of(packed({"changes": rows}, "changes", limit=0).encode())


def _asked(change: Change) -> list[Any]:
    return [f for f in fields(change) if f.name not in MEASURED]


def _plain(value: Any) -> Any:
    """A value as JSON holds it; names by their reversible text."""
    if isinstance(value, bytes):
        return names.show(value)
    if isinstance(value, SegmentRef):
        return value.digest.hex()
    if isinstance(value, Mapping):
        return {_plain(k): _plain(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    return value


def replay(key: str, asked: bytes, before: bytes, answer: str) -> Applied:
    """The first answer under a key; Conflict where something else was asked then."""
    if asked != before:
        raise Conflict(
            f"the key {key} was used for other changes",
            code="key-reused",
            key=key,
            remedy="take a new key for new work",
        )
    return Applied.decode(answer)
