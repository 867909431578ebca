"""The compiled path of images says what the Python path says, or leaves it to that one; whatever an image says."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components import trees
from components.hostile import CHANGES, Parts, changed, copied, taken_apart
from components.sanitized import run_sanitized
from dls.fuse import fast
from dls.fuse import image as images
from dls.fuse.blocks import AS_IT_IS, INSIDE, INSIDE_AT, Form
from dls.fuse.codec import BYTES, PART_HEAD, PARTS, RAW, sum_of
from dls.fuse.image import Image, open_image
from dls.fuse.pack import Options, pack
from dls.fuse.records import LOW, NO_TAIL, length_of
from dls.logistics.errors import Conflict, DlsError

FULL = os.environ.get("DLS_FAULTS") == "full"
EXACT = "DLS_TEST_EXACT"
"""Set where indexes are not mapped, but lie in memory that ends where they do."""
SPANS = [(0, 1 << 17), (0, 1000), (0, 131073), (4096, 4096), (4096, 70_000), (8192, 65536), (131072, 131072), (1, 10)]
LOOKUP, GETATTR, READ, DESTROY, READDIRPLUS = 1, 3, 15, 38, 44


if os.environ.get(EXACT):
    images.mapped = lambda fd, start, size: memoryview(os.pread(fd, size, start))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of every size around the borders of parts and blocks, that shrink and that do not."""
    root = tmp_path_factory.mktemp("fast") / "tree"
    root.mkdir()
    rng = random.Random(5)
    for size in (0, 1, 2, 500, 16383, 16384, 16385, 65536, 131071, 131072, 131073, 300_000):
        (root / f"noise{size}").write_bytes(rng.randbytes(size))
        (root / f"text{size}").write_bytes((b"some words, " * (size // 12 + 1))[:size])
        (root / f"same{size}").write_bytes(b"\0" * size)
        (root / f"ones{size}").write_bytes(b"\1" * size)
    for name in ("aa", "bb", "bb/cc"):
        (root / name).mkdir()
        (root / name / "inside").write_bytes(name.encode() * 100)
    os.symlink("text500", root / "link")
    os.link(root / "text500", root / "hard")
    pack(str(root), str(root.parent / "i.sqfs"), Options(workers=0))
    return root.parent / "i.sqfs"


def compared(path: Path) -> int:
    """Both paths over an image, which may be damaged: how often the compiled one had an answer."""
    answers = 0
    try:
        compiled, plain = open_image(str(path)), open_image(str(path))
    except DlsError:
        return 0
    with compiled, plain, contextlib.ExitStack() as stack:
        assert compiled.fast is not None
        asker = stack.enter_context(contextlib.closing(Asker(compiled.fast)))
        plain.fast = None
        names = [b"", b"x", b".", b"..", b"text500", b"inside", b"\xff" * 255]
        for node in _nodes(plain):
            for name in names:
                answers += _agree(compiled.fast.lookup(node, name), _lookup(plain, node, name))
            answers += _agree(compiled.fast.content(node), _content(plain, node))
            answers += sum(_listed(asker, plain, node, size) for size in (200, 700, 4096, 100_000))
            for start, size in SPANS:
                answers += _agree(asker.read(node, start, size), _span(plain, node, start, size))
    return answers


def request(opcode: int, unique: int, node: int, body: bytes) -> bytes:
    """A request of the kernel."""
    return struct.pack("<IIQQIIII", 40 + len(body), opcode, unique, node, 0, 0, 1, 0) + body


class Asker:
    """Asks the compiled path as the kernel does."""

    def __init__(self, reader: fast.Reader) -> None:
        self._reader = reader
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._theirs.setblocking(False)

    def read(self, node: int, start: int, size: int, opcode: int = READ) -> bytes | None:
        """What is answered to a READ (or READDIRPLUS); None where it is left to Python."""
        self._ours.send(request(opcode, 5, node, struct.pack("<QQIIQII", 0, start, size, 0, 0, 0, 0)))
        self._ours.send(request(DESTROY, 6, 1, b""))
        if self._left() == 5:
            assert self._left() == 6
            return None
        reply = self._ours.recv(1 << 20)
        assert struct.unpack_from("<IiQ", reply) == (len(reply), 0, 5)
        return reply[16:]

    def _left(self) -> int:
        """The number of the next request that is left to Python."""
        found = self._reader.serve(self._theirs.fileno(), -1, False, bytearray(8), -1)
        assert found is not None
        return int(struct.unpack_from("<Q", found[0], 8)[0])

    def close(self) -> None:
        self._ours.close()
        self._theirs.close()


def _span(image: Image, node: int, start: int, size: int) -> bytes | None:
    try:
        if image.attr(node).mode >> 12 != 8:
            return None
        return b"".join(image.content(node, start, start + size))
    except (DlsError, OverflowError):
        return None


def _listed(asker: Asker, plain: Image, node: int, size: int) -> int:
    """A folder, reply by reply, as the kernel asks for it: from where the last record says that the next one is."""
    offset = answers = 0
    for _ in range(500):
        compiled = asker.read(node, offset, size, READDIRPLUS)
        try:
            wanted: bytes | None = b"".join(plain.listing(plain.root if node == 1 else node, offset, size))
        except (DlsError, OverflowError):
            wanted = None
        answers += _agree(compiled, wanted)
        if not compiled:
            break
        at = 0
        while at < len(compiled):
            (offset,) = struct.unpack_from("<Q", compiled, at + 136)
            at += length_of(*struct.unpack_from("<I", compiled, at + 144))
    # Where no record begins, and where another folder would go on.
    assert not offset or asker.read(node, offset + 8, size, READDIRPLUS) in (None, b"")
    assert not offset or asker.read(node ^ 1, offset, size, READDIRPLUS) is None
    return answers


def _nodes(image: Image) -> Iterator[int]:
    """Those that are told, some that are not, and some that cannot be."""
    seen = {0, 1, 2, 8, 9, image.root, image.root + 1, LOW, LOW + 1, (1 << 64) - 1}
    try:
        for _, attr in image.walk():
            seen.add(attr.node)
            if len(seen) > 3000:
                break
    except DlsError:
        pass
    return iter(sorted(seen))


def _lookup(image: Image, node: int, name: bytes) -> bytes | None:
    try:
        return image.lookup(node, name)
    except (DlsError, OverflowError):
        return None


def _content(image: Image, node: int) -> bytes | None:
    try:
        attr = image.attr(node)
        if attr.mode >> 12 != 8:
            return None
        assert attr.size <= image.block, "the compiled path leaves these alone"
        return b"".join(image.content(node, 0, attr.size))
    except (DlsError, AssertionError, OverflowError):
        return None


def _agree(compiled: bytes | None, plain: bytes | None) -> bool:
    assert compiled is None or compiled == plain
    return compiled is not None


@pytest.mark.spec("IMAGE-17")
def test_nothing_of_a_good_image_is_left_to_python_but_what_is_large(good: Path) -> None:
    assert compared(good) > 100
    with open_image(str(good)) as image:
        assert image.fast is not None
        for path, attr in image.walk():
            above, _, name = path.rpartition(b"/")
            assert image.fast.lookup(image.find(above).node, name) == image.record(attr.node)[:152] or attr.nlink > 1
            small = attr.mode >> 12 == 8 and 0 < attr.size < image.block
            assert (image.fast.content(attr.node) is not None) == small or attr.size == image.block
            assert not small or image.read(attr) == (good.parent / "tree" / os.fsdecode(path)).read_bytes()
        assert image.fast.lookup(image.root, b"absent") == b""
        with contextlib.closing(Asker(image.fast)) as asker:
            for node in (image.root, image.find(b"bb").node):
                assert asker.read(node, 0, 1 << 17, READDIRPLUS) == b"".join(image.listing(node, 0, 1 << 17))


@pytest.mark.spec("IMAGE-17")
@pytest.mark.parametrize("form", [Form(small=0), Form(block=4096), Form(block=1 << 20), Form(shared=4096), AS_IT_IS])
def test_images_of_other_forms(tmp_path: Path, form: Form) -> None:
    trees.nasty(tmp_path / "tree")
    pack(str(tmp_path / "tree"), str(tmp_path / "i"), Options(workers=0, form=form))
    assert compared(tmp_path / "i") > 100


@pytest.mark.spec("IMAGE-17")
def test_many_names_and_frames_come_and_go(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    for folder in range(20):
        (root / f"{folder}").mkdir(parents=True)
        for n in range(150):
            (root / f"{folder}" / f"{'long' * 40}{n}").write_bytes(b"%d" % (n % 7))
    pack(str(root), str(tmp_path / "i"), Options(workers=0))
    assert compared(tmp_path / "i") > 20_000


@pytest.mark.spec("IMAGE-9", "IMAGE-17")
def test_flipped_bits_are_never_other_bytes(good: Path, tmp_path: Path, rng: random.Random) -> None:
    data, answers = good.read_bytes(), 0
    for _ in range(400 if FULL else 40):
        bad = bytearray(data)
        for _ in range(rng.choice((1, 30, 300))):
            bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        (tmp_path / "bad").write_bytes(bad)
        answers += compared(tmp_path / "bad")
    assert answers


_parts: list[Parts] = []


def _part_with_another_content(parts: Parts, path: bytes, at: int, value: int) -> None:
    """A part of a block whose bytes are changed, under a sum that is right."""
    tail, inside = parts.get(path, 32, "<I"), parts.get(path, 36, "<I")
    if tail == NO_TAIL or not parts.blocks[tail][1] & PARTS:
        return
    begin, stored, _ = parts.blocks[tail]
    begin += inside & INSIDE
    length = (inside >> INSIDE_AT) + (1 if stored & RAW else 1 + PART_HEAD)
    parts.body[begin + at % length] = value
    parts.put(path, 8, "<Q", parts.get(path, 8, "<Q") & ~LOW | sum_of(parts.body[begin : begin + length]))


def _block_with_another_content(parts: Parts, number: int, at: int, value: int) -> None:
    number %= len(parts.blocks)
    begin, stored, _ = parts.blocks[number]
    if size := stored & BYTES:
        parts.body[begin + at % size] = value
        parts.blocks[number] = begin, stored, sum_of(parts.body[begin : begin + size])


_PATHS = ["text500", "text16383", "text16384", "noise500", "ones2", "ones16383", "aa/inside", "bb/cc/inside"]
_BYTES = st.one_of(st.integers(0, 12), st.integers(0, 20_000)), st.integers(0, 255)
_CONTENTS = st.one_of(
    st.tuples(st.just(_part_with_another_content), st.sampled_from([os.fsencode(p) for p in _PATHS]), *_BYTES),
    st.tuples(st.just(_block_with_another_content), st.integers(0, 30), *_BYTES),
)


@pytest.mark.spec("IMAGE-9", "IMAGE-17")
@settings(max_examples=3000 if FULL else 100)
@given(changes=st.lists(CHANGES, max_size=3), contents=st.lists(_CONTENTS, max_size=3))
def test_anything_with_right_sums_is_read_alike(
    changes: list[tuple[object, ...]], contents: list[tuple[object, ...]], good: Path
) -> None:
    if not _parts:
        _parts.append(taken_apart(good))
    parts = copied(_parts[0])
    for content in contents:
        content[0](parts, *content[1:])  # type: ignore[operator]
    for change in changes:
        changed(parts, *change)  # type: ignore[arg-type]
    bad = good.parent / f"bad-{os.getpid()}"
    bad.write_bytes(parts.whole())
    compared(bad)


@pytest.mark.spec("IMAGE-17", "MOUNT-8")
@pytest.mark.parametrize("how", ["written", "cut"])
def test_a_file_that_is_not_what_was_opened_is_left_to_python(good: Path, tmp_path: Path, how: str) -> None:
    path = tmp_path / "i"
    path.write_bytes(good.read_bytes())
    with open_image(str(path)) as image:
        assert image.fast is not None
        attr = image.find(b"text500")
        assert image.fast.content(attr.node)
        if how == "cut":
            os.truncate(path, 100)
        else:
            with open(path, "r+b") as file:
                file.write(b"other")
        threading.Event().wait(0.01)  # longer than it trusts its last look
        assert image.fast.content(attr.node) is None
        assert image.fast.lookup(image.root, b"text500") is None
        assert image.fast.lookup(image.root, b"aa") is None
        with pytest.raises(Conflict):
            image.read(attr)


@pytest.mark.spec("IMAGE-17", "MOUNT-9")
def test_a_read_that_waits_for_the_disk_while_others_ask_is_left_to_python(tmp_path: Path) -> None:
    rng = random.Random(2)
    (tmp_path / "tree").mkdir()
    for name in "abc":
        (tmp_path / "tree" / name).write_bytes(rng.randbytes(100_000))
    path = tmp_path / "i"
    pack(str(tmp_path / "tree"), str(path), Options(workers=0))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, open_image(str(path)) as image:
        theirs.setblocking(False)
        assert image.fast is not None
        os.posix_fadvise(image.source.fd, 0, 0, os.POSIX_FADV_RANDOM)  # type: ignore[attr-defined]
        nodes = [image.find(name).node for name in (b"a", b"c")]
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        for unique, node in enumerate(nodes):
            ours.send(request(READ, unique, node, struct.pack("<QQIIQII", 0, 0, 131072, 0, 0, 0, 0)))
        found = image.fast.serve(theirs.fileno(), -1, False, bytearray(8), 0)
        assert found is not None
        left, others = found
        if struct.unpack_from("<Q", left, 8)[0] == 0:
            pytest.skip("this file system does not wait for a disk")
        assert others
        assert struct.unpack_from("<Q", left, 16)[0] == nodes[1]
        assert ours.recv(1 << 20)[16:] == (tmp_path / "tree" / "a").read_bytes()


@pytest.mark.spec("IMAGE-17", "MOUNT-6")
def test_the_time_of_a_request_is_told_but_not_of_statfs(good: Path) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, open_image(str(good)) as image:
        theirs.setblocking(False)
        assert image.fast is not None
        beats = bytearray(24)
        ours.send(request(17, 1, 1, b""))
        assert image.fast.serve(theirs.fileno(), -1, False, beats, 8) == (request(17, 1, 1, b""), False)
        assert beats == bytes(24)
        ours.send(request(GETATTR, 2, 1, bytes(16)))
        ours.send(request(DESTROY, 3, 1, b""))
        assert image.fast.serve(theirs.fileno(), -1, False, beats, 8) == (request(DESTROY, 3, 1, b""), True)
        assert 0 < struct.unpack_from("d", beats, 8)[0] < 1e12
        assert beats[:8] == bytes(8) == beats[16:]
        for at in (17, 1 << 62):
            with pytest.raises(ValueError, match="no room"):
                image.fast.serve(theirs.fileno(), -1, False, beats, at)


@pytest.mark.spec("IMAGE-17")
def test_odd_requests_are_left_to_python(good: Path, rng: random.Random) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, open_image(str(good)) as image:
        theirs.setblocking(False)
        assert image.fast is not None
        odd = [request(LOOKUP, 1, 1, b"."), request(LOOKUP, 1, 1, b"..\0"), request(LOOKUP, 1, 1 << 63, b"x\0")]
        odd += [request(READ, 1, 1, b""), request(READ, 1, 1, bytes(40)), request(READ, 1, image.root, bytes(40))]
        odd += [request(GETATTR, 1, 1 << 50, bytes(16)), request(99, 1, 1, b"")]
        odd += [request(rng.choice((LOOKUP, GETATTR, READ)), 1, (1 << 63) + n, rng.randbytes(n)) for n in range(80)]
        for one in odd:
            ours.send(one)
            assert (image.fast.serve(theirs.fileno(), -1, False, bytearray(8), -1) or (b"",))[0] == one
        ours.send(b"short")
        ours.send(odd[0])
        assert (image.fast.serve(theirs.fileno(), -1, False, bytearray(8), -1) or (b"",))[0] == odd[0]


@pytest.mark.spec("IMAGE-17")
def test_it_ends_when_nobody_can_ask_any_more(good: Path) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs, open_image(str(good)) as image:
        theirs.setblocking(False)
        ours.close()
        assert image.fast is not None
        assert image.fast.serve(theirs.fileno(), -1, False, bytearray(8), -1) is None
        assert image.fast.serve(-1, -1, False, bytearray(8), -1) is None


@pytest.mark.spec("IMAGE-17")
def test_signals_are_looked_at_while_it_waits(good: Path) -> None:
    """A server that waits for requests obeys its keeper."""
    code = (
        "import os, signal, socket, sys; from dls.fuse.image import open_image\n"
        "ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET); theirs.setblocking(False)\n"
        "signal.signal(signal.SIGTERM, lambda *_: os._exit(7)); image = open_image(sys.argv[1]); print(flush=True)\n"
        "image.fast.serve(theirs.fileno(), -1, False, bytearray(8), -1)\n"
    )
    for wait in (0.0, 0.2):  # while it looks, and while it sleeps
        with subprocess.Popen([sys.executable, "-c", code, str(good)], stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            child.stdout.readline()
            threading.Event().wait(wait)
            child.terminate()
            assert child.wait(10) == 7


def test_another_contract_is_not_used(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dls_fast", SimpleNamespace(CONTRACT=fast.CONTRACT + 1))  # type: ignore[arg-type]
    with open_image(str(good)) as image:
        assert image.fast is None
        assert image.read(image.find(b"ones2")) == b"\1\1"


def test_it_may_be_left_alone_and_absent(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import sys; from dls.fuse.image import open_image; i = open_image(sys.argv[1]); print(i.fast is None)"
    words = [sys.executable, "-c", code, str(good)]
    assert subprocess.check_output(words, env={**os.environ, "DLS_FAST": "0"}) == b"True\n"
    assert subprocess.check_output(words, env={**os.environ, "DLS_FAST": "1"}) == b"False\n"
    monkeypatch.setitem(sys.modules, "dls_fast", None)  # type: ignore[arg-type]  # as if it were not installed
    with open_image(str(good)) as image:
        assert image.fast is None


@pytest.mark.fault
@pytest.mark.timeout(1800)
@pytest.mark.spec("IMAGE-9", "IMAGE-17")
def test_no_read_or_write_outside_of_memory(good: Path, tmp_path: Path) -> None:
    """The same, compiled to tell each access that is out of bounds: flipped bits, hostile contents, odd requests."""
    source = Path(fast.__file__).parents[2] / "accelerator" / "dls_fast.c"
    tests = "flipped or right_sums or not_what_was_opened or odd_requests or good_image or other_forms or come_and_go"
    run_sanitized(source, tmp_path, __file__, tests, "-lzstd", **{EXACT: "1"})
