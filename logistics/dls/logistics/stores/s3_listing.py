"""Listings of an S3 bucket: pages of keys, read without an XML parser, checked to be in order.

Pages are asked for by `start-after`, not by tokens: every service keeps to it, while tokens of some hold bytes that
their XML spoils.  Keys travel percent-encoded (`encoding-type=url`), with '+' for a blank on AWS and rclone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from dls.logistics.errors import DlsError, Unsupported
from dls.logistics.names import show
from dls.logistics.stores.http_pool import Job
from dls.logistics.stores.http_wire import Reply
from dls.logistics.stores.markup import tag, unescape
from dls.logistics.stores.s3_sign import query
from dls.logistics.stores.s3_wire import Wire

PAGE = 1000
_ESCAPED = re.compile(rb"%([0-9A-Fa-f]{2})")


class Listed(NamedTuple):
    """One key of a bucket."""

    key: bytes
    size: int
    etag: bytes


def listing(
    wire: Wire,
    bucket: bytes,
    prefix: bytes,
    refused: Callable[[Reply], DlsError],
    *,
    after: bytes = b"",
    most: int = PAGE,
) -> Iterator[list[Listed]]:
    """Pages of up to `most` keys that begin with `prefix`, sorted, lazily; `bucket` is its quoted target."""
    while True:
        args = [(b"list-type", b"2"), (b"encoding-type", b"url"), (b"max-keys", b"%d" % most), (b"prefix", prefix)]
        if after:
            args.append((b"start-after", after))
        reply = wire.ask(Job(b"GET", bucket, query(args)))
        if reply.status != 200:
            raise refused(reply)
        if b"<ListBucketResult" not in reply.body:
            raise wire.address.garbled("no listing")
        page = list(_contents(reply.body))
        last = after
        for one in page:
            if one.key <= last and last:
                raise Unsupported(
                    f"the service lists {show(one.key)} after {show(last)}: not in the order of bytes",
                    code="unsorted-listing",
                    remedy="a directory bucket cannot be a storage",
                )
            last = one.key
        yield page
        if not page or tag(reply.body, b"IsTruncated") != b"true":
            return
        after = last


def _contents(xml: bytes) -> Iterator[Listed]:
    encoded = tag(xml, b"EncodingType") == b"url"
    for block in xml.split(b"<Contents>")[1:]:
        start = block.find(b"<Key>") + 5
        key = block[start : block.find(b"</Key>", start)]
        if b"&" in key:
            key = unescape(key)
        if encoded:
            key = unquoted(key)
        start = block.find(b"<Size>") + 6
        size = int(block[start : block.find(b"</Size>", start)])
        start = block.find(b"<ETag>") + 6
        etag = block[start : block.find(b"</ETag>", start)]
        yield Listed(key, size, bare_etag(etag))


def unquoted(text: bytes) -> bytes:
    """A key as listings write it, percent-encoded."""
    if b"+" in text:
        text = text.replace(b"+", b" ")
    return _ESCAPED.sub(_byte, text) if b"%" in text else text


def _byte(found: re.Match[bytes]) -> bytes:
    return bytes((int(found[1], 16),))


def bare_etag(text: bytes) -> bytes:
    """An ETag without its quotes, as services write it in headers and, in three ways, in XML."""
    if b"&" in text:
        text = unescape(text)
    return text.strip(b'"')


def in_common(first: bytes, last: bytes) -> bytes:
    """What two names have in common at their beginnings, and so all names between them."""
    for n, (a, b) in enumerate(zip(first, last, strict=False)):
        if a != b:
            return first[:n]
    return first[: len(last)]


def is_utf8(key: bytes) -> bool:
    """Whether a service can hold a key of these bytes."""
    if key.isascii():
        return True
    try:
        key.decode()
    except UnicodeDecodeError:
        return False
    return True
