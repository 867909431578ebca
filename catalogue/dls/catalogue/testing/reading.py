"""CAT-19, 20, 22 and 23: lineage, lists and events."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from dls.catalogue.changes import (
    AddActivity,
    AddReplica,
    AddVersion,
    ClearFiles,
    MarkFiles,
    PutDataset,
    Restore,
    SetReplica,
    Withdraw,
)
from dls.catalogue.model import Activity, FileState, Port, ReplicaState, State
from dls.catalogue.testing.hooks import (
    BOTH,
    ME,
    PROOF,
    CatalogueHooks,
    add,
    do,
    files,
    ids,
    one,
    place,
    put,
    refused,
)
from dls.logistics.actor import PUBLIC
from dls.logistics.errors import Conflict, Invalid, NotFound
from dls.logistics.ids import ulid
from dls.logistics.testing.spec import spec


class ReadingRules(CatalogueHooks):
    """What is answered."""

    @spec("CAT-19")
    def test_activities_are_written_down(self, tmp_path: Path) -> None:
        catalogue = self.make(tmp_path)
        add(catalogue, "s:in", files(3))
        replica = place(catalogue, "s:in", "/data/in")
        change = AddActivity(
            "compute",
            used=(Port("s:in", "--in"), Port("s:in@1/000/x", "mask"), Port(replica), Port("/abs/x"), Port("s3://b/k")),
            generated=(Port("s:out", "--out"),),
            run="r1",
            on_behalf_of="someone",
            started_ns=5,
            ended_ns=9,
            command=("prog", "--flag", "a b", "\udce9".encode("utf-8", "surrogateescape").decode("latin-1")),
            where="site",
            software={"python": "3.11"},
            hardware={"cores": 2},
            id=ulid(),
        )
        refused(NotFound, "no-dataset", catalogue, change)
        refs = put(catalogue, files(4))
        do(catalogue, PutDataset("s:out"), AddVersion("s:out", refs), change)
        used = [("s:in@1", "--in"), ("s:in@1/000/x", "mask"), (replica, ""), ("file:///abs/x", ""), ("s3://b/k", "")]
        wanted = Activity(
            *(change.id, "compute", ME.name, "someone", "r1", "local", 5, 9, change.command, "site"),
            used=tuple(Port(*p) for p in used),
            generated=(Port("s:out@1", "--out"),),
            software={"python": "3.11"},
            hardware={"cores": 2},
        )
        for handle in (catalogue, self.again(catalogue, tmp_path)):
            assert handle.activity(change.id, actor=ME) == wanted
        assert not one(catalogue, replace(change, ended_ns=11, hardware={})).changed
        assert catalogue.activity(change.id, actor=ME) == wanted
        refused(Conflict, "activity-differs", catalogue, replace(change, type="pack"))
        refused(Conflict, "activity-differs", catalogue, replace(change, used=change.used[1:]))
        for bad in ("s:in@2", "s:absent", ulid()):
            with pytest.raises(NotFound):
                one(catalogue, AddActivity("t", used=(Port(bad),)))
        plain = catalogue.activity(one(catalogue, AddActivity("t")).id, actor=ME)
        assert plain.started_ns == plain.ended_ns > 0

    @spec("CAT-20")
    def test_lineage_both_ways(self, tmp_path: Path) -> None:
        catalogue = self.make(tmp_path)
        for n, name in enumerate(("raw", "cal", "img", "cat", "other")):
            add(catalogue, f"s:{name}", files(n + 1))
        copy = place(catalogue, "s:cal", "/copy")

        def act(kind: str, used: str, generated: str, at: int) -> str:
            sides = [tuple(Port(r) for r in side.split()) for side in (used, generated)]
            return one(catalogue, AddActivity(kind, sides[0], sides[1], started_ns=at, ended_ns=at)).id

        image = act("image", copy, "s:img", 30)
        register = act("register", "/raw", "s:raw", 10)
        calibrate = act("calibrate", "s:raw s:other", "s:cal", 20)
        verify = act("verify", "s:cal", "s:cal", 25)
        find = act("find", "s:img", "s:cat", 40)
        out = act("stage-out", "s:cat", "s3://b/out", 50)
        loop = act("again", "s:cat", "s:raw", 60)
        every = [register, calibrate, verify, image, find, out, loop]

        def found(start: str, direction: str, depth: int = 10, **more: int) -> list[str]:
            id = ids(start) if start.startswith("s:") else start
            got = catalogue.lineage(id, actor=ME, direction=direction, depth=depth, **more)
            assert [a.started_ns for a in got] == sorted(a.started_ns for a in got)
            return [a.id for a in got]

        assert found("s:cal", "up", 1) == [calibrate, verify]
        assert found("s:img@1", "up", 1) == [image]
        assert found("s:img", "up", 2) == [calibrate, verify, image]
        assert found("s:other", "up") == []
        assert found("s:other", "down", 1) == [calibrate]
        assert found("s:other", "down", 2) == [calibrate, verify, image]
        assert found("s:img", "both", 1) == [image, find]
        assert found("s:img", "down") == [a for a in every if a != register]
        assert found("s:img", "down", 2) == [find, out, loop]
        assert found("s:raw", "both", 100) == every
        assert found("s:raw", "both", 100, limit=3) == [find, out, loop]
        assert found(image, "up", 1) == [image]
        assert found(image, "up", 2) == [calibrate, verify, image]
        assert found(image, "both", 2) == [calibrate, verify, image, find]
        assert found("/raw", "down", 1) == found("file:///raw", "down", 1) == [register]
        assert found("s3://b/out", "up", 2) == [find, out]
        assert found("s3://b/unknown", "both") == []
        for direction, depth in (("sideways", 1), ("up", 0), ("up", 101)):
            with pytest.raises(Invalid):
                catalogue.lineage(ids("s:raw"), actor=ME, direction=direction, depth=depth)

    @spec("CAT-22")
    def test_datasets_page_by_key(self, tmp_path: Path) -> None:
        catalogue = self.make(tmp_path)
        keys = sorted(f"{scope}:{name}" for scope in ("a", "B", "b-c") for name in ("x", "y1", "y_2", "Z", "0.5"))
        who = [(ME, "local"), (ME, PUBLIC), (BOTH, "others")]
        for n, key in enumerate(reversed(keys)):
            one(catalogue, PutDataset(key, audience=who[n % 3][1]), who[n % 3][0])
        for limit in (1, 2, 7, 100):
            found: list[str] = []
            while page := catalogue.datasets(actor=BOTH, after=found[-1] if found else "", limit=limit):
                assert len(page) <= limit
                found += [d.key for d in page]
                assert len(found) <= 2 * len(keys), "the pages do not end"
                if len(found) == 2 * limit:  # somebody adds and changes records while we page
                    do(
                        catalogue,
                        PutDataset(f"{found[-1]}.new{limit}"),
                        PutDataset(found[0], title=str(limit)),
                        actor=BOTH,
                    )
            assert [k for k in found if k in keys] == keys
            assert found == sorted(set(found))
        for prefix in ("a:", "B:y", "b-c:y_", "b", "zz"):
            wanted = [d.key for d in catalogue.datasets(actor=BOTH) if d.key.startswith(prefix)]
            assert [d.key for d in catalogue.datasets(actor=BOTH, prefix=prefix)] == wanted
            assert catalogue.count(actor=BOTH, prefix=prefix) == len(wanted)

    @spec("CAT-22")
    def test_searching(self, tmp_path: Path) -> None:
        catalogue = self.make(tmp_path)
        one(catalogue, PutDataset("s:one", title="Sea Ice", metadata={"place": {"name": "Größe 100%"}}))
        one(catalogue, PutDataset("s:two", description="ice_core and SEA level\nsecond line"))
        one(catalogue, PutDataset("s:three", metadata={"keywords": ["a\\b", "ICE"]}))
        one(catalogue, Withdraw("s:two", "old"))
        cases = {
            "ice": ["s:one", "s:three", "s:two"],
            "SEA ice": ["s:one", "s:two"],
            "ice sea level": ["s:two"],
            "grösse": ["s:one"],
            "GRÖSSE": ["s:one"],
            "100%": ["s:one"],
            "%": ["s:one"],
            "ice_": ["s:two"],
            "_": ["s:two"],
            "three": ["s:three"],
            "keywords": ["s:three"],
            "s:": ["s:one", "s:three", "s:two"],
            "absent": [],
            "  ": ["s:one", "s:three", "s:two"],
        }
        for text, keys in cases.items():
            assert [d.key for d in catalogue.datasets(actor=ME, text=text)] == keys, text
            assert catalogue.count(actor=ME, text=text) == len(keys), text
        gone = catalogue.datasets(actor=ME, text="ice", state=State.WITHDRAWN)
        assert [d.key for d in gone] == ["s:two"]
        assert catalogue.count(actor=ME, state=State.ACTIVE) == 2

    @spec("CAT-22")
    def test_versions_page_by_number(self, tmp_path: Path) -> None:
        catalogue = self.make(tmp_path)
        for n in range(5):
            add(catalogue, "s:n", files(n + 1))
        every = catalogue.versions(ids("s:n"), actor=ME)
        assert [v.number for v in every] == [1, 2, 3, 4, 5]
        assert catalogue.versions(ids("s:n"), actor=ME, after=2, limit=2) == every[2:4]

    @spec("CAT-23")
    def test_every_change_tells(self, tmp_path: Path) -> None:
        catalogue = self.make(tmp_path)
        refs = put(catalogue, files(3))
        assert catalogue.events(actor=ME) == []
        name = files(1)[0].path
        done = do(
            catalogue,
            PutDataset("s:n", title="é" * 1000, metadata={"big": "x" * 10_000}),
            PutDataset("s:n"),
            AddVersion("s:n", refs),
            AddVersion("s:n", refs),
            AddReplica("s:n", "/" + "x" * 3000, evidence=PROOF),
            AddActivity("register", generated=(Port("s:n"),), run="r", command=("x" * 10_000,)),
        )
        replica = done.outcomes[4].id
        do(catalogue, MarkFiles(replica, {name: FileState.LOST}), ClearFiles(replica))
        do(catalogue, SetReplica(replica, ReplicaState.LOST))
        do(catalogue, PutDataset("s:n", title="new"), Withdraw("s:n", "\N{SNOWMAN}" * 1000), Restore("s:n"))
        told = catalogue.events(actor=ME)
        kinds = ["dataset.added", "version.added", "replica.added", "activity.added", "replica.marked"]
        kinds += ["replica.cleared", "replica.changed", "dataset.changed", "dataset.withdrawn", "dataset.restored"]
        assert [e.type for e in told] == kinds
        assert {e.subject for e in told} == {"s:n", done.outcomes[5].id}
        assert all(e.actor == ME.name and e.time_ns for e in told)
        assert [e.id for e in told] == sorted({e.id for e in told})
        assert max(len(json.dumps(e.data)) for e in told) <= 4096
        assert told[1].data["version"] == 1
        assert told[2].data["replica"] == replica
        assert catalogue.events(actor=ME, after=told[2].id, limit=2) == told[3:5]
        assert self.again(catalogue, tmp_path).events(actor=ME) == told
