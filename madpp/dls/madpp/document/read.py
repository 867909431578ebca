"""Read: a document to a `Plan`, or to every fault in it with its place and what to write instead."""

from __future__ import annotations

import dataclasses
import difflib
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from dls.logistics import url
from dls.logistics.errors import Invalid
from dls.logistics.frozen import frozen
from dls.madpp.document.model import AFTER, BY_VERB, BY_WORD, SECTIONS, TOP, VERSION, Field, Kind, Section, step_name
from dls.madpp.document.text import Fault, Faults, Listing, Node, Scalar, Table, decoded, parse
from dls.madpp.plan import Plan, Step, action_from

_NAMED: Final = ("what", "to", "at", "inputs", "dataset", "site", "buffer")
"""Attributes of actions that may name an entry of a section."""


@frozen
class Reading:
    """What came of a document."""

    plan: Plan | None
    """None where there are faults."""
    faults: tuple[Fault, ...] = ()
    more: int = 0
    """Faults that are not told."""
    text: str = ""
    hidden: frozenset[int] = frozenset()
    """Lines that hold a secret."""

    def line(self, fault: Fault) -> str:
        """The line on which a fault is; '' where it holds a secret."""
        lines = self.text.split("\n")
        if fault.line in self.hidden or not 0 < fault.line <= len(lines):
            return ""
        return lines[fault.line - 1].rstrip("\r")

    def shown(self, name: str) -> list[str]:
        """The faults as people read them: place and fault, the line with a mark below, what to write instead."""
        out = list[str]()
        for one in self.faults:
            line = self.line(one)
            start = max(0, one.column - 100)
            part = line[start : start + 160].replace("\t", " ")
            out.append(f"{name}:{one.line}:{one.column}: {one.message}")
            if part.strip():
                out += [f"    {part}", f"    {' ' * (one.column - 1 - start)}^"]
            if one.remedy:
                out.append(f"  {one.remedy}")
        return [*out, f"and {self.more} more"] if self.more else out


def read(data: bytes) -> Reading:
    """Read a document, at most `text.LARGEST` bytes of it; never raises for what stands in it."""
    faults = Faults()
    text = decoded(data, faults)
    plan = None
    if text is not None:
        top = parse(text, faults)
        plan = _Document(faults).plan(top) if top is not None or not faults.found else None
    found = sorted(faults.found, key=lambda one: (one.line, one.column))
    return Reading(plan if not found else None, tuple(found), faults.more, text or "", frozenset(faults.hidden))


class _Bad(Exception):
    """A fault was told; this part of the document says nothing."""


@dataclass
class _Draft:
    """A step before its dependencies are known."""

    name: Scalar
    kind: Kind
    fields: dict[str, Any]
    after: list[Scalar]
    needs: list[str]
    """Steps that it comes after without saying so."""


