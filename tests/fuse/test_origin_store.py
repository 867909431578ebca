"""Packing from stores: a manifest and bodies by batches, from whatever place."""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components import trees
from dls.fuse import source
from dls.fuse.image import open_image
from dls.fuse.origin_store import StoreOrigin
from dls.fuse.pack import Options, Result, pack
from dls.fuse.reading import Description
from dls.fuse.store import open_image_store
from dls.logistics.entry import FILE, FOLDER, LINK, Entry
from dls.logistics.errors import Conflict, NotFound
from dls.logistics.manifest import Manifest, in_memory
from dls.logistics.store import Store
from dls.logistics.stores.memory import MemoryStore
from dls.logistics.stores.posix import PosixStore
from dls.logistics.transfer.listing import listed
from dls.logistics.transfer.prove import prove
from dls.logistics.transfer.receipt import MemoryReceipts
from dls.logistics.transfer.run import run_copies

HERE = Options(workers=0, attributes=source.user_attributes)
_PLACES = count()


def hashed(store: Store) -> Manifest:
    return prove(store, listed(store), MemoryReceipts()).manifest


def packed(store: Store, manifest: Manifest, image: Path, options: Options = HERE) -> Result:
    opener: Description = ("dls.logistics.registry:open_store", (store.url,))
    return pack(StoreOrigin(store, manifest, opener), str(image), options)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("nasty") / "tree"
    trees.nasty(root, special=False)
    (root / "a").chmod(0o2750)  # a folder with an entry of its own, and `a-b` between it and what is inside
    return root


@pytest.mark.spec("ISTORE-5")
def test_a_folder_as_a_store_gives_its_manifest(tree: Path, tmp_path: Path) -> None:
    store = PosixStore(tree)
    manifest = hashed(store)
    made = packed(store, manifest, tmp_path / "i.sqfs")
    assert made.manifest.digest == manifest.digest
    with open_image(str(tmp_path / "i.sqfs")) as image:
        assert not [error for _, error in image.verify() if error]
        assert {attr.uid for _, attr in image.walk()} == {0}
        assert image.find(b"links/hard").nlink == 2


@pytest.mark.spec("ISTORE-5", "IMAGE-6")
def test_hard_links_whose_names_begin_alike_stay_apart(tmp_path: Path) -> None:
    (tmp_path / "tree" / "d").mkdir(parents=True)
    for name in ("d/one", "d/other", "x"):
        (tmp_path / "tree" / name).write_bytes(b"content of " + name.encode())
        os.link(tmp_path / "tree" / name, tmp_path / "tree" / f"{name}-again")
    store = PosixStore(tmp_path / "tree")
    manifest = hashed(store)
    assert packed(store, manifest, tmp_path / "i.sqfs").manifest.digest == manifest.digest
    with open_image(str(tmp_path / "i.sqfs")) as image:
        for name in (b"d/one", b"d/other", b"x"):
            one, again = image.find(name), image.find(name + b"-again")
            assert one == again
            assert one.nlink == 2
            assert image.read(again) == b"content of " + name


@pytest.mark.spec("ISTORE-5")
def test_the_same_manifest_gives_the_same_bytes_from_any_store(tree: Path, tmp_path: Path) -> None:
    folder, memory = PosixStore(tree), MemoryStore(f"origin-{next(_PLACES)}")
    manifest = hashed(folder)
    assert run_copies(folder, memory, b"", listed(folder), MemoryReceipts(), logs=tmp_path).complete
    packed(folder, manifest, tmp_path / "one.sqfs", HERE._replace(workers=2))
    packed(memory, manifest, tmp_path / "two.sqfs")
    image = open_image_store(PosixStore(tmp_path), b"one.sqfs")
    opener = ("dls.fuse.origin_store:image_store", (str(tmp_path), b"one.sqfs"))
    pack(StoreOrigin(image, manifest, opener), str(tmp_path / "three.sqfs"), HERE._replace(workers=2))
    one = (tmp_path / "one.sqfs").read_bytes()
    assert (tmp_path / "two.sqfs").read_bytes() == one
    assert (tmp_path / "three.sqfs").read_bytes() == one


@pytest.mark.spec("ISTORE-5")
def test_a_listing_without_digests_will_do(tree: Path, tmp_path: Path) -> None:
    store = PosixStore(tree)
    made = packed(store, listed(store).manifest, tmp_path / "i.sqfs")
    assert made.manifest.digest == hashed(store).digest


@pytest.mark.spec("IMAGE-5")
@pytest.mark.parametrize("how", ["grown", "shrunk", "gone"])
@pytest.mark.parametrize("size", [100, 3 << 20, 20 << 20])
def test_what_changed_since_it_was_listed_is_told(tmp_path: Path, how: str, size: int) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    (root / "other").write_bytes(b"other")
    (root / "file").write_bytes(bytes(size))
    store = PosixStore(root)
    manifest = listed(store).manifest
    if how == "grown":
        (root / "file").write_bytes(bytes(size + 1))
    elif how == "shrunk":
        os.truncate(root / "file", size - 1)
    else:
        (root / "file").unlink()
    with pytest.raises((Conflict, NotFound)) as told:
        packed(store, manifest, tmp_path / "i.sqfs")
    assert told.value.code in ("source-changed", "no-such-key")
    assert list(tmp_path.iterdir()) == [root], "nothing is left"


@pytest.mark.spec("ISTORE-5")
@given(st.sets(st.lists(st.sampled_from(["a", "a-", "b", "a0", "."]).filter(lambda p: p != "."), min_size=1, max_size=4)
               .map("/".join), max_size=12), st.randoms(use_true_random=False))  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_any_tree(tmp_path_factory: pytest.TempPathFactory, paths: set[str], rng: object) -> None:
    """Folders come once, before what is in them, and with the attributes that an entry of theirs says."""
    chosen = sorted(p for p in paths if not any(other.startswith(p + "/") for other in paths))
    kinds = (Entry(b"", FILE, mode=0o640), Entry(b"", LINK, target=b"x"), Entry(b"", FOLDER, mode=0o755))
    entries = [kinds[i % 3]._replace(path=p.encode()) for i, p in enumerate(chosen)]
    folders = {p.rpartition("/")[0].encode() for p in chosen} - {b""}
    entries += [Entry(folder, FOLDER, mode=0o700) for i, folder in enumerate(sorted(folders)) if i % 2]
    store = MemoryStore(f"origin-{next(_PLACES)}")
    for entry in entries:
        if entry.kind == FILE:
            store.write(entry.path, [b""])
    manifest = in_memory(sorted(entries))
    path = tmp_path_factory.mktemp("any") / "i.sqfs"
    made = packed(store, manifest, path)
    with open_image(str(path)) as image:
        inside = [name for name, _ in image.walk()]
    every = {"/".join(p.split("/")[:n]) for p in chosen for n in range(1, p.count("/") + 2)}
    assert sorted(inside) == sorted(name.encode() for name in every), "each name once"
    found = [e._replace(digest=bytes(32)) for e in made.manifest]
    wanted = [e._replace(mtime_ns=f.mtime_ns) for e, f in zip(sorted(entries), found, strict=True)]
    assert found == wanted
