"""One entry of a tree: its name, kind, attributes and proven content."""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Final, NamedTuple

from dls.logistics import digest as digests
from dls.logistics import names


class Kind(IntEnum):
    """What an entry is.  Sockets, pipes and devices are not data and are refused where they are met."""

    FILE = 0
    LINK = 1
    """A symbolic link; `target` is its text."""
    FOLDER = 2
    """A folder that matters by itself: empty, or with a mode other than 0755."""


FILE: Final = 0
LINK: Final = 1
FOLDER: Final = 2

NO_MODE: Final = 0xFFFF
"""The place this entry was seen in keeps no permission bits."""
NO_TIME: Final = -(2**63)
"""The place this entry was seen in keeps no modification time."""


class Entry(NamedTuple):
    """One entry.  A plain tuple: a walk makes one per file and columns are cut from many at C speed."""

    path: bytes
    """Relative name, '/' between parts; order is that of the bytes."""
    kind: int
    """FILE, LINK or FOLDER (see Kind)."""
    size: int = 0
    """Bytes of a file; 0 otherwise."""
    digest: bytes = digests.UNKNOWN
    """BLAKE3-256 of a file's content; all zero where not hashed, and for links and folders."""
    mode: int = NO_MODE
    """Permission bits (07777) or NO_MODE."""
    mtime_ns: int = NO_TIME
    """Modification time, nanoseconds since the epoch, or NO_TIME."""
    target: bytes = b""
    """LINK: the text of the link.  FILE: the first name of its hard-link group where that is another name."""
    blocks: bytes = b""
    """Block digests of a file over 64 MiB, 32 bytes each, joined."""

    def to_json(self) -> dict[str, Any]:
        """The entry as programs read it; unknown attributes are left out."""
        out: dict[str, Any] = {"path": names.show(self.path), "kind": Kind(self.kind).name.lower(), "size": self.size}
        if self.digest != digests.UNKNOWN:
            out["digest"] = digests.text(self.digest)
        if self.mode != NO_MODE:
            out["mode"] = f"{self.mode:04o}"
        if self.mtime_ns != NO_TIME:
            out["mtime_ns"] = self.mtime_ns
        if self.target:
            out["target"] = names.show(self.target)
        return out
