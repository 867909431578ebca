"""Planted violations, continued: pages, replicas, people, lineage, reading, company."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from dls.catalogue import decide, known, lineage, memory, placing, sql, tables
from dls.catalogue.changes import PutDataset
from dls.catalogue.memory import MemoryCatalogue
from dls.catalogue.memoryrows import MemoryRows
from dls.catalogue.model import OFFERED, ReplicaState
from dls.catalogue.sql import SqlCatalogue
from dls.catalogue.sqlrows import SqlRows
from dls.catalogue.testing.hooks import BOTH
from dls.catalogue.testing.ours import SqlContract
from dls.catalogue.testing.planted import Patch, handle, violation, wrap
from dls.logistics.actor import Actor
from dls.logistics.errors import Denied
from dls.logistics.event import Event

# --------------------------------------------------------------------------------------------- pages


@violation("CAT-12")
def a_page_begins_with_the_last_of_the_one_before(patch: Patch) -> None:
    wrap(patch, memory, "page", lambda page, *a, after, **k: page(*a, after=after[:-1], **k))


@violation("CAT-12")
def a_page_opens_every_segment(patch: Patch) -> None:
    def page(original: Any, load: Any, digests: Iterator[bytes], **more: Any) -> Any:
        every = {digest: load(digest) for digest in digests}
        return original(every.__getitem__, every, **more)

    wrap(patch, memory, "page", page)


@violation("CAT-12")
def a_prefix_is_a_folder(patch: Patch) -> None:
    wrap(patch, memory, "page", lambda page, *a, prefix, **k: page(*a, prefix=prefix and prefix + b"/", **k))


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
    wrap(patch, SqlRows, "clear", lambda clear, self, ident, paths: clear(self, ident, paths or ()))


@violation("CAT-15")
def any_name_may_be_marked(patch: Patch) -> None:
    patch.setattr(MemoryRows, "lacking", lambda *_: None)


@violation("CAT-15")
def marks_replace_those_before(patch: Patch) -> None:
    def mark(original: Any, self: Any, ident: str, some: Any) -> int:
        self.clear(ident, None)
        return int(original(self, ident, some))

    wrap(patch, MemoryRows, "mark", mark)


@violation("CAT-16")
def a_withdrawn_dataset_takes_versions(patch: Patch) -> None:
    patch.setattr(decide, "active", known.seen)


@violation("CAT-16")
def withdrawing_forgets_the_metadata(patch: Patch) -> None:
    wrap(patch, decide, "_turn", lambda turn, rows, old, *more: turn(rows, replace(old, metadata={}), *more))


@violation("CAT-16", SqlContract)
def withdrawn_replicas_are_offered(patch: Patch) -> None:
    wrap(
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

    wrap(patch, MemoryCatalogue, "_seen", seen)


@violation("CAT-17")
def replicas_are_changed_by_anyone(patch: Patch) -> None:
    wrap(patch, placing, "present", lambda present, rows, ident, actor: present(rows, ident, BOTH))


@violation("CAT-17", SqlContract)
def hidden_marks_are_shown(patch: Patch) -> None:
    wrap(patch, SqlCatalogue, "exceptions", lambda ask, self, id, actor, **more: ask(self, id, actor=BOTH, **more))


@violation("CAT-18")
def counts_hold_what_is_hidden(patch: Patch) -> None:
    wrap(patch, MemoryCatalogue, "count", lambda count, self, actor, **more: count(self, actor=BOTH, **more))


@violation("CAT-18", SqlContract)
def content_finds_what_is_hidden(patch: Patch) -> None:
    wrap(patch, SqlCatalogue, "by_content", lambda ask, self, content, actor: ask(self, content, actor=BOTH))


@violation("CAT-18", SqlContract)
def events_tell_of_what_is_hidden(patch: Patch) -> None:
    wrap(patch, SqlCatalogue, "events", lambda ask, self, actor, **more: ask(self, actor=BOTH, **more))


@violation("CAT-18")
def records_are_given_away(patch: Patch) -> None:
    handle(patch, PutDataset, lambda original, rows, change, actor: original(rows, change, BOTH))


# ------------------------------------------------------------------------------------------- lineage


@violation("CAT-19")
def ports_are_written_down_as_given(patch: Patch) -> None:
    def edge(original: Any, rows: Any, actor: Any, side: str, ref: str, role: str = "") -> Any:
        return original(rows, actor, side, ref, role)._replace(ref=ref)

    wrap(patch, lineage, "_edge", edge)


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
    wrap(patch, SqlCatalogue, "lineage", lambda ask, self, id, depth=10, **k: ask(self, id, depth=depth + 1, **k))


@violation("CAT-20")
def a_replica_stands_for_itself(patch: Patch) -> None:
    def edge(original: Any, rows: Any, actor: Any, side: str, ref: str, role: str = "") -> Any:
        made = original(rows, actor, side, ref, role)
        return made._replace(node=ref) if ":" not in ref else made

    wrap(patch, lineage, "_edge", edge)


@violation("CAT-21")
def hidden_ports_are_shown(patch: Patch) -> None:
    patch.setattr(lineage, "shown", lambda activity, *_: activity)


@violation("CAT-21")
def the_command_is_shown(patch: Patch) -> None:
    def shown(original: Any, activity: Any, actor: Any, hidden: Any) -> Any:
        return replace(original(activity, actor, hidden), command=activity.command)

    wrap(patch, lineage, "shown", shown)


@violation("CAT-21", SqlContract)
def the_walk_passes_through_the_hidden(patch: Patch) -> None:
    every = "SELECT a.id, a.started_ns FROM activities a WHERE ? <> ''"
    wrap(patch, SqlCatalogue, "_activities", lambda ask, self, which, values, actor: ask(self, every, ["x"], actor))


# ------------------------------------------------------------------------------------------- reading


@violation("CAT-22")
def a_page_ends_before_its_limit_of_the_visible(patch: Patch) -> None:
    def datasets(original: Any, self: Any, actor: Actor, limit: int = 100, **more: Any) -> Any:
        some = original(self, actor=BOTH, limit=limit, **more)
        return [d for d in some if d.key.islower()]

    wrap(patch, MemoryCatalogue, "datasets", datasets)


@violation("CAT-22", SqlContract)
def search_knows_wildcards(patch: Patch) -> None:
    def matching(original: Any, prefix: str, text: str, state: Any) -> Any:
        where, values = original(prefix, text, state)
        return where, [v.replace("\\%", "%").replace("\\_", "_") for v in values]

    wrap(patch, sql, "matching", matching)


@violation("CAT-22", SqlContract)
def search_minds_case(patch: Patch) -> None:
    patch.setattr(tables, "words_of", lambda d, metadata: f"{d.key} {d.title} {d.description} {metadata}")


@violation("CAT-23")
def nothing_is_told_of_marks(patch: Patch) -> None:
    def record(original: Any, self: Any, event: Event) -> None:
        if event.type != "replica.marked":
            original(self, event)

    wrap(patch, MemoryRows, "record", record)


@violation("CAT-23")
def events_grow_with_the_record(patch: Patch) -> None:
    def tell(original: Any, rows: Any, kind: str, subject: str, actor: Any, **data: Any) -> None:
        original(rows, kind, subject, actor, dataset=rows.dataset(subject).to_json(), **data)

    wrap(patch, decide, "tell", tell)


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

    wrap(patch, MemoryCatalogue, "__init__", init)
    wrap(patch, memory, "decide", slowly)


@violation("CAT-26", SqlContract)
def sql_searches_otherwise(patch: Patch) -> None:
    search_minds_case(patch)


@violation("CAT-26", SqlContract)
def sql_forgets_reasons(patch: Patch) -> None:
    wrap(patch, SqlRows, "save_dataset", lambda save, self, dataset: save(self, replace(dataset, reason="")))
