"""Pages that list a folder: nginx's (JSON and HTML), Apache's, Python's `http.server`.

Only pages that say that they are an index are taken for one.  Of HTML only the links count: sizes there are rounded,
names cut off; a link is a file or folder directly below the page, everything else (parent, sorting) is left out.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from dls.logistics.stores.markup import unescape

_TITLE = re.compile(rb"<title>\s*(?:Index of |Directory listing for )", re.IGNORECASE)
_LINK = re.compile(rb"""<a\s[^>]*?href=(?:"([^"]*)"|'([^']*)')""", re.IGNORECASE)
_SCHEME = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*:")
_ESCAPED = re.compile(rb"%([0-9A-Fa-f]{2})")
_BEGIN = 4096  # bytes in which the title of a page must come


class Row(NamedTuple):
    """One name in a folder."""

    name: bytes
    folder: bool
    size: int
    """-1 where the page does not say it exactly."""


def unquoted(text: bytes) -> bytes:
    """Percent-decoded, a '+' is a '+'."""
    return _ESCAPED.sub(lambda found: bytes((int(found[1], 16),)), text) if b"%" in text else text


def rows(kind: bytes, body: bytes, path: bytes) -> list[Row] | None:
    """The names on a page whose Content-Type is `kind` and whose (unquoted) path is `path`, in any order; None where
    it is no index.  ValueError where what is listed is neither file nor folder."""
    kind = kind.partition(b";")[0].strip().lower()
    if kind == b"application/json":
        return _json(body)
    if kind in (b"text/html", b"application/xhtml+xml") and _TITLE.search(body[:_BEGIN]):
        return _html(body, path)
    return None


def _json(body: bytes) -> list[Row] | None:
    import json  # 5 ms, for these pages only

    try:
        # nginx writes names as they are: bytes that are not UTF-8 too.
        found = json.loads(body.decode("utf-8", "surrogateescape"))
        if not isinstance(found, list):
            return None
        out = []
        for one in found:
            name, what = one["name"].encode("utf-8", "surrogateescape"), one["type"]
            if what not in ("file", "directory"):
                raise Special(name)
            out.append(Row(name, what == "directory", int(one["size"]) if what == "file" else -1))
    except Special:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return [row for row in out if _is_name(row.name)]


class Special(ValueError):
    """A socket, a pipe, a device; its argument is the name."""


def _html(body: bytes, path: bytes) -> list[Row]:
    out: dict[bytes, Row] = {}
    for double, single in _LINK.findall(body):
        href = unescape(double or single).strip()
        if not href or b"?" in href or b"#" in href or href.startswith(b"//") or _SCHEME.match(href):
            continue
        name = unquoted(href).removeprefix(b"./")
        if name.startswith(b"/"):
            if not name.startswith(path):
                continue
            name = name[len(path) :]
        folder = name.endswith(b"/")
        name = name[:-1] if folder else name
        if _is_name(name):
            out[name] = Row(name, folder, -1)
    return list(out.values())


def _is_name(name: bytes) -> bool:
    return bool(name) and name not in (b".", b"..") and b"/" not in name and b"\0" not in name
