"""Ready-made, signed S3 requests: AWS Signature Version 4 with an unsigned payload.

One SHA-256 and one HMAC a request; the key is derived once a day, the date once a second.  Bodies are covered by
Content-MD5, which is signed.  https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from dls.logistics.credentials import S3Credentials
from dls.logistics.stores.http_address import Pair

_UNSAFE_VALUE = re.compile(rb"[^A-Za-z0-9._~-]")
_PAYLOAD = b"UNSIGNED-PAYLOAD"


def query(pairs: Iterable[Pair]) -> bytes:
    """A query string in the signature's own form: sorted, encoded, each name with '='."""
    return b"&".join(sorted(_UNSAFE_VALUE.sub(_percent, k) + b"=" + _UNSAFE_VALUE.sub(_percent, v) for k, v in pairs))


def _percent(match: re.Match[bytes]) -> bytes:
    return b"%%%02X" % match[0][0]


class _Second(NamedTuple):
    """What all requests of one second share."""

    second: int
    date: bytes
    key: bytes
    scope: bytes


class Signer:
    """Makes the heads of requests to one service.  Used from many threads."""

    def __init__(self, credentials: S3Credentials, host: str) -> None:
        self._secret = b"AWS4" + credentials.secret_key.encode()
        self._access = credentials.access_key.encode()
        self._token = credentials.session_token.encode()
        self._region = credentials.region.encode()
        self._host = host.encode("idna") if not host.isascii() else host.encode()
        self._now = _Second(0, b"", b"", b"")

    def __repr__(self) -> str:
        return f"Signer({self._host.decode()!r})"

    def head(
        self,
        method: bytes,
        target: bytes,
        args: bytes = b"",
        headers: Sequence[Pair] = (),
        length: int = -1,
    ) -> bytes:
        """The head of a request, signed now.

        `target` is a quoted path, `args` a query made by `query`, `headers` in lower case and sorted, none of them
        empty; `length` is that of the body, -1 without one.
        """
        line = b"%b %b?%b HTTP/1.1\r\n" % (method, target, args) if args else b"%b %b HTTP/1.1\r\n" % (method, target)
        out = [line, b"host: ", self._host, b"\r\n"]
        if length >= 0:
            out.append(b"content-length: %d\r\n" % length)
        out += [b"%b: %b\r\n" % pair for pair in headers]
        if self._access:
            out.append(self._authorization(method, target, args, headers))
        out.append(b"\r\n")
        return b"".join(out)

    def _authorization(self, method: bytes, target: bytes, args: bytes, headers: Sequence[Pair]) -> bytes:
        second = int(time.time())
        now = self._now if self._now.second == second else self._tick(second)
        signed = [*headers, (b"host", self._host), (b"x-amz-content-sha256", _PAYLOAD), (b"x-amz-date", now.date)]
        if self._token:
            signed.append((b"x-amz-security-token", self._token))
        signed.sort()
        canonical = b"".join([b"%b:%b\n" % pair for pair in signed])
        names = b";".join([name for name, _ in signed])
        asked = b"%b\n%b\n%b\n%b\n%b\n%b" % (method, target, args, canonical, names, _PAYLOAD)
        text = b"AWS4-HMAC-SHA256\n%b\n%b\n%b" % (now.date, now.scope, hashlib.sha256(asked).hexdigest().encode())
        signature = hmac.digest(now.key, text, "sha256").hex().encode()
        token = b"x-amz-security-token: %b\r\n" % self._token if self._token else b""
        return (
            b"x-amz-content-sha256: %b\r\nx-amz-date: %b\r\n%bauthorization: AWS4-HMAC-SHA256 Credential=%b/%b,"
            b"SignedHeaders=%b,Signature=%b\r\n"
        ) % (_PAYLOAD, now.date, token, self._access, now.scope, names, signature)

    def _tick(self, second: int) -> _Second:
        date = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(second)).encode()
        day = date[:8]
        scope = day + b"/" + self._region + b"/s3/aws4_request"
        if self._now.scope == scope:
            key = self._now.key
        else:
            key = self._secret
            for step in (day, self._region, b"s3", b"aws4_request"):
                key = hmac.digest(key, step, "sha256")
        self._now = _Second(second, date, key, scope)
        return self._now
