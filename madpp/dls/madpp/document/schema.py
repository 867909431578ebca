"""Schema: the JSON Schema of a plan document, for editors, made from the table of the model."""

from __future__ import annotations

import json
from typing import Any, Final

from dls.madpp.document.model import AFTER, BY_VERB, KINDS, SECTIONS, TOP, Kind, Section

_AFTER: Final = {
    "description": "the step, or the steps, that come first",
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
}


def schema() -> dict[str, Any]:
    """Draft 2020-12.  It holds what can be told without the world; `dls plan check` tells the rest."""
    sections = {one.word: _section(one) for one in SECTIONS}
    steps = {"type": "object", "additionalProperties": {"oneOf": [{"$ref": f"#/$defs/{k.word}"} for k in KINDS]}}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "dls plan",
        "type": "object",
        "required": ["dls"],
        "anyOf": [{"required": [word]} for word in (*sections, "steps")],
        "additionalProperties": False,
        "properties": {
            "dls": {"description": TOP["dls"], "const": 1},
            "name": {"description": TOP["name"], "type": "string", "minLength": 1},
            **sections,
            "steps": {"description": TOP["steps"], **steps},
        },
        "$defs": {kind.word: _kind(kind) for kind in KINDS},
    }


def text() -> str:
    """The same, as `specs/plan.schema.json` holds it."""
    return json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"


def _kind(kind: Kind) -> dict[str, Any]:
    return {
        "description": kind.doc,
        "type": "object",
        "required": [one.word for one in kind.fields if one.required],
        "additionalProperties": False,
        "properties": {**_fields(kind), AFTER: _AFTER},
    }


def _fields(kind: Kind) -> dict[str, Any]:
    return {one.word: {"description": f"{one.doc}, such as {one.example}", **one.type.schema} for one in kind.fields}


def _section(section: Section) -> dict[str, Any]:
    kind = BY_VERB[section.kind]
    inside = _fields(kind)
    inside.pop(kind.word)
    whole = {
        "type": "object",
        "required": [one.word for one in kind.fields[1:] if one.required],
        "additionalProperties": False,
        "properties": {**inside, AFTER: _AFTER},
    }
    return {
        "description": section.doc,
        "type": "object",
        "additionalProperties": {"anyOf": [{"type": "string", "minLength": 1}, whole]},
    }
