"""Images that are an EROFS for the kernel: what its own programs say, what lies where, what is refused.

That mounts agree with the tree in every field, and that two packs are the same bytes: `test_agreement.py`.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import random
import stat
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from components import trees
from components.http_plain import python_server
from dls.fuse import erofs, files, source, spool, squashfs
from dls.fuse.blocks import AS_IT_IS
from dls.fuse.codec import BYTES, PARTS, RAW
from dls.fuse.image import open_image
from dls.fuse.layering import compact, layer
from dls.fuse.layers import open_stack
from dls.fuse.opening import open_tree
from dls.fuse.pack import Options, asked, pack
from dls.fuse.spool import Spool
from dls.fuse.squashfs import NONE, Node, Where
from dls.fuse.unpack import unpack
from dls.logistics.errors import Corrupt, DlsError, Invalid, Unsupported

HERE = Options(AS_IT_IS, workers=0, attributes=source.all_attributes)
root = pytest.mark.skipif(os.geteuid() != 0, reason="the kernel's mount needs root")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("nasty") / "tree"
    trees.nasty(made)
    return made


@pytest.fixture(scope="module")
def image(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("images") / "nasty.erofs")
    pack(str(tree), path, HERE)
    return path


@contextlib.contextmanager
def by_kernel(image: str | Path, folder: Path) -> Iterator[Path]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "erofs", "-o", "loop,ro", image, folder], check=True, capture_output=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def said(*words: str) -> str:
    """What a program says, on both channels; it must not fail."""
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.spec("IMAGE-16")
def test_its_own_programs_find_nothing_wrong(image: str) -> None:
    assert said("fsck.erofs", image) == ""
    lines = dict(map(str.strip, line.split(":", 1)) for line in said("dump.erofs", "-s", image).splitlines() if line)
    with open_image(image) as found:
        used = found.index.header.image["bytes"]
        counts = found.index.header.counts
    assert int(lines["Filesystem blocks"]) * erofs.BLOCK == used
    assert os.path.getsize(image) > used
    # A hard link is a name more; of the nasty tree there are two.
    kinds = ("files", "folders", "links", "others")
    assert int(lines["Filesystem inode count"]) == sum(counts[kind] for kind in kinds) - 2
    assert lines["Filesystem features"] == "sb_csum mtime chunked_file"
    assert "Layout: 0" in said("dump.erofs", "--path=/sizes/random-131073", image)
    assert "Layout: 4" in said("dump.erofs", "--path=/sizes/hole", image)


@pytest.mark.spec("IMAGE-16")
def test_without_holes_it_has_features_that_every_kernel_has(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "one").write_bytes(b"1")
    pack(str(tmp_path / "tree"), str(tmp_path / "i.erofs"), HERE)
    assert "Filesystem features:                          sb_csum mtime \n" in said(
        "dump.erofs", "-s", str(tmp_path / "i.erofs")
    )


@pytest.mark.spec("IMAGE-16", "IMAGE-6")
def test_data_lie_as_they_are_from_the_beginning_of_a_block(tree: Path, image: str) -> None:
    plain = Path(image).read_bytes()
    with open_image(image) as found:
        rows = [found.index.blocks[n] for n in range(found.index.blocks.count)]
        assert all(at % erofs.BLOCK == 0 and (not size or size & RAW) and not size & PARTS for at, size, _ in rows)
        for name in (b"sizes/random-100", b"sizes/text-131073", b"sizes/large", b"names/a\nb"):
            attr = found.find(name)
            at = found.index.blocks[attr.a][0]
            assert plain[at : at + attr.size] == (tree / os.fsdecode(name)).read_bytes()
        assert found.find(b"again").a == found.find(b"sizes/text-16384").a
        hole, holes = found.find(b"sizes/hole"), found.find(b"sizes/all-hole")
        stored = [found.index.blocks[hole.a + n][1] & BYTES for n in range(16)]
        assert [bool(size) for size in stored] == [True, *[False] * 7, True, *[False] * 7]
        assert holes.blocks == 0
        unique = {at: size & BYTES for at, size, _ in rows}
        assert found.index.header.image["bytes"] < sum(size + 4095 for size in unique.values()) + (1500 << 12)


@pytest.mark.spec("IMAGE-16", "IMAGE-9")
def test_it_reads_verifies_and_unpacks_like_any_image(tree: Path, image: str, tmp_path: Path) -> None:
    with open_image(image) as found:
        for path, attr in found.walk():
            if attr.mode >> 12 == 8:
                assert found.read(attr) == (tree / os.fsdecode(path)).read_bytes()
        assert [error for _, error in found.verify() if error] == []
        unpack(found, str(tmp_path / "out"))
    assert trees.differences(tree, tmp_path / "out") == ""
    with files.open_image(image) as found_files:
        view = found_files.view("sizes/random-131073", 5, 100_000)
        assert view == (tree / "sizes" / "random-131073").read_bytes()[5:100_000]
        assert isinstance(view.obj, mmap.mmap), "no copy"


@root
@pytest.mark.spec("IMAGE-16", "IMAGE-2")
def test_attributes_owners_and_times(tmp_path: Path) -> None:
    """Extended attributes of every kind of inode, also more than a block of them; owners and times beyond SquashFS."""
    made = tmp_path / "tree"
    (made / "folder" / "inside").mkdir(parents=True)
    (made / "file").write_bytes(b"with attributes")
    with open(made / "sparse", "wb") as sparse:
        sparse.truncate(300_000)
        sparse.write(b"begin")
    (made / "empty").touch()
    os.symlink("text of a link " * 200, made / "link")  # 3,000 bytes: with attributes too long to lie in one block
    os.symlink("short", made / "short")
    os.mkfifo(made / "pipe")
    acl = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", tag, 4, who) for tag, who in ((1, NONE), (2, 1234), (4, NONE), (16, NONE), (32, NONE))
    )
    everything = [made, *made.rglob("*")]
    for number, path in enumerate(everything):
        os.chown(path, 100_000 + number, 4_000_000_000, follow_symlinks=False)
        os.setxattr(path, b"trusted.t", b"t" * 1500, follow_symlinks=False)
        os.setxattr(path, b"security.selfmade", bytes(range(256)), follow_symlinks=False)
        if not path.is_symlink() and (path.is_file() or path.is_dir()):
            os.setxattr(path, b"user.u", b"", follow_symlinks=False)
            os.setxattr(path, b"user." + b"n" * 240, b"v", follow_symlinks=False)
    with contextlib.suppress(OSError):  # a file system without them
        os.setxattr(made / "file", b"system.posix_acl_access", acl)
        os.setxattr(made / "folder", b"system.posix_acl_default", acl)
    for number, path in enumerate(reversed(everything)):
        time = (-1_000_000_001, 1, (1 << 33) * 1_000_000_000 + 999_999_999)[number % 3]
        os.utime(path, ns=(0, time), follow_symlinks=False)
    pack(str(made), str(tmp_path / "i.erofs"), HERE)
    assert said("fsck.erofs", str(tmp_path / "i.erofs")) == ""
    with by_kernel(tmp_path / "i.erofs", tmp_path / "by-kernel") as shown:
        for path in everything:
            other = shown / path.relative_to(made)
            a, b = path.lstat(), other.lstat()
            assert (a.st_mode, a.st_uid, a.st_gid, a.st_mtime_ns) == (b.st_mode, b.st_uid, b.st_gid, b.st_mtime_ns)
            assert attributes(path) == attributes(other), path
            assert attributes(path), path
            if path.is_symlink():
                assert os.readlink(path) == os.readlink(other)
        assert (shown / "sparse").read_bytes() == (made / "sparse").read_bytes()


@root
@pytest.mark.spec("IMAGE-16", "IMAGE-2")
def test_attributes_over_many_blocks(tmp_path: Path) -> None:
    """As many bytes of attributes as the form holds, of every kind of inode: they lie across borders of blocks."""
    made = tmp_path / "tree"
    (made / "folder").mkdir(parents=True)
    (made / "file").write_bytes(b"with attributes")
    (made / "sparse").touch()
    os.truncate(made / "sparse", 500_000)
    os.symlink("text", made / "link")
    rng = random.Random(8)
    sets = dict[str, dict[str, bytes]]()
    for number, name in enumerate(("", "file", "folder", "link", "sparse")):
        sizes = (60_001, 7, 0, 65_535) if number % 2 else (65_400, 65_535, 65_535, 65_500, 1, 2, 3)
        sets[name] = {f"trusted.{n}": rng.randbytes(size) for n, size in enumerate(sizes)}

    def keep(path: bytes) -> tuple[tuple[bytes, bytes], ...]:
        pairs = sets[os.path.relpath(os.fsdecode(path), made).removeprefix(".")]
        return tuple((name.encode(), value) for name, value in pairs.items())

    pack(str(made), str(tmp_path / "i.erofs"), HERE._replace(attributes=keep))
    assert said("fsck.erofs", str(tmp_path / "i.erofs")) == ""
    with (
        by_kernel(tmp_path / "i.erofs", tmp_path / "by-kernel") as shown,
        open_image(str(tmp_path / "i.erofs")) as ours,
    ):
        for name, pairs in sets.items():
            assert attributes(shown / name) == pairs
            found = ours.xattrs(ours.find(name.encode()))
            assert {os.fsdecode(key): value for key, value in found.items()} == pairs
        assert (shown / "sparse").read_bytes() == bytes(500_000)
        assert os.readlink(shown / "link") == "text"
        assert sorted(os.listdir(shown)) == ["file", "folder", "link", "sparse"]


@pytest.mark.service
@pytest.mark.spec("IMAGE-16", "IMAGE-12")
def test_behind_a_store(tree: Path, image: str, tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    with python_server(tmp_path / "log", Path(image).parent, exact=True) as web:
        with open_tree(f"{web.endpoint}/nasty.erofs") as far:
            assert far.read(far.find(b"sizes/random-131073")) == (tree / "sizes" / "random-131073").read_bytes()
            assert len(list(far.walk())) > 1000
        said("mkfs.erofs", "--quiet", f"{Path(image).parent}/foreign.erofs", str(tree / "a"))
        with pytest.raises(Unsupported) as told:
            open_tree(f"{web.endpoint}/foreign.erofs")
        assert told.value.code == "not-readable"


def attributes(path: Path) -> dict[str, bytes]:
    names = os.listxattr(path, follow_symlinks=False)
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in names}


@root
@pytest.mark.spec("IMAGE-16")
def test_links_of_every_length_at_every_place(tmp_path: Path) -> None:
    """The text lies behind its inode, in one block, or has a block of its own."""
    made = tmp_path / "tree"
    made.mkdir()
    lengths = [1, 31, 32, 33, 2000, 4031, 4032, 4033, 4095, 7, 3000, 3000, 64, 4032, 1]
    for number, length in enumerate(lengths):
        os.symlink("x" * length, made / f"{number:02}")
    pack(str(made), str(tmp_path / "i.erofs"), HERE)
    assert said("fsck.erofs", str(tmp_path / "i.erofs")) == ""
    with by_kernel(tmp_path / "i.erofs", tmp_path / "by-kernel") as shown:
        assert [len(os.readlink(shown / f"{n:02}")) for n in range(len(lengths))] == lengths


@root
@pytest.mark.spec("IMAGE-16", "IMAGE-6")
def test_a_large_file_with_holes_and_one_of_holes_alone(tmp_path: Path) -> None:
    """Over several stretches, at its borders, and far larger than the image."""
    made = tmp_path / "tree"
    made.mkdir()
    rng = random.Random(5)
    with open(made / "large", "wb") as large:
        for at in (0, (16 << 20) - 131072, 33 << 20, (50 << 20) + 12345):
            large.seek(at)
            large.write(rng.randbytes(150_000))
    with open(made / "holes", "wb") as holes:
        holes.truncate(100_000_001)
    pack(str(made), str(tmp_path / "i.erofs"), HERE)
    pack(str(made), str(tmp_path / "j.erofs"), HERE._replace(workers=2))
    assert (tmp_path / "i.erofs").read_bytes() == (tmp_path / "j.erofs").read_bytes()
    assert (tmp_path / "i.erofs").stat().st_size < 2 << 20
    assert said("fsck.erofs", str(tmp_path / "i.erofs")) == ""
    with (
        by_kernel(tmp_path / "i.erofs", tmp_path / "by-kernel") as shown,
        open_image(str(tmp_path / "i.erofs")) as ours,
    ):
        for name in ("large", "holes"):
            plain = (made / name).read_bytes()
            assert (shown / name).read_bytes() == plain
            assert ours.read(ours.find(name.encode())) == plain


@pytest.mark.spec("IMAGE-8", "IMAGE-1")
def test_tables_that_do_not_fit_into_memory(
    tree: Path, image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kept in (1, 1000, 1 << 14):  # also: inodes of folders lie where the file and what is held meet
        monkeypatch.setattr(spool, "_KEPT", kept)
        pack(str(tree), str(tmp_path / f"{kept}.erofs"), HERE)
        assert (tmp_path / f"{kept}.erofs").read_bytes() == Path(image).read_bytes()


@pytest.mark.spec("IMAGE-8")
def test_what_is_put_over_a_spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "_KEPT", 16)
    rng = random.Random(6)
    one, like = Spool(os.fsencode(tmp_path)), bytearray()
    for _ in range(300):
        data = rng.randbytes(rng.randrange(12))
        if like and rng.random() < 0.6:
            at = rng.randrange(len(like))
            data = data[: len(like) - at]
            one.put(at, data)
            like[at : at + len(data)] = data
        else:
            one.add(data)
            like += data
        assert b"".join(one) == like
        assert len(one) == len(like)


# ------------------------------------------------------------------------------------------------------------- damage


@pytest.mark.spec("IMAGE-9", "IMAGE-16")
def test_what_was_flipped_is_told(image: str, tmp_path: Path) -> None:
    """In the superblock, in data, in the index: an error, or the same bytes; each file that is hit is named."""
    good, bad = Path(image).read_bytes(), tmp_path / "bad.erofs"
    rng = random.Random(7)
    with open_image(image) as found:
        used = found.index.header.image["bytes"]
        plain = {path: found.read(attr) for path, attr in found.walk() if attr.mode >> 12 == 8}
        large = found.find(b"sizes/large")
        inside = found.index.blocks[large.a + 40][0]
    bad.write_bytes(good)
    for at in (erofs.AT + n for n in range(squashfs.SUPER.size)):
        assert isinstance(read_with(good, at, bad, plain, rng), DlsError), "told when it is opened"
    for at in rng.sample(range(used, len(good)), 60):
        read_with(good, at, bad, plain, rng)
    assert read_with(good, inside + 77, bad, plain, rng) == [b"links/hard-large", b"sizes/large"]


def read_with(good: bytes, at: int, bad: Path, plain: dict[bytes, bytes], rng: random.Random) -> list[bytes] | DlsError:
    """What cannot be read once a bit of byte `at` is another: all of the image, or these files; no other bytes."""
    wrong = list[bytes]()
    put(bad, at, good[at] ^ 1 << rng.randrange(8))
    try:
        with open_image(str(bad)) as found:
            for path, attr in found.walk():
                if attr.mode >> 12 == 8:
                    try:
                        assert found.read(attr) == plain[path]
                    except Corrupt:
                        wrong.append(path)
    except DlsError as error:
        return error
    finally:
        put(bad, at, good[at])
    return sorted(wrong)


def put(path: Path, at: int, byte: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(bytes([byte]))


@pytest.mark.spec("IMAGE-9", "IMAGE-16")
def test_what_was_cut_short_is_told(image: str, tmp_path: Path) -> None:
    good, bad = Path(image).read_bytes(), tmp_path / "bad.erofs"
    with open_image(image) as found:
        used = found.index.header.image["bytes"]
    for size in (len(good) - 1, len(good) - 4096, used + 5000, used - 1, used - 4096, 100_000, 4096, 2048):
        bad.write_bytes(good[:size])
        with pytest.raises(Corrupt) as told:
            open_tree(str(bad))
        assert told.value.code == "bad-image"
        assert "cut short" in told.value.message
    bad.write_bytes(good[:1100])
    with pytest.raises(DlsError):
        open_tree(str(bad))


@root
@pytest.mark.spec("IMAGE-16")
def test_the_kernel_refuses_a_superblock_that_was_flipped(image: str, tmp_path: Path) -> None:
    """Its checksum covers what follows in its block, too."""
    bad = tmp_path / "bad.erofs"
    for at in (erofs.AT + 20, erofs.AT + 127, 4000):
        data = bytearray(Path(image).read_bytes())
        data[at] ^= 4
        bad.write_bytes(data)
        done = subprocess.run(
            ["mount", "-t", "erofs", "-o", "loop,ro", bad, tmp_path], capture_output=True, check=False
        )
        assert done.returncode != 0
        done = subprocess.run(["fsck.erofs", bad], capture_output=True, check=False)
        assert b"failed to verify superblock checksum" in done.stderr


@pytest.mark.spec("IMAGE-16")
def test_an_erofs_of_others_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "one").write_bytes(b"1" * 5000)
    said("mkfs.erofs", str(tmp_path / "foreign.erofs"), str(tmp_path / "tree"))
    with pytest.raises(Unsupported) as told:
        open_tree(str(tmp_path / "foreign.erofs"))
    assert told.value.code == "not-readable"
    assert "is an EROFS without an index of ours" in told.value.message
    assert "mount -t erofs -o loop,ro" in told.value.remedy
    # Ours without its index is one of these.
    pack(str(tmp_path / "tree"), str(tmp_path / "i.erofs"), HERE)
    with open_image(str(tmp_path / "i.erofs")) as found:
        used = found.index.header.image["bytes"]
    os.truncate(tmp_path / "i.erofs", used)
    with pytest.raises(Unsupported):
        open_tree(str(tmp_path / "i.erofs"))


@pytest.mark.spec("IMAGE-16")
def test_what_the_form_cannot_hold_is_refused(tmp_path: Path) -> None:
    tables = erofs.Tables(128 << 10, lambda: Spool(os.fsencode(tmp_path)))
    node = Node(0o644, 0, 0, 0, 1, 1)
    with pytest.raises(Unsupported) as told:
        tables.file(node, 1, Where(16 << 40))
    assert told.value.code == "image-too-large"
    with pytest.raises(Unsupported):
        tables.plain(0o644, 0, 0, 0, 1, 1, 16 << 40, NONE, 0, b"", 0)
    with pytest.raises(Unsupported) as told:
        tables.xattrs([(b"user.%d" % n, bytes(60_000)) for n in range(5)])
    assert told.value.code == "too-many-attributes"
    with pytest.raises(Unsupported) as told:
        tables.xattrs([(b"user.large", bytes(65_536))])
    assert told.value.code == "too-many-attributes"
    assert tables.xattrs([(b"system.other", b"1"), (b"user.", b"1")]) == NONE
    with pytest.raises(Invalid) as wrong:
        asked(form="ext4")
    assert wrong.value.code == "bad-usage"


@pytest.mark.spec("IMAGE-16")
def test_one_that_exists_stays_until_the_new_one_is_whole(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing shows before it is complete, and nothing is left behind where it fails."""
    (tmp_path / "i.erofs").write_bytes(b"before")

    def fails(self: erofs.Tables, *rest: object) -> erofs.Super:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(erofs.Tables, "finish", fails)
    with pytest.raises(DlsError):
        pack(str(tree), str(tmp_path / "i.erofs"), HERE._replace(replace=True))
    assert [p.name for p in tmp_path.iterdir()] == ["i.erofs"]
    assert (tmp_path / "i.erofs").read_bytes() == b"before"


