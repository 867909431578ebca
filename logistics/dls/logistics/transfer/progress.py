"""How far a transfer is: plain counters that one side raises and the other shows."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(slots=True)
class Progress:
    """Raised by the transfer, read by whoever draws; a shown figure may be one batch old."""

    phase: str = "looking"
    """looking, checking, hashing, copying, linking, publishing, done."""
    files_total: int = 0
    bytes_total: int = 0
    files: int = 0
    """Files settled: copied, or proven already."""
    bytes: int = 0
    kept: int = 0
    """Files that were proven already."""
    failed: int = 0
    requests: int = 0
    """Bodies asked of the source."""
    ticks: int = 0
    """Rises with every sign of life; a transfer in which it stands still is stalled."""
    syncing: int = 0
    """Syncs under way: they give no sign of life until they end."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def asked(self, count: int) -> None:
        """`count` bodies more were asked for, from any thread."""
        with self._lock:
            self.requests += count

    def moved(self, count: int) -> None:
        """`count` bytes more (or fewer), from any thread."""
        with self._lock:
            self.bytes += count
            self.ticks += 1

    def settled(self, files: int, size: int, *, kept: bool = False) -> None:
        """`files` files of `size` bytes together are there, from any thread."""
        with self._lock:
            self.files += files
            self.bytes += size
            self.kept += files if kept else 0
            self.ticks += 1

    @contextmanager
    def sync(self) -> Iterator[None]:
        """While this lasts, silence is no stall."""
        with self._lock:
            self.syncing += 1
        try:
            yield
        finally:
            with self._lock:
                self.syncing -= 1
                self.ticks += 1
