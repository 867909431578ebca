"""The conformance suite of stores: every rule of `specs/store.md`, for any implementation.

    class TestMine(StoreContract):
        can, keeps, names = frozenset({Can.MOVE}), Keeps(modes=True), Names(part_bytes=255)

        @contextmanager
        def make(self, place):
            with closing(MyStore(place / "root")) as store:
                yield store

Further hooks are in `contract_hooks`.  Register the markers `spec` and `slow` in your own pytest settings.
"""

from __future__ import annotations

import threading
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from dls.logistics import digest as digests
from dls.logistics.entry import FILE
from dls.logistics.errors import Denied, DlsError, Invalid, NotFound, Unavailable, Unsupported
from dls.logistics.store import Can, Item, Store, Want
from dls.logistics.testing.contract_batch import BatchRules
from dls.logistics.testing.contract_bytes import BytesRules
from dls.logistics.testing.contract_history import run_histories
from dls.logistics.testing.contract_hooks import body, files, get, put_all, refusal, together, verbs
from dls.logistics.testing.contract_kinds import KindRules
from dls.logistics.testing.spec import spec

PATIENCE_S = 30.0
"""How long a recall may take in a test, seconds."""


class StoreContract(BytesRules, BatchRules, KindRules):
    """All rules.  STORE-1, STORE-10, STORE-14 … STORE-18 and STORE-26 stand here."""

    @spec("STORE-1")
    def test_capabilities_are_those_promised(self, store: Store) -> None:
        assert isinstance(store, Store)
        assert (store.can, store.keeps, store.names) == (self.can, self.keeps, self.names)
        assert FILE in store.keeps.kinds
        store.write(b"k", [b"x"])
        calls = verbs(store, self.keeps, b"k")
        for verb in Can:
            if verb not in self.can:
                assert refusal(Unsupported, calls[verb], f"{verb} is not promised and works").remedy
        assert files(store) == [b"k"]

    @spec("STORE-10")
    def test_histories_agree_with_a_dict(self, tmp_path: Path) -> None:
        run_histories(self, tmp_path)

    @spec("STORE-14")
    def test_sums_are_those_of_the_bytes(self, store: Store) -> None:
        if Can.SUMS not in self.can:
            with pytest.raises(Unsupported):
                store.sums(b"k")
            return
        for data in (b"", b"small", body(1 << 20)):
            store.write(b"k", [data])
            found = store.sums(b"k")
            assert found, "promised, and none for a file written whole"
            assert found == digests.sums_of(data, found)
        if Can.UPLOAD in self.can:
            data = body(digests.BLOCK + 5)
            upload = store.upload(b"big", len(data))
            for n in (1, 0):
                upload.write(n, data[n * upload.part : (n + 1) * upload.part])
            upload.finish()
            found = store.sums(b"big")
            assert found == digests.sums_of(data, found)

    @spec("STORE-15")
    def test_after_close_every_verb_is_an_error(self, store: Store) -> None:
        store.write(b"k", [b"x"])
        calls = verbs(store, self.keeps, b"k")
        store.close()
        store.close()
        for verb, call in calls.items():
            if verb in set(Can) - self.can:
                continue
            assert refusal(Invalid, call, f"{verb} works on a closed store").code == "closed", verb
        with pytest.raises(Invalid):
            store.below(b"x")
        with self.again() as later, closing(later):
            assert get(later, b"k") == b"x"

    @spec("STORE-16")
    def test_foreign_errors_do_not_cross(self, store: Store) -> None:
        store.write(b"k", [b"x"])
        put_all(store, {b"e": b"x"})
        calls = verbs(store, self.keeps, b"k")
        broken = self.break_it()
        if broken is None:
            pytest.skip("the suite has no way to break this store")
        with broken:
            for verb, call in calls.items():
                if verb in set(Can) - self.can:
                    continue
                error = refusal(DlsError, call, f"{verb} works in a broken place")
                assert isinstance(error, Unavailable | Denied), f"{verb}: {error!r}"
                assert error.__cause__ is not None, f"{verb} does not say what it met"
                self._tells_no_secret(error)
            for met in (
                next(store.fetch([Want(3, b"e", 1)])).error,
                next(store.put([Item(4, b"n", b"x")])).error,
            ):
                assert isinstance(met, Unavailable | Denied), "the failure of one file is a value"
        assert get(store, b"k") == b"x", "and afterwards it serves again"
        assert get(store, b"e") == b"x"

    @spec("STORE-16")
    def test_secrets_do_not_appear(self, store: Store) -> None:
        texts = [store.url, repr(store), str(store)]
        with pytest.raises(NotFound) as told:
            store.stat(b"absent")
        self._tells_no_secret(told.value)
        with pytest.raises(Invalid) as refused:
            store.read(b"../x")
        self._tells_no_secret(refused.value)
        assert not [t for t in texts for s in self.secrets if s in t]

    def _tells_no_secret(self, error: DlsError) -> None:
        shown: list[str] = []
        link: BaseException | None = error
        while link is not None:
            shown += [str(link), repr(link)]
            link = link.__cause__ or link.__context__
        shown.append(str(error.to_json()))
        assert not [text for text in shown for secret in self.secrets if secret in text]

    @spec("STORE-17")
    def test_recall(self, store: Store) -> None:
        store.write(b"a", [b"tape"])
        store.write(b"b", [b"disk"])
        assert store.stat(b"b").online
        if Can.RECALL not in self.can:
            assert [store.stat(e.path).online for e in store.list()] == [True, True]
            with pytest.raises(Unsupported):
                store.recall([b"a"])
            return
        self.take_offline(store, b"a")
        stat = store.stat(b"a")
        assert (stat.online, stat.entry.size) == (False, 4)
        with pytest.raises(Unavailable):
            get(store, b"a")
        errors = {got.i: got.error for got in store.fetch([Want(0, b"a", 4), Want(1, b"b", 4)])}
        assert isinstance(errors[0], Unavailable)
        assert errors[1] is None
        assert files(store) == [b"a", b"b"], "offline keys are listed"
        store.recall([b"a", b"b"])
        pause = threading.Event()
        for _ in range(int(PATIENCE_S / 0.05)):
            if store.stat(b"a").online:
                break
            pause.wait(0.05)
        assert get(store, b"a") == b"tape"
        with pytest.raises(NotFound):
            store.recall([b"absent"])

    @spec("STORE-18")
    def test_move_is_atomic(self, store: Store) -> None:
        if Can.MOVE not in self.can:
            with pytest.raises(Unsupported):
                store.move([(b"a", b"b")])
            return
        store.write(b"one", [b"0"])
        for number in range(1, 4):
            tree = {b"%d/from/%02d" % (number, i): b"%d" % i for i in range(30)}
            put_all(store, {**tree, b"two": b"%d" % number})
            done = threading.Event()
            wrong: list[str] = []
            above = b"%d/" % number
            together(
                partial(self._watch_move, store, above, done, wrong),
                partial(self._move_both, store, above, done),
            )
            assert not wrong
            assert {k: get(store, k) for k in files(store, above)} == {
                k.replace(b"from", b"to"): data for k, data in tree.items()
            }
            assert get(store, b"one") == b"%d" % number

    @staticmethod
    def _move_both(store: Store, above: bytes, done: threading.Event) -> None:
        try:
            store.move([(above + b"from", above + b"to")])
            store.move([(b"two", b"one")], over=True)
        finally:
            done.set()

    @staticmethod
    def _watch_move(store: Store, above: bytes, done: threading.Event, wrong: list[str]) -> None:
        """The order of each pair of questions is such that an atomic move never gives the answer looked for."""
        first, second = above + b"from/%02d", above + b"to/%02d"
        while not done.is_set() and not wrong:
            if store.stamps([first % 29]) == store.stamps([second % 0]) == [b""]:
                wrong.append("for a moment it was at neither place")
            if store.stamps([second % 0]) != [b""] != store.stamps([first % 29]):
                wrong.append("for a moment it was at both places")
            if store.stamps([b"one"]) == [b""]:
                wrong.append("what was to be replaced was gone for a moment")

    @spec("STORE-26")
    def test_sync_and_space(self, store: Store) -> None:
        if Can.SYNC in self.can:
            store.sync()
            store.write(b"a/b", [b"x"])
            store.sync()
            store.below(b"not/there").sync()
        else:
            with pytest.raises(Unsupported):
                store.sync()
        if Can.SPACE not in self.can:
            with pytest.raises(Unsupported):
                store.space()
            return
        for part in (store, store.below(b"not/there")):
            space = part.space()
            assert space.bytes >= 0
            assert space.inodes >= -1
            assert space.block >= 1
