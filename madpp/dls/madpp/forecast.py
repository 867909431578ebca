"""Forecast: what a step promises to those after it, and which errors of theirs such a promise excuses.  Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from dls.logistics import url
from dls.logistics.errors import DlsError

_MAKES: Final = {
    "site": ("site",),
    "register": ("dataset",),
    "stage-in": ("what",),
    "stage-out": ("what", "as_"),
    "pack": ("what", "as_"),
    "compute": ("output",),
    "wait-for": ("dataset",),
    "restore": ("dataset",),
}
"""Verb → the fields that name what is there afterwards: a dataset with a copy, or a site."""
_MISSING: Final = frozenset({"no-dataset", "no-version", "no-replica", "unknown-site", "withdrawn"})


def promises(verb: str, fields: Mapping[str, Any]) -> frozenset[str]:
    """`scope:name` of datasets and names of sites that are there once this step has run."""
    return frozenset(_key(str(fields[one])) for one in _MAKES.get(verb, ()) if fields.get(one))


def excused(error: DlsError, made: frozenset[str]) -> bool:
    """Whether an error says only that something is missing that will be there by then."""
    named = error.facts.get("site") if error.code == "unknown-site" else error.facts.get("dataset")
    return error.code in _MISSING and named is not None and _key(str(named)) in made


def _key(text: str) -> str:
    """`scope:name` of a version, the site of a storage; any other text as it is."""
    if url.is_dataset(text):
        return text.partition("@")[0]
    return text.removesuffix("/default")
