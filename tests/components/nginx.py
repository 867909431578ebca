"""nginx over a plain folder: the HTTP server that most data lie behind.

Names that begin with a dot are served, and left out of its indexes; its ETag is the second of the change and the size.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from components.process import Child, free_port
from components.s3 import http_answers

CONF = """
daemon off;
worker_processes 1;
worker_rlimit_nofile 20000;
pid {work}/nginx.pid;
error_log stderr warn;
{user}
events {{ worker_connections 8192; }}
http {{
    access_log off;
    default_type application/octet-stream;
    sendfile on;
    keepalive_requests {requests};
    keepalive_timeout 60s;
    client_body_temp_path {work}/temp; proxy_temp_path {work}/temp; fastcgi_temp_path {work}/temp;
    uwsgi_temp_path {work}/temp; scgi_temp_path {work}/temp;
    server {{
        listen 127.0.0.1:{port}{ssl};
        server_name localhost;
        root {root};
        {index}
        {more}
    }}
}}
"""
INDEXES = {"json": "autoindex on; autoindex_format json;", "html": "autoindex on;", "none": ""}


def nginx_installed() -> str | None:
    """The program, or None."""
    return shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")


@dataclass(frozen=True)
class HttpService:
    """A running HTTP server on loopback that serves the folder `root`."""

    endpoint: str
    root: Path
    children: tuple[Child, ...] = ()


@contextmanager
def nginx(
    work: Path, root: Path | None = None, *, index: str = "json", more: str = "", tls: str = "", requests: int = 1000
) -> Iterator[HttpService]:
    """Serve `root` (default `work`/served).  `index` is json, html or none; `more` goes into the server block, `tls`
    is a file with certificate and key; after `requests` requests a connection is closed."""
    root = root or work / "served"
    root.mkdir(parents=True, exist_ok=True)
    (work / "temp").mkdir(exist_ok=True)
    port = free_port()
    conf = work / "nginx.conf"
    if tls:
        more += f"\nssl_certificate {tls}; ssl_certificate_key {tls};"
    conf.write_text(
        CONF.format(
            work=work,
            port=port,
            root=root,
            ssl=" ssl" if tls else "",
            user="user root;" if os.geteuid() == 0 else "",  # the tests' folders are private
            requests=requests,
            index=INDEXES[index],
            more=more,
        )
    )
    endpoint = f"http{'s' if tls else ''}://localhost:{port}" if tls else f"http://127.0.0.1:{port}"
    ready = f"http://127.0.0.1:{port}"  # an answer to plain HTTP, be it a refusal
    argv = [str(nginx_installed() or "nginx"), "-e", str(work / "nginx.log"), "-p", str(work), "-c", str(conf)]
    child = Child(argv, log=work / "nginx.log")
    with child:
        child.wait_ready(lambda: http_answers(ready), within=20)
        yield HttpService(endpoint, root, (child,))
