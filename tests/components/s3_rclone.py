"""`rclone serve s3` over a plain folder: the fast S3 server, whose objects are files one can look at.

What it does not do (measured, 1.75): preconditions, versions, metadata that outlives the process, presigned GET. Parts
of a multipart upload are written in order. Put files behind its back only with `fresh=True`.

Of objects put at the same time into a folder that is not there yet some are refused (500, "file does not exist"), and
now and then one that was taken is looked for under its temporary name for ever after, so that its answers break off
(seen once in 131 rounds of 900 objects in 300 new folders, not in 269 rounds with the folders made before): make the
folders first where many are put.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from components.process import Child, free_port
from components.s3 import S3Service, http_answers, new_keys, program


@contextmanager
def rclone_s3(work: Path, root: Path | None = None, *, fresh: bool = True, etag: bool = True) -> Iterator[S3Service]:
    """Serve `root` (default `work`/s3-root); its sub-folders are buckets.

    `fresh` keeps a folder in its cache for 1 ms only: files written behind its back appear at once, and a small
    request costs two to three times as much. With `fresh=False` folders are kept for a day and a file changed
    behind its back is served with its old size. (0 s would list the folder for every request: 200 times slower.)
    The ETag is the MD5 of the file, computed at first touch and kept as long as the folder is: with `fresh`, every
    request for a large object, a range too, reads all of it first (1.4 s/GB). `etag=False` sends an empty ETag.
    """
    root = root or work / "s3-root"
    root.mkdir(parents=True, exist_ok=True)
    access_key, secret_key = new_keys()
    port, control = free_port(), free_port()
    child = Child(
        [
            program("rclone"),
            "serve",
            "s3",
            root,
            *("--addr", f"127.0.0.1:{port}"),
            *("--rc", "--rc-no-auth", "--rc-addr", f"127.0.0.1:{control}"),
            *("--vfs-cache-mode", "off"),
            *("--dir-cache-time", "1ms" if fresh else "24h"),
            *(() if etag else ("--etag-hash", "")),
        ],
        log=work / "rclone-s3.log",
        env={
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "HOME": str(work),
            "RCLONE_CONFIG": "/dev/null",
            "RCLONE_CACHE_DIR": str(work / "rclone-cache"),
            "RCLONE_AUTH_KEY": f'"{access_key},{secret_key}"',
        },
    )
    endpoint = f"http://127.0.0.1:{port}"
    with child:
        child.wait_ready(lambda: http_answers(endpoint), within=20)
        yield S3Service(endpoint, access_key, secret_key, (child,), root, control=f"http://127.0.0.1:{control}")
