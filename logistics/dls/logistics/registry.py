"""Which class opens which address: one visible list of ours, imported on use, and entry points for others.

Another package adds a store by the entry point group `dls.stores`: `scheme = "package.module:callable"`, called as
`callable(url, **options)` with a `Url`; ours cannot be replaced that way.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, Final

from dls.logistics import credentials
from dls.logistics.errors import Invalid, Unsupported
from dls.logistics.frozen import frozen
from dls.logistics.store import Store
from dls.logistics.url import Url, parse

GROUP: Final = "dls.stores"


@frozen
class Known:
    """How one scheme is opened."""

    target: str
    """`package.module:Class`."""
    takes: Callable[[Url], tuple[Any, ...]]
    """The positional arguments that an address becomes."""
    extra: str = ""
    """What to install when the import fails: `pip install 'dls[extra]'`."""
    credentials: Callable[..., Any] | None = None
    """Finds what the store takes as `credentials`."""


def _path(url: Url) -> tuple[Any, ...]:
    return (b"/" + url.path,)


def _name_and_path(url: Url) -> tuple[Any, ...]:
    return url.place, url.path


def _whole(url: Url) -> tuple[Any, ...]:
    return (url,)


_HTTP = Known("dls.logistics.stores.http:HttpStore", _whole, "", credentials.http)
_S3 = Known("dls.logistics.stores.s3:S3Store", _whole, "s3", credentials.s3)

BUILT_IN: Final[dict[str, Known]] = {
    "file": Known("dls.logistics.stores.posix:PosixStore", _path),
    "http": _HTTP,
    "https": _HTTP,
    "memory": Known("dls.logistics.stores.memory:MemoryStore", _name_and_path),
    "s3": _S3,
    "s3+http": _S3,
    "s3+https": _S3,
}


PASSING: Final = "memory"
"""The scheme of what ends with the process."""


def schemes() -> list[str]:
    """Every scheme that can be opened here and keeps what is written, sorted."""
    return sorted({*BUILT_IN, *_entry_points()} - {PASSING})


def _entry_points() -> dict[str, str]:
    from importlib.metadata import entry_points  # 15 ms, only where no store of ours is meant

    return {point.name: point.value for point in entry_points(group=GROUP)}


def open_store(url: Url | str, environ: Mapping[str, str] | None = None, **options: Any) -> Store:
    """The store at an address (a text is taken relative to the working folder).

    Credentials come from the user's environment and files, or from `environ` and the files that it names.
    Unsupported `unknown-scheme` names those that there are, `not-installed` says what to install.
    """
    if isinstance(url, str):
        url = parse(url, os.getcwd())
    known = BUILT_IN.get(url.scheme) or _foreign(url.scheme)
    if known.credentials and "credentials" not in options:
        options["credentials"] = known.credentials(environ=environ)
    opened: Store = _load(known, url.scheme)(*known.takes(url), **options)
    return opened


def _foreign(scheme: str) -> Known:
    target = _entry_points().get(scheme)
    if target:
        return Known(target, _whole)
    raise Unsupported(
        f"no store for {scheme}://",
        code="unknown-scheme",
        scheme=scheme,
        remedy=f"one of {', '.join(schemes())}; other packages add theirs by the entry points {GROUP!r}",
    )


def _load(known: Known, scheme: str) -> Callable[..., Any]:
    module, _, name = known.target.partition(":")
    try:
        found: Callable[..., Any] = getattr(import_module(module), name)
    except ImportError as exc:
        missing = exc.name or module
        raise Unsupported(
            f"{scheme}:// needs the Python package {missing.partition('.')[0]}",
            code="not-installed",
            scheme=scheme,
            remedy=f"pip install 'dls[{known.extra}]'" if known.extra else f"reinstall the package of {module}",
        ) from exc
    except AttributeError as exc:
        raise Invalid(f"{module} has no {name}", code="bad-entry-point", scheme=scheme) from exc
    return found
