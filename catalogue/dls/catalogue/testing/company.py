"""CAT-25 and 26: writers at once, and random histories beside the catalogue in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

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
from dls.catalogue.memory import MemoryCatalogue
from dls.catalogue.model import FileState, Port, ReplicaState
from dls.catalogue.testing.hooks import BOTH, ME, OTHER, PROOF, CatalogueHooks, do, files, ids, one, put, state_of
from dls.logistics.actor import PUBLIC, Actor
from dls.logistics.errors import Conflict, DlsError
from dls.logistics.testing.spec import spec


class CompanyRules(CatalogueHooks):
    """More than one at work."""

    @spec("CAT-25")
    def test_writers_at_once(self, tmp_path: Path) -> None:
        catalogue = self.make(tmp_path)
        do(catalogue, PutDataset("s:n"), PutDataset("s:once"))
        writers, rounds = 4, 6
        start = threading.Barrier(writers)

        def work(n: int) -> list[int]:
            try:
                return rush(n)
            except BaseException:
                start.abort()  # nobody waits for one who failed
                raise

        def rush(n: int) -> list[int]:
            mine, won = self.again(catalogue, tmp_path), []
            for i in range(rounds):
                refs = put(mine, files(2, seed=100 * n + i))
                start.wait(60)
                one(mine, AddVersion("s:n", refs, note=f"{n}/{i}"))
                try:
                    do(mine, PutDataset("s:once", title=f"{n}/{i}"), expected={"s:once": i + 1})
                    won.append(i)
                except Conflict:
                    pass
                do(mine, PutDataset(f"s:key{i}"), AddVersion(f"s:key{i}", refs[:0]), key=f"shared/{i}")
                start.wait(60)
            return won

        with ThreadPoolExecutor(writers) as pool:
            won = sorted(i for wins in pool.map(work, range(writers)) for i in wins)
        assert won == list(range(rounds)), "each serial has one winner"
        versions = catalogue.versions(ids("s:n"), actor=ME)
        assert [v.number for v in versions] == list(range(1, writers * rounds + 1))
        assert {v.note for v in versions} == {f"{n}/{i}" for n in range(writers) for i in range(rounds)}
        for version in versions:
            assert len(list(catalogue.manifest(ids(version.id), actor=ME))) == 2
        told = [e.type for e in catalogue.events(actor=ME)]
        assert told.count("version.added") == writers * rounds + rounds
        assert told.count("dataset.added") == rounds + 2

    @spec("CAT-26")
    def test_histories_agree_with_memory(self, tmp_path: Path) -> None:
        self.histories = getattr(self, "histories", 0)

        def fresh() -> Catalogue:
            self.histories += 1
            return self.make(tmp_path / str(self.histories))

        class Histories(History):
            subject_of = staticmethod(fresh)

        examples = max(self.examples, settings().max_examples // 4)  # more where the run asks for more
        phases = [p for p in Phase if self.explain or p not in (Phase.shrink, Phase.explain)]
        run_state_machine_as_test(
            Histories,
            settings=settings(max_examples=examples, stateful_step_count=20, deadline=None, phases=phases),
        )

    examples = 25
    """Histories tried; each is twenty commands."""
    explain = True
    """Whether a history that fails is made shorter until it is the shortest that does."""


_KEYS = st.sampled_from(["s:a", "s:b", "t:a"])
_TREES = [files(n, seed) for n in (0, 1, 3) for seed in (0, 1)]
_WHO = st.sampled_from([ME, OTHER, BOTH])
_AUDIENCES = st.sampled_from(["local", "others", PUBLIC])
_PATHS = st.sampled_from([e.path for e in files(4)])


class History(RuleBasedStateMachine):
    """The same commands to both; ids that each makes by itself are compared by their order."""

    subject_of: Callable[[], Catalogue]

    def __init__(self) -> None:
        super().__init__()
        self.pair: list[Catalogue] = [MemoryCatalogue(), self.subject_of()]
        self.refs = [[put(c, tree) for tree in _TREES] for c in self.pair]
        assert self.refs[0] == self.refs[1]
        self.replicas: list[tuple[str, str]] = []
        self.activities: list[tuple[str, str]] = []

    def both(self, make: Callable[[int], Change], who: Actor, **more: Any) -> list[Any]:
        """Apply to both; both must answer alike."""
        answers: list[Any] = []
        for side, catalogue in enumerate(self.pair):
            try:
                answers.append(do(catalogue, make(side), actor=who, **more).outcomes[0])
            except DlsError as error:
                answers.append((error.kind, error.code))
        a, b = answers
        if hasattr(a, "id") and hasattr(b, "id"):
            assert (a.serial, a.changed) == (b.serial, b.changed), (make(0), a, b)
        else:
            assert a == b, (make(0), a, b)
        return answers

    @rule(key=_KEYS, who=_WHO, audience=_AUDIENCES, title=st.sampled_from([None, "", "Ice", "sea ÉTÉ"]))
    def put_dataset(self, key: str, who: Actor, audience: str, title: str | None) -> None:
        self.both(lambda _: PutDataset(key, title=title, audience=audience), who)

    @rule(key=_KEYS, who=_WHO, tree=st.integers(0, len(_TREES) - 1), serial=st.sampled_from([None, 0, 1, 2]))
    def add_version(self, key: str, who: Actor, tree: int, serial: int | None) -> None:
        expected = None if serial is None else {key: serial}
        self.both(lambda side: AddVersion(key, self.refs[side][tree]), who, expected=expected)

    @rule(
        key=_KEYS, who=_WHO, version=st.integers(0, 3), where=st.sampled_from("xy"), state=st.sampled_from(ReplicaState)
    )
    def add_replica(self, key: str, who: Actor, version: int, where: str, state: ReplicaState) -> None:
        a, b = self.both(lambda _: AddReplica(key, "/" + where, version=version, state=state, evidence=PROOF), who)
        if hasattr(a, "id") and (a.id, b.id) not in self.replicas:
            self.replicas.append((a.id, b.id))

    @rule(n=st.integers(0, 5), who=_WHO, state=st.sampled_from(ReplicaState), path=_PATHS, what=st.integers(0, 2))
    def change_replica(self, n: int, who: Actor, state: ReplicaState, path: bytes, what: int) -> None:
        if not self.replicas:
            return
        pair = self.replicas[n % len(self.replicas)]
        make: list[Callable[[int], Change]] = [
            lambda side: SetReplica(pair[side], state),
            lambda side: MarkFiles(pair[side], {path: FileState.LOST}),
            lambda side: ClearFiles(pair[side], (path,)),
        ]
        self.both(make[what], who)

    @rule(key=_KEYS, who=_WHO, back=st.booleans())
    def withdraw(self, key: str, who: Actor, back: bool) -> None:
        self.both(lambda _: Restore(key) if back else Withdraw(key, "why"), who)

    @rule(
        who=_WHO,
        audience=_AUDIENCES,
        used=st.lists(_KEYS | st.just("/url"), max_size=2),
        made=_KEYS,
        at=st.integers(1, 3),
    )
    def add_activity(self, who: Actor, audience: str, used: list[str], made: str, at: int) -> None:
        ports = tuple(Port(u) for u in used)
        change = AddActivity("t", ports, (Port(made),), audience=audience, command=("c",), started_ns=at, ended_ns=at)
        a, b = self.both(lambda _: change, who)
        if hasattr(a, "id"):
            self.activities.append((a.id, b.id))

    @rule(key=_KEYS, who=_WHO, title=st.sampled_from(["p", "q"]), name=st.sampled_from(["k1", "k2"]))
    def keyed(self, key: str, who: Actor, title: str, name: str) -> None:
        self.both(lambda _: PutDataset(key, title=title), who, key=name)

    @rule()
    def sweep(self) -> None:
        self.pair[0].sweep(0)
        self.pair[1].sweep(0)
        for side, catalogue in enumerate(self.pair):
            self.refs[side] = [put(catalogue, tree) for tree in _TREES]

    @invariant()
    def both_show_the_same(self) -> None:
        names = [
            {id: str(n) for n, id in enumerate(i[side] for i in self.replicas + self.activities)} for side in (0, 1)
        ]
        for who in (ME, OTHER, BOTH):
            shown = [_plain(state_of(c, who), names[side]) for side, c in enumerate(self.pair)]
            assert shown[0] == shown[1], who
            for text in ("", "ice", "été sea"):
                counts = [c.count(actor=who, text=text) for c in self.pair]
                assert counts[0] == counts[1]
            for refs in (c.by_content(b"", actor=who) for c in self.pair):
                assert refs == []


def _plain(value: Any, names: dict[str, str]) -> Any:
    """A state without times, and with ids replaced by their number."""
    if isinstance(value, dict):
        return {k: _plain(v, names) for k, v in value.items() if not k.endswith("_ns")}
    if isinstance(value, list | tuple):
        out = [_plain(v, names) for v in value]
        return sorted(out, key=str) if out and isinstance(out[0], dict) and "command" in out[0] else out
    return names.get(value, value) if isinstance(value, str) else value
