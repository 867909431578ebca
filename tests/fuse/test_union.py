"""Unions and layers: any tree, any edits, beside the edited tree and the kernel's overlayfs."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components import trees
from components.edits import Edit, do, paths, remove, some
from dls.fuse import mounting, source
from dls.fuse import union as unions
from dls.fuse.image import Image, open_image
from dls.fuse.layering import Edits, compact, layer
from dls.fuse.layers import open_stack
from dls.fuse.origin import TreeOrigin
from dls.fuse.pack import Options, pack
from dls.fuse.source import Item
from dls.fuse.tree import Tree
from dls.fuse.union import Union
from dls.fuse.unpack import unpack
from dls.logistics.errors import NotFound

HERE = Options(workers=0, attributes=source.all_attributes)
FIELDS = "%P|%y|%m|%U|%G|%n|%l|%T@"

# ---------------------------------------------------------------------------------------------------------- any edits


def plain(tree: Tree) -> list[Item]:
    """Everything in a tree, hard-link groups numbered as they are met."""
    groups: dict[object, int] = {}
    out = []
    for item in tree.items():
        number = groups.setdefault(item.group, len(groups)) if item.group else -1
        out.append(item._replace(group=(0, number)))
    return out


def agree(one: Tree, other: Tree) -> None:
    """Two trees are the same in everything that a reader sees, whichever way it is asked."""
    assert plain(one) == plain(other)
    assert (one.manifest.digest, one.manifest.content) == (other.manifest.digest, other.manifest.content)
    walked = dict(one.walk())
    assert set(walked) == {path for path, _ in other.walk()}
    assert len({attr.node for attr in walked.values() if attr.mode >> 12 == 4}) == one_folders(walked.values())
    for path, attr in other.walk():
        found = one.find(path)
        assert found == walked[path] == one.attr(found.node)
        assert (found.mode, found.nlink, found.mtime_ns) == (attr.mode, attr.nlink, attr.mtime_ns), path
        if attr.mode >> 12 == 8:
            assert one.read(found) == other.read(attr)
            assert one.read(found, 3, 70_000) == other.read(attr, 3, 70_000)
        if attr.mode >> 12 == 4:
            assert set(listed(one, found.node)) == set(one.listdir(path)) == set(other.listdir(path))
    for layer_ in one.trees if isinstance(one, Union) else ():
        for path in {path for path, _ in layer_.walk()} - set(walked):
            with pytest.raises(NotFound):
                one.find(path)


def one_folders(attrs: object) -> int:
    return sum(attr.mode >> 12 == 4 for attr in attrs)  # type: ignore[attr-defined]


def listed(tree: Tree, folder: int, size: int = 700) -> list[bytes]:
    """Names as the kernel reads them: reply by reply, each going on at the cookie of the last record."""
    out: list[bytes] = []
    offset = 0
    while pieces := tree.listing(folder, offset, size):
        assert sum(map(len, pieces)) <= size
        data = b"".join(pieces)
        at = 0
        while at < len(data):
            length = int.from_bytes(data[at + 144 : at + 148], "little")
            out.append(data[at + 152 : at + 152 + length])
            if len(out) > 2:  # what a listing tells is what a look-up tells
                assert data[at : at + 128] == tree.lookup(folder, out[-1])[:128], out[-1]
            offset = int.from_bytes(data[at + 136 : at + 144], "little")
            at += 152 + (length + 7 & ~7)
    assert out[:2] == [b".", b".."]
    assert len(out) == len(set(out))
    return out[2:]


@pytest.mark.spec("LAYER-1", "LAYER-2", "LAYER-5", "LAYER-8", "LAYER-9")
@pytest.mark.slow
@settings(max_examples=80)
@given(steps=st.lists(some, min_size=2, max_size=4))
def test_layers_of_any_edits(steps: list[list[Edit]], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("edits")
    tree = folder / "tree"
    tree.mkdir()
    for number, edits in enumerate(steps):
        do(tree, edits)
        image = str(folder / f"v{number}.sqfs")
        if number:
            layer(str(folder / f"v{number - 1}.sqfs"), str(tree), image, HERE)
        else:
            pack(str(tree), image, HERE)
        pack(str(tree), str(folder / "direct.sqfs"), HERE._replace(replace=True))
        with open_stack(image) as stack, open_image(str(folder / "direct.sqfs")) as direct:
            assert isinstance(stack, Union) == bool(number)
            agree(stack, direct)
            assert not [error for _, error in stack.verify() if error]
            if number:  # the same tree out of an image is the same layer
                origin = TreeOrigin(direct, ("dls.fuse.image:open_image", (str(folder / "direct.sqfs"),)))
                layer(str(folder / f"v{number - 1}.sqfs"), origin, str(folder / "of.sqfs"), HERE._replace(replace=True))
                assert (folder / "of.sqfs").read_bytes() == Path(image).read_bytes()
        compact(image, str(folder / "one.sqfs"), HERE._replace(replace=True))
        assert (folder / "one.sqfs").read_bytes() == (folder / "direct.sqfs").read_bytes()
    layer(image, str(tree), str(folder / "same.sqfs"), HERE)
    with open_image(str(folder / "same.sqfs")) as same:
        assert same.listdir() == []  # nothing differs
    shutil.rmtree(folder)


@pytest.mark.spec("LAYER-6")
@settings(max_examples=40)
@given(first=some, over=some, gone=st.lists(paths, max_size=3))
def test_laying_over_and_deleting(
    first: list[Edit], over: list[Edit], gone: list[bytes],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    folder = tmp_path_factory.mktemp("over")
    for name, edits in (("tree", first), ("new", over)):
        (folder / name).mkdir()
        do(folder / name, edits)
    pack(str(folder / "tree"), str(folder / "base.sqfs"), HERE)
    root = os.fsencode(folder / "tree")
    gone = [path for path in gone if os.path.lexists(root + b"/" + path)]
    gone = [path for path in gone if not any(path.startswith(other + b"/") for other in gone)]
    layer(str(folder / "base.sqfs"), str(folder / "new"), str(folder / "l.sqfs"), HERE, Edits(True, tuple(gone)))
    info = os.stat(root)
    for path in set(gone):
        remove(root + b"/" + path)
    for above, folders, files in os.walk(os.fsencode(folder / "new")):
        inside = above[len(os.fsencode(folder / "new")) :]
        for name in (*folders, *files):
            old, new = root + inside + b"/" + name, above + b"/" + name
            is_folder = stat.S_ISDIR(os.lstat(new).st_mode)
            if os.path.lexists(old) and not (is_folder and stat.S_ISDIR(os.lstat(old).st_mode)):
                remove(old)
    subprocess.run(["cp", "-a", f"{folder}/new/.", f"{folder}/tree/"], check=True)
    for above, folders, _ in os.walk(os.fsencode(folder / "new")):
        for name in folders:  # attributes that are gone are gone, times are those of the new ones
            new, old = above + b"/" + name, root + above[len(os.fsencode(folder / "new")) :] + b"/" + name
            for attribute in set(os.listxattr(old)) - set(os.listxattr(new)):
                os.removexattr(old, attribute)
    _times_of_deleted(root, folder / "base.sqfs", os.fsencode(folder / "new"))
    os.chmod(root, stat.S_IMODE(info.st_mode))
    os.chown(root, info.st_uid, info.st_gid)
    for attribute in os.listxattr(root):
        os.removexattr(root, attribute)
    os.utime(root, ns=(info.st_mtime_ns, info.st_mtime_ns))
    pack(str(folder / "tree"), str(folder / "direct.sqfs"), HERE)
    with open_stack(str(folder / "l.sqfs")) as stack, open_image(str(folder / "direct.sqfs")) as direct:
        agree(stack, direct)
    shutil.rmtree(folder)


def _times_of_deleted(root: bytes, base: Path, new: bytes) -> None:
    """A folder that something was deleted from keeps its time: a layer changes what it was told to, no more."""
    with open_image(str(base)) as image:
        for path, attr in image.walk():
            full = root + b"/" + path
            if attr.mode >> 12 == 4 and os.path.isdir(full) and not os.path.isdir(new + b"/" + path):
                os.utime(full, ns=(attr.mtime_ns, attr.mtime_ns))


# ---------------------------------------------------------------------------------------------------- beside the kernel


@contextlib.contextmanager
def overlay(images: list[Path], folder: Path) -> Iterator[Path]:
    """The kernel's own stack of its own mounts; the highest first."""
    with contextlib.ExitStack() as stack:
        lower = []
        for number, image in enumerate(images):
            below = folder / f"k{number}"
            below.mkdir()
            subprocess.run(["mount", "-t", "squashfs", "-o", "loop,ro", image, below], check=True)
            stack.callback(subprocess.run, ["umount", below], check=True)
            lower.append(str(below))
        found = folder / "overlay"
        found.mkdir()
        subprocess.run(["mount", "-t", "overlay", "-o", "lowerdir=" + ":".join(lower), "overlay", found], check=True)
        stack.callback(subprocess.run, ["umount", found], check=True)
        yield found


