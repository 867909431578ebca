"""Settings: the one place that reads the environment, and the file `dls.toml` in `DLS_HOME`.

For each setting: an option of the command line, then the variable `DLS_<NAME>`, then `dls.toml`, then the default.
No secret is a setting: credentials come from the environment and the files of each protocol when a store is opened.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import field, fields
from pathlib import Path
from typing import Any, Final

from dls.logistics import duration
from dls.logistics.database_url import is_server, password
from dls.logistics.errors import DlsError, Invalid
from dls.logistics.frozen import frozen

FILE: Final = "dls.toml"
_SECRET = re.compile(r"secret|passw|token|credential|access.?key|api.?key|private.?key", re.IGNORECASE)
_SECRET_VALUE = re.compile(r"secret|passw|token|credential|private.?key|access.?key", re.IGNORECASE)
_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,62}\Z", re.ASCII)
_ACTOR = re.compile(r"[^\s\x00-\x1f\x7f]{1,200}\Z")


@frozen
class Settings:
    """What one process is told."""

    home: Path
    """`DLS_HOME`: state, locks, unfinished transfers, the buffers of the site `local`."""
    actor: str
    """Who asks: `user@host`."""
    database: str = field(default="", repr=False)
    """Where the state is: '' for a file in `home`, or a URL `postgresql://…`."""
    schema: str = "dls"
    """The schema of that database that holds our tables."""
    durability: str = "power"
    """What a copy survives before it is recorded: the loss of power, or the end of the process."""
    streams: int = 4
    """Ranges of a large file in flight."""
    retries: int = 1
    """How often a file that failed in a way that may pass is tried again."""
    stall_s: float = 120.0
    """A transfer without a sign of life for so long is given up, seconds."""
    timeout_s: float = 30.0
    """A service that is silent for so long counts as hanging, seconds."""
    log: str = ""
    """A file to which each command appends what it did, JSON lines; '' for none."""
    cwd: str = ""
    """What relative paths are relative to; '' where the working folder is gone."""
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The environment of jobs; it may hold secrets."""


