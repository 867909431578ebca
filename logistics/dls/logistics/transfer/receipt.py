"""Receipts: our own evidence that what lies at a place is what was wanted, one per segment.

A place is a store's URL and a root; what is wanted is named by its content digest, or by its source where it is not
hashed yet.  A receipt ties ordinals of one segment to the stamps that their proven bytes had.  A stamp that differs
now proves nothing, and a receipt that was not synced before a reboot proves nothing either: then bytes are hashed.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import Protocol

from dls.logistics import digest as digests
from dls.logistics.database import Database
from dls.logistics.errors import Corrupt
from dls.logistics.frozen import frozen
from dls.logistics.manifest import Bitmap


@frozen
class Place:
    """Where, and what is wanted there: the key of all evidence."""

    where: str
    """URL of the root."""
    wanted: str
    """`blake3:…` of the content, or `from:<url>` while it is not hashed."""

    @property
    def id(self) -> str:
        """32 hexadecimal digits; names hidden folders and logs, the same in every run that wants the same there."""
        return digests.of(f"{self.where}\n{self.wanted}".encode("utf-8", "surrogateescape")).hex()[:32]


@frozen
class Receipt:
    """Evidence for one segment."""

    segment: bytes
    """Digest of the segment as wanted, 32 bytes: evidence for another segment is none."""
    done: Bitmap
    """Ordinals whose bytes were proven."""
    stamps: Sequence[bytes]
    """Their stamps, b'' elsewhere."""
    boot: str
    """The boot during which it was written, or '' where the bytes were synced first."""
    body: bytes = b""
    """The encoded segment with the digests that were found, where they were not known before."""
    sources: Sequence[bytes] = ()
    """Stamps of the sources that were read, where digests were not known before."""


class Receipts(Protocol):
    """Where receipts are kept."""

    def get(self, place: Place, segment: bytes) -> Receipt | None:
        """The receipt of one segment, by its digest as wanted."""
        ...

    def put(self, place: Place, receipt: Receipt) -> None:
        """Record one; to last over a power cut only where its bytes do (`boot` is '')."""
        ...

    def drop(self, place: Place) -> None:
        """Forget all evidence for a place."""
        ...


def encode_stamps(stamps: Sequence[bytes]) -> bytes:
    """Stamps joined: equal lengths (and absent ones) as a table, others with a length each; deflated."""
    lengths = set(map(len, stamps)) - {0}
    if len(lengths) <= 1:
        width = lengths.pop() if lengths else 0
        blank = bytes(width)
        data = struct.pack("<BI", 0, width) + b"".join(s or blank for s in stamps)
    else:
        data = struct.pack("<BI", 1, len(stamps)) + b"".join(struct.pack("<H", len(s)) + s for s in stamps)
    return zlib.compress(data, 1)


def decode_stamps(data: bytes, count: int) -> list[bytes]:
    """What `encode_stamps` wrote."""
    try:
        data = zlib.decompress(data)
        form, width = struct.unpack_from("<BI", data)
        at, out = 5, list[bytes]()
        if form == 0:
            if len(data) != at + width * count:
                raise Corrupt(f"{len(data)} bytes of stamps for {count} entries", code="state-damaged")
            blank = bytes(width)
            out = [data[k : k + width] for k in range(at, at + width * count, width)] if width else [b""] * count
            if blank in out:
                out = [b"" if s == blank else s for s in out]
        else:
            if width != count:
                raise Corrupt(f"{width} stamps, expected {count}", code="state-damaged")
            for _ in range(count):
                (length,) = struct.unpack_from("<H", data, at)
                out.append(data[at + 2 : at + 2 + length])
                at += 2 + length
    except (zlib.error, struct.error) as exc:
        raise Corrupt(f"damaged stamps: {exc}", code="state-damaged") from exc
    return out


class MemoryReceipts:
    """Receipts that end with the process: for tests and libraries."""

    def __init__(self) -> None:
        self._kept: dict[tuple[Place, bytes], Receipt] = {}

    def get(self, place: Place, segment: bytes) -> Receipt | None:
        """The receipt of one segment, by its digest as wanted."""
        return self._kept.get((place, segment))

    def put(self, place: Place, receipt: Receipt) -> None:
        """Record one."""
        self._kept[place, receipt.segment] = receipt

    def drop(self, place: Place) -> None:
        """Forget them."""
        for key in [k for k in self._kept if k[0] == place]:
            del self._kept[key]


MIGRATIONS = (
    """
    CREATE TABLE receipts (
        place   TEXT NOT NULL,           -- Place.id
        segment BLOB NOT NULL,           -- digest of the segment as wanted, 32 bytes
        entries INTEGER NOT NULL,        -- how many ordinals
        done    BLOB NOT NULL,           -- bitmap over the ordinals
        stamps  BLOB NOT NULL,           -- of what lies at the place
        boot    TEXT NOT NULL,           -- '' where the bytes were synced before this was written
        body    BLOB NOT NULL,           -- encoded segment with digests found, or empty
        sources BLOB NOT NULL,           -- stamps of what was read, or empty
        PRIMARY KEY (place, segment)
    ) WITHOUT ROWID
    """,
)


class SqlReceipts:
    """Receipts in our state."""

    def __init__(self, database: Database) -> None:
        self._database = database
        database.migrate("receipt", MIGRATIONS)

    def get(self, place: Place, segment: bytes) -> Receipt | None:
        """The receipt of one segment, by its digest as wanted."""
        row = self._database.one(
            "SELECT entries, done, stamps, boot, body, sources FROM receipts WHERE place = ? AND segment = ?",
            (place.id, segment),
        )
        if row is None:
            return None
        count, done, stamps, boot, body, sources = row
        found = decode_stamps(sources, count) if sources else ()
        return Receipt(segment, Bitmap(count, done), decode_stamps(stamps, count), boot, body, found)

    def put(self, place: Place, receipt: Receipt) -> None:
        """Record one."""
        row = (
            place.id,
            receipt.segment,
            receipt.done.count,
            receipt.done.encode(),
            encode_stamps(receipt.stamps),
            receipt.boot,
            receipt.body,
            encode_stamps(receipt.sources) if receipt.sources else b"",
        )
        # A sync of our state drags along every byte that was just copied to the same disk (20,000 files: 7 s instead of
        # 0.6).  Where the bytes are not to last, their receipt need not: a later sync takes it along.
        with self._database.transaction(lasting=not receipt.boot) as tx:
            tx.run(
                "INSERT INTO receipts (place, segment, entries, done, stamps, boot, body, sources)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (place, segment) DO UPDATE SET"
                " entries = excluded.entries, done = excluded.done, stamps = excluded.stamps, boot = excluded.boot,"
                " body = excluded.body, sources = excluded.sources",
                row,
            )

    def drop(self, place: Place) -> None:
        """Forget them."""
        with self._database.transaction() as tx:
            tx.run("DELETE FROM receipts WHERE place = ?", (place.id,))
