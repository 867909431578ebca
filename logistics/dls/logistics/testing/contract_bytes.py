"""Rules of the plain verbs: names, sizes, ranges, failures, listings, histories, several users, memory."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from dls.logistics import names
from dls.logistics.digest import BLOCK
from dls.logistics.entry import FILE, Entry
from dls.logistics.errors import Conflict, Invalid, NotFound, Unsupported
from dls.logistics.store import SMALL, Can, Item, Store, Want
from dls.logistics.testing.contract_hooks import (
    MIB,
    Boom,
    StoreHooks,
    Untouched,
    body,
    failing,
    files,
    get,
    pieces,
    put_all,
    refusal,
    same,
    together,
    verbs,
)
from dls.logistics.testing.memory_use import growth
from dls.logistics.testing.spec import spec
from dls.logistics.testing.strategies import ILLEGAL, ODD

_STREAM = 256 * MIB
_BOUND = 64 * MIB
"""Four blocks of 16 MiB."""


class BytesRules(StoreHooks):
    """STORE-2 … STORE-9, STORE-11 … STORE-13, STORE-20."""

    @spec("STORE-2", "STORE-20")
    def test_legal_keys_round_trip(self, store: Store) -> None:
        held = {key: key + b"!" for key in ODD if self.holds(key, store.room)}
        assert len(held) > 20
        for i, (key, data) in enumerate(held.items()):
            if i % 2:
                store.write(key, [data])
            else:
                put_all(store, {key: data})
        assert files(store) == sorted(held)
        for key, data in held.items():
            same(get(store, key), data, key)
            stat = store.stat(key)
            assert (stat.entry.path, stat.entry.kind, stat.entry.size) == (key, FILE, len(data))
            if self.raw:
                same(self.raw_get(key), data, key)
        for got, data in zip(
            sorted(store.fetch([Want(i, k, len(d)) for i, (k, d) in enumerate(held.items())])),
            held.values(),
            strict=True,
        ):
            assert got.error is None
            same(got.body, data, got.i)
        for key in held:
            store.delete(key)
        assert files(store) == []

    @spec("STORE-3")
    def test_illegal_keys_are_refused_before_anything(self, store: Store) -> None:
        store.write(b"there", [b"x"])
        for key in ILLEGAL:
            for verb, call in verbs(store, self.keeps, key).items():
                if verb in ("list", "exists", "wipe", "make", *(set(Can) - self.can), Can.SYNC, Can.SPACE):
                    continue
                if verb != Can.MOVE or not names.is_hidden(key):
                    refusal(Invalid, call, f"{verb} takes {key!r}")
            with pytest.raises(Invalid):
                store.write(key, Untouched())
            if not names.is_hidden(key):
                with pytest.raises(Invalid):
                    store.below(key)
            if Can.MOVE in self.can and not names.is_hidden(key):
                with pytest.raises(Invalid):
                    store.move([(b"there", key)])
            if self.folders:
                with pytest.raises(Invalid):
                    store.make([Entry(key, 2)])
        assert files(store) == [b"there"]
        if self.raw:
            assert self.raw_keys() == [b"there"]
        with pytest.raises(TypeError):
            store.stat("text")  # type: ignore[arg-type]

    @spec("STORE-4")
    def test_sizes(self, store: Store) -> None:
        for size in (0, 1, SMALL - 1, SMALL, SMALL + 1, BLOCK + 1):
            for chunk in (size or 1, 65_537):
                data = body(size, chunk)
                store.write(b"sized", pieces(data, chunk))
                assert store.stat(b"sized").entry.size == size
                same(get(store, b"sized"), data, (size, chunk))
                if self.raw:
                    same(self.raw_get(b"sized"), data)
        store.write(b"gaps", [b"", b"a", b"", b"b", b""])
        assert get(store, b"gaps") == b"ab"
        store.write(b"none", iter(()))
        assert get(store, b"none") == b""
        buffer = bytearray(b"12")

        def reused() -> Iterator[Any]:
            yield buffer
            buffer[:] = b"34"
            yield buffer

        store.write(b"reused", reused())
        assert get(store, b"reused") == b"1234", "a chunk is taken before the next one is asked for"

    @spec("STORE-5")
    def test_missing_keys_are_told_at_the_call(self, store: Store) -> None:
        store.write(b"is/here/file", [b"x"])
        for key in (b"no", b"is/her", b"is/here/file2", b"is/here/file/below", b"no/such/key", b"caf\xc3\xa9"):
            calls: dict[str, Callable[[], object]] = {
                "stat": partial(store.stat, key),
                "read": partial(store.read, key),
            }
            if Can.MOVE in self.can:
                calls["move"] = partial(store.move, [(key, b"elsewhere")])
            if Can.SUMS in self.can:
                calls["sums"] = partial(store.sums, key)
            for verb, call in calls.items():
                error = refusal(NotFound, call, f"{verb} finds {key!r}")
                assert error.facts.get("key") == names.show(key), verb
            assert store.stamps([key]) == [b""]
            (got,) = store.fetch([Want(7, key, 1)])
            assert isinstance(got.error, NotFound)
            assert got.error.facts["key"] == names.show(key)
        with pytest.raises((NotFound, Conflict)):
            store.read(b"is/here")
        assert get(store, b"is/here/file") == b"x"

    @spec("STORE-6")
    def test_ranges(self, store: Store) -> None:
        data = body(2 * SMALL + 3)
        store.write(b"r", [data])
        n, rng = len(data), random.Random(6)
        edges = [0, 1, SMALL - 1, SMALL, SMALL + 1, n - 1, n, n + 1, n + SMALL, rng.randrange(n)]
        for start in edges:
            for stop in (*edges, None):
                same(
                    get(store, b"r", start, stop), data[start : n if stop is None else max(start, stop)], (start, stop)
                )
        store.write(b"empty", [])
        assert get(store, b"empty", 0, 5) == get(store, b"empty", 3) == b""

    @spec("STORE-7")
    def test_a_failed_write_changes_nothing(self, store: Store) -> None:
        store.write(b"old/file", [b"before"])
        kept = self.raw_keys() if self.raw else []
        for size in (0, 10, SMALL + 1, BLOCK + SMALL):
            for key, after in ((b"old/file", b"before"), (b"new", None), (b"new-folder/x", None)):
                with pytest.raises(Boom):
                    store.write(key, failing(body(size)))
                assert files(store) == [b"old/file"]
                if after is None:
                    with pytest.raises(NotFound):
                        store.stat(key)
                else:
                    assert get(store, key) == after
        if self.raw:
            assert self.raw_keys() == kept, "a temporary was left"

    @spec("STORE-7")
    def test_nothing_shows_while_it_is_written(self, store: Store) -> None:
        store.write(b"old", [b"before"])
        seen = []

        def watched() -> Iterator[bytes]:
            for _ in range(3):
                yield body(BLOCK // 2)
                seen.append((files(store), get(store, b"old"), store.stamps([b"new"])))

        store.write(b"old", watched())
        store.write(b"new", watched())
        assert seen[:3] == [([b"old"], b"before", [b""])] * 3
        assert [(f, s) for f, _, s in seen[3:]] == [([b"old"], [b""])] * 3
        assert files(store) == [b"new", b"old"]
        same(get(store, b"old"), body(BLOCK // 2) * 3)
        same(get(store, b"new"), body(BLOCK // 2) * 3)

    @spec("STORE-8")
    def test_listing_is_sorted_and_textual(self, store: Store) -> None:
        keys = sorted(
            [b"a-b", b"a.b", b"a/b", b"a/b-c", b"a/b0", b"a0", b"ab/x/y", b"ab/x-y", b"b", b"\xc3\xa9", b"Z", b"ab-"]
        )
        put_all(store, dict.fromkeys(keys, b"12"))
        for prefix in (
            b"",
            b"a",
            b"a/",
            b"a/b",
            b"ab",
            b"ab/",
            b"ab/x",
            b"ab/x/",
            b"b",
            b"a/b0",
            b"nothing",
            b"/",
            b"a//",
        ):
            listed = [e for e in store.list(prefix) if e.kind == FILE]
            assert [e.path for e in listed] == [k for k in keys if k.startswith(prefix)], prefix
            assert all(e.size == 2 for e in listed)
        part = store.below(b"a")
        assert files(part) == [b"b", b"b-c", b"b0"]
        assert files(part, b"b") == [b"b", b"b-c", b"b0"]
        listing = store.list()
        assert iter(listing) is listing, "a listing is lazy"

    @spec("STORE-8")
    def test_listing_is_complete_over_pages(self, store: Store) -> None:
        keys = sorted(b"%s/%04d" % ((b"a", b"a-", b"b")[i % 3], i) for i in range(2207))
        put_all(store, {key: b"%d" % i for i, key in enumerate(keys)})
        assert files(store) == keys
        for prefix in (b"a", b"a/", b"b/1", b"a-/"):
            assert files(store, prefix) == [k for k in keys if k.startswith(prefix)]
        stamps = store.stamps([*keys, b"none"])
        assert len(stamps) == 2208
        assert all(stamps[:-1])
        assert stamps[-1] == b""

    @spec("STORE-9")
    def test_delete(self, store: Store) -> None:
        put_all(store, {b"d/one": b"1", b"d/one-two": b"2", b"d/onetwo": b"3", b"e": b"4"})
        for _ in range(2):
            store.delete(b"d/one")
            store.delete(b"never/there")
        assert files(store) == [b"d/one-two", b"d/onetwo", b"e"]
        with pytest.raises(NotFound):
            store.stat(b"d/one")
        with suppress(Conflict):
            store.delete(b"d")
        assert files(store) == [b"d/one-two", b"d/onetwo", b"e"], "a folder that is not empty stays"
        store.write(b"d/one", [b"new"])
        assert get(store, b"d/one") == b"new"

    @spec("STORE-9")
    def test_delete_below_a_file(self, store: Store) -> None:
        put_all(store, {b"e": b"kept", b"other": b"kept"})
        store.delete(b"e/below")
        assert files(store) == [b"e", b"other"]

    @spec("STORE-11")
    def test_two_writers_leave_one_whole_value(self, store: Store) -> None:
        values = [body(3 * SMALL, 1), body(2 * SMALL, 2)]
        turns = threading.Barrier(2)

        def slowly(data: bytes) -> Iterator[bytes]:
            for piece in pieces(data, SMALL // 2):
                with suppress(threading.BrokenBarrierError):
                    turns.wait(0.5)  # side by side, where the store does not let one wait for the other
                yield piece

        for _ in range(3):
            turns.reset()
            together(*(lambda d=data: store.write(b"both", slowly(d)) for data in values))
            assert get(store, b"both") in values
            assert store.stat(b"both").entry.size in map(len, values)
        assert files(store) == [b"both"]

    @spec("STORE-12")
    def test_sixteen_readers(self, store: Store) -> None:
        bodies = {b"k%02d" % i: body(SMALL + 77 * i, i) for i in range(16)}
        for key, data in bodies.items():
            store.write(key, [data])
        # One thread, sixteen half-read files: what one reader keeps is not another's.
        readers = {key: store.read(key) for key in bodies}
        found = dict.fromkeys(bodies, b"")
        while readers:
            for key in list(readers):
                piece = next(readers[key], None)
                if piece is None:
                    del readers[key]
                else:
                    found[key] += piece
        assert found == bodies

        def reader(key: bytes, data: bytes) -> bool:
            n = len(data)
            same = [get(store, key) == data, get(store, key, 5, n // 2) == data[5 : n // 2]]
            (got,) = store.fetch([Want(1, key, n)])
            return all([*same, got.error is None and bytes(got.body) == data, store.stat(key).entry.size == n])

        assert all(together(*(lambda p=pair: reader(*p) for pair in bodies.items())))

    @pytest.mark.slow
    @spec("STORE-13")
    def test_memory_is_bounded(self, store: Store) -> None:
        chunk = body(MIB)

        def stream() -> Iterator[bytes]:
            for i in range(_STREAM // MIB):
                yield i.to_bytes(8, "little") + chunk[8:]

        with growth() as written:
            store.write(b"big", stream())
        assert self.in_memory or written() < _BOUND, f"{written() >> 20} MiB to write a stream"
        with growth() as read:
            assert sum(map(len, store.read(b"big"))) == _STREAM
        assert read() < _BOUND, f"{read() >> 20} MiB to read a stream"
        store.delete(b"big")
        count = 160
        put_all(store, {b"m%d" % i: chunk for i in range(count)})
        with growth() as fetched:
            for got in store.fetch([Want(i, b"m%d" % i, MIB) for i in range(count)]):
                assert len(got.body) == MIB
        assert fetched() < _BOUND, f"{fetched() >> 20} MiB to fetch {count} files"
        with growth() as put:
            for done in store.put(Item(i, b"m%d" % i, i.to_bytes(8, "little") + chunk[8:]) for i in range(count)):
                assert done.error is None
        assert self.in_memory or put() < _BOUND, f"{put() >> 20} MiB to put {count} files"

    @spec("STORE-20")
    def test_names_that_are_not_held(self, store: Store) -> None:
        part, whole = self.names.part_bytes or 400, self.names.key_bytes or 5000
        long = b"/".join([b"p" * 99] * 60)
        tried = [
            b"p" * part,
            b"p" * (part + 1),
            b"a/" + b"p" * (part + 1) + b"/b",
            b"caf\xe9",
            b"\xff",
            b"dot.",
            b"dots./x",
        ]
        tried += [long[: whole - store.room], b"x" + long[: whole - store.room]]
        tried += [b"byte" + bytes([b]) + b"s" for b in range(1, 256) if b != 0x2F]
        accepted = set()
        for key in tried:
            if key.endswith(b"/"):
                continue
            if self.holds(key, store.room):
                store.write(key, [key[:9]])
                assert get(store, key) == key[:9]
                accepted.add(key)
                continue
            for refused in (
                partial(store.write, key, Untouched()),
                partial(store.upload, key, BLOCK + 1),
                partial(store.make, [Entry(key, 2)]),
            ):
                refusal(Unsupported, refused, f"{key!r} is taken")
            answers = list(store.put([Item(1, key, b"x"), Item(2, b"fine", b"x")]))
            assert {d.i: type(d.error) for d in answers} == {1: Unsupported, 2: type(None)}
            accepted.add(b"fine")
        assert set(files(store)) == accepted

    @spec("STORE-2")
    def test_file_and_folder_of_one_name(self, store: Store) -> None:
        store.write(b"a", [b"file"])
        store.write(b"b/c", [b"below"])
        if not self.folders:
            return
        for key in (b"a/b", b"a/b/c", b"b"):
            with pytest.raises(Conflict):
                store.write(key, [b"x"])
            (done,) = store.put([Item(1, key, b"x")])
            assert isinstance(done.error, Conflict)
        assert (get(store, b"a"), get(store, b"b/c")) == (b"file", b"below")
        assert files(store) == [b"a", b"b/c"]
