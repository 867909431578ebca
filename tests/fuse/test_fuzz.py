"""Images that somebody made to do harm: their sums are right, what they say is not.  An error, or bytes; never a crash,
a hang, gigabytes of memory, or anything outside of the folder that is unpacked into."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import traceback
import zlib
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from components.hostile import CHANGES, Parts, changed, copied, taken_apart
from dls.fuse import mounting
from dls.fuse.image import Image, open_image
from dls.fuse.pack import Options, pack
from dls.fuse.records import HEAD, MODE, NAME_SIZE, OFF, SIZE, TAIL, U32, U64, length_of
from dls.fuse.source import all_attributes
from dls.fuse.unpack import unpack
from dls.logistics.digest import of
from dls.logistics.entry import FILE, LINK, NO_MODE, Entry
from dls.logistics.errors import DlsError

pytestmark = pytest.mark.usefixtures("either_way")
ROOM = 700 << 20
"""Bytes of address space that a reader gets on top of what it has."""
SECONDS = 40
MOST_READ = 64 << 20


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small image with everything in it."""
    root = tmp_path_factory.mktemp("hostile") / "tree"
    root.mkdir()
    rng = random.Random(3)
    (root / "noise").write_bytes(rng.randbytes(300_000))
    for n in range(12):
        (root / f"text{n:02}").write_bytes(b"some text %d " % n * 40)
    os.symlink("text01", root / "link")
    os.symlink("text02", root / "zlink")
    os.link(root / "text02", root / "hard")
    for name in ("aa", "bb", "bb/cc"):
        (root / name).mkdir()
        (root / name / "inside").write_bytes(name.encode() * 100)
    os.setxattr(root / "text03", b"user.note", b"value" * 9)
    with open(root / "hole", "wb") as hole:
        hole.truncate(1 << 20)
    pack(str(root), str(root.parent / "i.sqfs"), Options(workers=0, attributes=all_attributes))
    return root.parent / "i.sqfs"


def looked_at(path: Path, out: Path) -> None:
    """All that a reader does with an image; errors of ours end what they meet, nothing else may come."""
    with contextlib.suppress(DlsError), open_image(str(path)) as image:
        for look in (_walked, _listed, _verified, _packed):
            with contextlib.suppress(DlsError):
                look(image)
        with contextlib.suppress(DlsError):
            unpack(image, str(out))


def _walked(image: Image) -> None:
    for path, attr in image.walk():
        with contextlib.suppress(DlsError):
            image.find(path)
            image.xattrs(attr)
            if attr.mode >> 12 == 10:
                image.text(attr)
            elif attr.mode >> 12 == 8:
                if attr.size <= MOST_READ:
                    assert len(image.read(attr)) == attr.size
                for at in range(0, min(attr.size, MOST_READ), 1 << 20):
                    assert sum(map(len, image.pieces(attr, at, at + (1 << 20)))) == min(1 << 20, attr.size - at)


def _listed(image: Image) -> None:
    """As the kernel does it: from each reply on to where its last record says."""
    for _, attr in [(b"", image.attr(image.root)), *image.walk()]:
        if attr.mode >> 12 == 4:
            offset = replies = 0
            while reply := b"".join(image.listing(attr.node, offset, 300)):  # a name at a time: each says what is next
                assert len(reply) <= 300
                at = 0
                while at + HEAD <= len(reply):
                    (offset,) = U64.unpack_from(reply, at + OFF)
                    at += length_of(*U32.unpack_from(reply, at + NAME_SIZE))
                replies += 1
                assert replies < 10_000, "a listing without an end"


def _verified(image: Image) -> None:
    assert all(isinstance(error, DlsError | None) for _, error in image.verify())


def _packed(image: Image) -> None:
    for _ in image.items():
        pass


