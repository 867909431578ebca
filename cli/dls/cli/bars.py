"""Bars: how far a transfer is, as figures, as a bar and as a line; a thread that looks at them now and then.

Pure but for `watched`; what is shown where, `dls.cli.render` decides.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from typing import Any

from dls.logistics.duration import show_duration, show_size
from dls.logistics.frozen import frozen
from dls.logistics.transfer.progress import Progress

WINDOW_S = 8.0
"""The rate is that of the last so many seconds."""


@frozen
class Figures:
    """One look at a transfer."""

    phase: str
    files: int
    files_total: int
    bytes: int
    bytes_total: int
    kept: int
    failed: int
    bytes_per_s: float | None
    """None while nothing moved."""
    eta_s: float | None
    """Seconds to go at this rate; None where not known."""
    eta_low_s: float | None = None
    eta_high_s: float | None = None
    """The same at the better and at the worse rate of the halves of the window."""

    @property
    def share(self) -> float | None:
        """Done, 0 to 1: of bytes and files the one that is further behind; None where the totals are not known."""
        shares = [done / all for done, all in ((self.files, self.files_total), (self.bytes, self.bytes_total)) if all]
        return min(1.0, *shares) if shares else None

    def to_json(self) -> dict[str, Any]:
        """The figures as programs read them."""
        rounded = {k: getattr(self, k) for k in ("bytes_per_s", "eta_s", "eta_low_s", "eta_high_s")}
        return asdict(self) | {k: None if v is None else round(v, 1) for k, v in rounded.items()}


Reading = tuple[float, int, int]
"""When, files, bytes."""
FIGURES = tuple(field.name for field in fields(Figures))


class Meter:
    """Turns readings of a `Progress` into figures with a rate.  A run may hold several transfers: `again` begins the
    next, whose figures start at zero."""

    def __init__(self, progress: Progress, clock: Callable[[], float] = time.monotonic) -> None:
        self._progress, self._clock = progress, clock
        self._readings: deque[Reading] = deque()
        self._base = (0, 0, 0)

    def again(self) -> None:
        """The next transfer begins."""
        p = self._progress
        self._base = (p.files, p.bytes, p.kept)
        self._readings.clear()

    def look(self) -> Figures:
        """The figures now."""
        p, (files0, bytes0, kept0) = self._progress, self._base
        files, size = max(0, p.files - files0), max(0, p.bytes - bytes0)
        now, readings = self._clock(), self._readings
        readings.append((now, files, size))
        while len(readings) > 2 and now - readings[0][0] > WINDOW_S:
            readings.popleft()
        first, middle, last = readings[0], readings[len(readings) // 2], readings[-1]
        bytes_per_s, eta = self._pace(first, last)
        others = [eta, self._pace(first, middle)[1], self._pace(middle, last)[1]]
        known = [one for one in others if one is not None]
        low, high = (min(known), max(known)) if eta is not None else (None, None)
        kept = max(0, p.kept - kept0)
        return Figures(
            p.phase, files, p.files_total, size, p.bytes_total, kept, p.failed, bytes_per_s, eta, low, high
        )  # fmt: skip

    def _pace(self, first: Reading, last: Reading) -> tuple[float | None, float | None]:
        """Bytes a second between two readings, and the seconds to go from now on at that rate."""
        p, (_, files, size) = self._progress, self._readings[-1]
        took, more_files, more_bytes = (b - a for a, b in zip(first, last, strict=True))
        bytes_per_s = more_bytes / took if took > 0 and more_bytes > 0 else None
        files_per_s = more_files / took if took > 0 and more_files > 0 else None
        left_bytes, left_files = p.bytes_total - size, p.files_total - files
        waits = [
            left / rate for left, rate in ((left_bytes, bytes_per_s), (left_files, files_per_s)) if left > 0 and rate
        ]
        if waits:
            return bytes_per_s, max(waits)
        return bytes_per_s, None if left_bytes > 0 or left_files > 0 or not took else 0.0


def counted(figures: Figures) -> str:
    """`412/1,000 files, 1.2 GB/3.2 GB, 85.0 MB/s, 25 s to go`."""
    parts = [_of(f"{figures.files:,}", f"{figures.files_total:,}", figures.files_total) + " files"]
    parts.append(_of(show_size(figures.bytes), show_size(figures.bytes_total), figures.bytes_total))
    if figures.bytes_per_s is not None:
        parts.append(f"{show_size(int(figures.bytes_per_s))}/s")
    if figures.failed:
        parts.append(f"{figures.failed:,} failed")
    if figures.eta_s:
        parts.append(f"{show_duration(figures.eta_s)} to go")
    return ", ".join(parts)


def _of(done: str, total: str, is_known: int) -> str:
    return f"{done}/{total}" if is_known else done


def bar(figures: Figures, width: int, full: str = "━", empty: str = "─") -> str:
    """One line of at most `width` columns."""
    text = f"{figures.phase:<10} {counted(figures)}"
    room = min(30, width - len(text) - 3)
    share = figures.share
    if share is None or room < 5:
        return text[: max(0, width - 1)]
    done = int(share * room)
    return f"{figures.phase:<10} {full * done}{empty * (room - done)} {counted(figures)}"


@contextmanager
def watched(look: Callable[[], None], every_s: float) -> Iterator[None]:
    """Call `look` every so many seconds in a thread, while the block runs."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(every_s):
            try:
                look()
            except Exception:  # noqa: BLE001 - drawing must not disturb the work; what is wrong the main thread meets too
                return

    thread = threading.Thread(target=watch, name="dls-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(2)
