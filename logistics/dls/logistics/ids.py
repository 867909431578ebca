"""Identifiers made here: ULIDs (26 characters, sortable by time) for runs, buffers, events and records."""

from __future__ import annotations

import os
import threading
import time

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_lock = threading.Lock()
_last = 0


def ulid(now_ns: int | None = None) -> str:
    """A new ULID: 48 bits of milliseconds, 80 random bits; rising within one process even inside a millisecond."""
    global _last
    stamp = (time.time_ns() if now_ns is None else now_ns) // 1_000_000
    with _lock:
        value = stamp << 80 | int.from_bytes(os.urandom(10))
        if now_ns is None:
            value = _last = value if value > _last else _last + 1
    return "".join(_ALPHABET[value >> shift & 31] for shift in range(125, -1, -5))
