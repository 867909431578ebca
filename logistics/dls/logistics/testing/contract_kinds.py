"""Rules of what a store keeps beside bytes, of hidden names, and of the parts of a store."""

from __future__ import annotations

import pytest

from dls.logistics import names
from dls.logistics import url as urls
from dls.logistics.digest import UNKNOWN
from dls.logistics.entry import FILE, FOLDER, LINK, NO_MODE, NO_TIME, Entry
from dls.logistics.errors import Conflict, Exists, Invalid, NotFound, Unsupported
from dls.logistics.store import Can, Item, Store, Upload
from dls.logistics.testing.contract_hooks import Boom, StoreHooks, body, failing, files, get, put_all, same, write_parts
from dls.logistics.testing.spec import spec

_TIME = 1_234_567_890_123_456_789
_YEAR_2020 = 1_577_836_800_000_000_000
_TIMES = (0, 1, _TIME, -1_000_000_001)
_MODES = (0o644, 0o600, 0o755, 0o440, 0o777, 0o2750, 0o400, 0o1755, 0o4711, 0o1600, 0o555)


class KindRules(StoreHooks):
    """STORE-19, STORE-24, STORE-25."""

    @spec("STORE-19")
    def test_files_keep_what_is_promised(self, store: Store) -> None:
        wanted = {}
        for i, mode in enumerate(_MODES):
            key, mtime = b"m/%d" % i, _TIMES[i % 4]
            wanted[key] = (mode, mtime)
            match i % 3:
                case 0:
                    store.write(key, [b"x"], mode=mode, mtime_ns=mtime)
                case 1:
                    assert next(store.put([Item(0, key, b"x", mode, mtime)])).error is None
                case _ if Can.UPLOAD in self.can:
                    write_parts(store, key, b"x", mode=mode, mtime_ns=mtime)
                case _:
                    store.write(key, [b"x"], mode=mode, mtime_ns=mtime)
        listed = {e.path: e for e in store.list()}
        for key, (mode, mtime) in wanted.items():
            assert listed[key] == store.stat(key).entry
            assert listed[key].mode == (mode if self.keeps.modes else NO_MODE), f"{mode:o}"
            assert listed[key].mtime_ns == (mtime if self.keeps.mtimes else NO_TIME)
            assert (listed[key].digest, listed[key].target, listed[key].blocks) == (UNKNOWN, b"", b"")
        store.write(b"m/0", [b"y"], mode=0o640)
        assert store.stat(b"m/0").entry.mode == (0o640 if self.keeps.modes else NO_MODE)
        store.write(b"plain", [b"x"])
        plain = store.stat(b"plain").entry
        assert (plain.mode == NO_MODE) != self.keeps.modes
        assert (plain.mtime_ns == NO_TIME) != self.keeps.mtimes
        assert not self.keeps.mtimes or plain.mtime_ns > _YEAR_2020, "by default the time of writing"
        assert next(store.put([Item(0, b"put", b"x")])).error is None
        if Can.UPLOAD in self.can:
            write_parts(store, b"parts", b"x")
        for key in (b"put", b"parts")[: 1 + (Can.UPLOAD in self.can)]:
            entry = store.stat(key).entry
            assert entry.mode == plain.mode, "without a given mode, each way of writing gives the same"
            assert entry.mtime_ns >= plain.mtime_ns - 10**9

    @spec("STORE-19")
    def test_kinds_that_are_not_kept_are_refused(self, store: Store) -> None:
        store.write(b"first", [b"x"])
        for kind, entry in (
            (LINK, Entry(b"k/link", LINK, target=b"first")),
            (FOLDER, Entry(b"k/folder", FOLDER)),
            (FILE, Entry(b"k/second", FILE, 1, target=b"first")),
        ):
            if self.keeps.hardlinks if kind == FILE else kind in self.keeps.kinds:
                store.make([entry])
                continue
            with pytest.raises(Unsupported):
                store.make([entry])
        assert {e.kind for e in store.list()} == {FILE} | set(self.keeps.kinds)
        with pytest.raises((Invalid, Unsupported)):
            store.make([Entry(b"file", FILE, 0)])
        store.make([])

    @spec("STORE-19")
    def test_links(self, store: Store) -> None:
        if LINK not in self.keeps.kinds:
            return
        store.write(b"d/file", [b"content"])
        targets = {
            b"d/1": b"file",
            b"2": b"d",
            b"3": b"/absolute",
            b"4": b"../out",
            b"5": b"none\n\xff",
            b"e/f/6": b"../..",
        }
        store.make([Entry(k, LINK, target=t, mtime_ns=_TIME) for k, t in targets.items()])
        listed = {e.path: e for e in store.list()}
        assert sorted(listed) == sorted([*targets, b"d/file"]), "a link is not walked through"
        for key, target in targets.items():
            entry = listed[key]
            assert (entry.kind, entry.target, entry.size, entry.mode) == (LINK, target, 0, NO_MODE)
            assert entry.mtime_ns == (_TIME if self.keeps.mtimes else NO_TIME)
            assert store.stat(key).entry == entry
            assert store.stamps([key])[0]
            assert store.stat(key).stamp == store.stamps([key])[0]
            with pytest.raises((Conflict, NotFound)):
                get(store, key)
        store.make([Entry(b"d/1", LINK, target=b"changed"), Entry(b"d/file2", LINK, target=b"file")])
        assert store.stat(b"d/1").entry.target == b"changed"
        assert not self.keeps.mtimes or store.stat(b"d/1").entry.mtime_ns != _TIME
        assert store.stat(b"d/1").entry.mtime_ns >= NO_TIME
        store.write(b"d/file2", [b"a file now"])
        assert get(store, b"d/file") == b"content", "a write replaces a link, never what it points to"
        assert store.stat(b"d/file2").entry.kind == FILE
        store.make([Entry(b"d/file2", LINK, target=b"x")])
        assert store.stat(b"d/file2").entry.kind == LINK, "what differs is replaced"
        store.delete(b"2")
        assert get(store, b"d/file") == b"content"
        assert b"2" not in [e.path for e in store.list()]

    @spec("STORE-19")
    def test_folders(self, store: Store) -> None:
        if FOLDER not in self.keeps.kinds:
            return
        store.write(b"used/file", [b"x"])
        store.write(b"odd/file", [b"x"])
        made = [Entry(b"empty", FOLDER, mode=0o755), Entry(b"private", FOLDER, mode=0o700)]
        made += [Entry(b"odd", FOLDER, mode=0o2775), Entry(b"deep/er", FOLDER, mode=0o750), Entry(b"z", FOLDER)]
        for _ in range(2):
            store.make(made)
        found = {e.path: e for e in store.list() if e.kind == FOLDER}
        assert sorted(found) == [b"deep/er", b"empty", b"odd", b"private", b"z"], "folders that matter, no others"
        for entry in made:
            assert (found[entry.path].size, found[entry.path].target) == (0, b"")
            if entry.mode != NO_MODE:
                assert found[entry.path].mode == (entry.mode if self.keeps.modes else NO_MODE)
        paths = [e.path for e in store.list()]
        assert paths == sorted(paths)
        used = store.stat(b"used").entry
        assert store.stamps([b"used"]) == [store.stat(b"used").stamp] != [b""]
        assert (used.path, used.kind, used.size, used.target) == (b"used", FOLDER, 0, b"")
        with pytest.raises((Conflict, NotFound)):
            get(store, b"empty")
        store.write(b"was/file", [b"x"])
        store.make([Entry(b"was/file", FOLDER)])
        assert store.stat(b"was/file").entry.kind == FOLDER, "a folder replaces a file"
        with pytest.raises(Conflict):
            store.make([Entry(b"was", LINK, target=b"x")])
        store.delete(b"was/file")
        store.delete(b"was")
        store.delete(b"empty")
        store.write(b"z", [b"a file"])
        assert [e.path for e in store.list() if e.kind == FOLDER] == [b"deep/er", b"odd", b"private"]

    @spec("STORE-19")
    def test_hard_links(self, store: Store) -> None:
        if not self.keeps.hardlinks:
            return
        store.write(b"h/b", [b"shared"], mode=0o640)
        store.write(b"h/z", [b"alone"])
        for _ in range(2):
            store.make([Entry(b"a", FILE, 6, target=b"h/b"), Entry(b"h/c", FILE, 6, target=b"h/b")])
        groups = {e.path: e.target for e in store.list()}
        assert groups == {b"a": b"", b"h/b": b"a", b"h/c": b"a", b"h/z": b""}, "the first name stands for the group"
        if self.raw:
            assert self.raw_keys() == sorted(groups), "and nothing else is left beside them"
        assert {e.path: e.target for e in store.list(b"h")} == {b"h/b": b"", b"h/c": b"h/b", b"h/z": b""}
        assert [get(store, k) for k in groups] == [b"shared", b"shared", b"shared", b"alone"]
        assert store.stat(b"h/c").entry.mode == (0o640 if self.keeps.modes else NO_MODE)
        store.write(b"h/c", [b"own"])
        assert [get(store, k) for k in groups] == [b"shared", b"shared", b"own", b"alone"], "a write parts it"
        store.delete(b"a")
        assert get(store, b"h/b") == b"shared"
        store.make([Entry(b"h/z", FILE, 6, target=b"h/b")])
        assert get(store, b"h/z") == b"shared", "what differs is replaced"
        with pytest.raises(NotFound):
            store.make([Entry(b"x", FILE, target=b"absent")])

    @spec("STORE-24")
    def test_hidden_names_are_never_listed(self, store: Store) -> None:
        hidden = store.below(b".dls-run", staging=True)
        hidden.write(b"sub/file", [b"hidden"])
        store.below(b"d/.dls-x").write(b"file", [b"hidden"])
        store.write(b"d/.dlsx", [b"seen"])
        seen = [e.path for e in store.list()]
        assert seen == [b"d/.dlsx"]
        for prefix in (b".", b".dls-", b".dls-run/", b"d/.dls-x/", b"d/.d"):
            assert [e.path for e in store.list(prefix)] == [p for p in seen if p.startswith(prefix)]
        assert files(hidden) == [b"sub/file"], "from inside it is a store like others"
        assert get(hidden, b"sub/file") == b"hidden"
        if Can.MOVE in self.can:
            store.move([(b".dls-run/sub", b"shown"), (b"d/.dlsx", b".dls-trash/1")])
            assert files(store) == [b"shown/file"]
        hidden.wipe()
        assert not hidden.exists()

    @spec("STORE-25")
    def test_parts_of_a_store(self, store: Store) -> None:
        part = store.below(b"p q/\xc3\xa9")
        assert not part.exists()
        assert files(part) == []
        part.write(b"k", [b"in"])
        store.write(b"p q/\xc3\xa9x", [b"beside"])
        assert get(store, b"p q/\xc3\xa9/k") == b"in"
        assert (files(part), part.exists()) == ([b"k"], True)
        assert (part.can, part.keeps, part.names) == (store.can, store.keeps, store.names)
        assert part.room == store.room + (0 if self.room_is_flat else len(b"p q/\xc3\xa9/"))
        address = urls.parse(store.url)
        assert str(address) == store.url
        assert part.url == str(address.below(b"p q/\xc3\xa9"))
        with pytest.raises(Boom):
            part.write(b"k", failing(b"not staged, so nothing changes"))
        assert get(part, b"k") == b"in"
        deeper = part.below(b"a").below(b"b")
        put_all(deeper, {b"x": b"1", b"y/z": b"2"})
        assert files(store, b"p q/\xc3\xa9/a") == [b"p q/\xc3\xa9/a/b/x", b"p q/\xc3\xa9/a/b/y/z"]
        deeper.close()
        assert get(part, b"a/b/x") == b"1", "a part is closed for itself"
        part.write(b"ab", [b"beside"])
        part.below(b"a").wipe()
        part.below(b"a").wipe()
        assert files(store) == [b"p q/\xc3\xa9/ab", b"p q/\xc3\xa9/k", b"p q/\xc3\xa9x"], "nothing beside it goes"

    @spec("STORE-25")
    def test_staging(self, store: Store) -> None:
        """Where nobody else reads, files may be written at their names; what lies there in the end is the same."""
        staged = store.below(b".dls-run", staging=True)
        bodies = {b"f/%d" % i: body(i * 3000, i) for i in range(20)}
        put_all(staged, dict.fromkeys(bodies, b"left by an earlier run"))
        stamps = {}
        for done in staged.put([Item(i, key, data, 0o440, _TIME) for i, (key, data) in enumerate(bodies.items())]):
            assert done.error is None
            stamps[done.i] = done.stamp
        bodies[b"one"], bodies[b"two"] = body(3_000_001), body(17)
        for _ in range(2):
            staged.write(b"one", [bodies[b"one"]], mode=0o440, mtime_ns=_TIME)
            if Can.UPLOAD in self.can:
                write_parts(staged, b"two", bodies[b"two"], mode=0o440, mtime_ns=_TIME)
            else:
                staged.write(b"two", [bodies[b"two"]], mode=0o440, mtime_ns=_TIME)
        assert files(staged) == sorted(bodies)
        assert [stamps[i] for i in range(20)] == staged.stamps([b"f/%d" % i for i in range(20)])
        for key, data in bodies.items():
            entry = staged.stat(key).entry
            same(get(staged, key), data)
            assert entry.mode == (0o440 if self.keeps.modes else NO_MODE)
            assert entry.mtime_ns == (_TIME if self.keeps.mtimes else NO_TIME)
        assert files(store) == []
        if Can.MOVE in self.can:
            store.move([(b".dls-run", b"out/tree")])
            assert {k: get(store, b"out/tree/" + k) for k in bodies} == bodies
            assert len(files(store)) == len(bodies)

    @spec("STORE-25")
    def test_wipe_leaves_nothing(self, store: Store) -> None:
        store.wipe()
        assert not store.exists(), "the root goes too"
        store.wipe()
        assert files(store) == []
        assert store.stamps([b"a/b"]) == [b""]
        with self.again() as other:
            for _ in range(2):
                store.write(b"a/b", [b"1"])
                store.below(b"a/.dls-h").write(b"x", [b"2"])
                if FOLDER in self.keeps.kinds:
                    store.make([Entry(b"a/locked/in", FOLDER), Entry(b"a/locked", FOLDER, mode=0o500)])
                assert store.exists()
                assert other.exists()
                other.wipe()
                assert (store.exists(), files(store)) == (False, [])
                if self.raw:
                    assert self.raw_keys() == []
                put_all(store, {b"a/c": b"what another one wiped is made again"})
                other.wipe()
                if Can.UPLOAD in self.can:
                    begun: Upload = store.upload(b"a/d", 1)
                    begun.abort()
                    other.wipe()
                if LINK in self.keeps.kinds:
                    store.make([Entry(b"a/link", LINK, target=b"x")])
                    other.wipe()

    @spec("STORE-18")
    def test_move_refuses_what_is_there(self, store: Store) -> None:
        if Can.MOVE not in self.can:
            with pytest.raises(Unsupported):
                store.move([(b"a", b"b")])
            return
        put_all(store, {b"f": b"1", b"g": b"2", b"d/x": b"3", b"e/y": b"4"})
        for first, second in ((b"f", b"g"), (b"d", b"e"), (b"d", b"g"), (b"f", b"e")):
            with pytest.raises(Exists):
                store.move([(first, second)])
        for first, second in ((b"d", b"e"), (b"f", b"e"), (b"d", b"f")):
            with pytest.raises(Conflict) as told:
                store.move([(first, second)], over=True)
            assert told.value.facts["key"] == names.show(second)
        assert {k: get(store, k) for k in files(store)} == {b"f": b"1", b"g": b"2", b"d/x": b"3", b"e/y": b"4"}
        store.move([(b"f", b"g"), (b"g", b"new/h"), (b"d", b"new/d")], over=True)
        assert {k: get(store, k) for k in files(store)} == {b"new/h": b"1", b"new/d/x": b"3", b"e/y": b"4"}
        if FOLDER in self.keeps.kinds:
            store.make([Entry(b"empty", FOLDER), Entry(b"void", FOLDER)])
            store.move([(b"e", b"empty"), (b"new/h", b"void")])
            assert files(store) == [b"empty/y", b"new/d/x", b"void"], "an empty folder does not count"
