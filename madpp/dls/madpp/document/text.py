"""Text: YAML (and so JSON) to a tree of nodes that know their line and column.  The only home of PyYAML.

Only its events are used: nothing is ever constructed from data.  Every scalar stays text.  What a plan does not need is
refused, each at its place: anchors and aliases, tags, keys that are no words, keys that stand twice, a second document,
nesting deeper than `DEPTH`, more than `LARGEST` bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from dls.logistics.frozen import frozen

LARGEST: Final = 1_000_000
"""Bytes of a document; a larger one is refused unread."""
DEPTH: Final = 32
SHOWN: Final = 50
"""Faults that are told of one document."""


@frozen
class Fault:
    """What is wrong at a place, and what to write instead."""

    line: int
    column: int
    message: str
    remedy: str = ""

    def to_json(self) -> dict[str, Any]:
        """The fault as programs read it."""
        return {"line": self.line, "column": self.column, "message": self.message, "remedy": self.remedy}


class Faults:
    """What was found so far: the first `SHOWN`, and how many more there were."""

    def __init__(self) -> None:
        self.found: list[Fault] = []
        self.more = 0
        self.hidden: set[int] = set()
        """Lines that hold a secret: they are not shown."""

    @property
    def is_full(self) -> bool:
        """Whether no further fault will be told: then nothing costly need be thought of to say of it."""
        return len(self.found) >= SHOWN

    def add(self, at: Node | Fault, message: str, remedy: str = "") -> None:
        """One more."""
        if not self.is_full:
            self.found.append(Fault(at.line, at.column, message, remedy))
        else:
            self.more += 1


@frozen
class Scalar:
    """A word."""

    text: str
    plain: bool
    """Written without quotes."""
    line: int
    column: int

    @property
    def is_missing(self) -> bool:
        """Whether nothing stands there, or YAML's word for nothing."""
        return self.plain and self.text in ("", "~", "null", "Null", "NULL")


@frozen
class Listing:
    """A list."""

    items: tuple[Node, ...]
    line: int
    column: int


@frozen
class Table:
    """Keys and values, in the order of writing; no key stands twice."""

    entries: tuple[tuple[Scalar, Node], ...]
    line: int
    column: int

    def get(self, key: str) -> Node | None:
        """The value of a key."""
        return next((value for one, value in self.entries if one.text == key), None)


Node = Scalar | Listing | Table


def decoded(data: bytes, faults: Faults) -> str | None:
    """The text of a document, or None where it is too large or no text."""
    if len(data) > LARGEST:
        faults.add(Fault(1, 1, ""), f"a plan has at most {LARGEST:,} bytes", "split it into several plans")
        return None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        before = data[: exc.start]
        at = Fault(before.count(b"\n") + 1, len(before[before.rfind(b"\n") + 1 :].decode("utf-8", "replace")) + 1, "")
        faults.add(at, f"the byte 0x{data[exc.start]:02x} is no UTF-8 text", "save the file as UTF-8")
        return None
    for number, line in enumerate(text.split("\n"), 1):
        for column, sign in enumerate(line, 1):
            if not sign.isprintable() and sign not in "\t\r" and (sign < " " or "\x7f" <= sign < "\xa0"):
                faults.add(Fault(number, column, ""), f"the control character U+{ord(sign):04X}", "take it out")
                return None
    return text


