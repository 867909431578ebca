"""What an S3 service's refusal means to a user, and what to do about it."""

from __future__ import annotations

from dls.logistics.errors import Conflict, Corrupt, Denied, DlsError, Invalid, NotFound, Unavailable, Unsupported
from dls.logistics.names import show
from dls.logistics.stores.http_wire import Reply
from dls.logistics.stores.markup import tag

_Row = tuple[type[DlsError], str, str, str]
_KEYS = "check the credentials from {source}"
_AGAIN = "run the same again later"
# By the service's own code first, then by status.
_CODES: dict[bytes, _Row] = {
    b"NoSuchBucket": (NotFound, "no-bucket", "there is no bucket {bucket}", "check the name, or create it"),
    b"NoSuchUpload": (NotFound, "no-upload", "the upload of {what} is gone", "begin it anew"),
    b"RequestTimeTooSkewed": (Denied, "clock-skew", "this machine's clock is wrong", "set it (NTP), then run again"),
    b"ExpiredToken": (
        Denied,
        "credentials-expired",
        "the session has expired",
        "get new ones; these came from {source}",
    ),
    b"TokenRefreshRequired": (
        Denied,
        "credentials-expired",
        "the session has expired",
        "get new ones; these came from {source}",
    ),
    b"InvalidAccessKeyId": (Denied, "wrong-credentials", "{bucket}: the access key is unknown", _KEYS),
    b"SignatureDoesNotMatch": (Denied, "wrong-credentials", "{bucket}: the secret key is wrong", _KEYS),
    b"InvalidToken": (Denied, "wrong-credentials", "{bucket}: the session token is wrong", _KEYS),
    b"AuthorizationHeaderMalformed": (Denied, "wrong-credentials", "{bucket}: the region or key is wrong", _KEYS),
    b"QuotaExceeded": (Unavailable, "disk-full", "the quota leaves no space for {what}", "free space there"),
    b"InvalidObjectState": (Unavailable, "offline", "{what} is archived", "recall it first"),
    b"BadDigest": (Corrupt, "changed-on-the-wire", "{what} arrived other than it was sent", "run the same again"),
    b"EntityTooLarge": (Unsupported, "too-large", "{what} is too large for this service", "pack it otherwise"),
    b"KeyTooLongError": (Unsupported, "name-not-held", "the name {what} is too long for this service", "rename it"),
    b"SlowDown": (Unavailable, "service-busy", "the service asks for fewer requests ({what})", _AGAIN),
}
_STATUSES: dict[int, _Row] = {
    401: (Denied, "wrong-credentials", "{bucket}: the credentials are refused", _KEYS),
    403: (
        Denied,
        "no-access",
        "no permission for {what}",
        "ask its owner, or use other credentials than those from {source}",
    ),
    404: (NotFound, "no-such-key", "there is no {what}", "check the name"),
    405: (Unsupported, "no-such-verb", "this service refuses that of {what}", "choose another storage"),
    409: (Conflict, "busy", "{what} is being changed by somebody", _AGAIN),
    412: (Conflict, "source-changed", "{what} changed meanwhile", _AGAIN),
    429: (Unavailable, "service-busy", "the service asks for fewer requests ({what})", _AGAIN),
    501: (Unsupported, "no-such-verb", "this service cannot do that with {what}", "choose another storage"),
    503: (Unavailable, "service-busy", "the service is busy ({what})", _AGAIN),
    507: (Unavailable, "disk-full", "no space left for {what}", "free space there"),
}


def refused(reply: Reply, url: str, source: str, key: bytes | None = None) -> DlsError:
    """The error in a reply: `url` is the store's, `source` says where the credentials came from."""
    code = tag(reply.body, b"Code")
    what = f"{url.rstrip('/')}/{show(key)}" if key is not None else url
    facts = {
        "store": url,
        "key": show(key) if key is not None else None,
        "status": reply.status,
        "answer": code.decode("ascii", "replace")[:80] or None,
    }
    region = (reply.header(b"x-amz-bucket-region") or tag(reply.body, b"Region")).decode("ascii", "replace")
    if region and (reply.status in (301, 307, 308) or code == b"AuthorizationHeaderMalformed"):
        return Invalid(
            f"{url} lies in the region {region}", code="wrong-region", remedy=f"AWS_REGION={region}", **facts
        )
    row = _CODES.get(code) or _STATUSES.get(reply.status) or _other(reply)
    kind, ours, message, remedy = row
    return kind(message.format(what=what, bucket=url), code=ours, remedy=remedy.format(source=source), **facts)


def _other(reply: Reply) -> _Row:
    said = " ".join(filter(None, (tag(reply.body, n).decode("utf-8", "replace") for n in (b"Code", b"Message"))))
    said = f"{reply.status} {show(said.encode())[:200]}".strip().replace("{", "(").replace("}", ")")
    if reply.status >= 500 or reply.status == 200:  # AWS may say 200 and then why not
        return Unavailable, "service-error", f"{{what}}: the service fails ({said})", _AGAIN
    if reply.status < 400:
        return Invalid, "wrong-endpoint", f"{{what}} is served elsewhere ({said})", "AWS_ENDPOINT_URL"
    return Invalid, "refused", f"{{what}}: the service refuses this ({said})", ""
