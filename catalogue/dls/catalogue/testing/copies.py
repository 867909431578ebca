"""CAT-13 to 15: replicas and their files."""

from __future__ import annotations

from pathlib import Path

from dls.catalogue.changes import (
    AddReplica,
    AddVersion,
    ClearFiles,
    MarkFiles,
    PutDataset,
    SetReplica,
)
from dls.catalogue.model import FileMark, FileState, Layout, ReplicaState
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
)
from dls.logistics.errors import Conflict, Exists, Invalid, NotFound
from dls.logistics.ids import ulid
from dls.logistics.testing.spec import spec

COMPLETE, GONE, OFFLINE = ReplicaState.COMPLETE, ReplicaState.GONE, ReplicaState.OFFLINE


class CopyRules(CatalogueHooks):
    """Where the bytes are."""

    @spec("CAT-13")
    def test_one_row_per_place(self, tmp_path: Path) -> None:
        catalogue = self.make(tmp_path)
        refs = put(catalogue, files(3))
        done = do(
            catalogue,
            PutDataset("s:n"),
            AddVersion("s:n", refs),
            AddReplica("s:n", "/data/a", storage="x/default", evidence=PROOF, durability="power"),
        )
        ident = done.outcomes[2].id
        found = catalogue.replica(ident, actor=ME)
        assert (found.dataset, found.version, found.storage, found.url) == ("s:n", 1, "x/default", "file:///data/a")
        assert (found.layout, found.state, found.evidence, found.durability) == (Layout.SAME, COMPLETE, PROOF, "power")
        again = AddReplica("s:n", "file:///data/a/", storage="x/default", evidence=PROOF, durability="power")
        assert not one(catalogue, again).changed
        newer = AddReplica("s:n", "/data/a", storage="x/default", evidence={"how": "again"}, state=OFFLINE)
        assert one(catalogue, newer).id == ident
        assert catalogue.replica(ident, actor=ME).state is OFFLINE
        others = [
            place(catalogue, "s:n", "/data/a"),
            place(catalogue, "s:n", "/data/b", storage="x/default"),
            one(catalogue, AddReplica("s:n", "s3://b/k", evidence=PROOF, layout=Layout.IMAGE, id=ulid())).id,
        ]
        every = catalogue.replicas(ids("s:n"), actor=ME)
        assert [r.id for r in every] == sorted([ident, *others])
        add(catalogue, "s:n", files(4))
        assert catalogue.replicas(ids("s:n"), actor=ME) == []
        assert len(catalogue.replicas(ids("s:n@1"), actor=ME)) == 4
        refused(Invalid, "no-evidence", catalogue, AddReplica("s:n", "/c"))
        partial = one(catalogue, AddReplica("s:n", "/c", state=ReplicaState.PARTIAL)).id
        refused(Invalid, "no-evidence", catalogue, SetReplica(partial, COMPLETE))
        assert one(catalogue, SetReplica(partial, COMPLETE, PROOF)).changed
        refused(NotFound, "no-version", catalogue, AddReplica("s:n", "/c", version=9, evidence=PROOF))
        refused(Exists, "id-taken", catalogue, AddReplica("s:n", "/d", evidence=PROOF, id=partial))

    @spec("CAT-14")
    def test_what_is_offered(self, tmp_path: Path) -> None:
        catalogue = self.make(tmp_path)
        add(catalogue, "s:n")
        for state in ReplicaState:
            one(catalogue, AddReplica("s:n", f"/{state}", state=state, evidence=PROOF))
        offered = catalogue.replicas(ids("s:n"), actor=ME)
        assert {r.state for r in offered} == {COMPLETE, OFFLINE}
        assert len(catalogue.replicas(ids("s:n"), actor=ME, offered=False)) == len(ReplicaState)
        ident = place(catalogue, "s:n", "/here")
        one(catalogue, MarkFiles(ident, {files(1)[0].path: FileState.LOST}))
        assert one(catalogue, SetReplica(ident, GONE)).changed
        assert not one(catalogue, SetReplica(ident, GONE)).changed
        assert catalogue.exceptions(ident, actor=ME) == []
        refused(Conflict, "replica-gone", catalogue, SetReplica(ident, COMPLETE, PROOF))
        refused(Conflict, "replica-gone", catalogue, MarkFiles(ident, {files(1)[0].path: FileState.LOST}))
        assert place(catalogue, "s:n", "/here") == ident
        found = catalogue.replica(ident, actor=ME)
        assert (found.state, catalogue.exceptions(ident, actor=ME)) == (COMPLETE, [])
        one(catalogue, MarkFiles(ident, {files(1)[0].path: FileState.LOST}))
        place(catalogue, "s:n", "/here")
        assert catalogue.exceptions(ident, actor=ME) == [], "added anew: all of it was proven"

    @spec("CAT-15")
    def test_files_are_marked_and_cleared(self, tmp_path: Path) -> None:
        catalogue = self.make(tmp_path)
        tree = files(12_000)
        add(catalogue, "s:n", tree)
        ident, other = place(catalogue, "s:n", "/a"), place(catalogue, "s:n", "/b")
        a, b, c, d = (tree[i].path for i in (0, 4_000, 8_000, 11_999))
        assert one(catalogue, MarkFiles(ident, {c: FileState.LOST, a: FileState.CORRUPT})).serial == 2
        assert one(catalogue, MarkFiles(ident, {d: FileState.OFFLINE, a: FileState.LOST})).changed
        assert not one(catalogue, MarkFiles(ident, {d: FileState.OFFLINE})).changed
        wanted = [FileMark(a, FileState.LOST), FileMark(c, FileState.LOST), FileMark(d, FileState.OFFLINE)]
        assert catalogue.exceptions(ident, actor=ME) == wanted
        assert catalogue.exceptions(ident, actor=ME, limit=2) == wanted[:2]
        assert catalogue.exceptions(ident, actor=ME, after=c) == wanted[2:]
        assert catalogue.exceptions(other, actor=ME) == []
        for absent in (b"absent", b"000/000000.da", a + b"x", b"zzz"):
            marks = {a: FileState.CORRUPT, absent: FileState.LOST}
            error = refused(NotFound, "no-entry", catalogue, MarkFiles(ident, marks))
            assert error.facts["key"]
        assert one(catalogue, ClearFiles(ident, (b, c))).changed
        assert not one(catalogue, ClearFiles(ident, (b, c))).changed
        assert catalogue.exceptions(ident, actor=ME) == [wanted[0], wanted[2]]
        assert one(catalogue, ClearFiles(ident)).changed
        assert catalogue.exceptions(ident, actor=ME) == []
        assert catalogue.replica(ident, actor=ME).state is COMPLETE
