"""`dls probe`: what lies at a place, and which sites would take it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from components.command import Command, fill
from components.s3_rclone import rclone_s3


def at(facts: dict[str, Any], site: str) -> dict[str, Any]:
    return next(one for one in facts["sites"] if one["site"] == f"{site}/default")


@pytest.mark.spec("LOOK-1")
def test_probe_says_what_is_there(dls: Command, tree: Path) -> None:
    (tree / "sub" / "link").symlink_to("file0")
    os.utime(tree / "large", ns=(10**18, 10**18))
    facts = dls.json("probe", tree)
    assert (facts["files"], facts["bytes"], facts["links"], facts["folders"]) == (7, 1_541_000, 1, 2)
    assert facts["largest"] == {"path": "large", "bytes": 1_536_000}
    assert facts["oldest"] == {"path": "large", "mtime_ns": 10**18}
    assert facts["busiest"][0] == {"path": "sub", "entries": 7}
    assert {c["below"]: c["files"] for c in facts["sizes"] if c["files"]} == {1: 1, 10_000: 5, 10_000_000: 1}
    assert at(facts, "local")["fits"] is True
    said = dls("probe", tree, ok=True).out
    assert said.startswith(f"{tree}: 7 files, 1.5 MB; 1 links, 2 folders\n")
    assert "local: fits" in said


@pytest.mark.spec("LOOK-3")
def test_probe_changes_nothing(dls: Command, tree: Path) -> None:
    dls("site", "list", ok=True)
    before = dls.state()
    dls("probe", tree, ok=True)
    assert dls.state() == before
    assert not list(dls.home.glob("transfers/*"))


@pytest.mark.spec("LOOK-1")
def test_probe_takes_a_file_a_dataset_and_an_empty_folder(staged: Command, tree: Path, tmp_path: Path) -> None:
    one = staged.json("probe", tree / "large")
    assert (one["files"], one["bytes"]) == (1, 1_536_000)
    whole = staged.json("probe", "x:data")
    assert (whole["what"], whole["files"], whole["bytes"]) == ("x:data@1", 7, 1_541_000)
    (tmp_path / "empty").mkdir()
    none = staged.json("probe", tmp_path / "empty")
    assert (none["files"], none["busiest"], none["longest_path"]) == (0, [], None)
    assert staged("probe", tmp_path / "empty", ok=True).out.startswith(f"{tmp_path}/empty: 0 files, 0 B\n")


@pytest.mark.spec("LOOK-4")
def test_a_site_says_what_it_has_no_room_for(dls: Command, tree: Path, tmp_path: Path) -> None:
    dls("site", "add", "tight", tmp_path / "tight", "--capacity", "1MB", "--inodes", "5", ok=True)
    dls("site", "add", "wide", tmp_path / "wide", ok=True)
    tight = at(dls.json("probe", tree), "tight")
    assert tight["fits"] is False
    assert [("needed" in said, "free" in said) for said in tight["lacks"]] == [(True, True)] * 2
    assert "5 free" in tight["lacks"][1]
    only = dls.json("probe", tree, "--to", "wide")
    assert [(one["site"], one["fits"]) for one in only["sites"]] == [("wide/default", True)]
    assert only["sites"][0]["eta"]["low"] <= only["sites"][0]["eta"]["seconds"] <= only["sites"][0]["eta"]["high"]
    assert "tight: does not fit" in dls("probe", tree, ok=True).out


@pytest.mark.spec("LOOK-4")
def test_names_and_kinds_that_a_site_does_not_hold_are_those_that_a_transfer_refuses(
    dls: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = tmp_path / "odd"
    odd.mkdir()
    (odd / "link").symlink_to("nowhere")
    (odd / os.fsdecode(b"caf\xe9")).write_bytes(b"1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "some-secret")
    dls("site", "add", "cloud", "s3+http://127.0.0.1:9/bucket", ok=True)  # never asked: nothing listens there
    facts = dls.json("probe", odd)
    assert (facts["not_utf8"], facts["not_utf8_first"]) == (1, ["caf%E9"])
    cloud = at(facts, "cloud")
    assert (cloud["fits"], cloud["refusals"]) == (False, 1)
    assert cloud["refused"] == [{"path": "caf%E9", "why": "not valid UTF-8"}]
    assert cloud["not_kept"]["links"] == 1
    assert "cannot hold caf%E9: not valid UTF-8" in dls("probe", odd, "--to", "cloud", ok=True).out


@pytest.mark.spec("LOOK-4")
def test_a_site_that_cannot_be_asked_says_why_and_is_an_error_where_it_was_named(dls: Command, tree: Path) -> None:
    dls("site", "add", "cloud", "s3://bucket", ok=True)
    facts = dls.json("probe", tree)
    assert at(facts, "cloud")["problem"]["code"] == "no-credentials"
    assert at(facts, "local")["fits"] is True
    assert "cloud: cannot be asked: " in dls("probe", tree, ok=True).out
    named = dls("probe", tree, "--to", "cloud")
    assert (named.status, "no-credentials" in named.err) == (5, True)


def test_probe_of_nothing_or_of_an_unknown_site_is_an_error(dls: Command, tree: Path, tmp_path: Path) -> None:
    assert dls.json("probe", tmp_path / "absent", ok=False)["code"] == "no-source"
    assert dls.json("probe", tree, "--to", "nowhere", ok=False)["code"] == "unknown-site"


@pytest.mark.service
@pytest.mark.spec("LOOK-1")
def test_probe_and_doctor_ask_a_service(dls: Command, tmp_path: Path) -> None:
    with rclone_s3(tmp_path / "server") as service:
        service.bucket("bucket")
        assert service.root is not None
        fill(service.root / "bucket" / "tree")
        dls.set(**service.env())
        dls("site", "add", "cloud", f"s3+{service.endpoint}/bucket/store", ok=True)
        facts = dls.json("probe", f"s3+{service.endpoint}/bucket/tree")
        assert (facts["files"], facts["bytes"], facts["folders"]) == (7, 1_541_000, 2)
        cloud = at(facts, "cloud")
        assert (cloud["fits"], cloud["lacks"], cloud["refusals"]) == (None, [], 0)
        found = {e["name"]: e for e in dls("doctor", "--json", ok=True).events if e["event"] == "check"}
        assert (found["site cloud"]["status"], found["credentials-s3"]["status"]) == ("ok", "ok")
        assert service.secret_key not in str(found)
        assert service.access_key not in str(found)