def parse(text: str, faults: Faults) -> Node | None:
    """The tree of a document; None where there is none.  Faults are added, at most one of broken syntax: the last."""
    import yaml

    return _parsed(text, faults, getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def _parsed(text: str, faults: Faults, loader: Any) -> Node | None:
    import yaml

    before = len(faults.found), faults.more
    try:
        return _Reader(text, faults, loader).document()
    except yaml.MarkedYAMLError as exc:
        if "nesting depth" in (exc.problem or "") and loader is not yaml.SafeLoader:
            # Newer libyaml stops far ahead of what it has told: Python's own parser comes to our limit first.
            del faults.found[before[0] :]
            faults.more = before[1]
            return _parsed(text, faults, yaml.SafeLoader)
        mark = exc.problem_mark or exc.context_mark
        at = Fault(mark.line + 1, mark.column + 1, "") if mark else Fault(1, 1, "")
        faults.add(at, *_broken(text, at))
    except yaml.YAMLError:
        faults.add(Fault(1, 1, ""), "this is no YAML text", "look at specs/plan.md for the form of a plan")
    except _Enough:
        pass
    return None


class _Enough(Exception):
    """Nothing behind this place is read."""


@dataclass
class _Reader:
    text: str
    faults: Faults
    loader: Any
    events: Iterator[Any] = field(init=False)

    def __post_init__(self) -> None:
        import yaml

        self.events = yaml.parse(self.text, Loader=self.loader)

    def document(self) -> Node | None:
        """The one document of a stream."""
        kind, event = self._next()
        while kind in ("StreamStart", "DocumentStart"):
            kind, event = self._next()
        if kind == "StreamEnd":
            return None
        node = self._node(kind, event, 1)
        while kind != "StreamEnd":
            kind, event = self._next()
            if kind == "DocumentStart":
                self.faults.add(_at(event), "a second document begins here", "write each plan into a file of its own")
                raise _Enough
        return node

    def _next(self) -> tuple[str, Any]:
        event = next(self.events)
        return type(event).__name__.removesuffix("Event"), event

    def _node(self, kind: str, event: Any, depth: int) -> Node:
        at = _at(event)
        if depth > DEPTH:
            self.faults.add(at, f"nested deeper than {DEPTH} levels", "a plan needs five")
            raise _Enough
        self._plain_only(kind, event, at)
        if kind == "Alias":
            return Scalar("", False, at.line, at.column)
        if kind == "Scalar":
            return Scalar(event.value, event.style is None or event.style == "", at.line, at.column)
        if kind == "SequenceStart":
            return self._listing(at, depth)
        return self._table(at, depth)

    def _plain_only(self, kind: str, event: Any, at: Fault) -> None:
        if kind == "Alias":
            self.faults.add(at, f"the alias *{event.anchor}", "write out what it stands for: a plan has no aliases")
        elif event.anchor:
            self.faults.add(at, f"the anchor &{event.anchor}", "take it out: a plan has no anchors")
        elif event.tag:
            self.faults.add(at, f"the tag {event.tag}", "take it out: a plan has no tags")

    def _listing(self, at: Fault, depth: int) -> Listing:
        items = list[Node]()
        while True:
            kind, event = self._next()
            if kind == "SequenceEnd":
                return Listing(tuple(items), at.line, at.column)
            items.append(self._node(kind, event, depth + 1))

    def _table(self, at: Fault, depth: int) -> Table:
        entries = dict[str, tuple[Scalar, Node]]()
        while True:
            kind, event = self._next()
            if kind == "MappingEnd":
                return Table(tuple(entries.values()), at.line, at.column)
            key = self._node(kind, event, depth + 1)
            value = self._node(*self._next(), depth + 1)
            if not isinstance(key, Scalar):
                self.faults.add(key, "a key that is a list or a table", "write one word before the colon")
            elif key.text in entries:
                first = entries[key.text][0].line
                self.faults.add(key, f"{key.text[:80]} stands here again; first on line {first}", "keep one of the two")
            else:
                entries[key.text] = (key, value)


def _at(event: Any) -> Fault:
    return Fault(event.start_mark.line + 1, event.start_mark.column + 1, "")


def _broken(text: str, at: Fault) -> tuple[str, str]:
    """What to say of broken syntax: the usual slips are recognised by the line on which reading stopped."""
    lines = text.split("\n")
    line = lines[at.line - 1] if at.line <= len(lines) else ""
    head = line[: len(line) - len(line.lstrip())]
    if "\t" in head:
        return "a tab in the indentation", "indent with spaces"
    if at.line > len(lines) or not line.strip() or at.line == len(lines):
        return "the text ends inside something", "look for a bracket or a quotation mark that is never closed"
    sign = line[at.column - 1 : at.column]
    if sign and sign in "@`%":
        return f"a word cannot begin with {sign}", "put the word into quotation marks"
    if line.count(": ") > 1 and "{" not in line:
        return "two colons on one line", "put the value into quotation marks, or begin a new line"
    return "this cannot be read as YAML", "look at the indentation, and for a colon, bracket or quotation mark too few"
