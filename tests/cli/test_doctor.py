"""`dls doctor`: every check can say yes and no."""

from __future__ import annotations

import json
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from components.command import Command
from dls.cli import doctor
from dls.cli.doctor import Check, State
from dls.cli.settings import load
from dls.cli.wiring import connect
from dls.logistics.store import Store

MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
40 22 0:40 / /home rw shared:2 - nfs4 server:/home rw
41 40 0:41 / /home/me/local\\040disk rw - xfs /dev/sdb1 rw
42 22 0:42 / /scratch rw master:3 - lustre mds:/scratch rw
broken line
"""


def checks(dls: Command, status: int = 0) -> dict[str, dict[str, str]]:
    ran = dls("doctor", "--json")
    assert ran.status == status, ran.said
    return {e["name"]: e for e in ran.events if e["event"] == "check"}


@pytest.mark.spec("LOOK-8")
def test_a_sound_machine(dls: Command) -> None:
    found = checks(dls)
    needed = ("python", "home", "home-file-system", "clock", "clock-record", "open-files", "sqlite", "site local")
    assert {name: found[name]["status"] for name in needed} == dict.fromkeys(needed, "ok")
    assert found["credentials-s3"]["status"] == "missing"
    assert all(one["remedy"] for one in found.values() if one["status"] != "ok")
    ran = dls("doctor", ok=True)
    assert ran.out.splitlines()[0].split() == ["CHECK", "STATUS", "FOUND"]
    assert dls("doctor", "--json").result["healthy"] is True
    assert dls("doctor", "--quiet", ok=True).out.splitlines()[-1] == "ok"


@pytest.mark.spec("LOOK-8")
def test_a_site_that_does_not_answer_is_broken_and_the_status_is_1(dls: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    dls.set(AWS_ACCESS_KEY_ID="somebody", AWS_SECRET_ACCESS_KEY="some-secret-value", DLS_TIMEOUT="5")
    dls("site", "add", "cloud", "s3+http://127.0.0.1:9/bucket", ok=True)
    found = checks(dls, status=1)
    assert (found["site cloud"]["status"], found["site local"]["status"]) == ("broken", "ok")
    ran = dls("doctor")
    assert ran.status == 1
    assert ran.out.splitlines()[-1].startswith("gravest: site cloud: ")


@pytest.mark.spec("LOOK-8")
def test_a_site_that_never_answers_is_broken_after_the_time_limit(dls: Command) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        dls.set(AWS_ACCESS_KEY_ID="somebody", AWS_SECRET_ACCESS_KEY="some-secret-value", DLS_TIMEOUT="0.5")
        dls("site", "add", "silent", f"s3+http://127.0.0.1:{port}/bucket", ok=True)
        ran = dls.alone("doctor", "--json")
    found = {e["name"]: e for e in ran.events if e["event"] == "check"}
    assert (ran.status, found["site silent"]["status"]) == (1, "broken")


@pytest.mark.spec("LOOK-8")
def test_a_store_that_hangs_or_raises_what_it_likes_is_a_finding(dls_home: Path) -> None:
    over = threading.Event()

    def hangs(address: str) -> Store:
        over.wait(60)
        raise OSError(address)

    def raises(address: str) -> Store:
        raise RuntimeError(address)

    here = connect(load(dls_home))
    try:
        storage = here.context.sites.get("local")
        for open_store, said in ((hangs, "does not answer within"), (raises, "RuntimeError")):
            ill = replace(here, context=replace(here.context, open_store=open_store))
            found = doctor.site(ill, storage, 0.1)
            assert (found.state, said in found.what) == (State.BROKEN, True)
            assert found.remedy
    finally:
        over.set()
        here.close()


@pytest.mark.spec("LOOK-9")
def test_credentials_are_named_by_their_place_and_never_shown(dls: Command, tmp_path: Path) -> None:
    dls.set(AWS_ACCESS_KEY_ID="AKIA-the-access-key", AWS_SECRET_ACCESS_KEY="the-secret-value-itself")
    ran = dls("doctor", "--json")
    found = {e["name"]: e for e in ran.events if e["event"] == "check"}
    assert found["credentials-s3"]["status"] == "ok"
    assert "AWS_ACCESS_KEY_ID" in found["credentials-s3"]["what"]
    (tmp_path / "keys").write_text("[lab]\naws_access_key_id = AKIAFROMFILE\naws_secret_access_key = from-the-file\n")
    dls.environ.delenv("AWS_ACCESS_KEY_ID")
    dls.environ.delenv("AWS_SECRET_ACCESS_KEY")
    dls.set(AWS_PROFILE="lab", AWS_SHARED_CREDENTIALS_FILE=str(tmp_path / "keys"))
    later = dls("doctor", "--json")
    assert "the profile lab" in later.out
    for secret in ("AKIA", "the-secret-value-itself", "from-the-file"):
        assert secret not in ran.said + later.said


@pytest.mark.spec("LOOK-9")
def test_credentials_that_a_site_needs_are_broken_where_there_are_none(dls: Command) -> None:
    dls("site", "add", "cloud", "s3://bucket", ok=True)
    found = checks(dls, status=1)
    assert (found["credentials-s3"]["status"], found["site cloud"]["status"]) == ("broken", "broken")
    assert "AWS_ACCESS_KEY_ID" in found["credentials-s3"]["remedy"]


@pytest.mark.spec("LOOK-8")
def test_settings_and_homes_that_cannot_be_used_are_findings(dls: Command, tmp_path: Path) -> None:
    dls.home.mkdir()
    (dls.home / "dls.toml").write_text("streams = 1000\n")
    found = checks(dls, status=1)
    assert found["settings"]["status"] == "broken"
    assert "line 1" in found["settings"]["what"]
    (tmp_path / "file").write_bytes(b"")
    dls.set(DLS_HOME=str(tmp_path / "file" / "home"))
    found = checks(dls, status=1)
    assert (found["home"]["status"], found["state"]["status"]) == ("broken", "broken")


@pytest.mark.spec("LOOK-8")
@pytest.mark.parametrize(
    ("folder", "kind", "state"),
    [
        ("/var/lib", "ext4", State.OK),
        ("/home/me", "nfs4", State.WARN),
        ("/homestead", "ext4", State.OK),
        ("/home/me/local disk/dls", "xfs", State.OK),
        ("/scratch", "lustre", State.WARN),
    ],
)
def test_a_home_on_a_network_file_system_is_a_warning(folder: str, kind: str, state: State) -> None:
    assert doctor.file_system(folder, MOUNTS) == kind
    assert doctor.mount(Path(folder), MOUNTS).state is state


@pytest.mark.spec("LOOK-8")
@pytest.mark.parametrize(("ahead", "state"), [(0.0, State.OK), (3600.0, State.WARN), (-3600.0, State.WARN)])
def test_a_clock_that_differs_is_a_warning(tmp_path: Path, ahead: float, state: State) -> None:
    assert doctor.clock(tmp_path, now=lambda: time.time() + ahead).state is state


@pytest.mark.spec("LOOK-8")
def test_versions_limits_and_programs_each_can_fail(tmp_path: Path) -> None:
    assert doctor.python((3, 10, 1)).state is State.BROKEN
    assert doctor.limits(4, soft=64).state is State.WARN
    assert doctor.limits(4, soft=1024).state is State.OK
    nothing = {one.name: one for one in doctor.programs({"PATH": str(tmp_path)}, device=str(tmp_path / "fuse"))}
    assert {one.state for one in nothing.values()} == {State.MISSING}
    for name in ("sbatch", "fusermount3"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "fuse").write_bytes(b"")
    there = {one.name: one for one in doctor.programs({"PATH": str(tmp_path)}, device=str(tmp_path / "fuse"))}
    assert {one.state for one in there.values()} == {State.OK}


def test_the_gravest_is_the_first_that_is_broken() -> None:
    fine, warn = Check("a", State.OK, ""), Check("b", State.WARN, "")
    bad, worse = Check("c", State.BROKEN, ""), Check("d", State.BROKEN, "")
    assert doctor.gravest([fine, warn]) is None
    assert doctor.gravest([fine, warn, bad, worse]) is bad
    assert json.loads(json.dumps(bad.to_json()))["status"] == "broken"


@pytest.mark.spec("LOOK-8")
def test_compiled_parts_are_there_or_what_installs_them_is_said(dls: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {"files-compiled": "./logistics/accelerator", "images-compiled": "./fuse/accelerator"}
    found = checks(dls)
    assert {found[name]["status"] for name in parts} == {"ok"}
    monkeypatch.setenv("DLS_FAST", "0")
    found = checks(dls)
    for name, remedy in parts.items():
        assert found[name]["status"] == "missing"
        assert remedy in found[name]["remedy"]
