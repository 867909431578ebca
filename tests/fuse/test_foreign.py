"""Trees in files that other programs wrote: what they hold, read without a mount."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import random
import shutil
import stat
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from ctypes.util import find_library
from pathlib import Path
from typing import Any

import pytest
import zstandard

from components import archives, rars, trees
from dls.fuse.foreign import zip as zip_module
from dls.fuse.image import Image, open_image
from dls.fuse.indexing import FOLDER
from dls.fuse.opening import open_tree
from dls.fuse.pack import Options, pack
from dls.fuse.unpack import unpack
from dls.logistics.errors import Corrupt, DlsError, Invalid, Unavailable, Unsupported
from dls.logistics.stores.memory import MemoryStore

TIME = 1_500_000_000
LARGE = 6
"""MiB: more than the blocks that old file systems name in one block of numbers (4 MiB), and than `small_zips` keeps."""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("foreign") / "tree"
    trees.nasty(root, large=LARGE)
    os.setxattr(root / "a-b", "user.one", b"\xff\0value")
    os.setxattr(root / "a-b", "user.two", b"x" * 300)
    os.setxattr(root / "a", "user.folder", b"of a folder")
    os.utime(root / "a" / "x", ns=(TIME * 10**9 + 123456789,) * 2)
    os.utime(root / "a.b", ns=(TIME * 10**9 + 5,) * 2)
    return root


@pytest.fixture(autouse=True)
def small_zips(monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest file is over the size of which zips are kept whole, as in life."""
    monkeypatch.setattr(zip_module, "_WHOLE", 4 << 20)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    root = tmp_path / "small"
    root.mkdir()
    (root / "file").write_bytes(b"content")
    return root


def tar_of(
    *members: tuple[str, bytes | None] | tarfile.TarInfo, form: int = tarfile.PAX_FORMAT, **options: Any
) -> bytes:
    """A tar of (name, content) and ready-made headers."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form, **options) as archive:
        for one in members:
            if isinstance(one, tarfile.TarInfo):
                archive.addfile(one)
                continue
            info = tarfile.TarInfo(one[0])
            info.mtime = TIME
            if one[1] is None:
                info.type, info.mode = tarfile.DIRTYPE, 0o711
            info.size = len(one[1] or b"")
            archive.addfile(info, io.BytesIO(one[1] or b""))
    return out.getvalue()


def link_of(name: str, target: str, kind: bytes = tarfile.LNKTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mtime = kind, target, TIME
    return info


def opened(folder: Path, data: bytes, name: str = "it", **options: Any) -> Image:
    path = folder / name
    path.write_bytes(data)
    return open_tree(str(path), **options)


def kept_in(cache: Path) -> Iterator[Path]:
    return (cache / f"user-{os.geteuid()}" / FOLDER).iterdir()


def content(tree: Image) -> dict[bytes, bytes]:
    """Files and what is in them."""
    return {path: tree.read(attr) for path, attr in tree.walk() if attr.mode >> 12 == 8}


# --------------------------------------------------------------------------------------------- all formats


@pytest.mark.spec("FOREIGN-1", "FOREIGN-2")
@pytest.mark.parametrize("name", archives.TOOLS)
def test_agrees_with_the_tree_it_was_made_from(name: str, tree: Path, tmp_path: Path) -> None:
    if not archives.have(name):
        pytest.skip(f"the program that makes {name} is not installed")
    path = archives.made(name, tree, tmp_path)
    unnamed = tmp_path / "no-name-says-what-it-is"
    os.rename(path, unnamed)
    cache = str(tmp_path / "cache")
    for _ in range(2):  # made, then found again
        with open_tree(str(unnamed), cache_folder=cache) as found:
            assert archives.differences(found, tree, name) == []
            assert not found.notes
            counts = found.counts
            walked = [attr.mode >> 12 for _, attr in found.walk()]
            assert (counts["files"], counts["folders"]) == (walked.count(8), walked.count(4) + 1)


@pytest.mark.spec("FOREIGN-8")
@pytest.mark.parametrize("name", ["pax-sparse.tar", "plain.tar.gz", "info.zip", "zstd.sqfs", "tree.ext4"])
def test_no_digests_but_unpacked_and_read_with_what_checks_there_are(name: str, tree: Path, tmp_path: Path) -> None:
    if not archives.have(name):
        pytest.skip(f"the program that makes {name} is not installed")
    path = archives.made(name, tree, tmp_path)
    with open_tree(path) as found:
        with pytest.raises(Unsupported) as told:
            _ = found.manifest
        assert told.value.code == "no-digests"
        assert "catalogue add" in told.value.remedy
        seen = list(found.verify())
        assert len(seen) == found.counts["files"]
        assert all(error is None for _, error in seen)
        out = tmp_path / "out"
        done = unpack(found, str(out))
        assert done.files == found.counts["files"]
    left_out = {"zip": ("Only in",), "ext4": (f"Only in {out}: lost+found",)}.get(
        name.rsplit(".", 1)[1], (f"Only in {tree}: socket",)
    )
    lines = [line for line in trees.differences(tree, out).splitlines() if not line.startswith(left_out)]
    assert not lines
    if "zip" not in name:
        assert os.stat(out / "links" / "hard").st_ino == os.stat(out / "a-b").st_ino


def test_nobody_knows_what_it_is(tmp_path: Path) -> None:
    for data in (b"", b"x", b"words " * 1000, bytes(400)):
        with pytest.raises(Invalid) as told:
            opened(tmp_path, data)
        assert told.value.code == "not-an-image"
    with pytest.raises(Unsupported) as told:
        opened(tmp_path, gzip.compress(b"just a text, no tar" * 100))
    assert told.value.code == "not-readable"
    assert "no tar" in told.value.message


@pytest.mark.spec("FOREIGN-1")
@pytest.mark.timeout(20)
def test_what_is_no_file_is_no_image(tmp_path: Path) -> None:
    """A pipe, which nobody may ever write to, least of all."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/null")):
        for way in (open_tree, open_image):
            with pytest.raises(Invalid, match="is no file") as told:
                way(str(path))
            assert told.value.code == "not-an-image", way


