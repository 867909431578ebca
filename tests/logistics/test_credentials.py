"""Where S3 credentials are found, in which order, and that they are told to nobody."""

import json
from pathlib import Path

import pytest

from dls.logistics import credentials
from dls.logistics.errors import Denied, DlsError, Invalid, Unsupported

SECRET = "s3cr3t/do+not=show"
CONFIG = """\
[default]
region = eu-north-1
[profile lab]
region = eu-central-1
endpoint_url = https://s3.lab.example
[profile own]
aws_access_key_id = OWN
aws_secret_access_key = %(secret)s
services = here
[services here]
s3 =
  endpoint_url = http://localhost:9000/
[profile sso]
sso_session = somewhere
"""
SHARED = """\
[default]
aws_access_key_id = DEF
aws_secret_access_key = %(secret)s
[lab]
aws_access_key_id = LAB
aws_secret_access_key = %(secret)s
aws_session_token = tok
"""


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "config").write_text(CONFIG % {"secret": SECRET})
    (tmp_path / ".aws" / "credentials").write_text(SHARED % {"secret": SECRET})
    return {"HOME": str(tmp_path)}


def test_environment_first() -> None:
    env = {
        "HOME": "/nonexistent",
        "AWS_ACCESS_KEY_ID": "AK",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_SESSION_TOKEN": "T",
        "AWS_ENDPOINT_URL": "http://all:1",
        "AWS_ENDPOINT_URL_S3": "http://s3:1/",
        "AWS_DEFAULT_REGION": "r1",
    }
    found = credentials.s3(environ=env)
    assert (found.access_key, found.secret_key, found.session_token) == ("AK", SECRET, "T")
    assert (found.endpoint, found.region) == ("http://s3:1", "r1")
    assert credentials.s3(environ={**env, "AWS_REGION": "r2"}).region == "r2"
    assert "AWS_ACCESS_KEY_ID" in found.source
    assert SECRET not in repr(found) + str(found) + f"{found}"
    assert "T" not in repr(found).replace("AWS_SECRET_ACCESS_KEY", "")


@pytest.mark.parametrize(
    ("extra", "profile", "key", "region", "endpoint"),
    [
        ({}, "", "DEF", "eu-north-1", ""),
        ({"AWS_PROFILE": "lab"}, "", "LAB", "eu-central-1", "https://s3.lab.example"),
        ({"AWS_PROFILE": "lab"}, "own", "OWN", "us-east-1", "http://localhost:9000"),
        ({"AWS_ACCESS_KEY_ID": "ENV", "AWS_SECRET_ACCESS_KEY": "x"}, "", "ENV", "eu-north-1", ""),
        (
            {"AWS_ACCESS_KEY_ID": "ENV", "AWS_SECRET_ACCESS_KEY": "x"},
            "lab",
            "LAB",
            "eu-central-1",
            "https://s3.lab.example",
        ),
        ({"AWS_SKIP_SIGNATURE": "true"}, "", "", "eu-north-1", ""),
    ],
)
def test_profiles(
    home: dict[str, str], extra: dict[str, str], profile: str, key: str, region: str, endpoint: str
) -> None:
    found = credentials.s3(profile, {**home, **extra})
    assert (found.access_key, found.region, found.endpoint) == (key, region, endpoint)


def test_files_named_by_the_environment(home: dict[str, str], tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text(f"[default]\naws_access_key_id = OTHER\naws_secret_access_key = {SECRET}\n")
    found = credentials.s3(
        environ={**home, "AWS_SHARED_CREDENTIALS_FILE": str(other), "AWS_CONFIG_FILE": "/nonexistent"}
    )
    assert (found.access_key, found.region) == ("OTHER", "us-east-1")
    assert str(other) in found.source


def test_a_process_gives_them(home: dict[str, str], tmp_path: Path) -> None:
    shared = Path(home["HOME"]) / ".aws" / "credentials"

    def answering(text: str, status: int = 0) -> dict[str, str]:
        program = tmp_path / "give"
        program.write_text(f"#!/bin/sh\ncat <<'X'\n{text}\nX\nexit {status}\n")
        program.chmod(0o755)
        shared.write_text(f"[p]\ncredential_process = {program} --for 'me'\n")
        return {**home, "AWS_PROFILE": "p"}

    good = json.dumps({"Version": 1, "AccessKeyId": "P", "SecretAccessKey": SECRET, "SessionToken": "S"})
    found = credentials.s3(environ=answering(good))
    assert (found.access_key, found.secret_key, found.session_token) == ("P", SECRET, "S")
    for text, status in (("{}", 0), (SECRET, 0), (good, 3), ("[1]", 0)):
        _refused(Denied, "no-credentials", answering(text, status))


def _refused(kind: type[DlsError], code: str, env: dict[str, str]) -> DlsError:
    with pytest.raises(kind) as told:
        credentials.s3(environ=env)
    assert told.value.code == code
    link: BaseException | None = told.value
    while link is not None:
        assert SECRET not in str(link) + repr(link)
        link = link.__cause__ or link.__context__
    return told.value


def test_what_is_missing_is_named(home: dict[str, str], tmp_path: Path) -> None:
    nowhere = {"HOME": str(tmp_path / "nobody")}
    assert "AWS_ACCESS_KEY_ID" in _refused(Denied, "no-credentials", nowhere).remedy
    _refused(Denied, "no-credentials", {**nowhere, "AWS_ACCESS_KEY_ID": "only"})
    assert "none-such" in str(_refused(Denied, "no-credentials", {**home, "AWS_PROFILE": "none-such"}))
    assert "credential_process" in _refused(Unsupported, "credentials-elsewhere", {**home, "AWS_PROFILE": "sso"}).remedy
    _refused(Denied, "no-credentials", {**nowhere, "AWS_ACCESS_KEY_ID": "a\r\nb: c", "AWS_SECRET_ACCESS_KEY": SECRET})


@pytest.mark.parametrize("text", [f"{SECRET}\n[x]\n", f"[x]\n{SECRET.replace('=', '')}\n", "[x\n", "\xff\xfe"])
def test_a_broken_file_is_told_without_its_lines(home: dict[str, str], text: str) -> None:
    (Path(home["HOME"]) / ".aws" / "credentials").write_text(text, encoding="latin-1")
    _refused(Invalid, "bad-credentials-file", home)