def judged(work: Path, data: bytes, look: Callable[[Path, Path], None] = looked_at) -> str:
    """What is wrong with how an image is read, by a process of bounded memory and time."""
    path, out = work / "bad.sqfs", work / "out"
    path.write_bytes(data)
    shutil.rmtree(out, ignore_errors=True)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(SECONDS)
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, resource.RLIM_INFINITY))
            look(path, out)
            status = 0
        except BaseException:  # noqa: BLE001 - told to the parent
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            (work / "said").write_text(traceback.format_exc())
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    left = [name for name in os.listdir(work) if name not in ("bad.sqfs", "out", "said", "outside")]
    if left or os.listdir(work / "outside"):
        return f"written outside: {left} {os.listdir(work / 'outside')}"
    if os.WIFSIGNALED(status):
        return f"killed by signal {os.WTERMSIG(status)}"
    return (work / "said").read_text() if status else ""


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "outside").mkdir()
    return tmp_path


# --------------------------------------------------------------------------------------------- one by one


def _inside(path: bytes, *values: int) -> Callable[[Parts], None]:
    """Let a folder show another listing."""

    def change(parts: Parts) -> None:
        a, b, c = values if len(values) == 3 else (parts.get(b"", 8, "<Q"), *parts_of(parts, b""))
        parts.put(path, 8, "<Q", a)
        parts.put(path, TAIL, "<II", b, c)

    return change


def parts_of(parts: Parts, path: bytes) -> tuple[int, int]:
    return parts.get(path, TAIL, "<I"), parts.get(path, TAIL + 4, "<I")


def _field(path: bytes, offset: int, form: str, *values: int) -> Callable[[Parts], None]:
    return lambda parts: parts.put(path, offset, form, *values)


def _said(**fields: Any) -> Callable[[Parts], None]:
    return lambda parts: parts.said.update(fields)


def _image(**fields: Any) -> Callable[[Parts], None]:
    return lambda parts: parts.said.update(image={**parts.header.image, **fields})


def _block(number: int, at: int, stored: int, check: int | None = None) -> Callable[[Parts], None]:
    def change(parts: Parts) -> None:
        old = parts.blocks[number]
        parts.blocks[number] = at, stored, old[2] if check is None else check

    return change


def _bomb(form: str) -> bytes:
    zeros = b"\0" * (64 << 20)
    if form == "sized":
        return zstandard.ZstdCompressor(level=1).compress(zeros)
    made = zstandard.ZstdCompressor(level=1, write_content_size=False).compressobj()
    return b"".join([*(made.compress(zeros) for _ in range(32)), made.flush()])


def _wide_window() -> bytes:
    """A frame that asks for a window of 2 GiB."""
    return struct.pack("<IBB", 0xFD2FB528, 0x00, 31 - 10 << 3) + struct.pack("<I", 1 | 0 << 1 | 5 << 3)[:3] + b"hello"


def _bad_block(data: bytes) -> Callable[[Parts], None]:
    def change(parts: Parts) -> None:
        from dls.fuse.codec import sum_of

        at = len(parts.body)
        parts.body += data + bytes(-len(data) % 4096)
        parts.blocks[0] = at, len(data), sum_of(data)
        parts.said.update(image={**parts.header.image, "bytes": len(parts.body)})

    return change


def _bad_frame(data: bytes) -> Callable[[Parts], None]:
    return lambda parts: parts.frames.update({0: data})


def _renamed(path: bytes, name: bytes) -> Callable[[Parts], None]:
    def change(parts: Parts) -> None:
        parts.put(path, NAME_SIZE, "<I", len(name))
        parts.rename(path, name, parts.get(b"", 40, "<Q"))

    return change


def _entries(change: Callable[[list[Entry]], list[Entry]]) -> Callable[[Parts], None]:
    return lambda parts: parts.entries(change)


def _other(which: bytes, **fields: Any) -> Callable[[Parts], None]:
    return _entries(lambda found: [e._replace(**fields) if e.path == which else e for e in found])


def _and(*changes: Callable[[Parts], None]) -> Callable[[Parts], None]:
    def change(parts: Parts) -> None:
        for one in changes:
            one(parts)

    return change


