"""A run as it is told: one execution of a plan, its steps, and the right to carry it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from enum import StrEnum
from typing import Any

from dls.logistics.frozen import frozen


class RunState(StrEnum):
    """Where a run is in its life."""

    QUEUED = "queued"
    """For the next worker."""
    RUNNING = "running"
    WAITING = "waiting"
    """Nobody carries it until what it waits for may be there."""
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    BROKEN_OFF = "broken off"
    """Its process ended without a word: asking for the same again, or `dls resume`, continues the work."""


ENDED = frozenset({RunState.DONE, RunState.FAILED, RunState.CANCELLED})


@frozen
class StepRecord:
    """What is known of one step of a run."""

    name: str
    state: str
    """`running` (or it was when its holder died), `done`."""
    attempts: int
    began_ns: int
    ended_ns: int
    answer: dict[str, Any]


@frozen
class Run:
    """One execution."""

    id: str
    plan: dict[str, Any]
    actor: str
    on_behalf_of: str
    project: str
    state: RunState
    started_ns: int
    ended_ns: int
    results: dict[str, Any]
    error: dict[str, Any]
    detached: bool = False
    slot: str = ""
    epoch: int = 0
    wake_ns: int = 0
    waits: Sequence[dict[str, Any]] = ()
    cancelling: bool = False
    cwd: str = "/"
    steps: Mapping[str, StepRecord] = field(default_factory=dict)
    """Those that were begun."""

    def to_json(self) -> dict[str, Any]:
        """The run as programs read it."""
        return {
            "run": self.id,
            "plan": self.plan,
            "actor": self.actor,
            "on_behalf_of": self.on_behalf_of,
            "project": self.project,
            "state": self.state.value,
            "started_ns": self.started_ns,
            "ended_ns": self.ended_ns,
            "results": self.results,
            "error": self.error,
            "detached": self.detached,
            "slot": self.slot,
            "epoch": self.epoch,
            "wake_ns": self.wake_ns,
            "waits": list(self.waits),
        }


@frozen
class Hold:
    """The right to carry a run."""

    run: str
    epoch: int
