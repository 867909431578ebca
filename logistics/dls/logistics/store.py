"""The Store contract: bytes by key in one place.  Rules are numbered in `specs/store.md`; the suite that proves them
is `dls.logistics.testing.contract`.

A store is anything with these verbs; nobody inherits from it.  Keys are legal names (`dls.logistics.names`), relative
to the store's root.  A key shows only complete bytes, except below a part opened with `below(…, staging=True)`, which
nobody else reads.  Parts of names that begin with `.dls-` are ours and are never listed.

`fetch` and `put` are the batch verbs that hot paths use: lazy pipelines over many small files whose per-file failures
are values, so that one bad file does not end a batch.  What a store cannot do is absent from `can`, and the verb
then raises Unsupported.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from typing import Any, NamedTuple, Protocol, runtime_checkable

from dls.logistics.entry import FILE, NO_MODE, NO_TIME, Entry
from dls.logistics.errors import DlsError, Invalid, Unsupported
from dls.logistics.frozen import frozen
from dls.logistics.names import Names

SMALL = 1 << 20
"""Files up to this size, bytes, travel whole through `fetch` and `put`; larger ones by `read` and `upload`."""


Stamps = list[bytes]
"""One stamp for each key asked, b'' where the key is absent."""


class Can(StrEnum):
    """What a store may be able to do beyond the verbs that all have."""

    MOVE = "move"
    """`move`: rename a key, or everything below one, atomically, never over an existing target unless told."""
    UPLOAD = "upload"
    """`upload`: write one large object by parts in any order, resumable."""
    SUMS = "sums"
    """`sums`: checksums that the place itself keeps, without reading the bytes."""
    SYNC = "sync"
    """`sync`: what was written survives a power cut afterwards (elsewhere the service promises it by itself)."""
    SPACE = "space"
    """`space`: how much is free."""
    RECALL = "recall"
    """`recall`: some keys are offline (tape, Glacier) and can be brought back."""


@frozen
class Keeps:
    """What a store keeps of an entry beside a file's bytes and name."""

    kinds: frozenset[int] = frozenset({FILE})
    modes: bool = False
    mtimes: bool = False
    hardlinks: bool = False


class Stat(NamedTuple):
    """What one key is now."""

    entry: Entry
    """Path relative to the store's root; the digest is unknown."""
    stamp: bytes
    """Changes whenever the content may have changed: inode, size, times; or ETag, version, size.  Opaque."""
    online: bool = True
    """False where the bytes must be recalled first."""


class Want(NamedTuple):
    """A file to fetch."""

    i: int
    """The caller's number, given back with the answer."""
    key: bytes
    size: int
    """Expected bytes; a body of another length is an error of that file."""


class Got(NamedTuple):
    """A fetched file: its body, or why not."""

    i: int
    body: bytes | bytearray | memoryview
    error: DlsError | None = None


class Item(NamedTuple):
    """A file to put."""

    i: int
    key: bytes
    body: bytes | bytearray | memoryview
    mode: int = NO_MODE
    mtime_ns: int = NO_TIME


class Done(NamedTuple):
    """A file put: its stamp, or why not."""

    i: int
    stamp: bytes
    error: DlsError | None = None


class Space(NamedTuple):
    """Room that is left, and the grain of allocation."""

    bytes: int
    inodes: int
    """-1 where the place does not count them."""
    block: int
    """Bytes that the smallest file takes."""


@runtime_checkable
class Upload(Protocol):
    """One large object being written by parts.  Nothing shows under its key before `finish`."""

    part: int
    """Bytes of every part but the last; a multiple of the digest block."""
    token: str
    """Names this upload in a journal, so that a later process can continue it; '' where the key is enough."""

    def write(self, number: int, data: bytes | bytearray | memoryview) -> str:
        """Write part `number` (from 0), from any thread; a part may be written again.  Returns a receipt to journal."""
        ...

    def back(self, number: int, receipt: str) -> Iterator[bytes] | bool:
        """Whether part `number` is already there: its bytes to be hashed by the caller, or True where the place proves
        it against the journalled receipt, or False."""
        ...

    def finish(self) -> bytes:
        """Show the object, complete, under its key; returns its stamp."""
        ...

    def close(self) -> None:
        """Leave it to be continued later.  Idempotent."""
        ...

    def abort(self) -> None:
        """Forget it and free what it holds.  Idempotent."""
        ...


