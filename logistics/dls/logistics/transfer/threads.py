"""Several threads at one piece of work, one thread ahead of another, and a watch over them.

The threads are daemons: one that hangs in a dead file system must not keep the process from ending.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from dls.logistics.errors import Unavailable

T = TypeVar("T")


@contextmanager
def ending(stream: Iterable[T]) -> Iterator[Iterable[T]]:
    """A stream that is closed at the end of the block, read to its end or not: what it holds open is freed then, not
    when an exception that passed through is forgotten."""
    try:
        yield stream
    finally:
        close = getattr(stream, "close", None)
        if close is not None:
            close()


def together(work: Callable[[threading.Event], None], count: int) -> None:
    """Run `work(stop)` in `count` threads; the first failure sets `stop` and is raised when all have ended."""
    stop, failures = threading.Event(), list[BaseException]()

    def guarded() -> None:
        try:
            work(stop)
        except BaseException as exc:  # noqa: BLE001 - raised again in the caller's thread
            failures.append(exc)
            stop.set()

    if count <= 1:
        work(stop)
        return
    threads = [threading.Thread(target=guarded, name=f"dls-{n}", daemon=True) for n in range(count)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    if failures:
        raise failures[0]


class Ahead(Generic[T]):
    """One helper thread, always the same, that deals with pieces while the caller goes on.

    It takes all pieces that wait at once, at most every `every_s` seconds, so that what costs the same for one and for
    many (a sync) is paid once.  At most `most` pieces are outstanding.
    """

    def __init__(self, work: Callable[[list[T]], None], every_s: float = 0.0, most: int = 1) -> None:
        self._work, self._every_s, self._most = work, every_s, most
        self._thread: threading.Thread | None = None
        self._change = threading.Condition()
        self._waiting: list[T] = []
        self._taken = 0
        """Pieces that the thread is dealing with."""
        self._hurry = self._over = False
        self._due = time.monotonic() + every_s
        self._failure: list[BaseException] = []

    def _run(self) -> None:
        while pieces := self._next():
            try:
                self._work(pieces)
            except BaseException as exc:  # noqa: BLE001 - raised again by wait()
                self._failure.append(exc)
            with self._change:
                self._taken = 0
                self._change.notify_all()

    def _next(self) -> list[T]:
        """The pieces to deal with now, waited for; [] at the end."""
        with self._change:
            while not self._over or self._waiting:
                rest = self._due - time.monotonic()
                if self._waiting and (self._hurry or self._over or rest <= 0 or len(self._waiting) >= self._most):
                    pieces, self._waiting = self._waiting, []
                    self._taken, self._due = len(pieces), time.monotonic() + self._every_s
                    return pieces
                self._change.wait(rest if self._waiting else None)
        return []

    def put(self, piece: T) -> None:
        """Leave a piece, as soon as there is room for it; raises what earlier ones raised."""
        with self._change:
            self._change.wait_for(lambda: len(self._waiting) + self._taken < self._most)
            self._raise()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="dls-ahead", daemon=True)
                self._thread.start()
            self._waiting.append(piece)
            self._change.notify_all()

    def wait(self) -> None:
        """Return when nothing is outstanding; raises what the last pieces raised."""
        self._settle()
        self._raise()

    def end(self) -> None:
        """Return when nothing is outstanding, whatever became of it; the thread ends."""
        self._settle()
        with self._change:
            self._over = True
            self._change.notify_all()

    def _settle(self) -> None:
        with self._change:
            self._hurry = True
            self._change.notify_all()
            self._change.wait_for(lambda: not self._waiting and not self._taken)
            self._hurry = False

    def _raise(self) -> None:
        if self._failure:
            failure = self._failure[0]
            self._failure.clear()
            raise failure


def watched(
    work: Callable[[], T],
    ticks: Callable[[], int],
    stall_s: float,
    give_up: Callable[[], None],
    what: str,
    patience: Callable[[], float] = lambda: 1.0,
    fence: Callable[[], None] = lambda: None,
) -> T:
    """The result of `work`, run in another thread; Unavailable where `ticks` stood still for `stall_s` seconds times
    `patience()`; what `fence` raises, as soon as it does.

    `give_up` is told first, so that the abandoned thread writes nothing more when it wakes.
    """
    done, box = threading.Event(), list[T]()
    failure: list[BaseException] = []

    def guarded() -> None:
        try:
            box.append(work())
        except BaseException as exc:  # noqa: BLE001 - raised again in the caller's thread
            failure.append(exc)
        finally:
            done.set()

    threading.Thread(target=guarded, name="dls-transfer", daemon=True).start()
    last, since = ticks(), time.monotonic()
    try:
        while not done.wait(min(0.5, stall_s / 4)):
            fence()
            now = ticks()
            if now != last:
                last, since = now, time.monotonic()
            elif time.monotonic() - since >= stall_s * patience():
                raise Unavailable(
                    f"no sign of life for {stall_s * patience():.0f} s while {what}",
                    code="stalled",
                    remedy="look at the storage and the network, then run the same again: it continues",
                )
    except BaseException:
        give_up()
        raise
    if failure:
        raise failure[0]
    return box[0]
