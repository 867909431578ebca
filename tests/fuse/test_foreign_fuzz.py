"""Damaged archives of every format: an error or a tree, in bounded time and memory; and archives of any shape agree."""

from __future__ import annotations

import io
import os
import random
import subprocess
import sys
import tarfile
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components import archives, rars
from dls.fuse.opening import open_tree
from dls.logistics.errors import Corrupt

FORMS = [
    "gnu.tar", "pax-sparse.tar", "pax-sparse-0.1.tar", "plain.tar.gz", "plain.tar.bz2", "plain.tar.xz", "plain.tar.zst",
    "info.zip", "gzip.sqfs", "lzo.sqfs", "lz4.sqfs", "xz.sqfs", "zstd.sqfs", "lzma.sqfs", "made-inline.ext4",
    "small-blocks.ext2", "four.rar", "five.rar",
]  # fmt: skip
# Formats in which every byte of a file is covered by a sum.
SUMMED = ("gz", "bz2", "xz", "zip", "rar")
ROUNDS = 25 if os.environ.get("DLS_FAULTS") != "full" else 400

# In a process of its own: what crashes, hangs or takes all memory is seen by its end.
FUZZ = """
import random, resource, sys
from dls.fuse.opening import open_tree
from dls.logistics.errors import DlsError
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
path, seed, rounds, summed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "True"
whole = open(path, "rb").read()
rng = random.Random(seed)

def look(path):
    out, errors = {}, 0
    with open_tree(path) as tree:
        for name, attr in tree.walk():
            try:
                kind = attr.mode >> 12
                if kind == 8:
                    out[name] = b"".join(map(bytes, tree.pieces(attr, 0, min(attr.size, 1 << 20))))
                    tree.pieces(attr, max(0, attr.size - 10), attr.size)
                elif kind == 10:
                    tree.text(attr)
                tree.xattrs(attr)
                tree.find(name)
            except DlsError:
                errors += 1
    return out, errors

right, none = look(path)
assert right and not none
told = same = other = 0
for round in range(rounds):
    bad = bytearray(whole)
    what = rng.randrange(3)
    if what == 0:
        del bad[rng.randrange(len(bad)):]
    else:
        # Structures are at both ends; what is in between is content most of the time.
        for _ in range(1 if what == 1 else 8):
            zone = rng.choice([len(bad), min(len(bad), 4096), min(len(bad), 4096)])
            at = rng.randrange(zone)
            bad[at if rng.random() < 0.6 else -1 - at] ^= 1 << rng.randrange(8)
    with open(path + ".bad", "wb") as file:
        file.write(bad)
    try:
        found, errors = look(path + ".bad")
    except DlsError:
        told += 1
        continue
    told += bool(errors)
    wrong = [name for name, body in found.items() if name in right and body != right[name]]
    assert not (summed and wrong and not errors), (round, wrong)
    same += not wrong
    other += bool(wrong)
print(told, same, other)
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = random.Random(8)
    root = tmp_path_factory.mktemp("fuzz") / "tree"
    (root / "folder" / "deep").mkdir(parents=True)
    for i in range(12):
        (root / "folder" / f"file-{i}").write_bytes(rng.randbytes(i * 900) + b"text " * i * 100)
    (root / "folder" / "deep" / "large").write_bytes(rng.randbytes(150_000) + b"words " * 10_000)
    with open(root / "hole", "wb") as hole:
        hole.seek(300_000)
        hole.write(b"end")
    (root / "sizes").mkdir()
    os.link(root / "hole", root / "sizes" / "hole")
    (root / "links").mkdir()
    os.symlink("folder/deep", root / "links" / "long")
    os.link(root / "hole", root / "folder" / "hard")
    os.setxattr(root / "folder" / "file-3", "user.name", b"value")
    return root


@pytest.mark.spec("FOREIGN-10", "FOREIGN-4")
@pytest.mark.fault
@pytest.mark.timeout(3600 if ROUNDS > 100 else 120)
@pytest.mark.parametrize("name", FORMS)
def test_damaged_archives(name: str, small: Path, tmp_path: Path) -> None:
    if not archives.have(name):
        pytest.skip(f"the program that makes {name} is not installed")
    if name.endswith("rar"):
        path = str(tmp_path / name)
        members = [rars.Member(f"f/{i}", os.urandom(i * 900), 0o100640) for i in range(12)]
        members.append(rars.Member("link", mode=0o120777, link="f/1"))
        Path(path).write_bytes((rars.rar5 if name == "five.rar" else rars.rar4)(members))
    else:
        path = archives.made(name, small, tmp_path)
    summed = name.endswith(SUMMED)
    command = [sys.executable, "-c", FUZZ, path, "5", str(ROUNDS), str(summed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110 if ROUNDS < 100 else 3000, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    told, _, _ = map(int, done.stdout.split())
    assert told, "damage is met"


@pytest.mark.spec("FOREIGN-4")
def test_a_damaged_name_in_a_zip_is_told(tmp_path: Path) -> None:
    """No sum covers it, but it stands twice."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a/file-2", b"two")
        archive.writestr("a/file-3", b"three")
    bad = bytearray(out.getvalue())
    bad[bad.rfind(b"file-2") + 5] ^= 1  # now there are two of that name
    (tmp_path / "bad.zip").write_bytes(bad)
    given = []
    with open_tree(str(tmp_path / "bad.zip")) as tree, suppress(Corrupt):
        given.append(tree.read(tree.find(b"a/file-3")))
    assert given in ([], [b"three"])
    bad = bytearray(out.getvalue())
    bad[bad.rfind(b"file-2") + 5] ^= 8
    (tmp_path / "other.zip").write_bytes(bad)
    with open_tree(str(tmp_path / "other.zip")) as tree:
        assert tree.read(tree.find(b"a/file-3")) == b"three"
        with pytest.raises(Corrupt, match="where its directory says"):
            tree.read(tree.find(b"a/file-:"))


