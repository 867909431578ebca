"""The least that each work asks, as programs: `python -m bench.floors NAME ARGUMENT…` (keys come from `AWS_*`)."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

THREADS = 16
PART = 16 << 20


def obstore_get(bucket: str, prefix: str, target: str) -> None:
    """List, get each object in 16 threads, write it; no hash."""
    store = _store(bucket, prefix)
    names = [item["path"] for page in store.list() for item in page]
    for folder in {os.path.dirname(name) for name in names}:
        os.makedirs(os.path.join(target, folder), exist_ok=True)

    def fetch(name: str) -> None:
        data = store.get(name).bytes()
        fd = os.open(os.path.join(target, name), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        os.write(fd, data)
        os.close(fd)

    _in_threads(fetch, names)


def obstore_put(source: str, bucket: str, prefix: str) -> None:
    """Put each file with 16 threads; no hash."""
    store = _store(bucket, prefix)

    def send(name: str) -> None:
        store.put(name, Path(source, name).read_bytes(), use_multipart=False)

    _in_threads(send, list(_files(source)))


def ranges(bucket: str, key: str, target: str) -> None:
    """Get one object as ranges of 16 MiB over 4 plain connections into one preallocated file; no hash.

    Not with obstore: `rclone serve s3` answers a range with status 200, which obstore refuses.
    """
    import http.client

    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest

    client = _boto3()
    size = client.head_object(Bucket=bucket, Key=key)["ContentLength"]
    keys = client._get_credentials()
    url = f"{os.environ['AWS_ENDPOINT_URL']}/{bucket}/{key}"
    os.makedirs(os.path.dirname(target), exist_ok=True)
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    os.posix_fallocate(fd, 0, size)

    def fetch(starts: list[int]) -> None:
        link = http.client.HTTPConnection(url.split("/")[2])
        buffer = memoryview(bytearray(1 << 20))
        for start in starts:
            request = AWSRequest("GET", url, {"Range": f"bytes={start}-{min(start + PART, size) - 1}"})
            S3SigV4Auth(keys, "s3", os.environ["AWS_REGION"]).add_auth(request)
            link.request("GET", f"/{bucket}/{key}", headers=dict(request.headers.items()))
            answer = link.getresponse()
            at = start
            while got := answer.readinto(buffer):
                os.pwrite(fd, buffer[:got], at)
                at += got
            if at != min(start + PART, size):
                raise OSError(f"range at {start} ended at {at}, status {answer.status}")

    starts = list(range(0, size, PART))
    _in_threads(fetch, [starts[first::4] for first in range(4)], threads=4)
    os.close(fd)


def obstore_multipart(source: str, bucket: str, key: str) -> None:
    """Put one file as multipart upload, 8 parts of 16 MiB at once; no hash."""
    _store(bucket, "").put(key, Path(source), chunk_size=PART, max_concurrency=8, use_multipart=True)


def scan(root: str) -> None:
    """`scandir` and `stat` of every file: what finding nothing to do costs at least."""
    stack = [os.fsencode(root)]
    while stack:
        with os.scandir(stack.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    stack.append(entry.path)
                else:
                    entry.stat(follow_symlinks=False)


def copy_range(source: str, target: str) -> None:
    """`copy_file_range` of every file; no hash."""

    def copy(reader: int, writer: int, size: int) -> None:
        while size:
            done = os.copy_file_range(reader, writer, min(size, 1 << 30))
            if not done:
                break
            size -= done

    _copy_tree(source, target, copy)


def hash_copy(source: str, target: str) -> None:
    """Read, BLAKE3, write every file."""
    from blake3 import blake3

    buffer = memoryview(bytearray(1 << 20))

    def copy(reader: int, writer: int, size: int) -> None:
        digest = blake3()
        while got := os.readv(reader, [buffer]):
            digest.update(buffer[:got])
            os.write(writer, buffer[:got])
        digest.digest()

    _copy_tree(source, target, copy)


def hash_only(source: str) -> None:
    """Read and BLAKE3 every file: what verifying costs by itself."""
    from blake3 import blake3

    buffer = memoryview(bytearray(1 << 20))
    for name in _files(source):
        fd = os.open(os.path.join(source, name), os.O_RDONLY)
        digest = blake3()
        while got := os.readv(fd, [buffer]):
            digest.update(buffer[:got])
        digest.digest()
        os.close(fd)


def boto3_get(bucket: str, key: str, target: str) -> None:
    """A peer, not a floor: boto3's TransferManager, its defaults."""
    os.makedirs(os.path.dirname(target), exist_ok=True)
    _boto3().download_file(bucket, key, target)


def boto3_put(source: str, bucket: str, key: str) -> None:
    """A peer, not a floor: boto3's TransferManager, its defaults."""
    _boto3().upload_file(source, bucket, key)


def _boto3() -> Any:
    import boto3
    from botocore.config import Config

    settings = Config(response_checksum_validation="when_required", request_checksum_calculation="when_required")
    return boto3.client("s3", config=settings)


def _store(bucket: str, prefix: str) -> Any:
    from obstore.store import S3Store

    return S3Store(
        bucket,
        prefix=prefix or None,
        endpoint=os.environ["AWS_ENDPOINT_URL"],
        region=os.environ["AWS_REGION"],
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
    )


def _in_threads(work: Callable[[Any], object], items: list[Any], threads: int = THREADS) -> None:
    """Each thread takes its share in slices: one future per file would be a cost of our own."""

    def share(start: int) -> None:
        for item in items[start::threads]:
            work(item)

    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(share, start) for start in range(threads)]:
            done.result()


def _copy_tree(source: str, target: str, copy: Callable[[int, int, int], None]) -> None:
    made: set[str] = set()
    for name in _files(source):
        folder = os.path.dirname(name)
        if folder not in made:
            os.makedirs(os.path.join(target, folder), exist_ok=True)
            made.add(folder)
        reader = os.open(os.path.join(source, name), os.O_RDONLY)
        writer = os.open(os.path.join(target, name), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        copy(reader, writer, os.fstat(reader).st_size)
        os.close(reader)
        os.close(writer)


def _files(root: str) -> Iterator[str]:
    stack = [""]
    while stack:
        here = stack.pop()
        with os.scandir(os.path.join(root, here)) as entries:
            for entry in entries:
                path = os.path.join(here, entry.name)
                if entry.is_dir(follow_symlinks=False):
                    stack.append(path)
                else:
                    yield path


PROGRAMS: dict[str, Callable[..., None]] = {
    work.__name__.replace("_", "-"): work
    for work in (
        *(obstore_get, obstore_put, obstore_multipart, ranges),
        *(scan, copy_range, hash_copy, hash_only, boto3_get, boto3_put),
    )
}

if __name__ == "__main__":
    PROGRAMS[sys.argv[1]](*sys.argv[2:])
