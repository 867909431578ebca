"""A process that brings a share of the small files: told which, it fetches, hashes, checks and puts them, and tells
those that are done.  Of what goes wrong it tells nothing: whoever asked does that file again and meets the error."""

from __future__ import annotations

import gc
import json
import signal
import struct
import sys
from array import array
from collections.abc import Sequence
from contextlib import suppress
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

from dls.logistics import digest as digests
from dls.logistics.entry import FILE
from dls.logistics.errors import DlsError
from dls.logistics.pipes import Pipe
from dls.logistics.segment import Segment
from dls.logistics.store import Store
from dls.logistics.stores.posix_calls import end_with_parent
from dls.logistics.transfer.progress import Progress
from dls.logistics.transfer.small import Small

_COUNT = struct.Struct("<I")


def cut_out(segment: Segment, ordinals: Sequence[int]) -> Segment:
    """A segment of some files of another one alone, without links and blocks."""
    wanted = segment.digests
    return Segment(
        [segment.paths[i] for i in ordinals],
        bytes([FILE]) * len(ordinals),
        array("Q", [segment.sizes[i] for i in ordinals]),
        array("H", [segment.modes[i] for i in ordinals]),
        array("q", [segment.mtimes[i] for i in ordinals]),
        b"".join([wanted[32 * i : 32 * i + 32] for i in ordinals]),
    )


class Brought(NamedTuple):
    """Which of a share are done, by their place in it, with what is now known of each."""

    done: Sequence[int]
    digests: Sequence[bytes]
    stamps: Sequence[bytes]

    def encode(self) -> bytes:
        """As a message: count, places, digests, lengths of the stamps, stamps."""
        places, lengths = array("I", self.done), array("I", map(len, self.stamps))
        parts = (_COUNT.pack(len(places)), places.tobytes(), b"".join(self.digests), lengths.tobytes())
        return b"".join((*parts, *self.stamps))

    @classmethod
    def decode(cls, message: bytes) -> Brought:
        """What `encode` made."""
        (count,) = _COUNT.unpack_from(message)
        at, size = _COUNT.size, digests.SIZE
        places = array("I", message[at : at + 4 * count])
        found = [message[n : n + size] for n in range(at + 4 * count, at + (4 + size) * count, size)]
        at += (4 + size) * count
        ends = accumulate(array("I", message[at : at + 4 * count]), initial=at + 4 * count)
        return cls(places.tolist(), found, [message[a:b] for a, b in pairwise(ends)])


def bring(source: Store, target: Store | None, segment: Segment) -> Brought:
    """Bring a share, once."""
    small = Small(source, target, segment, Progress(), lambda: None)
    with suppress(DlsError):
        small.run(range(len(segment)), retries=0)
    done = list(small.stamps)
    return Brought(done, [small.digests[i] for i in done], list(small.stamps.values()))


def _opened(how: Any) -> Store | None:
    from dls.logistics.registry import open_store  # whoever starts helpers has its stores

    return open_store(how[0], {}, **how[1]) if how else None


def serve(pipe: Pipe) -> None:
    """Hear how the stores are opened, say that they are, then bring share after share until nobody is there."""
    with suppress(EOFError, OSError):
        source, target = map(_opened, json.loads(pipe.take()))
        assert source is not None
        pipe.put(b"")
        while True:
            pipe.put(bring(source, target, Segment.decode(pipe.take())).encode())


def main() -> None:
    """Such a process: `argv` tells the connection over which shares come, and the process that started it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started us gets it, too, and says when to end
    gc.disable()  # nothing here is in a cycle
    end_with_parent(int(sys.argv[2]))
    serve(Pipe(int(sys.argv[1])))
