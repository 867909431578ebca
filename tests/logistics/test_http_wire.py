"""Reading over HTTP from a server that does what servers do on bad days; the store itself is proven by the conformance
suite against real ones."""

import contextlib
import hashlib
import itertools
import os
import re
import shutil
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from components.bad_http import Answer, BadServer, Request, etag, reply
from components.nginx import nginx, nginx_installed
from dls.logistics import credentials
from dls.logistics.credentials import HttpCredentials, token_name
from dls.logistics.errors import Conflict, Denied, DlsError, Invalid, NotFound, Unavailable, Unsupported
from dls.logistics.registry import open_store
from dls.logistics.store import Want
from dls.logistics.stores.http import HttpStore
from dls.logistics.url import parse

SECRET = "very/secret+token"
BODY = bytes(range(256)) * 8192  # 2 MiB
OLD = "Last-Modified: Sat, 01 Jan 2022 00:00:00 GMT"


@dataclass
class Server(BadServer):
    """Files below /b/."""

    tags: bool = True

    def store(self, path: str = "b", **options: Any) -> HttpStore:
        options = {"timeout_s": 5.0, "credentials": HttpCredentials(), **options}
        return HttpStore(parse(f"http{'s' if self.tls else ''}://localhost:{self.port}/{path}"), **options)

    def plain(self, request: Request) -> Answer:
        body = self.objects.get(request.key)
        if body is None:
            return Answer([reply(404, b"" if request.method == "HEAD" else b"no")])
        head = [etag(body)] if self.tags else []
        if request.headers.get("if-match", etag(body)[6:]) != etag(body)[6:]:
            return Answer([reply(412)])
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", "")):
            start, stop = int(wanted[1]), min(int(wanted[2] or len(body)) + 1, len(body))
            if start >= len(body):
                return Answer([reply(416, b"", f"Content-Range: bytes */{len(body)}")])
            return Answer([reply(206, body[start:stop], *head, f"Content-Range: bytes {start}-{stop - 1}/{len(body)}")])
        whole = reply(200, body, *head)
        return Answer([whole[: len(whole) - len(body)] if request.method == "HEAD" else whole])


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server(objects={b"k": BODY})
    yield server
    server.stop()


@pytest.fixture
def store(server: Server) -> Iterator[HttpStore]:
    with contextlib.closing(server.store()) as store:
        yield store


def get(store: HttpStore, key: bytes = b"k", start: int = 0, stop: int | None = None, **more: Any) -> bytes:
    return b"".join(store.read(key, start, stop, **more))


def refused(kind: type[DlsError], code: str, call: Callable[[], object]) -> DlsError:
    with pytest.raises(kind) as told:
        call()
    assert told.value.code == code
    link: BaseException | None = told.value
    while link is not None:
        assert SECRET not in str(link) + repr(link) + str(getattr(link, "facts", ""))
        link = link.__cause__ or link.__context__
    return told.value


def answers(server: Server, *replies: bytes, close: bool = False, then: bool = True) -> None:
    """The next requests get these replies; afterwards the server is good again, or repeats the last one."""
    rest = list(replies)

    def behave(request: Request) -> Answer | None:
        if not rest:
            return None
        return Answer([rest.pop(0) if then or len(rest) > 1 else rest[0]], close=close)

    server.behave = behave


# ---------------------------------------------------------------------------------------------------- round trips


@pytest.mark.spec("HTTP-2")
def test_a_range_is_one_request_on_a_kept_connection(server: Server, store: HttpStore) -> None:
    for start in range(0, 1 << 20, 100_000):
        assert get(store, b"k", start, start + 4096) == BODY[start : start + 4096]
    assert {r.method for r in server.requests} == {"GET"}
    assert (len(server.requests), server.connections) == (11, 1)
    assert all(r.headers["accept-encoding"] == "identity" for r in server.requests)
    held = store.read(b"k", 0, 10)
    assert get(store, b"k", 5, 9) == BODY[5:9], "what is not read to its end keeps nobody"
    assert b"".join(held) == BODY[:10]


