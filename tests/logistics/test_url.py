"""Addresses and dataset ids print and parse alike, and hold no secret."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dls.logistics import url as urls
from dls.logistics.errors import Invalid
from dls.logistics.testing.strategies import keys
from dls.logistics.url import DatasetId, Url

PLACES = st.sampled_from(
    [
        ("s3", "bucket"),
        ("memory", "name"),
        ("http", "host:80"),
        ("https", "[::1]"),
        ("s3+http", "host:9000"),
        ("s3+https", "h"),
        ("file", ""),
    ]
)


@given(PLACES, st.one_of(st.just(b""), keys()))
def test_urls_round_trip(place: tuple[str, str], path: bytes) -> None:
    made = Url(*place, path)
    text = str(made)
    assert urls.parse(text) == made
    assert text.isprintable()


@given(PLACES, keys(), keys())
def test_below_and_parent(place: tuple[str, str], path: bytes, more: bytes) -> None:
    below = Url(*place, path).below(more)
    assert urls.parse(str(below)) == below
    assert below.path == path + b"/" + more
    above, last = below.parent
    assert above.below(last) == below
    assert Url(*place, b"").below(path).path == path
    assert Url(*place, b"").parent == (Url(*place, b""), b"")


@given(keys())
def test_local_paths_are_taken_as_they_are(path: bytes) -> None:
    text = path.decode("utf-8", "surrogateescape")
    assume("://" not in text)
    assert urls.parse("/" + text).path == path
    assert urls.parse("./" + text, "/here").path == b"here/" + path


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("/a/../b//c/", Url("file", "", b"b/c")),
        ("file:///a%20b", Url("file", "", b"a b")),
        ("file://localhost/a", Url("file", "", b"a")),
        ("/100%25", Url("file", "", b"100%25")),
        ("/", Url("file", "", b"")),
        ("x", Url("file", "", b"cwd/x")),
        ("s3://b", Url("s3", "b", b"")),
        ("s3://b/", Url("s3", "b", b"")),
        ("s3://b/p%2Fq/", Url("s3", "b", b"p/q")),
        ("s3+http://[::1]:9000/b/p", Url("s3+http", "[::1]:9000", b"b/p")),
    ],
)
def test_forms(text: str, wanted: Url) -> None:
    assert urls.parse(text, "/cwd") == wanted


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\0",
        "s3://",
        "s3:///x",
        "S3://b",
        "file://host/x",
        "s3://b/a/../c",
        "s3://b/a//c",
        "s3://b/%00",
        "file:///a%00b",
        "1x://a",
        "http:///x",
        "s3+https://",
    ],
)
def test_what_is_no_url(text: str) -> None:
    with pytest.raises(Invalid) as told:
        urls.parse(text, "/cwd")
    assert "password" not in str(told.value)
    assert told.value.remedy
    assert str(told.value).isprintable()


def test_a_relative_path_needs_a_folder() -> None:
    with pytest.raises(Invalid):
        urls.parse("x")


@pytest.mark.parametrize(
    "text",
    [
        "s3://me:hunter2@b/x",
        "s3+http://hunter2@h/b",
        "file://me:hunter2@h/x",
        "X://me:hunter2@b/x",
        "https://me:hunter2@h/x",
        "https:///me:hunter2@h/x",
    ],
)
def test_secrets_are_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(Invalid) as told:
        urls.parse(text)
    assert "hunter2" not in str(told.value) + str(told.value.to_json())


NAME = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)


@given(NAME, NAME, st.integers(0, 999_999_999), st.one_of(st.just(b""), keys()))
def test_dataset_ids_round_trip(scope: str, name: str, version: int, path: bytes) -> None:
    made = DatasetId(scope, name, version, path)
    assert urls.dataset(str(made)) == made
    assert urls.is_dataset(str(made))
    assert made.key == f"{scope}:{name}"


@pytest.mark.parametrize(
    "text", ["", "a", ":a", "a:", "a:b@", "a:b@x", "a b:c", "a:b@1234567890", "a:b/../c", "a:b/", "-a:b", "a:b\n"]
)
def test_what_is_no_dataset_id(text: str) -> None:
    with pytest.raises(Invalid):
        urls.dataset(text)


@pytest.mark.parametrize("text", ["s3://a/b:c", "/a:b", "./a:b", "../a:b", "plain"])
def test_what_is_meant_as_a_path(text: str) -> None:
    assert not urls.is_dataset(text)
