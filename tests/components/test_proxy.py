"""The proxy passes HTTP unchanged, counts it, and plants each of its faults where it was told to."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from components.exchange import Fault, http_kind
from components.proxy import Proxy
from components.s3_rclone import rclone_s3

pytestmark = pytest.mark.service
BODY = bytes(range(256)) * 4096  # 1 MiB


class _Plain(BaseHTTPRequestHandler):
    """GET /N: N bytes of BODY; /chunked: BODY in chunks; PUT echoes the length of what it got."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two writes: 40 ms each without

    def do_GET(self) -> None:
        self.send_response(206 if self.headers["Range"] else 200)
        if self.path == "/chunked":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for start in range(0, len(BODY), 100_000):
                piece = BODY[start : start + 100_000]
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")
            return
        size = int(self.path[1:])
        self.send_header("Content-Length", str(size))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(BODY[:size])

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_PUT(self) -> None:
        got = len(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("Content-Length", str(len(str(got))))
        self.end_headers()
        self.wfile.write(str(got).encode())

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def _plain() -> Iterator[Proxy]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Plain) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with Proxy(f"http://127.0.0.1:{server.server_address[1]}", kind=http_kind) as proxy:
                yield proxy
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with _plain() as proxy:
        yield proxy


@pytest.fixture
def link(proxy: Proxy) -> Iterator[http.client.HTTPConnection]:
    address = urlsplit(proxy.endpoint)
    link = http.client.HTTPConnection(address.hostname or "", address.port, timeout=10)
    yield link
    link.close()


def _get(link: http.client.HTTPConnection, path: str, **headers: str) -> bytes:
    link.request("GET", path, headers=headers)
    return link.getresponse().read()


def test_the_proxy_passes_and_counts_everything_on_one_connection(
    proxy: Proxy, link: http.client.HTTPConnection
) -> None:
    assert _get(link, "/1000") == BODY[:1000]
    assert _get(link, f"/{len(BODY)}") == BODY
    assert _get(link, "/chunked") == BODY
    assert _get(link, "/5", Range="bytes=0-4") == BODY[:5]
    assert _get(link, "/0") == b""
    link.request("HEAD", "/77")
    assert link.getresponse().read() == b""
    link.request("PUT", "/x", body=BODY)
    assert link.getresponse().read() == str(len(BODY)).encode()
    link.request("PUT", "/x", body=b"abc", headers={"Expect": "100-continue"})
    assert link.getresponse().read() == b"3"
    counts = proxy.counts()
    assert counts.requests == {"GET": 5, "HEAD": 1, "PUT": 2}
    assert counts.responses == {("GET", 200): 4, ("GET", 206): 1, ("HEAD", 200): 1, ("PUT", 200): 2}
    assert (counts.bodies, counts.body_bytes, counts.upload_bytes) == (5, 1005 + 2 * len(BODY), len(BODY) + 3)
    assert counts.connections == 1
    assert [exchange.range for exchange in proxy.log if exchange.range] == ["bytes=0-4"]
    proxy.reset()
    assert proxy.counts().requests == {}


@pytest.mark.parametrize("delay", [0.0, 0.05])
def test_pipelined_requests_are_answered_in_order(proxy: Proxy, delay: float) -> None:
    proxy.delay = delay
    sizes = [*range(1, 40), 300_000, 7]
    with _connect(proxy) as sock:
        began = time.monotonic()
        sock.sendall(b"".join(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % size for size in sizes))
        with sock.makefile("rb") as stream:
            for size in sizes:
                length = 0
                while (line := stream.readline()) != b"\r\n":
                    if line.startswith(b"Content-Length:"):
                        length = int(line.split()[1])
                assert length == size
                assert stream.read(length) == BODY[:size]
        took = time.monotonic() - began
    assert took >= delay  # and not once per request: a round trip is shared by all that are under way
    assert proxy.counts().bodies == len(sizes)


