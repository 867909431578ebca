"""Model: what a plan document may say.  One table, from which parser, writer, JSON Schema and documentation are made.

A `Kind` is a step: its verb, and its fields in the order of writing; the first field's word is the step's own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Any, Final

from dls.logistics import duration, url
from dls.logistics.errors import Invalid
from dls.logistics.frozen import frozen
from dls.madpp.actions.wait_for import read_time
from dls.madpp.source import is_site

VERSION: Final = "1"
"""What stands after `dls:`."""
_SITE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}(/[A-Za-z0-9][A-Za-z0-9._-]{0,63})?\Z")
_STEP: Final = re.compile(r"\S(?:[^\n\r]{0,198}\S)?\Z")


@frozen
class Type:
    """What a field holds."""

    name: str
    read: Callable[[str], Any]
    """The value of a word; Invalid says what to write instead."""
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"}, hash=False)
    many: bool = False
    """A list of words."""
    or_one: bool = False
    """A list, or one word for a list of one."""


@frozen
class Field:
    """One field of a step."""

    word: str
    """As the document says it."""
    attr: str
    """As the action has it."""
    type: Type
    doc: str
    example: str
    required: bool = False
    default: bool | None = None
    """What it is where the document leaves it out, if that is not what the action supposes."""


@frozen
class Kind:
    """One kind of step."""

    verb: str
    """Name of the action."""
    doc: str
    fields: tuple[Field, ...]

    @property
    def word(self) -> str:
        """The key by which a document names this kind."""
        return self.fields[0].word

    def field(self, word: str) -> Field | None:
        """A field by its word."""
        return next((one for one in self.fields if one.word == word), None)


@frozen
class Section:
    """A part of the document whose entries become steps, which all that name them come after."""

    word: str
    kind: str
    short: str
    """The field that an entry of one word means."""
    doc: str

    def step(self, key: str) -> str:
        """The name of an entry's step."""
        return f"{self.kind}:{key}"


# ------------------------------------------------------------------------------------------------- types


def _text(text: str) -> str:
    return text


def _site(text: str) -> str:
    if not _SITE.match(text):
        raise _no(f"not a site: {text[:80]}", "write the name of a site, such as scratch: dls site list shows them")
    return text


def _site_name(text: str) -> str:
    if "/" in text or not _SITE.match(text):
        raise _no(f"not a name for a site: {text[:80]}", "letters, digits and - _ . (at most 64)")
    return text


def _dataset(text: str) -> str:
    if url.dataset(text).path:
        raise _no(f"{text[:80]}: only whole datasets can be staged", f"write {url.dataset(text).key}")
    return text


def _key(text: str) -> str:
    id = url.dataset(text)
    if id.version or id.path:
        raise _no(f"{text[:80]}: name the dataset alone", f"write {id.key}")
    return text


def _address(text: str) -> str:
    url.parse(text, "/")
    return text


def _what(text: str) -> str:
    return _dataset(text) if url.is_dataset(text) else _address(text)


def _target(text: str) -> str:
    return _site(text) if is_site(text) else _address(text)


def _duration(text: str) -> str:
    if not duration.read_duration(text):
        raise _no(f"a lifetime of nothing: {text}", "write one such as P7D")
    return text


def _size(text: str) -> str:
    duration.read_size(text)
    return text


def _count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise _no(f"not a number: {text[:80]}", "write digits alone, such as 100000")
    return int(text)


def _flag(text: str) -> bool:
    if text not in ("true", "false"):
        likely = {"yes": "true", "on": "true", "1": "true", "no": "false", "off": "false", "0": "false"}
        raise _no(f"neither true nor false: {text[:80]}", f"write {likely.get(text.lower(), 'true or false')}")
    return text == "true"


def _time(text: str) -> str:
    read_time(text)
    return text


def step_name(text: str) -> str:
    """A name of a step; Invalid where it is none."""
    if not _STEP.match(text) or not text.isprintable():
        raise _no(f"not a name for a step: {text[:80]!r}", "write a short word, such as fetch")
    return text


def _no(message: str, remedy: str) -> Invalid:
    return Invalid(message, code="bad-plan", remedy=remedy)


_STRING: Final = {"type": "string", "minLength": 1}
TEXT: Final = Type("text", _text)
SITE: Final = Type("site", _site, {**_STRING, "pattern": _SITE.pattern.replace(r"\Z", "$").join(("^", ""))})
SITE_NAME: Final = Type("name of a site", _site_name, _STRING)
DATASET: Final = Type("dataset", _dataset, {**_STRING, "pattern": "^[^:/]+:[^/]+$"})
KEY: Final = Type("dataset without version", _key, {**_STRING, "pattern": "^[^:/@]+:[^/@]+$"})
ADDRESS: Final = Type("address", _address, _STRING)
WHAT: Final = Type("dataset or address", _what, _STRING)
TARGET: Final = Type("site or address", _target, _STRING)
BUFFER: Final = Type("step, dataset or buffer", _text, _STRING)
DURATION: Final = Type("duration", _duration, {**_STRING, "pattern": "^P"})
SIZE: Final = Type("size", _size, {"anyOf": [{"type": "integer", "minimum": 0}, _STRING]})
COUNT: Final = Type("number", _count, {"type": "integer", "minimum": 0})
FLAG: Final = Type("true or false", _flag, {"type": "boolean"})
TIME: Final = Type("time", _time, {**_STRING, "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}T"})
COMMAND: Final = Type("list of words", _text, {"type": "array", "minItems": 1, "items": {"type": "string"}}, many=True)
WHATS: Final = Type(
    "dataset or list of datasets",
    _what,
    {"anyOf": [_STRING, {"type": "array", "items": _STRING}]},
    many=True,
    or_one=True,
)

# ------------------------------------------------------------------------------------------------- table