@contextlib.contextmanager
def ours(stack: str, folder: Path, **options: object) -> Iterator[Path]:
    folder.mkdir()
    keeper = mounting.in_background(
        stack, lambda: open_stack(stack), str(folder), mounting.MountOptions(**options), f"{folder}.log"
    )  # type: ignore[arg-type]
    try:
        yield folder
    finally:
        mounting.unmount(str(folder), lazy=True)
        until = time.monotonic() + 20
        while time.monotonic() < until:
            with contextlib.suppress(ChildProcessError):
                if os.waitpid(keeper, os.WNOHANG)[0] == 0:
                    time.sleep(0.02)
                    continue
            break


def attributes(path: Path) -> list[str]:
    """An image without any says so in other words."""
    try:
        return sorted(os.listxattr(path))
    except OSError as exc:
        if exc.errno != errno.EOPNOTSUPP:
            raise
        return []


def changed(tree: Path) -> None:
    """Every kind of change."""
    top = os.fsencode(tree)
    shutil.rmtree(top + b"/names")
    (tree / "names").write_bytes(b"a file where a folder was")
    (tree / "a-b").unlink()
    (tree / "a-b").mkdir()
    (tree / "a-b" / "new").write_bytes(b"a folder where a file was")
    (tree / "many" / "00000-").unlink()
    (tree / "many" / "00005-nnnnn").write_bytes(b"changed")
    os.chmod(tree / "many" / "00006-nnnnnn", 0o600)
    (tree / "many" / "zz").write_bytes(b"added")
    shutil.rmtree(tree / "many" / "folder-001")
    (tree / "many" / "folder-002" / "deep" / "er").mkdir(parents=True)
    (tree / "sizes" / "large").write_bytes(b"small now, by both of its names")
    (tree / "links" / "to").unlink()
    os.symlink("elsewhere", tree / "links" / "to")
    shutil.rmtree(tree / "a")
    (tree / "a").mkdir()
    (tree / "a" / "y").write_bytes(b"another folder of the same name")
    os.setxattr(tree / "a0", b"user.note", b"another")
    os.setxattr(tree / "a0", b"trusted.note", b"another")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[Path]]:
    """(folder, the tree as it is now, the images of the stack, the highest first)."""
    folder = tmp_path_factory.mktemp("stack")
    tree = folder / "tree"
    trees.nasty(tree)
    os.setxattr(tree / "a0", b"user.note", b"kept")
    pack(str(tree), str(folder / "v1.sqfs"), HERE)
    changed(tree)
    layer(str(folder / "v1.sqfs"), str(tree), str(folder / "v2.sqfs"), HERE)
    (tree / "a" / "z").write_bytes(b"3")
    (tree / "many" / "zz").unlink()
    (tree / "many" / "00000-").write_bytes(b"back")
    layer(str(folder / "v2.sqfs"), str(tree), str(folder / "v3.sqfs"), HERE)
    return folder, tree, [folder / f"v{n}.sqfs" for n in (3, 2, 1)]


