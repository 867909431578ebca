"""The URL of a PostgreSQL database as people write it, and where a password may stand in it."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

_HARMLESS = frozenset({"application_name", "dbname", "host", "port", "service", "sslmode", "user"})


def is_server(where: str | Path) -> bool:
    """Whether a place of state is a URL of PostgreSQL, not a file."""
    return isinstance(where, str) and where.startswith(("postgresql://", "postgres://"))


def shown(url: str) -> str:
    """The URL without its password: of parameters only those are shown that hold none."""
    scheme, user, at, place, pairs = _parts(url)
    kept = [f"{name}={value}" if name in _HARMLESS else "***" for name, _, value in pairs]
    return f"{scheme}://{user.partition(':')[0]}{at}{place}{'?' if kept else ''}{'&'.join(kept)}"


def password(url: str) -> list[str]:
    """The passwords in a URL, as written and as meant; none in most."""
    _, user, _, _, pairs = _parts(url)
    found = [user.partition(":")[2], *(value for name, _, value in pairs if _is_secret(name))]
    return sorted({text for one in found if one for text in (one, unquote(one))})


def _is_secret(name: str) -> bool:
    return "password" in unquote(name).lower()


def _parts(url: str) -> tuple[str, str, str, str, list[tuple[str, str, str]]]:
    """Scheme, user with password, the `@` if there is one, host and database, and the parameters."""
    scheme, _, rest = url.partition("://")
    # A password may hold a bare `?` where it should not: what stands before the last `@` is no place.
    has_user = "@" in rest.partition("?")[0] or ("@" in rest and ":" in rest.partition("@")[0])
    user, at, rest = rest.rpartition("@") if has_user else ("", "", rest)
    place, _, query = rest.partition("?")
    return scheme, user, at, place, [pair.partition("=") for pair in query.split("&") if pair]
