"""Which store opens which address, and what is said where none does."""

import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from dls.logistics import registry
from dls.logistics.errors import Denied, Invalid, Unsupported
from dls.logistics.store import Store
from dls.logistics.url import Url, parse

KEYS = {"AWS_ACCESS_KEY_ID": "AK", "AWS_SECRET_ACCESS_KEY": "hush", "HOME": "/nonexistent"}


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("memory://m/a/b", "MemoryStore"),
        ("s3://bucket/a b", "S3Store"),
        ("s3+http://127.0.0.1:9/bucket", "S3Store"),
        ("s3+https://localhost/bucket/x", "S3Store"),
        ("http://127.0.0.1:9/a b", "HttpStore"),
        ("https://[::1]:9", "HttpStore"),
        ("https://data.example.org/x?y#z%25", "HttpStore"),
    ],
)
def test_built_in(url: str, name: str) -> None:
    store = registry.open_store(url, KEYS)
    assert type(store).__name__ == name
    assert isinstance(store, Store)
    assert parse(store.url) == parse(url)
    assert parse(store.below(b"c").url) == parse(url).below(b"c")
    assert "hush" not in store.url + repr(store)
    store.close()


def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for url in (tmp_path.as_uri(), str(tmp_path), "./", Url("file", "", str(tmp_path).lstrip("/").encode())):
        store = registry.open_store(url)
        store.write(b"k", [b"x"])
        assert (tmp_path / "k").read_bytes() == b"x"
        store.close()


def test_options_go_to_the_store() -> None:
    store: Any = registry.open_store("s3+http://127.0.0.1:9/b", KEYS, concurrency=3, timeout_s=2.5, part_bytes=255)
    assert (store.wire.concurrency, store.wire.address.timeout_s, store.names.part_bytes) == (3, 2.5, 255)
    assert (store.wire.address.host, store.wire.address.port) == ("127.0.0.1", 9)
    store.close()
    with pytest.raises(TypeError):
        registry.open_store("memory://m", nonsense=1)


def test_the_endpoint_of_the_environment() -> None:
    for env, shown in (
        (KEYS, "http://s3.us-east-1.amazonaws.com:443"),
        ({**KEYS, "AWS_REGION": "eu-west-3"}, "http://s3.eu-west-3.amazonaws.com:443"),
        ({**KEYS, "AWS_ENDPOINT_URL": "http://here:81"}, "http://here:81"),
        ({**KEYS, "AWS_ENDPOINT_URL": "http://[::1]:81"}, "http://::1:81"),
    ):
        store: Any = registry.open_store("s3://b", env)
        address = store.wire.address
        assert f"http://{address.host}:{address.port}" == shown
        assert bool(address.tls) == shown.endswith("443")
        store.close()
    for bad in ("here:81", "ftp://x", "http://", "http://user:hush@x", "http://x/path"):
        with pytest.raises(Invalid) as told:
            registry.open_store("s3://b", {**KEYS, "AWS_ENDPOINT_URL": bad})
        assert told.value.code == "bad-endpoint"
        assert "hush" not in str(told.value)


def test_no_bucket_and_no_credentials() -> None:
    with pytest.raises(Invalid):
        registry.open_store("s3+http://127.0.0.1:9", KEYS)
    with pytest.raises(Denied):
        registry.open_store("s3://b", {"HOME": "/nonexistent"})


def test_unknown_scheme_names_those_known() -> None:
    with pytest.raises(Unsupported) as told:
        registry.open_store("gopher://x/y")
    assert told.value.code == "unknown-scheme"
    assert all(scheme in told.value.remedy for scheme in registry.BUILT_IN if scheme != registry.PASSING)


def test_a_missing_library_is_told_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.BUILT_IN, "s3", registry.Known("no_such_library.s3:Store", lambda url: (url,), "s3"))
    with pytest.raises(Unsupported) as told:
        registry.open_store("s3://b")
    assert (told.value.code, told.value.remedy) == ("not-installed", "pip install 'dls[s3]'")
    assert "no_such_library" in str(told.value)


def test_entry_points_add_schemes_and_replace_none(monkeypatch: pytest.MonkeyPatch) -> None:
    module = __name__
    points = [
        metadata.EntryPoint("odd", f"{module}:odd_store", registry.GROUP),
        metadata.EntryPoint("memory", f"{module}:odd_store", registry.GROUP),
        metadata.EntryPoint("bad", f"{module}:absent", registry.GROUP),
    ]
    monkeypatch.setattr(metadata, "entry_points", lambda group: [p for p in points if p.group == group])
    monkeypatch.setitem(sys.modules, module, sys.modules[__name__])
    found: Any = registry.open_store("odd://place/path", depth=2)
    assert found == (Url("odd", "place", b"path"), {"depth": 2})
    assert type(registry.open_store("memory://m")).__name__ == "MemoryStore"
    assert "odd" in registry.schemes()
    with pytest.raises(Invalid):
        registry.open_store("bad://x")


def odd_store(url: Url, **options: Any) -> tuple[Url, dict[str, Any]]:
    """What the entry point above names."""
    return url, options


@pytest.mark.parametrize("url", ["s3+http://127.0.0.1:9/b", "http://127.0.0.1:9/b", "https://127.0.0.1:9/b"])
def test_nothing_heavy_is_imported_to_open_a_store(url: str) -> None:
    """A store opens on a login node in the time that Python takes to start."""
    code = (
        "import sys; from dls.logistics.registry import open_store;"
        f"open_store({url!r}, {KEYS!r}).close();"
        "print([m for m in ('boto3', 'botocore', 'obstore', 'ssl', 'asyncio', 'http.client', 'importlib.metadata', "
        "'urllib.request', 'xml.etree') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
