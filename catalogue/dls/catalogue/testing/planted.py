"""Planted violations: for every rule of `specs/catalogue.md` ways to break it, to prove that the suite would tell.

Each patches one thing in a catalogue of ours.  `failures(suite, rule, folder)` runs a rule's tests without pytest's
machinery; a test demands a failure for each violation, and none without.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from dls.catalogue import changes, decide, files, memory
from dls.catalogue.changes import AddVersion, Applied, Outcome, PutDataset
from dls.catalogue.memory import MemoryCatalogue
from dls.catalogue.memoryrows import MemoryRows
from dls.catalogue.sql import SqlCatalogue
from dls.catalogue.testing.contract import CatalogueContract
from dls.catalogue.testing.ours import MemoryContract, SqlContract
from dls.logistics.errors import DlsError
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
        one.explain = False
        try:
            getattr(one, name)(tmp_path=place)
        except (AssertionError, DlsError, pytest.fail.Exception) as failed:
            found[name] = failed
        finally:
            getattr(one, "close", lambda: None)()
    return found


def wrap(patch: Patch, owner: Any, name: str, around: Callable[..., Any]) -> None:
    """Replace a function by `around(original, *arguments)`."""
    original = getattr(owner, name)
    patch.setattr(owner, name, lambda *a, **k: around(original, *a, **k))


def handle(patch: Patch, change: type, around: Callable[..., Outcome]) -> None:
    """Replace what a change means by `around(original, rows, change, actor)`."""
    original = decide._HANDLERS[change]
    patch.setitem(decide._HANDLERS, change, lambda *a: around(original, *a))


# ------------------------------------------------------------------------------------------ segments


@violation("CAT-1")
def segments_go_in_unchecked(patch: Patch) -> None:
    def inspect(_: Any, data: bytes) -> files.SegmentFacts:
        segment = Segment.decode(data)
        return files.SegmentFacts(SegmentRef.of(segment), b"a", b"b", hashed=True)

    wrap(patch, files, "inspect", inspect)


@violation("CAT-1")
def references_come_back_in_another_order(patch: Patch) -> None:
    wrap(patch, MemoryCatalogue, "put_segments", lambda put, self, s: sorted(put(self, s), key=lambda r: r.digest))


@violation("CAT-1", SqlContract)
def half_a_batch_is_kept(patch: Patch) -> None:
    patch.setattr(files, "_BATCH_SEGMENTS", 1)


@violation("CAT-2")
def all_segments_are_held(patch: Patch) -> None:
    wrap(patch, MemoryCatalogue, "put_segments", lambda put, self, segments: put(self, list(segments)))


@violation("CAT-2")
def a_lock_is_held_while_the_caller_works(patch: Patch) -> None:
    def locked(put: Any, self: Any, segments: Any) -> Any:
        with self._lock:
            return put(self, segments)

    wrap(patch, MemoryCatalogue, "put_segments", locked)


@violation("CAT-11")
def every_version_has_its_own_segments(patch: Patch) -> None:
    def copy(save: Any, self: Any, version: Any, segments: Any) -> None:
        save(self, version, segments)
        for digest in segments:
            self._state.segments[digest + version.id.encode()] = self._state.segments[digest]

    wrap(patch, MemoryRows, "save_version", copy)


@violation("CAT-24")
def the_grace_is_forgotten(patch: Patch) -> None:
    wrap(patch, MemoryCatalogue, "sweep", lambda sweep, self, grace_s=0.0: sweep(self, 0))


@violation("CAT-24")
def putting_again_renews_nothing(patch: Patch) -> None:
    def put(original: Any, self: Any, segments: Any) -> Any:
        before = dict(self._tables.segments)
        refs = original(self, segments)
        self._tables.segments.update(before)
        return refs

    wrap(patch, MemoryCatalogue, "put_segments", put)


@violation("CAT-24", SqlContract)
def only_the_newest_version_holds_its_segments(patch: Patch) -> None:
    def follow_newest(sweep: Any, self: Any, grace_s: float = 0.0) -> int:
        with self._db.transaction() as tx:
            tx.run("DELETE FROM version_segments")
        return int(sweep(self, grace_s))

    wrap(patch, SqlCatalogue, "sweep", follow_newest)


# ------------------------------------------------------------------------------------------ applying


@violation("CAT-3")
def changes_are_applied_one_by_one(patch: Patch) -> None:
    def apply(original: Any, self: Any, some: Any, **more: Any) -> Applied:
        return Applied(tuple(original(self, [change], **more).outcomes[0] for change in some))

    wrap(patch, MemoryCatalogue, "apply", apply)


@violation("CAT-3")
def events_of_undone_changes_stay(patch: Patch) -> None:
    def record(_: Any, self: Any, event: Event) -> None:
        if event.subject in self._state.datasets:  # one more about a record that is there already
            self._state.events.append(replace(event, id=len(self._state.events) + 1, time_ns=self.now_ns))

    wrap(patch, MemoryRows, "record", record)


@violation("CAT-4")
def keys_are_ignored(patch: Patch) -> None:
    wrap(patch, MemoryCatalogue, "apply", lambda apply, self, some, key="", **more: apply(self, some, **more))


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

    wrap(patch, MemoryCatalogue, "__init__", init)


@violation("CAT-4", SqlContract)
def keys_live_in_the_process(patch: Patch) -> None:
    def apply(original: Any, self: Any, some: Any, key: str = "", **more: Any) -> Applied:
        before: dict[str, Applied] = self.__dict__.setdefault("before", {})
        if key in before:
            return replace(before[key], replayed=True)
        before[key] = original(self, some, **more)
        return before[key]

    wrap(patch, SqlCatalogue, "apply", apply)


@violation("CAT-5")
def serials_are_not_compared(patch: Patch) -> None:
    wrap(patch, MemoryCatalogue, "apply", lambda apply, self, some, expected=None, **more: apply(self, some, **more))


@violation("CAT-5")
def versions_raise_no_serial(patch: Patch) -> None:
    def add(original: Any, rows: Any, change: Any, actor: Any) -> Outcome:
        before = rows.dataset(change.dataset)
        outcome: Outcome = original(rows, change, actor)
        rows.save_dataset(before)
        return replace(outcome, serial=before.serial)

    handle(patch, AddVersion, add)


@violation("CAT-6")
def fields_not_given_are_emptied(patch: Patch) -> None:
    handle(
        patch,
        PutDataset,
        lambda original, rows, change, actor: original(rows, replace(change, title=change.title or ""), actor),
    )


@violation("CAT-6")
def saying_the_same_again_is_a_change(patch: Patch) -> None:
    def put(original: Any, rows: Any, change: Any, actor: Any) -> Outcome:
        outcome: Outcome = original(rows, change, actor)
        return replace(outcome, changed=True)

    handle(patch, PutDataset, put)


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
        outcome: Outcome = original(rows, change, actor)
        return outcome

    handle(patch, AddVersion, add)


@violation("CAT-9")
def a_version_takes_any_segments_that_are_stored(patch: Patch) -> None:
    patch.setattr(decide, "line_up", lambda refs, have: [have[r.digest] for r in refs if r.digest in have])


@violation("CAT-9")
def files_need_no_digest(patch: Patch) -> None:
    wrap(patch, files, "inspect", lambda inspect, data: inspect(data)._replace(hashed=True))


@violation("CAT-10")
def segments_are_not_verified(patch: Patch) -> None:
    wrap(patch, MemoryCatalogue, "_load", lambda _, self, digest: Segment.decode(self._tables.segments[digest][1]))


@violation("CAT-10")
def a_damaged_segment_is_left_out(patch: Patch) -> None:
    def load(original: Any, self: Any, digest: bytes) -> Segment:
        try:
            loaded: Segment = original(self, digest)
        except DlsError:
            return Segment.of([])
        return loaded

    wrap(patch, MemoryCatalogue, "_load", load)