# ------------------------------------------------------------------------------------------------------------- layers


@root
@pytest.mark.spec("IMAGE-16")
def test_layers_lie_on_it(tmp_path: Path) -> None:
    """A layer over an EROFS: ours, and the kernel's overlayfs over both; and one image of the two, of either form."""
    made = tmp_path / "tree"
    (made / "d").mkdir(parents=True)
    for name in ("one", "two", "d/three"):
        (made / name).write_bytes(name.encode() * 3000)
    pack(str(made), str(tmp_path / "v1.erofs"), HERE)
    (made / "two").unlink()
    (made / "d" / "four").write_bytes(b"4" * 9000)
    layer(str(tmp_path / "v1.erofs"), str(made), str(tmp_path / "v2.sqfs"), Options(workers=0))
    with open_stack(str(tmp_path / "v2.sqfs")) as stack:
        assert {p: stack.read(a) for p, a in stack.walk() if a.mode >> 12 == 8} == plain_of(made)
    with open_stack(f"{tmp_path}/v1.erofs+{tmp_path}/v2.sqfs") as stack:
        assert stack.read(stack.find(b"d/four")) == b"4" * 9000
    for options, name in ((HERE, "all.erofs"), (Options(workers=0), "all.sqfs")):
        compact(str(tmp_path / "v2.sqfs"), str(tmp_path / name), options)
        with open_image(str(tmp_path / name)) as whole:
            assert {p: whole.read(a) for p, a in whole.walk() if stat.S_ISREG(a.mode)} == plain_of(made)
    with by_kernel(tmp_path / "v1.erofs", tmp_path / "low"):
        (tmp_path / "high").mkdir()
        (tmp_path / "both").mkdir()
        subprocess.run(["mount", "-o", "loop,ro", tmp_path / "v2.sqfs", tmp_path / "high"], check=True)
        try:
            lower = f"lowerdir={tmp_path}/high:{tmp_path}/low"
            subprocess.run(["mount", "-t", "overlay", "overlay", "-o", lower, tmp_path / "both"], check=True)
            try:
                assert trees.differences(made, tmp_path / "both") == ""
            finally:
                subprocess.run(["umount", "-l", tmp_path / "both"], check=True)
        finally:
            subprocess.run(["umount", "-l", tmp_path / "high"], check=True)


def plain_of(folder: Path) -> dict[bytes, bytes]:
    return {os.fsencode(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
