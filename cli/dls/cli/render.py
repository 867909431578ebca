"""Render: the only place that prints.  Results go to standard output; messages, bars and errors to standard error.

`Screen` writes for people; `Lines` writes JSON lines for programs, errors too, all on standard output.  Both cut
secrets out of whatever passes, and let no control character of a name or a title reach a terminal.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import IO, TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from dls.cli.words import place, plain, printable, scrub
from dls.logistics.errors import Unavailable

if TYPE_CHECKING:
    from dls.cli.bars import Figures

Row = Mapping[str, Any]
_BATCH: Final = 1000


class Column(NamedTuple):
    """One column of a table."""

    title: str
    cell: Callable[[Row], str]
    right: bool = False


class Out(Protocol):
    """Where a command's words go."""

    every_s: float
    """How often figures are wanted, seconds; 0 for never."""

    def tell(self, kind: str, facts: Row) -> None:
        """Something happened on the way."""
        ...

    def figures(self, figures: Figures) -> None:
        """How far it is."""
        ...

    def calm(self) -> None:
        """No more figures for now."""
        ...

    def result(self, facts: Row, essential: str, lines: Sequence[str]) -> None:
        """What a verb answers: as facts, as the one word that a script wants, and as lines for people."""
        ...

    def rows(
        self, event: str, columns: Sequence[Column], rows: Iterable[Row], none: str = "", *, live: bool = False
    ) -> int:
        """A table, row by row; returns how many.  `none` is said where there are none; `live` rows are shown
        one by one, as they come."""
        ...

    def view(self, event: str, columns: Sequence[Column], rows: Sequence[Row]) -> None:
        """The same table again, as it is now: in its place on a terminal, else where something changed."""
        ...

    def error(self, facts: Row) -> None:
        """How it failed (`DlsError.to_json`)."""
        ...