def _segment_bomb(parts: Parts) -> None:
    """Names that unpack to a gigabyte."""
    whole = parts.segments[0].encode()
    head, column = struct.Struct("<5sIB"), struct.Struct("<BBQQ")
    packed = _deflated(1 << 30)
    number, _, _, size = column.unpack_from(whole, head.size)
    rest = whole[head.size + column.size + size :]
    parts.raw_segments[0] = whole[: head.size] + column.pack(number, 1, 1 << 30, len(packed)) + packed + rest


def _deflated(size: int) -> bytes:
    made, piece = zlib.compressobj(1), b"x" * (16 << 20)
    return b"".join([*(made.compress(piece) for _ in range(size // len(piece))), made.flush()])


def _escape(found: list[Entry]) -> list[Entry]:
    """A link that leads outside, and a file through it."""
    kept = [e for e in found if not e.path.startswith(b"aa")]
    inside = next(e for e in found if e.path == b"aa/inside")
    return sorted([*kept, Entry(b"aa", LINK, 0, bytes(32), NO_MODE, 0, b"../outside"), inside])


def _hidden_folder(parts: Parts) -> None:
    """The listing of the root no longer shows `aa`, the table of names still leads there."""
    at = (parts.nodes[b"aa"] << 3) + HEAD
    parts.space[at : at + 2] = b"zz"
    parts.nodes = dict(parts.nodes)
    shown = bytes(parts.space[at - HEAD : at + 8])
    # A record of the old name in a gap behind: within the range of the root's listing, where no walk looks.
    parts.put(b"", TAIL, "<I", (len(parts.space) - (parts.get(b"", 8, "<Q") & (1 << 40) - 1) * 8) + 1024)
    place = len(parts.space) + 512
    parts.space += bytes(512) + shown[:HEAD] + b"aa" + bytes(512)
    hashed = zlib.crc32(b"aa", parts.get(b"", 40, "<Q")) * 0x9E3779B97F4A7C15 & (1 << 64) - 1
    mask, slot = len(parts.names) - 1, hashed >> 20
    for number in range(len(parts.names)):
        here = slot + number & mask
        if parts.names[here] >> 40 == hashed >> 40 or not parts.names[here]:
            parts.names[here] = (hashed >> 40) << 40 | place >> 3
            break


def _no_table(parts: Parts) -> None:
    parts.names = array("Q")
    parts.said.update(slots=0)


def _full_table(parts: Parts) -> None:
    parts.names = array("Q", [1 << 40 | 8] * len(parts.names))


HOSTILE: dict[str, Callable[[Parts], None]] = {
    "folder-in-itself": _inside(b"bb/cc"),
    "folder-twice": lambda p: _inside(b"bb", p.get(b"aa", 8, "<Q"), *parts_of(p, b"aa"))(p),
    "listing-of-everything": _inside(b"bb", 8, 0xFFFFFFFF, 0xFFFFFFFF),
    "listing-behind": _inside(b"bb", (1 << 40) - 1, 4096, 0),
    "listing-unaligned": _inside(b"bb", 11, 4096, 0),
    "name-up": _renamed(b"text01", b"../xyz"),
    "name-far-up": _renamed(b"text01", b"../../outside/evil"),
    "name-dots": _renamed(b"aa", b".."),
    "name-dot": _renamed(b"aa", b"."),
    "name-slash": _renamed(b"text01", b"/etc/p"),
    "name-nul": _renamed(b"text01", b"te\0t01"),
    "name-hidden": _renamed(b"text01", b".dls-1"),
    "name-long": _field(b"text01", NAME_SIZE, "<I", 0xFFFFFFFF),
    "name-60000": _field(b"text01", NAME_SIZE, "<I", 60_000),
    "name-empty": _field(b"text01", NAME_SIZE, "<I", 0),
    "cookie-back": _field(b"text05", OFF, "<Q", 0),
    "cookie-far": _field(b"text05", OFF, "<Q", 1 << 62),
    "size-huge": _field(b"noise", SIZE, "<Q", 1 << 62),
    "size-64": _field(b"noise", SIZE, "<Q", (1 << 64) - 1),
    "size-more": _field(b"noise", SIZE, "<Q", 500_000),
    "size-less": _field(b"noise", SIZE, "<Q", 200_000),
    "hole-huge": _field(b"hole", SIZE, "<Q", 1 << 45),
    "tail-behind": _field(b"text01", TAIL, "<II", 0, 0xFFFFFFF0),
    "tail-no-block": _field(b"text01", TAIL, "<I", 0xFFFFFFFE),
    "first-no-block": _field(b"noise", 8, "<Q", (1 << 40) - 1),
    "text-long": _field(b"link", SIZE, "<Q", 1 << 40),
    "text-elsewhere": _field(b"link", 8, "<Q", 123_456_789),
    "kind-none": _field(b"text01", MODE, "<I", 0o644),
    "kind-fifteen": _field(b"text01", MODE, "<I", 0o170644),
    "kind-folder": _field(b"text01", MODE, "<I", 0o040755),
    "kind-file": _field(b"bb", MODE, "<I", 0o100755),
    "kind-device": _field(b"text01", MODE, "<I", 0o060666),
    "xattrs-none": _field(b"text01", 8, "<Q", 0xFFFF << 40),
    "xattrs-short": lambda p: p.xattrs.__setitem__(0, b"\xff\xff"),
    "xattrs-empty": lambda p: p.xattrs.__setitem__(0, b""),
    "xattrs-long": lambda p: p.xattrs.__setitem__(0, struct.pack("<HHI", 1, 9, 0xFFFFFFFF) + b"user.note"),
    "xattrs-nul": lambda p: p.xattrs.__setitem__(0, struct.pack("<HHI", 1, 9, 1) + b"user.\0ote" + b"x"),
    "block-huge": _block(0, 0, 0xFFFFFFFF),
    "block-far": _block(0, 1 << 62, 4096),
    "block-zero": _block(0, 0, 0),
    "block-bomb": _bad_block(_bomb("sized")),
    "block-bomb-unsized": _bad_block(_bomb("unsized")),
    "block-window": _bad_block(_wide_window()),
    "block-garbage": _bad_block(b"not zstd at all"),
    "frame-bomb": _bad_frame(_bomb("sized")),
    "frame-bomb-unsized": _bad_frame(_bomb("unsized")),
    "frame-window": _bad_frame(_wide_window()),
    "frame-short": _bad_frame(zstandard.ZstdCompressor().compress(b"short")),
    "frame-empty": _bad_frame(zstandard.ZstdCompressor().compress(b"")),
    "frame-garbage": _bad_frame(b"garbage"),
    "table-full": _full_table,
    "table-odd": lambda p: p.said.update(slots=3),
    "table-none": _no_table,
    "root-outside": _said(root=1 << 40),
    "root-low": _said(root=0),
    "root-text": _said(root="0"),
    "root-true": _said(root=True),
    "root-less": _said(root=-64),
    "root-float": _said(root=1e308),
    "space-null": _said(space=None),
    "counts-list": _said(counts=[1]),
    "counts-text": _said(counts={"files": "many"}),
    "counts-huge": _said(counts={"files": 1 << 200}),
    "sections-none": _said(sections={}),
    "sections-list": _said(sections=[]),
    "sections-odd": _said(sections={"frames": [1, 2, 3]}),
    "sections-less": _said(sections={"sums": [-8, 8]}),
    "digests-list": _said(digests=[]),
    "image-null": _said(image=None),
    "image-block-zero": _image(block=0),
    "image-block-huge": _image(block=1 << 40),
    "image-block-text": _image(block="131072"),
    "image-super": _image(super=5),
    "manifest-up": _other(b"text01", path=b"../outside/evil"),
    "manifest-absolute": _other(b"text01", path=b"/tmp/dls-evil"),
    "manifest-twice": _other(b"text02", path=b"text01"),
    "manifest-empty-name": _other(b"text01", path=b""),
    "manifest-linked-up": _other(b"text02", target=b"../bad.sqfs"),
    "manifest-linked-absolute": _other(b"text02", target=b"/etc/hostname"),
    "manifest-huge": _other(b"noise", size=1 << 60),
    "manifest-other-digest": _other(b"noise", digest=of(b"else")),
    "manifest-kind": _other(b"link", kind=FILE),
    "manifest-through-link": _entries(_escape),
    "manifest-through-hidden-folder": _and(_entries(_escape), _hidden_folder),
    "manifest-link-in-link": _entries(
        lambda found: sorted([*found, Entry(b"link/x", LINK, 0, bytes(32), NO_MODE, 0, b"../outside")])
    ),
    "manifest-bomb": _segment_bomb,
    "manifest-none": lambda p: setattr(p, "segments", []),
}


@pytest.mark.spec("IMAGE-9", "IMAGE-11")
@pytest.mark.parametrize("how", sorted(HOSTILE))
def test_right_sums_over_hostile_contents(good: Path, work: Path, how: str) -> None:
    parts = taken_apart(good)
    HOSTILE[how](parts)
    assert judged(work, parts.whole()) == ""


def test_the_tool_itself_changes_nothing(good: Path, work: Path) -> None:
    parts = taken_apart(good)
    assert parts.whole() == good.read_bytes()

    def all_of_it(path: Path, out: Path) -> None:
        with open_image(str(path)) as image:
            _walked(image)
            _listed(image)
            assert not [error for _, error in image.verify() if error]
            unpack(image, str(out))

    assert judged(work, parts.whole(), all_of_it) == ""
    assert (work / "out" / "hole").stat().st_blocks == 0


@pytest.mark.spec("IMAGE-11")
@pytest.mark.parametrize(
    "how",
    ["name-up", "name-dots", "manifest-up", "manifest-linked-up", "manifest-through-link", "size-less", "xattrs-nul"],
)
def test_unpacking_tells_and_leaves_nothing(good: Path, work: Path, how: str) -> None:
    parts = taken_apart(good)
    HOSTILE[how](parts)
    (work / "bad.sqfs").write_bytes(parts.whole())
    with open_image(str(work / "bad.sqfs")) as image, pytest.raises(DlsError):
        unpack(image, str(work / "out"))
    assert sorted(os.listdir(work)) == ["bad.sqfs", "outside"]
    assert not os.listdir(work / "outside")


@pytest.mark.spec("IMAGE-9")
def test_a_folder_that_begins_inside_another_hides_nothing_of_it(work: Path) -> None:
    for name in [f"big/{n:03}" for n in range(120)] + ["zz/inside"]:
        (work / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (work / "tree" / name).write_bytes(b"x")
    pack(str(work / "tree"), str(work / "i"), Options(workers=0))
    parts = taken_apart(work / "i")
    start, size = parts.get(b"big", 8, "<Q"), parts_of(parts, b"big")[0]
    _inside(b"zz", start + 20, size - 160, 0)(parts)  # from the second name on
    (work / "bad").write_bytes(parts.whole())
    with open_image(str(work / "bad")) as image:
        big, zz = image.find(b"big").node, image.find(b"zz").node
        at = [0]
        while reply := b"".join(image.listing(big, at[-1], 3000)):
            at.append(U64.unpack_from(reply, len(reply) - length_of(3) + OFF)[0])
        assert at[-1] == size > 2 * 8192
    with open_image(str(work / "bad")) as image:
        for offset in range(0, size, 8192):
            with contextlib.suppress(DlsError):
                image.listing(zz, offset, 3000)
        for offset, then in itertools.pairwise(at):
            assert U64.unpack_from(b"".join(image.listing(big, offset, 3000))[-length_of(3) :], OFF)[0] == then


@pytest.mark.spec("IMAGE-9")
@pytest.mark.parametrize("how", ["cookie-back", "cookie-far", "name-long", "name-60000"])
def test_a_listing_is_whole_or_an_error(good: Path, work: Path, how: str) -> None:
    parts = taken_apart(good)
    HOSTILE[how](parts)
    (work / "bad.sqfs").write_bytes(parts.whole())
    with open_image(str(work / "bad.sqfs")) as image, pytest.raises(DlsError):
        _listed(image)


@pytest.mark.spec("IMAGE-9")
@pytest.mark.parametrize("how", ["name-up", "name-dots", "name-nul", "folder-in-itself", "listing-of-everything"])
def test_names_that_cannot_be_are_not_given(good: Path, work: Path, how: str) -> None:
    parts = taken_apart(good)
    HOSTILE[how](parts)
    (work / "bad.sqfs").write_bytes(parts.whole())
    seen: list[bytes] = []
    with open_image(str(work / "bad.sqfs")) as image, pytest.raises(DlsError):
        seen.extend(path for path, _ in image.walk())
    assert len(seen) < 40
    assert not {b"..", b".", b""} & {part for path in seen for part in path.split(b"/")}


FULL = os.environ.get("DLS_FAULTS") == "full"
SOME = ["folder-in-itself", "cookie-back", "name-up", "size-huge", "block-bomb"]


@pytest.mark.service
@pytest.mark.fault
@pytest.mark.spec("MOUNT-5")
@pytest.mark.parametrize("how", ["good", *(sorted(HOSTILE) if FULL else SOME)])
def test_hostile_images_mounted(good: Path, work: Path, how: str) -> None:
    parts = taken_apart(good)
    HOSTILE.get(how, lambda parts: None)(parts)
    (work / "bad.sqfs").write_bytes(parts.whole())
    image, folder = str(work / "bad.sqfs"), work / "m"
    folder.mkdir()
    try:
        keeper = mounting.in_background(
            image, lambda: open_image(image), str(folder), mounting.MountOptions(), str(work / "log")
        )
    except DlsError:
        return
    try:
        code = (
            "import os, sys\n"
            "for above, inside, files in os.walk(sys.argv[1]):\n"
            "    for name in files:\n"
            "        try:\n"
            "            os.stat(above + '/' + name); os.listxattr(above + '/' + name, follow_symlinks=False)\n"
            "            with open(above + '/' + name, 'rb') as file:\n"
            "                for _ in range(64):\n"
            "                    if not file.read(1 << 20): break\n"
            "        except (OSError, ValueError):\n"
            "            pass\n"
        )
        done = subprocess.run([sys.executable, "-c", code, str(folder)], timeout=60, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert os.path.ismount(folder)
        if how == "good":
            assert (folder / "noise").stat().st_size == 300_000
    finally:
        with contextlib.suppress(DlsError):
            mounting.unmount(str(folder), lazy=True)
        os.waitpid(keeper, 0)
    assert "another one takes its place" not in (work / "log").read_text()


# ------------------------------------------------------------------------------------------------ at random


@pytest.mark.fault
@pytest.mark.timeout(3600)
@pytest.mark.spec("IMAGE-9", "IMAGE-11")
@settings(max_examples=3000 if FULL else 120)
@given(changes=st.lists(CHANGES, min_size=1, max_size=4))
def test_anything_with_right_sums(changes: list[Any], good: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    global _good_parts
    if _good_parts is None:
        _good_parts = taken_apart(good)
    parts = copied(_good_parts)
    for change in changes:
        changed(parts, *change)
    folder = tmp_path_factory.mktemp("any", numbered=True)
    (folder / "outside").mkdir()
    try:
        assert judged(folder, parts.whole()) == ""
    finally:
        shutil.rmtree(folder)


_good_parts: Parts | None = None
