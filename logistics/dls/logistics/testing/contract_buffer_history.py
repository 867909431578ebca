"""Random histories of buffers beside a model that knows only promises (BUFFER-21)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from dls.logistics.buffer import ALL, HOLDING, LIVE, State
from dls.logistics.errors import Conflict, NotFound, Unavailable
from dls.logistics.testing.contract_buffer_hooks import CAPACITY, DAY, INODES, World

_CONTENTS = st.sampled_from([b"", b"", b"c" * 32, b"d" * 32])
_USERS = st.sampled_from(["ada", "bob"])
_SIZES = st.integers(0, CAPACITY // 2)
_INODES = st.integers(0, INODES // 2)
_LIVES = st.integers(1, 3 * DAY)
_REFS = st.sampled_from(["replica:1", "replica:2"])
_WHICH = st.integers(0, 30)
_REFUSED = (Conflict, NotFound, Unavailable)


@dataclass
class Known:
    """What the model knows of a buffer."""

    content: bytes
    written: bool = False
    over: bool = False
    copies: set[str] = field(default_factory=set)
    """Evidence given and not withdrawn."""
    leases: dict[str, int] = field(default_factory=dict)
    pins: set[str] = field(default_factory=set)


class History(RuleBasedStateMachine):
    """One history; `fresh` is set in a subclass for each run."""

    fresh: Callable[[ExitStack], World]

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.world = type(self).fresh(self.stack)
        self.buffers = self.world.buffers
        self.known: dict[str, Known] = {}

    def teardown(self) -> None:
        self.stack.close()

    def pick(self, which: int) -> str:
        """One of the buffers so far, mostly the newest; an unknown id where there is none."""
        made = list(self.known)
        return made[-1 - which % len(made)] if made else "01ABSENT"

    def withdrawn(self, ref: str) -> None:
        for known in self.known.values():
            known.copies.discard(ref)

    def gone(self, id: str) -> None:
        """A buffer may begin to go only so."""
        known, now_ns = self.known[id], self.world.clock.now_ns
        assert not known.over
        assert known.copies or not known.written, "unsaved bytes are being freed"
        held = {user for user, end in known.leases.items() if end > now_ns or user in known.pins}
        assert not held, f"held by {held}"
        known.over = True
        self.withdrawn(f"buffer:{id}")

    @rule(seconds=st.integers(1, 2 * DAY))
    def time_passes(self, seconds: int) -> None:
        self.world.clock.advance(seconds)

    @rule(content=_CONTENTS, size=_SIZES, inodes=_INODES, user=_USERS, lifetime_s=_LIVES)
    def reserve(self, content: bytes, size: int, inodes: int, user: str, lifetime_s: int) -> None:
        there = [id for id, k in self.known.items() if content and k.content == content and not k.over]
        held_bytes, held_inodes = self.world.held()
        fits = held_bytes + size <= CAPACITY and held_inodes + inodes <= INODES
        try:
            buffer = self.world.reserve(size, inodes=inodes, content=content, user=user, lifetime_s=lifetime_s)
        except Unavailable:
            assert not there
            assert not fits
            return
        assert there or fits
        assert buffer.shared == bool(there)
        assert there in ([], [buffer.id])
        known = self.known.setdefault(buffer.id, Known(content))
        end = self.world.clock.now_ns + lifetime_s * 10**9
        known.leases[user] = max(end, known.leases.get(user, 0))

    @rule(which=_WHICH)
    def fill(self, which: int) -> None:
        id = self.pick(which)
        try:
            again = self.buffers.open(id).state is State.READY
            self.buffers.filling(id)
        except _REFUSED:
            return
        self.known[id].written = True
        if again:
            self.withdrawn(f"buffer:{id}")

    @rule(which=_WHICH, size=_SIZES, inodes=_INODES)
    def settle(self, which: int, size: int, inodes: int) -> None:
        try:
            self.buffers.settle(self.pick(which), size, inodes)
        except _REFUSED:
            return

    @rule(which=_WHICH, ref=_REFS)
    def save(self, which: int, ref: str) -> None:
        id = self.pick(which)
        try:
            self.buffers.mark_clean(id, ref)
        except _REFUSED:
            return
        self.known[id].copies.add(ref)

    @rule(which=_WHICH, other=_WHICH)
    def vouch(self, which: int, other: int) -> None:
        id, copy = self.pick(which), self.pick(other)
        if id == copy:
            return
        try:
            self.buffers.mark_clean(id, f"buffer:{copy}")
        except _REFUSED:
            return
        assert self.buffers.open(copy).state is State.READY
        self.known[id].copies.add(f"buffer:{copy}")

    @rule(which=_WHICH, changed=st.booleans())
    def dirty(self, which: int, changed: bool) -> None:
        id = self.pick(which)
        try:
            self.buffers.mark_dirty(id, "a job wrote into it", changed=changed)
        except _REFUSED:
            return
        self.known[id].copies.clear()
        if changed:
            self.known[id].content = b""
            self.withdrawn(f"buffer:{id}")

    @rule(ref=_REFS)
    def revoke(self, ref: str) -> None:
        before = {id for id, k in self.known.items() if k.copies == {ref} and not k.over}
        self.withdrawn(ref)
        assert {b.id for b in self.buffers.revoke(ref)} == before

    @rule(which=_WHICH, user=_USERS, lifetime_s=_LIVES)
    def renew(self, which: int, user: str, lifetime_s: int) -> None:
        id = self.pick(which)
        try:
            self.buffers.renew(id, user, lifetime_s)
        except _REFUSED:
            return
        self.known[id].leases[user] = self.world.clock.now_ns + lifetime_s * 10**9

    @rule(which=_WHICH, user=_USERS, pinned=st.booleans())
    def pin(self, which: int, user: str, pinned: bool) -> None:
        id = self.pick(which)
        try:
            self.buffers.pin(id, user, pinned)
        except _REFUSED:
            return
        (self.known[id].pins.add if pinned else self.known[id].pins.discard)(user)

    @rule(which=_WHICH, user=_USERS)
    def release(self, which: int, user: str) -> None:
        id = self.pick(which)
        try:
            step = self.buffers.release(id, user)
        except _REFUSED:
            return
        known = self.known[id]
        if known.over:
            assert step is not None, "asked again"
            return
        del known.leases[user]
        known.pins.discard(user)
        if step:
            self.gone(id)

    @rule()
    def expire(self) -> None:
        for step in self.buffers.expire():
            self.gone(step.buffer.id)

    @rule(want=_SIZES)
    def evict(self, want: int) -> None:
        for buffer in self.buffers.candidates("scratch", want):
            try:
                self.buffers.evict(buffer.id)
            except Conflict:
                continue  # the one before was its evidence
            self.gone(buffer.id)

    @rule(which=_WHICH)
    def evict_any(self, which: int) -> None:
        id = self.pick(which)
        try:
            self.buffers.evict(id)
        except _REFUSED:
            return
        self.gone(id)

    @rule(which=_WHICH)
    def freed(self, which: int) -> None:
        try:
            self.buffers.freed(self.pick(which))
        except _REFUSED:
            return

    @invariant()
    def space_is_counted(self) -> None:
        held_bytes, held_inodes = self.world.held()
        assert held_bytes <= CAPACITY
        assert held_inodes <= INODES

    @invariant()
    def states_are_those_promised(self) -> None:
        every = {b.id: b for b in self.buffers.list(states=ALL)}
        assert every.keys() == self.known.keys()
        for id, known in self.known.items():
            buffer = every[id]
            assert (buffer.state in LIVE) == (not known.over)
            if not known.over:
                assert set(buffer.evidence) == known.copies
                assert buffer.is_spare == (bool(known.copies) or not known.written)
                assert {lease.user: lease.expires_ns for lease in buffer.leases} == known.leases
        live = [b.content for b in every.values() if b.state in LIVE and b.content]
        assert len(live) == len(set(live))
        assert {s.buffer.id for s in self.buffers.unfinished()} == {
            b.id for b in every.values() if b.state in HOLDING - LIVE
        }


def run_histories(fresh: Callable[[ExitStack], World], examples: int = 40) -> None:
    """Try random histories, each in a world of its own."""
    machine = type("FreshHistory", (History,), {"fresh": staticmethod(fresh)})
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    run_state_machine_as_test(
        machine,
        settings=settings(max_examples=examples, stateful_step_count=40, deadline=None, suppress_health_check=checks),
    )