@runtime_checkable
class Store(Protocol):
    """Bytes by key in one place."""

    url: str
    """Where it is; parses back to the same place, holds no secret."""
    can: frozenset[Can]
    keeps: Keeps
    names: Names
    room: int
    """Bytes that this root already takes of the longest key (`names.key_bytes`)."""

    def stat(self, key: bytes) -> Stat:
        """What a key is.  NotFound at once, with the key."""
        ...

    def list(self, prefix: bytes = b"") -> Iterator[Entry]:
        """Entries whose path begins with the bytes `prefix`, sorted, lazily; paths stay relative to the root."""
        ...

    def read(self, key: bytes, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """The bytes `start … stop-1` in chunks; past the end gives what there is.  NotFound at the call."""
        ...

    def write(self, key: bytes, chunks: Iterable[bytes], *, mode: int = NO_MODE, mtime_ns: int = NO_TIME) -> bytes:
        """Write a whole file, replacing any; returns its stamp.  A failing `chunks` leaves what was there before."""
        ...

    def delete(self, key: bytes) -> None:
        """Remove a file, a link or an empty folder; absent is fine."""
        ...

    def stamps(self, keys: Sequence[bytes]) -> Stamps:
        """The stamps of many keys, b'' where absent."""
        ...

    def fetch(self, wants: Sequence[Want]) -> Iterator[Got]:
        """The bodies of many small files, in any order, each wanted one answered once; bounded read-ahead."""
        ...

    def put(self, items: Iterable[Item]) -> Iterator[Done]:
        """Write many small files, each complete or absent, replacing any; takes items as it has room, answers each."""
        ...

    def make(self, entries: Sequence[Entry]) -> None:
        """Create links, folders and further names of hard-link groups that `keeps` covers; replaces what differs."""
        ...

    def below(self, prefix: bytes, *, staging: bool = False) -> Store:
        """The part of this store under the folder `prefix` as a store; it need not exist yet."""
        ...

    def exists(self) -> bool:
        """Whether anything lies at this store's root: a folder (even empty), or any key below it."""
        ...

    def wipe(self) -> None:
        """Remove everything below the root, and the root folder itself where there is one.  Idempotent."""
        ...

    def move(self, pairs: Sequence[tuple[bytes, bytes]], *, over: bool = False) -> None:
        """MOVE: rename each first to second, files and whole folders alike; Exists where the second exists and not
        `over` (an empty folder does not count)."""
        ...

    def upload(self, key: bytes, size: int, *, token: str = "", mode: int = NO_MODE, mtime_ns: int = NO_TIME) -> Upload:
        """UPLOAD: begin, or continue by `token`, one large object."""
        ...

    def sums(self, key: bytes) -> dict[str, str]:
        """SUMS: checksums kept by the place, hexadecimal by name; {} where this key has none."""
        ...

    def sync(self) -> None:
        """SYNC: returns once everything written so far survives a power cut."""
        ...

    def space(self) -> Space:
        """SPACE: what is free."""
        ...

    def recall(self, keys: Sequence[bytes]) -> None:
        """RECALL: ask for offline keys; returns at once, `stat().online` tells when."""
        ...

    def close(self) -> None:
        """Free connections and handles; idempotent; afterwards every other verb raises Invalid."""
        ...


def unsupported(store: str, verb: str) -> Unsupported:
    """The error of a verb that a store does not have."""
    return Unsupported(
        f"{store} cannot {verb}", code="no-such-verb", store=store, verb=verb, remedy="choose another storage"
    )


def closed(store: str) -> DlsError:
    """The error of a verb after `close`."""
    return Invalid(f"{store} is closed", code="closed", store=store)


@runtime_checkable
class Versioned(Protocol):
    """A store that can be asked for the bytes of one version and no other."""

    def read_version(self, key: bytes, stamp: bytes, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """As `read`; Conflict `source-changed` where the key's stamp is another one by now."""
        ...


@runtime_checkable
class Stamped(Protocol):
    """A store whose listing tells stamps, too: what is listed need not be looked at once more."""

    def list_stamped(self) -> Iterator[tuple[Entry, bytes]]:
        """As `list()`, each entry with the stamp that it had then, b'' where that would have to be asked for."""
        ...


@runtime_checkable
class Apart(Protocol):
    """A store that another process on this machine can open for itself and see the same."""

    def apart(self) -> tuple[str, dict[str, Any]]:
        """Address and options by which `registry.open_store` opens it there; plain values, no secret."""
        ...


@runtime_checkable
class Batched(Protocol):
    """A store that may do many small files in one call.  What that leaves undone (None) is for `fetch` or `put`, which
    tell why."""

    def batches(self) -> bool:
        """Whether it does, here and now."""
        ...

    def take(self, keys: Sequence[bytes], sizes: Sequence[int]) -> list[bytes | None]:
        """The bodies of files of these sizes, in the order asked."""
        ...

    def give(
        self, keys: Sequence[bytes], bodies: Sequence[bytes], modes: Sequence[int], mtimes: Sequence[int]
    ) -> list[bytes | None]:
        """Write them, as `put` does; the stamp of each."""
        ...
