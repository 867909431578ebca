"""A process that brings a share of the small files: told which, it fetches, hashes, checks and puts them, and tells
those that are done.  Of what goes wrong it tells nothing: whoever asked does that file again and meets the error."""

from __future__ import annotations

import gc
import signal
import sys
from array import array
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

from dls.logistics.entry import FILE
from dls.logistics.errors import DlsError
from dls.logistics.pipes import Pipe
from dls.logistics.segment import Segment
from dls.logistics.store import Store
from dls.logistics.stores.posix_calls import end_with_parent
from dls.logistics.transfer.progress import Progress
from dls.logistics.transfer.small import Small

Opens = tuple[Callable[[], Store], Callable[[], Store] | None]
"""How source and target are opened; no target: the files are hashed only."""


class Share(NamedTuple):
    """Files to bring: n paths, and columns of a segment, of which each has n values."""

    paths: list[bytes]
    sizes: bytes
    modes: bytes
    mtimes: bytes
    digests: bytes

    @classmethod
    def of(cls, segment: Segment, ordinals: Sequence[int]) -> Share:
        """Some files of a segment."""
        wanted = segment.digests
        return cls(
            [segment.paths[i] for i in ordinals],
            array("Q", [segment.sizes[i] for i in ordinals]).tobytes(),
            array("H", [segment.modes[i] for i in ordinals]).tobytes(),
            array("q", [segment.mtimes[i] for i in ordinals]).tobytes(),
            b"".join([wanted[32 * i : 32 * i + 32] for i in ordinals]),
        )

    def segment(self) -> Segment:
        """A segment of these files alone."""
        sizes, modes, mtimes = array("Q", self.sizes), array("H", self.modes), array("q", self.mtimes)
        return Segment(self.paths, bytes([FILE]) * len(self.paths), sizes, modes, mtimes, self.digests)


class Brought(NamedTuple):
    """Which of a share are done, by their place in it, with what is now known of each."""

    done: list[int]
    digests: list[bytes]
    stamps: list[bytes]


def bring(source: Store, target: Store | None, share: Share) -> Brought:
    """Bring a share, once."""
    segment = share.segment()
    small = Small(source, target, segment, Progress(), lambda: None)
    with suppress(DlsError):
        small.run(range(len(segment)), retries=0)
    done = list(small.stamps)
    return Brought(done, [small.digests[i] for i in done], list(small.stamps.values()))


def main() -> None:
    """Such a process: `argv` tells the connection over which shares come, and the process that started it."""
    import pickle  # the one who starts helpers imports this module, too

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started us gets it, too, and says when to end
    gc.disable()  # nothing here is in a cycle
    end_with_parent(int(sys.argv[2]))
    pipe = Pipe(int(sys.argv[1]))
    with suppress(EOFError, OSError):  # nobody waits for us any more
        (opens,) = pipe.receive()
        from_store, to_store = pickle.loads(opens)  # noqa: S301 - from the process that started this one
        source, target = from_store(), to_store() if to_store else None
        pipe.send(())
        while (message := pipe.receive()) is not None:
            pipe.send(tuple(bring(source, target, Share(*message))))
