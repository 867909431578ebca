"""The conformance suite of buffers and needs: the rules of `specs/buffer.md`, for any implementation.

class TestMine(BufferContract):
    @contextmanager
    def make(self, place, clock):
        yield Parts(my_buffers, my_needs, my_events)
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from dls.logistics import names
from dls.logistics.buffer import Contents, State, allocated, free
from dls.logistics.errors import Conflict, Invalid, NotFound, Unavailable
from dls.logistics.stores.memory import MemoryStore
from dls.logistics.testing.contract_buffer_history import run_histories
from dls.logistics.testing.contract_buffer_hooks import ACTOR, DAY, BufferHooks, Clock, Parts, World
from dls.logistics.testing.contract_need import NeedRules
from dls.logistics.testing.spec import spec

__all__ = ["BufferContract", "Clock", "Parts", "World"]


class SpaceRules(BufferHooks):
    """How space is promised and counted."""

    @spec("BUFFER-1")
    def test_reservations_end_at_the_capacity(self, world: World) -> None:
        world.reserve(600_000, inodes=10)
        world.reserve(400_000, inodes=90)
        assert world.held() == (1_000_000, 100)
        for size, inodes in ((1, 0), (0, 1)):
            with pytest.raises(Unavailable):
                world.reserve(size, inodes=inodes)
        assert world.reserve(0, inodes=0).state is State.RESERVED
        world.buffers.sites.add_site("endless", "memory://endless/")
        world.buffers.reserve("endless", content=b"", label="x", bytes=2**60, inodes=2**40, user="a", actor=ACTOR)

    @spec("BUFFER-2")
    def test_no_space_says_what_to_do(self, world: World) -> None:
        world.reserve(900_000, inodes=99, lifetime_s=2 * DAY)
        first = world.reserve(10, inodes=0, lifetime_s=DAY)
        error = world.unchanged(lambda: world.reserve(200_000, inodes=5), Unavailable, "no-space-in-buffer")
        assert error.facts["needed_bytes"] == 200_000
        assert error.facts["free_bytes"] == 99_990
        assert (error.facts["needed_inodes"], error.facts["free_inodes"]) == (5, 1)
        assert error.facts["soonest_expiry"] == first.expires
        assert first.expires in error.remedy
        assert all(word in error.remedy for word in ("release", "renew", "--to"))
        assert "scratch/default" in error.message
        world.buffers.filling(first.id)
        world.clock.advance(1.5 * DAY)
        error = world.unchanged(lambda: world.reserve(200_000), Unavailable, "no-space-in-buffer")
        assert error.facts["soonest_expiry"] != first.expires, (
            "that lease has ended, nothing is freed by waiting for it"
        )
        error = world.unchanged(lambda: world.reserve(2_000_000), Unavailable, "no-space-in-buffer")
        assert "larger than the whole storage" in error.remedy

    @spec("BUFFER-3")
    def test_one_content_is_one_buffer(self, world: World) -> None:
        first = world.reserve(700_000, content=b"c" * 32, user="ada")
        again = world.reserve(700_000, content=b"c" * 32, user="bob")
        assert (again.id, again.shared, first.shared) == (first.id, True, False)
        assert {lease.user for lease in again.leases} == {"ada", "bob"}
        assert world.held() == (700_000, 1)
        found = world.buffers.find("scratch", b"c" * 32)
        assert found is not None
        assert found.id == first.id
        assert world.reserve(content=b"d" * 32).id != first.id
        assert world.reserve().id != world.reserve().id, "what jobs write is never shared"
        assert world.buffers.find("scratch", b"") is None
        world.buffers.mark_clean(first.id, "replica:1")
        world.buffers.release(first.id, "ada")
        world.buffers.release(first.id, "bob")
        assert world.reserve(content=b"c" * 32).id != first.id, "one that is being freed is not joined"

    @spec("BUFFER-4")
    def test_files_take_whole_blocks(self) -> None:
        assert [allocated(size, 4096) for size in (0, 1, 4096, 4097)] == [0, 4096, 4096, 8192]
        assert allocated(5, 1) == allocated(5, 0) == 5

    @spec("BUFFER-5")
    def test_settling_counts_what_is_there(self, world: World) -> None:
        buffer = world.reserve(500_000, inodes=50)
        world.unchanged(lambda: world.buffers.settle(buffer.id, 1, 1), Conflict, "buffer-state")
        world.buffers.filling(buffer.id)
        ready = world.buffers.settle(buffer.id, 300_000, 60)
        assert (ready.state, ready.used_bytes, ready.used_inodes) == (State.READY, 300_000, 60)
        assert world.held() == (300_000, 60)
        world.reserve(600_000, inodes=0)
        world.buffers.filling(buffer.id)
        with pytest.raises(Unavailable) as caught:
            world.buffers.settle(buffer.id, 500_000, 60)
        assert caught.value.code == "buffer-overfull"
        after = world.buffers.open(buffer.id)
        assert (after.state, after.reserved_bytes, after.used_bytes) == (State.FILLING, 300_000, 500_000)
        assert after.leases == ready.leases
        assert world.held() == (900_000, 60)
        assert world.told()["buffer.overfull"] == 1
        assert world.buffers.settle(buffer.id, 400_000, 60).state is State.READY
        assert world.held() == (1_000_000, 60)

    @spec("BUFFER-6")
    def test_paths_are_legal_and_never_used_twice(self, world: World) -> None:
        seen = set()
        labels = ["plain", "scope:näme/..\\x\n%00", "", ".dls-trash", "..", "x" * 300, "plain"]
        for label in labels:
            buffer = world.buffers.reserve(
                "scratch", content=b"", label=label, bytes=1, inodes=1, user="u", actor=ACTOR
            )
            assert names.check(buffer.root) == buffer.root
            assert buffer.root.isascii()
            assert max(map(len, buffer.root.split(b"/"))) <= 100
            assert buffer.root.endswith(f".{buffer.epoch}".encode())
            step = world.buffers.release(buffer.id, "u")
            assert step is not None
            assert step.buffer.epoch > buffer.epoch
            world.buffers.freed(buffer.id)
            seen.add(buffer.root)
        assert len(seen) == len(labels)


class SavedRules(BufferHooks):
    """What is clean, what is dirty, and what may therefore go."""

    @spec("BUFFER-7")
    def test_clean_rests_on_evidence(self, world: World) -> None:
        buffer, reserved = world.filled(), world.reserve()
        assert buffer.contents is reserved.contents is Contents.DIRTY
        clean = world.buffers.mark_clean(buffer.id, "replica:1")
        assert (clean.contents, clean.evidence) == (Contents.CLEAN, ("replica:1",))
        assert "replica:1" in clean.why
        for evidence in ("", f"buffer:{buffer.id}"):
            world.unchanged(lambda e=evidence: world.buffers.mark_clean(buffer.id, e), Invalid, "bad-evidence")  # type: ignore[misc]
        no_copy = f"buffer:{reserved.id}"
        world.unchanged(lambda: world.buffers.mark_clean(buffer.id, no_copy), Conflict, "no-evidence")
        world.unchanged(lambda: world.buffers.mark_clean(buffer.id, "buffer:none"), NotFound, "no-buffer")
        dirty = world.buffers.mark_dirty(buffer.id, "a job wrote into it")
        assert (dirty.contents, dirty.evidence, dirty.why) == (Contents.DIRTY, (), "a job wrote into it")

    @spec("BUFFER-8")
    def test_withdrawn_evidence_makes_dirty(self, world: World) -> None:
        one, two, three = (world.filled() for _ in range(3))
        for buffer in (one, two):
            world.buffers.mark_clean(buffer.id, "replica:1")
        world.buffers.mark_clean(two.id, "replica:2")
        world.buffers.mark_clean(three.id, "replica:3")
        assert [b.id for b in world.buffers.revoke("replica:1")] == [one.id]
        assert world.buffers.open(one.id).contents is Contents.DIRTY
        assert "replica:1" in world.buffers.open(one.id).why
        assert world.buffers.open(two.id).contents is world.buffers.open(three.id).contents is Contents.CLEAN
        assert [b.id for b in world.buffers.revoke("replica:2")] == [two.id]
        assert world.buffers.revoke("replica:2") == ()

    @spec("BUFFER-9")
    @pytest.mark.parametrize("state", [State.FILLING, State.READY])
    def test_unsaved_bytes_are_never_freed(self, world: World, state: State) -> None:
        buffer = world.filled() if state is State.READY else world.buffers.filling(world.reserve().id)
        error = world.unchanged(lambda: world.buffers.release(buffer.id, "ada"), Conflict, "buffer-dirty")
        path = world.buffers.path(buffer)
        assert path.endswith(buffer.root.decode())
        assert f"dls stage-out {path} --to SITE --as scope:name" in error.remedy
        world.clock.advance(100 * DAY)
        assert world.buffers.expire() == ()
        assert world.buffers.candidates("scratch", 10**9) == ()
        world.unchanged(lambda: world.buffers.evict(buffer.id), Conflict, "buffer-dirty")
        world.unchanged(lambda: world.buffers.release(buffer.id, "ada"), Conflict, "buffer-dirty")
        world.unchanged(lambda: world.buffers.freed(buffer.id), Conflict, "buffer-state")
        world.buffers.mark_clean(buffer.id, "replica:1")
        world.buffers.revoke("replica:1")
        assert world.buffers.expire() == ()
        world.buffers.mark_clean(buffer.id, "replica:2")
        assert [s.buffer.id for s in world.buffers.expire()] == [buffer.id]

    @spec("BUFFER-10")
    def test_expired_unsaved_bytes_are_told_of_once(self, world: World) -> None:
        buffer = world.filled(lifetime_s=DAY)
        for expiry in (1, 2):
            world.clock.advance(2 * DAY)
            world.buffers.expire()
            world.buffers.expire()
            assert world.told()["buffer.unsaved"] == expiry
            world.buffers.renew(buffer.id, "ada", DAY)
            world.buffers.expire()
            assert world.told()["buffer.unsaved"] == expiry

    @spec("BUFFER-11")
    def test_nothing_written_may_go(self, world: World) -> None:
        one, two, three = world.reserve(), world.reserve(lifetime_s=DAY), world.reserve(lifetime_s=DAY)
        assert world.buffers.release(one.id, "ada") is not None
        world.clock.advance(2 * DAY)
        world.buffers.filling(three.id)
        assert [s.buffer.id for s in world.buffers.expire()] == [two.id]
        with pytest.raises(Conflict):
            world.buffers.filling(two.id)

    @spec("BUFFER-15")
    @pytest.mark.parametrize("end", ["release", "expire", "lost", "changed", "written again"])
    def test_copies_that_vouch_for_each_other_do_not_both_go(self, world: World, end: str) -> None:
        one, two = world.filled(lifetime_s=DAY), world.filled(lifetime_s=DAY)
        world.buffers.mark_clean(one.id, f"buffer:{two.id}")
        world.buffers.mark_clean(two.id, f"buffer:{one.id}")
        if end == "expire":
            world.clock.advance(2 * DAY)
            assert len(world.buffers.expire()) == 1
            assert [b.contents for b in world.buffers.list(states={State.READY})] == [Contents.DIRTY]
            return
        ends: dict[str, Callable[[], object]] = {
            "release": lambda: world.buffers.release(one.id, "ada"),
            "lost": lambda: world.buffers.lost(one.id, "purged by the site"),
            "changed": lambda: world.buffers.mark_dirty(one.id, "a job wrote", changed=True),
            "written again": lambda: world.buffers.filling(one.id),
        }
        ends[end]()
        world.unchanged(lambda: world.buffers.release(two.id, "ada"), Conflict, "buffer-dirty")

    @spec("BUFFER-20")
    def test_changed_bytes_are_not_shared(self, world: World) -> None:
        buffer = world.filled(content=b"c" * 32)
        world.buffers.mark_dirty(buffer.id, "its other copy was withdrawn")
        assert world.reserve(content=b"c" * 32).id == buffer.id
        world.buffers.mark_dirty(buffer.id, "a job wrote into it", changed=True)
        assert world.reserve(content=b"c" * 32).id != buffer.id


class LeaseRules(BufferHooks):
    """Who holds a buffer, until when, and how it ends."""

    @spec("BUFFER-12")
    def test_leases_and_pins_keep_a_buffer(self, world: World) -> None:
        buffer = world.reserve(lifetime_s=DAY)
        assert buffer.expires_ns == world.clock.now_ns + DAY * 10**9
        world.clock.advance(DAY - 1)
        assert world.buffers.expire() == ()
        world.buffers.renew(buffer.id, "ada", DAY)
        world.clock.advance(DAY - 1)
        assert world.buffers.expire() == ()
        world.buffers.renew(buffer.id, "ada", 10)
        world.buffers.pin(buffer.id, "ada")
        world.clock.advance(100)
        assert world.buffers.expire() == ()
        assert world.buffers.candidates("scratch", 1) == ()
        world.unchanged(lambda: world.buffers.evict(buffer.id), Conflict, "buffer-state")
        for verb in (
            lambda: world.buffers.renew(buffer.id, "eve", DAY),
            lambda: world.buffers.pin(buffer.id, "eve"),
            lambda: world.buffers.release(buffer.id, "eve"),
        ):
            assert "ada" in world.unchanged(verb, NotFound, "no-lease").remedy
        for seconds in (0, -1, 10**12):
            world.unchanged(lambda s=seconds: world.buffers.renew(buffer.id, "ada", s), Invalid, "bad-lifetime")  # type: ignore[misc]
            world.unchanged(lambda s=seconds: world.reserve(lifetime_s=s), Invalid, "bad-lifetime")  # type: ignore[misc]
        world.buffers.pin(buffer.id, "ada", False)
        assert len(world.buffers.expire()) == 1

    @spec("BUFFER-12")
    def test_joining_again_never_shortens(self, world: World) -> None:
        first = world.reserve(content=b"c", lifetime_s=9 * DAY)
        assert world.reserve(content=b"c", lifetime_s=DAY).expires_ns == first.expires_ns
        later = world.reserve(content=b"c", lifetime_s=10 * DAY)
        assert later.expires_ns > first.expires_ns
        assert len(later.leases) == 1

    @spec("BUFFER-13")
    def test_only_the_last_release_frees(self, world: World) -> None:
        buffer = world.filled(content=b"c")
        world.reserve(content=b"c", user="bob")
        assert world.buffers.release(buffer.id, "bob") is None, "dirty, but others hold it"
        world.reserve(content=b"c", user="bob", lifetime_s=DAY)
        world.reserve(content=b"c", user="cat", lifetime_s=9 * DAY)
        world.buffers.mark_clean(buffer.id, "replica:1")
        assert world.buffers.release(buffer.id, "ada") is None
        world.reserve(content=b"c", user="dan", lifetime_s=9 * DAY)
        world.clock.advance(DAY - 1)
        assert world.buffers.release(buffer.id, "dan") is None
        world.clock.advance(7 * DAY)
        world.buffers.renew(buffer.id, "bob", 1)
        world.reserve(content=b"c", user="dan")
        assert world.buffers.release(buffer.id, "cat") is None
        world.buffers.renew(buffer.id, "dan", 2)
        assert not world.buffers.expire()
        assert world.buffers.release(buffer.id, "dan") is None, "the lease of bob runs for one more second"
        world.reserve(content=b"c", user="dan")
        world.clock.advance(1)
        step = world.buffers.release(buffer.id, "dan")
        assert step is not None, "the lease of bob has ended"
        assert step.buffer.state is State.FREEING

    @spec("BUFFER-14")
    def test_freeing_survives_a_crash(self, world: World, tmp_path: Path) -> None:
        """The work stops after each operation, and is done again from the state that others see."""
        buffer = world.filled(5000, inodes=2)
        MemoryStore.forget("scratch")
        store = MemoryStore("scratch", b"data")
        for key in (b"/a", b"/b/c"):
            store.write(buffer.root + key, [b"x"])
        store.write(b"dls/else", [b"x"])
        world.buffers.mark_clean(buffer.id, "replica:1")
        step = world.buffers.release(buffer.id, "ada")
        assert step is not None
        assert (step.buffer.root, step.buffer.epoch) == (buffer.root, buffer.epoch + 1)
        assert names.is_hidden(step.trash)
        with self.make(tmp_path, world.clock) as parts:
            assert [s.buffer.id for s in parts.buffers.unfinished()] == [buffer.id]
        assert world.buffers.release(buffer.id, "ada") == step
        assert world.held() == (5000, 2), "bytes are still there"
        store.move([(buffer.root, step.trash)])  # what a crash inside `free` leaves
        for _ in range(2):
            free(store, world.buffers.unfinished()[0])
            assert [entry.path for entry in store.list()] == [b"dls/else"]
            assert not store.below(step.trash).exists()
        assert world.held() == (5000, 2)
        for _ in range(2):
            assert world.buffers.freed(buffer.id).state is State.FREED
        assert world.held() == (0, 0)
        assert world.buffers.unfinished() == ()
        assert world.told()["buffer.freed"] == 1

    @spec("BUFFER-16")
    def test_candidates_are_the_longest_expired(self, world: World) -> None:
        made = [world.filled(100_000, inodes=10, lifetime_s=n * DAY) for n in (3, 1, 2, 9)]
        dirty = world.filled(lifetime_s=1)
        for buffer in made:
            world.buffers.mark_clean(buffer.id, "replica:1")
        world.clock.advance(5 * DAY)

        def found(want: int, inodes: int = 0) -> list[int]:
            ids = [b.id for b in world.buffers.candidates("scratch", want, inodes)]
            assert dirty.id not in ids
            return [next(i for i, b in enumerate(made) if b.id == id) for id in ids]

        assert found(0) == []
        assert found(1) == [1]
        assert found(150_000) == [1, 2]
        assert found(0, 11) == [1, 2]
        assert found(10**9) == [1, 2, 0]
        world.buffers.renew(made[1].id, "ada", DAY)
        world.unchanged(lambda: world.buffers.evict(made[1].id), Conflict, "buffer-state")
        assert world.buffers.evict(made[2].id).buffer.state is State.FREEING

    @spec("BUFFER-17")
    def test_every_change_is_told(self, world: World) -> None:
        buffer = world.filled(content=b"c")
        world.reserve(content=b"c", user="bob")
        world.buffers.renew(buffer.id, "bob", DAY)
        world.buffers.pin(buffer.id, "bob")
        world.buffers.pin(buffer.id, "bob", False)
        world.buffers.release(buffer.id, "bob")
        world.buffers.mark_clean(buffer.id, "replica:1")
        world.buffers.revoke("replica:1")
        world.buffers.mark_clean(buffer.id, "replica:2", by="madpp")
        world.buffers.release(buffer.id, "ada")
        world.buffers.freed(buffer.id)
        verbs = "reserved filling ready shared renewed pinned unpinned left clean dirty clean freeing freed"
        mine = [e for e in world.events() if e.subject == buffer.id]
        assert [e.type for e in mine] == [f"buffer.{verb}" for verb in verbs.split()]
        assert [e.actor for e in mine if e.type == "buffer.clean"] == ["dls", "madpp"]
        assert mine[0].actor == ACTOR.name
        assert {e.time_ns for e in mine} == {world.clock.now_ns}

    @spec("BUFFER-18")
    @pytest.mark.parametrize("state", [State.FREEING, State.FREED, State.LOST])
    def test_what_has_ended_stays_so(self, world: World, state: State) -> None:
        buffer = world.filled()
        if state is State.LOST:
            world.buffers.lost(buffer.id, "purged")
        else:
            world.buffers.mark_clean(buffer.id, "replica:1")
            world.buffers.release(buffer.id, "ada")
        if state is State.FREED:
            world.buffers.freed(buffer.id)
        verbs: dict[str, Callable[[str], object]] = {
            "filling": world.buffers.filling,
            "settle": lambda id: world.buffers.settle(id, 1, 1),
            "mark_clean": lambda id: world.buffers.mark_clean(id, "replica:1"),
            "mark_dirty": lambda id: world.buffers.mark_dirty(id, "why"),
            "renew": lambda id: world.buffers.renew(id, "ada", 1),
            "pin": lambda id: world.buffers.pin(id, "ada"),
            "evict": world.buffers.evict,
            "lost": lambda id: world.buffers.lost(id, "why"),
            "release": lambda id: world.buffers.release(id, "ada"),
            "freed": world.buffers.freed,
        }
        again = {State.FREEING: {"release", "freed"}, State.FREED: {"freed"}}.get(state, set())
        for name, verb in verbs.items():
            if name not in again:
                world.unchanged(lambda v=verb: v(buffer.id), Conflict, "buffer-state")  # type: ignore[misc]
            world.unchanged(lambda v=verb: v("01ABSENT"), NotFound, "no-buffer")  # type: ignore[misc]
        with pytest.raises(NotFound):
            world.buffers.open("01ABSENT")
        assert world.buffers.open(buffer.id).state is state

    @spec("BUFFER-19")
    def test_lost_gives_back(self, world: World) -> None:
        buffer = world.filled(5000)
        lost = world.buffers.lost(buffer.id, "purged by the site")
        assert (lost.state, lost.leases) == (State.LOST, ())
        assert world.held() == (0, 0)
        told = [e for e in world.events() if e.type == "buffer.lost"]
        assert [e.data for e in told] == [{"contents": "dirty", "reason": "purged by the site"}]
        assert world.buffers.find("scratch", b"c") is None

    @spec("BUFFER-21")
    def test_random_histories(self, tmp_path: Path) -> None:
        numbers = iter(range(1_000_000))

        def fresh(stack: ExitStack) -> World:
            place = tmp_path / str(next(numbers))
            place.mkdir()
            clock = Clock()
            return World(stack.enter_context(self.make(place, clock)), clock)

        run_histories(fresh, self.examples)


class BufferContract(SpaceRules, SavedRules, LeaseRules, NeedRules):
    """All rules that one process can show."""