@pytest.mark.spec("HTTP-2")
def test_many_threads_at_once(server: Server, store: HttpStore) -> None:
    wrong: list[int] = []

    def reader(seed: int) -> None:
        for i in range(40):
            start = (seed * 7919 + i * 104_729) % (len(BODY) - 5000)
            if get(store, b"k", start, start + 5000) != BODY[start : start + 5000]:
                wrong.append(start)

    threads = [threading.Thread(target=reader, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert server.connections <= 8


# In a process of its own: one that has threads, as the one that tests has, may fork while one of them holds a lock of
# the C library, for ever held in the child.
FORKS = """
import os, sys
from dls.logistics.credentials import HttpCredentials
from dls.logistics.stores.http import HttpStore
from dls.logistics.url import parse

body = bytes(range(256)) * 8192
store = HttpStore(parse(sys.argv[1]), timeout_s=5.0, credentials=HttpCredentials())
right = lambda start, stop: b"".join(store.read(b"k", start, stop)) == body[start:stop]
before = right(3, 9)
if not (child := os.fork()):
    os._exit(not right(7, 70_000))
print(before, os.waitpid(child, 0)[1], right(1, 9))
"""


@pytest.mark.spec("HTTP-2")
def test_a_child_has_connections_of_its_own(server: Server) -> None:
    command = [sys.executable, "-c", FORKS, f"http://localhost:{server.port}/b"]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (told.stdout, told.stderr) == ("True 0 True\n", "")
    assert server.connections == 2, "a child does not talk on its parent's connections"
    assert [request.nth for request in server.requests] == [0, 0, 1], "which goes on with those that it has"


# --------------------------------------------------------------------------------------------------------- ranges


@pytest.mark.parametrize(
    "said",
    [
        "",
        "Content-Range: bytes 0-9/2097152",
        "Content-Range: bytes 101-110/2097152",
        "Content-Range: bytes 100-120/2097152",
        "Content-Range: bytes 100-109",
        "Content-Range: items 100-109/2097152",
        "Content-Range: bytes 100-109/50",
        "Content-Range: bytes 100-104/2097152",
        "Content-Type: multipart/byteranges; boundary=x",
    ],
)
@pytest.mark.spec("HTTP-3")
def test_a_range_that_was_not_asked_for(server: Server, store: HttpStore, said: str) -> None:
    answers(server, reply(206, b"x" * 10, *([said] if said else [])), then=False)
    refused(Unavailable, "wrong-range", lambda: get(store, b"k", 100, 110))
    server.behave = lambda request: None
    assert get(store, b"k", 100, 110) == BODY[100:110]


@pytest.mark.spec("HTTP-3")
def test_a_server_without_ranges(server: Server, store: HttpStore) -> None:
    server.behave = lambda request: Answer([reply(200, BODY)]) if request.method == "GET" else None
    for start, stop in ((0, 5), (100, 110), (len(BODY) - 5, None), (1 << 20, (1 << 20) + 9), (len(BODY) + 5, None)):
        assert get(store, b"k", start, stop) == BODY[start:stop]
    chunks = (
        b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in (BODY[:10], BODY[10:100_000], BODY[100_000:])) + b"0\r\n\r\n"
    )
    chunked = reply(200, b"", "Transfer-Encoding: chunked", length=False) + chunks
    server.behave = lambda request: Answer([chunked])
    assert get(store) == BODY
    assert get(store, b"k", 5, 100_005) == BODY[5:100_005]
    (got,) = store.fetch([Want(0, b"k", len(BODY))])
    assert bytes(got.body) == BODY


@pytest.mark.spec("HTTP-3")
def test_ranges_in_less_than_was_asked_for(server: Server, store: HttpStore) -> None:
    """A server may give less of a range; what is left is asked for."""

    def stingy(request: Request) -> Answer:
        start, last = map(int, re.findall(r"\d+", request.headers["range"]))
        stop = min(last + 1, start + 1000, len(BODY))
        return Answer([reply(206, BODY[start:stop], etag(BODY), f"Content-Range: bytes {start}-{stop - 1}/*")])

    server.behave = stingy
    assert get(store, b"k", 10, 4500) == BODY[10:4500]
    assert len(server.requests) == 5


@pytest.mark.spec("HTTP-3")
def test_nothing_where_the_file_ends(server: Server, store: HttpStore) -> None:
    assert get(store, b"k", len(BODY), len(BODY) + 5) == b""
    answers(server, reply(416))
    assert get(store, b"k", len(BODY) + 1) == b"", "it does not say the size: it is asked for"
    assert server.requests[-1].method == "HEAD"
    answers(server, reply(416, b"", f"Content-Range: bytes */{len(BODY)}"))
    refused(Unavailable, "wrong-range", lambda: get(store, b"k", 5, 10))


# -------------------------------------------------------------------------------------------- whole, of one version


@pytest.mark.spec("HTTP-4")
def test_a_cut_body_is_taken_up_where_it_broke(server: Server, store: HttpStore) -> None:
    whole = reply(200, BODY, etag(BODY))
    answers(server, whole[:1_500_000], close=True)
    assert get(store) == BODY
    again = server.requests[-1].headers
    assert again["if-match"] == etag(BODY)[6:]
    assert again["range"].startswith("bytes=1")


@pytest.mark.parametrize("how", ["412", "200", "206", "404"])
@pytest.mark.spec("HTTP-5")
def test_a_changed_file_is_not_pieced_together(server: Server, store: HttpStore, how: str) -> None:
    other = BODY[::-1]
    rest = {
        "412": reply(412),
        "404": reply(404),
        "200": reply(200, other, etag(other)),
        "206": reply(206, other[1_400_000:], etag(other), f"Content-Range: bytes 1400000-{len(BODY) - 1}/{len(BODY)}"),
    }[how]
    first = reply(200, BODY, etag(BODY))
    cut = first[: len(first) - len(BODY) + 1_400_000]
    answers(server, cut, rest, close=True)
    refused(Conflict, "source-changed", lambda: get(store))


@pytest.mark.spec("HTTP-4", "HTTP-5")
def test_without_evidence_a_cut_body_is_told(server: Server, store: HttpStore) -> None:
    whole = reply(200, BODY, 'ETag: W/"x"')
    answers(server, whole[:1_500_000], close=True, then=False)
    refused(Unavailable, "cut-short", lambda: get(store))
    answers(server, whole[:1_500_000], close=True)
    (got,) = store.fetch([Want(0, b"k", len(BODY))])
    assert (got.error, bytes(got.body)) == (None, BODY), "what is held whole is asked for again from its start"


@pytest.mark.spec("HTTP-5")
def test_ranges_of_one_version(server: Server, store: HttpStore) -> None:
    stamp = store.stat(b"k").stamp
    assert get(store, b"k", 5, 10, stamp=stamp) == BODY[5:10]
    assert server.requests[-1].headers["if-match"] == etag(BODY)[6:]
    server.objects[b"k"] = BODY[::-1]
    refused(Conflict, "source-changed", lambda: get(store, b"k", 5, 10, stamp=stamp))
    assert get(store, b"k", 5, 10) == BODY[::-1][5:10], "who asks for no version gets what is there"
    changed = reply(206, b"12345", etag(b"other"), f"Content-Range: bytes 5-9/{len(BODY)}")
    answers(server, changed)
    refused(Conflict, "source-changed", lambda: get(store, b"k", 5, 10, stamp=store.stat(b"k").stamp))
    shown = store.stat(b"k").stamp
    server.behave = lambda r: Answer([reply(206, b"12345", etag(b"other"), "Content-Range: bytes 5-9/*")])
    refused(Conflict, "source-changed", lambda: get(store, b"k", 5, 10, stamp=shown))
    server.behave = lambda r: Answer([reply(416, b"", "Content-Range: bytes */3")])
    refused(Conflict, "source-changed", lambda: get(store, b"k", 5, 10, stamp=shown))
    longer = reply(206, b"12345", etag(BODY), f"Content-Range: bytes 5-9/{len(BODY) + 1}")
    server.behave = lambda r: None if r.method == "HEAD" else Answer([longer])
    refused(Conflict, "source-changed", lambda: get(store, b"k", 5, 10, stamp=stamp))


@pytest.mark.spec("HTTP-5")
def test_without_any_evidence_a_stamp_holds_in_one_store_only(server: Server, store: HttpStore) -> None:
    server.tags = False
    stamp = store.stat(b"k").stamp
    assert [stamp] == store.stamps([b"k"])
    assert get(store, b"k", 1, 3, stamp=stamp) == BODY[1:3]
    with contextlib.closing(server.store()) as other:
        assert other.stamps([b"k"]) != [stamp]
        refused(Conflict, "source-changed", lambda: get(other, b"k", 1, 3, stamp=stamp))


@pytest.mark.spec("HTTP-4")
def test_a_body_without_an_end_or_coded(server: Server, store: HttpStore) -> None:
    endless = reply(200, BODY, etag(BODY), length=False)
    answers(server, endless, close=True, then=False)
    refused(Unsupported, "no-length", lambda: get(store))
    (got,) = store.fetch([Want(0, b"k", len(BODY))])
    assert got.error is not None
    assert got.error.code == "no-length"
    for ask in (lambda: store.stat(b"k"), lambda: store.stamps([b"k"])):
        answers(server, reply(200, b"", length=False), reply(200, b"x", length=False), close=True, then=False)
        refused(Unsupported, "no-length", ask)
    answers(server, reply(200, b"zip", "Content-Encoding: gzip"), then=False)
    refused(Unsupported, "encoded-body", lambda: get(store))
    (got,) = store.fetch([Want(0, b"k", 3)])
    assert got.error is not None
    assert got.error.code == "encoded-body"
    answers(server, reply(200, b"", "Content-Encoding: gzip"), then=False)
    refused(Unsupported, "encoded-body", lambda: store.stat(b"k"))


@pytest.mark.parametrize("split", [1, 2, 7, 20])
@pytest.mark.spec("HTTP-4")
def test_chunks_split_anywhere(server: Server, store: HttpStore, split: int) -> None:
    whole = reply(206, b"", "Content-Range: bytes 3-8/20", "Transfer-Encoding: chunked", length=False)
    whole += b"4;x=y\r\nabcd\r\n2\r\nef\r\n0\r\nTrailer: 1\r\n\r\n"
    pieces = [whole[at : at + split] for at in range(0, len(whole), split)]
    server.behave = lambda request: Answer(pieces, pause=0.0005) if request.nth == 0 else None
    assert get(store, b"k", 3, 9) == b"abcdef"
    assert get(store, b"k", 3, 9) == BODY[3:9]
    assert server.connections == 1


@pytest.mark.parametrize(
    "chunks", [b"4\r\nabcdXX", b"-4\r\nabcd\r\n", b"0x4\r\nabcd\r\n", b"\r\n", b"z\r\n", b"4" * 99999]
)
@pytest.mark.spec("HTTP-4")
def test_broken_chunks(server: Server, store: HttpStore, chunks: bytes) -> None:
    answers(server, reply(200, b"", "Transfer-Encoding: chunked", length=False) + chunks, then=False)
    refused(Unavailable, "not-http", lambda: get(store))
    (got,) = store.fetch([Want(0, b"k", 4)])
    assert isinstance(got.error, DlsError)


# ------------------------------------------------------------------------------------------ redirects, credentials


def to(where: str, status: int = 302) -> bytes:
    return reply(status, b"", f"Location: {where}")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.spec("HTTP-6")
def test_redirects(server: Server, store: HttpStore, status: int) -> None:
    server.objects[b"real"] = BODY
    del server.objects[b"k"]
    server.behave = lambda r: Answer([to("real?sig=a%2Fb", status)]) if r.key == b"k" else None
    assert store.stat(b"k").entry.size == len(BODY)
    assert get(store, b"k", 5, 9) == BODY[5:9]
    assert store.stamps([b"k", b"none"])[0] == store.stat(b"k").stamp
    wants = [Want(i, b"k", len(BODY)) for i in range(20)]
    assert all(bytes(got.body) == BODY for got in store.fetch(wants))
    methods = [(r.method, r.target) for r in server.requests[:4]]
    assert methods == [(m, t) for m in ("HEAD", "GET") for t in ("/b/k", "/b/real?sig=a%2Fb")]


@pytest.mark.parametrize(
    "where", ["", "ftp://x/y", "http://user:pw@localhost/x", "http://[/", "http://localhost:99999/"]
)
@pytest.mark.spec("HTTP-6")
def test_redirects_to_nowhere(server: Server, store: HttpStore, where: str) -> None:
    answers(server, to(where) if where else reply(302), then=False)
    refused(Invalid, "bad-redirect", lambda: get(store))
    (got,) = store.fetch([Want(0, b"k", 1)])
    assert got.error is not None
    assert got.error.code == "bad-redirect"


@pytest.mark.spec("HTTP-6")
def test_redirects_without_end(server: Server, store: HttpStore) -> None:
    steps = itertools.count()
    server.behave = lambda r: Answer([to(f"/b/{next(steps)}")])
    refused(Invalid, "bad-redirect", lambda: get(store))
    assert len(server.requests) == 6
    (got,) = store.fetch([Want(0, b"k", 1)])
    assert got.error is not None
    assert got.error.code == "bad-redirect"
    assert len(server.requests) == 12


@pytest.mark.spec("HTTP-7")
def test_credentials_stay_with_their_server(server: Server) -> None:
    other = Server(objects={b"k": BODY})
    try:
        found = HttpCredentials(
            {token_name("localhost", server.port): SECRET, token_name("localhost", other.port): "x"}
        )
        with contextlib.closing(server.store(credentials=found)) as store:
            assert SECRET not in repr(store) + repr(found) + store.url
            server.behave = lambda r: Answer([to(f"http://localhost:{other.port}/b/k")])
            assert get(store, b"k", 3, 9) == BODY[3:9]
            assert store.stamps([b"k"]) == [store.stat(b"k").stamp]
            assert all(bytes(g.body) == BODY for g in store.fetch([Want(0, b"k", len(BODY))]))
            assert {r.headers.get("authorization") for r in server.requests} == {f"Bearer {SECRET}"}
            assert {r.headers.get("authorization") for r in other.requests} == {None}
            server.behave = lambda r: Answer([reply(401)])
            for ask in (
                lambda: store.stat(b"k"),
                lambda: get(store),
                lambda: store.stamps([b"k"]),
                lambda: list(store.list()),
            ):
                refused(Denied, "wrong-credentials", ask)
            got = list(store.fetch([Want(i, b"k", 1) for i in range(99)]))
            assert {g.error.code for g in got if g.error} == {"wrong-credentials"}
    finally:
        other.stop()


@pytest.mark.spec("HTTP-7")
def test_credentials_are_not_sent_in_the_open() -> None:
    """Over plain http they would be everybody's; nothing is asked of the network here."""
    found = HttpCredentials({token_name("data.example.org"): SECRET})
    for scheme, sent in (("http", False), ("https", True)):
        store = HttpStore(parse(f"{scheme}://data.example.org/x"), found)
        assert bool(store.origins._authorization) is sent
        store.close()


@pytest.mark.spec("HTTP-7")
def test_where_credentials_come_from(tmp_path: Path) -> None:
    netrc = tmp_path / ".netrc"
    netrc.write_text(f"machine h.org login me password {SECRET}\ndefault login any password any\n")
    env = {"HOME": str(tmp_path), "DLS_HTTP_TOKEN_T_ORG": SECRET, "DLS_HTTP_TOKEN_T_ORG_8443": "other"}
    found = credentials.http(env)
    assert found.header("h.org", 443, 443)[0].startswith(b"Basic ")
    assert found.header("t.org", 443, 443)[0] == b"Bearer " + SECRET.encode()
    assert found.header("t.org", 8443, 443)[0] == b"Bearer other"
    assert found.header("elsewhere.org", 443, 443)[0] == b"", "netrc's default is nobody's"
    assert SECRET not in repr(found) + found.source
    assert credentials.http({"HOME": "/nonexistent"}).tokens == {}
    netrc.write_text(f"machine h.org password {SECRET} {SECRET}")
    refused(Invalid, "bad-credentials-file", lambda: credentials.http(env))
    bad = {"HOME": "/nonexistent", "DLS_HTTP_TOKEN_X": f"{SECRET}\r\nX: y"}
    refused(Denied, "no-credentials", lambda: credentials.http(bad))
    for text in (f"https://me:{SECRET}@h.org/x", f"http://{SECRET.replace('/', '')}@h.org/"):
        refused(Invalid, "secret-in-url", lambda text=text: open_store(text))


# ------------------------------------------------------------------------------------------- folders, HEAD, listings


@pytest.mark.spec("HTTP-8")
def test_a_folder_is_no_file(server: Server, store: HttpStore) -> None:
    server.behave = lambda r: Answer([to(f"http://elsewhere:1{r.target}/")])
    refused(NotFound, "no-such-key", lambda: store.stat(b"a (b)"))
    refused(NotFound, "no-such-key", lambda: store.read(b"a"))
    assert store.stamps([b"a", b"b c"]) == [b"", b""]
    (got,) = store.fetch([Want(0, b"a", 1)])
    assert isinstance(got.error, NotFound)


@pytest.mark.parametrize("status", [400, 403, 405, 501])
@pytest.mark.spec("HTTP-11")
def test_a_server_that_refuses_head(server: Server, store: HttpStore, status: int) -> None:
    server.objects[b"empty"] = b""
    server.behave = lambda r: Answer([reply(status)]) if r.method == "HEAD" else None
    stamp = store.stat(b"k").stamp
    assert store.stat(b"k").entry.size == len(BODY)
    assert store.stat(b"empty").entry.size == 0
    assert store.stamps([b"k", b"none"]) == [stamp, b""]
    refused(NotFound, "no-such-key", lambda: store.stat(b"none"))


@pytest.mark.spec("HTTP-9")
def test_what_is_no_index_is_no_empty_listing(server: Server, store: HttpStore) -> None:
    page = b"<html><title>Welcome</title><a href='x'>x</a></html>"
    for whole in (
        reply(200, page, "Content-Type: text/html"),
        reply(200, b"{}", "Content-Type: application/json"),
        reply(200, b"[]", "Content-Type: text/plain"),
        reply(403),
    ):
        server.behave = lambda r, whole=whole: None if r.method == "HEAD" else Answer([whole])
        assert refused(Unsupported, "no-index", lambda: list(store.list())).remedy
    server.behave = lambda r: Answer([to(r.target + "/x/")])
    with pytest.raises(DlsError):
        list(store.list())
    answers(server, reply(500), then=False)
    with contextlib.closing(server.store(tries=1)) as once:
        refused(Unavailable, "service-error", lambda: list(once.list()))


@pytest.mark.spec("HTTP-9")
def test_an_index_in_html_is_asked_for_sizes(server: Server, store: HttpStore) -> None:
    page = b'<title>Index of /b/</title><a href="k">k</a> 2.0M <a href="gone">gone</a> <a href=".dls-x">h</a>'
    server.behave = lambda r: Answer([reply(200, page, "Content-Type: text/html")]) if r.target == "/b/" else None
    assert [(e.path, e.size) for e in store.list()] == [(b"k", len(BODY))]


@pytest.mark.spec("HTTP-8", "HTTP-9")
def test_an_address_that_is_one_file(server: Server) -> None:
    """Also where the server answers for a name below a file with a page of its own."""
    server.behave = lambda r: Answer([reply(200, b"<p>", "Content-Type: text/html")]) if r.target == "/b/k/" else None
    with contextlib.closing(server.store("b/k")) as one:
        assert list(one.list()) == []


# ------------------------------------------------------------------------------------------------- time and patience


@pytest.mark.parametrize(
    "whole",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X-Long: y\r\n" * 20_000,
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
    ],
)
@pytest.mark.spec("HTTP-10")
def test_what_is_not_http_is_told(server: Server, store: HttpStore, whole: bytes) -> None:
    server.behave = lambda request: Answer([whole])
    for ask in (lambda: store.stat(b"k"), lambda: get(store), lambda: store.stamps([b"k"])):
        refused(Unavailable, "not-http", ask)


