"""Write: a `Plan` as a document, without loss: what is written reads as the same plan."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, Final

from dls.logistics.errors import Invalid
from dls.madpp.document.model import AFTER, BY_VERB, SECTIONS, VERSION, Field, Section
from dls.madpp.document.read import read
from dls.madpp.plan import Plan, Step, asked

_SAFE: Final = re.compile(r"[A-Za-z/][A-Za-z0-9/_.@+-]*(?::[A-Za-z0-9/_.@+-]+)*\Z", re.ASCII)
"""Words that every YAML reader takes for text; the rest is put into quotation marks."""
_SPECIAL: Final = frozenset(["null", "true", "false", "yes", "no", "on", "off", "y", "n", "~"])


def write(plan: Plan) -> str:
    """The document of a plan; Invalid where it holds what no document can say."""
    sections = _document(plan, _entries(plan))
    if _says(sections, plan):
        return sections
    flat = _document(plan, {})
    found = read(flat.encode("utf-8", "surrogatepass"))
    if found.plan != plan:
        why = "; ".join(one.message for one in found.faults[:3]) or "its order cannot be told"
        raise Invalid(f"this plan cannot be written as a document: {why}", code="bad-plan")
    return flat


def _says(text: str, plan: Plan) -> bool:
    return read(text.encode("utf-8", "surrogatepass")).plan == plan


def _entries(plan: Plan) -> dict[str, tuple[Section, str]]:
    """Steps that can stand in a section, by name, with the entry's key."""
    found = {}
    for one in plan.steps:
        for section in SECTIONS:
            if one.action.name == section.kind:
                key = str(asked(one.action)[BY_VERB[section.kind].fields[0].attr])
                if one.name == section.step(key):
                    found[one.name] = (section, key)
    return found


def _document(plan: Plan, entries: Mapping[str, tuple[Section, str]]) -> str:
    lines = [f"dls: {VERSION}"]
    if plan.name:
        lines.append(f"name: {_quoted(plan.name)}")
    for section in SECTIONS:
        inside = [one for one in plan.steps if one.name in entries and entries[one.name][0] is section]
        if inside:
            lines += ["", f"{section.word}:", *(_entry(one, *entries[one.name]) for one in inside)]
    rest = [one for one in plan.steps if one.name not in entries]
    if rest or not entries:
        lines += ["", "steps:" if rest else "steps: {}"]
        lines += [f"  {_quoted(one.name)}: {_table(_said(one, entries))}" for one in rest]
    return "\n".join(lines) + "\n"


def _entry(step: Step, section: Section, key: str) -> str:
    said = _said(step, {})
    said.pop(BY_VERB[section.kind].word)
    one = said[section.short] if set(said) == {section.short} else _table(said)
    return f"  {_quoted(key)}: {one}"


def _said(step: Step, entries: Mapping[str, Any]) -> dict[str, str]:
    """Word → value of a step, as text of the document; what goes without saying is left out."""
    if step.action.name not in BY_VERB:
        raise Invalid(f"no document can say {step.action.name}", code="bad-plan", step=step.name)
    values, supposed = asked(step.action), {f.name: f.default for f in fields(step.action)}  # type: ignore[arg-type]
    out = dict[str, str]()
    for one in BY_VERB[step.action.name].fields:
        value, default = values[one.attr], supposed[one.attr]
        if one.default is not None:
            default = one.default
        if one.required or default is MISSING or value != (list(default) if isinstance(default, tuple) else default):
            out[one.word] = _value(one, value)
    after = [name for name in step.after if name not in entries]
    if after:
        out[AFTER] = _quoted(after[0]) if len(after) == 1 else f"[{', '.join(map(_quoted, after))}]"
    return out


def _value(field: Field, value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list):
        if field.type.or_one and len(value) == 1:
            return _quoted(value[0])
        return f"[{', '.join(map(_quoted, value))}]"
    return _quoted(str(value))


def _table(said: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{word}: {value}" for word, value in said.items()) + "}"


def _quoted(text: str) -> str:
    """A word as YAML: plain where every reader takes it for text, else in quotation marks."""
    if _SAFE.match(text) and text.lower() not in _SPECIAL:
        return text
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(sign: str) -> str:
    if sign in '"\\':
        return "\\" + sign
    if sign.isprintable():
        return sign
    number = ord(sign)
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}" if number < 65536 else f"\\U{number:08x}"
