"""Packs a tree into an image: a SquashFS (or EROFS) that any kernel mounts, and our index behind it.

One process decides — names, places, tables — while workers read, hash, compress and write (`dls.fuse.work`).  Memory is
bounded: tables go to nameless files beside the image as they grow.  The image appears under its name complete,
synced and read back, or not at all.
"""

from __future__ import annotations

import errno
import gc
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import cache
from itertools import chain, islice
from typing import Final, NamedTuple

from dls.fuse import leftovers
from dls.fuse.blocks import AS_IT_IS, EROFS, SQUASHFS, Form
from dls.fuse.codec import LEVEL, sum_of
from dls.fuse.groups import Groups, Tally
from dls.fuse.image import open_image
from dls.fuse.index import EXTENT, PAGE, Header, Index, Out, mapped
from dls.fuse.layout import Layout
from dls.fuse.origin import FolderOrigin, Origin
from dls.fuse.records import FRAME
from dls.fuse.road import Road, hands_for
from dls.fuse.source import Attributes, Group, Item, all_attributes, no_attributes, user_attributes
from dls.fuse.spool import Spool
from dls.fuse.squashfs import SUPER
from dls.logistics import digest as digests
from dls.logistics.errors import Exists, Invalid
from dls.logistics.manifest import Manifest, SegmentRef
from dls.logistics.segment import Segment, cut
from dls.logistics.stores.posix_errors import ours
from dls.logistics.transfer.progress import Progress

_MOST_WORKERS = 8
_NO_ONE: Final = (1 << 32) - 1
"""What stands for no user and no group, and so cannot own anything."""
_SMALL_TREE = 256
"""A tree with fewer names is packed by this process alone: starting others would take longer."""


class Options(NamedTuple):
    """How to pack."""

    form: Form = Form()
    workers: int = -1
    """Processes; 0: none but this one; -1: as many as the machine has, at most 8."""
    owner: tuple[int, int] | None = None
    """Numbers of user and group that own everything; None: as at the source."""
    attributes: Attributes = no_attributes
    duplicates: bool = True
    """Whether equal files are stored once."""
    replace: bool = False
    """Whether an image that is there is replaced."""
    below: tuple[dict[str, str], ...] = ()
    """The images that this one is a layer over, nearest first (`dls.fuse.layers`)."""


_PLAIN = Options()
_ATTRIBUTES: Final = {"user": user_attributes, "all": all_attributes, "none": no_attributes}


def asked(
    *, owner: str = "", xattrs: str = "user", level: int = LEVEL, workers: int = -1, replace: bool = False,
    form: str = SQUASHFS,
) -> Options:  # fmt: skip
    """How to pack, from words: `owner` UID:GID or none, `xattrs` user, all or none, `form` squashfs or erofs (which is
    not compressed, at whatever level); Invalid where one is wrong."""
    if xattrs not in _ATTRIBUTES:
        raise Invalid(f"xattrs {xattrs!r}", code="bad-usage", remedy="write user, all or none")
    if not 1 <= level <= 19:
        raise Invalid(f"a level of {level}", code="bad-usage", remedy="give 1 to 19")
    if form not in (SQUASHFS, EROFS):
        raise Invalid(f"format {form!r}", code="bad-usage", remedy="write squashfs or erofs")
    shape = AS_IT_IS if form == EROFS else Form(level=level)
    return Options(shape, workers, _owner(owner), _ATTRIBUTES[xattrs], replace=replace)


def _owner(text: str) -> tuple[int, int] | None:
    """The two numbers of `UID:GID`, or of one number for both; None for ''."""
    user, _, group = text.partition(":")
    if not text:
        return None
    both = user, group or user
    if not all(one.isascii() and one.isdigit() and len(one) < 11 and int(one) < _NO_ONE for one in both):
        raise Invalid(
            f"--owner {text!r}: two numbers below {_NO_ONE:,} are wanted",
            code="bad-usage",
            remedy="write --owner 0:0, or --owner 1000:1000",
        )
    return int(both[0]), int(both[1])


class Result(NamedTuple):
    """What was packed."""

    manifest: Manifest
    """Readable while the image is there."""
    bytes: int
    """Of the whole image, the index included."""
    index_bytes: int
    files: int
    duplicates: int
    seconds: float


