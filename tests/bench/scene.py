"""What several benches share: a source of files or one large file, an S3 server over a folder in memory."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench.rounds import Place
from components import tree
from components.s3 import S3Service
from components.s3_rclone import rclone_s3

BUCKET = "bench-bucket"
SMALL = 10_000  # bytes of a small file


@dataclass(frozen=True)
class S3Scene:
    """A server whose bucket holds `source` (a folder, or a folder with the one file `big`) under `prefix`."""

    server: S3Service
    source: Path
    prefix: str
    files: int
    bytes: int

    @property
    def pids(self) -> list[int]:
        """Processes of the server."""
        return [child.pid for child in self.server.children]

    def stored(self, prefix: str) -> Path:
        """Where the server keeps what is uploaded below a prefix."""
        assert self.server.root is not None
        return self.server.root / BUCKET / prefix


def small_count(full: bool) -> int:
    """Number of small files."""
    return 20_000 if full else 2_000


def big_size(full: bool) -> int:
    """Size of the large file in bytes."""
    return 4_000_000_000 if full else 512_000_000


def small_s3(stack: ExitStack, place: Place, full: bool) -> S3Scene:
    """Serve small files over S3 from memory."""
    return _serve(stack, place, small_count(full), None)


def big_s3(stack: ExitStack, place: Place, full: bool) -> S3Scene:
    """Serve one large file over S3 from memory."""
    return _serve(stack, place, 1, big_size(full))


def _serve(stack: ExitStack, place: Place, files: int, size: int | None) -> S3Scene:
    work = place.memory / ("small" if size is None else "big")
    root = work / "s3-root"
    source = root / BUCKET / "in"
    total = tree.small(source, files, size=SMALL) if size is None else tree.large(source / "big", size)
    # Not `fresh`: the tree is there before the server starts, and all that is added comes through it.
    server = stack.enter_context(rclone_s3(work, root, fresh=False))
    client = server.client()
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
        print(f"  server knows {page.get('KeyCount', 0)} objects", file=sys.stderr)  # and their MD5, from now on
    return S3Scene(server, source, "in", files, total)
