"""Many small files of a folder at once, by compiled code where it is installed: the only home of `dls_files`
(`logistics/accelerator`).

It answers what is plain, and None for all else, which is then done one by one in Python: the outcome is the same
without it.  `DLS_FAST=0` leaves it alone.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Final, Protocol, cast

CONTRACT: Final = 1
"""What compiled code has to say of itself to be used: changed whenever what it does or is told changes."""


Answers = list[bytes | None]


class Files(Protocol):
    """Small files below a folder; keys are checked before."""

    def take(self, root: bytes, keys: Sequence[bytes], sizes: Sequence[int]) -> Answers:
        """Their bodies; None for each that is not a file of that size.  Tuples are given."""
        ...

    def give(
        self,
        root: bytes,
        keys: Sequence[bytes],
        bodies: Sequence[bytes],
        modes: Sequence[int],
        mtimes: Sequence[int],
        umask: int,
    ) -> Answers:
        """Write new files, also where there is one, into folders that are there: their stamps; None for each that could
        not be written, of which a part may lie there.  Tuples are given."""
        ...


def files() -> Files | None:
    """The compiled code, if it is there."""
    if os.environ.get("DLS_FAST") == "0":
        return None
    try:
        import dls_files
    except ImportError:
        return None
    found: Any = dls_files
    return cast(Files, found) if found.CONTRACT == CONTRACT else None
