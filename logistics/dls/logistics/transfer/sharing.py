"""Other processes at the small files of a transfer, where source and target can be opened by them; or, where these do
many files in one call, other threads.

One process opens, reads, hashes and writes small files one after the other, and nearly all of that is system calls;
another makes its own at the same time.  They take shares from the end of the list while the transfer goes on from the
beginning, so that they seldom meet in one folder, where the kernel lets in one at a time.  What a helper does not
tell as done (a file failed, the helper died) the transfer does itself: helpers change how long it takes, never how it
ends.
"""

from __future__ import annotations

import json
import os
import select
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from dls.logistics.pipes import Pipe
from dls.logistics.segment import Segment
from dls.logistics.store import Apart, Store
from dls.logistics.transfer.share import Brought, cut_out
from dls.logistics.transfer.small import Small, batched, cut

if TYPE_CHECKING:
    import subprocess

WORTH: Final = 1024
"""Files of a segment below which nobody is called: a helper takes as long to start as these take one process."""
_FILES: Final = 128
_BYTES: Final = 16 << 20
"""Of a share, at most."""
_AHEAD: Final = 2
"""Shares that a helper holds, so that it never waits for the next."""
_MOST: Final = 4
"""Processes at most, this one included."""
_POLL_MS: Final = 200


@dataclass(slots=True)
class _Helper:
    """One of them; `shares` are those it was given and has not answered."""

    pipe: Pipe
    child: subprocess.Popen[bytes]
    ready: bool = False
    shares: deque[Sequence[int]] = field(default_factory=deque)

    def close(self) -> None:
        """End it: at once where it is at work, for its work is of no use to anybody."""
        if self.shares or not self.ready:
            self.child.kill()
        self.pipe.close()
        from subprocess import TimeoutExpired

        with suppress(TimeoutExpired):  # one that hangs in a dead file system ends when that answers
            self.child.wait(5)


class Helpers:
    """The helpers of one transfer, started when first there is enough to do; none where the stores do not allow it."""

    def __init__(self, source: Store, target: Store | None, processes: int = 0) -> None:
        self._source, self._target = source, target
        self._others = (processes or min(len(os.sched_getaffinity(0)), _MOST)) - 1
        self._helpers: list[_Helper] | None = None
        self.brought = 0
        """Files that they brought."""

    def share(self, small: Small, todo: Sequence[int]) -> Sequence[int]:
        """Bring files together with the helpers; those that are still to do are returned."""
        if len(todo) < WORTH:
            return todo
        if batched(self._source, self._target):
            return small.in_batches(todo, 1 + self._others)
        if not self.call():
            return todo
        rest, undone = deque(_shares(small.segment, todo)), list[int]()
        try:
            self._look(small, rest, undone, 0)
            while rest:
                small.alone(rest.popleft())
                self._look(small, rest, undone, 0)
            while any(one.shares for one in self._helpers or ()):
                small.alive()
                self._look(small, rest, undone, _POLL_MS)
        except BaseException:
            self.close()
            raise
        return sorted(undone)

    def close(self) -> None:
        """End them all.  Idempotent."""
        helpers, self._helpers = self._helpers or [], []
        for one in helpers:
            one.close()

    def call(self) -> bool:
        """Start them, if they are not there yet; whether there are any."""
        if self._helpers is None:
            self._helpers = []
            source, target = self._source, self._target
            if batched(source, target):  # then it is threads that share
                return False
            if self._others > 0 and isinstance(source, Apart) and (target is None or isinstance(target, Apart)):
                how = json.dumps([source.apart(), None if target is None else target.apart()]).encode()
                with suppress(OSError):  # no more processes for this user: then without
                    for _ in range(self._others):
                        self._helpers.append(_called(how))
        return bool(self._helpers)

    def _look(self, small: Small, rest: deque[Sequence[int]], undone: list[int], wait_ms: int) -> None:
        """Hear who has answered, and give out new shares."""
        looking = select.poll()
        by_fd = {one.pipe.fileno(): one for one in self._helpers or ()}
        for fd in by_fd:
            looking.register(fd, select.POLLIN)
        for fd, _ in looking.poll(wait_ms):
            self._hear(by_fd[fd], small, undone)
        for one in list(self._helpers or ()):
            while one.ready and rest and len(one.shares) < _AHEAD:
                ordinals = rest.pop()
                small.alive()
                one.shares.append(ordinals)
                try:
                    one.pipe.put(cut_out(small.segment, ordinals).encode(packed=False))
                except OSError:
                    self._gone(one, undone)
                    break

    def _hear(self, one: _Helper, small: Small, undone: list[int]) -> None:
        try:
            message = one.pipe.take()
        except (EOFError, OSError):
            self._gone(one, undone)
            return
        if not one.ready:
            one.ready = True
            return
        ordinals, brought = one.shares.popleft(), Brought.decode(message)
        small.brought(ordinals, brought.done, brought.digests, brought.stamps)
        self.brought += len(brought.done)
        undone.extend(i for i in ordinals if i not in small.stamps)

    def _gone(self, one: _Helper, undone: list[int]) -> None:
        """It died: what it was given is still to do."""
        if self._helpers:
            self._helpers.remove(one)
        for ordinals in one.shares:
            undone.extend(ordinals)
        one.close()


def _called(how: bytes) -> _Helper:
    import socket  # these two cost 6 ms of start, and only large trees need them
    import subprocess

    ours, theirs = socket.socketpair()
    with theirs:
        pipe = Pipe(ours.detach())
        # Not `-m`: a module named `__main__` is not the one that others import.  -P: nor is one in the working folder
        # A group of its own: Ctrl-C is for us.
        # Silent: it is not its business to tell what went wrong.
        script = "from dls.logistics.transfer.share import main; main()"
        try:
            child = subprocess.Popen(
                [sys.executable, "-P", "-c", script, str(theirs.fileno()), str(os.getpid())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                process_group=0,
            )
        except BaseException:
            pipe.close()
            raise
    made = _Helper(pipe, child)
    try:
        pipe.put(how)
    except BaseException:
        made.close()
        raise
    return made


def _shares(segment: Segment, todo: Sequence[int]) -> Iterator[Sequence[int]]:
    """Cut a list of ordinals into shares."""
    return cut(segment, todo, _FILES, _BYTES)
