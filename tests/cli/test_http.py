"""Addresses on an HTTP server, on the command line: looked at, registered, staged in, verified; never written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from components.command import Command, fill
from components.nginx import HttpService, nginx, nginx_installed

pytestmark = pytest.mark.service


@pytest.fixture
def service(tmp_path: Path, need: Callable[..., None]) -> Iterator[HttpService]:
    need("nginx", nginx_installed(), "not installed")
    fill(tmp_path / "served" / "tree")
    with nginx(tmp_path, more=f"location /closed/ {{ alias {tmp_path}/served/tree/; autoindex off; }}") as service:
        yield service


@pytest.mark.spec("HTTP-9")
def test_a_tree_goes_the_whole_road(dls: Command, service: HttpService, tmp_path: Path) -> None:
    url = f"{service.endpoint}/tree"
    dls("site", "add", "scratch", tmp_path / "scratch", ok=True)
    dls("site", "add", "web", url, ok=True)
    assert (dls.json("probe", url)["files"], dls.json("probe", url)["bytes"]) == (7, 1_541_000)
    assert dls.json("catalogue", "add", "x:data", url)["files"] == 7
    staged = Path(dls.json("stage-in", "x:data", "--to", "scratch")["path"])
    assert (staged / "large").read_bytes() == (service.root / "tree" / "large").read_bytes()
    dls("verify", "x:data", "--deep", ok=True)
    (service.root / "tree" / "large").write_bytes(b"x" * 1_536_000)
    told = dls("verify", "x:data", "--deep")
    assert told.status == 7
    assert "large" in told.out + told.err


@pytest.mark.spec("HTTP-8")
@pytest.mark.parametrize("folder", ["tree", "closed"])
def test_one_file(dls: Command, service: HttpService, tmp_path: Path, folder: str) -> None:
    """Also where the server does not list the folder above."""
    url = f"{service.endpoint}/{folder}/large"
    dls("site", "add", "scratch", tmp_path / "scratch", ok=True)
    assert dls.json("probe", url)["files"] == 1
    assert dls.json("catalogue", "add", "x:one", url)["files"] == 1
    staged = Path(dls.json("stage-in", "x:one", "--to", "scratch")["path"])
    assert (staged / "large").read_bytes() == (service.root / "tree" / "large").read_bytes()


@pytest.mark.spec("HTTP-1", "HTTP-7", "HTTP-9")
def test_what_cannot_be(dls: Command, service: HttpService, tree: Path) -> None:
    dls("catalogue", "add", "x:data", tree, ok=True)
    for words, status, code in (
        (("stage-out", "x:data", "--to", f"{service.endpoint}/out"), 6, "no-such-verb"),
        (("catalogue", "add", "x:a", f"{service.endpoint}/closed"), 6, "no-index"),
        (("catalogue", "add", "x:a", f"{service.endpoint}/none"), 3, "no-source"),
        (("catalogue", "add", "x:a", service.endpoint.replace("//", "//me:hunter22@")), 2, "secret-in-url"),
    ):
        told = dls(*words)
        assert (told.status, f"[{code}]" in told.err, "hunter22" in told.out + told.err) == (status, True, False)
