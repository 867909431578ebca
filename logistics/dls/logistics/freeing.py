"""What may go and how: evidence of other copies, the one statement that begins to free, removal of the bytes.

Functions that take a `Tx` are parts of the verbs of `dls.logistics.buffer`.
"""

from __future__ import annotations

from typing import Any

from dls.logistics import space
from dls.logistics.database import Tx
from dls.logistics.lease import LIVE, Buffer, Freeing, State, get, set_state, tell
from dls.logistics.store import Can, Store

_BEGIN_FREEING = """
    UPDATE buffers SET state = 'freeing', epoch = epoch + 1 WHERE id = ?
    AND (state = 'reserved' OR (state IN ('filling', 'ready') AND contents = 'clean'
         AND EXISTS (SELECT 1 FROM buffer_evidence WHERE buffer = buffers.id)))
    AND NOT EXISTS (SELECT 1 FROM buffer_leases WHERE buffer = buffers.id AND (pinned = 1 OR expires_ns > ?))
"""
OWN = "buffer:"
"""Evidence that names the copy in another buffer."""


def free(store: Store, step: Freeing) -> None:
    """Remove the bytes of a buffer being freed; `store` is opened at its storage's address.  Harmless to repeat.

    The folder disappears from its path at once, by a rename where the store has one, before the long deletion."""
    if Can.MOVE not in store.can:
        store.below(step.buffer.root).wipe()
        return
    if not store.below(step.trash).exists() and store.below(step.buffer.root).exists():
        store.move([(step.buffer.root, step.trash)])
    store.below(step.trash).wipe()


def dirty(tx: Tx, id: str, reason: str, by: str) -> None:
    """No evidence stands any more."""
    tx.run("DELETE FROM buffer_evidence WHERE buffer = ?", (id,))
    tx.run("UPDATE buffers SET contents = 'dirty', why = ? WHERE id = ?", (reason[:500], id))
    tell(tx, "buffer.dirty", id, by, reason=reason[:500])


def revoke(tx: Tx, evidence: str, reason: str, by: str) -> list[str]:
    """Withdraw evidence; returns the live buffers that are dirty through it."""
    resting = [id for (id,) in tx.all("SELECT buffer FROM buffer_evidence WHERE ref = ? ORDER BY buffer", (evidence,))]
    tx.run("DELETE FROM buffer_evidence WHERE ref = ?", (evidence,))
    bare = [b for b in (get(tx, id) for id in resting) if not b.evidence and b.state in LIVE]
    for buffer in bare:
        dirty(tx, buffer.id, reason, by)
    return [buffer.id for buffer in bare]


def begin(tx: Tx, id: str, by: str, cause: str) -> Freeing | None:
    """Decide to free it, by one statement; None where it is held, or where bytes would be lost."""
    if not tx.run(_BEGIN_FREEING, (id, tx.now_ns)):
        return None
    revoke(tx, OWN + id, f"buffer {id} is being freed", by)
    tell(tx, "buffer.freeing", id, by, cause=cause)
    return Freeing(get(tx, id))


def end(tx: Tx, buffer: Buffer, state: State, by: str, **said: Any) -> Buffer:
    """Give back the space of a buffer whose bytes are gone."""
    space.take(tx, buffer.storage, -buffer.reserved_bytes, -buffer.reserved_inodes)
    tx.run("UPDATE buffers SET reserved_bytes = 0, reserved_inodes = 0 WHERE id = ?", (buffer.id,))
    for table in ("DELETE FROM buffer_leases WHERE buffer = ?", "DELETE FROM buffer_evidence WHERE buffer = ?"):
        tx.run(table, (buffer.id,))
    set_state(tx, buffer.id, state)
    tell(tx, f"buffer.{state.value}", buffer.id, by, **said)
    return get(tx, buffer.id)
