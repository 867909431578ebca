"""Headers and index pages, read without trust."""

import base64
import hashlib
import html
import json
import urllib.parse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dls.logistics.stores import http_headers, http_index
from dls.logistics.stores.http_address import quote
from dls.logistics.stores.http_headers import Range
from dls.logistics.stores.http_index import Row
from dls.logistics.stores.http_wire import Head
from dls.logistics.testing.strategies import parts

NUMBERS = st.integers(0, 10**17)


def head(*lines: str, status: int = 200) -> Head:
    return Head("\r\n".join([f"HTTP/1.1 {status} Said", *lines, ""]).encode("latin-1"), bare=False)


@given(NUMBERS, NUMBERS, st.one_of(st.none(), NUMBERS))
@pytest.mark.spec("HTTP-3")
def test_content_range(start: int, last: int, total: int | None) -> None:
    said = f"bytes {start}-{last}/{'*' if total is None else total}".encode()
    found = http_headers.content_range(said)
    if start > last or (total is not None and last >= total):
        assert found is None
    else:
        assert found == Range(start, last + 1, -1 if total is None else total)
    assert http_headers.nothing_of(b"bytes */%d" % start) == start
    assert http_headers.nothing_of(said) == -1


@given(st.binary(max_size=40))
@pytest.mark.spec("HTTP-3")
def test_what_is_no_range(value: bytes) -> None:
    found = http_headers.content_range(value)
    assert found is None or (0 <= found.start < found.stop and (found.total < 0 or found.stop <= found.total))
    assert http_headers.nothing_of(value) >= -1


@given(st.binary(max_size=200), st.booleans())
@pytest.mark.spec("HTTP-10")
def test_any_head_is_read_or_refused(raw: bytes, begun: bool) -> None:
    raw = (b"HTTP/1.1 200 OK\r\n" if begun else b"") + raw + b"\r\n"
    try:
        found = Head(raw, bare=False)
    except ValueError:
        return
    assert 0 <= found.status <= 999
    assert found.length >= -1
    assert not (found.chunked and found.length >= 0)


@pytest.mark.parametrize(
    "lines",
    [
        ["Content-Length: -1"],
        ["Content-Length: +5"],
        ["Content-Length: 1_0"],
        ["Content-Length: 5, 5"],
        ["Content-Length: 5", "Content-Length: 5"],
        ["Content-Length: 99999999999999999999"],
        ["Transfer-Encoding: gzip, chunked"],
        ["Transfer-Encoding: identity"],
    ],
)
@pytest.mark.spec("HTTP-4")
def test_lengths_that_are_none(lines: list[str]) -> None:
    with pytest.raises(ValueError, match=r"."):
        head(*lines)


@pytest.mark.parametrize(
    ("lines", "kind"),
    [
        (['ETag: "a"', "Last-Modified: Sat, 01 Jan 2022 00:00:00 GMT"], b"e"),
        (['ETag: W/"a"', "Last-Modified: Sat, 01 Jan 2022 00:00:00 GMT"], b"m"),
        (["ETag: a", "Last-Modified: Sat, 01 Jan 2022 00:00:00 GMT"], b"m"),
        (['ETag: ""', "Last-Modified: Sat, 01 Jan 2022 00:00:00 GMT"], b"m"),
        (['ETag: "a b"'], b"n"),
        (['ETag: "' + "a" * 600 + '"'], b"n"),
        (["Last-Modified: "], b"n"),
        ([], b"n"),
    ],
)
@pytest.mark.spec("HTTP-5")
def test_what_is_evidence_of_a_version(lines: list[str], kind: bytes) -> None:
    which = http_headers.version(head(*lines))
    stamp = http_headers.stamp(which, 7, b"mine")
    assert stamp[:1] == kind
    assert stamp != http_headers.stamp(which, 8, b"mine")
    assert (stamp == http_headers.stamp(which, 7, b"other")) == (kind != b"n")
    asked = dict(http_headers.conditions(stamp))
    assert asked == {b"e": {b"if-match": b'"a"'}, b"m": {b"if-unmodified-since": which.modified}, b"n": {}}[kind]


