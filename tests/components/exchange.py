"""What the proxy sees and may do: a request with its response, faults that hit some of them, totals at a moment."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

LIST_WORDS = ("list-type", "prefix", "delimiter", "uploads", "versions", "marker", "max-keys", "location")


def s3_kind(method: str, target: str) -> str:
    """Name a path-style S3 request: GET (of an object's body), LIST, HEAD, PUT, PART, POST or DELETE."""
    path, _, query = target.partition("?")
    is_object = "/" in path.strip("/")
    words = {pair.partition("=")[0] for pair in query.split("&")}
    if method == "GET" and (not is_object or words & {*LIST_WORDS, "uploadId", "tagging", "acl"}):
        return "LIST"
    return "PART" if method == "PUT" and "partNumber" in words else method


def http_kind(method: str, target: str) -> str:
    """Name a plain HTTP request by its method."""
    return method


@dataclass
class Fault:
    """Something to do to matching requests: the `nth` (from 1) and the `times` - 1 after it (None: for ever).

    One of: `status` answers without asking the server; `cut` closes both ends after exactly that many
    body bytes (`reset`: by RST, which may overtake some of them); `flip` inverts the lowest bit of that body byte;
    `hang` never answers; `delay` waits that many seconds more.
    """

    kind: str | None = None
    path: str = ""
    nth: int = 1
    times: int | None = 1
    status: int | None = None
    cut: int | None = None
    flip: int | None = None
    reset: bool = False
    hang: bool = False
    delay: float = 0.0
    seen: int = field(default=0, init=False)
    fired: int = field(default=0, init=False)

    def takes(self, kind: str, target: str) -> bool:
        """Count a request if it matches and tell whether it is hit."""
        if (self.kind and kind != self.kind) or (self.path and not re.search(self.path, target)):
            return False
        self.seen += 1
        hit = self.seen >= self.nth and (self.times is None or self.seen < self.nth + self.times)
        self.fired += hit
        return hit


@dataclass(slots=True)
class Exchange:
    """One request and what came back; `finished` when the whole response passed."""

    number: int
    method: str
    target: str
    kind: str
    range: str = ""
    fault: Fault | None = None
    status: int = 0
    sent: int = 0
    received: int = 0
    finished: bool = False
    due: float = 0.0
    has_body: bool = False


@dataclass(frozen=True)
class Counts:
    """Totals at one moment: requests by kind, responses by (kind, status), payload bytes both ways."""

    requests: Counter[str]
    responses: Counter[tuple[str, int]]
    body_bytes: int
    upload_bytes: int
    connections: int

    @property
    def bodies(self) -> int:
        """Object bodies served: GET answered by 200 or 206."""
        return self.responses["GET", 200] + self.responses["GET", 206]
