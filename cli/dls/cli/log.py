"""Log: what each command did, as JSON lines appended to one file that several processes share."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from dls.cli.words import plain, scrub
from dls.logistics.errors import Unavailable

if TYPE_CHECKING:
    from dls.cli.bars import Figures
    from dls.cli.render import Column, Out, Row

KEPT: Final = (
    *("run", "action", "plan", "step", "dataset", "what", "from", "to", "site", "buffer", "url", "activity", "state"),
    *("dry_run", "files", "bytes", "copied", "kept", "read", "trusted", "missing", "corrupt", "count", "seconds"),
    *("kind", "code", "message", "exit_status", "retryable", "text", "healthy", "gravest"),
)
"""What is kept of an event: names, counts and codes; no command line, no data of others."""


class Log:
    """One file, opened for this process."""

    def __init__(self, path: str, secrets: Sequence[str] = ()) -> None:
        self._secrets = secrets
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
        except OSError as exc:
            raise Unavailable(
                f"cannot write the log {path}: {exc.strerror}",
                code="no-log",
                path=path,
                remedy="mend the setting log (DLS_LOG, dls.toml), or take it away",
            ) from exc

    def add(self, event: str, facts: Mapping[str, Any]) -> None:
        """One line, by one write: lines of several processes do not mix.  A log that fails stops nothing."""
        kept = {key: facts[key] for key in KEPT if key in facts and isinstance(facts[key], str | int | float)}
        at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        line = json.dumps({"at": at, "pid": os.getpid(), "event": event, **kept}, ensure_ascii=False)
        with suppress(OSError):
            os.write(self._fd, (plain(scrub(line, self._secrets)) + "\n").encode())

    def close(self) -> None:
        """Close the file; idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class Logged:
    """An `Out` around another: what passes is logged too."""

    def __init__(self, out: Out, log: Log) -> None:
        self._out, self._log = out, log
        self.every_s = out.every_s

    def tell(self, kind: str, facts: Row) -> None:
        """Something happened on the way; what a user's command prints is not ours to keep."""
        if kind != "line":
            self._log.add(kind, facts)
        self._out.tell(kind, facts)

    def figures(self, figures: Figures) -> None:
        """How far it is: not logged."""
        self._out.figures(figures)

    def calm(self) -> None:
        """No more figures for now."""
        self._out.calm()

    def result(self, facts: Row, essential: str, lines: Sequence[str]) -> None:
        """What a verb answers."""
        self._log.add("result", facts)
        self._out.result(facts, essential, lines)

    def rows(
        self, event: str, columns: Sequence[Column], rows: Iterable[Row], none: str = "", *, live: bool = False
    ) -> int:
        """A table: not logged."""
        return self._out.rows(event, columns, rows, none, live=live)

    def view(self, event: str, columns: Sequence[Column], rows: Sequence[Row]) -> None:
        """A table again: not logged."""
        self._out.view(event, columns, rows)

    def error(self, facts: Row) -> None:
        """How it failed."""
        self._log.add("error", facts)
        self._out.error(facts)
