"""How much memory a piece of work takes at its highest."""

from __future__ import annotations

import ctypes
import gc
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def growth() -> Iterator[Callable[[], int]]:
    """Bytes taken at most since the block began; ask after it.

    The larger of what Python allocated (exact, blind for foreign code) and the growth of the resident set (sees all,
    but not what is served from memory that was freed before).
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/clear_refs", "w") as clear:
        clear.write("5")  # VmHWM begins anew: proc(5)
    tracemalloc.start()
    before, found = _highest(), 0
    try:
        yield lambda: found
    finally:
        found = max(tracemalloc.get_traced_memory()[1], _highest() - before)
        tracemalloc.stop()


def _highest() -> int:
    with open("/proc/self/status", "rb") as status:
        for line in status:
            if line.startswith(b"VmHWM:"):
                return int(line.split()[1]) << 10
    raise RuntimeError("the kernel does not tell VmHWM")
