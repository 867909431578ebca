"""Sites, their storages and the links between them, as rows, so that every worker agrees.

A site is a name; its storages are its places, each with an address, a capacity and a policy.  `SITE` alone means
`SITE/default`.  A link learns how fast it is from the transfers over it and foretells the next.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import field, fields, replace
from typing import Any

from dls.logistics import duration, event, url
from dls.logistics.database import Database, Row
from dls.logistics.entry import Kind
from dls.logistics.errors import Exists, Invalid, NotFound
from dls.logistics.event import Event
from dls.logistics.frozen import frozen
from dls.logistics.store import Keeps

DEFAULT = "default"
"""The storage that is meant where only a site is named."""
SYSTEM = "dls"
"""The actor of what the software does by itself."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z", re.ASCII)
_TIER = re.compile(r"[a-z][a-z0-9-]{0,31}\Z", re.ASCII)

MIGRATIONS = (
    """
    CREATE TABLE storages (
        id              TEXT PRIMARY KEY,    -- SITE/NAME
        site            TEXT NOT NULL,
        name            TEXT NOT NULL,
        url             TEXT NOT NULL,       -- canonical, without secrets
        tier            TEXT NOT NULL,
        capacity_bytes  INTEGER,             -- NULL: not limited by us
        capacity_inodes INTEGER,
        block           INTEGER NOT NULL,
        keeps           TEXT,                -- JSON, NULL: ask the store
        lifetime_s      INTEGER NOT NULL,
        policy          TEXT NOT NULL,       -- JSON: purge, windows
        origin          TEXT NOT NULL        -- the catalogue that owns this record
    );
    CREATE INDEX storages_by_site ON storages (site);
    CREATE TABLE links (
        a       TEXT NOT NULL,               -- from: a storage id, or the address of a place that is no storage
        b       TEXT NOT NULL,               -- to
        samples INTEGER NOT NULL,
        weight  REAL NOT NULL,               -- sums that fade, see Link
        bb      REAL NOT NULL,
        bf      REAL NOT NULL,
        ff      REAL NOT NULL,
        tb      REAL NOT NULL,
        tf      REAL NOT NULL,
        PRIMARY KEY (a, b)
    )
    """,
)


@frozen
class Storage:
    """One of a site's places."""

    site: str
    name: str
    url: str
    """Where it is, as `dls.logistics.url` prints it; holds no secret."""
    tier: str = "disk"
    """disk, object, tape, scratch …: a word that plans and queries may ask for."""
    capacity_bytes: int | None = None
    """What buffers may hold in sum, allocated bytes; None: no limit of ours."""
    capacity_inodes: int | None = None
    block: int = 4096
    """Grain of allocation, bytes."""
    keeps: Keeps | None = None
    """What it keeps of an entry; None: the store is asked."""
    lifetime_s: int = 7 * duration.DAY
    """Lifetime of a lease for which none is asked."""
    policy: dict[str, Any] = field(default_factory=dict, hash=False)
    """JSON of the site's own rules: purge, windows."""
    origin: str = "local"
    """The catalogue that owns this record."""

    @property
    def id(self) -> str:
        """`SITE/NAME`."""
        return f"{self.site}/{self.name}"


_FIELDS = tuple(f.name for f in fields(Storage))
_SELECT = (
    "SELECT site, name, url, tier, capacity_bytes, capacity_inodes, block, keeps, lifetime_s, policy, origin"
    " FROM storages"
)
_LINKS = "SELECT a, b, samples, weight, bb, bf, ff, tb, tf FROM links"

FADE = 0.85
"""Weight that an older observation keeps at each new one: about the last seven count."""
_BYTE_S = 1e-8
_FILE_S = 0.005
"""What we suppose of a link before it taught us: 100 MB/s and 5 ms a file."""
_STIFF = 1e-7
"""How firmly that is believed: a term supposed to take below 0.03 % of the time is not learnt from noise."""


