"""The Action contract: one idempotent verb.  Rules are numbered in `specs/action.md`; the suite that proves them is
`dls.madpp.testing.contract`.

An action sees the world only through its `Context`, so the same plan runs on a twin.  It is a frozen dataclass whose
fields say what is wanted, in words that JSON holds.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final, Protocol

from dls.catalogue.catalogue import Catalogue
from dls.logistics.actor import Actor
from dls.logistics.buffer import Buffers
from dls.logistics.errors import DlsError
from dls.logistics.need import Needs
from dls.logistics.site import Sites
from dls.logistics.store import Store
from dls.logistics.transfer.progress import Progress
from dls.logistics.transfer.receipt import Receipts
from dls.logistics.transfer.run import Options

Facts = dict[str, Any]
"""What a step answers: counts and references, JSON of at most `ANSWER_BYTES`."""

ANSWER_BYTES: Final = 4096


def _silent(kind: str, facts: Mapping[str, Any]) -> None:
    """Nobody listens."""


@dataclass(frozen=True)
class Context:
    """The world as an action sees it."""

    catalogue: Catalogue
    sites: Sites
    buffers: Buffers
    needs: Needs
    receipts: Receipts
    open_store: Callable[[str], Store]
    """The store at an address; credentials are its affair."""
    actor: Actor
    folder: Path
    """Where transfers keep listings and logs."""
    run: str = ""
    """Id of the run; '' while a plan is only proven."""
    step: str = ""
    """Name of the step within its plan."""
    options: Options = field(default_factory=Options)
    progress: Progress = field(default_factory=Progress)
    tell: Callable[[str, Mapping[str, Any]], None] = _silent
    """Who listens: `("note", {"text": …})`, `("route", {…})`, `("line", {"text": …})`.  Actions use `say`."""
    now: Callable[[], int] = time.time_ns
    """Nanoseconds since the epoch: the clock of what is recorded."""
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The environment that jobs start with; it may hold secrets and is never recorded."""
    cwd: str = "/"
    """What relative paths of this request are relative to."""

    def say(self, kind: str, facts: Mapping[str, Any]) -> None:
        """Tell whoever listens.  A listener that fails (a closed pipe) is its own trouble, not that of the run."""
        with suppress(Exception):  # any error of a listener: the work is not undone because nobody looks any more
            self.tell(kind, facts)

    def note(self, text: str) -> None:
        """A sentence for the person who watches."""
        self.say("note", {"text": text})


class Action(Protocol):
    """One verb."""

    name: ClassVar[str]

    def check(self, context: Context) -> list[DlsError]:
        """What is wrong with the wish, given the world: reads facts, changes nothing, never raises a DlsError."""
        ...

    def preview(self, context: Context) -> Facts:
        """What `run` would do now: files, bytes, route, eta.  Changes nothing."""
        ...

    def run(self, context: Context) -> Facts:
        """Do it.  Again after any interruption it continues; again after success it changes nothing."""
        ...


class NotYet(Exception):
    """What a step waits for is not there yet: no failure.  An engine looks again, or puts the run aside until then."""

    def __init__(
        self, what: str, *, since_ns: int = 0, look_again_s: float = 5.0, until_ns: int = 0, help: str = ""
    ) -> None:
        super().__init__(f"not yet there: {what}")
        self.what = what
        self.since_ns = since_ns
        """When this look was, by the context's clock."""
        self.look_again_s = look_again_s
        """How soon another look is worth it."""
        self.until_ns = until_ns
        """When waiting becomes a failure, nanoseconds since the epoch; 0 for never."""
        self.help = help
        """What would help."""


def checked(*looks: Callable[[], object]) -> list[DlsError]:
    """The errors that several looks raise, each looked at, each told once."""
    found: list[DlsError] = []
    for look in looks:
        try:
            look()
        except DlsError as exc:
            if not any(str(exc) == str(other) for other in found):
                found.append(exc)
    return found


def bounded(facts: Mapping[str, Any]) -> Facts:
    """The facts in at most `ANSWER_BYTES` of JSON: long lists are cut and counted (`…_more`), then long texts cut."""
    out = dict(facts)
    while (over := len(json.dumps(out).encode()) - ANSWER_BYTES) > 0:
        lists = [k for k, v in out.items() if isinstance(v, list) and v]
        texts = [k for k, v in out.items() if isinstance(v, str) and len(v) > 100]
        if lists:
            key = max(lists, key=lambda k: len(json.dumps(out[k])))
            keep = len(out[key]) // 2
            out[f"{key}_more"] = out.get(f"{key}_more", 0) + len(out[key]) - keep
            out[key] = out[key][:keep]
        elif texts:
            key = max(texts, key=lambda k: len(out[k]))
            out[key] = out[key][: max(100, len(out[key]) - over - 10)] + "…"
            if len(out[key]) <= 101:
                out[key] = out[key][:99]
        else:
            nested = max(out, key=lambda k: len(json.dumps(out[k])))
            out[nested] = bounded(out[nested]) if _large(out[nested]) else "…"
    return out


def _large(value: Any) -> bool:
    """Whether a value is an object that can still be cut by itself."""
    return isinstance(value, dict) and len(json.dumps(value).encode()) > ANSWER_BYTES


AT_ONCE: Final[Facts] = {"seconds": 0.0, "low": 0.0, "high": 0.0, "from": "no bytes move"}
"""The estimate of what only changes facts."""