def load(home: str | Path | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """The settings of this user; `home` goes before `DLS_HOME`.  Invalid names the file, the line and what is legal."""
    env = os.environ if environ is None else environ
    folder = home_of(home, env)
    found: dict[str, Any] = {"actor": _user(), **_from_file(folder / FILE), **_from_environment(env)}
    return Settings(folder, cwd=_cwd(), environ=dict(env), **found)


def secrets(environ: Mapping[str, str] | None = None) -> list[str]:
    """Values of the environment that may be secrets, longest first: they are cut out of whatever is written."""
    env = os.environ if environ is None else environ
    values = {value for name, value in env.items() if _SECRET_VALUE.search(name) and len(value) >= 8}
    values |= {found for found in password(env.get("DLS_DATABASE", "")) if found}
    return sorted((v for v in values if not v.startswith(("/", "~"))), key=len, reverse=True)


def completing(variable: str, environ: Mapping[str, str] | None = None) -> str:
    """What a shell asks for by the variable of its completion script, such as `bash_complete`; '' for nothing."""
    return (os.environ if environ is None else environ).get(variable, "")


# ----------------------------------------------------------------------------------- one setting at a time


def _word(*legal: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value not in legal:
            raise ValueError(f"one of {', '.join(legal)}")
        return str(value)

    return read


def _count(low: int, high: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        number = int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value
        if not isinstance(number, int) or isinstance(number, bool) or not low <= number <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return number

    return read


def _seconds(value: Any) -> float:
    """A number of seconds, or an ISO 8601 duration."""
    legal = "seconds above 0, or a duration such as PT2M"
    try:
        if isinstance(value, str):
            number = float(duration.read_duration(value)) if value[:1] == "P" else float(value)
        else:
            number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else -1.0
    except (ValueError, DlsError) as exc:
        raise ValueError(legal) from exc
    if not 0 < number <= duration.DAY:
        raise ValueError(legal)
    return number


def _name(value: Any) -> str:
    if not isinstance(value, str) or not _ACTOR.match(value):
        raise ValueError("a name without blanks, such as user@host")
    return value


def _path(value: Any) -> str:
    if not isinstance(value, str) or not value.startswith("/") or not value.isprintable():
        raise ValueError("an absolute path")
    return value


def _database(value: Any) -> str:
    if not isinstance(value, str) or (value and not is_server(value)):
        raise ValueError("postgresql://USER@HOST:PORT/DATABASE, or nothing for a file in DLS_HOME")
    return value


def _schema(value: Any) -> str:
    if not isinstance(value, str) or not _SCHEMA.match(value):
        raise ValueError("a name of small letters, digits and _, such as dls")
    return value


@frozen
class _Key:
    field: str
    read: Callable[[Any], Any]


_KEYS: Final = {
    "actor": _Key("actor", _name),
    "database": _Key("database", _database),
    "durability": _Key("durability", _word("power", "process")),
    "log": _Key("log", _path),
    "retries": _Key("retries", _count(0, 10)),
    "schema": _Key("schema", _schema),
    "stall": _Key("stall_s", _seconds),
    "streams": _Key("streams", _count(1, 64)),
    "timeout": _Key("timeout_s", _seconds),
}
assert {key.field for key in _KEYS.values()} <= {f.name for f in fields(Settings)}


# ------------------------------------------------------------------------------------------ where they come from


def home_of(asked: str | Path | None = None, environ: Mapping[str, str] | None = None) -> Path:
    """The folder of an installation: `asked`, DLS_HOME, or `dls` in the user's data folder."""
    env = os.environ if environ is None else environ
    text = str(asked or env.get("DLS_HOME", ""))
    if text:
        return Path(text).expanduser().absolute()
    data = env.get("XDG_DATA_HOME", "")
    return (Path(data) if data.startswith("/") else Path("~/.local/share").expanduser()) / "dls"


def _user() -> str:
    import pwd

    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container that runs as a number
        user = f"uid{os.getuid()}"
    return f"{user}@{os.uname().nodename}"


def _cwd() -> str:
    try:
        return str(Path.cwd())
    except OSError:
        return ""


def _from_environment(env: Mapping[str, str]) -> dict[str, Any]:
    found = {}
    for name, key in _KEYS.items():
        variable = f"DLS_{name.upper()}"
        if variable in env:
            found[key.field] = _read(key, env[variable], variable)
    return found


def _from_file(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError) as exc:
        if isinstance(exc, UnicodeDecodeError):
            raise _bad(f"cannot read {path}: it is not UTF-8", file=str(path)) from exc
        remedy = "see to it that you may read it, or set DLS_HOME to a folder of your own"
        raise _bad(f"cannot read {path}: {exc.strerror}", remedy, file=str(path)) from exc
    import tomllib

    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise _bad(f"{path} is not TOML: {exc}", file=str(path)) from None  # the cause would show its text
    _refuse_secrets(path, values, text)
    found = {}
    for name, value in values.items():
        line = _line(text, name)
        if name not in _KEYS:
            raise _bad(f"{path}, line {line}: unknown setting {name[:60]!r}", file=str(path), line=line, key=name[:60])
        found[_KEYS[name].field] = _read(_KEYS[name], value, f"{path}, line {line}: {name}", file=str(path), line=line)
    return found


def _read(key: _Key, value: Any, where: str, **facts: Any) -> Any:
    try:
        return key.read(value)
    except ValueError as exc:
        said = "no such URL" if key.field == "database" else repr(str(value)[:60])  # a URL may hold a password
        raise _bad(f"{where} is {said}", f"write {exc}", **facts) from None


def _bad(message: str, remedy: str = "", **facts: Any) -> Invalid:
    remedy = remedy or f"legal settings are {', '.join(sorted(_KEYS))}, one a line: name = value"
    return Invalid(message, code="bad-settings", remedy=remedy, **facts)


def _refuse_secrets(path: Path, values: Mapping[str, Any], text: str) -> None:
    if password(str(values.get("database", ""))):
        line = _line(text, "database")
        raise Invalid(
            f"{path}, line {line}: the URL holds a password, and no secret is kept in settings",
            code="secret-in-settings",
            file=str(path),
            line=line,
            key="database",
            remedy="take it out; libpq reads PGPASSFILE (~/.pgpass), PGSERVICE or PGPASSWORD",
        )
    for name in _names(values):
        if _SECRET.search(name):
            line = _line(text, name)
            raise Invalid(
                f"{path}, line {line}: {name[:60]!r} looks like a secret, and none is kept in settings",
                code="secret-in-settings",
                file=str(path),
                line=line,
                key=name[:60],
                remedy="take it out; credentials belong into the environment or the protocol's own files (~/.aws)",
            )


def _names(values: Mapping[str, Any]) -> Iterator[str]:
    for name, value in values.items():
        yield name
        if isinstance(value, dict):
            yield from _names(value)


def _line(text: str, name: str) -> int:
    """The line that sets a key; 1 where a dotted or quoted spelling hides it."""
    found = re.search(rf"^\s*(?:\[+[^\]]*|[^=#\n]*\.)?\s*[\"']?{re.escape(name)}\b", text, re.MULTILINE)
    return text.count("\n", 0, found.end()) + 1 if found else 1