@pytest.mark.spec("FOREIGN-1")
def test_an_image_of_ours_is_one(tree: Path, tmp_path: Path) -> None:
    path = str(tmp_path / "i.sqfs")
    pack(str(tree), path, Options(workers=0))
    with open_tree(path) as found:
        assert found.manifest.files == found.counts["files"]


@pytest.mark.spec("FOREIGN-9")
def test_what_lies_behind_a_squashfs_must_be_an_index(tree: Path, tmp_path: Path) -> None:
    """Without its index nothing of an image of ours would be checked: it is not read so unasked."""
    path = tmp_path / "i.sqfs"
    pack(str(tree), str(path), Options(workers=0))
    whole = path.read_bytes()
    used = struct.unpack_from("<Q", whole, 40)[0]
    for cut in (1, 64, 5000, (len(whole) - used) // 2):
        with pytest.raises(Corrupt) as told:
            opened(tmp_path, whole[:-cut])
        assert told.value.code == "bad-image"
        assert f"truncate -s {used}" in told.value.remedy
    with opened(tmp_path, whole[:used]) as found, open_tree(str(path)) as own:
        assert content(found) == content(own)
    with pytest.raises(Corrupt, match="cut short"):
        opened(tmp_path, whole[: used - 1])


# ----------------------------------------------------------------------------------------------- the index


@pytest.mark.spec("FOREIGN-5")
def test_the_index_is_kept_and_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    data = gzip.compress(tar_of(("a/b", b"one"), ("a/c", b"two" * 100_000)))
    with opened(tmp_path, data, cache_folder=str(cache)) as found:
        before = content(found)
    (kept,) = kept_in(cache)
    first = kept.stat()
    with open_tree(str(tmp_path / "it"), cache_folder=str(cache)) as found:
        assert content(found) == before
        with open_tree(str(tmp_path / "it"), cache_folder=str(cache)) as again:  # opened twice at once
            assert content(again) == before
        assert content(found) == before
    assert (kept.stat().st_ino, kept.stat().st_mtime_ns) == (first.st_ino, first.st_mtime_ns)
    # Another archive under the same name is another one.
    with opened(tmp_path, gzip.compress(tar_of(("new", b"new"))), cache_folder=str(cache)) as found:
        assert content(found) == {b"new": b"new"}


@pytest.mark.spec("FOREIGN-5")
@pytest.mark.parametrize("where", ["frames", "middle", "footer", "cut"])
def test_a_damaged_index_is_made_anew(where: str, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    body = random.Random(1).randbytes(600_000)
    data = gzip.compress(tar_of(*((f"f{i}", b"%d" % i) for i in range(2000)), ("large", body)))
    with opened(tmp_path, data, cache_folder=str(cache)) as found:
        before = content(found)
    (kept,) = kept_in(cache)
    bad = bytearray(kept.read_bytes())
    at = {"frames": 700, "middle": len(bad) - 20_000, "footer": len(bad) - 30, "cut": 0}[where]
    bad[at] ^= 0x40
    kept.write_bytes(bad[:-100] if where == "cut" else bad)
    met: list[Corrupt] = []
    for _ in range(2):  # damage that is met while reading is told once
        try:
            with open_tree(str(tmp_path / "it"), cache_folder=str(cache)) as found:
                assert content(found) == before
        except Corrupt as error:
            met.append(error)
    assert len(met) <= (where != "footer" and where != "cut")
    assert all("open it again" in error.message for error in met)
    with open_tree(str(tmp_path / "it"), cache_folder=str(cache)) as found:
        assert content(found) == before


@pytest.mark.spec("FOREIGN-5")
def test_without_a_place_to_keep_it(tmp_path: Path) -> None:
    data = gzip.compress(tar_of(("a", b"one")))
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    for cache in ("", str(blocked / "no-folder")):
        with opened(tmp_path, data, cache_folder=cache) as found:
            assert content(found) == {b"a": b"one"}


@pytest.mark.spec("FOREIGN-5")
def test_no_more_is_kept_than_allowed(tmp_path: Path) -> None:
    data = gzip.compress(tar_of(("a", random.Random(1).randbytes(3 << 20))))
    with pytest.raises(Unavailable) as told:
        opened(tmp_path, data, cache_folder=str(tmp_path / "cache"), cache_bytes=1 << 20)
    assert told.value.code == "cache-too-small"
    assert not list(kept_in(tmp_path / "cache"))


# ----------------------------------------------------------------------------------------------------- tar


@pytest.mark.spec("FOREIGN-3")
def test_the_last_of_one_name_wins_and_missing_folders_are_made(tmp_path: Path) -> None:
    data = tar_of(
        ("a-b", b"beside"), ("a/x/deep", b"old"), ("b", b"a file"), ("a/x/deep", b"new"), ("./a//x/./other", b"odd"),
        ("b/inside", b"so b is a folder"), ("c", None), ("c", b"a file in the end"), ("d", b"gone"), ("d", None),
    )  # fmt: skip
    with opened(tmp_path, data) as found:
        assert content(found) == {
            b"a-b": b"beside", b"a/x/deep": b"new", b"a/x/other": b"odd", b"b/inside": b"so b is a folder",
            b"c": b"a file in the end",
        }  # fmt: skip
        assert sorted(path for path, attr in found.walk() if attr.mode >> 12 == 4) == [b"a", b"a/x", b"b", b"d"]
        made, told = found.find(b"a/x"), found.find(b"d")
        assert (oct(made.mode), made.mtime_ns) == ("0o40755", TIME * 10**9)
        assert oct(told.mode) == "0o40711"
        assert [item.path for item in found.items()] == sorted(item.path for item in found.items())


@pytest.mark.spec("FOREIGN-3")
def test_a_hard_link_means_what_its_target_was_there(tmp_path: Path) -> None:
    data = tar_of(
        ("first", b"one"), link_of("l1", "first"), ("first", b"two"), link_of("a/l2", "./first"), link_of("l3", "a/l2"),
        link_of("lost", "never/was"), link_of("x1", "x2"), link_of("x2", "x1"), ("z", b"zz"), link_of("z", "z"),
    )  # fmt: skip
    with opened(tmp_path, data) as found:
        read = {p: found.read(a) for p, a in found.walk() if a.mode >> 12 == 8 and a.size}
        assert read == {b"first": b"two", b"l1": b"one", b"a/l2": b"two", b"l3": b"two", b"z": b"zz"}
        nodes = {p: a.node for p, a in found.walk() if a.mode >> 12 == 8}
        assert nodes[b"first"] == nodes[b"a/l2"] == nodes[b"l3"] != nodes[b"l1"]
        assert (found.find(b"l3").nlink, found.find(b"l1").nlink) == (3, 1)
        assert {b"lost", b"x1", b"x2"} <= set(nodes)


@pytest.mark.spec("FOREIGN-3")
def test_names_that_no_tree_can_hold_are_left_out_and_told(tmp_path: Path) -> None:
    data = tar_of(
        ("/absolute", b"relative"), ("a/../../b", b"up"), ("..", None), ("x" * 256, b"long"), (".dls-x/y", b"ours"),
        ("fine", b"fine"),
    )  # fmt: skip
    with opened(tmp_path, data) as found:
        assert content(found) == {b"absolute": b"relative", b"fine": b"fine"}
        assert len(found.notes) == 4
        assert "leads out" in found.notes[0]


@pytest.mark.spec("FOREIGN-2")
def test_dialects_of_tar(tmp_path: Path) -> None:
    long = "long/" * 60 + "name"
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        info = tarfile.TarInfo("café/" + long)
        info.size, info.uid, info.mtime, info.mode = 3, 3_000_000, 2**33, 0o4711
        out = io.BytesIO()
        with tarfile.open(
            fileobj=out, mode="w", format=form, pax_headers={"comment": "ignored"} if form == 2 else {}
        ) as archive:
            archive.addfile(info, io.BytesIO(b"abc"))
            archive.addfile(link_of("link", "to/" + long, tarfile.SYMTYPE))
        with opened(tmp_path, out.getvalue()) as found:
            attr = found.find("café/".encode() + long.encode())
            assert (attr.uid, attr.mtime_ns, attr.mode, attr.size) == (3_000_000, 2**33 * 10**9, 0o104711, 3)
            assert found.text(found.find(b"link")) == b"to/" + long.encode()
    # A prefix of ustar, a v7 header without magic, a name that is no UTF-8, times before 1970.
    with opened(tmp_path, tar_of(("p" * 90 + "/" + "n" * 90, b"u"), form=tarfile.USTAR_FORMAT)) as found:
        assert content(found) == {b"p" * 90 + b"/" + b"n" * 90: b"u"}
    old = bytearray(tar_of(("old\udcff", b"v7"), form=tarfile.USTAR_FORMAT, errors="surrogateescape"))
    old[257:265], old[329:345], old[156] = bytes(8), bytes(16), 0
    old[148:156] = b"%06o\0 " % (sum(old[:148]) + sum(old[156:512]) + 256)
    with opened(tmp_path, bytes(old)) as found:
        assert content(found) == {b"old\xff": b"v7"}
    info = tarfile.TarInfo("early")
    info.pax_headers = {"mtime": "-1.5", "SCHILY.xattr.user.x": "value", "LIBARCHIVE.xattr.user.y%20z": "YWJj"}
    with opened(tmp_path, tar_of(info)) as found:
        attr = found.find(b"early")
        assert attr.mtime_ns == -1_500_000_000
        assert found.xattrs(attr) == {b"user.x": b"value", b"user.y z": b"abc"}


@pytest.mark.spec("FOREIGN-4")
def test_a_tar_that_was_cut_short(tmp_path: Path) -> None:
    data = tar_of(("a", b"x" * 2000), ("b", b"y" * 2000))
    for size in (600, 2559, 2560, 2561, 3000, 5119, 5120):
        with pytest.raises(Corrupt) as told:
            opened(tmp_path, data[:size])
        assert told.value.code == "bad-archive"
        assert "cut short" in told.value.message
    with opened(tmp_path, data[:5120] + bytes(512)) as found:
        assert set(content(found)) == {b"a", b"b"}
    bad = bytearray(data)
    bad[2560 + 10] ^= 1
    with pytest.raises(Corrupt, match="no header where one belongs"):
        opened(tmp_path, bytes(bad))
    with opened(tmp_path, data + data) as found:
        assert any("behind the end" in note for note in found.notes)


# ------------------------------------------------------------------------------------------------- streams

PACKERS = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": lambda data: zstandard.ZstdCompressor(write_checksum=True).compress(data),
}


@pytest.mark.spec("FOREIGN-4")
@pytest.mark.parametrize("form", PACKERS)
def test_streams_of_several_members_cut_short_and_damaged(form: str, tmp_path: Path) -> None:
    pack_ = PACKERS[form]
    body = random.Random(2).randbytes(400_000)
    plain = tar_of(("a", body), ("b", b"small"))
    parts = pack_(plain[:100_000]) + pack_(b"") + pack_(plain[100_000:])
    if form == "zstd":
        parts = struct.pack("<II", 0x184D2A53, 5) + b"extra" + parts
    if form in ("gzip", "xz"):
        parts += bytes(512)
    for data in (pack_(plain), parts):
        with opened(tmp_path, data) as found:
            assert content(found) == {b"a": body, b"b": b"small"}
    whole = pack_(plain)
    for size in (len(whole) // 3, len(whole) - 9, len(whole) - 1):
        with pytest.raises(Corrupt) as told:
            opened(tmp_path, whole[:size])
        assert told.value.code == "bad-archive"
    bad = bytearray(whole)
    bad[len(bad) // 2] ^= 0x10
    with pytest.raises(Corrupt):
        opened(tmp_path, bytes(bad))
    if form != "zstd":
        with opened(tmp_path, whole + b"garbage") as found:
            assert any("passed over" in note for note in found.notes)


# ----------------------------------------------------------------------------------------------------- zip


def zip_of(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED, **options: Any) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method, **options) as archive:
        for name, body in members.items():
            archive.writestr(zipfile.ZipInfo(name, (2020, 2, 3, 4, 5, 6)), body, method)
    return out.getvalue()


@pytest.mark.spec("FOREIGN-2", "FOREIGN-4")
@pytest.mark.parametrize(
    "method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, 93, 95]
)
def test_methods_of_zip(method: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zip_module, "_WHOLE", 1 << 18)
    rng = random.Random(method)
    text, noise = b"words and words again " * 20_000, rng.randbytes(70_000)
    large = noise * 10 + b"end"  # over the size that is kept whole
    bodies = {"text": text, "noise": noise, "empty": b"", "large": large}
    if method < 90:
        data = zip_of(bodies, method)
    else:
        packs = {93: zstandard.ZstdCompressor(1).compress, 95: lambda body: lzma.compress(body, preset=0)}
        data = patched({name: (body, packs[method](body)) for name, body in bodies.items()}, method)
    with opened(tmp_path, data) as found:
        assert found.find(b"text").mtime_ns == 1580702706 * 10**9
        assert content(found) == {k.encode(): v for k, v in bodies.items()}
        attr = found.find(b"large")
        for _ in range(20):  # back and forth
            start = rng.randrange(len(large))
            stop = start + rng.randrange(100_000)
            assert found.read(attr, start, stop) == large[start:stop]


def patched(bodies: dict[str, tuple[bytes, bytes]], method: int) -> bytes:
    """A zip of what the standard library cannot write: members are stored packed, then the headers are told."""
    import zlib

    data = bytearray(zip_of({name: packed for name, (_, packed) in bodies.items()}, zipfile.ZIP_STORED))
    for magic, at_method, at_crc, at_size, at_name, name_size in (
        (b"PK\3\4", 8, 14, 22, 30, 26),
        (b"PK\1\2", 10, 16, 24, 46, 28),
    ):
        at = data.find(magic)
        while at >= 0:
            (long,) = struct.unpack_from("<H", data, at + name_size)
            name = bytes(data[at + at_name : at + at_name + long]).decode(errors="replace")
            if name in bodies:
                body, _ = bodies[name]
                struct.pack_into("<H", data, at + at_method, method)
                struct.pack_into("<I", data, at + at_crc, zlib.crc32(body))
                struct.pack_into("<I", data, at + at_size, len(body))
            at = data.find(magic, at + 4)
    return bytes(data)


@pytest.mark.spec("FOREIGN-2")
def test_odd_zips(tmp_path: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        link = zipfile.ZipInfo("link")
        link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "to/where")
        for name, system, attributes in (
            ("dos\\inside.txt", 0, 0x21),
            ("unix", 3, 0o100640 << 16),
            ("folder/", 0, 0x10),
        ):
            info = zipfile.ZipInfo("x")
            info.filename, info.create_system, info.external_attr = name, system, attributes
            archive.writestr(info, "" if name.endswith("/") else name)
        archive.writestr("twice", "old")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("twice", "new")
        archive.comment = b"PK\5\6 not the end" + bytes(30)
    for data in (out.getvalue(), b"#!/bin/sh\nexit\n" + out.getvalue()):
        with opened(tmp_path, data) as found:
            assert content(found) == {b"dos/inside.txt": b"dos\\inside.txt", b"unix": b"unix", b"twice": b"new"}
            assert found.text(found.find(b"link")) == b"to/where"
            modes = {path: oct(attr.mode) for path, attr in found.walk()}
            assert modes[b"dos/inside.txt"] == "0o100444"
            assert modes[b"unix"] == "0o100640"
            assert modes[b"folder"] == "0o40755"


@pytest.mark.spec("FOREIGN-2")
def test_zip64(tmp_path: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for i in range(70_000):  # more than 16 bits count
            archive.writestr(f"{i % 100}/{i}", b"%d" % i)
        with archive.open("wide", "w", force_zip64=True) as wide:
            wide.write(b"wide")
    for data in (out.getvalue(), b"before" * 100 + out.getvalue()):
        with opened(tmp_path, data) as found:
            assert found.counts["files"] == 70_001
            assert found.read(found.find(b"wide")) == b"wide"
            assert found.read(found.find(b"99/69999")) == b"69999"


@pytest.mark.spec("FOREIGN-4")
def test_zips_that_cannot_be_read(tmp_path: Path) -> None:
    data = bytearray(zip_of({"good": b"good", "bad": b"b" * 5000}))
    flags = bytearray(data)
    for magic, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        flags[flags.rfind(magic) + at] |= 1
    with opened(tmp_path, bytes(flags)) as found:
        assert found.read(found.find(b"good")) == b"good"
        with pytest.raises(Unsupported) as told:
            found.read(found.find(b"bad"))
        assert (told.value.code, told.value.facts["key"]) == ("not-readable", "bad")
        assert "encrypted" in told.value.message
    struct.pack_into("<H", data, data.rfind(b"PK\1\2") + 10, 9)
    with opened(tmp_path, bytes(data)) as found, pytest.raises(Unsupported, match="method 9"):
        found.read(found.find(b"bad"))
    whole = zip_of({"f": os.urandom(3000)}, zipfile.ZIP_STORED)
    wrong = bytearray(whole)
    wrong[100] ^= 1
    with opened(tmp_path, bytes(wrong)) as found, pytest.raises(Corrupt, match="CRC-32"):
        found.read(found.find(b"f"))
    for size in (2000, len(whole) - 30, len(whole) - 1):
        with pytest.raises(Corrupt, match="cut short"):
            opened(tmp_path, whole[:size])


# ----------------------------------------------------------------------------------------------------- rar

needs_libarchive = pytest.mark.skipif(find_library("archive") is None, reason="libarchive13 is not installed")
RAR = [
    rars.Member("folder", mode=0o040750),
    rars.Member("folder/text", b"words and words again " * 50_000, 0o100640),
    rars.Member("folder/empty"),
    rars.Member("einé", random.Random(3).randbytes(400_000)),
    rars.Member("link", mode=0o120777, link="folder/text"),
]


@needs_libarchive
@pytest.mark.spec("FOREIGN-1", "FOREIGN-2", "FOREIGN-4")
@pytest.mark.parametrize("write", [rars.rar4, rars.rar5])
def test_rar(write: Callable[[list[rars.Member]], bytes], tmp_path: Path) -> None:
    data = write(RAR)
    wanted = {one.name.encode(): one.body for one in RAR if one.mode >> 12 == 8}
    for _ in range(2):
        with opened(tmp_path, data, cache_folder=str(tmp_path / "cache")) as found:
            assert content(found) == wanted
            assert found.text(found.find(b"link")) == b"folder/text"
            assert {oct(found.find(b"folder").mode), oct(found.find(b"folder/text").mode)} == {"0o40750", "0o100640"}
            if write is rars.rar5:
                assert found.find("einé".encode()).mtime_ns == 1_600_000_000 * 10**9
            attr = found.find("einé".encode())
            assert found.read(attr, 300_000, 300_100) == wanted["einé".encode()][300_000:300_100]
    if shutil.which("bsdtar"):  # what was written by hand is a rar to others, too
        (tmp_path / "out").mkdir()
        subprocess.run(
            ["bsdtar", "-xf", tmp_path / "it", "-C", tmp_path / "out"], check=True, env={"LC_ALL": "C.UTF-8"}
        )
        assert (tmp_path / "out" / "einé").read_bytes() == wanted["einé".encode()]
    for size in (len(data) // 2, len(data) - 400_500, *((len(data) - 1,) if write is rars.rar5 else ())):
        with pytest.raises(Corrupt) as told:
            opened(tmp_path, data[:size])
        assert told.value.code == "bad-archive"
    bad = bytearray(data)
    bad[bad.find(b"words") + 1000] ^= 1
    with pytest.raises(Corrupt, match="folder/text"):
        opened(tmp_path, bytes(bad))


@needs_libarchive
def test_a_hard_link_of_rar(tmp_path: Path) -> None:
    members = [*RAR, rars.Member("hard", link="folder/text")]
    with opened(tmp_path, rars.rar5(members)) as found:
        assert found.find(b"hard").node == found.find(b"folder/text").node
        assert found.find(b"hard").nlink == 2


# ----------------------------------------------------------------------------------------------------- ext

ACL = struct.pack(
    "<IHHIHHIHHIHHIHHI", 2, 1, 6, 2**32 - 1, 2, 4, 1234, 4, 4, 2**32 - 1, 16, 6, 2**32 - 1, 32, 0, 2**32 - 1
)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts")
@pytest.mark.spec("FOREIGN-2", "FOREIGN-11")
def test_what_only_a_kernel_writes(tmp_path: Path) -> None:
    """Folders with an index, room that was never written to, fragments, lists of rights, large attributes."""
    disk, folder = tmp_path / "disk", tmp_path / "mounted"
    folder.mkdir()
    subprocess.run(["mkfs.ext4", "-q", "-b", "1024", "-O", "ea_inode", disk, "64M"], check=True)
    subprocess.run(["mount", "-o", "loop,acl", disk, folder], check=True)
    body = random.Random(5).randbytes(3_000_000)
    try:
        (folder / "many").mkdir()
        for i in range(6000):
            (folder / "many" / f"with-a-rather-long-name-{i}").touch()
        for i in range(0, 6000, 3):
            (folder / "many" / f"with-a-rather-long-name-{i}").unlink()
        with open(folder / "room", "wb") as room, open(folder / "beside", "wb") as beside:
            for at in range(0, len(body), 10_000):  # both in fragments
                for one in (room, beside):
                    one.write(body[at : at + 10_000])
                    one.flush()
                    os.fsync(one.fileno()) if at % 300_000 == 0 else None
            os.posix_fallocate(room.fileno(), 4_000_000, 1_000_000)
            os.pwrite(room.fileno(), b"in the middle", 4_500_000)
        os.setxattr(folder / "room", "system.posix_acl_access", ACL)
        os.setxattr(folder / "room", "user.large", body[:30_000])
        os.setxattr(folder / "many", "system.posix_acl_default", ACL)
        wanted = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}
        names = {os.fsencode(p.name) for p in (folder / "many").iterdir()}
    finally:
        subprocess.run(["umount", folder], check=True)
    with open_tree(str(disk)) as found:
        assert {name: found.read(found.find(name.encode())) for name in wanted} == wanted
        assert set(found.listdir(b"many")) == names
        assert found.xattrs(found.find(b"room")) == {b"system.posix_acl_access": ACL, b"user.large": body[:30_000]}
        assert found.xattrs(found.find(b"many")) == {b"system.posix_acl_default": ACL}


@pytest.mark.spec("FOREIGN-11")
def test_a_file_system_that_needs_its_journal(small: Path, tmp_path: Path) -> None:
    path = archives.made("tree.ext4", small, tmp_path)
    subprocess.run(["debugfs", "-w", "-R", "feature needs_recovery", path], check=True, capture_output=True)
    with pytest.raises(Unsupported) as told:
        open_tree(path)
    assert told.value.code == "not-readable"
    assert "e2fsck" in told.value.remedy
    subprocess.run(["mkfs.ext4", "-q", "-F", "-d", small, path, "32M"], check=True, capture_output=True)
    with open_tree(path) as found:
        assert content(found) == {b"file": b"content"}
    os.truncate(path, 20 << 20)
    with pytest.raises(Corrupt, match="cut short"):
        open_tree(path)


# -------------------------------------------------------------------------------------------------- remote


@pytest.mark.spec("FOREIGN-6")
@pytest.mark.parametrize("name", ["gzip.sqfs", "gnu.tar", "plain.tar.zst", "bsd.zip"])
def test_behind_a_store(name: str, tree: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if not archives.have(name):
        pytest.skip(f"the program that makes {name} is not installed")
    place = "foreign-" + name.replace(".", "-")
    store = MemoryStore(place)
    request.addfinalizer(lambda: MemoryStore.forget(place))
    store.write(b"deep/it", [Path(archives.made(name, tree, tmp_path)).read_bytes()])
    with open_tree(f"{store.url}/deep/it", cache_folder=str(tmp_path / "cache")) as found:
        assert archives.differences(found, tree, name) == []


# -------------------------------------------------------------------------------------------------- memory

COUNTED = """
import resource, sys
from dls.fuse.opening import open_tree
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with open_tree(sys.argv[1], cache_folder=sys.argv[2]) as tree:
    names = sum(tree.counts[kind] for kind in ("files", "folders"))
    for path, attr in tree.walk():
        pass
    tree.read(tree.find(b"d7/f7"))
print(names, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.spec("FOREIGN-7")
@pytest.mark.parametrize("form", ["tar.gz", "zip"])
def test_memory_does_not_grow_with_names(form: str, tmp_path: Path) -> None:
    grown = []
    for count in (10_000, 100_000):
        path = tmp_path / f"{count}.{form}"
        bodies = ((f"d{i % 1000}/f{i}" if i != 7 else "d7/f7", b"%d" % i) for i in range(count))
        if form == "zip":
            with zipfile.ZipFile(path, "w") as archive:
                for name, body in bodies:
                    archive.writestr(name, body)
        else:
            with tarfile.open(path, "w:gz", compresslevel=1) as archive:
                for name, body in bodies:
                    info = tarfile.TarInfo(name)
                    info.size = len(body)
                    archive.addfile(info, io.BytesIO(body))
                    archive.members.clear()
        done = subprocess.run(
            [sys.executable, "-c", COUNTED, str(path), str(tmp_path / "cache")],
            capture_output=True,
            text=True,
            check=True,
        )
        names, mib = map(int, done.stdout.split())
        assert names == count + 1001
        grown.append(mib)
    assert grown[1] <= grown[0] + 60, f"MiB at both sizes: {grown}"


def test_errors_name_the_archive(tmp_path: Path) -> None:
    with pytest.raises(DlsError) as told:
        opened(tmp_path, tar_of(("a", b"x" * 9000))[:3000])
    assert str(tmp_path / "it") in told.value.message
