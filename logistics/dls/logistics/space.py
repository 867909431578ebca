"""How much of a storage is promised to buffers: one counter per storage, behind every reservation.

All growth goes through one conditional UPDATE of one row, so that reservations made at the same time, by any number
of processes, never exceed the capacity.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from dls.logistics.database import Row, Tx, Values
from dls.logistics.duration import LARGEST, show_size
from dls.logistics.errors import Unavailable
from dls.logistics.frozen import frozen
from dls.logistics.site import Storage

TABLE = """
    CREATE TABLE buffer_space (
        storage TEXT PRIMARY KEY,
        bytes   INTEGER NOT NULL CHECK (bytes >= 0),    -- sum over the buffers that hold space there
        inodes  INTEGER NOT NULL CHECK (inodes >= 0)
    )
"""


def allocated(size: int, block: int) -> int:
    """Bytes that a file of `size` takes where space is given out in blocks; an empty file takes an inode only."""
    return -(-size // block) * block if block > 1 else size


@frozen
class Room:
    """What buffers hold of a storage, and what is left; None: no limit."""

    held_bytes: int
    held_inodes: int
    free_bytes: int | None
    free_inodes: int | None


class Reader(Protocol):
    """A database or a transaction."""

    def all(self, sql: str, values: Values = ()) -> Sequence[Row]: ...
    def one(self, sql: str, values: Values = ()) -> Row | None: ...


def take(tx: Tx, storage: str, count: int, inodes: int) -> bool:
    """Promise so much more (or less, where negative) of a storage; False, and nothing changed, where it is not free.

    The capacity is read in the same statement: it may have been lowered meanwhile.  Giving back always succeeds."""
    tx.run("INSERT INTO buffer_space (storage, bytes, inodes) VALUES (?, 0, 0) ON CONFLICT DO NOTHING", (storage,))
    changed = tx.run(
        "UPDATE buffer_space SET bytes = bytes + ?, inodes = inodes + ? WHERE storage = ?"
        " AND (? <= 0 OR bytes + ? <= COALESCE((SELECT capacity_bytes FROM storages WHERE id = storage), ?))"
        " AND (? <= 0 OR inodes + ? <= COALESCE((SELECT capacity_inodes FROM storages WHERE id = storage), ?))",
        (count, inodes, storage, count, count, LARGEST // 2, inodes, inodes, LARGEST // 2),
    )
    return changed == 1


def room(reader: Reader, storage: Storage) -> Room:
    """What is held and free now."""
    held = reader.one("SELECT bytes, inodes FROM buffer_space WHERE storage = ?", (storage.id,)) or (0, 0)
    free = [
        None if limit is None else max(0, limit - have)
        for limit, have in zip((storage.capacity_bytes, storage.capacity_inodes), held, strict=True)
    ]
    return Room(held[0], held[1], free[0], free[1])


def refused(storage: Storage, there: Room, count: int, inodes: int, soonest: str) -> Unavailable:
    """The error of a reservation that does not fit; `soonest` is when the next lease there ends, ISO 8601, or ''."""
    over = [
        limit is not None and need > limit
        for need, limit in ((count, storage.capacity_bytes), (inodes, storage.capacity_inodes))
    ]
    if any(over):
        remedy = "it is larger than the whole storage: choose another site, or register a part of it by itself"
    else:
        when = f" (the next lease ends {soonest})" if soonest else ""
        remedy = (
            f"release a buffer (dls buffer list, dls buffer release), renew one for a shorter time{when}, "
            "or choose another site with --to"
        )
    lacks = []
    if there.free_bytes is not None and count > there.free_bytes:
        lacks.append(f"{show_size(count)} needed, {show_size(there.free_bytes)} free")
    if there.free_inodes is not None and inodes > there.free_inodes:
        lacks.append(f"{inodes} inodes needed, {there.free_inodes} free")
    return Unavailable(
        f"no space for the buffer on {storage.id}: {'; '.join(lacks)}",
        code="no-space-in-buffer",
        site=storage.id,
        needed_bytes=count,
        needed_inodes=inodes,
        free_bytes=there.free_bytes,
        free_inodes=there.free_inodes,
        soonest_expiry=soonest or None,
        remedy=remedy,
    )
