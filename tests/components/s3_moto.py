"""moto's S3 server: storage classes, restore from Glacier and other odd features. Slow, and accepts wrong secrets."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from components.process import Child, free_port
from components.s3 import S3Service, http_answers, new_keys


@contextmanager
def moto_s3(work: Path) -> Iterator[S3Service]:
    """Start moto with everything in memory; its content ends with it."""
    access_key, secret_key = new_keys()
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    child = Child(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        log=work / "moto-s3.log",
        env={**os.environ, "AWS_EC2_METADATA_DISABLED": "true"},
    )
    with child:
        child.wait_ready(lambda: http_answers(endpoint + "/moto-api/"), within=60, every=0.1)
        yield S3Service(endpoint, access_key, secret_key, (child,))