@pytest.mark.service
@pytest.mark.spec("LAYER-1", "LAYER-4")
def test_a_mount_is_the_edited_tree(stack: tuple[Path, Path, list[Path]], tmp_path: Path) -> None:
    _, tree, images = stack
    assert images[0].stat().st_size + images[1].stat().st_size < 40_000
    with ours(str(images[0]), tmp_path / "m", servers=2) as found:
        assert not trees.differences(tree, found)
        assert not any((found / name).exists() for name in ("a/x", "links/none", "many/folder-001", "many/zz"))
        assert trees.shown(found, FIELDS) == trees.shown(tree, FIELDS)
        assert sorted(os.listxattr(found / "a0")) == ["trusted.note", "user.note"]
        assert os.getxattr(found / "a0", b"user.note") == b"another"
        assert os.listxattr(found / "a") == []
        inodes = [line.split(b"|")[1:] for line in trees.shown(found, "%P|%i|%n|%y")]
        alone = [row[0] for row in inodes if len(row) == 3 and row[1] == b"1"]
        assert len(alone) == len(set(alone))
        for command in ("tar c --sort=name -C {} . | sha256sum", "rsync -acn --itemize-changes {}/ " + f"{tree}/"):
            a, b = (subprocess.check_output(command.format(where), shell=True) for where in (tree, found))
            assert a == b


