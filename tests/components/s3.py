"""What every S3 component offers: address, keys, environment, buckets and a plain client (a side door for tests)."""

from __future__ import annotations

import secrets
import shutil
import sys
import sysconfig
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.process import Child, NotReady

REGION = "us-east-1"


def new_keys() -> tuple[str, str]:
    """Return a random access key (20 capitals) and secret key for one server's life."""
    return "DLS" + secrets.token_hex(9).upper()[:17], secrets.token_hex(20)


def program(name: str) -> Path:
    """Find a program beside our interpreter (wheels put them there), then on PATH."""
    for folder in (Path(sys.executable).parent, Path(sysconfig.get_path("scripts"))):
        if (folder / name).exists():
            return folder / name
    found = shutil.which(name)
    if found is None:
        raise NotReady(f"program {name!r} is not installed")
    return Path(found)


def http_answers(url: str, timeout: float = 2.0) -> bool:
    """Tell whether an HTTP server gives any response there, an error status included."""
    try:
        urllib.request.urlopen(url, timeout=timeout).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


@dataclass(frozen=True)
class S3Service:
    """A running S3 server on loopback.

    `root` is the folder whose sub-folders are buckets, where the server keeps plain files (rclone), else None.
    `children` are its processes: `pause()` freezes them all, as a hanging server does.
    """

    endpoint: str
    access_key: str
    secret_key: str = field(repr=False)
    children: tuple[Child, ...] = ()
    root: Path | None = None
    region: str = REGION
    control: str = ""
    """Address of its remote control (rclone)."""

    def env(self, endpoint: str | None = None) -> dict[str, str]:
        """Return the `AWS_*` environment; `endpoint` overrides the address (a proxy in front)."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_ENDPOINT_URL": endpoint or self.endpoint,
            "S3_ENDPOINT_URL": endpoint or self.endpoint,  # s5cmd knows only this one
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ALLOW_HTTP": "true",
        }

    def client(self, *, secret_key: str | None = None, endpoint: str | None = None) -> Any:
        """Return a boto3 client that does not retry; ranged reads pass on rclone too."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=endpoint or self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=secret_key or self.secret_key,
            region_name=self.region,
            config=Config(
                response_checksum_validation="when_required",
                request_checksum_calculation="when_required",
                retries={"total_max_attempts": 1},
                s3={"addressing_style": "path"},
                connect_timeout=5,
                read_timeout=30,
            ),
        )

    def bucket(self, name: str) -> str:
        """Create a bucket and return its name."""
        if self.root is not None:
            (self.root / name).mkdir(exist_ok=True)
        else:
            self.client().create_bucket(Bucket=name)
        return name

    def look_again(self) -> bool:
        """Let the server forget what it knows of its folders; False where it has no such command."""
        if not self.control:
            return False
        urllib.request.urlopen(urllib.request.Request(f"{self.control}/vfs/forget", method="POST"), timeout=10).close()
        return True

    def pause(self) -> None:
        """Freeze the server: connections open, nothing answers."""
        for child in self.children:
            child.pause()

    def resume(self) -> None:
        """Let it go on."""
        for child in self.children:
            child.resume()
