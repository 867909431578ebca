"""Settings: where they come from, which one holds, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from dls.cli.settings import home_of, load, secrets
from dls.logistics.errors import Invalid


def written(home: Path, text: str) -> Path:
    home.mkdir(exist_ok=True)
    (home / "dls.toml").write_text(text)
    return home


@pytest.mark.spec("CLI-10")
def test_the_home_is_asked_for_or_named_or_in_the_users_data_folder(tmp_path: Path) -> None:
    env = {"DLS_HOME": str(tmp_path / "named"), "XDG_DATA_HOME": str(tmp_path / "data")}
    assert home_of(tmp_path / "asked", env) == tmp_path / "asked"
    assert home_of("", env) == tmp_path / "named"
    assert home_of("", {"XDG_DATA_HOME": str(tmp_path / "data")}) == tmp_path / "data" / "dls"
    assert home_of("", {"XDG_DATA_HOME": "relative"}) == home_of("", {}) == Path("~/.local/share/dls").expanduser()


@pytest.mark.spec("CLI-11")
def test_the_environment_goes_before_the_file_and_that_before_the_default(tmp_path: Path) -> None:
    home = written(tmp_path, 'streams = 7\ndurability = "process"\nactor = "ann@lab"\nstall = "PT5M"\ntimeout = 2.5\n')
    settings = load(home, {"DLS_STREAMS": "9"})
    assert (settings.streams, settings.durability, settings.actor) == (9, "process", "ann@lab")
    assert (settings.stall_s, settings.timeout_s, settings.retries) == (300.0, 2.5, 1)
    assert load(tmp_path / "none", {}).streams == 4


def test_nothing_is_made_by_looking(tmp_path: Path) -> None:
    load(tmp_path / "home", {})
    assert not (tmp_path / "home").exists()


@pytest.mark.spec("CLI-11")
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("speed = 1\n", "line 1: unknown setting 'speed'"),
        ('durability = "power"\n\nstreams = 0\n', "line 3: streams is '0'"),
        ("streams = true\n", "line 1: streams is 'True'"),
        ("streams = 2.5\n", "line 1: streams is '2.5'"),
        ('# a remark\ndurability = "paper"\n', "line 2: durability is 'paper'"),
        ("stall = -1\n", "line 1: stall is '-1'"),
        ('timeout = "soon"\n', "line 1: timeout is 'soon'"),
        ('actor = "two words"\n', "line 1: actor is 'two words'"),
        ("streams = \n", "is not TOML: Invalid value (at line 1, column 11)"),
        ("[sites]\nscratch = 1\n", "line 1: unknown setting 'sites'"),
        ("a.b.c = 1\n", "line 1: unknown setting 'a'"),
    ],
)
def test_what_is_not_a_setting_is_refused_with_its_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(Invalid) as refused:
        load(written(tmp_path, text), {})
    assert refused.value.code == "bad-settings"
    assert says in str(refused.value)
    assert str(tmp_path / "dls.toml") in str(refused.value)
    assert refused.value.remedy


@pytest.mark.spec("CLI-11")
@pytest.mark.parametrize(("name", "value"), [("DLS_STREAMS", "many"), ("DLS_TIMEOUT", "0"), ("DLS_DURABILITY", "")])
def test_a_wrong_variable_is_named(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(Invalid, match=name) as refused:
        load(tmp_path, {name: value})
    assert refused.value.remedy.startswith("write ")


@pytest.mark.spec("CLI-11", "ERROR-4")
@pytest.mark.parametrize(
    "text",
    [
        'secret_key = "hunter22-hunter22"',
        'aws_secret_access_key = "hunter22-hunter22"',
        'streams = 3\n[s3]\npassword = "hunter22-hunter22"',
        's3.token = "hunter22-hunter22"',
        '"api-key" = "hunter22-hunter22"',
    ],
)
def test_a_secret_is_refused_and_not_shown(tmp_path: Path, text: str) -> None:
    with pytest.raises(Invalid) as refused:
        load(written(tmp_path, text), {})
    assert refused.value.code == "secret-in-settings"
    assert refused.value.facts["line"] == text.count("\n") + 1
    assert "hunter22" not in repr(refused.value.to_json())


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dls.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(Invalid, match="not UTF-8"):
        load(tmp_path, {})


def test_settings_show_no_environment(tmp_path: Path) -> None:
    assert "hunter22" not in repr(load(tmp_path, {"AWS_SECRET_ACCESS_KEY": "hunter22-hunter22"}))


def test_secrets_are_values_of_variables_that_sound_so() -> None:
    env = {
        "AWS_SECRET_ACCESS_KEY": "0123456789abcdef",
        "VAULT_TOKEN": "0123456789abcdefgh",
        "AWS_SHARED_CREDENTIALS_FILE": "/home/me/.aws/credentials",
        "PASSWORD_LENGTH": "12",
        "HOME": "/home/me-and-you",
    }
    assert secrets(env) == ["0123456789abcdefgh", "0123456789abcdef"]
