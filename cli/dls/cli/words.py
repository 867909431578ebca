"""Words: how values are written: addresses and counts for people, text without secrets or control characters."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from dls.logistics import duration, names

# A user before the place; also where a secret holds a slash, so that the address does not parse as one with a user.
_USER_IN_URL = re.compile(r"(?<=://)(?:[^/\s@'\"]*|[^/\s@:'\"]*:(?![0-9]{1,5}/)[^\s@'\"]*)@")


def scrub(text: str, secrets: Sequence[str]) -> str:
    """The text without secrets: known values, and users and passwords of URLs."""
    for secret in secrets:
        if secret in text:
            text = text.replace(secret, "…")
    return _USER_IN_URL.sub("…@", text) if "@" in text else text


def place(address: str) -> str:
    """An address as people write it: a folder of this machine by its path."""
    return address.removeprefix("file://")


def files(count: int) -> str:
    """`1 file`, `1,204 files`."""
    return f"{count:,} file{'' if count == 1 else 's'}"


def copied(facts: Mapping[str, Any]) -> str:
    """`4 files, 73.4 MB: 3 copied, 1 there already`."""
    size = f"{files(facts['files'])}, {duration.show_size(facts['bytes'])}"
    return f"{size}: {facts['copied']:,} copied, {facts['kept']:,} there already"


def plain(text: str) -> str:
    """The text as valid Unicode: bytes that were not UTF-8 as %XX."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return "".join(
            c if not "\ud800" <= c <= "\udfff" else names.show(c.encode("utf-8", "surrogateescape")) for c in text
        )
    return text


def printable(text: str) -> str:
    """The text without control characters but line ends and tabs, each as %XX."""
    if text.isprintable():
        return text
    return "".join(
        c if c in "\n\t" or c.isprintable() else names.show(c.encode("utf-8", "surrogateescape")) for c in text
    )
