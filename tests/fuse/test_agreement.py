"""The tree that was packed, our mount, the kernel's mounts, squashfuse's: every field and byte agree.

Left out, each for its reason (`FIELDS`, `coarse`):
    %s %b %k of folders   a folder's size is what its listing takes, in each file system something else
    %b %k                 blocks allocated: holes and compression make them what the file system likes
    %i %D                 numbers of inodes and devices are each file system's own
    %A %C %B              times of access, of change and of birth are no part of a tree that is read only
    nanoseconds           SquashFS keeps whole seconds from 1970 to 2106; our index and EROFS keep all
    %n of folders         btrfs and others do not count what is inside; ext4 and we do
    names outside         an inode with names outside of the tree has fewer inside: `%n` is what is inside
"""

from __future__ import annotations

import contextlib
import locale
import os
import shutil
import stat
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components import tree as tree_of
from components import trees
from dls.fuse import mounting, source
from dls.fuse.blocks import AS_IT_IS, EROFS
from dls.fuse.image import open_image
from dls.fuse.pack import Options, pack
from dls.fuse.work import Form

pytestmark = [pytest.mark.service]
HERE = Options(workers=0, attributes=source.all_attributes)
AS_EROFS = HERE._replace(form=AS_IT_IS)
NOBODY = 65534
FIELDS = "%P|%y|%m|%U|%G|%n|%l|%T@"
"""Of everything; the size of what is no folder comes with `SIZES`."""
SIZES = "%P|%s"
HOW = ("ours", "kernel", "squashfuse")
EROFS_HOW = ("ours", "erofs")
"""For images that are EROFS."""
EXACT = ("ours", "erofs")
"""Who keeps all of a time."""