def pack(
    source: str | bytes | Origin,
    image: str | bytes,
    options: Options = _PLAIN,
    progress: Progress | None = None,
    alive: Callable[[], None] = lambda: None,
) -> Result:
    """Pack a folder, or what another origin gives, into the file `image`.

    `alive` is called now and then and may raise to stop.

    Exists where there is one already; Conflict where the source changes meanwhile.
    """
    begun, collects = time.monotonic(), gc.isenabled()
    origin = FolderOrigin(os.path.abspath(os.fsencode(source))) if isinstance(source, str | bytes) else source
    gc.disable()  # millions of small tuples, none in a cycle: looking through them takes a tenth of the time
    try:
        return _packed(origin, image, options, progress or Progress(), alive)._replace(seconds=time.monotonic() - begun)
    finally:
        if collects:
            gc.enable()


def _packed(
    origin: Origin, image: str | bytes, options: Options, progress: Progress, alive: Callable[[], None]
) -> Result:
    path = os.path.abspath(os.fsencode(image))
    shown = os.fsdecode(path)
    refuse_taken(path, options)
    counts = _Counts(origin.links, lambda: Spool(os.path.dirname(path)))
    try:
        while True:
            target = _Target(path)
            try:
                made = _Making(origin, path, target.fd, options, progress, alive, counts)
                made.data()
                if made.settled():
                    result = made.finish()
                    target.appear(options.replace)
                    return result
                # Not as many names of hard links are in here as was said or counted: now it is known how many are.
                counts.known(made.layout.found)
            finally:
                target.close()
    except OSError as exc:
        raise ours(exc, shown) from exc


def refuse_taken(path: bytes, options: Options) -> None:
    """Exists where there is something at the name already that is not to be replaced."""
    shown = os.fsdecode(path)
    if os.path.lexists(path) and not options.replace:
        raise Exists(
            f"{shown} exists already",
            code="key-exists",
            remedy="choose another name, or pack with --replace",
            store=shown,
        )
    if os.path.isdir(path) and not os.path.islink(path):
        raise ours(IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)), shown)


class _Counts:
    """How many names the inodes of several names have in here: asked for when the first is met, as few trees have any.
    An image that had been packed to its end before that is known would be packed twice."""

    def __init__(self, met: Callable[[], Iterable[Group]], spools: Callable[[], Spool]) -> None:
        self._met, self._groups = met, Groups(spools)
        self._found: Tally | None = None

    def known(self, found: Tally) -> None:
        """So many they are, whatever was counted."""
        for number, count in found.items():
            self._counted()[number] = count

    def _counted(self) -> Tally:
        if self._found is None:
            self._found = found = Tally()
            for group in self._met():
                found[self._groups.number(group)] += 1
        return self._found

    def names(self, number: int, said: int) -> int:
        """Of one inode; `said` where nothing else is known."""
        return self._counted()[number] or said

    def alone(self, items: Iterator[Item]) -> Iterator[Item]:
        """The items with groups by number; a file with one name in here is as any other: that it has further ones
        elsewhere is not seen."""
        for item in items:
            if item.group is None:
                yield item
            elif self.names(number := self._groups.number(item.group), item.nlink) == 1:
                yield item._replace(group=None, nlink=1)
            else:
                yield item._replace(group=(0, number))


class _Target:
    """A file without a name, or with a hidden one where the file system knows no other way."""

    def __init__(self, path: bytes) -> None:
        self._path, self._folder = path, os.path.dirname(path)
        self._hidden = leftovers.hidden(self._folder)
        self._named = False
        leftovers.sweep(self._folder)
        try:
            self.fd = os.open(self._folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o666)
        except OSError as exc:
            if exc.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
                raise
            self.fd = os.open(self._hidden, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o666)
            self._named = True
        leftovers.hold(self.fd)

    def appear(self, replace: bool) -> None:
        """Give it its name, complete and synced, in one step."""
        os.fsync(self.fd)
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if not self._named:
                # With a folder's number given, Python follows the link in /proc to the file without a name.
                name = self._hidden if replace else self._path
                os.link(f"/proc/self/fd/{self.fd}", name, dst_dir_fd=folder, follow_symlinks=True)
            elif not replace:
                os.link(self._hidden, self._path)
            if replace:
                self._named = True
                os.rename(self._hidden, self._path)
                self._named = False
            os.fsync(folder)
        finally:
            os.close(folder)

    def close(self) -> None:
        """Leave nothing but what appeared."""
        if self._named:
            with suppress(OSError):
                os.unlink(self._hidden)
        os.close(self.fd)


