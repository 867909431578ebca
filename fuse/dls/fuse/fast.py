"""The compiled hot path of images, where it is installed: the only home of `dls_fast` (`fuse/accelerator`).

It answers what is plain and leaves the rest to us, so everything is the same without it, but slower.  `DLS_FAST=0`
leaves it alone.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from dls.fuse.index import Index
    from dls.fuse.sources import LocalFile

CONTRACT: Final = 1
"""What a compiled path has to say of itself to be used: changed whenever what it does or is told changes."""


class Reader(Protocol):
    """Names and small files of an image on this machine."""

    def lookup(self, folder: int, name: bytes) -> bytes | None:
        """As `Tree.lookup`; None: look for it yourself."""
        ...

    def content(self, node: int) -> bytes | None:
        """All bytes of a file; None: read it yourself (it is large, damaged, or has to be waited for)."""
        ...

    def serve(self, fd: int, bell: int, helps: bool, beats: Any, at: int) -> tuple[bytes, bool] | None:
        """Answer requests of the kernel until one is for us: the request, and whether others wait; None once the mount
        is gone.  The time of each is written to `beats`, 8 bytes at `at`, unless that is negative."""
        ...


def reader_of(source: LocalFile, index: Index, block: int, frame: int, root: int) -> Reader | None:
    """The compiled path of an image that was opened, if there is one."""
    made = _module()
    if made is None:
        return None
    sections = index.header.sections
    sums = sections["sums"][0]

    def table(name: str) -> tuple[int, int, int]:
        at, size = sections[name]
        return at, size, sums + sections.get(name + " sums", (0, 0))[0]

    try:
        found: Reader = made.Reader(
            source.fd, source.size, source.mtime_ns, index.data, block, frame, root,
            table("names"), table("frames"), table("blocks"), sections["frame data"],
        )  # fmt: skip
    except (KeyError, ValueError, OverflowError):  # what does not fit together is told by those who read it in Python
        return None
    return found


def available() -> bool:
    """Whether images are read by it."""
    return _module() is not None


def _module() -> Any:
    if os.environ.get("DLS_FAST") == "0":
        return None
    try:
        import dls_fast
    except ImportError:
        return None
    return dls_fast if dls_fast.CONTRACT == CONTRACT else None
