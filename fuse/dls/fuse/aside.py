"""Requests that have to wait for a disk or a network, answered by threads: whoever takes requests goes on meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Final

THREADS: Final = 8
"""At most; a thread more is started whenever all are busy."""


class Aside:
    """Hands requests to threads that call `answer`; these end with the process."""

    def __init__(self, answer: Callable[[int, int, int, bytes], object]) -> None:
        self._answer = answer
        self._waiting: SimpleQueue[tuple[int, int, int, bytes]] = SimpleQueue()
        self._free = threading.Semaphore(0)
        self._started = 0

    def take(self, opcode: int, unique: int, node: int, data: bytes) -> None:
        """Have it answered, soon."""
        if not self._free.acquire(blocking=False) and self._started < THREADS:
            self._started += 1
            threading.Thread(target=self._run, name="image-aside", daemon=True).start()
        self._waiting.put((opcode, unique, node, data))

    def _run(self) -> None:
        while True:
            self._answer(*self._waiting.get())
            self._free.release()