@frozen
class Link:
    """A way between two storages, and what it taught us.

    Model: seconds = bytes · s_byte + files · s_file.  Both are fitted by least squares of the *relative* error, older
    observations fading, pulled towards the supposed values only where the data leave them open (ridge regression
    towards a prior), so one copy of one large file teaches the rate and leaves the cost of a file alone.  With
    x = bytes · _BYTE_S / seconds and y = files · _FILE_S / seconds the sums are Σx², Σxy, Σy², Σx, Σy and Σ1.
    """

    a: str
    b: str
    samples: int = 0
    weight: float = 0.0
    bb: float = 0.0
    bf: float = 0.0
    ff: float = 0.0
    tb: float = 0.0
    tf: float = 0.0

    def _fit(self) -> tuple[float, float]:
        """Multiples of the supposed seconds per byte and per file, never negative."""
        pull = _STIFF * (self.bb + self.ff) or 1.0
        bb, ff, tb, tf = self.bb + pull, self.ff + pull, self.tb + pull, self.tf + pull
        whole = bb * ff - self.bf**2
        u, v = (tb * ff - tf * self.bf) / whole, (tf * bb - tb * self.bf) / whole
        if u < 0:
            return 0.0, tf / ff
        if v < 0:
            return tb / bb, 0.0
        return u, v

    @property
    def bytes_per_s(self) -> float | None:
        """Learnt rate of large files; None before the first observation, infinite where bytes cost nothing."""
        if not self.samples:
            return None
        share = self._fit()[0]
        return 1 / (share * _BYTE_S) if share else math.inf

    @property
    def seconds_per_file(self) -> float | None:
        """Learnt cost of one more file."""
        return self._fit()[1] * _FILE_S if self.samples else None

    def estimate(self, count: int, files: int) -> tuple[float, float, float] | None:
        """Seconds for `count` bytes in `files` files: likely, low, high; None before the first observation."""
        if not self.samples:
            return None
        u, v = self._fit()
        seconds = count * _BYTE_S * u + files * _FILE_S * v
        misfit = self.weight - 2 * (u * self.tb + v * self.tf) + u * u * self.bb + 2 * u * v * self.bf + v * v * self.ff
        spread = 1.1 + 2 * math.sqrt(max(0.0, misfit) / self.weight) + 1 / self.samples
        return seconds, seconds / spread, seconds * spread


class Sites:
    """The sites that this installation knows."""

    def __init__(self, database: Database) -> None:
        self._database = database
        event.prepare(database)
        database.migrate("site", MIGRATIONS)

    def add_site(self, name: str, address: str, *, by: str = SYSTEM, **options: Any) -> Storage:
        """Make the site `name` with its storage `name/default`; `options` are the other fields of Storage."""
        return self._add(Storage(name, DEFAULT, address, **options), by)

    def add_storage(self, storage: Storage, *, by: str = SYSTEM) -> Storage:
        """Add a further storage to a known site.  The same again changes nothing; Exists where a field differs."""
        if storage.name != DEFAULT:
            self.get(storage.site)
        return self._add(storage, by)

    def _add(self, storage: Storage, by: str) -> Storage:
        storage = _checked(storage)
        with self._database.transaction() as tx:
            row = tx.one(_SELECT + " WHERE id = ?", (storage.id,))
            if row:
                _must_equal(_storage(row), storage)
                return storage
            tx.run(
                "INSERT INTO storages (id, site, name, url, tier, capacity_bytes, capacity_inodes, block, keeps,"
                " lifetime_s, policy, origin) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                _row(storage),
            )
            event.record(tx, Event("storage.added", storage.id, by, {"url": storage.url, "tier": storage.tier}))
        return storage

    def get(self, name: str) -> Storage:
        """The storage `SITE/NAME`, or `SITE/default` for `SITE`; NotFound names the known ones."""
        key = name if "/" in name else f"{name}/{DEFAULT}"
        row = self._database.one(_SELECT + " WHERE id = ?", (key,))
        if row:
            return _storage(row)
        known = [s.site if s.name == DEFAULT else s.id for s in self.all()]
        listed = f"known: {', '.join(known[:20])}{' …' if len(known) > 20 else ''}; " if known else ""
        raise NotFound(
            f"unknown site: {name[:200]}",
            code="unknown-site",
            site=name[:200],
            remedy=f"{listed}add it: dls site add NAME URL",
        )

    def all(self) -> list[Storage]:
        """Every storage, by id."""
        return [_storage(row) for row in self._database.all(_SELECT + " ORDER BY id")]

    def link(self, a: str, b: str) -> Link:
        """The way from `a` to `b` with what it taught so far."""
        row = self._database.one(_LINKS + " WHERE a = ? AND b = ?", (a, b))
        return Link(*row) if row else Link(a, b)

    def links(self) -> list[Link]:
        """Every way that taught something, by its ends."""
        return [Link(*row) for row in self._database.all(_LINKS + " ORDER BY a, b")]

    def observe(self, link: Link, count: int, files: int, seconds: float) -> None:
        """Learn from one transfer: `count` bytes in `files` files took `seconds`.  One statement: no sample is lost."""
        if seconds <= 0 or count < 0 or files < 0 or not (count or files):
            return  # nothing moved teaches nothing
        x, y = count * _BYTE_S / seconds, files * _FILE_S / seconds
        with self._database.transaction() as tx:
            tx.run(
                "INSERT INTO links (a, b, samples, weight, bb, bf, ff, tb, tf) VALUES (?, ?, 1, 1, ?, ?, ?, ?, ?)"
                " ON CONFLICT (a, b) DO UPDATE SET samples = links.samples + 1,"
                " weight = links.weight * ? + 1, bb = links.bb * ? + excluded.bb, bf = links.bf * ? + excluded.bf,"
                " ff = links.ff * ? + excluded.ff, tb = links.tb * ? + excluded.tb, tf = links.tf * ? + excluded.tf",
                (link.a, link.b, x * x, x * y, y * y, x, y, *[FADE] * 6),
            )

    def estimate(self, link: Link, count: int, files: int) -> tuple[float, float, float] | None:
        """Seconds that `count` bytes in `files` files will take: likely, low, high; None where nothing was learnt."""
        return self.link(link.a, link.b).estimate(count, files)