def test_a_cut_lets_exactly_so_many_bytes_through(proxy: Proxy, link: http.client.HTTPConnection) -> None:
    fault = proxy.add(Fault(kind="GET", nth=2, cut=300_001))
    assert _get(link, f"/{len(BODY)}") == BODY
    with pytest.raises(http.client.IncompleteRead) as caught:
        _get(link, f"/{len(BODY)}")
    assert len(caught.value.partial) == 300_001
    link.close()
    assert _get(link, "/9") == BODY[:9]
    assert (fault.seen, fault.fired) == (3, 1)
    until = time.monotonic() + 10  # the proxy notes the end after the client has the last byte
    while not proxy.log[-1].finished and time.monotonic() < until:
        time.sleep(0.01)
    assert [exchange.finished for exchange in proxy.log] == [True, False, True]
    proxy.clear()
    proxy.add(Fault(cut=5, reset=True))
    with pytest.raises((ConnectionResetError, http.client.IncompleteRead)):
        _get(link, f"/{len(BODY)}")


def test_a_flip_changes_one_bit(proxy: Proxy, link: http.client.HTTPConnection) -> None:
    proxy.add(Fault(path="chunked", flip=200_000))
    assert _get(link, "/300000") == BODY[:300_000]
    wrong = _get(link, "/chunked")
    assert [at for at in range(len(BODY)) if wrong[at] != BODY[at]] == [200_000]
    assert wrong[200_000] ^ BODY[200_000] == 1


def test_planted_errors_hangs_and_delays(proxy: Proxy, link: http.client.HTTPConnection) -> None:
    proxy.add(Fault(kind="GET", nth=2, status=503, times=2))
    statuses = []
    for _ in range(4):
        link.request("GET", "/10")
        answer = link.getresponse()
        answer.read()
        statuses.append(answer.status)
    assert statuses == [200, 503, 503, 200]
    assert proxy.counts().connections == 1
    proxy.add(Fault(kind="PUT", status=500))
    link.request("PUT", "/x", body=BODY[:1000])
    answer = link.getresponse()
    assert (answer.status, answer.read()[:5]) == (500, b"<?xml")
    proxy.add(Fault(path="/7$", hang=True))
    with _connect(proxy) as sock:
        sock.settimeout(0.3)
        sock.sendall(b"GET /7 HTTP/1.1\r\nHost: x\r\n\r\n")
        with pytest.raises(TimeoutError):
            sock.recv(1)
    proxy.add(Fault(path="/8$", delay=0.2))
    began = time.monotonic()
    assert _get(link, "/8") == BODY[:8]
    assert time.monotonic() - began >= 0.2


def test_the_rate_holds_over_all_connections(proxy: Proxy, link: http.client.HTTPConnection) -> None:
    proxy.rate = 2e6
    began = time.monotonic()
    assert _get(link, f"/{len(BODY)}") == BODY
    assert time.monotonic() - began >= 0.4  # 1 MiB at 2 MB/s, less the first piece


def test_signed_requests_pass_the_proxy(tmp_path: Path) -> None:
    with rclone_s3(tmp_path) as server, Proxy(server.endpoint) as proxy:
        client, bucket = server.client(endpoint=proxy.endpoint), server.bucket("bucket")
        client.put_object(Bucket=bucket, Key="a/key", Body=BODY)
        assert client.get_object(Bucket=bucket, Key="a/key")["Body"].read() == BODY
        assert client.head_object(Bucket=bucket, Key="a/key")["ContentLength"] == len(BODY)
        assert client.list_objects_v2(Bucket=bucket)["KeyCount"] == 1
        upload = client.create_multipart_upload(Bucket=bucket, Key="m")["UploadId"]
        client.upload_part(Bucket=bucket, Key="m", UploadId=upload, PartNumber=1, Body=b"x")
        client.abort_multipart_upload(Bucket=bucket, Key="m", UploadId=upload)
        assert proxy.counts().requests == {"PUT": 1, "GET": 1, "HEAD": 1, "LIST": 1, "POST": 1, "PART": 1, "DELETE": 1}


@contextmanager
def _connect(proxy: Proxy) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", urlsplit(proxy.endpoint).port or 0), timeout=10) as sock:
        yield sock
