"""Images as stores: what the shared suite (tests/conformance/test_image_stores.py) cannot ask."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from components import trees
from dls.fuse import source
from dls.fuse.image import open_image
from dls.fuse.layering import layer
from dls.fuse.pack import Options, pack
from dls.fuse.store import ImageStore, entries_of, open_image_store
from dls.logistics.entry import FILE, Entry
from dls.logistics.errors import Corrupt, DlsError, Invalid, NotFound, Unsupported
from dls.logistics.store import Item, Store, Want
from dls.logistics.stores.memory import MemoryStore
from dls.logistics.stores.posix import PosixStore
from dls.logistics.transfer.listing import known, listed
from dls.logistics.transfer.prove import prove
from dls.logistics.transfer.receipt import MemoryReceipts
from dls.logistics.transfer.run import run_copies

HERE = Options(workers=0, attributes=source.user_attributes)
_PLACES = count()


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("nasty") / "tree"
    trees.nasty(root, special=False)
    return root


@pytest.fixture(scope="module")
def image(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "nasty.sqfs"
    pack(str(tree), str(path), HERE)
    return path


@pytest.fixture
def store(image: Path) -> ImageStore:
    return open_image_store(PosixStore(image.parent), b"nasty.sqfs")


@pytest.mark.spec("ISTORE-1")
def test_it_lists_what_the_folder_lists(tree: Path, store: ImageStore) -> None:
    folder = PosixStore(tree)
    for prefix in (b"", b"a", b"names/", b"sizes", b"links/", b"none"):
        assert list(store.list(prefix)) == list(folder.list(prefix)), prefix
    assert list(store.below(b"links").list()) == list(folder.below(b"links").list())
    assert list(entries_of(store.tree.items())) == list(folder.list()), "without a manifest too"


@pytest.mark.spec("ISTORE-1")
def test_every_body_is_that_of_the_folder(tree: Path, store: ImageStore) -> None:
    files = [e for e in store.list() if e.kind == FILE]
    order: list[int] = []
    for got in store.fetch([Want(i, e.path, e.size) for i, e in enumerate(files) if e.size <= 1 << 20]):
        assert got.error is None
        order.append(got.i)
        with open(os.fsencode(tree) + b"/" + files[got.i].path, "rb") as file:
            assert bytes(got.body) == file.read()
    places = [(a.b, a.c) for a in (store.tree.find(files[i].path) for i in order) if a.b != 0xFFFFFFFF]
    assert len(places) > 50
    assert places == sorted(places), "in the order in which they lie"


@pytest.mark.spec("ISTORE-2")
def test_what_would_write_is_refused_at_the_call(image: Path, store: ImageStore) -> None:
    before = image.read_bytes()
    assert isinstance(store, Store)
    calls: list[Callable[[], object]] = [
        lambda: store.write(b"k", iter([b"y"])),
        lambda: store.put(iter([Item(0, b"k", b"y")])),
        lambda: store.delete(b"a-b"),
        lambda: store.make([Entry(b"k", 2)]),
        lambda: store.upload(b"k", 1),
        lambda: store.move([(b"a-b", b"l")]),
        lambda: store.wipe(),
        lambda: store.below(b"names").wipe(),
        lambda: store.sync(),
        lambda: store.space(),
        lambda: store.recall([b"a-b"]),
        lambda: store.sums(b"a-b"),
    ]
    for call in calls:
        with pytest.raises(Unsupported) as told:
            call()
        assert told.value.code == "no-such-verb"
        assert told.value.remedy
    for call in (lambda: store.write(b"../k", []), lambda: store.delete(b"a//b"), lambda: store.upload(b"", 1)):
        with pytest.raises(Invalid):
            call()
    store.make([])
    assert image.read_bytes() == before


@pytest.mark.spec("ISTORE-3")
def test_a_stamp_is_that_of_the_image(tmp_path: Path, image: Path) -> None:
    copy, above = tmp_path / "i.sqfs", PosixStore(tmp_path)
    copy.write_bytes(image.read_bytes())
    keys = [b"a-b", b"names", b"none"]
    before = open_image_store(above, b"i.sqfs").stamps(keys)
    assert [bool(stamp) for stamp in before] == [True, True, False]
    assert open_image_store(above, b"i.sqfs").stamps(keys) == before
    os.utime(copy)
    after = open_image_store(above, b"i.sqfs").stamps(keys)
    assert before[0] != after[0] != b"", "somebody touched it"


@pytest.mark.spec("ISTORE-3")
@pytest.mark.parametrize("where", ["folder", "memory"])
def test_what_is_damaged_is_told_of_the_file(tmp_path: Path, image: Path, where: str) -> None:
    data = bytearray(image.read_bytes())
    with open_image(str(image)) as found:
        attr = found.find(b"sizes/text-16384")
        at, _, _ = found.index.blocks[attr.b if attr.b != 0xFFFFFFFF else attr.a]
    data[at] ^= 0xFF
    above: Store = PosixStore(tmp_path) if where == "folder" else MemoryStore(f"damaged-{next(_PLACES)}")
    above.write(b"i.sqfs", [bytes(data)])
    store = open_image_store(above, b"i.sqfs")
    (bad,) = store.fetch([Want(0, b"sizes/text-16384", 16384)])
    assert isinstance(bad.error, Corrupt)
    with pytest.raises(Corrupt):
        list(store.read(b"sizes/text-16384"))
    proof = prove(store, known(store.tree.manifest), MemoryReceipts())
    assert {key for key, _ in proof.corrupt.shown} >= {b"sizes/text-16384"}
    assert proof.read > 50, "all else is right"


@pytest.mark.spec("ISTORE-4")
def test_what_is_no_image_is_not_opened(tmp_path: Path, image: Path) -> None:
    above = PosixStore(tmp_path)
    with pytest.raises(NotFound) as gone:
        open_image_store(above, b"none.sqfs")
    assert gone.value.code == "no-such-key"
    for name, data, code in (
        (b"text", b"no image", "not-an-image"),
        (b"short", image.read_bytes()[:-100], "bad-image"),
        (b"other", b"x" + image.read_bytes()[1:], "bad-image"),
    ):
        above.write(name, [data])
        with pytest.raises(DlsError) as told:
            open_image_store(above, name)
        assert told.value.code == code


@pytest.mark.spec("ISTORE-1")
def test_a_transfer_reads_it_like_a_folder(tmp_path: Path, tree: Path, store: ImageStore) -> None:
    target = PosixStore(tmp_path)
    wanted = known(store.tree.manifest)
    done = run_copies(store, target, b"out", wanted, MemoryReceipts(), logs=tmp_path / "logs")
    assert done.complete
    assert list(target.below(b"out").list()) == list(PosixStore(tree).list())
    found = prove(store, listed(store), MemoryReceipts()).manifest
    assert found.digest == wanted.manifest.digest, "registered from the image it is the same"


@pytest.mark.spec("ISTORE-1", "ISTORE-3")
def test_a_layer_is_read_with_what_it_lies_on(tmp_path: Path) -> None:
    root, above = tmp_path / "tree", PosixStore(tmp_path)
    (root / "d").mkdir(parents=True)
    for name in ("a", "b", "c"):
        (root / "d" / name).write_bytes(name.encode() * 1000)
    pack(str(root), str(tmp_path / "base.sqfs"), HERE)
    (root / "d" / "b").write_bytes(b"changed")
    (root / "d" / "c").unlink()
    (root / "d" / "e").write_bytes(b"new")
    layer(str(tmp_path / "base.sqfs"), str(root), str(tmp_path / "v2.sqfs"), HERE)
    store = open_image_store(above, b"v2.sqfs")
    assert [e.path for e in store.list()] == [b"d/a", b"d/b", b"d/e"]
    assert list(store.list()) == list(PosixStore(root).list())
    wants = [Want(0, b"d/a", 1000), Want(1, b"d/b", 7), Want(2, b"d/e", 3)]
    assert {got.i: bytes(got.body) for got in store.fetch(wants)} == {0: b"a" * 1000, 1: b"changed", 2: b"new"}
    before = store.stamps([b"d/a"])
    assert open_image_store(above, b"v2.sqfs").stamps([b"d/a"]) == before
    os.utime(tmp_path / "base.sqfs")
    assert open_image_store(above, b"v2.sqfs").stamps([b"d/a"]) != before, "what it lies on was touched"
    (tmp_path / "base.sqfs").unlink()
    with pytest.raises(NotFound) as told:
        open_image_store(above, b"v2.sqfs")
    assert told.value.code == "no-base"
