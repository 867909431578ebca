"""Removing everything below a prefix of a bucket: keys, folder markers and unfinished uploads."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable, Sequence

from dls.logistics.errors import Denied, DlsError, Invalid, Unsupported
from dls.logistics.stores.http_address import quote
from dls.logistics.stores.http_pool import Job
from dls.logistics.stores.http_wire import Reply
from dls.logistics.stores.markup import tag, unescape
from dls.logistics.stores.s3_batch import batch
from dls.logistics.stores.s3_listing import listing, unquoted
from dls.logistics.stores.s3_sign import query
from dls.logistics.stores.s3_upload import md5
from dls.logistics.stores.s3_wire import Wire

_NOT_XML = re.compile("[\x00-\x1f\ufffe\uffff]")  # XML 1.0 cannot say these; U+007F and above it can
_Refused = Callable[[Reply], DlsError]


def wipe(wire: Wire, bucket: bytes, root: bytes, refused: _Refused) -> None:
    """Delete all below `root` (a prefix that ends in '/', or b'' for the whole bucket)."""
    for page in listing(wire, bucket, root, refused):
        delete_all(wire, bucket, [one.key for one in page], refused)
    _abort_uploads(wire, bucket, root, refused)


def delete_all(wire: Wire, bucket: bytes, keys: Sequence[bytes], refused: _Refused) -> None:
    """Delete up to 1,000 keys: by one request where XML can say them, the others one by one."""
    plain = [key for key in keys if not _NOT_XML.search(key.decode("utf-8", "replace"))]
    if plain and not _by_one_request(wire, bucket, plain, refused):
        plain = []
    told = set(plain)
    jobs = (Job(b"DELETE", bucket + b"/" + quote(key), key=key) for key in keys if key not in told)
    for _, reply in batch(wire, jobs, bucket):
        if isinstance(reply, DlsError):
            raise reply
        if reply.status not in (200, 204, 404):
            raise refused(reply)


def _by_one_request(wire: Wire, bucket: bytes, keys: Sequence[bytes], refused: _Refused) -> bool:
    """Whether the service could do it."""
    objects = b"".join(b"<Object><Key>%b</Key></Object>" % _escaped(key) for key in keys)
    body = b'<?xml version="1.0" encoding="UTF-8"?><Delete><Quiet>true</Quiet>%b</Delete>' % objects
    headers = ((b"content-md5", b64encode(md5(body))), (b"content-type", b"application/xml"))
    reply = wire.ask(Job(b"POST", bucket, b"delete=", headers, body))
    if reply.status != 200:
        error = refused(reply)
        if isinstance(error, Unsupported | Invalid):
            return False
        raise error
    # A key that it could not delete is asked for again, alone, so that the error is that key's own.
    return b"<Error>" not in reply.body


def _escaped(key: bytes) -> bytes:
    return key.replace(b"&", b"&amp;").replace(b"<", b"&lt;").replace(b">", b"&gt;")


def _abort_uploads(wire: Wire, bucket: bytes, root: bytes, refused: _Refused) -> None:
    """Free the parts of uploads that nobody finished.  Services that do not list them, or not to us, keep them."""
    while True:
        args = [(b"encoding-type", b"url"), (b"prefix", root), (b"uploads", b"")]
        reply = wire.ask(Job(b"GET", bucket, query(args)))
        if reply.status != 200:
            error = refused(reply)
            if isinstance(error, Unsupported | Invalid | Denied) or error.code == "no-upload":  # rclone: there are none
                return
            raise error
        encoded = tag(reply.body, b"EncodingType") == b"url"
        blocks = reply.body.split(b"<Upload>")[1:]
        for block in blocks:
            key = tag(block, b"Key")
            target = bucket + b"/" + quote(unquoted(key) if encoded else unescape(key))
            gone = wire.ask(Job(b"DELETE", target, query([(b"uploadId", tag(block, b"UploadId"))])))
            if gone.status not in (200, 204, 404):
                raise refused(gone)
        if not blocks or tag(reply.body, b"IsTruncated") != b"true":
            return