class _Writer:
    """Text to a stream, without secrets; what cannot be written there is an error that a user understands."""

    def __init__(self, stream: IO[str], secrets: Sequence[str]) -> None:
        self.stream = stream
        self._secrets = secrets
        self._encoding = getattr(stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> None:
        clean = scrub(text, self._secrets).encode(self._encoding, "backslashreplace").decode(self._encoding)
        try:
            self.stream.write(clean)
            self.stream.flush()
        except BrokenPipeError:
            raise
        except OSError as exc:
            raise Unavailable(
                f"cannot write the output: {exc.strerror}",
                code="no-output",
                remedy="look at where it is directed; what was done is done: dls status",
            ) from exc

    def can(self, text: str) -> bool:
        """Whether the stream's encoding has these signs."""
        try:
            text.encode(self._encoding)
        except UnicodeEncodeError:
            return False
        return True


def raw(data: bytes) -> None:
    """The bytes of a file to standard output, unchanged."""
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as exc:
        raise Unavailable(
            f"cannot write the output: {exc.strerror}", code="no-output", remedy="look at where it is directed"
        ) from exc


class Screen:
    """For people."""

    def __init__(self, out: IO[str], err: IO[str], secrets: Sequence[str] = (), *, quiet: bool = False) -> None:
        self._out, self._err, self._quiet = _Writer(out, secrets), _Writer(err, secrets), quiet
        self._bars = not quiet and err.isatty()
        self._drawn = False
        self._viewed: list[str] = []
        self._lock = threading.Lock()
        self._signs = ("━", "─") if self._err.can("━─") else ("#", "-")
        self.every_s = 0.0 if quiet else (0.2 if self._bars else 10.0)

    def tell(self, kind: str, facts: Row) -> None:
        """Notes to standard error; lines of a user's command as they are."""
        if self._quiet:
            return
        if kind == "line":
            self._say(f"{facts['text']}\n", raw=True)
        elif kind == "route":
            start = place(facts["from"])
            self._say(f"{start} → {place(facts['to'])}\n" if facts["to"] else f"reading {start}\n")
        elif kind == "command":
            self._say(f"running {' '.join(facts['command'])}\n")
        elif kind == "verified":
            counts = ", ".join(f"{facts[k]:,} {k}" for k in ("read", "trusted", "missing", "corrupt") if facts.get(k))
            self._say(f"{place(facts['url'])}: {facts['state']}{f' ({counts})' if counts else ''}\n")
        elif "text" in facts:
            self._say(f"{facts['text']}\n")

    def figures(self, figures: Figures) -> None:
        """A bar on a terminal, else a line."""
        from dls.cli import bars

        with self._lock:
            if self._bars:
                text = bars.bar(figures, shutil.get_terminal_size().columns, *self._signs)
                self._err.write(f"\r{text}\x1b[K")
                self._drawn = True
            else:
                self._err.write(f"{figures.phase}: {bars.counted(figures)}\n")

    def calm(self) -> None:
        """Take the bar away."""
        with self._lock, suppress(OSError):
            self._erase()

    def result(self, facts: Row, essential: str, lines: Sequence[str]) -> None:
        """Lines; with --quiet the essential alone."""
        text = [essential] if self._quiet else lines
        self._out.write("".join(f"{printable(line)}\n" for line in text if line))

    def rows(
        self, event: str, columns: Sequence[Column], rows: Iterable[Row], none: str = "", *, live: bool = False
    ) -> int:
        """A table whose columns are as wide as their first thousand cells; with --quiet the first column alone."""
        shown = columns[:1] if self._quiet else columns
        count, widths = 0, [0 if self._quiet else len(c.title) for c in shown]
        for batch in _batches(rows, 1 if live else _BATCH):
            cells = [[printable(column.cell(row)).replace("\n", " ") for column in shown] for row in batch]
            widths = [max(w, *(len(line[i]) for line in cells)) for i, w in enumerate(widths)]
            if not count and not self._quiet:
                cells.insert(0, [column.title for column in shown])
            self._out.write("".join(_line(line, widths, shown) for line in cells))
            count += len(batch)
        if not count and none:
            self._say(f"{none}\n")
        return count

    def view(self, event: str, columns: Sequence[Column], rows: Sequence[Row]) -> None:
        """The table, drawn over what this drew before."""
        shown = columns[:1] if self._quiet else columns
        cells = [[printable(column.cell(row)).replace("\n", " ") for column in shown] for row in rows]
        if rows and not self._quiet:
            cells.insert(0, [column.title for column in shown])
        widths = [max(len(line[i]) for line in cells) for i in range(len(shown))] if cells else []
        lines = [_line(line, widths, shown) for line in cells]
        if not self._out.stream.isatty():
            fresh = [line for line in lines if line not in self._viewed]
            self._out.write("".join(fresh))
            self._viewed = lines or self._viewed
            return
        room = shutil.get_terminal_size().columns
        back = f"\x1b[{len(self._viewed)}F\x1b[J" if self._viewed else ""
        self._viewed = [line[: room - 1].rstrip("\n") + "\n" for line in lines]
        self._out.write(back + "".join(self._viewed))

    def error(self, facts: Row) -> None:
        """`error: …`, then what to do about it."""
        code = f" [{facts['code']}]" if facts.get("code") else ""
        text = f"error: {facts['message']}{code}\n"
        if facts.get("remedy"):
            text += f"  what to do: {facts['remedy']}\n"
        with suppress(OSError, Unavailable):
            self._say(text, always=True)

    def _say(self, text: str, *, raw: bool = False, always: bool = False) -> None:
        if self._quiet and not always:
            return
        with self._lock:
            self._erase()
            self._err.write(text if raw else printable(text))

    def _erase(self) -> None:
        if self._drawn:
            self._drawn = False
            self._err.write("\r\x1b[K")


class Lines:
    """For programs: one JSON object a line."""

    def __init__(self, out: IO[str], secrets: Sequence[str] = (), *, quiet: bool = False) -> None:
        self._out, self._quiet = _Writer(out, secrets), quiet
        self._lock = threading.Lock()
        self._last: dict[str, Any] = {}
        self.every_s = 0.0 if quiet else 0.5

    def tell(self, kind: str, facts: Row) -> None:
        """An event of that kind."""
        if not self._quiet:
            self._emit([{"event": kind, **facts}])

    def figures(self, figures: Figures) -> None:
        """An event `progress`, where anything moved."""
        facts = figures.to_json()
        if facts != self._last:
            self._last = facts
            self._emit([{"event": "progress", **facts}])

    def calm(self) -> None:
        """Nothing to take away."""

    def result(self, facts: Row, essential: str, lines: Sequence[str]) -> None:
        """The last line."""
        self._emit([{"event": "result", **facts}])

    def rows(
        self, event: str, columns: Sequence[Column], rows: Iterable[Row], none: str = "", *, live: bool = False
    ) -> int:
        """One event a row."""
        count = 0
        for batch in _batches(rows, 1 if live else _BATCH):
            self._emit([{"event": event, **row} for row in batch])
            count += len(batch)
        return count

    def view(self, event: str, columns: Sequence[Column], rows: Sequence[Row]) -> None:
        """One event a row."""
        self.rows(event, columns, rows)

    def error(self, facts: Row) -> None:
        """The last line, where it failed."""
        with suppress(OSError, Unavailable):
            self._emit([{"event": "error", **facts}])

    def _emit(self, events: Iterable[Row]) -> None:
        text = "".join(f"{json.dumps(event, ensure_ascii=False, default=str)}\n" for event in events)
        with self._lock:
            self._out.write(plain(text))


def opened(*, as_json: bool, quiet: bool, secrets: Sequence[str] = ()) -> Out:
    """Where this process's words go."""
    if as_json:
        return Lines(sys.stdout, secrets, quiet=quiet)
    return Screen(sys.stdout, sys.stderr, secrets, quiet=quiet)


def whole() -> None:
    """Standard streams that were closed lead nowhere, so that no file of ours gets the number of one of them."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free: this one
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115


def flushed() -> bool:
    """Push out what is still held back; False where nobody reads it any more."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        return False
    return True


def unread() -> bool:
    """Whether standard output is a pipe that nobody reads any more: who writes seldom would learn it late."""
    try:
        number = sys.stdout.fileno()
    except (OSError, ValueError):
        return False
    look = select.poll()
    look.register(number, 0)
    return any(what & select.POLLERR for _, what in look.poll(0))


def _line(cells: Sequence[str], widths: Sequence[int], columns: Sequence[Column]) -> str:
    parts = [
        cell.rjust(width) if column.right else cell.ljust(width)
        for cell, width, column in zip(cells, widths, columns, strict=True)
    ]
    return "  ".join(parts).rstrip() + "\n"


def _batches(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    source = iter(rows)
    while batch := list(islice(source, size)):
        yield batch