_LIFETIME: Final = Field("lifetime", "lifetime", DURATION, "how long the lease lasts; the site's default", "P7D")

KINDS: Final = (
    Kind(
        "stage-in",
        "bring a dataset, or what lies at an address, into a leased buffer of a site",
        (
            Field("stage-in", "what", WHAT, "what to bring", "climate:era5", required=True),
            Field("to", "to", SITE, "the site", "scratch", required=True),
            _LIFETIME,
            Field("as-image", "as_image", FLAG, "as one file, packed on the way", "true"),
        ),
    ),
    Kind(
        "compute",
        "run a command on staged inputs and record what made what",
        (
            Field("run", "command", COMMAND, "the command, a list of words", "[python, mean.py]", required=True),
            Field("in", "inputs", WHATS, "what it reads", "climate:era5"),
            Field("out", "output", KEY, "the dataset that its output becomes", "climate:mean"),
            Field("at", "at", SITE, "the site where it runs", "scratch", required=True),
            _LIFETIME,
            Field(
                "once",
                "once",
                FLAG,
                "nothing is done where the same command made its output before; false: it runs",
                "false",
                default=True,
            ),
        ),
    ),
    Kind(
        "stage-out",
        "save a dataset, or what lies at an address, at a site or an address",
        (
            Field("stage-out", "what", WHAT, "what to save", "climate:mean", required=True),
            Field("to", "to", TARGET, "where", "archive", required=True),
            Field("as", "as_", KEY, "the dataset that it becomes, where it is none yet", "climate:mean"),
        ),
    ),
    Kind(
        "pack",
        "put a dataset, or what lies at an address, into one image",
        (
            Field("pack", "what", WHAT, "what to pack", "climate:era5", required=True),
            Field("to", "to", ADDRESS, "the image", "/archive/era5.sqfs", required=True),
            Field("as", "as_", KEY, "the dataset that it becomes, where it is none yet", "climate:era5"),
            Field("owner", "owner", TEXT, "UID:GID of everything inside", "'0:0'"),
            Field("xattrs", "xattrs", TEXT, "of a folder: which attributes are kept: user, all, none", "user"),
            Field("level", "level", COUNT, "effort of the compression, 1 to 19", "3"),
            Field("replace", "replace", FLAG, "what lies there may be replaced", "true"),
            Field("format", "form", TEXT, "squashfs, or erofs, which is not compressed", "erofs"),
        ),
    ),
    Kind(
        "verify",
        "look whether copies are what was recorded",
        (
            Field("verify", "dataset", DATASET, "the dataset", "climate:mean", required=True),
            Field("at", "at", SITE, "the site; everywhere where it is left out", "archive"),
            Field("deep", "deep", FLAG, "read every byte", "true"),
        ),
    ),
    Kind(
        "release",
        "give a lease back; with the last one the buffer is freed, unless that would lose bytes",
        (
            Field(
                "release", "buffer", BUFFER, "the step that made it; or a dataset, with at; or a buffer", "fetch", True
            ),
            Field("at", "at", SITE, "the site, for a dataset", "scratch"),
            Field("as-image", "as_image", FLAG, "of a dataset: the buffer in which it is an image", "true"),
        ),
    ),
    Kind(
        "wait-for",
        "wait until a dataset is there",
        (
            Field("wait-for", "dataset", DATASET, "the dataset; @3 means version 3 or later", "climate:obs@3", True),
            Field("until", "until", TIME, "fail where it is not there by then", "2026-12-31T00:00:00Z"),
        ),
    ),
    Kind(
        "register",
        "read what lies at an address and record it as a version of a dataset",
        (
            Field("register", "dataset", KEY, "the dataset", "climate:era5", required=True),
            Field("url", "where", ADDRESS, "where it lies", "/data/era5", required=True),
            Field("title", "title", TEXT, "what it is, in a line", "ERA5 hourly"),
            Field("note", "note", TEXT, "a note for the version", "first half"),
            Field("image", "image", FLAG, "it is an image of ours: what it holds is registered", "true"),
        ),
    ),
    Kind(
        "site",
        "make a site known",
        (
            Field("site", "site", SITE_NAME, "its name", "scratch", required=True),
            Field("url", "url", ADDRESS, "where its data lie", "/scratch/me", required=True),
            Field("capacity", "capacity", SIZE, "what buffers may hold there in sum", "10GB"),
            Field("inodes", "inodes", COUNT, "how many files and folders they may hold", "100000"),
            Field("tier", "tier", TEXT, "what kind of place", "scratch"),
            Field("lifetime", "lifetime", DURATION, "how long a lease lasts by default", "P7D"),
            Field("block", "block", COUNT, "grain of allocation, bytes", "4096"),
        ),
    ),
    Kind(
        "withdraw",
        "offer the bytes of a dataset no more",
        (
            Field("withdraw", "dataset", KEY, "the dataset", "climate:era5", required=True),
            Field("reason", "reason", TEXT, "why", "wrong calibration", required=True),
        ),
    ),
    Kind(
        "restore",
        "take a withdrawal back",
        (Field("restore", "dataset", KEY, "the dataset", "climate:era5", required=True),),
    ),
)
BY_WORD: Final = {kind.word: kind for kind in KINDS}
BY_VERB: Final = {kind.verb: kind for kind in KINDS}

SECTIONS: Final = (
    Section("sites", "site", "url", "sites that the plan needs: made known where they are not"),
    Section("datasets", "register", "url", "datasets that the plan needs: registered from where they lie"),
)

AFTER: Final = "after"
TOP: Final = {
    "dls": "version of this form: 1",
    "name": "what the plan is called",
    **{one.word: one.doc for one in SECTIONS},
    "steps": "the steps, by name",
}
"""The words at the top of a document."""
