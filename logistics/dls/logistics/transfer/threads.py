"""Several threads at one piece of work, and a watch over it.

The threads are daemons: one that hangs in a dead file system must not keep the process from ending.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from dls.logistics.errors import Unavailable

T = TypeVar("T")


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
    """One helper thread that takes a piece of work while the caller goes on; at most one piece is outstanding."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._failure: list[BaseException] = []

    def put(self, work: Callable[[], None]) -> None:
        """Wait for the previous piece, then start this one."""
        self.wait()

        def guarded() -> None:
            try:
                work()
            except BaseException as exc:  # noqa: BLE001 - raised again by wait()
                self._failure.append(exc)

        self._thread = threading.Thread(target=guarded, name="dls-ahead", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Return when nothing is outstanding; raises what the last piece raised."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._failure:
            raise self._failure.pop()


def watched(
    work: Callable[[], T], ticks: Callable[[], int], stall_s: float, give_up: Callable[[], None], what: str
) -> T:
    """The result of `work`, run in another thread; Unavailable where `ticks` stood still for `stall_s` seconds.

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
    last, still = ticks(), 0.0
    step = min(1.0, stall_s / 4)
    try:
        while not done.wait(step):
            now = ticks()
            still = still + step if now == last else 0.0
            last = now
            if still >= stall_s:
                give_up()
                raise Unavailable(
                    f"no sign of life for {stall_s:.0f} s while {what}",
                    code="stalled",
                    remedy="look at the storage and the network, then run the same again: it continues",
                )
    except KeyboardInterrupt:
        give_up()
        raise
    if failure:
        raise failure[0]
    return box[0]
