"""One file of a store under another name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dls.logistics.errors import DlsError, Invalid, NotFound, Unsupported
from dls.logistics.store import Store, Want
from dls.logistics.stores.one import OneStore
from dls.logistics.stores.posix import PosixStore
from dls.logistics.transfer.listing import listed
from dls.logistics.transfer.receipt import MemoryReceipts
from dls.logistics.transfer.run import run_copies


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "long name").write_bytes(b"0123456789")
    (tmp_path / "there" / "other").write_bytes(b"other")
    return tmp_path


@pytest.mark.spec("ONE-1")
def test_it_has_one_key_and_what_lies_there(place: Path) -> None:
    above = PosixStore(place / "there")
    one = OneStore(above, b"long name", b"short")
    assert isinstance(one, Store)
    (entry,) = one.list()
    assert (entry.path, entry.size) == (b"short", 10)
    assert one.stat(b"short").entry == entry
    assert list(one.list(b"sho")) == [entry]
    assert list(one.list(b"long")) == []
    assert b"".join(one.read(b"short", 2, 5)) == b"234"
    assert one.stamps([b"short", b"long name", b"other"]) == [above.stamps([b"long name"])[0], b"", b""]
    answers = {got.i: got for got in one.fetch([Want(1, b"short", 10), Want(2, b"other", 5)])}
    assert bytes(answers[1].body) == b"0123456789"
    assert isinstance(answers[2].error, NotFound)
    assert one.url == f"file://{place}/there/long name"
    (place / "there" / "long name").unlink()
    assert (one.exists(), list(one.list())) == (False, [])


@pytest.mark.spec("ONE-1")
def test_it_is_only_read(place: Path) -> None:
    one = OneStore(PosixStore(place / "there"), b"other", b"k")
    for call in (
        lambda: one.write(b"k", [b"x"]),
        lambda: one.put([]),
        lambda: one.delete(b"k"),
        lambda: one.upload(b"k", 1),
        lambda: one.move([(b"k", b"l")]),
        lambda: one.wipe(),
        lambda: one.sync(),
        lambda: one.space(),
        lambda: one.recall([b"k"]),
        lambda: one.sums(b"k"),
    ):
        with pytest.raises(Unsupported) as told:
            call()
        assert told.value.remedy
    for key in (b"other", b"k/below"):
        with pytest.raises(NotFound):
            one.stat(key)
    with pytest.raises(Invalid):
        one.below(b"x")
    one.close()
    for call in (lambda: one.stat(b"k"), lambda: list(one.list()), lambda: list(one.fetch([])), lambda: one.exists()):
        with pytest.raises(DlsError) as closed:
            call()
        assert closed.value.code == "closed"
    assert (place / "there" / "other").read_bytes() == b"other"


@pytest.mark.spec("ONE-1")
def test_a_transfer_gives_it_its_new_name(place: Path) -> None:
    (place / "there" / "large").write_bytes(os.urandom(70 << 20))
    one = OneStore(PosixStore(place / "there"), b"large", b"image.sqfs")
    done = run_copies(one, PosixStore(place), b"out", listed(one), MemoryReceipts(), logs=place / "logs")
    assert done.complete
    assert (place / "out" / "image.sqfs").read_bytes() == (place / "there" / "large").read_bytes()
    assert [p.name for p in (place / "out").iterdir()] == ["image.sqfs"]
