"""Every command, as people and as programs see it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from components.command import Command
from components.compare import same_tree

# ---------------------------------------------------------------------------------------------------- site


@pytest.mark.spec("CLI-10")
def test_a_fresh_home_has_the_site_local(dls: Command) -> None:
    ran = dls("site", "list", ok=True)
    header, row = ran.out.splitlines()
    assert header.split() == ["SITE", "TIER", "HELD", "CAPACITY", "FILES", "LEASE", "URL"]
    assert row.split() == ["local", "disk", "0", "B", "no", "limit", "0", "P7D", str(dls.home / "buffers")]
    assert (dls.home.stat().st_mode & 0o777) == 0o700


def test_a_site_is_added_with_its_limits(dls: Command, tmp_path: Path) -> None:
    words = ["--capacity", "10GB", "--inodes", "1000", "--tier", "scratch", "--lifetime", "P2D", "--block", "512"]
    ran = dls("site", "add", "big", tmp_path / "big", *words, ok=True)
    assert ran.out == f"site big is {tmp_path}/big\n"
    dls("site", "add", "big", tmp_path / "big", *words, ok=True)
    site = next(e for e in dls("site", "list", "--json").events if e.get("site") == "big")
    assert (site["capacity_bytes"], site["capacity_inodes"], site["tier"]) == (10**10, 1000, "scratch")
    assert (site["lifetime"], site["block"], site["url"]) == ("P2D", 512, f"file://{tmp_path}/big")


def test_a_site_by_a_relative_path_is_where_it_was_meant(
    dls: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert dls.json("site", "add", "here", "./here")["url"] == f"file://{tmp_path}/here"


# ------------------------------------------------------------------------------------------------ catalogue


def test_show_tells_what_is_marked(staged: Command, tree: Path) -> None:
    (tree / "sub" / "file1").write_bytes(b"x" * 1000)
    (tree / "sub" / "file2").unlink()
    assert staged("verify", "x:data").status == 7
    assert ": complete but 1 corrupt, 1 lost, " in staged("catalogue", "show", "x:data", ok=True).out
    (copy,) = staged.json("catalogue", "show", "x:data")["replicas"]
    assert copy["marked"] == {"corrupt": 1, "lost": 1}


@pytest.mark.spec("ACTION-15", "ACTION-8")
def test_no_source_is_blamed_for_a_target_where_nothing_can_be_made(staged: Command) -> None:
    staged("site", "add", "nowhere", "/proc/nowhere", ok=True)  # its kernel says: no such file or directory
    staged("stage-in", "x:data", "--to", "scratch", ok=True)
    assert staged("stage-out", "x:data", "--to", "nowhere").status != 0
    shown = staged.json("catalogue", "show", "x:data")["replicas"]
    assert [(r["state"], r["marked"]) for r in shown] == [("complete", {}), ("complete", {})]
    buffers = staged("buffer", "list", "--json", ok=True).events[:-1]
    assert [b["contents"] for b in buffers if b["storage"] == "scratch/default"] == ["clean"]


@pytest.mark.spec("ERROR-2", "ERROR-6", "ACTION-17")
@pytest.mark.parametrize("place", ["buffer", "archive"])
def test_what_verify_says_to_do_repairs_the_copy(staged: Command, tmp_path: Path, place: str) -> None:
    verb = ("stage-in",) if place == "buffer" else ("stage-out",)
    staged("site", "add", "archive", tmp_path / "archive", ok=True)
    made = staged.json(*verb, "x:data", "--to", "scratch" if place == "buffer" else "archive")
    copy = Path(made["path"] if place == "buffer" else made["url"].removeprefix("file://"))
    (copy / "sub" / "file1").write_bytes(b"x" * 1000)
    (copy / "sub" / "file2").unlink()
    for code in ("replica-damaged", "replica-lost"):
        told = staged.json("verify", "x:data", ok=False)
        assert told["code"] == code
        if code == "replica-damaged" and place == "archive":
            assert "remove" in told["remedy"]
            (copy / "sub" / "file1").unlink()
        words = told["remedy"].partition("dls ")[2].split()
        assert words[0] == verb[0]
        staged(*words, ok=True)
        staged("verify", "x:data", ok=True)
        if code == "replica-damaged":
            shutil.rmtree(copy)


def test_catalogue_add_and_show(dls: Command, tree: Path) -> None:
    ran = dls("catalogue", "add", "x:data", tree, "--title", "Some data", "--note", "first", ok=True)
    assert ran.out == f"{tree} is x:data@1\n  7 files, 1.5 MB: 7 read, 0 proven before\n"
    again = dls.json("catalogue", "add", "x:data", tree)
    assert (again["dataset"], again["new"], again["read"], again["trusted"]) == ("x:data@1", False, 0, 7)
    (tree / "more").write_bytes(b"more")
    assert dls.json("catalogue", "add", "x:data", tree)["dataset"] == "x:data@2"
    shown = dls("catalogue", "show", "x:data", ok=True).out
    assert shown.startswith("x:data  Some data\n")
    assert "x:data@1: 7 files, 1.5 MB" in shown
    facts = dls.json("catalogue", "show", "x:data@1")
    assert [v["id"] for v in facts["versions"]] == ["x:data@1", "x:data@2"]
    assert [(r["version"], r["state"]) for r in facts["replicas"]] == [("x:data@1", "complete")]


def test_catalogue_add_takes_a_single_file(dls: Command, tree: Path) -> None:
    assert dls.json("catalogue", "add", "x:one", tree / "large")["files"] == 1


@pytest.mark.spec("CLI-7")
def test_catalogue_list_finds_and_pages(dls: Command, tree: Path) -> None:
    for name in ("a:one", "a:two", "b:three"):
        dls("catalogue", "add", name, tree, "--title", f"title of {name}", ok=True)
    rows = dls("catalogue", "list", "--json", ok=True).events
    assert [r["id"] for r in rows[:-1]] == ["a:one", "a:two", "b:three"]
    assert [r["id"] for r in dls("catalogue", "list", "--json", "--prefix", "a:").events[:-1]] == ["a:one", "a:two"]
    assert [r["id"] for r in dls("catalogue", "list", "three", "--json").events[:-1]] == ["b:three"]
    first = dls("catalogue", "list", "--limit", "2", ok=True)
    assert "more follow: --after a:two" in first.err
    second = dls("catalogue", "list", "--limit", "2", "--after", "a:two", "--json").events
    assert [e["event"] for e in second] == ["dataset", "result"]
    assert second[-1]["next"] == ""


@pytest.mark.spec("CLI-7")
def test_catalogue_files_pages_meet_without_gap(staged: Command, tree: Path) -> None:
    whole = [e["path"] for e in staged("catalogue", "files", "x:data", "--json").events[:-1]]
    assert whole == sorted(os.path.relpath(p, tree) for p in tree.rglob("*") if p.is_file())
    paged, after = list[str](), ""
    while True:
        *rows, end = staged("catalogue", "files", "x:data", "--limit", "2", "--after", after, "--json").events
        paged += [e["path"] for e in rows if e["event"] == "file"]
        after = end["next"]
        if not after:
            break
    assert paged == whole
    below = staged("catalogue", "files", "x:data", "--prefix", "sub/file", ok=True).out
    assert len(below.splitlines()) == 1 + 5
    inside = staged("catalogue", "files", "x:data/sub/deeper", "--quiet", ok=True).out
    assert inside == "sub/deeper/empty\n"


@pytest.mark.spec("CLI-7", "CLI-9")
def test_odd_names_are_shown_without_control_characters_and_are_keys_of_pages(dls: Command, tmp_path: Path) -> None:
    odd = os.fsencode(tmp_path / "odd")
    os.mkdir(odd)
    for name in (b"\x1b[2Jcleared", b"new\nline", b"not utf-8 \xff", b"zz"):
        with open(os.path.join(odd, name), "wb"):
            pass
    dls("catalogue", "add", "x:odd", tmp_path / "odd", "--title", "a\x1b]0;title\x07", ok=True)
    out = dls("catalogue", "files", "x:odd", "--quiet", ok=True).out
    assert out.splitlines() == ["%1B[2Jcleared", "new%0Aline", "not utf-8 %FF", "zz"]
    rest = dls("catalogue", "files", "x:odd", "--quiet", "--after", "new%0Aline", ok=True).out
    assert rest.splitlines() == ["not utf-8 %FF", "zz"]
    assert "\x1b" not in dls("catalogue", "show", "x:odd", ok=True).out


def test_withdraw_makes_buffers_dirty_that_rest_on_it_and_restore_takes_it_back(staged: Command) -> None:
    path = staged.json("stage-in", "x:data", "--to", "scratch")["path"]
    assert staged("buffer", "list", "--json").events[0]["contents"] == "clean"
    answer = staged.json("catalogue", "withdraw", "x:data", "--reason", "wrong units")
    assert answer["unsaved"] == [path]
    assert staged("buffer", "list", "--json").events[0]["contents"] == "dirty"
    refused = staged("buffer", "release", path)
    assert (refused.status, Path(path).is_dir()) == (9, True)
    facts = staged.json("catalogue", "show", "x:data")
    assert (facts["state"], facts["reason"], len(facts["versions"])) == ("withdrawn", "wrong units", 1)
    assert staged("stage-in", "x:data", "--to", "scratch").status == 3
    staged("catalogue", "restore", "x:data", ok=True)
    staged("stage-in", "x:data", "--to", "scratch", ok=True)
    assert staged("buffer", "list", "--json").events[0]["contents"] == "clean"


# --------------------------------------------------------------------------------------------------- the road


@pytest.mark.spec("CLI-5", "CLI-6")
def test_stage_in_and_again(staged: Command, tree: Path) -> None:
    ran = staged("stage-in", "x:data", "--to", "scratch", "--lifetime", "P3D", ok=True)
    first, second, third = ran.out.splitlines()
    path = first.removeprefix("x:data@1 is at ")
    assert same_tree(tree, Path(path)) == []
    assert second == "  7 files, 1.5 MB: 7 copied, 0 there already"
    assert third.startswith("  buffer ")
    assert f"{tree} → {path}\n" in ran.err
    quiet = staged("stage-in", "x:data", "--to", "scratch", "--quiet", ok=True)
    assert (quiet.out, quiet.err) == (f"{path}\n", "")
    answer = staged.json("stage-in", "x:data", "--to", "scratch")
    assert (answer["path"], answer["copied"], answer["kept"], answer["shared"]) == (path, 0, 7, True)


def test_stage_in_of_an_address_registers_it(staged: Command, tree: Path) -> None:
    answer = staged.json("stage-in", str(tree), "--to", "scratch")
    assert answer["dataset"].startswith("staged:tree-")
    assert same_tree(tree, Path(answer["path"])) == []


@pytest.mark.spec("CLI-8")
@pytest.mark.parametrize(
    "words",
    [
        ["catalogue", "add", "x:new", "{tree}"],
        ["stage-in", "x:data", "--to", "scratch"],
        ["stage-in", "{tree}", "--to", "scratch"],
        ["stage-out", "x:data", "--to", "{tmp}/saved"],
        ["stage-out", "{tree}", "--to", "scratch", "--as", "x:saved"],
        ["run", "--in", "x:data", "--at", "scratch", "--out", "x:out", "--", "true"],
        ["verify", "x:data", "--deep"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_a_dry_run_says_what_would_be_and_changes_nothing(
    staged: Command, tree: Path, tmp_path: Path, words: list[str]
) -> None:
    words = [word.format(tree=tree, tmp=tmp_path) for word in words]
    words.insert(words.index("--") if "--" in words else len(words), "--dry-run")
    state, there = staged.state(), sorted(tmp_path.rglob("*"))
    text = staged(*words, ok=True).out
    assert "7 files, 1.5 MB; nothing was changed" in text
    assert "  route: " in text
    assert words[0] == "verify" or "time: about" in text
    facts = staged(words[0], "--json", *words[1:]).result
    assert (facts["dry_run"], facts["files"], facts["bytes"]) == (True, 7, 1_541_000)
    assert staged.state() == state
    assert [p for p in sorted(tmp_path.rglob("*")) if p not in there and staged.home not in p.parents] == []


def test_a_dry_run_says_what_the_target_does_not_keep(dls: Command, tree: Path) -> None:
    (tree / "link").symlink_to("large")
    dls("catalogue", "add", "x:data", tree, ok=True)
    dls.set(AWS_ACCESS_KEY_ID="nobody", AWS_SECRET_ACCESS_KEY="nothing", AWS_ENDPOINT_URL="http://127.0.0.1:9")
    dls("site", "add", "cloud", "s3://bucket/site", ok=True)
    assert "  not kept there: 1 links" in dls("stage-in", "x:data", "--to", "cloud", "--dry-run", ok=True).out


def test_run_stage_out_release(staged: Command, tmp_path: Path) -> None:
    command = 'cat "$DLS_IN"/sub/file* > all; test "$PWD" = "$DLS_OUT"; wc -c < {in}/large; echo {in1} >&2'
    words = ["--in", "x:data", "--out", "x:sum", "--at", "scratch", "--", "sh", "-c", command]
    ran = staged("run", *words, ok=True)
    assert "1536000\n" in ran.err
    assert ran.out.startswith("x:sum@1 is at ")
    path = ran.out.split()[3]
    assert Path(path, "all").stat().st_size == 5000
    assert staged("buffer", "release", path).status == 9
    saved = staged("stage-out", path, "--to", tmp_path / "saved", "--as", "x:kept", ok=True)
    assert saved.out.startswith(f"x:kept@1 is saved at {tmp_path}/saved\n")
    assert "is clean now" in saved.out
    freed = staged("buffer", "release", path, ok=True)
    assert freed.out.startswith(f"{path} is freed")
    assert not Path(path).exists()
    assert Path(tmp_path, "saved", "all").stat().st_size == 5000


def test_lineage_goes_up_and_down(staged: Command, tree: Path) -> None:
    made = staged.json("run", "--in", "x:data", "--out", "x:out", "--at", "scratch", "--", "true")
    up = staged("catalogue", "lineage", "x:out", "--json").events
    assert [e["type"] for e in up[:-1]] == ["register", "compute"]
    assert up[1]["command"] == ["true"]
    assert up[1]["used"] == [{"ref": "x:data@1", "role": "in"}]
    down = staged("catalogue", "lineage", "x:data", "--direction", "down", "--json").events
    assert {e["type"] for e in down[:-1]} == {"stage-in", "compute"}
    one = staged("catalogue", "lineage", made["activity"], ok=True).out
    assert "compute" in one
    assert "register" in staged("catalogue", "lineage", str(tree), "--direction", "both", ok=True).out


def test_verify_finds_a_flipped_byte_and_stage_in_repairs_it(staged: Command, tree: Path) -> None:
    path = Path(staged.json("stage-in", "x:data", "--to", "scratch")["path"])
    assert "every copy (2) is right" in staged("verify", "x:data", ok=True).out
    before = (path / "large").stat()
    body = bytearray((path / "large").read_bytes())
    body[700_000] ^= 1
    (path / "large").write_bytes(body)
    os.utime(path / "large", ns=(before.st_atime_ns, before.st_mtime_ns))
    ran = staged("verify", "x:data", "--at", "scratch", "--deep", "--json")
    assert (ran.status, ran.result["code"]) == (7, "replica-damaged")
    assert ran.result["facts"]["keys"] == ["large"]
    assert staged.json("stage-in", "x:data", "--to", "scratch")["copied"] == 1
    assert same_tree(tree, path) == []
    staged("verify", "x:data", "--deep", ok=True)


# ------------------------------------------------------------------------------------------- buffers and runs


def test_buffers_are_listed_renewed_and_released(staged: Command) -> None:
    answer = staged.json("stage-in", "x:data", "--to", "scratch", "--lifetime", "PT1H")
    before = staged("buffer", "list", "scratch", "--json").events[0]
    assert (before["buffer"], before["label"], before["state"]) == (answer["buffer"], "x:data@1", "ready")
    later = staged.json("buffer", "renew", answer["path"], "--lifetime", "P5D")
    assert later["expires"] > before["expires"]
    text = staged("buffer", "list", ok=True).out
    assert later["expires"] in text
    assert staged("buffer", "list", "--quiet").out == f"{answer['buffer']}\n"
    released = staged.json("buffer", "release", answer["buffer"])
    assert (released["freed"], Path(answer["path"]).exists()) == (True, False)
    empty = staged("buffer", "list", ok=True)
    assert (empty.out, empty.err) == ("", "no buffers\n")


def test_status_shows_runs_and_one_run(staged: Command) -> None:
    done = staged.json("stage-in", "x:data", "--to", "scratch")
    assert staged("run", "--at", "scratch", "--", "false").status == 8
    rows = staged("status", "--json", ok=True).events
    assert [(r["plan"]["name"], r["state"]) for r in rows[:2]] == [("compute", "failed"), ("stage-in", "done")]
    text = staged("status", ok=True).out
    assert "command-failed" in text
    assert "x:data to scratch" in text
    one = staged("status", done["run"], ok=True).out
    assert one.startswith(f"{done['run']}  stage-in  done\n")
    assert done["path"] in one
    failed = staged("status", rows[0]["run"], ok=True).out
    assert "error: the command false ended with exit status 1" in failed
    assert staged.json("status", done["run"])["results"]["stage-in"]["path"] == done["path"]


def test_version(dls: Command) -> None:
    text = dls("version", ok=True).out
    assert text.startswith("dls ")
    assert "python 3." in text
    assert dls.json("version")["dls"] == text.split()[1]
    assert dls("--version", ok=True).out == f"dls {text.split()[1]}\n"
    assert not dls.home.exists()


# ------------------------------------------------------------------------------------------- shared options


@pytest.mark.spec("CLI-1")
@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_shared_options_stand_before_or_after_the_verb(
    dls: Command, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DLS_HOME", str(tmp_path / "not-this"))
    options = ["--json", "--home", str(tmp_path / "other")]
    at = {"first": 0, "middle": 1, "last": 2}[place]
    words = ["site", "list"]
    words[at:at] = options
    ran = dls(*words, ok=True)
    assert ran.events[0]["url"] == f"file://{tmp_path}/other/buffers"
    assert (tmp_path / "other").is_dir()
    assert not (tmp_path / "not-this").exists()


@pytest.mark.spec("CLI-3")
def test_json_is_one_object_a_line_and_the_result_is_last(staged: Command) -> None:
    ran = staged.alone("stage-in", "x:data", "--to", "scratch", "--json", ok=True)
    assert ran.err == ""
    lines = [json.loads(line) for line in ran.out.splitlines()]
    kinds = [line["event"] for line in lines]
    assert kinds[0] == "run"
    assert kinds[-1] == "result"
    assert kinds.count("result") == 1
    assert set(kinds) <= {"run", "step", "route", "progress", "result"}


def test_an_option_of_the_users_command_is_not_ours(staged: Command) -> None:
    ran = staged("run", "--at", "scratch", "--", "echo", "--json", ok=True)
    assert "--json\n" in ran.err
    assert not ran.out.startswith("{")
