"""How far a transfer is: plain counters that one side raises and the other shows."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Progress:
    """Raised by the transfer, read by whoever draws; no locks: a shown figure may be one batch old."""

    phase: str = "looking"
    """looking, hashing, copying, syncing, publishing, done."""
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
    ticks: int = field(default=0, repr=False)
    """Rises with every sign of life; a transfer in which it stands still is stalled."""
