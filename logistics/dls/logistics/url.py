"""Addresses: where a tree or an object is, and how a dataset is named.  They print and parse alike and hold no secret.

    file:///abs/path   /abs/path   ./relative        a POSIX file system
    s3://bucket/prefix                                the S3 service that the environment names
    s3+http://host:port/bucket/prefix                 this S3 service (also s3+https)
    https://host[:port]/path                          an HTTP server, read only (also http); a '?' is part of a name
    memory://name/prefix                              inside this process, for tests

Dataset ids: `scope:name[@version][/path]`.  A text with `://` is a URL; a local path with a colon starts with `./`
or `/`.
"""

from __future__ import annotations

import os.path
import re

from dls.logistics import names
from dls.logistics.errors import Invalid
from dls.logistics.frozen import frozen

_BUCKET = re.compile(r"[^:@]*\Z")
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.%]+\]|[^:@\[\]]+)(?::[0-9]{1,5})?\Z")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*\Z")
_ID = re.compile(
    r"(?P<scope>[A-Za-z0-9][A-Za-z0-9._-]{0,63}):(?P<name>[A-Za-z0-9][A-Za-z0-9._+-]{0,199})"
    r"(?:@(?P<version>[0-9]{1,9}))?(?:/(?P<path>.+))?\Z",
    re.DOTALL,
)


@frozen
class Url:
    """A parsed address: scheme, place (host or bucket, '' for files) and the path below it as bytes, no slashes at
    either end except that of an absolute file path, which is left out too."""

    scheme: str
    place: str
    path: bytes

    def __str__(self) -> str:
        return f"{self.scheme}://{self.place}/{names.show(self.path)}"

    def below(self, prefix: bytes) -> Url:
        """The address of `prefix` under this one."""
        return Url(self.scheme, self.place, self.path + b"/" + prefix if self.path else prefix)

    @property
    def parent(self) -> tuple[Url, bytes]:
        """The folder above, and the last part of the name (b'' at the top)."""
        head, _, tail = self.path.rpartition(b"/")
        return Url(self.scheme, self.place, head), tail


def parse(text: str, cwd: str = "") -> Url:
    """The address in `text`; a path is taken relative to `cwd` (absolute).  Invalid says what to write."""
    if "://" not in text:
        return _local(text, cwd)
    scheme, _, rest = text.partition("://")
    place, _, path = rest.partition("/")
    if not _SCHEME.match(scheme):
        raise Invalid(f"not a URL: {_clean(text)}", code="bad-url", remedy=_FORMS)
    if "@" in place or (place and not (_HOST if scheme.startswith(("s3+", "http")) else _BUCKET).match(place)):
        # A secret may hold a slash: then what stands before it looks like a place with a colon; no word is repeated.
        tail = place.rpartition("@")[2] if "@" in place else ""
        raise Invalid(
            f"no user or password in a URL: {scheme}://…{'@' + tail if tail else ''}",
            code="secret-in-url",
            remedy="put credentials into the environment or the protocol's own files (AWS_PROFILE, ~/.aws, ~/.netrc)",
        )
    if scheme == "file":
        if place not in ("", "localhost"):
            raise Invalid(f"a file URL names no host: {_clean(text)}", code="bad-url", remedy="file:///absolute/path")
        return _local("/" + path, "", escaped=True)
    if not place:
        raise Invalid(f"no host or bucket: {_clean(text)}", code="bad-url", remedy=_FORMS)
    key = names.read(path).strip(b"/")
    if key:
        names.check(key)
    return Url(scheme, place, key)


def _local(text: str, cwd: str, *, escaped: bool = False) -> Url:
    if not text or "\0" in text or (escaped and b"\0" in names.read(text)):
        raise Invalid("an empty path", code="bad-url", remedy=_FORMS)
    if not text.startswith("/"):
        if not cwd:
            raise Invalid(f"not a URL or an absolute path: {_clean(text)}", code="bad-url", remedy=_FORMS)
        text = os.path.join(cwd, text)
    raw = names.read(text) if escaped else os.fsencode(text)
    return Url("file", "", os.path.normpath(raw).lstrip(b"/"))


_FORMS = "write an absolute path, ./path, file:///path, s3://bucket/prefix, https://host/path or scope:name"


def _clean(text: str) -> str:
    """The text without anything that might be a password, at most 200 characters."""
    return names.show(re.sub(r"//[^/@]*@", "//…@", text).encode("utf-8", "surrogateescape"))[:200]


@frozen
class DatasetId:
    """`scope:name[@version][/path]`; version 0 means the newest."""

    scope: str
    name: str
    version: int = 0
    path: bytes = b""

    def __str__(self) -> str:
        version = f"@{self.version}" if self.version else ""
        path = f"/{names.show(self.path)}" if self.path else ""
        return f"{self.scope}:{self.name}{version}{path}"

    @property
    def key(self) -> str:
        """`scope:name` alone."""
        return f"{self.scope}:{self.name}"


def is_dataset(text: str) -> bool:
    """Whether the text is meant as a dataset id rather than a URL or a path."""
    return "://" not in text and not text.startswith(("/", "./", "../")) and ":" in text


def dataset(text: str) -> DatasetId:
    """The dataset id in `text`; Invalid says what is legal."""
    found = _ID.match(text)
    if not found:
        raise Invalid(
            f"not a dataset id: {_clean(text)}",
            code="bad-dataset-id",
            remedy="write scope:name, scope:name@version or scope:name/path; letters, digits and . _ - + (the scope "
            "without +), beginning with a letter or digit; a local path with a colon starts with ./ or /",
        )
    path = names.read(found["path"]) if found["path"] else b""
    if path:
        names.check(path)
    return DatasetId(found["scope"], found["name"], int(found["version"] or 0), path)
