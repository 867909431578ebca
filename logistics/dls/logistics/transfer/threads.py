"""Several threads at one piece of work, one thread ahead of another, and a watch over them.

The threads are daemons: one that hangs in a dead file system must not keep the process from ending.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

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


class Ahead:
    """One helper thread, always the same, that takes a piece of work while the caller goes on; at most one piece is
    outstanding."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._todo: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._idle = threading.Event()
        self._idle.set()
        self._failure: list[BaseException] = []

    def _run(self) -> None:
        while (work := self._todo.get()) is not None:
            try:
                work()
            except BaseException as exc:  # noqa: BLE001 - raised again by wait()
                self._failure.append(exc)
            self._idle.set()

    def put(self, work: Callable[[], None]) -> None:
        """Wait for the previous piece, then start this one; raises what the previous one raised."""
        self.wait()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="dls-ahead", daemon=True)
            self._thread.start()
        self._idle.clear()
        self._todo.put(work)

    def wait(self) -> None:
        """Return when nothing is outstanding; raises what the last piece raised."""
        self._idle.wait()
        if self._failure:
            raise self._failure.pop()

    def end(self) -> None:
        """Return when nothing is outstanding, whatever became of it; the thread ends."""
        self._idle.wait()
        self._todo.put(None)


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