def _checked(storage: Storage) -> Storage:
    """The storage with a canonical address; Invalid before anything is touched."""
    for name in (storage.site, storage.name):
        if not _NAME.match(name):
            raise Invalid(
                f"not a name of a site or storage: {name[:100]!r}",
                code="bad-site-name",
                remedy="use letters, digits and - _ . (at most 64), beginning with a letter or digit",
            )
    if not _TIER.match(storage.tier):
        raise Invalid(f"not a tier: {storage.tier[:100]!r}", code="bad-tier", remedy="a word such as disk or tape")
    for name, least in (("capacity_bytes", 0), ("capacity_inodes", 0), ("block", 1), ("lifetime_s", 1)):
        value = getattr(storage, name)
        if value is not None and not least <= value <= duration.LARGEST:
            raise Invalid(f"{name} of {storage.id} is {value}", code="bad-limit", remedy=f"give at least {least}")
    try:
        policy = json.loads(json.dumps(storage.policy))
    except (TypeError, ValueError) as exc:
        raise Invalid(f"the policy of {storage.id} is no JSON: {exc}", code="bad-policy") from exc
    return replace(storage, url=str(url.parse(storage.url)), policy=policy)


def _must_equal(there: Storage, asked: Storage) -> None:
    differ = [name for name in _FIELDS if getattr(there, name) != getattr(asked, name)]
    if differ:
        said = "; ".join(f"{n} is {_shown(there, n)}, asked {_shown(asked, n)}" for n in differ)
        raise Exists(
            f"{asked.id} is already there, with another {', '.join(differ)}",
            code="site-differs",
            site=asked.id,
            differ=differ,
            remedy=f"{said}: repeat the values that are there, or choose another name",
        )


def _shown(storage: Storage, name: str) -> str:
    value = getattr(storage, name)
    if value is None:
        return "not set"
    return duration.write_size(value) if name == "capacity_bytes" else str(value)


def _row(storage: Storage) -> tuple[Any, ...]:
    values = {name: getattr(storage, name) for name in _FIELDS}
    values["policy"] = json.dumps(storage.policy, sort_keys=True)
    if storage.keeps is not None:
        kept = storage.keeps
        kinds = sorted(Kind(kind).name.lower() for kind in kept.kinds)
        flags = {"modes": kept.modes, "mtimes": kept.mtimes, "hardlinks": kept.hardlinks}
        values["keeps"] = json.dumps({"kinds": kinds, **flags})
    return (storage.id, *(values[name] for name in _FIELDS))


def _storage(row: Row) -> Storage:
    values = dict(zip(_FIELDS, row, strict=True))
    values["policy"] = json.loads(values["policy"])
    if values["keeps"] is not None:
        kept = json.loads(values["keeps"])
        values["keeps"] = Keeps(**{**kept, "kinds": frozenset(int(Kind[k.upper()]) for k in kept["kinds"])})
    return Storage(**values)
