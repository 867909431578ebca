"""A wire over which every call of an action into its world goes: it counts, writes down, and lets one go wrong.

error    the call fails before it takes effect, as a service does
lost     it takes effect, and its answer is an error
killed   this process ends here: neither this call nor any later one takes effect
late     it takes effect, then the process ends
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Self

from dls.logistics.errors import Unavailable
from dls.logistics.need import Claim, Needs
from dls.logistics.store import Store
from dls.logistics.testing.faults import Around, Planted

HOW: Final = ("error", "lost", "killed", "late")


class Killed(BaseException):
    """Stands for the end of the process; what runs afterwards (`finally`, `except`) finds a dead world."""


class Trip:
    """What all watched parts of one world share."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.log: list[str] = []
        self.at, self.how, self.dead = 0, "", False

    def arm(self, at: int = 0, how: str = "error") -> None:
        """Begin to count anew; call number `at` (from 1; 0: none) goes wrong in the way `how`."""
        with self.lock:
            self.log, self.at, self.how, self.dead = [], at, how, False

    @property
    def count(self) -> int:
        """Calls so far."""
        return len(self.log)

    @property
    def bodies(self) -> int:
        """File bodies that were asked of stores."""
        return sum(verb in ("store.fetch.item", "store.read.chunk") for verb in self.log)

    def before(self, verb: str) -> bool:
        """One call begins; whether `after` is to be called."""
        with self.lock:
            if self.dead:
                raise Killed(verb)
            self.log.append(verb)
            hit = len(self.log) == self.at
            if hit and self.how == "killed":
                self.dead = True
                raise Killed(verb)
        if hit and self.how == "error":
            raise Planted(verb, b"")
        return hit

    def after(self, verb: str) -> None:
        """The chosen call has taken effect."""
        if self.how == "late":
            self.dead = True
            raise Killed(verb)
        raise Planted(verb, b"")

    def call(self, verb: str, work: Callable[[], Any]) -> Any:
        """One call with its outcome."""
        chosen = self.before(verb)
        try:
            return work()
        finally:
            if chosen:
                self.after(verb)

    def around(self, name: str, inner: Any) -> Any:
        """A part of the world, watched."""
        return _Watched(self, name, inner)

    def needs(self, inner: Needs) -> Any:
        """Needs, and the claims on them, watched."""
        return _WatchedNeeds(self, inner)

    def store(self, inner: Store) -> Store:
        """A store, watched."""
        made: Store = _WatchedStore(inner, self)
        return made


class _Watched:
    def __init__(self, trip: Trip, name: str, inner: Any) -> None:
        self._trip, self._name, self._inner = trip, name, inner

    def __getattr__(self, verb: str) -> Any:
        found = getattr(self._inner, verb)
        if not callable(found):
            return found
        return lambda *a, **k: self._trip.call(f"{self._name}.{verb}", lambda: found(*a, **k))


class _WatchedNeeds(_Watched):
    def __init__(self, trip: Trip, inner: Needs) -> None:
        super().__init__(trip, "needs", inner)

    def claim(self, *a: Any, **k: Any) -> _WatchedClaim:
        return _WatchedClaim(self._trip, self._trip.call("needs.claim", lambda: self._inner.claim(*a, **k)))


class _WatchedClaim:
    def __init__(self, trip: Trip, inner: Claim) -> None:
        self._trip, self._inner = trip, inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def finish(self, result: dict[str, Any]) -> None:
        self._trip.call("need.finish", lambda: self._inner.finish(result))

    def __enter__(self) -> Self:
        try:
            self._trip.call("need.wait", self._inner.__enter__)
        except Killed:
            self._inner._unlock()
            raise
        except Unavailable as exc:
            if exc.code == "planted" and self._inner.is_held:
                self._inner.__exit__(Unavailable, exc, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, back: TracebackType | None) -> None:
        if self._trip.dead:
            self._inner._unlock()  # the kernel does so much for a dead process, and no more
        else:
            self._inner.__exit__(kind, exc, back)


class _WatchedStore(Around):
    def __init__(self, inner: Store, trip: Trip) -> None:
        super().__init__(inner)
        self._trip = trip

    def part_of(self, inner: Store) -> _WatchedStore:
        return _WatchedStore(inner, self._trip)

    def step(self, verb: str, key: bytes = b"") -> bool:
        chosen = self._trip.before(f"store.{verb}")
        if chosen and verb.endswith((".item", ".chunk", ".take")):
            self._trip.after(verb)  # what passes through a lazy verb has no later moment
        return chosen

    def after(self, verb: str, key: bytes) -> None:
        self._trip.after(verb)
