"""Planted violations: for every rule of `specs/catalogue.md` ways to break it, to prove that the suite would tell.

Each patches one thing in a catalogue of ours.  `failures(suite, rule, folder)` runs a rule's tests without pytest's
machinery; a test demands a failure for each violation, and none without.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from dls.catalogue import changes, decide, files, lineage, memory, placing, sql, tables
from dls.catalogue.changes import AddVersion, Applied, Outcome, PutDataset
from dls.catalogue.memory import MemoryCatalogue
from dls.catalogue.memoryrows import MemoryRows
from dls.catalogue.model import OFFERED, ReplicaState
from dls.catalogue.sql import SqlCatalogue
from dls.catalogue.sqlrows import SqlRows
from dls.catalogue.testing.contract import CatalogueContract
from dls.catalogue.testing.hooks import BOTH
from dls.catalogue.testing.ours import MemoryContract, SqlContract
from dls.logistics.actor import Actor
from dls.logistics.errors import Denied, DlsError
from dls.logistics.event import Event
from dls.logistics.manifest import Manifest, SegmentRef
from dls.logistics.segment import Segment
from dls.logistics.testing.spec import suite_tests

Patch = pytest.MonkeyPatch
Plant = Callable[[Patch], None]

VIOLATIONS: Final[dict[str, tuple[str, type[CatalogueContract], Plant]]] = {}
"""By name: the rule that it breaks, the suite that must tell, and what does it."""


def violation(rule: str, suite: type[CatalogueContract] = MemoryContract) -> Callable[[Plant], Plant]:
    """Register a violation under the name of its function."""

    def add(plant: Plant) -> Plant:
        VIOLATIONS[plant.__name__.replace("_", " ")] = (rule, suite, plant)
        return plant

    return add


def failures(suite: type[CatalogueContract], rule: str, folder: Path) -> dict[str, BaseException]:
    """The tests of a rule (all where '') that fail, and how.  A bug of the plant itself passes through."""
    found: dict[str, BaseException] = {}
    for name in suite_tests(suite, rule):
        one = suite()
        place = folder / name
        place.mkdir(parents=True)
        try:
            getattr(one, name)(tmp_path=place)
        except (AssertionError, DlsError, pytest.fail.Exception) as failed:
            found[name] = failed
        finally:
            getattr(one, "close", lambda: None)()
    return found


def _wrap(patch: Patch, owner: Any, name: str, around: Callable[..., Any]) -> None:
    """Replace a function by `around(original, *arguments)`."""
    original = getattr(owner, name)
    patch.setattr(owner, name, lambda *a, **k: around(original, *a, **k))


def _handle(patch: Patch, change: type, around: Callable[..., Outcome]) -> None:
    """Replace what a change means by `around(original, rows, change, actor)`."""
    original = decide._HANDLERS[change]
    patch.setitem(decide._HANDLERS, change, lambda *a: around(original, *a))


# ------------------------------------------------------------------------------------------ segments


@violation("CAT-1")
def segments_go_in_unchecked(patch: Patch) -> None:
    def inspect(_: Any, data: bytes) -> files.SegmentFacts:
        segment = Segment.decode(data)
        return files.SegmentFacts(SegmentRef.of(segment), b"a", b"b", hashed=True)

    _wrap(patch, files, "inspect", inspect)


@violation("CAT-1")
def references_come_back_in_another_order(patch: Patch) -> None:
    _wrap(patch, MemoryCatalogue, "put_segments", lambda put, self, s: sorted(put(self, s), key=lambda r: r.digest))


@violation("CAT-1", SqlContract)
def half_a_batch_is_kept(patch: Patch) -> None:
    patch.setattr(files, "_BATCH_SEGMENTS", 1)


@violation("CAT-2")
def all_segments_are_held(patch: Patch) -> None:
    _wrap(patch, MemoryCatalogue, "put_segments", lambda put, self, segments: put(self, list(segments)))


@violation("CAT-2")
def a_lock_is_held_while_the_caller_works(patch: Patch) -> None:
    def locked(put: Any, self: Any, segments: Any) -> Any:
        with self._lock:
            return put(self, segments)

    _wrap(patch, MemoryCatalogue, "put_segments", locked)


@violation("CAT-11")
def every_version_has_its_own_segments(patch: Patch) -> None:
    def copy(save: Any, self: Any, version: Any, segments: Any) -> None:
        save(self, version, segments)
        for digest in segments:
            self._state.segments[digest + version.id.encode()] = self._state.segments[digest]

    _wrap(patch, MemoryRows, "save_version", copy)


@violation("CAT-24")
def the_grace_is_forgotten(patch: Patch) -> None:
    _wrap(patch, MemoryCatalogue, "sweep", lambda sweep, self, grace_s=0.0: sweep(self, 0))


@violation("CAT-24")
def putting_again_renews_nothing(patch: Patch) -> None:
    def put(original: Any, self: Any, segments: Any) -> Any:
        before = dict(self._tables.segments)
        refs = original(self, segments)
        self._tables.segments.update(before)
        return refs

    _wrap(patch, MemoryCatalogue, "put_segments", put)


@violation("CAT-24", SqlContract)
def only_the_newest_version_holds_its_segments(patch: Patch) -> None:
    def follow_newest(sweep: Any, self: Any, grace_s: float = 0.0) -> int:
        with self._db.transaction() as tx:
            tx.run("DELETE FROM version_segments")
        return int(sweep(self, grace_s))

    _wrap(patch, SqlCatalogue, "sweep", follow_newest)


# ------------------------------------------------------------------------------------------ applying


@violation("CAT-3")
def changes_are_applied_one_by_one(patch: Patch) -> None:
    def apply(original: Any, self: Any, some: Any, **more: Any) -> Applied:
        return Applied(tuple(original(self, [change], **more).outcomes[0] for change in some))

    _wrap(patch, MemoryCatalogue, "apply", apply)


@violation("CAT-3")
def events_of_undone_changes_stay(patch: Patch) -> None:
    def record(_: Any, self: Any, event: Event) -> None:
        self._state.events.append(replace(event, id=len(self._state.events) + 1, time_ns=self.now_ns))

    _wrap(patch, MemoryRows, "record", record)


@violation("CAT-4")
def keys_are_ignored(patch: Patch) -> None:
    _wrap(patch, MemoryCatalogue, "apply", lambda apply, self, some, key="", **more: apply(self, some, **more))


@violation("CAT-4")
def a_key_answers_whatever_is_asked(patch: Patch) -> None:
    patch.setattr(memory, "fingerprint", lambda _: b"same")


@violation("CAT-4")
def what_was_measured_counts(patch: Patch) -> None:
    patch.setattr(changes, "MEASURED", frozenset())


@violation("CAT-4")
def keys_are_shared_by_all_actors(patch: Patch) -> None:
    class Shared(dict[Any, Any]):
        def __contains__(self, key: object) -> bool:
            return super().__contains__(self._key(key))

        def __getitem__(self, key: Any) -> Any:
            return super().__getitem__(self._key(key))

        def __setitem__(self, key: Any, value: Any) -> None:
            super().__setitem__(self._key(key), value)

        @staticmethod
        def _key(key: Any) -> str:
            return str(key[1])

    def init(original: Any, self: Any, *a: Any, **k: Any) -> None:
        original(self, *a, **k)
        self._applied = Shared()

    _wrap(patch, MemoryCatalogue, "__init__", init)


@violation("CAT-4", SqlContract)
def keys_live_in_the_process(patch: Patch) -> None:
    def apply(original: Any, self: Any, some: Any, key: str = "", **more: Any) -> Applied:
        known = self.__dict__.setdefault("known", {})
        if key not in known:
            known[key] = original(self, some, **more)
            return known[key]
        return replace(known[key], replayed=True)

    _wrap(patch, SqlCatalogue, "apply", apply)


@violation("CAT-5")
def serials_are_not_compared(patch: Patch) -> None:
    _wrap(patch, MemoryCatalogue, "apply", lambda apply, self, some, expected=None, **more: apply(self, some, **more))


@violation("CAT-5")
def versions_raise_no_serial(patch: Patch) -> None:
    def add(original: Any, rows: Any, change: Any, actor: Any) -> Outcome:
        before = rows.dataset(change.dataset)
        outcome: Outcome = original(rows, change, actor)
        rows.save_dataset(before)
        return replace(outcome, serial=before.serial)

    _handle(patch, AddVersion, add)


@violation("CAT-6")
def fields_not_given_are_emptied(patch: Patch) -> None:
    _handle(
        patch,
        PutDataset,
        lambda original, rows, change, actor: original(rows, replace(change, title=change.title or ""), actor),
    )


@violation("CAT-6")
def saying_the_same_again_is_a_change(patch: Patch) -> None:
    def put(original: Any, rows: Any, change: Any, actor: Any) -> Outcome:
        outcome: Outcome = original(rows, change, actor)
        return replace(outcome, changed=True)

    _handle(patch, PutDataset, put)


@violation("CAT-7")
def texts_are_not_checked(patch: Patch) -> None:
    patch.setattr(decide, "text", lambda value, *_: value)


@violation("CAT-7")
def records_are_shared(patch: Patch) -> None:
    patch.setattr(memory, "deepcopy", lambda value: value)


# ------------------------------------------------------------------------------------------ versions


@violation("CAT-8")
def touching_a_tree_makes_a_version(patch: Patch) -> None:
    patch.setattr(Manifest, "content", property(lambda self: self.digest))


@violation("CAT-8")
def any_older_content_is_no_new_version(patch: Patch) -> None:
    def add(original: Any, rows: Any, change: Any, actor: Any) -> Outcome:
        content, number = Manifest(change.refs, decide._not_loaded).content, 1
        while old := rows.version(change.dataset, number):
            if old.content == content:
                return Outcome(old.id, rows.dataset(change.dataset).serial, changed=False)
            number += 1
        return original(rows, change, actor)

    _handle(patch, AddVersion, add)


@violation("CAT-9")
def a_version_takes_any_segments_that_are_stored(patch: Patch) -> None:
    patch.setattr(decide, "line_up", lambda refs, have: [have[r.digest] for r in refs if r.digest in have])


@violation("CAT-9")
def files_need_no_digest(patch: Patch) -> None:
    _wrap(patch, files, "inspect", lambda inspect, data: inspect(data)._replace(hashed=True))


@violation("CAT-10")
def segments_are_not_verified(patch: Patch) -> None:
    _wrap(patch, MemoryCatalogue, "_load", lambda _, self, digest: Segment.decode(self._tables.segments[digest][1]))


@violation("CAT-10")
def a_damaged_segment_is_left_out(patch: Patch) -> None:
    def load(original: Any, self: Any, digest: bytes) -> Segment:
        try:
            loaded: Segment = original(self, digest)
        except DlsError:
            return Segment.of([])
        return loaded

    _wrap(patch, MemoryCatalogue, "_load", load)


@violation("CAT-12")
def a_page_begins_with_the_last_of_the_one_before(patch: Patch) -> None:
    _wrap(patch, memory, "page", lambda page, *a, after, **k: page(*a, after=after[:-1], **k))


@violation("CAT-12")
def a_page_opens_every_segment(patch: Patch) -> None:
    def page(original: Any, load: Any, digests: Iterator[bytes], **more: Any) -> Any:
        every = {digest: load(digest) for digest in digests}
        return original(every.__getitem__, every, **more)

    _wrap(patch, memory, "page", page)


@violation("CAT-12")
def a_prefix_is_a_folder(patch: Patch) -> None:
    _wrap(patch, memory, "page", lambda page, *a, prefix, **k: page(*a, prefix=prefix and prefix + b"/", **k))


# ------------------------------------------------------------------------------------------ replicas


@violation("CAT-13")
def complete_needs_no_evidence(patch: Patch) -> None:
    patch.setattr(placing, "_proven", lambda *_: None)


@violation("CAT-13")
def each_time_a_new_row(patch: Patch) -> None:
    patch.setattr(MemoryRows, "replica_at", lambda *_: None)


@violation("CAT-14")
def partial_replicas_are_offered(patch: Patch) -> None:
    patch.setattr(memory, "OFFERED", OFFERED | {ReplicaState.PARTIAL})


@violation("CAT-14")
def what_is_gone_comes_back(patch: Patch) -> None:
    patch.setattr(placing, "_not_gone", lambda _: None)


@violation("CAT-14", SqlContract)
def old_marks_stay(patch: Patch) -> None:
    _wrap(patch, SqlRows, "clear", lambda clear, self, ident, paths: clear(self, ident, paths or ()))


@violation("CAT-15")
def any_name_may_be_marked(patch: Patch) -> None:
    patch.setattr(MemoryRows, "lacking", lambda *_: None)


@violation("CAT-15")
def marks_replace_those_before(patch: Patch) -> None:
    def mark(original: Any, self: Any, ident: str, some: Any) -> int:
        self.clear(ident, None)
        return int(original(self, ident, some))

    _wrap(patch, MemoryRows, "mark", mark)


@violation("CAT-16")
def a_withdrawn_dataset_takes_versions(patch: Patch) -> None:
    patch.setattr(decide, "active", decide.seen)


@violation("CAT-16")
def withdrawing_forgets_the_metadata(patch: Patch) -> None:
    _wrap(patch, decide, "_turn", lambda turn, rows, old, *more: turn(rows, replace(old, metadata={}), *more))


@violation("CAT-16", SqlContract)
def withdrawn_replicas_are_offered(patch: Patch) -> None:
    _wrap(
        patch,
        SqlCatalogue,
        "replicas",
        lambda ask, self, id, actor, offered=True: [
            r for r in ask(self, id, actor=actor, offered=False) if not offered or r.state in OFFERED
        ],
    )


# -------------------------------------------------------------------------------------------- people


@violation("CAT-17")
def hidden_is_denied(patch: Patch) -> None:
    def seen(original: Any, self: Any, key: str, actor: Actor) -> Any:
        if key in self._tables.datasets and not actor.sees(self._tables.datasets[key].audience):
            raise Denied(f"{key} is not for you", code="hidden")
        return original(self, key, actor)

    _wrap(patch, MemoryCatalogue, "_seen", seen)


@violation("CAT-17")
def replicas_are_changed_by_anyone(patch: Patch) -> None:
    _wrap(patch, placing, "present", lambda present, rows, ident, actor: present(rows, ident, BOTH))


@violation("CAT-17", SqlContract)
def hidden_marks_are_shown(patch: Patch) -> None:
    _wrap(patch, SqlCatalogue, "exceptions", lambda ask, self, id, actor, **more: ask(self, id, actor=BOTH, **more))


@violation("CAT-18")
def counts_hold_what_is_hidden(patch: Patch) -> None:
    _wrap(patch, MemoryCatalogue, "count", lambda count, self, actor, **more: count(self, actor=BOTH, **more))


@violation("CAT-18", SqlContract)
def content_finds_what_is_hidden(patch: Patch) -> None:
    _wrap(patch, SqlCatalogue, "by_content", lambda ask, self, content, actor: ask(self, content, actor=BOTH))


@violation("CAT-18", SqlContract)
def events_tell_of_what_is_hidden(patch: Patch) -> None:
    _wrap(patch, SqlCatalogue, "events", lambda ask, self, actor, **more: ask(self, actor=BOTH, **more))


@violation("CAT-18")
def records_are_given_away(patch: Patch) -> None:
    _handle(patch, PutDataset, lambda original, rows, change, actor: original(rows, change, BOTH))


# ------------------------------------------------------------------------------------------- lineage


@violation("CAT-19")
def ports_are_written_down_as_given(patch: Patch) -> None:
    def edge(original: Any, rows: Any, actor: Any, side: str, ref: str, role: str = "") -> Any:
        return original(rows, actor, side, ref, role)._replace(ref=ref)

    _wrap(patch, lineage, "_edge", edge)


@violation("CAT-19")
def an_activity_replaces_another(patch: Patch) -> None:
    patch.setattr(MemoryRows, "activity", lambda *_: None)


@violation("CAT-20")
def up_is_down(patch: Patch) -> None:
    patch.setattr(
        lineage,
        "DIRECTIONS",
        {**lineage.DIRECTIONS, "up": lineage.DIRECTIONS["down"], "down": lineage.DIRECTIONS["up"]},
    )


@violation("CAT-20", SqlContract)
def depth_is_one_too_many(patch: Patch) -> None:
    _wrap(patch, SqlCatalogue, "lineage", lambda ask, self, id, depth=10, **k: ask(self, id, depth=depth + 1, **k))


@violation("CAT-20")
def a_replica_stands_for_itself(patch: Patch) -> None:
    def edge(original: Any, rows: Any, actor: Any, side: str, ref: str, role: str = "") -> Any:
        made = original(rows, actor, side, ref, role)
        return made._replace(node=ref) if ":" not in ref else made

    _wrap(patch, lineage, "_edge", edge)


@violation("CAT-21")
def hidden_ports_are_shown(patch: Patch) -> None:
    patch.setattr(lineage, "shown", lambda activity, *_: activity)


@violation("CAT-21")
def the_command_is_shown(patch: Patch) -> None:
    def shown(original: Any, activity: Any, actor: Any, hidden: Any) -> Any:
        return replace(original(activity, actor, hidden), command=activity.command)

    _wrap(patch, lineage, "shown", shown)


@violation("CAT-21", SqlContract)
def the_walk_passes_through_the_hidden(patch: Patch) -> None:
    every = "SELECT a.id, a.started_ns FROM activities a WHERE ? <> ''"
    _wrap(patch, SqlCatalogue, "_activities", lambda ask, self, which, values, actor: ask(self, every, ["x"], actor))


# ------------------------------------------------------------------------------------------- reading


@violation("CAT-22")
def a_page_ends_before_its_limit_of_the_visible(patch: Patch) -> None:
    def datasets(original: Any, self: Any, actor: Actor, limit: int = 100, **more: Any) -> Any:
        some = original(self, actor=BOTH, limit=limit, **more)
        return [d for d in some if d.key.islower()]

    _wrap(patch, MemoryCatalogue, "datasets", datasets)


@violation("CAT-22", SqlContract)
def search_knows_wildcards(patch: Patch) -> None:
    def matching(original: Any, prefix: str, text: str, state: Any) -> Any:
        where, values = original(prefix, text, state)
        return where, [v.replace("\\%", "%").replace("\\_", "_") for v in values]

    _wrap(patch, sql, "matching", matching)


@violation("CAT-22", SqlContract)
def search_minds_case(patch: Patch) -> None:
    patch.setattr(tables, "words_of", lambda d, metadata: f"{d.key} {d.title} {d.description} {metadata}")


@violation("CAT-23")
def nothing_is_told_of_marks(patch: Patch) -> None:
    def record(original: Any, self: Any, event: Event) -> None:
        if event.type != "replica.marked":
            original(self, event)

    _wrap(patch, MemoryRows, "record", record)


@violation("CAT-23")
def events_grow_with_the_record(patch: Patch) -> None:
    def tell(original: Any, rows: Any, kind: str, subject: str, actor: Any, **data: Any) -> None:
        original(rows, kind, subject, actor, dataset=rows.dataset(subject).to_json(), **data)

    _wrap(patch, decide, "tell", tell)


# ------------------------------------------------------------------------------------------- company


@violation("CAT-25")
def two_decide_at_once(patch: Patch) -> None:
    def init(original: Any, self: Any, *a: Any, **k: Any) -> None:
        original(self, *a, **k)
        self._lock = nullcontext()

    def slowly(original: Any, *arguments: Any) -> Any:
        outcomes = original(*arguments)
        time.sleep(0.002)  # long enough for another thread to decide on the same state
        return outcomes

    _wrap(patch, MemoryCatalogue, "__init__", init)
    _wrap(patch, memory, "decide", slowly)


@violation("CAT-26", SqlContract)
def sql_searches_otherwise(patch: Patch) -> None:
    search_minds_case(patch)


@violation("CAT-26", SqlContract)
def sql_forgets_reasons(patch: Patch) -> None:
    _wrap(patch, SqlRows, "save_dataset", lambda save, self, dataset: save(self, replace(dataset, reason="")))