@given(st.binary(max_size=50))
@pytest.mark.spec("HTTP-12")
def test_sums(data: bytes) -> None:
    def b64(name: str) -> str:
        return base64.b64encode(hashlib.new(name, data).digest()).decode()

    said = head(
        f"Repr-Digest: sha-256=:{b64('sha256')}:, unixsum=:AAAA:",
        f"Digest: SHA={b64('sha1')}, adler32=3e1,sha-512=!!",
        f"Content-MD5: {b64('md5')}",
    )
    assert http_headers.sums(said) == {
        "sha256": hashlib.sha256(data).hexdigest(),
        "sha1": hashlib.sha1(data).hexdigest(),
        "md5": hashlib.md5(data).hexdigest(),
        "adler32": "000003e1",
    }
    assert http_headers.sums(head("Digest: md5=AAAA, sha-256=zzzz=", "Content-MD5: no")) == {}


# --------------------------------------------------------------------------------------------------------- indexes

NAMES = st.lists(st.tuples(parts(), st.booleans()), max_size=6, unique_by=lambda pair: pair[0])


def link(name: bytes, folder: bool, quoting: str) -> str:
    """A link as servers write it: nginx and Python quote nearly all, Apache leaves more, and escapes it."""
    safe = "/" if quoting == "python" else "/!$&'()*+,;=:@"
    text = urllib.parse.quote(name, safe=safe) + ("/" if folder else "")
    return html.escape("./" + text if ":" in text else text)


@given(NAMES, st.sampled_from(["python", "apache", "whole"]))
@pytest.mark.spec("HTTP-9")
def test_html_indexes(names: list[tuple[bytes, bool]], form: str) -> None:
    path = b"/data set/%/"
    above = quote(path).decode() if form == "whole" else ""
    title = "Directory listing for" if form == "python" else "Index of"
    links = [f'<a href="{above}{link(n, f, form).removeprefix("./" if above else "")}">x</a>  1.2K' for n, f in names]
    page = (
        f"<html><head>\n<title>{title} /data set/</title></head><body><a href='?C=N;O=D'>Name</a><a href=\"../\">..</a>"
        '<a href="/">up</a><a href="https://x/y">z</a><a href="//x/y">z</a><a href="deep/er/">z</a><a href="#a">z</a>'
    )
    found = http_index.rows(b"Text/HTML; charset=utf-8", (page + "\n".join(links)).encode(), path)
    assert found is not None
    assert sorted(found) == sorted(Row(name, folder, -1) for name, folder in names)


@given(NAMES)
@pytest.mark.spec("HTTP-9")
def test_json_indexes(names: list[tuple[bytes, bool]]) -> None:
    rows = [
        {"name": n.decode("utf-8", "surrogateescape"), "type": "directory" if f else "file", "mtime": "x", "size": 5}
        for n, f in names
    ]
    body = json.dumps(rows, ensure_ascii=False).encode("utf-8", "surrogateescape")
    found = http_index.rows(b"application/json", body, b"/")
    assert found == [Row(name, folder, -1 if folder else 5) for name, folder in names]


@given(st.binary(max_size=60))
@pytest.mark.spec("HTTP-9")
def test_what_is_no_index(body: bytes) -> None:
    assert http_index.rows(b"text/html", b"<html><title>My home</title><a href='x'>x</a>" + body, b"/") is None
    assert http_index.rows(b"text/plain", b"<title>Index of /</title>" + body, b"/") is None
    for bad in (body, b'{"a": 1}', b'[{"name": 1, "type": "file"}]', b'[{"name": "x"}]', b"[" * 100_000):
        found = http_index.rows(b"application/json", bad, b"/")
        assert found is None
    with pytest.raises(http_index.Special):
        http_index.rows(b"application/json", b'[{"name": "pipe", "type": "other"}]', b"/")