@pytest.mark.spec("HTTP-10")
def test_a_busy_server_is_asked_again_when_it_says(server: Server, store: HttpStore) -> None:
    for ask in (lambda: get(store, b"k", 0, 9), lambda: store.stat(b"k"), lambda: store.stamps([b"k"])):
        answers(server, reply(503, b"", "Retry-After: 1"))
        started = time.monotonic()
        assert ask()
        assert time.monotonic() - started >= 1
    for status in (429, 503):
        answers(server, reply(status, b"", "Retry-After: 3600"), then=False)
        before = len(server.requests)
        assert "3600 s" in refused(Unavailable, "service-busy", lambda: get(store)).remedy
        assert len(server.requests) == before + 1


@pytest.mark.spec("HTTP-10")
def test_a_silent_server_is_given_up(server: Server) -> None:
    server.behave = lambda request: Answer([b"", b""], pause=1.0, close=True)
    with contextlib.closing(server.store(timeout_s=0.4)) as store:
        for ask in (lambda: store.stat(b"k"), lambda: get(store, b"k", 0, 9), lambda: store.stamps([b"k"])):
            started = time.monotonic()
            refused(Unavailable, "service-hangs", ask)
            assert time.monotonic() - started < 5


@pytest.mark.service
@pytest.mark.spec("HTTP-10")
def test_a_stopped_server_is_given_up(tmp_path: Path, need: Callable[..., None]) -> None:
    need("nginx", nginx_installed(), "not installed")
    with nginx(tmp_path) as service:
        (service.root / "k").write_bytes(BODY)
        with contextlib.closing(HttpStore(parse(service.endpoint), HttpCredentials(), timeout_s=0.5)) as store:
            assert get(store) == BODY
            service.children[0].pause()
            try:
                for ask in (lambda: store.stat(b"k"), lambda: get(store, b"k", 0, 9), lambda: list(store.list())):
                    refused(Unavailable, "service-hangs", ask)
                (got,) = store.fetch([Want(0, b"k", len(BODY))])
                assert isinstance(got.error, Unavailable)
            finally:
                service.children[0].resume()
            assert get(store) == BODY