class _Making:
    """One image being made in a nameless file."""

    def __init__(
        self, origin: Origin, path: bytes, fd: int, options: Options, progress: Progress, alive: Callable[[], None],
        counts: _Counts,
    ) -> None:  # fmt: skip
        self._origin, self._path, self._fd, self._options = origin, path, fd, options
        self._progress, self._alive = progress, alive
        self._folder = os.path.dirname(path)
        self._blocks, self._segments = self._spools(), self._spools()
        self._segment_rows = self._spools()
        self._refs: list[SegmentRef] = []
        self.layout = Layout(options.form, self._spools, self._blocks, counts.names)
        self._counts = counts
        self._at = self._twice = 0

    def _spools(self) -> Spool:
        return Spool(self._folder)

    def data(self) -> None:
        """Everything up to the tables."""
        options = self._options
        items, count = self._counts.alone(self._origin.items(options.attributes)), options.workers
        if options.owner is not None:
            uid, gid = options.owner
            items = (item._replace(uid=uid, gid=gid) for item in items)
        reader = self._origin.reader()
        if count < 0:
            first = list(islice(items, _SMALL_TREE))
            count = min(_MOST_WORKERS, len(os.sched_getaffinity(0))) if len(first) >= _SMALL_TREE else 0
            items = chain(first, items)
        hands = hands_for(count, reader, self._fd, options.form)
        try:
            road = Road(
                reader, self.layout, hands, self._blocks, self._spools,
                form=options.form, duplicates=options.duplicates, progress=self._progress, alive=self._alive,
            )  # fmt: skip
            for segment in cut(chain.from_iterable(road.entries(items))):
                self._segment(segment)
            self.layout.finish()
            self._at, self._twice = road.at, road.twice
        finally:
            for hand in hands:
                hand.close()

    def _segment(self, segment: Segment) -> None:
        data = segment.encode()
        self._segment_rows.add(EXTENT.pack(len(self._segments), len(data), sum_of(data)))
        self._segments.add(data)
        self._refs.append(SegmentRef.of(segment))

    def settled(self) -> bool:
        """Whether every hard-link group has as many names as its inode says."""
        return self.layout.settled()

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while len(view):
            done = os.pwrite(self._fd, view, self._at)
            self._at += done
            view = view[done:]

    def finish(self) -> Result:
        """The tables, the index, the superblock; all read back."""
        layout = self.layout
        block, offset, root = layout.root
        head = layout.tables.finish((block, offset), self._at, self._write)
        superblock = head.encode()
        self._write(bytes(-self._at % PAGE))
        base = self._at
        space = layout.space.finish()
        out = Out(self._write)
        out.paged("frames", layout.frames)
        out.align()
        at = out.size
        for part in layout.frame_data:
            out.add(part)
        out.sections["frame data"] = (at, out.size - at)
        out.paged("blocks", self._blocks)
        out.paged("names", layout.names.parts())
        for name, rows, data in (
            ("xattrs", layout.xattr_rows, layout.xattr_data),
            ("segments", self._segment_rows, self._segments),
        ):
            out.paged(name, rows)
            out.align()
            at = out.size
            for part in data:
                out.add(part)
            out.sections[name.rstrip("s") + " data"] = (at, out.size - at)
        refs = tuple(self._refs)
        opened = cache(lambda: open_image(os.fsdecode(self._path)))
        manifest = Manifest(refs, lambda digest: opened().manifest.load(digest))
        out.whole("refs", manifest.encode_refs())
        begin = digests.text(digests.of(superblock[: SUPER.size]))
        image = {"bytes": base, "super": begin, "block": head.block, "frame": FRAME}
        image |= {"at": head.at} if head.at else {}
        form, below = self._options.form, {"below": self._options.below} if self._options.below else {}
        header = Header(
            image, {**layout.kinds, "bytes": manifest.size, "blocks": len(self._blocks) // EXTENT.size}, root, space,
            layout.names.slots, out.sections, out.digests, {"by": "dls", "format": 1, **form._asdict(), **below},
        )  # fmt: skip
        out.end(header)
        os.pwrite(self._fd, superblock, head.at)
        Index(mapped(self._fd, base, self._at - base)).check()
        return Result(manifest, self._at, self._at - base, manifest.files, self._twice, 0.0)
