"""Two HTTP servers in Python over a plain folder: the standard library's own, which knows neither ranges nor ETags, and
an exact one, which does everything that our store can use: ETags that tell every change, checksums, full indexes.

The exact one is this module run as a program: `python http_plain.py FOLDER PORT`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote_to_bytes

_PIECE = 1 << 20


@contextmanager
def python_server(work: Path, root: Path | None = None, *, exact: bool = False) -> Iterator[HttpService]:
    """Serve `root` (default `work`/served)."""
    root = root or work / "served"
    root.mkdir(parents=True, exist_ok=True)
    port = free_port()
    argv: list[str | Path] = [sys.executable, __file__, root, str(port)]
    if not exact:
        argv = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "--protocol", "HTTP/1.1"]
        argv += ["--directory", root, str(port)]
    endpoint = f"http://127.0.0.1:{port}"
    child = Child(argv, log=work / "python-http.log")
    with child:
        child.wait_ready(lambda: http_answers(endpoint), within=20)
        yield HttpService(endpoint, root, (child,))


class Exact(BaseHTTPRequestHandler):
    """One connection to the exact server."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # a head and its small body leave in one piece
    root = b""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote_to_bytes(self.path)
        full = self.root + path
        try:
            info = os.stat(full)
        except (OSError, ValueError):
            self._say(404)
            return
        if stat.S_ISDIR(info.st_mode):
            self._folder(full, path)
        elif path.endswith(b"/"):
            self._say(404)
        else:
            self._file(full, info)

    def _folder(self, full: bytes, path: bytes) -> None:
        if not path.endswith(b"/"):
            self._say(301, ("Location", self.path + "/"))
            return
        rows = []
        with os.scandir(full) as entries:
            for one in entries:
                kind = "directory" if one.is_dir() else "file" if one.is_file() else "other"
                name = one.name.decode("utf-8", "surrogateescape")
                rows.append({"name": name, "type": kind, "size": one.stat().st_size})
        body = json.dumps(rows, ensure_ascii=False).encode("utf-8", "surrogateescape")
        self._say(200, ("Content-Type", "application/json"), body=body)

    def _file(self, full: bytes, info: os.stat_result) -> None:
        size = info.st_size
        etag = f'"{info.st_ino:x}-{info.st_mtime_ns:x}-{info.st_ctime_ns:x}-{size:x}"'
        if self.headers.get("If-Match", etag) != etag:
            self._say(412)
            return
        headers = [("ETag", etag), ("Last-Modified", self.date_time_string(int(info.st_mtime)))]
        if self.headers.get("Want-Repr-Digest"):
            with open(full, "rb") as file:
                found = hashlib.file_digest(file, "sha256").digest()
            headers.append(("Repr-Digest", f"sha-256=:{base64.b64encode(found).decode()}:"))
        start, stop, status = 0, size, 200
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked:
            start, stop, status = int(asked[1]), min(size, int(asked[2] or size) + 1), 206
            if start >= size:
                self._say(416, ("Content-Range", f"bytes */{size}"))
                return
            headers.append(("Content-Range", f"bytes {start}-{stop - 1}/{size}"))
        self._say(status, *headers, length=stop - start)
        if self.command == "HEAD":
            return
        with open(full, "rb") as file:
            file.seek(start)
            while start < stop and (piece := file.read(min(_PIECE, stop - start))):
                self.wfile.write(piece)
                start += len(piece)

    def _say(self, status: int, *headers: tuple[str, str], body: bytes = b"", length: int = -1) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length < 0 else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


if __name__ == "__main__":
    Exact.root = os.fsencode(sys.argv[1])
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Exact).serve_forever()
else:
    from components.nginx import HttpService
    from components.process import Child, free_port
    from components.s3 import http_answers