@pytest.mark.spec("HTTP-12")
def test_sums_are_those_that_are_named(server: Server, store: HttpStore) -> None:
    assert store.sums(b"k") == {}
    assert "sha-256" in server.requests[-1].headers["want-digest"]
    answers(server, reply(200, b"", "Digest: adler32=03da0195").replace(b"Length: 0", b"Length: 9"))
    assert store.sums(b"k") == {"adler32": "03da0195"}


# ------------------------------------------------------------------------------------------- nginx as it is set up


def plain(endpoint: str) -> contextlib.closing[HttpStore]:
    return contextlib.closing(HttpStore(parse(endpoint), HttpCredentials()))


@pytest.mark.service
@pytest.mark.spec("HTTP-9")
def test_indexes_of_nginx_agree(tmp_path: Path, need: Callable[..., None]) -> None:
    need("nginx", nginx_installed(), "not installed")
    names = [b"a b", b"a-b", b"a/b", b"a0", b"q?x#y", b"%41", b"caf\xe9", b"x" * 200, b"<&>'\"", b"c:d", b"deep/er/z"]
    served = tmp_path / "served"
    for name in names:
        full = bytes(served) + b"/" + name
        os.makedirs(os.path.dirname(full), exist_ok=True)
        with open(full, "wb") as file:
            file.write(name)
    listed: list[list[tuple[bytes, int]]] = []
    for index in ("json", "html"):
        (tmp_path / index).mkdir()
        with nginx(tmp_path / index, served, index=index) as service, plain(service.endpoint) as store:
            found = list(store.list())
            listed.append([(e.path, e.size) for e in found])
            wants = [Want(i, e.path, e.size) for i, e in enumerate(found)]
            assert all(bytes(g.body) == found[g.i].path for g in store.fetch(wants))
    assert listed[0] == listed[1] == [(name, len(name)) for name in sorted(names)]
    with nginx(tmp_path, served, index="none") as service, plain(service.endpoint) as store:
        refused(Unsupported, "no-index", lambda: list(store.list()))
        refused(Unsupported, "no-index", lambda: list(store.below(b"a").list()))
        assert store.exists()
        assert list(store.below(b"a0").list()) == []


