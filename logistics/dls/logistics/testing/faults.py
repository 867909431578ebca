"""Stores around a store: one that fails at a chosen operation, one that writes down what is asked, one that is slow.

An operation is each call of a verb (`stat`, `write`, `upload.write` …) and each thing that passes through a lazy one:
an entry of a listing (`list.item`), a chunk of a body (`read.chunk`, `write.chunk`), a wanted file that is answered
(`fetch.item`), an item that is taken (`put.take`) or answered (`put.item`).  Parts of a store and uploads share the
count of the store that they come from.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

from dls.logistics import names
from dls.logistics.entry import NO_MODE, NO_TIME, Entry
from dls.logistics.errors import Unavailable
from dls.logistics.store import Done, Got, Item, Space, Stamped, Stat, Store, Upload, Want

_Stamps = list[bytes]  # inside the classes `list` is a verb
Body = bytes | bytearray | memoryview


class Around:
    """A store that hands everything on and calls `step` before each operation."""

    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self.url, self.can, self.keeps = inner.url, inner.can, inner.keeps
        self.names, self.room = inner.names, inner.room
        if isinstance(inner, Stamped):  # as for the store itself, so that its way is the one that fails
            self.list_stamped = self._list_stamped

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.inner!r})"

    def part_of(self, inner: Store) -> Around:
        """This wrapper around a part of the store."""
        return type(self)(inner)

    def step(self, verb: str, key: bytes = b"") -> bool:
        """One operation begins; an error raised here is its outcome.  Returns whether `after` or `cut` shall act."""
        return False

    def after(self, verb: str, key: bytes) -> None:
        """The operation that was chosen has done its work."""

    def cut(self, verb: str, data: Body) -> Body:
        """What passes of the bytes that were chosen; what is cut is their end."""
        return data

    def _done(self, verb: str, key: bytes, call: Callable[[], Any]) -> Any:
        chosen = self.step(verb, key)
        answer = call()
        if chosen:
            self.after(verb, key)
        return answer

    def stat(self, key: bytes) -> Stat:
        stat: Stat = self._done("stat", key, lambda: self.inner.stat(key))
        return stat

    def list(self, prefix: bytes = b"") -> Iterator[Entry]:
        found: Iterator[Entry] = self._done("list", prefix, lambda: self.inner.list(prefix))
        return self._listed(found)

    def _listed(self, found: Iterator[Entry]) -> Iterator[Entry]:
        for entry in found:
            self.step("list.item", entry.path)
            yield entry

    def _list_stamped(self) -> Iterator[tuple[Entry, bytes]]:
        inner: Any = self.inner
        for entry, stamp in self._done("list", b"", inner.list_stamped):
            self.step("list.item", entry.path)
            yield entry, stamp

    def read(self, key: bytes, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        chunks: Iterator[bytes] = self._done("read", key, lambda: self.inner.read(key, start, stop))
        return self._chunks("read.chunk", key, chunks)

    def _chunks(self, verb: str, key: bytes, chunks: Iterable[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            passed = self.cut(verb, chunk) if self.step(verb, key) else chunk
            yield bytes(passed) if passed is not chunk else chunk
            if len(passed) < len(chunk):
                return

    def write(self, key: bytes, chunks: Iterable[bytes], *, mode: int = NO_MODE, mtime_ns: int = NO_TIME) -> bytes:
        passed = self._chunks("write.chunk", key, chunks)
        stamp: bytes = self._done("write", key, lambda: self.inner.write(key, passed, mode=mode, mtime_ns=mtime_ns))
        return stamp

    def delete(self, key: bytes) -> None:
        self._done("delete", key, lambda: self.inner.delete(key))

    def stamps(self, keys: Sequence[bytes]) -> _Stamps:
        found: _Stamps = self._done("stamps", b"", lambda: self.inner.stamps(keys))
        return found

    def fetch(self, wants: Sequence[Want]) -> Iterator[Got]:
        answers: Iterator[Got] = self._done("fetch", b"", lambda: self.inner.fetch(wants))
        return self._fetched(answers, {w.i: w.key for w in wants})

    def _fetched(self, answers: Iterator[Got], keys: dict[int, bytes]) -> Iterator[Got]:
        for got in answers:
            try:
                chosen = self.step("fetch.item", keys[got.i])
                yield got._replace(body=self.cut("fetch.item", got.body)) if chosen else got
            except Planted as error:
                yield Got(got.i, b"", error)

    def put(self, items: Iterable[Item]) -> Iterator[Done]:
        refused: list[Done] = []
        answers: Iterator[Done] = self._done("put", b"", lambda: self.inner.put(self._taken(items, refused)))
        return self._stored(answers, refused)

    def _taken(self, items: Iterable[Item], refused: Any) -> Iterator[Item]:
        for item in items:
            try:
                self.step("put.take", item.key)
            except Planted as error:
                refused.append(Done(item.i, b"", error))
                continue
            yield item

    def _stored(self, answers: Iterator[Done], refused: Any) -> Iterator[Done]:
        for done in answers:
            while refused:
                yield refused.pop()
            try:
                self.step("put.item")
                yield done
            except Planted as error:
                yield Done(done.i, b"", error)
        yield from refused

    def make(self, entries: Sequence[Entry]) -> None:
        self._done("make", b"", lambda: self.inner.make(entries))

    def below(self, prefix: bytes, *, staging: bool = False) -> Around:
        return self.part_of(self.inner.below(prefix, staging=staging))

    def exists(self) -> bool:
        there: bool = self._done("exists", b"", self.inner.exists)
        return there

    def wipe(self) -> None:
        self._done("wipe", b"", self.inner.wipe)

    def move(self, pairs: Sequence[tuple[bytes, bytes]], *, over: bool = False) -> None:
        self._done("move", pairs[0][1] if pairs else b"", lambda: self.inner.move(pairs, over=over))

    def upload(self, key: bytes, size: int, *, token: str = "", mode: int = NO_MODE, mtime_ns: int = NO_TIME) -> Upload:
        begun: Upload = self._done(
            "upload", key, lambda: self.inner.upload(key, size, token=token, mode=mode, mtime_ns=mtime_ns)
        )
        return UploadAround(self, begun, key)

    def sums(self, key: bytes) -> dict[str, str]:
        found: dict[str, str] = self._done("sums", key, lambda: self.inner.sums(key))
        return found

    def sync(self) -> None:
        self._done("sync", b"", self.inner.sync)

    def space(self) -> Space:
        space: Space = self._done("space", b"", self.inner.space)
        return space

    def recall(self, keys: Sequence[bytes]) -> None:
        self._done("recall", b"", lambda: self.inner.recall(keys))

    def close(self) -> None:
        self.inner.close()


class UploadAround:
    """The upload of a store around a store."""

    def __init__(self, store: Around, inner: Upload, key: bytes) -> None:
        self._store, self._inner, self._key = store, inner, key
        self.part, self.token = inner.part, inner.token
        if hasattr(inner, "piece"):  # what an upload may have beside its contract: the transfer asks for it
            self.piece = self._piece

    def _piece(self, number: int, at: int, data: Body) -> None:
        piece: Any = self._inner.piece  # type: ignore[attr-defined]
        self._store._done("upload.piece", self._key, lambda: piece(number, at, data))

    def write(self, number: int, data: Body) -> str:
        receipt: str = self._store._done("upload.write", self._key, lambda: self._inner.write(number, data))
        return receipt

    def back(self, number: int, receipt: str) -> Iterator[bytes] | bool:
        there = self._store._done("upload.back", self._key, lambda: self._inner.back(number, receipt))
        return there if isinstance(there, bool) else self._store._chunks("upload.chunk", self._key, there)

    def finish(self) -> bytes:
        stamp: bytes = self._store._done("upload.finish", self._key, self._inner.finish)
        return stamp

    def close(self) -> None:
        self._inner.close()

    def abort(self) -> None:
        self._store._done("upload.abort", self._key, self._inner.abort)


class Planted(Unavailable):
    """The error that `Faulty` makes."""

    def __init__(self, verb: str, key: bytes) -> None:
        super().__init__(f"planted at {verb} {names.show(key)}", code="planted", key=names.show(key))


class _Plan:
    """What one Faulty and all its parts share."""

    def __init__(self, at: int, what: str, verbs: Collection[str], lasting: bool) -> None:
        self.at, self.what, self.verbs, self.lasting = at, what, verbs, lasting
        self.count, self.fired = 0, ""
        self.lock = threading.Lock()
        self.open = threading.Event()
        self.hanging = threading.Event()

    def next(self, verb: str) -> bool:
        """Count one operation; whether it is the one to fail."""
        if self.verbs and verb not in self.verbs:
            return False
        with self.lock:
            self.count += 1
            hit = self.count == self.at or (self.lasting and 0 < self.at < self.count)
            if hit:
                self.fired = verb
        return hit


class Faulty(Around):
    """Operation number `at` (from 1; 0: none, only count) goes wrong, with `lasting` all later ones too.

    `what`: `error` before the operation takes effect; `lost`: it takes effect and its answer is an error; `short`:
    half of a body that is read and then its end; `hang`: blocks until `release()`, then an error.  `verbs` are the
    names of operations that count (all by default).  `short` and `lost` do nothing where they have no meaning.
    """

    def __init__(
        self,
        inner: Store,
        at: int = 0,
        what: str = "error",
        verbs: Collection[str] = (),
        *,
        lasting: bool = False,
        plan: _Plan | None = None,
    ) -> None:
        super().__init__(inner)
        if what not in ("error", "lost", "short", "hang"):
            raise ValueError(what)
        self._plan = plan or _Plan(at, what, frozenset(verbs), lasting)

    @property
    def count(self) -> int:
        """Operations so far."""
        return self._plan.count

    @property
    def fired(self) -> str:
        """The operation that was chosen, '' while it has not come."""
        return self._plan.fired

    @property
    def hanging(self) -> threading.Event:
        """Set when an operation hangs."""
        return self._plan.hanging

    def release(self) -> None:
        """Let what hangs end, with an error."""
        self._plan.open.set()

    def part_of(self, inner: Store) -> Faulty:
        return Faulty(inner, self._plan.at, self._plan.what, plan=self._plan)

    def step(self, verb: str, key: bytes = b"") -> bool:
        plan = self._plan
        if not plan.next(verb):
            return False
        if plan.what == "hang":
            plan.hanging.set()
            plan.open.wait()
        if plan.what in ("error", "hang") or (plan.what == "lost" and verb.endswith(".item")):
            raise Planted(verb, key)
        return True

    def after(self, verb: str, key: bytes) -> None:
        if self._plan.what == "lost":
            raise Planted(verb, key)

    def cut(self, verb: str, data: Body) -> Body:
        if self._plan.what == "short" and verb in ("read.chunk", "upload.chunk", "fetch.item"):
            return data[: len(data) // 2]
        return data


class Recording(Around):
    """Writes down each operation in `log`, as (verb, key)."""

    def __init__(self, inner: Store, log: Any = None) -> None:
        super().__init__(inner)
        self.log: Any = [] if log is None else log

    def part_of(self, inner: Store) -> Recording:
        return Recording(inner, self.log)

    def step(self, verb: str, key: bytes = b"") -> bool:
        self.log.append((verb, key))
        return False


class Slow(Around):
    """Waits `delay` seconds before each operation."""

    def __init__(self, inner: Store, delay: float) -> None:
        super().__init__(inner)
        self.delay = delay
        self._never = threading.Event()

    def part_of(self, inner: Store) -> Slow:
        return Slow(inner, self.delay)

    def step(self, verb: str, key: bytes = b"") -> bool:
        self._never.wait(self.delay)
        return False
