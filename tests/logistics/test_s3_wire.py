"""The S3 wire against a server that does what servers do on bad days; the store itself is proven by the conformance
suite against real ones."""

import contextlib
import datetime as dt
import hashlib
import itertools
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.bad_http import Answer, BadServer, Request, etag, reply
from dls.logistics.credentials import S3Credentials
from dls.logistics.errors import Conflict, Corrupt, Denied, DlsError, Invalid, NotFound, Unavailable, Unsupported
from dls.logistics.store import Item, Want
from dls.logistics.stores import s3_batch, s3_upload
from dls.logistics.stores.http_address import quote
from dls.logistics.stores.s3 import S3Store
from dls.logistics.stores.s3_listing import unquoted
from dls.logistics.stores.s3_sign import Signer, query
from dls.logistics.url import parse

SECRET = "very/secret+key"
KEYS = S3Credentials("AKIDEXAMPLE", SECRET)

# ------------------------------------------------------------------------------------------------------ a bad server


def error(status: int, code: str) -> Answer:
    return Answer([reply(status, f"<Error><Code>{code}</Code></Error>".encode())])


class Server(BadServer):
    """A bad S3 service."""

    def store(self, **options: Any) -> S3Store:
        scheme = "s3+https" if self.tls else "s3+http"
        options = {"timeout_s": 5.0, "credentials": KEYS, **options}
        return S3Store(parse(f"{scheme}://localhost:{self.port}/b"), **options)

    def plain(self, request: Request) -> Answer:
        """What an S3 server answers."""
        key, query_ = request.key, request.target.partition("?")[2]
        if "list-type=2" in query_:
            most = re.search(r"max-keys=(\d+)", query_)[1]  # type: ignore[index]
            return Answer([reply(200, b"<ListBucketResult><MaxKeys>%b</MaxKeys></ListBucketResult>" % most.encode())])
        if request.method == "PUT":
            self.objects[key] = request.body
            return Answer([reply(200, b"", etag(request.body))])
        if request.method == "DELETE":
            self.objects.pop(key, None)
            return Answer([b"HTTP/1.1 204 No Content\r\n\r\n"])
        if key not in self.objects:
            whole = error(404, "NoSuchKey").pieces[0]
            return Answer([whole.partition(b"<")[0] if request.method == "HEAD" else whole])
        body = self.objects[key]
        head = [etag(body)]
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", "")):
            start, stop = int(wanted[1]), min(int(wanted[2] or len(body)) + 1, len(body))
            if start >= len(body):
                return error(416, "InvalidRange")
            head.append(f"Content-Range: bytes {start}-{stop - 1}/{len(body)}")
            return Answer([reply(206, body[start:stop], *head)])
        whole = reply(200, body, *head)
        return Answer([whole[: len(whole) - len(body)] if request.method == "HEAD" else whole])


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


@pytest.fixture
def store(server: Server) -> Iterator[S3Store]:
    store = server.store()
    yield store
    store.close()


def get(store: S3Store, key: bytes = b"k", start: int = 0, stop: int | None = None) -> bytes:
    return b"".join(store.read(key, start, stop))


def fill(server: Server, count: int, size: int = 100) -> list[Want]:
    """Objects f0 … and what to fetch."""
    server.objects |= {b"f%d" % i: bytes([i % 256]) * (size + i) for i in range(count)}
    return [Want(i, b"f%d" % i, size + i) for i in range(count)]


def check(server: Server, store: S3Store, wants: list[Want]) -> None:
    """Fetch them all and compare."""
    found = {got.i: got for got in store.fetch(wants)}
    assert len(found) == len(wants)
    for want in wants:
        assert found[want.i].error is None
        assert bytes(found[want.i].body) == server.objects[want.key]


def refused(kind: type[DlsError], code: str, call: Callable[[], object]) -> DlsError:
    with pytest.raises(kind) as told:
        call()
    assert told.value.code == code
    link: BaseException | None = told.value
    while link is not None:
        assert SECRET not in str(link) + repr(link) + str(getattr(link, "facts", ""))
        link = link.__cause__ or link.__context__
    return told.value


# ---------------------------------------------------------------------------------------------------------- signing

texts = st.text(st.characters(blacklist_categories=["Cs"]), min_size=1, max_size=40)


