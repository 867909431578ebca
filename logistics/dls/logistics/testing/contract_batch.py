"""Rules of the batch verbs, of uploads by parts, and of the stamps that they answer with."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from itertools import count, islice

import pytest

from dls.logistics import names
from dls.logistics.digest import BLOCK
from dls.logistics.entry import FOLDER, LINK, Entry
from dls.logistics.errors import Invalid, NotFound, Unsupported
from dls.logistics.store import SMALL, Can, Done, Item, Stamped, Store, Upload, Want
from dls.logistics.testing.contract_hooks import (
    Boom,
    StoreHooks,
    body,
    files,
    get,
    put_all,
    same,
    together,
    write_parts,
)
from dls.logistics.testing.spec import spec

_TIME = 1_234_567_890_123_456_789
_TICK = 0.03  # seconds: file systems stamp times with the kernel's tick, up to 10 ms


class BatchRules(StoreHooks):
    """STORE-21 … STORE-23 and STORE-27."""

    @spec("STORE-21")
    def test_stamps_change_with_the_content(self, store: Store) -> None:
        writers: list[Callable[[bytes], bytes]] = [
            lambda data: store.write(b"k", [data], mtime_ns=_TIME),
            lambda data: next(store.put([Item(0, b"k", data, mtime_ns=_TIME)])).stamp,
        ]
        seen: list[bytes] = []
        for data in (b"one", b"two", b"six"):
            for write in writers:
                time.sleep(_TICK)
                stamp = write(data)
                assert stamp
                assert store.stamps([b"absent", b"k"]) == [b"", stamp]
                assert store.stat(b"k").stamp == stamp
                seen.append(stamp)
        assert len(set(seen[::2])) == 3, "other bytes, same size, same time: another stamp"
        assert len(set(seen[1::2])) == 3
        if self.raw:
            time.sleep(_TICK)
            self.raw_put(b"k", b"raw")
            assert store.stamps([b"k"])[0] not in (seen[-1], b"")
        store.delete(b"k")
        assert store.stamps([b"k"]) == [b""]

    @spec("STORE-21")
    def test_stamps_stay_with_the_content(self, store: Store) -> None:
        stamp = store.write(b"f/k", [b"data"])
        store.write(b"f/other", [b"x"])
        store.delete(b"f/other")
        assert get(store, b"f/k") == b"data"
        assert [got.error for got in store.fetch([Want(0, b"f/k", 4)])] == [None]
        assert files(store) == [b"f/k"]
        assert store.stamps([b"f/k"]) == [stamp]
        assert store.below(b"f").stamps([b"k"]) == [stamp]
        store.close()
        with self.again() as later:
            assert later.stamps([b"f/k"]) == [stamp] == [later.stat(b"f/k").stamp]

    @spec("STORE-27")
    def test_a_listing_tells_stamps(self, store: Store) -> None:
        put_all(store, {b"a": b"1", b"d/b": b"22", b"d-c": b"", b"z/y/x": b"333"})
        more = [Entry(b"empty", FOLDER), Entry(b"link", LINK, target=b"a")]
        store.make([entry for entry in more if entry.kind in store.keeps.kinds])
        if not isinstance(store, Stamped):
            return  # nothing is promised
        found = list(store.list_stamped())
        assert [entry for entry, _ in found] == list(store.list())
        told = store.stamps([entry.path for entry, _ in found])
        assert [stamp or now for (_, stamp), now in zip(found, told, strict=True)] == told

    @spec("STORE-22")
    def test_fetch_answers_each_want_once(self, store: Store) -> None:
        bodies = {b"f/%d" % i: body(i * 991, i) for i in range(40)} | {b"empty": b"", b"large": body(SMALL)}
        put_all(store, bodies)
        wants = [Want(1000 + i, key, len(data)) for i, (key, data) in enumerate(bodies.items())]
        wants += [Want(1, b"absent", 3), Want(2, b"f/3", 991 * 3), Want(3, b"f/3", 5), Want(4, b"f/3", 9999)]
        wants += [Want(5, b"empty", 1), Want(6, b"../f/1", 991), Want(7, b"f/5", 991 * 5)]
        answers = {}
        for got in store.fetch(wants[::-1]):
            assert got.i not in answers, "answered twice"
            answers[got.i] = got
        assert sorted(answers) == sorted(w.i for w in wants)
        bad = {i for i, got in answers.items() if got.error is not None}
        assert bad == {1, 3, 4, 5, 6}, "a file that is missing, longer or shorter than wanted is an error of that file"
        assert isinstance(answers[1].error, NotFound)
        assert isinstance(answers[6].error, Invalid)
        for want in wants:
            if want.i not in bad:
                same(answers[want.i].body, bodies[want.key], "a body stays what it was")
        assert list(store.fetch([])) == []

    @spec("STORE-22")
    def test_put_answers_each_item_once(self, store: Store) -> None:
        store.write(b"p/3", [b"replaced"])
        bodies = {b"p/%d" % i: body(i * 991, i) for i in range(40)}
        items = [Item(i, key, data) for i, (key, data) in enumerate(bodies.items())]
        items[20:20] = [Item(100, b"a//b", b"x"), Item(101, b"", b"x")]
        items += [Item(102, b"view", memoryview(b"view")), Item(103, b"array", bytearray(b"array"))]
        answers = {}
        for done in store.put(iter(items)):
            assert done.i not in answers, "answered twice"
            answers[done.i] = done
        assert sorted(answers) == sorted(it.i for it in items)
        assert {i for i, d in answers.items() if d.error is not None} == {100, 101}
        assert isinstance(answers[100].error, Invalid)
        bodies |= {b"view": b"view", b"array": b"array"}
        assert files(store) == sorted(bodies)
        for item in items:
            if item.key in bodies:
                assert get(store, item.key) == bodies[item.key]
                assert store.stamps([item.key]) == [answers[item.i].stamp]
        assert list(store.put([])) == []

    @spec("STORE-22")
    def test_put_takes_items_as_it_has_room(self, store: Store) -> None:
        taken = 0

        def endless() -> Iterator[Item]:
            nonlocal taken
            for i in count():
                taken += 1
                yield Item(i, b"e/%d" % (i % 50), b"x")

        answers = store.put(endless())
        first = next(answers)
        assert first.error is None
        assert taken <= self.read_ahead
        for n, done in enumerate(islice(answers, 60), start=2):
            assert isinstance(done, Done)
            assert taken - n <= self.read_ahead
        close = getattr(answers, "close", None)
        if close is not None:
            close()

    @spec("STORE-22")
    def test_put_lets_the_callers_error_through(self, store: Store) -> None:
        def broken() -> Iterator[Item]:
            yield from (Item(i, b"i/%d" % i, b"whole") for i in range(5))
            raise Boom

        answers: list[Done] = []
        with pytest.raises(Boom):
            answers.extend(store.put(broken()))  # those that came before the error are kept
        for done in answers:
            assert get(store, b"i/%d" % done.i) == b"whole"
        assert all(get(store, key) == b"whole" for key in files(store))

    @spec("STORE-22")
    def test_put_is_complete_or_absent(self, store: Store) -> None:
        """A reader beside a batch sees old bytes or new bytes, never a part."""
        old, new = b"o" * SMALL, b"n" * SMALL
        put_all(store, dict.fromkeys((b"x", b"y"), old))
        stop = threading.Event()
        torn = []

        def look() -> None:
            while not stop.is_set():
                for key in (b"x", b"y"):
                    try:
                        found = get(store, key)
                    except NotFound:
                        if self.gap:
                            continue
                        raise
                    if found not in (old, new):
                        torn.append(len(found))

        def batches() -> None:
            try:
                for n in range(12):
                    put_all(store, dict.fromkeys((b"x", b"y"), new if n % 2 else old))
            finally:
                stop.set()

        together(look, batches)
        assert not torn

    @spec("STORE-23")
    def test_upload_by_parts(self, store: Store) -> None:
        if Can.UPLOAD not in self.can:
            with pytest.raises(Unsupported):
                store.upload(b"big", BLOCK + 1)
            return
        store.write(b"folder/big", [b"old"])
        data = body(2 * BLOCK + 123)
        before = self.raw_keys() if self.raw else []
        upload = store.upload(b"folder/big", len(data), mtime_ns=_TIME)
        assert isinstance(upload, Upload)
        assert upload.part >= BLOCK
        assert upload.part % BLOCK == 0
        parts = [data[at : at + upload.part] for at in range(0, len(data), upload.part)]
        together(*(lambda n=n: upload.write(n, parts[n]) for n in reversed(range(len(parts)))))
        assert [e.path for e in store.list()] == [b"folder/big"]
        assert get(store, b"folder/big") == b"old", "nothing shows before the finish"
        stamp = upload.finish()
        upload.close()
        assert store.stamps([b"folder/big"]) == [stamp]
        same(get(store, b"folder/big"), data, "parts in any order, from several threads")
        assert store.stat(b"folder/big").entry.size == len(data)
        if self.keeps.mtimes:
            assert store.stat(b"folder/big").entry.mtime_ns == _TIME
        if self.raw:
            assert self.raw_keys() == before
        write_parts(store, b"small", b"one short part")
        assert get(store, b"small") == b"one short part"

    @spec("STORE-23")
    def test_upload_is_continued(self, store: Store) -> None:
        if Can.UPLOAD not in self.can:
            return
        data = body(2 * BLOCK + 123)
        upload = store.upload(b"d/big", len(data))
        part, token = upload.part, upload.token
        parts = [data[at : at + part] for at in range(0, len(data), part)]
        receipts = {0: upload.write(0, parts[0]), len(parts) - 1: upload.write(len(parts) - 1, parts[-1])}
        upload.close()
        upload.close()
        store.close()
        with self.again() as later:
            assert files(later) == []
            upload = later.upload(b"d/big", len(data), token=token)
            for number, good in enumerate(parts):
                there = upload.back(number, receipts.get(number, "no such receipt"))
                held = there if isinstance(there, bool) else b"".join(there) == good
                assert held == (number in receipts), f"part {number}"
                if not held:
                    receipts[number] = upload.write(number, good)
            upload.finish()
            upload.close()
            same(get(later, b"d/big"), data)

    @spec("STORE-23")
    def test_a_part_is_written_again(self, store: Store) -> None:
        if Can.UPLOAD not in self.can:
            return
        data = body(BLOCK + 99)
        upload = store.upload(b"k", len(data))
        part = upload.part
        old = upload.write(0, data[:part][::-1])
        upload.write(1, data[part:])
        new = upload.write(0, data[:part])
        proof = upload.back(0, old)
        assert proof is False or (proof is not True and b"".join(proof) == data[:part]), "an old receipt proves nothing"
        there = upload.back(0, new)
        assert there is True or (there is not False and b"".join(there) == data[:part])
        upload.finish()
        upload.close()
        same(get(store, b"k"), data)

    @spec("STORE-23")
    def test_upload_is_aborted(self, store: Store) -> None:
        if Can.UPLOAD not in self.can:
            return
        store.write(b"there/kept", [b"old"])
        before = self.raw_keys() if self.raw else []
        for key in (b"there/gone", b"there/kept"):
            upload = store.upload(key, BLOCK + 9)
            upload.write(1, b"123456789")
            upload.abort()
            upload.abort()
            upload.close()
        assert files(store) == [b"there/kept"]
        assert get(store, b"there/kept") == b"old"
        if self.raw:
            assert self.raw_keys() == before, "an aborted upload leaves nothing"
        for bad in (b"../x", b"a//b"):
            with pytest.raises(Invalid):
                store.upload(bad, BLOCK)
        assert not any(names.is_hidden(e.path) for e in store.list())
