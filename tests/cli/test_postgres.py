"""The command line with its state on PostgreSQL, and what settings say of such a URL."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from components.command import Command
from components.postgres import PostgresServer
from dls.cli.settings import load, secrets
from dls.logistics.database_url import password, shown
from dls.logistics.errors import Invalid

URL = "postgresql://dls:hun%2Fter22@db.example.org:5432/dls?sslmode=require&sslpassword=hunter33"


@pytest.mark.service
@pytest.mark.spec("CLI-10", "DATABASE-7")
def test_the_road_on_a_server(
    dls: Command, tree: Path, tmp_path: Path, pg_state: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DLS_DATABASE", pg_state[0])
    monkeypatch.setenv("DLS_SCHEMA", pg_state[1])
    dls("site", "add", "scratch", tmp_path / "scratch", ok=True)
    dls("catalogue", "add", "x:data", tree, ok=True)
    dls("stage-in", "x:data", "--to", "scratch", ok=True)
    dls("stage-in", "x:data", "--to", "scratch", ok=True)
    dls("verify", "x:data", ok=True)
    assert "x:data" in dls("catalogue", "show", "x:data", ok=True).out
    assert "done" in dls("status", ok=True).out
    home = dls.home
    assert not list(home.glob("state.sqlite*")), "all state is on the server"
    assert not (home / "locks").exists()


@pytest.mark.service
@pytest.mark.spec("DATABASE-7")
def test_a_server_that_is_not_there_is_one_sentence(
    dls: Command, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DLS_DATABASE", "postgresql://u:hunter22@127.0.0.1:1/x")
    done = dls("status")
    assert done.status == 8
    assert "[no-state]" in done.err
    assert "hunter22" not in done.err + done.out
    monkeypatch.setenv("DLS_DATABASE", postgres_server.url.replace("postgres@", "absent:hunter22@"))
    done = dls("status", "--json")
    assert (done.status, json.loads(done.out.splitlines()[-1])["code"]) == (5, "database-denied")
    assert "hunter22" not in done.err + done.out


@pytest.mark.spec("DATABASE-7")
def test_a_password_in_a_url_is_not_shown() -> None:
    assert shown(URL) == "postgresql://dls@db.example.org:5432/dls?sslmode=require&***"
    assert password(URL) == ["hun%2Fter22", "hun/ter22", "hunter33"]
    for odd in (
        "postgresql://u:hunter22@h/d",
        "postgresql://u:hun?ter22@h/d",
        "postgresql://u:a@hunter22@h/d",
        "postgresql:///d?pass%77ord=hunter22",
        "postgresql://h/d?a=b&hunter22",
    ):
        assert "ter22" not in shown(odd), odd
    assert shown("postgresql:///d?host=/run/pg") == "postgresql:///d?host=/run/pg"
    assert password("postgresql://u@h/d?user=x") == []


@pytest.mark.spec("DATABASE-7", "CLI-11")
def test_settings_take_a_url_and_refuse_its_password(tmp_path: Path) -> None:
    file = tmp_path / "dls.toml"
    file.write_text('streams = 2\ndatabase = "postgresql://u@h/d"\nschema = "lab"\n')
    assert (load(tmp_path, {}).database, load(tmp_path, {}).schema) == ("postgresql://u@h/d", "lab")
    settings = load(tmp_path, {"DLS_DATABASE": URL})
    assert settings.database == URL
    assert "ter22" not in repr(settings)
    assert {"hun/ter22", "hunter33"} <= set(secrets({"DLS_DATABASE": URL}))
    for text, code in (
        (f'streams = 2\ndatabase = "{URL}"\n', "secret-in-settings"),
        ('streams = 2\ndatabase = "mysql://u:hunter22@h/d"\n', "secret-in-settings"),
        ('streams = 2\ndatabase = "u@hunter22/h/d"\n', "bad-settings"),
        ('streams = 2\nschema = "Bad Name"\n', "bad-settings"),
    ):
        file.write_text(text)
        with pytest.raises(Invalid, match="line 2") as refused:
            load(tmp_path, {})
        assert refused.value.code == code
        assert "ter22" not in f"{refused.value} {refused.value.to_json()}"
