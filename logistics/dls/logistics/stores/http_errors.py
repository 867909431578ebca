"""What an HTTP server's refusal means to a user, and what to do about it."""

from __future__ import annotations

from dls.logistics.errors import Conflict, Denied, DlsError, Invalid, NotFound, Unavailable, Unsupported
from dls.logistics.names import show
from dls.logistics.stores.http_pool import LONGEST_WAIT_S, wait_asked
from dls.logistics.stores.http_wire import Head

_AGAIN = "run the same again later"
_Row = tuple[type[DlsError], str, str, str]
_MISSING: _Row = (NotFound, "no-such-key", "there is no {what}", "check the name")
_STATUSES: dict[int, _Row] = {
    401: (Denied, "wrong-credentials", "{what} needs credentials, or others than {source}", "{how}"),
    403: (Denied, "no-access", "no permission for {what}", "ask its owner, or use other credentials than {source}"),
    404: _MISSING,
    407: (
        Denied,
        "no-access",
        "{what} lies behind a proxy",
        "proxies are not supported: ask from a network without one",
    ),
    410: _MISSING,
    412: (Conflict, "source-changed", "{what} changed while it was read", "run the same again"),
    414: _MISSING,
    429: (Unavailable, "service-busy", "the server asks for fewer requests ({what})", _AGAIN),
    503: (Unavailable, "service-busy", "the server is busy ({what})", _AGAIN),
}


def place(url: str, key: bytes | None) -> str:
    """A key's address for people."""
    return url if key is None else f"{url.rstrip('/')}/{show(key)}"


def refused(head: Head, url: str, key: bytes | None, source: str, how: str) -> DlsError:
    """The error in a reply: `url` is the store's, `source` says where credentials came from, `how` to give some."""
    what, status = place(url, key), head.status
    kind, code, message, remedy = _STATUSES.get(status) or _other(status)
    if kind is Unavailable and (wait := wait_asked(head)) > LONGEST_WAIT_S:
        remedy = f"run the same again in {wait:.0f} s"
    elif status in (404, 410) and "?" in what:
        remedy = "check the name: a '?' is part of it here, queries in addresses are not supported"
    return kind(
        message.format(what=what, source=source),
        code=code,
        remedy=remedy.format(source=source, how=how),
        store=url,
        key=show(key) if key is not None else None,
        status=status,
    )


def _other(status: int) -> _Row:
    if status >= 500:
        return Unavailable, "service-error", f"{{what}}: the server fails ({status})", _AGAIN
    return Invalid, "refused", f"{{what}}: the server refuses this ({status})", "check the address"


def changed(url: str, key: bytes) -> Conflict:
    """The error of a file that is another one by now."""
    return Conflict(
        f"{place(url, key)} changed while it was read",
        code="source-changed",
        store=url,
        key=show(key),
        remedy="run the same again once nobody writes there",
    )


def wrong_range(url: str, key: bytes, said: bytes) -> Unavailable:
    """The error of bytes that are not those asked for."""
    return Unavailable(
        f"{place(url, key)}: the server sent another range than that asked for ({show(said)[:80] or 'it names none'})",
        code="wrong-range",
        store=url,
        key=show(key),
        remedy="read it from another place: this server's ranges cannot be trusted",
    )


def no_length(url: str, key: bytes) -> Unsupported:
    """The error of a file of which nobody can say whether it is whole."""
    return Unsupported(
        f"{place(url, key)}: the server does not say how long it is, so a part could pass for the whole",
        code="no-length",
        store=url,
        key=show(key),
        remedy="fetch it by other means, and register the file that you have then",
    )


def coded(url: str, key: bytes, coding: bytes) -> Unsupported:
    """The error of a body that is not the file's own bytes."""
    return Unsupported(
        f"{place(url, key)} is sent compressed ({show(coding)[:40]}) although it was asked for as it is",
        code="encoded-body",
        store=url,
        key=show(key),
        remedy="have the server send it without Content-Encoding",
    )


def no_index(url: str, folder: bytes, said: str) -> Unsupported:
    """The error of a folder that the server does not list."""
    return Unsupported(
        f"{place(url, folder.rstrip(b'/') or None)}/ shows no list of its files ({said})",
        code="no-index",
        store=url,
        remedy="name one file, or have the server show an index of its folders (nginx: autoindex on)",
    )