@pytest.mark.service
def test_connections_that_nginx_closes_cost_nothing(tmp_path: Path, need: Callable[..., None]) -> None:
    need("nginx", nginx_installed(), "not installed")
    with nginx(tmp_path, requests=7) as service:
        wants = []
        for i in range(500):
            (service.root / f"f{i}").write_bytes(b"%d" % i * 50)
            wants.append(Want(i, b"f%d" % i, len(b"%d" % i * 50)))
        with contextlib.closing(HttpStore(parse(service.endpoint), HttpCredentials())) as store:
            assert {g.i: bytes(g.body) for g in store.fetch(wants)} == {w.i: b"%d" % w.i * 50 for w in wants}
            assert all(store.stamps([w.key for w in wants]))
            for i in range(30):
                assert get(store, b"f%d" % i, 1, 9) == (b"%d" % i * 50)[1:9]


@pytest.mark.spec("HTTP-13")
def test_tls(tmp_path: Path, need: Callable[..., None]) -> None:
    need("openssl", shutil.which("openssl"))
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    made += ["-keyout", str(key), "-out", str(cert), "-days", "2", "-subj", "/CN=localhost"]
    subprocess.run([*made, "-addext", "subjectAltName=DNS:localhost"], check=True, capture_output=True, timeout=60)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    server = Server(objects={b"k": BODY}, tls=context)
    try:
        trusting = HttpCredentials(ca_bundle=str(cert))
        with contextlib.closing(server.store(credentials=trusting)) as store:
            for start in (0, 100_000, 5):
                assert get(store, b"k", start, start + 70_000) == BODY[start : start + 70_000]
            time.sleep(0.1)
            assert get(store) == BODY
            assert server.connections == 1, "a connection is kept over TLS as well"
            wants = [Want(i, b"k", len(BODY)) for i in range(20)]
            assert all(hashlib.md5(g.body).digest() == hashlib.md5(BODY).digest() for g in store.fetch(wants))
            server.behave = lambda r: Answer([to("http://localhost/b/k")])
            refused(Denied, "bad-redirect", lambda: get(store))
        server.behave = lambda r: None
        with contextlib.closing(server.store()) as store:
            refused(Denied, "bad-certificate", lambda: get(store))
        other = parse(f"https://127.0.0.1:{server.port}/b")  # the certificate is that of localhost
        with contextlib.closing(HttpStore(other, trusting)) as store:
            refused(Denied, "bad-certificate", lambda: get(store))
    finally:
        server.stop()
