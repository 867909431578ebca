"""CAT-17, 18 and 21: who may see what."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dls.catalogue.catalogue import Catalogue
from dls.catalogue.changes import (
    AddActivity,
    AddReplica,
    AddVersion,
    Change,
    ClearFiles,
    MarkFiles,
    PutDataset,
    Restore,
    SetReplica,
    Withdraw,
)
from dls.catalogue.model import HIDDEN, FileState, Port, ReplicaState
from dls.catalogue.testing.hooks import (
    BOTH,
    ME,
    OTHER,
    PROOF,
    CatalogueHooks,
    add,
    do,
    files,
    ids,
    one,
    refused,
)
from dls.logistics.actor import PUBLIC, Actor
from dls.logistics.errors import Denied, Exists, NotFound
from dls.logistics.ids import ulid
from dls.logistics.testing.spec import spec

Asked = dict[str, Callable[[Actor], Any]]


def queries(catalogue: Catalogue, dataset: str, replica: str, activity: str) -> Asked:
    """Every query about one record."""
    id = ids(dataset)
    return {
        "dataset": lambda who: catalogue.dataset(id, actor=who),
        "versions": lambda who: catalogue.versions(id, actor=who),
        "version": lambda who: catalogue.version(id, actor=who),
        "version 1": lambda who: catalogue.version(ids(f"{dataset}@1"), actor=who),
        "manifest": lambda who: catalogue.manifest(id, actor=who),
        "files": lambda who: catalogue.files(id, actor=who),
        "replicas": lambda who: catalogue.replicas(id, actor=who),
        "replica": lambda who: catalogue.replica(replica, actor=who),
        "exceptions": lambda who: catalogue.exceptions(replica, actor=who),
        "lineage": lambda who: catalogue.lineage(id, actor=who),
        "lineage of an activity": lambda who: catalogue.lineage(activity, actor=who),
        "activity": lambda who: catalogue.activity(activity, actor=who),
    }


def commands(dataset: str, replica: str) -> list[Change]:
    """Every change of an existing record."""
    return [
        AddVersion(dataset, ()),
        AddReplica(dataset, "/x", evidence=PROOF),
        SetReplica(replica, ReplicaState.LOST),
        MarkFiles(replica, {b"x": FileState.LOST}),
        ClearFiles(replica),
        Withdraw(dataset, "r"),
        Restore(dataset),
        AddActivity("t", used=(Port(dataset),)),
        AddActivity("t", generated=(Port(replica),)),
    ]


class PeopleRules(CatalogueHooks):
    """Who sees what."""

    @spec("CAT-17")
    def test_hidden_is_not_found_to_the_letter(self, tmp_path: Path) -> None:
        catalogue = self.make(tmp_path)
        add(catalogue, "s:secret", audience="others", actor=OTHER)
        hidden = one(catalogue, AddReplica("s:secret", "/s", evidence=PROOF), OTHER).id
        work = AddActivity("t", used=(Port("s:secret"),), audience="others")
        activity = one(catalogue, work, OTHER).id
        absent = ulid()
        pairs = [("s:secret", "s:absent"), (hidden, absent), (activity, absent)]

        def told(call: Callable[[], Any]) -> str:
            with pytest.raises(NotFound) as error:
                call()
            assert error.value.remedy
            assert error.value.facts
            text = json.dumps(error.value.to_json())
            for secret, other in pairs:
                text = text.replace(secret, other)
            return text

        for name, ask in queries(catalogue, "s:secret", hidden, activity).items():
            ask(OTHER)
            unknown = queries(catalogue, "s:absent", absent, absent)[name]
            assert told(partial(ask, ME)) == told(partial(unknown, ME)), name
        for there, nowhere in zip(commands("s:secret", hidden), commands("s:absent", absent), strict=True):
            shown = [told(partial(one, catalogue, c)) for c in (there, nowhere)]
            assert shown[0] == shown[1], there
        expected = {"s:secret": 0, hidden: 0}
        do(catalogue, PutDataset("s:mine"), expected=expected)  # a hidden serial reads as not there
        refused(Exists, "name-taken", catalogue, PutDataset("s:secret", title="mine"))

    @spec("CAT-17")
    def test_versions_that_are_not_there(self, tmp_path: Path) -> None:
        catalogue = self.make(tmp_path)
        add(catalogue, "s:n")
        one(catalogue, PutDataset("s:none"))
        for text in ("s:n@2", "s:none", "s:none@1"):
            for ask in (catalogue.version, catalogue.manifest, catalogue.files, catalogue.replicas, catalogue.lineage):
                with pytest.raises(NotFound) as told:
                    ask(ids(text), actor=ME)
                assert told.value.code == "no-version"
                assert told.value.remedy
        assert catalogue.versions(ids("s:none"), actor=ME) == []

    @spec("CAT-18")
    def test_lists_and_counts_leave_out_the_hidden(self, tmp_path: Path) -> None:
        catalogue = self.make(tmp_path)
        mine = add(catalogue, "s:mine", title="grid")
        add(catalogue, "s:theirs", title="grid", audience="others", actor=OTHER)
        add(catalogue, "s:all", title="grid", audience=PUBLIC)
        one(catalogue, AddActivity("t", used=(Port("s:theirs"),), audience="others"), OTHER)
        seen = {ME: ["s:all", "s:mine"], OTHER: ["s:all", "s:theirs"], BOTH: ["s:all", "s:mine", "s:theirs"]}
        seen[Actor("nobody")] = ["s:all"]
        for who, keys in seen.items():
            assert [d.key for d in catalogue.datasets(actor=who)] == keys
            assert [d.key for d in catalogue.datasets(actor=who, text="grid", limit=1)] == keys[:1]
            assert catalogue.count(actor=who) == catalogue.count(actor=who, text="GRID") == len(keys)
            assert [v.dataset for v in catalogue.by_content(mine.content, actor=who)] == keys
            told = catalogue.events(actor=who)
            assert {e.subject for e in told if e.type != "activity.added"} == set(keys)
            assert any(e.type == "activity.added" for e in told) == ("s:theirs" in keys)
        refused(Denied, "not-your-audience", catalogue, PutDataset("s:x", audience="others"))
        refused(Denied, "not-your-audience", catalogue, PutDataset("s:mine", audience="others"))
        refused(Denied, "not-your-audience", catalogue, AddActivity("t", audience="others"))
        refused(Denied, "not-your-audience", catalogue, PutDataset("s:y"), actor=OTHER)
        assert one(catalogue, PutDataset("s:mine", audience=PUBLIC)).changed
        assert catalogue.count(actor=OTHER) == 3, "a change of audience holds at once"

    @spec("CAT-21")
    def test_lineage_hides(self, tmp_path: Path) -> None:
        catalogue = self.make(tmp_path)
        add(catalogue, "s:a", files(1), audience=PUBLIC)
        add(catalogue, "s:secret", files(2), audience="others", actor=OTHER)
        add(catalogue, "s:b", files(3), audience=PUBLIC)
        secret = one(catalogue, AddReplica("s:secret", "/secret", evidence=PROOF), OTHER).id

        def act(at: int, used: str, generated: str, who: Actor = BOTH, audience: str = "local") -> str:
            ports = [tuple(Port(r, "role") for r in side.split()) for side in (used, generated)]
            change = AddActivity(
                "t",
                used=ports[0],
                generated=ports[1],
                audience=audience,
                started_ns=at,
                ended_ns=at,
                command=("make", "s:secret"),
                where="bunker",
                software={"image": "secret"},
            )
            return one(catalogue, change, who).id

        into = act(1, "s:a", "s:secret")
        out = act(2, f"{secret} s:a", "s:b")
        inside = act(3, "/secret/url", secret, OTHER, "others")
        theirs = act(4, "/their/url", "s:b", BOTH, "others")
        whole = catalogue.lineage(ids("s:b"), actor=BOTH, depth=10)
        assert [a.id for a in whole] == [into, out, inside, theirs]
        assert HIDDEN not in json.dumps([a.to_json() for a in whole])
        for who in (ME, Actor("nobody")):
            up = catalogue.lineage(ids("s:b"), actor=who, depth=10)
            assert [a.id for a in up] == [out, theirs], "the walk passed through what is hidden"
            assert up[0].used == (Port(HIDDEN, "role"), Port("s:a@1", "role"))
            assert up[0].generated == (Port("s:b@1", "role"),)
            assert up[1].used == (Port(HIDDEN, "role"),), "a URL belongs to the activity's audience"
            down = catalogue.lineage(ids("s:a"), actor=who, direction="down", depth=10)
            assert [a.id for a in down] == [into, out]
            assert down[0].generated == (Port(HIDDEN, "role"),)
            for shown in (*up, *down, catalogue.activity(into, actor=who)):
                assert (shown.command, shown.where, shown.software) == ((HIDDEN,), HIDDEN, {})
                assert "secret" not in json.dumps(shown.to_json())
            assert catalogue.lineage("file:///their/url", actor=who, direction="down") == []
            assert catalogue.lineage(into, actor=who, direction="down", depth=10) == down[:1]
            with pytest.raises(NotFound):
                catalogue.activity(inside, actor=who)
        plain = act(5, "s:a", "s:b")
        assert catalogue.activity(plain, actor=ME).command == ("make", "s:secret")
        assert catalogue.activity(plain, actor=Actor("nobody")).command == (HIDDEN,)