@contextlib.contextmanager
def shown_by(how: str, image: str, folder: Path) -> Iterator[Path]:
    """The image, mounted by us, by the kernel or by squashfuse, for root and for everybody."""
    folder.mkdir(parents=True)
    if how == "ours":
        options = mounting.MountOptions(allow_other=True)
        keeper = mounting.in_background(image, lambda: open_image(image), str(folder), options, f"{folder}.log")
        try:
            yield folder
        finally:
            mounting.unmount(str(folder), lazy=True)
            os.waitpid(keeper, 0)
        return
    if how in ("kernel", "erofs"):
        words = ["mount", "-t", "squashfs" if how == "kernel" else how, "-o", "loop,ro", image, folder]
    else:
        words = ["squashfuse", "-o", "allow_other,default_permissions", image, folder]
    subprocess.run(words, check=True, capture_output=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def coarse(rows: list[bytes]) -> list[bytes]:
    """Times as SquashFS holds them."""
    out = []
    for row in rows:
        head, bar, time = row.rpartition(b"|")
        if bar:
            seconds = int(time.partition(b".")[0]) - (
                time.startswith(b"-") and bool(time.partition(b".")[2].strip(b"0"))
            )
            time = b"%d" % min(max(seconds, 0), (1 << 32) - 1)
        out.append(head + bar + time)
    return sorted(out)


def wanted(tree: Path, how: str, user: int) -> list[bytes]:
    """What find says of the tree that was packed, with the numbers of links that lie inside."""
    inodes = _as(0, ["find", ".", "!", "-type", "d", "-links", "+1", "-printf", "%D:%i|%P\\0"], tree).split(b"\0")
    counts = Counter(row.partition(b"|")[0] for row in inodes if row)
    inside = {path: counts[inode] for inode, _, path in (row.partition(b"|") for row in inodes if row)}
    rows = []
    for row in _as(user, ["find", ".", "-printf", FIELDS + "\\0"], tree).split(b"\0"):
        path = row.rsplit(b"|", 7)[0] if row.count(b"|") == 7 else row.partition(b"|")[0]
        if path in inside:
            words = row[len(path) + 1 :].split(b"|")
            words[4] = b"%d" % inside[path]
            row = path + b"|" + b"|".join(words)
        rows.append(row)
    return sorted(rows) if how in EXACT else coarse(rows)


def fields(root: Path, how: str, user: int) -> list[bytes]:
    """What find says of a tree, as a user."""
    said = _as(user, ["find", ".", "-printf", FIELDS + "\\0"], root)
    rows = sorted(said.split(b"\0"))
    return rows if how in EXACT else coarse(rows)


def _as(user: int, words: list[str], where: Path) -> bytes:
    """What a command prints in a folder, as a user; what it may not see is no failure."""
    if user:
        words = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", *words]
    done = subprocess.run(
        words, cwd=where, capture_output=True, check=False, env={"LC_ALL": "C", "PATH": os.environ["PATH"]}
    )
    assert done.returncode == 0 or user, done.stderr
    return done.stdout


def sizes(root: Path, user: int) -> list[bytes]:
    return sorted(_as(user, ["find", ".", "!", "-type", "d", "-printf", SIZES + "\\0"], root).split(b"\0"))


def archived(root: Path, user: int, how: str) -> bytes:
    """The digest of a tar of all that can be read: names, kinds, modes, owners, times, links, content."""
    words = "--format=pax --pax-option=delete=atime,delete=ctime --sort=name"
    if how not in EXACT:
        words += " --mtime=@0"
    if how == "squashfuse":
        words += " --hard-dereference"  # 0.1.105 gives each name a number of its own, and says how many there are
    return _as(user, ["sh", "-c", f"tar c {words} . 2>/dev/null | sha256sum"], root)


def agree(
    tree: Path, image: str, work: Path, *, ways: tuple[str, ...] = HOW, users: tuple[int, ...] = (0, NOBODY)
) -> None:
    """The trees that `ways` show are the one that was packed, for each user."""
    for how in ways:
        with shown_by(how, image, work / f"by-{how}") as found:
            for user in users:
                assert fields(found, how, user) == wanted(tree, how, user), (how, user)
                assert sizes(found, user) == sizes(tree, user), (how, user)
                assert archived(found, user, how) == archived(tree, user, how), (how, user)
            assert trees.differences(tree, found) == "", how
            words = {"ours": "-acnHX", "erofs": "-acnHX", "kernel": "-rlpgoDcnH", "squashfuse": "-rlpgoDcn"}[how]
            done = subprocess.run(
                ["rsync", words, "--itemize-changes", f"{tree}/", f"{found}/"], capture_output=True, check=True
            )
            changed = [row for row in done.stdout.splitlines() if row and not row.startswith(b".d")]
            assert not changed, (how, changed[:5])


def checked_by_fsck(image: str) -> bytes:
    """What the file system's own program says of an EROFS: nothing where all is well."""
    done = subprocess.run(["fsck.erofs", image], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    assert done.returncode == 0, done.stdout
    return done.stdout


def opened_for_all(folder: Path) -> Path:
    """Others may come here: pytest's folders are private."""
    for above in (folder, *folder.parents):
        if above.stat().st_uid == 0 and above != Path("/"):
            above.chmod(above.stat().st_mode | 0o055)
    return folder


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return opened_for_all(tmp_path)


@pytest.fixture(autouse=True)
def as_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("the kernel's mount, and two users, need root")


def packed(tree: Path, work: Path, name: str = "i.sqfs", options: Options = HERE) -> str:
    path = str(work / name)
    pack(str(tree), path, options)
    os.chmod(path, 0o644)
    return path


@pytest.mark.spec("IMAGE-2", "MOUNT-2")
def test_a_tree_of_nasty_names(work: Path) -> None:
    trees.nasty(work / "tree")
    agree(work / "tree", packed(work / "tree", work), work)
    agree(work / "tree", packed(work / "tree", work, "i.erofs", AS_EROFS), work / "erofs", ways=EROFS_HOW)


@pytest.mark.spec("IMAGE-2", "MOUNT-2")
def test_everything_a_tree_may_hold(work: Path) -> None:
    tree_of.odd(work / "tree")
    agree(work / "tree", packed(work / "tree", work), work)
    agree(work / "tree", packed(work / "tree", work, "i.erofs", AS_EROFS), work / "erofs", ways=EROFS_HOW)


SOME_OF_USR = ("/usr/lib/python3", "/usr/share/perl", "/usr/share/zoneinfo", "/usr/share/terminfo", "/usr/include")


@pytest.mark.spec("IMAGE-2", "MOUNT-2")
def test_some_of_usr(work: Path) -> None:
    """Thousands of real files: links, hard links, set-user-ID, several owners."""
    found = [Path(one) for one in SOME_OF_USR if Path(one).is_dir()]
    assert found
    for one in found[:2]:
        agree(one, packed(one, work, f"{one.name}.sqfs"), opened_for_all(_folder(work / one.name)))


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


@pytest.mark.fault
@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.spec("IMAGE-2", "MOUNT-2")
def test_all_of_usr(work: Path, faults_full: bool) -> None:
    if not faults_full:
        pytest.skip("under DLS_FAULTS=full")
    ways = tuple(os.environ.get("DLS_TEST_WAYS", ",".join(HOW)).split(","))
    agree(Path("/usr"), packed(Path("/usr"), work, options=HERE._replace(workers=2)), work, ways=ways)


@pytest.mark.fault
@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.spec("IMAGE-2", "MOUNT-2")
def test_a_million_files(work: Path, faults_full: bool) -> None:
    if not faults_full:
        pytest.skip("under DLS_FAULTS=full")
    count = int(os.environ.get("DLS_TEST_FILES", "1000000"))
    tree_of.mixed(work / "tree", count)
    try:
        agree(work / "tree", packed(work / "tree", work, options=HERE._replace(workers=2)), work, users=(0,))
    finally:
        shutil.rmtree(work / "tree")


# ------------------------------------------------------------------------------------------------------ any tree

_names = st.binary(min_size=1, max_size=30).filter(
    lambda n: b"/" not in n and b"\0" not in n and n not in (b".", b"..") and not n.startswith(b".dls-")
)
_times = st.one_of(st.integers(0, 1 << 32), st.integers(-(1 << 31), 1 << 33)).map(
    lambda s: s * 1_000_000_000 + s % 999_999_937
)
_leaves = st.one_of(
    st.binary(max_size=3000),
    st.integers(0, 400_000),
    st.lists(st.booleans(), min_size=1, max_size=5).map(tuple),  # 128 KiB each: bytes, or none
    st.text(min_size=1, max_size=30).map(lambda text: "l" + text),
    st.just("hard"),
)
_modes = st.integers(0, 0o7777)
_node = st.tuples(_leaves, _modes, _times, st.sampled_from([0, 1000, NOBODY]))
_tree = st.recursive(
    st.dictionaries(_names, _node, max_size=6), lambda c: st.dictionaries(_names, st.one_of(_node, c), max_size=4)
)


def _plant(root: bytes, tree: object, files: list[bytes]) -> None:
    os.makedirs(root)
    assert isinstance(tree, dict)
    for name, value in tree.items():
        path = root + b"/" + name
        if isinstance(value, dict):
            _plant(path, value, files)
            os.utime(path, ns=(0, len(value) * 1_000_000_007))
            continue
        what, mode, time, owner = value
        if what == "hard" and files:
            os.link(files[-1], path)
            continue
        if isinstance(what, str) and what != "hard":
            os.symlink(what[1:].replace("\0", "-").encode("utf-8", "surrogatepass"), path)
        else:
            with open(path, "wb") as out:
                if isinstance(what, tuple):
                    out.write(b"".join((b"part " * 26215)[: 128 << 10] if one else bytes(128 << 10) for one in what))
                else:
                    out.write(what if isinstance(what, bytes) else b"text " * (0 if what == "hard" else what // 5))
            files.append(path)
        os.chown(path, owner, owner, follow_symlinks=False)
        if not os.path.islink(path):
            os.chmod(path, mode)
        os.utime(path, ns=(0, time), follow_symlinks=False)


FORMS = [
    Form(),
    Form(4096, 100, 500),
    Form(1 << 20, 4096, 64 << 10),
    AS_IT_IS,
    AS_IT_IS._replace(block=4096),
    AS_IT_IS._replace(block=1 << 20),
]


@pytest.mark.timeout(3600)
@pytest.mark.spec("IMAGE-1", "IMAGE-2", "IMAGE-16", "MOUNT-2")
@settings(max_examples=60 if os.environ.get("DLS_FAULTS") == "full" else 20)
@given(tree=_tree, form=st.sampled_from(FORMS))
def test_any_tree(tree: object, form: Form, tmp_path_factory: pytest.TempPathFactory) -> None:
    work = opened_for_all(tmp_path_factory.mktemp("any"))
    try:
        _plant(os.fsencode(work) + b"/tree", tree, [])
        image = packed(work / "tree", work, options=HERE._replace(form=form))
        agree(work / "tree", image, work, ways=EROFS_HOW if form.image == EROFS else HOW)
        if form.image == EROFS:
            assert checked_by_fsck(image) == b""
    finally:
        subprocess.run(["chmod", "-R", "u+rwX", work / "tree"], check=True)
        shutil.rmtree(work)


# ------------------------------------------------------------------------------------------------- the same bytes


@pytest.mark.parametrize("form", [Form(), AS_IT_IS], ids=["squashfs", "erofs"])
@pytest.mark.spec("IMAGE-1")
def test_two_packs_are_the_same_bytes(work: Path, form: Form) -> None:
    """Under another umask, locale, time zone, user, folder, number of workers, order of creation."""
    trees.nasty(work / "tree", special=False)
    for one in (work / "tree").rglob("*"):
        if not one.is_symlink():
            one.chmod(0o755 if one.is_dir() else 0o644)
    os.chmod(work / "tree", 0o755)
    subprocess.run(["chown", "-R", "-h", f"{NOBODY}:{NOBODY}", work / "tree"], check=True)
    for one in (work / "tree" / "sizes").iterdir():
        os.setxattr(one, b"user.z", b"1")
        os.setxattr(one, b"user.a", b"2")
    subprocess.run(["rsync", "-aHX", f"{work}/tree/", work / "elsewhere"], check=True)
    out = _folder(work / "out")
    out.chmod(0o777)
    made = []
    for n, (tree, mask, workers, user, locale_, zone) in enumerate(
        [
            ("tree", 0o022, 0, 0, "C", "UTC"),
            ("elsewhere", 0o077, 1, 0, "C.UTF-8", "Asia/Kolkata"),
            ("elsewhere", 0, 0, NOBODY, "POSIX", "America/St_Johns"),
            ("tree", 0o027, 3, 0, "C.UTF-8", "Pacific/Chatham"),
        ]
    ):
        path = out / f"{n}.{form.image}"
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.environ["TZ"] = zone
                time.tzset()
                locale.setlocale(locale.LC_ALL, locale_)
                os.umask(mask)
                os.chdir(out)
                if user:
                    os.setgroups([])
                    os.setgid(user)
                    os.setuid(user)
                pack(str(work / tree), str(path), Options(form, workers, attributes=source.user_attributes))
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        made.append(path.read_bytes())
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask
        assert path.stat().st_uid == user
    assert made[1:] == made[:1] * 3
