"""CAT-3 to 7 and 16: what commands do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dls.catalogue.changes import (
    AddActivity,
    AddReplica,
    AddVersion,
    Change,
    MarkFiles,
    PutDataset,
    Restore,
    SetReplica,
    Withdraw,
)
from dls.catalogue.model import FileState, Port, ReplicaState, State
from dls.catalogue.testing.hooks import (
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
    state_of,
)
from dls.logistics.actor import local
from dls.logistics.errors import Conflict, Invalid, NotFound
from dls.logistics.ids import ulid
from dls.logistics.testing.spec import spec

COMPLETE, GONE, OFFLINE = ReplicaState.COMPLETE, ReplicaState.GONE, ReplicaState.OFFLINE


class RecordRules(CatalogueHooks):
    """What commands do."""

    @spec("CAT-3")
    def test_all_changes_or_none(self, tmp_path: Path) -> None:
        catalogue = self.make(tmp_path)
        add(catalogue, "s:old")
        replica = place(catalogue, "s:old")
        refs = put(catalogue, files(4))
        good: list[Change] = [
            PutDataset("s:new", title="new"),
            PutDataset("s:old", title="changed"),
            AddVersion("s:new", refs),
            AddVersion("s:old", refs),
            AddReplica("s:new", "/new", evidence=PROOF),
            MarkFiles(replica, {files(1)[0].path: FileState.LOST}),
            SetReplica(replica, ReplicaState.LOST),
            AddActivity("register", used=(Port("/new"),), generated=(Port("s:new"),)),
            Withdraw("s:old", "bad"),
        ]
        refused(NotFound, "no-dataset", catalogue, *good, Withdraw("s:absent", "x"))
        done = do(catalogue, *good)
        assert len(done.outcomes) == len(good)
        assert all(o.changed for o in done.outcomes)
        assert catalogue.dataset(ids("s:old"), actor=ME).title == "changed"

    @spec("CAT-4")
    def test_a_key_is_used_once(self, tmp_path: Path) -> None:
        catalogue = self.make(tmp_path)
        refs = put(catalogue, files(3))

        def work(when: int) -> list[Change]:
            return [
                PutDataset("s:n", metadata={"k": 1}),
                AddVersion("s:n", refs),
                AddReplica("s:n", "/x", evidence={"time_ns": when}),
                AddActivity("register", generated=(Port("s:n"),), started_ns=when, ended_ns=when, hardware={"t": when}),
            ]

        first = do(catalogue, *work(1), key="run/1")
        assert not first.replayed
        do(catalogue, PutDataset("s:n", title="later"))
        before = state_of(catalogue)
        for handle in (catalogue, self.again(catalogue, tmp_path)):
            for when in (1, 2):
                answer = do(handle, *work(when), key="run/1")
                assert answer.replayed
                assert answer.outcomes == first.outcomes
            other = [*work(1)[:1], AddVersion("s:n", (), note="other")]
            error = refused(Conflict, "key-reused", handle, *other, key="run/1")
            assert error.facts["key"] == "run/1"
        assert state_of(catalogue) == before
        again = do(catalogue, *work(1), key="run/1", actor=local("someone-else"))
        assert not again.replayed
        assert not any(o.changed for o in again.outcomes[:2])
        refused(NotFound, "no-dataset", catalogue, AddVersion("s:m", refs), key="run/2")
        assert not do(catalogue, PutDataset("s:m"), key="run/2").replayed

    @spec("CAT-5")
    def test_expected_serials(self, tmp_path: Path) -> None:
        catalogue = self.make(tmp_path)
        assert do(catalogue, PutDataset("s:n"), expected={"s:n": 0}).outcomes[0].serial == 1
        refused(Conflict, "serial-differs", catalogue, PutDataset("s:n", title="x"), expected={"s:n": 0})
        refs = put(catalogue, files(3))
        serials = [
            one(catalogue, PutDataset("s:n", title="a")).serial,
            one(catalogue, PutDataset("s:n", title="a")).serial,
            one(catalogue, AddVersion("s:n", refs)).serial,
            one(catalogue, AddVersion("s:n", refs)).serial,
            one(catalogue, Withdraw("s:n", "r")).serial,
            one(catalogue, Restore("s:n")).serial,
        ]
        assert serials == [2, 2, 3, 3, 4, 5]
        replica = place(catalogue, "s:n")
        assert catalogue.dataset(ids("s:n"), actor=ME).serial == 5, "a replica is a record of its own"
        change = SetReplica(replica, ReplicaState.LOST)
        refused(Conflict, "serial-differs", catalogue, change, expected={"s:n": 5, replica: 2})
        refused(Conflict, "serial-differs", catalogue, change, expected={ulid(): 1})
        assert do(catalogue, change, expected={"s:n": 5, replica: 1}).outcomes[0].serial == 2
        assert catalogue.replica(replica, actor=ME).serial == 2

    @spec("CAT-6")
    def test_putting_a_dataset(self, tmp_path: Path) -> None:
        catalogue = self.make(tmp_path)
        one(catalogue, PutDataset("s:n"))
        made = catalogue.dataset(ids("s:n"), actor=ME)
        assert (made.scope, made.name, made.project, made.owner, made.audience) == ("s", "n", "local", ME.name, "local")
        assert (made.origin, made.state, made.reason, made.metadata) == (catalogue.origin, State.ACTIVE, "", {})
        assert made.created_ns
        assert made.changed_ns
        change = PutDataset("s:n", title="T", metadata={"a": [1, {"b": None}]}, project="p", owner="o")
        assert one(catalogue, change).changed
        assert one(catalogue, PutDataset("s:n", description="D")).changed
        found = catalogue.dataset(ids("s:n@7/path"), actor=ME)
        assert (found.title, found.description, found.project, found.owner) == ("T", "D", "p", "o")
        assert found.metadata == {"a": [1, {"b": None}]}
        assert found.created_ns == made.created_ns
        before = state_of(catalogue)
        assert not one(catalogue, change).changed
        assert not one(catalogue, PutDataset("s:n")).changed
        assert state_of(catalogue) == before
        refused(Invalid, "other-origin", catalogue, PutDataset("s:n", origin="elsewhere", title="X"))
        one(catalogue, PutDataset("s:foreign", origin="elsewhere"))
        assert catalogue.dataset(ids("s:foreign"), actor=ME).origin == "elsewhere"

    @spec("CAT-7")
    def test_fields_are_checked(self, tmp_path: Path) -> None:
        catalogue = self.make(tmp_path)
        add(catalogue, "s:n")
        bad: list[Change] = [
            PutDataset("no-colon"),
            PutDataset("s:n@1"),
            PutDataset("s:n/path"),
            PutDataset("s p:n"),
            PutDataset("s:n", title="nul\0"),
            PutDataset("s:n", title="\ud800"),
            PutDataset("s:n", title="x" * 1001),
            PutDataset("s:n", description="x" * 100_001),
            PutDataset("s:n", metadata={"x": float("nan")}),
            PutDataset("s:n", metadata={"x": object()}),
            PutDataset("s:n", metadata={"x": "y" * (1 << 20)}),
            AddReplica("s:n", "s3://user:hunter2@bucket/x", evidence=PROOF),
            AddReplica("s:n", "relative/path", evidence=PROOF),
            AddReplica("s:n", "/x", evidence=PROOF, storage="nul\0"),
            Withdraw("s:n", " "),
            AddActivity(""),
            AddActivity("t", started_ns=2, ended_ns=1),
            AddActivity("t", command=("a\0",)),
            AddActivity("t", used=(Port("s3://u:hunter2@b/x"),)),
            AddActivity("t", id="not-a-ulid"),
        ]
        for change in bad:
            before = state_of(catalogue)
            with pytest.raises(Invalid) as told:
                one(catalogue, change)
            assert "hunter2" not in str(told.value.to_json())
            assert state_of(catalogue) == before
        with pytest.raises(Invalid):
            do(catalogue, PutDataset("s:n", title="x"), key="k\0")

    @spec("CAT-7")
    def test_records_share_nothing(self, tmp_path: Path) -> None:
        catalogue = self.make(tmp_path)
        given: dict[str, Any] = {"list": [1]}
        add(catalogue, "s:n", metadata=given)
        replica = one(catalogue, AddReplica("s:n", "/x", evidence=given)).id
        activity = one(catalogue, AddActivity("t", generated=(Port("s:n"),), software=given)).id
        given["list"].append(2)
        for _ in range(2):
            seen = [
                catalogue.dataset(ids("s:n"), actor=ME).metadata,
                catalogue.datasets(actor=ME)[0].metadata,
                catalogue.replica(replica, actor=ME).evidence,
                catalogue.replicas(ids("s:n"), actor=ME)[0].evidence,
                catalogue.activity(activity, actor=ME).software,
                catalogue.lineage(ids("s:n"), actor=ME)[0].software,
            ]
            assert seen == [{"list": [1]}] * len(seen)
            for value in seen:
                value["list"].append(3)

    @spec("CAT-16")
    def test_withdrawing_keeps_what_is_known(self, tmp_path: Path) -> None:
        catalogue = self.make(tmp_path)
        tree = files(3)
        version = add(catalogue, "s:n", tree, title="T", metadata={"k": "v"})
        replica = place(catalogue, "s:n")
        made = one(catalogue, AddActivity("register", used=(Port("/data/a"),), generated=(Port("s:n"),)))
        assert one(catalogue, Withdraw("s:n", "licence")).changed
        assert not one(catalogue, Withdraw("s:n", "licence")).changed
        for handle in (catalogue, self.again(catalogue, tmp_path)):
            found = handle.dataset(ids("s:n"), actor=ME)
            assert (found.state, found.reason, found.title) == (State.WITHDRAWN, "licence", "T")
            assert found.metadata == {"k": "v"}
            assert handle.versions(ids("s:n"), actor=ME) == [version]
            assert list(handle.manifest(ids("s:n"), actor=ME)) == tree
            assert [a.id for a in handle.lineage(ids("s:n"), actor=ME)] == [made.id]
            assert [d.key for d in handle.datasets(actor=ME)] == ["s:n"]
            assert handle.replicas(ids("s:n"), actor=ME) == []
            assert [r.id for r in handle.replicas(ids("s:n"), actor=ME, offered=False)] == [replica]
        refused(Invalid, "withdrawn", catalogue, AddVersion("s:n", put(catalogue, files(4))))
        refused(Invalid, "withdrawn", catalogue, AddReplica("s:n", "/b", evidence=PROOF))
        assert one(catalogue, SetReplica(replica, GONE)).changed, "what becomes of the bytes is still recorded"
        one(catalogue, PutDataset("s:n", description="a tombstone"))
        assert one(catalogue, Restore("s:n")).changed
        found = catalogue.dataset(ids("s:n"), actor=ME)
        assert (found.state, found.reason) == (State.ACTIVE, "")
        place(catalogue, "s:n")
        assert [r.id for r in catalogue.replicas(ids("s:n"), actor=ME)] == [replica]
