"""Two processes at once on one DLS_HOME, and a notebook beside the commands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.command import Command
from components.compare import same_tree
from components.proxy import Proxy
from components.s3_rclone import rclone_s3
from dls.cli.settings import load
from dls.cli.wiring import connect
from dls.madpp.actions.stage_in import StageIn

FILES = 60


@pytest.fixture
def served(dls: Command, tmp_path: Path) -> Iterator[tuple[Command, Proxy, Path]]:
    """The command with two datasets behind a slow proxy, the site `scratch`; the proxy; the folder of the data."""
    with rclone_s3(tmp_path) as service, Proxy(service.endpoint) as proxy:
        assert service.root is not None
        bucket = service.root / service.bucket("bucket")
        for name in ("one", "two"):
            (bucket / name / "sub").mkdir(parents=True)
            for n in range(FILES):
                (bucket / name / "sub" / f"file{n:02}").write_bytes(f"{name} {n} ".encode() * 200)
        dls.set(**service.env(proxy.endpoint))
        dls("site", "add", "scratch", tmp_path / "scratch", ok=True)
        for name in ("one", "two"):
            dls("catalogue", "add", f"x:{name}", f"s3://bucket/{name}", ok=True)
        proxy.reset()
        proxy.delay = 0.1
        yield dls, proxy, bucket


def both(dls: Command, *names: str) -> list[dict[str, object]]:
    """Stage datasets in at the same time; their results."""
    children = [dls.start("stage-in", f"x:{name}", "--to", "scratch", "--json") for name in names]
    answers = []
    for child in children:
        out, err = child.communicate(timeout=60)
        assert (child.returncode, err) == (0, ""), out + err
        answers.append(json.loads(out.splitlines()[-1]))
    return answers


@pytest.mark.service
@pytest.mark.spec("CLI-12")
def test_the_same_dataset_is_copied_once(served: tuple[Command, Proxy, Path]) -> None:
    dls, proxy, bucket = served
    one, other = both(dls, "one", "one")
    assert proxy.counts().bodies == FILES
    assert (one["path"], one["buffer"]) == (other["path"], other["buffer"])
    assert sorted([one["copied"], other["copied"]]) == [0, FILES]
    assert same_tree(bucket / "one", Path(str(one["path"])), modes=False, mtimes=False, folders=False) == []
    (buffer,) = [e for e in dls("buffer", "list", "--json").events if e["event"] == "buffer"]
    assert (buffer["state"], buffer["contents"]) == ("ready", "clean")
    facts = dls.json("catalogue", "show", "x:one")
    assert len(facts["replicas"]) == 2


@pytest.mark.service
@pytest.mark.spec("CLI-12")
def test_different_datasets_do_not_disturb_each_other(served: tuple[Command, Proxy, Path]) -> None:
    dls, proxy, bucket = served
    answers = both(dls, "one", "two")
    assert proxy.counts().bodies == 2 * FILES
    for name, answer in zip(("one", "two"), answers, strict=True):
        assert answer["copied"] == FILES
        assert same_tree(bucket / name, Path(str(answer["path"])), modes=False, mtimes=False, folders=False) == []
    assert len(dls("buffer", "list", "--quiet").out.split()) == 2


@pytest.mark.spec("CLI-12")
def test_many_at_once_begin_on_a_fresh_home(dls: Command) -> None:
    children = [dls.start("site", "list", "--json") for _ in range(4)]
    for child in children:
        out, err = child.communicate(timeout=60)
        assert (child.returncode, err) == (0, ""), out + err
    assert len(dls("site", "list", "--json").events) == 2


@pytest.mark.spec("CLI-13")
def test_a_notebook_has_the_same_objects(staged: Command, tree: Path) -> None:
    dls = connect(load(staged.home))
    try:
        would = dls.preview(StageIn("x:data", "scratch"))
        assert (would["files"], would["in_place"]) == (7, False)
        answer = dls.take(StageIn("x:data", "scratch"))
        assert same_tree(tree, Path(answer["path"])) == []
        assert dls.runs.get(answer["run"]).state == "done"
        again = staged.json("stage-in", "x:data", "--to", "scratch")
        assert (again["path"], again["copied"]) == (answer["path"], 0)
    finally:
        dls.close()


@pytest.mark.service
@pytest.mark.spec("TRANSFER-30", "ACTION-6")
def test_what_is_staged_needs_no_credentials_of_where_it_came_from(served: tuple[Command, Proxy, Path]) -> None:
    dls, proxy, _ = served
    first = dls.json("stage-in", "x:one", "--to", "scratch")
    dls.set(AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY="")  # as a batch job on a node has none
    proxy.reset()
    again = dls.json("stage-in", "x:one", "--to", "scratch")
    assert (again["path"], again["copied"], again["kept"]) == (first["path"], 0, FILES)
    assert dls.json("stage-in", "x:two", "--to", "scratch", ok=False)["code"] == "no-credentials"
    Path(str(first["path"]), "sub", "file07").unlink()
    assert dls.json("stage-in", "x:one", "--to", "scratch", ok=False)["code"] == "no-credentials"


@pytest.mark.service
@pytest.mark.spec("ACTION-17", "ACTION-19", "TRANSFER-12")
def test_a_tree_of_what_a_bucket_does_not_keep_is_saved_by_its_manifest(dls: Command, tmp_path: Path) -> None:
    with rclone_s3(tmp_path) as service:
        service.bucket("bucket")
        dls.set(**service.env())
        dls("site", "add", "scratch", tmp_path / "scratch", ok=True)
        made = dls.json("run", "--out", "x:links", "--at", "scratch", "--", "sh", "-c", "mkdir e; ln -s /absent a")
        dls("stage-out", made["path"], "--to", "s3://bucket/links", ok=True)
        assert dls.json("verify", "x:links", "--deep")["replicas"][1]["state"] == "complete"
        assert dls.json("buffer", "release", made["path"])["freed"]
        again = Path(dls.json("stage-in", "x:links", "--to", "scratch")["path"])
        assert (again / "a").readlink() == Path("/absent")
        assert (again / "e").is_dir()