@pytest.mark.spec("FOREIGN-4")
def test_a_member_of_a_zip_that_is_longer_than_it_says_is_told(tmp_path: Path) -> None:
    """Also where its bytes up to there are another content: they are compared with the sum, or not given."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("file", b"words of a text " * 300)
    bad = bytearray(out.getvalue())
    at = bad.rfind(b"PK\1\2") + 24
    assert int.from_bytes(bad[at : at + 4], "little") == 4800
    bad[at : at + 4] = (4000).to_bytes(4, "little")
    (tmp_path / "bad.zip").write_bytes(bad)
    with open_tree(str(tmp_path / "bad.zip")) as tree, pytest.raises(Corrupt, match="longer than its directory says"):
        tree.read(tree.find(b"file"))


# ------------------------------------------------------------------------------------------------ any shape

NAMES = st.text("ab-./é\n~ ", min_size=1, max_size=8).filter(
    lambda name: all(part not in ("", ".", "..") for part in name.split("/"))
)
STEPS = st.lists(
    st.tuples(
        NAMES, st.sampled_from(["file", "file", "file", "folder", "link", "hard"]), st.binary(max_size=1500), NAMES
    ),
    max_size=14,
)


@pytest.mark.spec("FOREIGN-2", "FOREIGN-3")
@given(steps=STEPS, form=st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, "zip"]))
def test_any_archive_is_the_tree_that_it_means(
    steps: list[tuple[str, str, bytes, str]], form: object, tmp_path_factory: pytest.TempPathFactory
) -> None:
    out, model = io.BytesIO(), Model()
    if form == "zip":
        last = {step[0]: step for step in steps if step[1] in ("file", "folder")}
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, kind, body, _ in last.values():
                archive.writestr(name + "/" * (kind == "folder"), b"" if kind == "folder" else body)
                model.put(name.encode(), kind, body, b"")
    else:
        with tarfile.open(fileobj=out, mode="w", format=form) as archive:  # type: ignore[call-overload]
            for name, kind, body, other in steps:
                info = tarfile.TarInfo(name)
                kinds = {"folder": tarfile.DIRTYPE, "link": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE}
                info.type = kinds.get(kind, tarfile.REGTYPE)
                info.size = len(body) if kind == "file" else 0
                info.linkname = other if kind in ("link", "hard") else ""
                archive.addfile(info, io.BytesIO(body))
                model.put(name.encode(), kind, body, other.encode())
    path = tmp_path_factory.mktemp("any") / "archive"
    path.write_bytes(out.getvalue())
    with open_tree(str(path)) as tree:
        found = {}
        for name, attr in tree.walk():
            kind = attr.mode >> 12
            found[name] = ("folder", b"") if kind == 4 else ("link", tree.text(attr)) if kind == 10 else ("file", attr)
            assert tree.find(name) == attr
        wanted = model.tree()
        assert {k: v[0] for k, v in found.items()} == {k: v[0] for k, v in wanted.items()}
        for name, (kind, body) in wanted.items():
            if kind == "file" and body is not None:
                assert tree.read(found[name][1]) == body
            elif kind == "link":
                assert found[name][1] == body


class Model:
    """What unpacking would leave, in dictionaries."""

    def __init__(self) -> None:
        self._latest: dict[bytes, tuple[str, bytes | None]] = {}
        self._all: list[bytes] = []

    def put(self, name: bytes, kind: str, body: bytes, other: bytes) -> None:
        if kind == "hard":
            if name == other:
                return
            target = self._latest.get(other, ("folder", None))
            self._latest[name] = target if target[0] != "folder" else ("file", None)
        else:
            self._latest[name] = kind, b"" if kind == "folder" else other if kind == "link" else body
        self._all.append(name)

    def tree(self) -> dict[bytes, tuple[str, bytes | None]]:
        above = {name[:i] for name in self._all for i in range(len(name)) if name[i : i + 1] == b"/"}
        return {**self._latest, **dict.fromkeys(above, ("folder", b""))}