@pytest.mark.service
@pytest.mark.spec("LAYER-3")
def test_the_kernel_shows_the_same(stack: tuple[Path, Path, list[Path]], tmp_path: Path) -> None:
    """Without anything of ours: kernel SquashFS below the kernel's overlayfs."""
    _, tree, images = stack
    with overlay(images, tmp_path) as found, ours(str(images[0]), tmp_path / "m") as mine:
        assert not trees.differences(tree, found)
        fields = "%P|%y|%m|%U|%G|%l|%TY-%Tm-%Td %TH:%TM"  # seconds and links of folders are not in theirs
        assert trees.shown(found, fields) == trees.shown(tree, fields) == trees.shown(mine, fields)
        for name in ("a0", "a", "many"):
            assert attributes(found / name) == attributes(mine / name)
        assert os.getxattr(found / "a0", b"trusted.note") == b"another"


@pytest.mark.service
@pytest.mark.spec("LAYER-3")
@settings(max_examples=15)
@given(steps=st.lists(some, min_size=2, max_size=3))
def test_the_kernel_shows_the_same_of_any_edits(
    steps: list[list[Edit]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("kernel")
    tree = folder / "tree"
    tree.mkdir()
    images: list[Path] = []
    for number, edits in enumerate(steps):
        do(tree, [one for one in edits if one[0] != "pipe"])  # diff says nothing of them
        image = folder / f"v{number}.sqfs"
        if images:
            layer(str(images[0]), str(tree), str(image), HERE)
        else:
            pack(str(tree), str(image), HERE)
        images.insert(0, image)
    with overlay(images, folder) as found:
        fields = "%P|%y|%m|%U|%G|%l|%TY-%Tm-%Td %TH:%TM"
        assert not trees.differences(tree, found)
        assert trees.shown(found, fields) == trees.shown(tree, fields)
    shutil.rmtree(folder)


# -------------------------------------------------------------------------------------------------------- the machinery


@pytest.mark.spec("LAYER-7")
def test_a_server_that_was_told_nothing(stack: tuple[Path, Path, list[Path]]) -> None:
    """Numbers of merged folders are the same for every process that opens the stack."""
    _, _, images = stack
    with open_stack(str(images[0])) as one, open_stack(str(images[0])) as other:
        for path, attr in one.walk():
            assert other.attr(attr.node) == attr, path
            if attr.mode >> 12 == 4:
                assert listed(other, attr.node) == listed(one, attr.node)


@pytest.mark.spec("LAYER-7")
def test_plans_are_bounded(stack: tuple[Path, Path, list[Path]], monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, images = stack
    monkeypatch.setattr(unions, "KEPT", 1)
    with open_stack(str(images[0])) as found, open_image(str(images[2])) as base:
        assert isinstance(found, Union)
        assert len(list(found.walk())) > len(list(base.walk())) // 2
        assert len(found._plans) == 1
        assert listed(found, found.find(b"many").node) != []


@pytest.mark.spec("LAYER-7")
def test_the_lowest_listing_is_handed_on_as_it_lies(stack: tuple[Path, Path, list[Path]]) -> None:
    _, _, images = stack
    with open_stack(str(images[0])) as found, open_image(str(images[2])) as base:
        node = base.find(b"empty").node
        assert found.find(b"empty") == base.find(b"empty")
        assert found.listing(node, 0, 1 << 16) == base.listing(node, 0, 1 << 16)


@pytest.mark.spec("IMAGE-9", "LAYER-7")
@pytest.mark.parametrize("size", [512, 4096, 1 << 20])
def test_whoever_seeks_to_where_no_record_begins_is_given_records(
    stack: tuple[Path, Path, list[Path]], size: int
) -> None:
    """Any user may seek in a folder; made-up names would stay in the kernel, for everybody."""
    _, _, images = stack
    for tree in (open_image(str(images[2])), open_stack(str(images[0]))):
        with tree:
            for node in (tree.root, tree.find(b"many").node):
                every = [b".", b"..", *listed(tree, node)]
                told = [offset for offset, _ in sought(tree, node, 0, 1 << 20)]
                for offset in sorted({near + by for near in (0, *told[::41]) for by in (1, 8, 16, 152, 300, 4000)}):
                    for _, name in sought(tree, node, offset, size):
                        assert name in every, (offset, name)


def sought(tree: Tree, folder: int, offset: int, size: int) -> list[tuple[int, bytes]]:
    """Cookies and names in one reply."""
    data, out, at = b"".join(tree.listing(folder, offset, size)), list[tuple[int, bytes]](), 0
    while at < len(data):
        cookie, length = struct.unpack_from("<QI", data, at + 136)
        out.append((cookie, data[at + 152 : at + 152 + length]))
        at += 152 + (length + 7 & ~7)
    assert at == len(data)
    return out


@pytest.mark.spec("LAYER-10")
def test_fifty_deep(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "d").mkdir(parents=True)
    (tree / "d" / "f0").write_bytes(b"0")
    pack(str(tree), str(tmp_path / "v0.sqfs"), HERE)
    for n in range(1, 51):
        (tree / "d" / f"f{n}").write_bytes(b"%d" % n)
        if n % 3 == 0:
            (tree / "d" / f"f{n - 2}").unlink()
        layer(str(tmp_path / f"v{n - 1}.sqfs"), str(tree), str(tmp_path / f"v{n}.sqfs"), HERE)
    before = len(os.listdir("/proc/self/fd"))
    with open_stack(str(tmp_path / "v50.sqfs")) as found:
        assert len(os.listdir("/proc/self/fd")) - before <= 2 * 51
        unpack(found, str(tmp_path / "out"))
        assert len([tree for tree in found.trees if isinstance(tree, Image)]) == 51  # type: ignore[attr-defined]
    del found
    assert len(os.listdir("/proc/self/fd")) == before
    assert not trees.differences(tree, tmp_path / "out")
    assert trees.shown(tree, FIELDS) == trees.shown(tmp_path / "out", FIELDS)
