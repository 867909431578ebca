"""Buffers: leases of space and inodes on a storage, ephemeral by definition.  Rules are numbered in `specs/buffer.md`;
the suite that proves them is `dls.logistics.testing.contract_buffer`.

    reserved ──► filling ◄──► ready         any of the three ──► lost      (found missing; space given back)
        └───────────┴───────────┴──► freeing ──► freed

A buffer is clean while evidence of another verified copy stands, else dirty; written bytes of a dirty buffer are never
freed: the one statement that begins to free (`freeing.begin`) holds that promise.  Space is given back at `freed`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable

from dls.logistics import duration, freeing, ids, lease, names, space, url
from dls.logistics.actor import Actor
from dls.logistics.database import Database
from dls.logistics.errors import Conflict, Invalid, Unavailable
from dls.logistics.freeing import free
from dls.logistics.lease import (
    ALL,
    BY_CONTENT,
    BY_ID,
    BY_SITE,
    HOLDING,
    LIVE,
    MIGRATIONS,
    Buffer,
    Contents,
    Freeing,
    Lease,
    State,
    by_site,
    select,
)
from dls.logistics.site import SYSTEM, Sites
from dls.logistics.space import Room, allocated

__all__ = ["ALL", "HOLDING", "LIVE", "Buffer", "Buffers", "Contents", "Freeing", "Lease", "State", "allocated", "free"]


class Buffers:
    """The buffers of every storage.  Each verb is one transaction, with its events."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.sites = Sites(database)
        database.migrate("buffer", MIGRATIONS)

    # ------------------------------------------------------------------------------------------- looking

    def open(self, id: str) -> Buffer:
        """The buffer, in whatever state; NotFound."""
        found = select(self._database, BY_ID, (id,))
        return found[0] if found else lease.missing(id)

    def find(self, storage: str, content: bytes) -> Buffer | None:
        """The live buffer that holds, or will hold, this content there."""
        found = select(self._database, BY_CONTENT, (self.sites.get(storage).id, content))
        return found[0] if found else None

    def list(self, site: str = "", *, states: Iterable[State] = HOLDING) -> tuple[Buffer, ...]:
        """Buffers, oldest first: everywhere, of one site, or of one storage `SITE/NAME`."""
        wanted = frozenset(states)
        found = select(self._database, BY_SITE, by_site(site, ended=not wanted <= HOLDING))
        return tuple(buffer for buffer in found if buffer.state in wanted)

    def room(self, storage: str) -> Room:
        """What buffers hold of a storage, and what is free."""
        return space.room(self._database, self.sites.get(storage))

    # ----------------------------------------------------------------------------------------- reserving

    def reserve(
        self,
        storage: str,
        *,
        content: bytes,
        label: str,
        bytes: int,
        inodes: int,
        user: str,
        actor: Actor,
        lifetime_s: int | None = None,
        project: str = "local",
    ) -> Buffer:
        """Lease space, or join the live buffer of the same content there (`shared`; takes no space).

        `content` is b'' for what a job will write.  Unavailable `no-space-in-buffer` where it does not fit."""
        place = self.sites.get(storage)
        if bytes < 0 or inodes < 0:
            raise Invalid(f"a buffer of {bytes} bytes and {inodes} inodes", code="bad-size")
        if not user:
            raise Invalid("a lease needs a user: an actor's name or a run id", code="bad-user")
        lifetime_s = _lifetime(place.lifetime_s if lifetime_s is None else lifetime_s)
        with self._database.transaction() as tx:
            expires_ns = tx.now_ns + lifetime_s * 1_000_000_000
            there = select(tx, BY_CONTENT, (place.id, content))
            if there:
                return lease.share(tx, there[0], user, expires_ns, actor)
            if not space.take(tx, place.id, bytes, inodes):
                raise space.refused(place, space.room(tx, place), bytes, inodes, lease.soonest(tx, place.id))
            id = ids.ulid()
            tx.run(
                "INSERT INTO buffers (id, storage, root, epoch, content, label, state, contents, why, reserved_bytes,"
                " reserved_inodes, used_bytes, used_inodes, project, owner, created_ns, warned_ns)"
                " VALUES (?, ?, ?, 1, ?, ?, 'reserved', 'dirty', 'no other copy is known', ?, ?, 0, 0, ?, ?, ?, 0)",
                (id, place.id, _root(label, id), content, label, bytes, inodes, project, actor.name, tx.now_ns),
            )
            lease.grant(tx, id, user, expires_ns)
            lease.tell(tx, "buffer.reserved", id, actor.name, storage=place.id, bytes=bytes, inodes=inodes, user=user)
            return lease.get(tx, id)

    def filling(self, id: str, *, by: str = SYSTEM) -> Buffer:
        """Say that bytes are about to be written, before the first of them."""
        with self._database.transaction() as tx:
            buffer = lease.live(tx, id)
            if buffer.state is State.FILLING:
                return buffer
            if buffer.state is State.READY:
                freeing.revoke(tx, freeing.OWN + id, f"buffer {id} is being written again", by)
            lease.set_state(tx, id, State.FILLING)
            lease.tell(tx, "buffer.filling", id, by)
            return lease.get(tx, id)

    def settle(self, id: str, used_bytes: int, used_inodes: int, *, by: str = SYSTEM) -> Buffer:
        """Count what it really holds (allocated bytes) instead of what was asked for; it is ready.

        More than asked for is taken under the same condition; where that is not free, Unavailable `buffer-overfull`:
        the measure is recorded, bytes, leases and reservation stay as they are, and settling can be tried again."""
        with self._database.transaction() as tx:
            buffer = lease.live(tx, id)
            if buffer.state is State.RESERVED:
                raise lease.wrong_state(buffer, "nothing was written into it yet")
            more = (used_bytes - buffer.reserved_bytes, used_inodes - buffer.reserved_inodes)
            fits = space.take(tx, buffer.storage, *more)
            tx.run("UPDATE buffers SET used_bytes = ?, used_inodes = ? WHERE id = ?", (used_bytes, used_inodes, id))
            if fits:
                tx.run(
                    "UPDATE buffers SET reserved_bytes = used_bytes, reserved_inodes = used_inodes WHERE id = ?", (id,)
                )
                lease.set_state(tx, id, State.READY)
            kind = "buffer.ready" if fits else "buffer.overfull"
            lease.tell(tx, kind, id, by, used_bytes=used_bytes, used_inodes=used_inodes)
            after = lease.get(tx, id)
        if not fits:
            raise _overfull(after)
        return after

    # ------------------------------------------------------------------------------------ clean and dirty

    def mark_clean(self, id: str, evidence: str, why: str = "", *, by: str = SYSTEM) -> Buffer:
        """Record that another verified copy of all its bytes exists; `evidence` names it: `replica:ID`, `buffer:ID`."""
        if not evidence or evidence == freeing.OWN + id:
            raise Invalid(f"no evidence of another copy: {evidence or '(empty)'}", code="bad-evidence", buffer=id)
        with self._database.transaction() as tx:
            lease.live(tx, id)
            other = evidence.removeprefix(freeing.OWN) if evidence.startswith(freeing.OWN) else ""
            if other and lease.get(tx, other).state is not State.READY:
                raise Conflict(f"{evidence} holds no complete copy", code="no-evidence", buffer=id, evidence=evidence)
            tx.run("INSERT INTO buffer_evidence (buffer, ref) VALUES (?, ?) ON CONFLICT DO NOTHING", (id, evidence))
            said = why or f"verified copy: {evidence}"
            tx.run("UPDATE buffers SET contents = 'clean', why = ? WHERE id = ?", (said, id))
            lease.tell(tx, "buffer.clean", id, by, evidence=evidence)
            return lease.get(tx, id)

    def mark_dirty(self, id: str, reason: str, *, changed: bool = False, by: str = SYSTEM) -> Buffer:
        """No other copy counts any more.  `changed`: its bytes are no longer `content` either, so it is not shared."""
        with self._database.transaction() as tx:
            lease.live(tx, id)
            freeing.dirty(tx, id, reason, by)
            if changed:
                tx.run("UPDATE buffers SET content = ? WHERE id = ?", (b"", id))
                freeing.revoke(tx, freeing.OWN + id, f"buffer {id} was changed", by)
            return lease.get(tx, id)

    def revoke(self, evidence: str, *, by: str = SYSTEM) -> tuple[Buffer, ...]:
        """Withdraw evidence, before the copy that it names goes; returns the buffers that are dirty through it."""
        with self._database.transaction() as tx:
            bare = freeing.revoke(tx, evidence, f"{evidence} was withdrawn", by)
            return tuple(lease.get(tx, id) for id in bare)

    # --------------------------------------------------------------------------------------------- leases

    def renew(self, id: str, user: str, lifetime_s: int, *, by: str = "") -> Buffer:
        """The user's lease ends `lifetime_s` from now, sooner or later than before."""
        lifetime_s = _lifetime(lifetime_s)
        with self._database.transaction() as tx:
            buffer = lease.live(tx, id)
            expires_ns = tx.now_ns + lifetime_s * 1_000_000_000
            sql = 'UPDATE buffer_leases SET expires_ns = ? WHERE buffer = ? AND "user" = ?'
            if not tx.run(sql, (expires_ns, id, user)):
                raise lease.no_lease(buffer, user)
            lease.tell(tx, "buffer.renewed", id, by or user, user=user, lifetime_s=lifetime_s)
            return lease.get(tx, id)

    def pin(self, id: str, user: str, pinned: bool = True, *, by: str = "") -> Buffer:
        """Keep the buffer beyond the end of the user's lease, or no longer."""
        with self._database.transaction() as tx:
            buffer = lease.live(tx, id)
            sql = 'UPDATE buffer_leases SET pinned = ? WHERE buffer = ? AND "user" = ?'
            if not tx.run(sql, (int(pinned), id, user)):
                raise lease.no_lease(buffer, user)
            lease.tell(tx, "buffer.pinned" if pinned else "buffer.unpinned", id, by or user, user=user)
            return lease.get(tx, id)

    def release(self, id: str, user: str, *, by: str = "") -> Freeing | None:
        """Drop the user's lease.  With the last one the buffer is to be freed by the caller; None while others hold it.

        Conflict `buffer-dirty`, and nothing changed, where that would lose bytes."""
        with self._database.transaction() as tx:
            buffer = lease.get(tx, id)
            if buffer.state is State.FREEING:
                return Freeing(buffer)  # asked again after a crash
            buffer = lease.live(tx, id)
            if not tx.run('DELETE FROM buffer_leases WHERE buffer = ? AND "user" = ?', (id, user)):
                raise lease.no_lease(buffer, user)
            if lease.get(tx, id).is_held(tx.now_ns):
                lease.tell(tx, "buffer.left", id, by or user, user=user)
                return None
            step = freeing.begin(tx, id, by or user, "released")
            if step is None:
                raise self._unsaved(buffer)
            return step

    # -------------------------------------------------------------------------------------------- freeing

    def expire(self, site: str = "", *, by: str = SYSTEM) -> tuple[Freeing, ...]:
        """Begin to free every buffer that nobody holds any more; warn once per expiry of those with unsaved bytes."""
        steps = []
        with self._database.transaction() as tx:
            for buffer in lease.idle(tx, site):
                step = freeing.begin(tx, buffer.id, by, "expired")
                if step:
                    steps.append(step)
                elif tx.run(
                    "UPDATE buffers SET warned_ns = ? WHERE id = ? AND warned_ns <> ?",
                    (buffer.expires_ns, buffer.id, buffer.expires_ns),
                ):
                    lease.tell(tx, "buffer.unsaved", buffer.id, by, expired=buffer.expires, owner=buffer.owner)
        return tuple(steps)

    def candidates(self, storage: str, want_bytes: int, want_inodes: int = 0) -> tuple[Buffer, ...]:
        """The fewest unheld spare buffers, longest expired first, that together hold this much; all where too few."""
        chosen = []
        with self._database.transaction() as tx:
            for buffer in sorted(lease.idle(tx, self.sites.get(storage).id), key=lambda b: (b.expires_ns, b.id)):
                if want_bytes <= 0 and want_inodes <= 0:
                    break
                if buffer.is_spare:
                    chosen.append(buffer)
                    want_bytes -= buffer.reserved_bytes
                    want_inodes -= buffer.reserved_inodes
        return tuple(chosen)

    def evict(self, id: str, *, by: str = SYSTEM) -> Freeing:
        """Begin to free one candidate; Conflict where it is held again or no longer spare."""
        with self._database.transaction() as tx:
            buffer = lease.live(tx, id)
            step = freeing.begin(tx, id, by, "evicted")
            if step is None:
                raise lease.wrong_state(buffer, "it is held") if buffer.is_held(tx.now_ns) else self._unsaved(buffer)
            return step

    def unfinished(self, site: str = "") -> tuple[Freeing, ...]:
        """Buffers whose freeing a crash may have interrupted: `free` and `freed` again."""
        return tuple(Freeing(buffer) for buffer in self.list(site, states={State.FREEING}))

    def freed(self, id: str, *, by: str = SYSTEM) -> Buffer:
        """The bytes are gone: give the space back.  Idempotent."""
        with self._database.transaction() as tx:
            buffer = lease.get(tx, id)
            if buffer.state is State.FREED:
                return buffer
            if buffer.state is not State.FREEING:
                raise lease.wrong_state(buffer, "its freeing was not begun")
            return freeing.end(tx, buffer, State.FREED, by, bytes=buffer.reserved_bytes, inodes=buffer.reserved_inodes)

    def lost(self, id: str, reason: str, *, by: str = SYSTEM) -> Buffer:
        """The bytes were found missing, purged or broken by others: give the space back and say so."""
        with self._database.transaction() as tx:
            buffer = lease.live(tx, id)
            freeing.revoke(tx, freeing.OWN + id, f"buffer {id} was lost", by)
            return freeing.end(tx, buffer, State.LOST, by, reason=reason[:500], contents=buffer.contents.value)

    def path(self, buffer: Buffer) -> str:
        """Where the buffer is, as people type it: an absolute path, or a URL."""
        place = url.parse(self.sites.get(buffer.storage).url).below(buffer.root)
        return "/" + names.show(place.path) if place.scheme == "file" else str(place)

    def _unsaved(self, buffer: Buffer) -> Conflict:
        path = self.path(buffer)
        return Conflict(
            f"the buffer {path} holds bytes that are nowhere else ({buffer.why}); nothing was changed",
            code="buffer-dirty",
            buffer=buffer.id,
            path=path,
            remedy=f"save it first: dls stage-out {shlex.quote(path)} --to SITE --as scope:name",
        )


# ------------------------------------------------------------------------------------- names and errors


def _root(label: str, id: str) -> bytes:
    """`dls/<label>-<tail of the id>.<epoch>`, legal on any store."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", label).strip("-.")[:64] or "buffer"
    return f"dls/{plain}-{id[-10:]}.1".encode()


def _lifetime(seconds: int) -> int:
    if not 0 < seconds <= duration.LONGEST_S:
        raise Invalid(f"a lifetime of {seconds} s", code="bad-lifetime", remedy="give one such as P7D, below a century")
    return seconds


def _overfull(buffer: Buffer) -> Unavailable:
    return Unavailable(
        f"the buffer {buffer.id} holds {duration.show_size(buffer.used_bytes)} in {buffer.used_inodes} inodes, more "
        f"than was reserved, and {buffer.storage} has no space left to count it; the bytes are kept",
        code="buffer-overfull",
        buffer=buffer.id,
        site=buffer.storage,
        used_bytes=buffer.used_bytes,
        used_inodes=buffer.used_inodes,
        remedy=f"release other buffers there (dls buffer list {buffer.storage}), then run the same again",
    )
