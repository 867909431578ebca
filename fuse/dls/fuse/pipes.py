"""Messages between the one who packs and its workers: tuples of numbers, texts and bytes.

Both ends are one program on one machine, so a message is what `marshal` makes of it: a tenth of the time to start of
`multiprocessing`, and half of the time for each message.
"""

from __future__ import annotations

import marshal
from typing import Any

from dls.logistics import pipes


class Pipe(pipes.Pipe):
    """One end of a connection for such messages."""

    def send(self, message: tuple[Any, ...] | None) -> None:
        """Send one; BrokenPipeError or another OSError where nobody is there."""
        self.put(marshal.dumps(message))

    def receive(self) -> Any:
        """The next one, waited for; EOFError where nobody is there any more."""
        return marshal.loads(self.take())  # noqa: S302 - from a process of ours
