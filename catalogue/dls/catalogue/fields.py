"""What a field of a record may hold: text that every database keeps, JSON that is JSON, sizes that are bounded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from dls.logistics.errors import Invalid

TEXT_LIMIT: Final = 1_000
"""Longest title, reason, note and name of a person or place, characters."""
JSON_LIMIT: Final = 1 << 20
"""Longest JSON field, bytes."""


def text(value: str, field_name: str, limit: int = TEXT_LIMIT) -> str:
    """The value itself; Invalid where it is not text that every database holds, or longer than `limit` characters."""
    if "\0" in value or len(value) > limit:
        raise Invalid(f"{field_name}: not a text of at most {limit} characters", code="bad-record", field=field_name)
    try:
        value.encode()
    except UnicodeEncodeError as exc:
        raise Invalid(f"{field_name}: not valid Unicode", code="bad-record", field=field_name) from exc
    return value


def packed(value: Mapping[str, Any], field_name: str, limit: int = JSON_LIMIT) -> str:
    """The JSON text of an object, keys sorted; Invalid where it is not JSON or over `limit` bytes (0: any length)."""
    try:
        out = json.dumps(dict(value), sort_keys=True, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as exc:
        raise Invalid(f"{field_name}: not JSON: {exc}", code="bad-record", field=field_name) from exc
    if limit and len(out) > limit:
        raise Invalid(f"{field_name}: over {limit} bytes", code="bad-record", field=field_name)
    return out


def private(value: Mapping[str, Any], field_name: str) -> dict[str, Any]:
    """A copy of a JSON object that shares nothing with the caller's; Invalid as `packed`."""
    copy: dict[str, Any] = json.loads(packed(value, field_name))
    return copy