@given(
    key=texts,
    pairs=st.lists(st.tuples(texts, texts), max_size=4, unique_by=lambda pair: pair[0]),
    method=st.sampled_from(["GET", "PUT", "HEAD", "DELETE", "POST"]),
    md5=st.booleans(),
    token=st.sampled_from(["", "tok/en=="]),
)
def test_signatures_are_those_of_botocore(
    key: str, pairs: list[tuple[str, str]], method: str, md5: bool, token: str
) -> None:
    from botocore import auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    signer = Signer(S3Credentials(KEYS.access_key, SECRET, token, region="eu-west-9"), "s3.example:9000")
    target = quote(b"/bucket/" + key.encode())
    args = query((k.encode(), v.encode()) for k, v in pairs)
    headers = ((b"content-md5", b"AAAA=="), (b"x-amz-meta-a", b"b")) if md5 else ()
    head = signer.head(method.encode(), target, args, headers)
    line, *lines = head.decode().removesuffix("\r\n\r\n").split("\r\n")
    sent = dict(text.split(": ", 1) for text in lines)

    url = "https://s3.example:9000" + target.decode() + ("?" + args.decode() if args else "")
    request = AWSRequest(method, url, headers={k.decode(): v.decode() for k, v in headers})
    oracle = auth.S3SigV4Auth(Credentials(KEYS.access_key, SECRET, token or None), "s3", "eu-west-9")
    oracle.payload = lambda request: "UNSIGNED-PAYLOAD"
    now = dt.datetime.strptime(sent["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=dt.UTC)
    with mock.patch.object(auth, "get_current_datetime", return_value=now):
        oracle.add_auth(request)
    assert sent["authorization"].replace(", ", ",") == request.headers["Authorization"].replace(", ", ",")
    assert line == f"{method} {target.decode()}{'?' + args.decode() if args else ''} HTTP/1.1"
    assert SECRET not in repr(signer)


def test_the_key_is_derived_anew_at_midnight() -> None:
    signer = Signer(KEYS, "h")
    heads = []
    for second in (86399, 86400, 86401, 86399):
        with mock.patch.object(time, "time", lambda second=second: second):
            heads.append(signer.head(b"GET", b"/b/k"))
    assert heads[0] == heads[3]
    assert b"19700101/us-east-1" in heads[0]
    assert b"19700102/us-east-1" in heads[1]
    assert len(set(heads)) == 3


@given(st.binary(max_size=60))
def test_listed_keys_are_read_back(key: bytes) -> None:
    assert unquoted(quote(key)) == key
    assert unquoted(query([(b"", key)])[1:].replace(b"%20", b"+")) == key


def test_no_credentials_no_signature(server: Server) -> None:
    server.objects[b"k"] = b"public"
    store = server.store(credentials=S3Credentials())
    assert get(store) == b"public"
    assert "authorization" not in server.requests[0].headers
    store.close()


# ---------------------------------------------------------------------------------------------------------- framing

CHUNKED = (
    b'HTTP/1.1 200 OK\r\nETag: "x"\r\nTransfer-Encoding: chunked\r\n\r\n'
    b"3;ext=1\r\nabc\r\nA\r\n0123456789\r\n0\r\nTrailer: t\r\n\r\n"
)
FORMS = {
    "length": reply(200, b"abc0123456789", 'ETag: "x"'),
    "chunked": CHUNKED,
    "odd headers": b'HTTP/1.1 200\r\neTAG:"x"\r\nX: a: b\r\nCONTENT-LENGTH:  13 \r\n\r\nabc0123456789',
    "continue": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Wait\r\nA: b\r\n\r\n" + reply(200, b"abc0123456789"),
}


@pytest.mark.parametrize("form", FORMS)
def test_replies_split_anywhere(server: Server, store: S3Store, form: str) -> None:
    """Every form of a reply, cut at each of its bytes, then byte by byte, alone and in batches."""
    whole = FORMS[form]
    cuts = itertools.cycle([[whole[:n], whole[n:]] for n in range(1, len(whole))])
    server.behave = lambda request: Answer(next(cuts), 0.0005)
    for _ in range(1, len(whole)):
        assert get(store) == b"abc0123456789"
    wants = [Want(i, b"k", 13) for i in range(len(whole) - 1)]
    assert {bytes(got.body) for got in store.fetch(wants)} == {b"abc0123456789"}
    server.behave = lambda request: Answer([whole[i : i + 1] for i in range(len(whole))])
    assert get(store) == b"abc0123456789"
    assert [bytes(got.body) for got in store.fetch([Want(0, b"k", 13)])] == [b"abc0123456789"]


def test_a_body_that_ends_with_the_connection(server: Server, store: S3Store) -> None:
    whole = b"HTTP/1.0 200 OK\r\n\r\nuntil the end"
    server.behave = lambda request: Answer([whole[:25], whole[25:]], 0.01, close=True)
    assert get(store) == b"until the end"
    answers = store.fetch([Want(i, b"k", 13) for i in range(20)])
    assert [bytes(got.body) for got in answers] == [b"until the end"] * 20


@pytest.mark.parametrize("says", [True, False])
def test_connections_closed_after_each_reply(server: Server, store: S3Store, says: bool) -> None:
    wants = fill(server, 40)

    def behave(request: Request) -> Answer:
        body = server.objects[request.key]
        extra = ["Connection: Close"] if says else []
        return Answer([reply(200, body, etag(body), *extra)], close=True)

    server.behave = behave
    check(server, store, wants)
    for want in wants[:5]:
        assert get(store, want.key) == server.objects[want.key]
    assert server.connections >= 45
    assert len(server.requests) <= 45 + (0 if says else 45)


def test_a_head_may_name_a_length_and_has_no_body(server: Server, store: S3Store) -> None:
    wants = fill(server, 30)
    stamps = store.stamps([want.key for want in wants] + [b"none"])
    assert stamps[-1] == b""
    assert [s.partition(b"\0")[2] for s in stamps[:-1]] == [b"%d" % want.size for want in wants]
    assert store.stat(b"f3").stamp == stamps[3]
    refused(NotFound, "no-such-key", lambda: store.stat(b"none"))


@pytest.mark.parametrize(
    "whole",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20000,
    ],
)
def test_what_is_not_http_is_told(server: Server, store: S3Store, whole: bytes) -> None:
    server.behave = lambda request: Answer([whole], close=True)
    refused(Unavailable, "not-s3", lambda: get(store))
    answers = list(store.fetch([Want(i, b"k", 3) for i in range(20)]))
    assert {got.i for got in answers} == set(range(20))
    assert {got.error.code for got in answers if got.error} == {"not-s3"}


# ------------------------------------------------------------------------------------------- cuts, repeats, silence


def test_a_cut_body_is_taken_up_where_it_broke(server: Server, store: S3Store) -> None:
    body = server.objects[b"k"] = bytes(range(256)) * 12000

    def behave(request: Request) -> Answer | None:
        whole = server.plain(request).pieces[0]
        return Answer([whole[:-2000]], close=True) if request.number in (0, 1, 3) else None

    server.behave = behave
    assert get(store) == body
    assert [r.headers.get("range") for r in server.requests[1:3]] == [f"bytes={len(body) - 2000}-"] * 2
    assert server.requests[1].headers["if-match"] == etag(body).partition(" ")[2]
    assert get(store, b"k", 5, 100_000) == body[5:100_000]


def test_a_changed_object_is_not_pieced_together(server: Server, store: S3Store) -> None:
    server.objects[b"k"] = b"a" * 3_000_000

    def behave(request: Request) -> Answer:
        whole = server.plain(request).pieces[0]
        server.objects[b"k"] = b"b" * 3_000_000
        return Answer([whole[:-2000]], close=True)

    server.behave = behave
    refused(Conflict, "source-changed", lambda: get(store))
    server.behave = lambda request: error(412, "PreconditionFailed") if request.number > 2 else behave(request)
    refused(Conflict, "source-changed", lambda: get(store))


def test_a_server_that_always_cuts_is_given_up(server: Server) -> None:
    store = server.store(tries=3)
    server.objects[b"k"] = b"abc"
    server.behave = lambda request: Answer([b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n"], close=True)
    told = refused(Unavailable, "cut-short", lambda: get(store))
    assert told.facts["object"].endswith("/b/k")
    assert len(server.requests) == 3
    (got,) = store.fetch([Want(0, b"k", 3)])
    assert isinstance(got.error, Unavailable)
    assert got.error.code == "cut-short"
    assert got.error.__cause__ is not None
    refused(Unavailable, "cut-short", lambda: store.write(b"k", [b"x"]))
    server.behave = lambda request: Answer([b""], close=True)
    refused(Unavailable, "service-down", lambda: get(store))
    refused(Unavailable, "service-down", lambda: store.write(b"k", [b"x"]))
    store.close()


@pytest.mark.parametrize("share", [10, 1])
def test_one_object_that_is_always_cut_is_its_own_error(server: Server, share: int) -> None:
    """The others come; where every one is cut, the service is named, and not all of them are waited for."""
    store = server.store(tries=2, timeout_s=1.0)
    wants = fill(server, 200)

    def behave(request: Request) -> Answer | None:
        if request.key not in server.objects or int(request.key[1:]) % share:
            return None
        return Answer([server.plain(request).pieces[0][:-1]], 0.0 if share > 1 else 0.05, close=True)

    server.behave = behave
    codes = {got.i: got.error and got.error.code for got in store.fetch(wants)}
    assert len(codes) == 200
    if share > 1:
        assert codes == {w.i: None if w.i % share else "cut-short" for w in wants}
    else:
        assert set(codes.values()) == {"cut-short", "service-down"}
        assert len(server.requests) < 400
    store.close()


def test_cuts_in_a_batch_lose_and_double_nothing(server: Server, store: S3Store) -> None:
    wants = fill(server, 300)

    def behave(request: Request) -> Answer | None:
        if "list-type" in request.target or request.number % 23:
            return None
        whole = server.plain(request).pieces[0]
        return Answer([whole[: request.number % len(whole)]], close=True)

    server.behave = behave
    check(server, store, wants)
    answers = sorted(store.put(Item(i, b"p%d" % i, b"%d" % i * 50) for i in range(300)))
    assert [d.i for d in answers] == list(range(300))
    assert not [d for d in answers if d.error]
    assert all(server.objects[b"p%d" % i] == b"%d" % i * 50 for i in range(300))


def test_an_idle_connection_that_was_closed_is_replaced(server: Server) -> None:
    store = server.store(tries=1)
    server.objects[b"k"] = b"abc"
    assert get(store) == b"abc"
    for sock in list(server.open):
        sock.shutdown(socket.SHUT_RDWR)
    assert get(store) == b"abc"
    store.write(b"k", [b"new"])
    store.close()


def test_busy_answers_are_asked_again_and_counted(server: Server) -> None:
    store = server.store(tries=3)
    wants = fill(server, 20)
    seen: dict[bytes, int] = {}

    def behave(request: Request) -> Answer | None:
        seen[request.key] = seen.get(request.key, 0) + 1
        return error(503, "SlowDown") if seen[request.key] < 3 else None

    server.behave = behave
    check(server, store, wants)
    assert store.wire.again == 40
    server.behave = lambda request: error(503, "SlowDown") if request.key == b"f7" else None
    bad = {got.i: got.error.code for got in store.fetch(wants) if got.error}
    assert bad == {7: "service-busy"}
    server.behave = lambda request: error(400, "BadDigest") if len(server.requests) % 2 else None
    store.write(b"x", [b"y"])
    store.close()


def test_silence_is_hanging_and_a_slow_drip_is_not(server: Server) -> None:
    store = server.store(timeout_s=0.6)
    whole = reply(200, b"x" * 40)
    server.behave = lambda request: Answer([whole[:20], *(whole[i : i + 10] for i in range(20, len(whole), 10))], 0.2)
    assert get(store) == b"x" * 40
    assert [bytes(got.body) for got in store.fetch([Want(0, b"k", 40)])] == [b"x" * 40]
    server.behave = lambda request: Answer([whole[:50]], 1.5, close=True)
    start = time.monotonic()
    refused(Unavailable, "service-hangs", lambda: get(store))
    answers = list(store.fetch([Want(i, b"k", 40) for i in range(100)]))
    assert {got.error.code for got in answers if got.error} == {"service-hangs"}
    assert len(answers) == 100
    assert time.monotonic() - start < 20, "once for all, not once for each"
    store.close()


def test_one_hanging_connection_does_not_stop_a_batch(server: Server) -> None:
    store = server.store(timeout_s=0.6)
    wants = fill(server, 200)

    def behave(request: Request) -> Answer:
        return Answer([b""], 3.0, close=True) if request.number == 5 else Answer(server.plain(request).pieces, 0.02)

    server.behave = behave
    check(server, store, wants)
    assert store.wire.again == 1
    store.close()


def test_a_service_that_is_down(server: Server) -> None:
    store = server.store()
    server.stop()
    error = refused(Unavailable, "service-down", lambda: store.stat(b"k"))
    assert isinstance(error.__cause__, ConnectionRefusedError)
    taken: list[int] = []
    answers = list(store.put(Item(taken.append(i) or i, b"k%d" % i, b"x") for i in range(30)))  # type: ignore[func-returns-value]
    assert {d.i for d in answers} == set(range(30))
    assert {d.error.code for d in answers if d.error} == {"service-down"}
    store.close()


def test_the_callers_errors_go_through(server: Server, store: S3Store) -> None:
    def items(exc: Exception) -> Iterator[Item]:
        yield from (Item(i, b"k%d" % i, b"x") for i in range(20))
        raise exc

    for exc in (KeyError("mine"), NotFound("mine too")):
        with pytest.raises(type(exc)) as told:
            list(store.put(items(exc)))
        assert told.value is exc
    assert get(store, b"k0") == b"x"


# ------------------------------------------------------------------------------------------------------- pipelining


def test_requests_are_sent_ahead_once_the_service_answers_in_order(server: Server, store: S3Store) -> None:
    wants = fill(server, 600)
    check(server, store, wants)
    assert store.wire.depth == s3_batch.DEPTH
    listed = [r for r in server.requests if "list-type" in r.target]
    assert len(listed) == 4
    assert len(server.requests) == 604


@pytest.mark.parametrize("how", ["deaf", "shuffled", "closing", "denied"])
def test_requests_are_not_sent_ahead_elsewhere(server: Server, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_batch, "_LEARN_S", 0.3)
    wants = fill(server, 200)
    server.deaf = how == "deaf"
    wrong = iter(["1", "2", "3", "4"] * 9)

    def behave(request: Request) -> Answer | None:
        if "list-type" not in request.target or how == "deaf":
            return None
        if how == "denied":
            return error(403, "AccessDenied")
        if how == "closing":
            return Answer([server.plain(request).pieces[0].replace(b"Said", b"OK\r\nConnection: close")], close=True)
        return Answer([reply(200, b"<ListBucketResult><MaxKeys>%b</MaxKeys>" % next(wrong).encode())])

    server.behave = behave
    with contextlib.closing(server.store()) as store:
        check(server, store, wants)
        assert store.wire.depth == 1
        check(server, store, wants)


def test_replies_in_a_wrong_order_are_found_out(server: Server, store: S3Store) -> None:
    """A server that passes the trial and then swaps two bodies: they are asked for alone, and the batch is given up."""
    wants = fill(server, 400)
    # Every pair from 300 on: one alone might be asked for with nothing ahead of it, where no order can be wrong.
    swapped = {b"f%d" % i: b"f%d" % (i ^ 1) for i in range(300, 400)}
    done: set[bytes] = set()

    def behave(request: Request) -> Answer | None:
        if request.key in swapped and request.key not in done:
            done.add(request.key)
            body = server.objects[swapped[request.key]]
            return Answer([reply(200, body, etag(body))])
        return None

    server.behave = behave
    answers = {got.i: got for got in store.fetch(wants)}
    assert len(answers) == 400
    assert store.wire.depth == 1
    assert all(bytes(got.body) == server.objects[b"f%d" % i] for i, got in answers.items() if not got.error)
    codes = {got.error.code for got in answers.values() if got.error}
    assert "not-s3" in codes
    assert codes <= {"not-s3", "source-changed"}
    server.behave = lambda request: None
    check(server, store, wants)


def test_a_file_of_another_size_is_its_own_error(server: Server, store: S3Store) -> None:
    wants = fill(server, 300)
    server.objects[b"huge"] = b"x" * 30_000_000
    bad = {300: Want(300, b"f5", 3), 301: Want(301, b"f6", 5000), 302: Want(302, b"huge", 10), 303: Want(303, b"no", 1)}
    answers = {got.i: got.error for got in store.fetch([*wants, *bad.values()])}
    assert {i for i, e in answers.items() if e} == set(bad)
    assert [getattr(answers[i], "code", "") for i in bad] == ["source-changed"] * 3 + ["no-such-key"]
    assert store.wire.depth == s3_batch.DEPTH, "and no reason to distrust the service"


def test_large_items_go_both_ways(server: Server, store: S3Store) -> None:
    bodies = {b"m%d" % i: bytes([i]) * (1 << 20) for i in range(40)}
    assert not [
        d.error for d in store.put(Item(i, k, memoryview(b)) for i, (k, b) in enumerate(bodies.items())) if d.error
    ]
    assert server.objects == bodies
    check(server, store, [Want(i, k, 1 << 20) for i, k in enumerate(bodies)])


def test_a_batch_left_early_leaves_nothing_behind(server: Server, store: S3Store) -> None:
    wants = fill(server, 100)
    answers = store.fetch(wants)
    next(answers)
    answers.close()  # type: ignore[attr-defined]
    check(server, store, wants)
    half = store.read(b"f1")
    del half
    pieces = store.read(b"f2")
    assert next(pieces) == server.objects[b"f2"]
    pieces.close()  # type: ignore[attr-defined]
    assert get(store, b"f3") == server.objects[b"f3"]


# --------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("answer", "kind", "code"),
    [
        (error(403, "InvalidAccessKeyId"), Denied, "wrong-credentials"),
        (error(403, "SignatureDoesNotMatch"), Denied, "wrong-credentials"),
        (error(400, "ExpiredToken"), Denied, "credentials-expired"),
        (error(403, "RequestTimeTooSkewed"), Denied, "clock-skew"),
        (error(404, "NoSuchBucket"), NotFound, "no-bucket"),
        (Answer([reply(301, b"", "x-amz-bucket-region: eu-west-2")]), Invalid, "wrong-region"),
        (
            Answer([reply(400, b"<Code>AuthorizationHeaderMalformed</Code><Region>eu-west-2</Region>")]),
            Invalid,
            "wrong-region",
        ),
    ],
)
def test_refusals_of_the_whole_service(
    server: Server, store: S3Store, answer: Answer, kind: type[DlsError], code: str
) -> None:
    server.behave = lambda request: answer
    for call in (lambda: get(store), lambda: store.write(b"k", [b"x"]), lambda: list(store.list())):
        told = refused(kind, code, call)
        assert told.remedy
    if code == "wrong-region":
        assert "eu-west-2" in told.remedy
    if code == "wrong-credentials":
        assert "the program" in told.remedy
    server.requests.clear()
    answers = list(store.fetch([Want(i, b"k", 1) for i in range(500)]))
    assert {got.error.code for got in answers if got.error} == {code}
    assert len(answers) == 500
    assert len(server.requests) <= store.wire.concurrency, "the first refusal counts for all"


@pytest.mark.parametrize(
    ("answer", "kind", "code"),
    [
        (error(403, "AccessDenied"), Denied, "no-access"),
        (error(404, "NoSuchKey"), NotFound, "no-such-key"),
        (error(403, "InvalidObjectState"), Unavailable, "offline"),
        (error(409, "OperationAborted"), Conflict, "busy"),
        (error(501, "NotImplemented"), Unsupported, "no-such-verb"),
        (error(418, "{odd} &#60;&amp;"), Invalid, "refused"),
        (Answer([reply(507)]), Unavailable, "disk-full"),
        (Answer([reply(307, b"", "Location: http://elsewhere/")]), Invalid, "wrong-endpoint"),
    ],
)
def test_refusals_of_one_key(server: Server, store: S3Store, answer: Answer, kind: type[DlsError], code: str) -> None:
    wants = fill(server, 30)
    server.behave = lambda request: answer if request.key == b"f9" else None
    assert refused(kind, code, lambda: get(store, b"f9")).facts["key"] == "f9"
    assert {got.i: got.error.code for got in store.fetch(wants) if got.error} == {9: code}
    assert refused(kind, code, lambda: store.write(b"f9", [b"x"])).facts["store"] == store.url


def test_an_answer_given_before_the_body_was_sent(server: Server) -> None:
    """A refusal of a large body, the rest of it unread, is heard although sending fails."""
    store = server.store(tries=2)
    listener = socket.create_server(("127.0.0.1", 0))

    listener.settimeout(5)

    def answer_early() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            sock.recv(1000)
            sock.sendall(error(403, "AccessDenied").pieces[0])
            sock.shutdown(socket.SHUT_WR)
            time.sleep(0.2)
            sock.close()

    thread = threading.Thread(target=answer_early)
    thread.start()
    early = S3Store(parse(f"s3+http://127.0.0.1:{listener.getsockname()[1]}/b"), KEYS, tries=2, timeout_s=5)
    with pytest.raises((Denied, Unavailable)):
        early.write(b"k", [b"x" * (12 << 20)])
    listener.shutdown(socket.SHUT_RDWR)
    thread.join()
    listener.close()
    early.close()
    store.close()


def test_bytes_that_arrived_otherwise_are_told(server: Server, store: S3Store) -> None:
    wrong = Answer([reply(200, b"", etag(b"other bytes"))])
    server.behave = lambda request: wrong if request.method == "PUT" and request.key != b"fine" else None
    refused(Corrupt, "changed-on-the-wire", lambda: store.write(b"k", [b"x"]))
    errors = {d.i: d.error for d in store.put([Item(0, b"k", b"x"), Item(1, b"fine", b"x")])}
    assert isinstance(errors[0], Corrupt)
    assert errors[1] is None
    kms = Answer([reply(200, b"", etag(b"not an md5"), "x-amz-server-side-encryption: aws:kms")])
    server.behave = lambda request: kms
    assert store.write(b"k", [b"x"])


def test_a_range_that_was_not_asked_for(server: Server, store: S3Store) -> None:
    body = server.objects[b"k"] = bytes(range(200))
    server.behave = lambda request: Answer([reply(200, body, etag(body))])  # ignores ranges
    for start, stop in ((0, 10), (5, 10), (150, None), (190, 300), (250, None)):
        assert get(store, b"k", start, stop) == body[start:stop]
    server.behave = lambda request: Answer([reply(206, body[7:9], etag(body), "Content-Range: bytes 7-8/200")])
    refused(Invalid, "wrong-range", lambda: get(store, b"k", 5, 10))
    server.behave = lambda request: Answer([reply(206, body[5:50], etag(body), "Content-Range: bytes 5-49/200")])
    refused(Invalid, "wrong-range", lambda: get(store, b"k", 5, 10))


# ---------------------------------------------------------------------------------------------- listings and uploads


def listing(*keys: str, more: bool = False, encoded: bool = True) -> Answer:
    blocks = "".join(f"<Contents><Size>1</Size><ETag>&quot;e&quot;</ETag><Key>{key}</Key></Contents>" for key in keys)
    kind = "<EncodingType>url</EncodingType>" if encoded else ""
    truncated = f"<IsTruncated>{str(more).lower()}</IsTruncated>"
    return Answer([reply(200, f"<ListBucketResult>{kind}{truncated}{blocks}</ListBucketResult>".encode())])


def test_listings_are_read_as_servers_write_them(server: Server, store: S3Store) -> None:
    pages = [
        listing("a%2Bb+c", "b&apos;%25", "d%2F", "d/.dls-x/y", "d/%C3%A9", more=True),
        listing("e", more=False),
    ]
    server.behave = lambda request: pages.pop(0)
    assert [e.path for e in store.list()] == [b"a+b c", b"b'%", b"d/\xc3\xa9", b"e"]
    assert "start-after=d%2F%C3%A9" in server.requests[1].target
    server.behave = lambda request: listing("a%2B&amp;+", encoded=False)
    assert [e.path for e in store.list()] == [b"a%2B&+"]


def test_listings_that_cannot_be_a_tree(server: Server, store: S3Store) -> None:
    server.behave = lambda request: listing("b", "a")
    refused(Unsupported, "unsorted-listing", lambda: list(store.list()))
    for key in ("a//b", "/a", "a/../b"):
        server.behave = lambda request, key=key: listing(key)
        refused(Invalid, "bad-name", lambda: list(store.list()))
    server.behave = lambda request: Answer([reply(200, b"<html>")])
    refused(Unavailable, "not-s3", lambda: list(store.list()))


def test_stamps_of_many_keys_come_from_a_listing(server: Server, store: S3Store) -> None:
    keys = [b"d/k%03d" % i for i in range(200)]
    server.behave = lambda request: listing(*(k.decode() for k in keys[::2]))
    assert store.stamps(keys) == [b"e\x001", b""] * 100
    assert len(server.requests) == 1
    assert "prefix=d%2Fk&start-after=d%2Fk00" in server.requests[0].target
    # Names in between that nobody asked for: one request for each asked is cheaper.
    server.requests.clear()
    odd = [f"d/k000-{i:05}" for i in range(9000)]

    def crowded(request: Request) -> Answer | None:
        if "list-type" not in request.target:
            return None
        server.crowd = getattr(server, "crowd", 0) + 1  # type: ignore[attr-defined]
        at = (server.crowd - 1) * 1000  # type: ignore[attr-defined]
        return listing("d/k000", *odd[:999], more=True) if at == 0 else listing(*odd[at : at + 1000], more=True)

    server.behave = crowded
    server.objects |= dict.fromkeys(keys, b"x")
    assert all(store.stamps(keys))
    assert len(server.requests) <= 2 + 200 + 4


def test_an_error_after_a_status_of_200(server: Server, store: S3Store) -> None:
    def behave(request: Request) -> Answer | None:
        if request.method == "POST" and "uploads=" in request.target:
            return Answer([reply(200, b"<UploadId>u+/=</UploadId>")])
        if request.method == "POST":
            return Answer([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", *_chunks(FAILED)])
        return None

    server.behave = behave
    upload = store.upload(b"big", 5)
    upload.write(0, b"12345")
    refused(Unavailable, "service-error", upload.finish)
    assert "uploadId=u%2B%2F%3D" in server.requests[-1].target
    refused(Conflict, "upload-incomplete", store.upload(b"big", 5).finish)


FAILED = b"<Error><Code>InternalError</Code></Error>"


def _chunks(body: bytes) -> list[bytes]:
    return [*(b"1\r\n%c\r\n" % byte for byte in body), b"0\r\n\r\n"]


def test_a_finish_whose_answer_was_lost_is_proven(server: Server, store: S3Store) -> None:
    parts = [b"1" * (16 << 20), b"2" * 9]
    joined = hashlib.md5(b"".join(hashlib.md5(p).digest() for p in parts)).hexdigest()
    finished: list[bool] = []

    def behave(request: Request, etag: str = joined) -> Answer | None:
        if request.method == "POST" and "uploads=" in request.target:
            return Answer([reply(200, b"<UploadId>u</UploadId>")])
        if request.method == "POST" and not finished:
            finished.append(True)
            return Answer([], close=True)
        if request.method == "HEAD":
            return Answer(
                [f'HTTP/1.1 200 OK\r\nContent-Length: {len(b"".join(parts))}\r\nETag: "{etag}-2"\r\n\r\n'.encode()]
            )
        if request.method == "POST" or (request.method == "GET" and "uploadId" in request.target):
            return error(404, "NoSuchUpload")
        return None

    server.behave = behave
    upload = store.upload(b"big", (16 << 20) + 9)
    receipts = [upload.write(n, part) for n, part in enumerate(parts)]
    assert upload.finish() == f"{joined}-2".encode() + b"\x00%d" % ((16 << 20) + 9)
    # Another process, which only knows the token and the receipts:
    later = store.upload(b"big", (16 << 20) + 9, token="u")
    assert later.back(0, receipts[0])
    assert later.back(1, receipts[1])
    assert later.finish()
    other = store.upload(b"big", (16 << 20) + 9, token="u")
    assert other.back(0, receipts[0])
    assert other.back(1, "0" * 32)
    refused(Conflict, "target-changed", other.finish)
    server.behave = partial(behave, etag="0" * 31)
    refused(NotFound, "no-upload", lambda: store.upload(b"big", 40 << 20, token="u"))


def test_part_sizes() -> None:
    block = 16 << 20
    assert s3_upload.part_size(1) == s3_upload.part_size(block * 10_000) == block
    assert s3_upload.part_size(block * 10_000 + 1) == 2 * block
    for size in (1 << 40, 5 << 40):
        part = s3_upload.part_size(size)
        assert part % block == 0
        assert -(-size // part) <= 10_000
    with pytest.raises(Unsupported):
        s3_upload.part_size((5 << 40) + 1)


# -------------------------------------------------------------------------------------------------------------- TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory, need: Callable[..., None]) -> tuple[Path, Path]:
    need("openssl", shutil.which("openssl"))
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    made += ["-keyout", str(key), "-out", str(cert), "-days", "2", "-subj", "/CN=localhost"]
    subprocess.run([*made, "-addext", "subjectAltName=DNS:localhost"], check=True, capture_output=True, timeout=60)
    return cert, key


def test_tls(certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    server = Server(tls=context)
    try:
        trusting = S3Credentials(KEYS.access_key, SECRET, ca_bundle=str(cert))
        with contextlib.closing(server.store(credentials=trusting)) as store:
            wants = fill(server, 300, size=70_000)
            check(server, store, wants)
            assert store.wire.depth == s3_batch.DEPTH
            body = server.objects[b"big"] = bytes(range(256)) * 20_000
            assert get(store, b"big") == body
            assert get(store, b"big", 1000, 3_000_000) == body[1000:3_000_000]
            store.write(b"k", [body])
            assert server.objects[b"k"] == body
            answers = store.put(Item(i, b"p%d" % i, body[: 1 << 20]) for i in range(30))
            assert not [d for d in answers if d.error]
        with contextlib.closing(server.store(timeout_s=0.5, credentials=trusting)) as store:
            server.behave = lambda request: Answer([b""], 1.5, close=True)
            refused(Unavailable, "service-hangs", lambda: get(store))
            (got,) = store.fetch([Want(0, b"k", 1)])
            assert got.error
        with contextlib.closing(server.store()) as store:
            refused(Denied, "bad-certificate", lambda: get(store))
    finally:
        server.stop()