class _Document:
    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self.drafts: dict[str, _Draft] = {}
        self.written: dict[str, None] = {}
        """Every name of a step that was written, also of those with faults."""
        self.entries: dict[str, Section] = {}
        self.waits: list[Scalar] = []
        """Every name after an `after`."""

    def plan(self, top: Node | None) -> Plan | None:
        """The plan; None where anything is wrong."""
        start = Fault(1, 1, "")
        if not isinstance(top, Table):
            self.faults.add(
                top or start, "a plan is a table of words with colons", 'begin with "dls: 1", then "steps:"'
            )
            return None
        self._known_words(top, TOP, "a plan")
        self._version(top)
        name = self._name(top)
        for section in SECTIONS:
            self._section(section, top.get(section.word))
        self._steps(top)
        for one in self.waits:
            if one.text not in self.written:
                remedy = self._meant(one.text, self.written) or "name a step of this plan"
                self.faults.add(one, f"no step is named {_short(one.text)}", remedy)
        steps = [step for step in map(self._step, self.drafts.values()) if step]
        return None if self.faults.found else self._whole(steps, name)

    def _whole(self, steps: list[Step], name: str) -> Plan | None:
        try:
            return Plan(tuple(steps), name)
        except Invalid as exc:
            at = self.drafts.get(str(exc.facts.get("step", "")))
            self.faults.add(at.name if at else Fault(1, 1, ""), exc.message, exc.remedy or "break the circle")
        return None

    def _version(self, top: Table) -> None:
        said = top.get("dls")
        if said is None:
            self.faults.add(top, "the version is missing", 'write "dls: 1" on the first line')
        elif not isinstance(said, Scalar) or said.text != VERSION:
            shown = said.text[:20] if isinstance(said, Scalar) else "this"
            self.faults.add(said, f"a plan of version {shown} cannot be read", f'write "dls: {VERSION}"')

    def _name(self, top: Table) -> str:
        said = top.get("name")
        if said is None:
            return ""
        if not isinstance(said, Scalar) or said.is_missing:
            self.faults.add(said, "a name is one word or a line of text", "write name: my plan")
            return ""
        return said.text

    def _known_words(self, table: Table, known: Iterable[str], of: str) -> None:
        for key, _ in table.entries:
            if key.text not in known:
                words = ", ".join(known)
                self.faults.add(
                    key, f"{of} has no {_short(key.text)}", self._meant(key.text, known) or f"write {words}"
                )

    def _meant(self, text: str, known: Iterable[str]) -> str:
        """`did you mean …?`, or ''."""
        if self.faults.is_full:
            return ""
        near = difflib.get_close_matches(text[:60], [*islice(known, 500)], n=1, cutoff=0.6)
        return f"did you mean {near[0]}?" if near else ""

    # -------------------------------------------------------------------------------------------- sections

    def _section(self, section: Section, node: Node | None) -> None:
        if node is None or (isinstance(node, Scalar) and node.is_missing):
            return
        if not isinstance(node, Table):
            self.faults.add(node, f"{section.word} is a table", f"write name: {section.short}, one a line")
            return
        kind = BY_VERB[section.kind]
        for key, value in node.entries:
            short = isinstance(value, Scalar) and not value.is_missing
            inside = Table(((_word(section.short, value), value),), value.line, value.column) if short else value
            if not isinstance(inside, Table):
                self.faults.add(value, f"{_short(key.text)} says nothing", f"write {_short(key.text)}: {section.short}")
                continue
            named = dataclasses.replace(key, text=section.step(key.text))
            self.entries[named.text] = section
            self.written[named.text] = None
            first = (_word(kind.word, key), key)
            self._draft(named, kind, Table((first, *inside.entries), inside.line, inside.column))

    # ----------------------------------------------------------------------------------------------- steps

    def _steps(self, top: Table) -> None:
        node = top.get("steps")
        if not isinstance(node, Table):
            if node is not None or not self.entries:
                here = node if node is not None else top
                self.faults.add(here, "a plan has steps", "write steps: and below it name: {stage-in: …, to: …}")
            return
        for key, _ in node.entries:
            self.written[key.text] = None
        for key, value in node.entries:
            try:
                step_name(key.text)
                if key.text in self.entries:
                    raise Invalid(f"{key.text} is an entry above", code="bad-plan", remedy="take another name")
            except Invalid as exc:
                self.faults.add(key, exc.message, exc.remedy)
                continue
            kind = self._kind(key, value)
            if kind is not None and isinstance(value, Table):
                self._draft(key, kind, value)

    def _kind(self, key: Scalar, value: Node) -> Kind | None:
        if not isinstance(value, Table):
            example = "write {stage-in: climate:era5, to: scratch}"
            self.faults.add(value, f"the step {_short(key.text)} is a table of words with colons", example)
            return None
        found = [one for one, _ in value.entries if one.text in BY_WORD]
        if len(found) == 1:
            return BY_WORD[found[0].text]
        if found:
            both = " and ".join(one.text for one in found)
            self.faults.add(found[1], f"one step cannot {both}", "make two steps of it, one after the other")
            return None
        near = next((m for one, _ in value.entries if (m := self._meant(one.text, BY_WORD))), "")
        at = value.entries[0][0] if value.entries else value
        self.faults.add(at, f"the step {_short(key.text)} says not what to do", near or f"one of {', '.join(BY_WORD)}")
        return None

    def _draft(self, name: Scalar, kind: Kind, table: Table) -> None:
        words = [one.word for one in kind.fields] + [AFTER]
        self._known_words(table, words, kind.word)
        fields, good = dict[str, Any](), True
        for one in kind.fields:
            node = table.get(one.word)
            if node is None:
                if one.required:
                    self.faults.add(table, f"{kind.word} needs {one.word}", f"write {one.word}: {one.example}")
                    good = False
                elif one.default is not None:
                    fields[one.attr] = one.default
                continue
            try:
                fields[one.attr] = self._value(one, node)
            except _Bad:
                good = False
        after = self._after(table.get(AFTER))
        if good:
            draft = _Draft(name, kind, fields, after, [])
            if kind.verb == "release":
                self._release(draft, table)
            self.drafts[name.text] = draft

    def _value(self, one: Field, node: Node) -> Any:
        if one.type.many:
            return self._many(one, node)
        if not isinstance(node, Scalar):
            self.faults.add(node, f"{one.word} is one {one.type.name}", f"write {one.word}: {one.example}")
            raise _Bad
        return self._word(one, node)

    def _many(self, one: Field, node: Node) -> list[Any]:
        if isinstance(node, Scalar) and one.type.or_one:
            return [self._word(one, node)]
        if not isinstance(node, Listing) or not node.items:
            words = _split(node.text) if isinstance(node, Scalar) else []
            example = f"[{', '.join(words)}]" if words else one.example
            self.faults.add(node, f"{one.word} is a {one.type.name}", f"write {one.word}: {example}")
            raise _Bad
        out, bad = list[Any](), False
        for item in node.items:
            try:
                out.append(self._item(one, item))
            except _Bad:
                bad = True
        if bad:
            raise _Bad
        return out

    def _item(self, one: Field, item: Node) -> Any:
        if isinstance(item, Scalar):
            return self._word(one, item)
        self.faults.add(item, f"each of {one.word} is one word", "put it into quotation marks")
        raise _Bad

    def _word(self, one: Field, node: Scalar) -> Any:
        if node.is_missing:
            or_not = "" if one.required else ", or leave it out"
            self.faults.add(node, f"{one.word} says nothing", f"write {one.word}: {one.example}{or_not}")
            raise _Bad
        try:
            return one.type.read(node.text)
        except Invalid as exc:
            if exc.code == "secret-in-url":
                self.faults.hidden.add(node.line)
            self.faults.add(node, exc.message, exc.remedy)
            raise _Bad from exc

    def _after(self, node: Node | None) -> list[Scalar]:
        if node is None:
            return []
        items = node.items if isinstance(node, Listing) else (node,)
        words = [one for one in items if isinstance(one, Scalar) and not one.is_missing]
        if len(words) < len(items):
            self.faults.add(node, "after is a step or a list of steps", "write after: fetch, or after: [fetch, check]")
        self.waits += words
        return words

    def _release(self, draft: _Draft, table: Table) -> None:
        """A step that made the buffer stands for what it made and where; else it is a dataset or a buffer itself."""
        word, at = draft.fields["buffer"], draft.fields.get("at", "")
        node = table.get(draft.kind.word) or draft.name
        if word in self.written and not at:
            draft.needs.append(word)
        elif url.is_dataset(word) and not at:
            self.faults.add(node, "at which site is this dataset to be released?", "write at: SITE, or name the step")
        elif not at and not _is_buffer(word):
            remedy = self._meant(word, self.written) or "name the step that made it; or a dataset, with at: SITE"
            self.faults.add(node, f"no step is named {_short(word)}", remedy)

    # ----------------------------------------------------------------------------------------------- whole

    def _step(self, draft: _Draft) -> Step | None:
        fields = dict(draft.fields)
        if draft.kind.verb == "release" and draft.needs and not self._made_by(draft, fields):
            return None
        after = [*(one.text for one in draft.after), *draft.needs, *self._sections(draft.name.text, fields)]
        action = action_from(draft.kind.verb, fields)
        return Step(draft.name.text, action, tuple(dict.fromkeys(after)), draft.name.line, draft.name.column)

    def _made_by(self, draft: _Draft, fields: dict[str, Any]) -> bool:
        """Name the buffer of a step by what it holds and where."""
        made = self.drafts.get(draft.needs[0])
        if made is None:
            return False  # that step has faults of its own
        verb, given = made.kind.verb, made.fields
        if verb == "stage-in":
            fields.update(buffer=given["what"], at=given["to"], as_image=given.get("as_image", False))
        elif verb == "compute" and given.get("output"):
            fields.update(buffer=given["output"], at=given["at"])
        else:
            remedy = "name a step that stages in, or one that runs and has an out"
            self.faults.add(draft.name, f"the step {draft.needs[0]} makes no buffer to release", remedy)
            return False
        return True

    def _sections(self, name: str, fields: dict[str, Any]) -> list[str]:
        return [one for one in entries_named(fields) if one in self.entries and one != name]


def entries_named(fields: Mapping[str, Any]) -> list[str]:
    """Names that the steps of a section's entries would have which these fields of an action name."""
    said = list[str]()
    for attr in _NAMED:
        value = fields.get(attr, ())
        said += [value] if isinstance(value, str) else list(value)
    names = [n for one in said for n in (f"site:{one.partition('/')[0]}", f"register:{one.partition('@')[0]}")]
    return list(dict.fromkeys(names))


def _word(text: str, at: Node) -> Scalar:
    return Scalar(text, False, at.line, at.column)


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:60] + "…"


def _split(text: str) -> list[str]:
    try:
        return shlex.split(text)[:20]
    except ValueError:
        return []


def _is_buffer(text: str) -> bool:
    """Whether a word is meant as the id or the path of a buffer."""
    return "/" in text or (len(text) == 26 and text.isalnum() and text.isupper())
