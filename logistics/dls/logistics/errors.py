"""Every error that a user can meet: one flat family of eight kinds.

    DlsError
    ├── Invalid      exit 2  HTTP 422            the request is wrong; nothing was touched
    ├── NotFound     exit 3  HTTP 404            the named thing is not there
    ├── Exists       exit 4  HTTP 409            the name is taken by something else
    ├── Denied       exit 5  HTTP 403            this actor may not do that
    ├── Unsupported  exit 6  HTTP 501            this place cannot do that, and never could
    ├── Corrupt      exit 7  HTTP 502            bytes are not those that were recorded
    ├── Unavailable  exit 8  HTTP 503 retryable  a service, a disk or a lease cannot serve now
    └── Conflict     exit 9  HTTP 412 retryable  somebody changed it meanwhile

A kind says how callers react; `code` says precisely what happened and is the key of the table in
`specs/errors.md`.  Foreign exceptions are translated in the module that meets them and kept as `__cause__`.
A bug stays a bug: `TypeError` and its like pass through unwrapped.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

__all__ = [
    "KINDS",
    "Conflict",
    "Corrupt",
    "Denied",
    "DlsError",
    "Exists",
    "Invalid",
    "NotFound",
    "Stop",
    "Unavailable",
    "Unsupported",
    "translated",
    "worst",
]


class DlsError(Exception):
    """What went wrong, with what, and what to do about it; never holds a secret.

    `facts` name the objects involved (key, store, dataset, site …) with JSON-able values.
    """

    kind: ClassVar[str] = "error"
    exit_status: ClassVar[int] = 1
    http_status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, code: str = "", remedy: str = "", **facts: Any) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.kind
        self.remedy = remedy
        self.facts = {k: v for k, v in facts.items() if v is not None}

    def __str__(self) -> str:
        return self.message

    def to_json(self) -> dict[str, Any]:
        """The error as a program reads it: kind, code, exit status, message, remedy, facts."""
        return {
            "kind": self.kind,
            "code": self.code,
            "exit_status": self.exit_status,
            "message": self.message,
            "remedy": self.remedy,
            "retryable": self.retryable,
            "facts": {k: v if isinstance(v, (int, float, bool, list, dict)) else str(v) for k, v in self.facts.items()},
        }


class Invalid(DlsError):
    """The request is wrong; nothing was touched."""

    kind, exit_status, http_status = "invalid", 2, 422


class NotFound(DlsError):
    """The named thing is not there."""

    kind, exit_status, http_status = "not-found", 3, 404


class Exists(DlsError):
    """The name is taken by something else."""

    kind, exit_status, http_status = "exists", 4, 409


class Denied(DlsError):
    """This actor, or this credential, may not do that."""

    kind, exit_status, http_status = "denied", 5, 403


class Unsupported(DlsError):
    """This place cannot do that, and asking again will not help."""

    kind, exit_status, http_status = "unsupported", 6, 501


class Corrupt(DlsError):
    """Bytes are not those that were recorded."""

    kind, exit_status, http_status = "corrupt", 7, 502


class Unavailable(DlsError):
    """A service, a disk, a lease or a lock cannot serve now."""

    kind, exit_status, http_status, retryable = "unavailable", 8, 503, True


class Conflict(DlsError):
    """Somebody changed the thing meanwhile, or it is in use."""

    kind, exit_status, http_status, retryable = "conflict", 9, 412, True


class Stop(BaseException):
    """Whoever carries the work was told to stop now: it was taken over, cancelled, or is to be handed on.

    Not an error of the work, so nothing catches it on the way and nothing is recorded of it by an action; like an
    interrupt from the keyboard.  `why` is `taken-over`, `cancelled` or `draining`.
    """

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


KINDS: tuple[type[DlsError], ...] = (
    Invalid,
    NotFound,
    Exists,
    Denied,
    Unsupported,
    Corrupt,
    Unavailable,
    Conflict,
)

# When several files fail, the whole ends with the status that needs a person most.
_GRAVITY = (Corrupt, Denied, Invalid, Unsupported, NotFound, Exists, Conflict, Unavailable)


def worst(errors: list[DlsError]) -> DlsError | None:
    """The gravest of several errors, or None."""
    for kind in _GRAVITY:
        for error in errors:
            if isinstance(error, kind):
                return error
    return errors[0] if errors else None


@contextmanager
def translated(table: tuple[tuple[type[BaseException], type[DlsError], str], ...], **facts: Any) -> Iterator[None]:
    """Turn foreign exceptions into ours by a table of (foreign class, our kind, code); the first match wins."""
    try:
        yield
    except DlsError:
        raise
    except BaseException as exc:
        for foreign, ours, code in table:
            if isinstance(exc, foreign):
                raise ours(f"{type(exc).__name__}: {exc}", code=code, **facts) from exc
        raise
