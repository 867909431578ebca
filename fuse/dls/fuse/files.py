"""An image in Python, without a mount: paths as text, files as objects, all files as a sequence.

    from dls.fuse.files import open_image
    tree = open_image("tiles.sqfs")            # or s3://…, https://…
    tree.listdir("2024"); tree.read("2024/a.tif"); tree.open("2024/a.tif").seek(10)
    samples = tree.samples(lambda name: name.endswith(".tif"))   # len, [i]: for a PyTorch DataLoader, for instance
    tree.view("2024/a.tif")                    # a memoryview; without a copy where the image stores it as it is

What is opened may be pickled, or be there when a process forks: the other process opens the image for itself.
"""

from __future__ import annotations

import io
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from dls.fuse.image import Image
from dls.fuse.index import FOOTER
from dls.fuse.layers import absolute, open_stack
from dls.fuse.tree import Tree
from dls.fuse.views import Views
from dls.logistics.entry import FILE
from dls.logistics.errors import Conflict

if TYPE_CHECKING:
    from dls.fuse.records import Attr


class FileStat(NamedTuple):
    """What a name in an image is."""

    mode: int
    """With the type, as in `st_mode`."""
    size: int
    mtime_ns: int
    uid: int
    gid: int
    nlink: int


class ImageFile(io.RawIOBase):
    """One file of an image, read where one likes."""

    def __init__(self, image: Tree, attr: Attr, name: str) -> None:
        super().__init__()
        self._image, self._attr, self.name, self._at = image, attr, name, 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """Where the next read begins."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to an offset from the beginning, from here, or from the end."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._attr.size}[whence]
        if base + offset < 0:
            raise ValueError(f"there is no offset {base + offset}")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer; how much came."""
        view, done = memoryview(buffer).cast("B"), 0
        for piece in self._image.pieces(self._attr, self._at, self._at + len(view)):
            view[done : done + len(piece)] = piece
            done += len(piece)
        self._at += done
        return done


class Files:
    """The tree in an image."""

    def __init__(self, url: str, **options: Any) -> None:
        self.url, self._options = absolute(url), options  # another process may stand in another folder
        self._image: Tree | None = None
        self._views: Views | None = None
        self._owner = 0
        self._made: tuple[bytes, ...] = ()
        """Which image was opened first: whoever opens it again shall see that one."""

    @property
    def image(self) -> Tree:
        """The image, opened by this process."""
        if self._image is None or self._owner != os.getpid():
            found = open_stack(self.url, **self._options)
            made = _made(found)
            if self._made not in ((), made):
                found.close()
                raise Conflict(
                    f"{self.url} is another image than the one that was opened first",
                    code="source-changed", store=self.url, remedy="open it again, in every process",
                )  # fmt: skip
            self._image, self._owner, self._made, self._views = found, os.getpid(), made, None
        return self._image

    def __getstate__(self) -> dict[str, Any]:
        kept = {"url": self.url, "_options": self._options, "_made": self._made}
        return {**kept, "_image": None, "_views": None, "_owner": 0}

    def listdir(self, path: str = "") -> list[str]:
        """The names in a folder."""
        return [os.fsdecode(name) for name in self.image.listdir(os.fsencode(path))]

    def stat(self, path: str) -> FileStat:
        """What a name is."""
        attr = self.image.find(os.fsencode(path))
        return FileStat(attr.mode, attr.size, attr.mtime_ns, attr.uid, attr.gid, attr.nlink)

    def read(self, path: str, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes `start … stop-1` of a file; what is negative counts from its end."""
        attr = self._file(path)
        return self.image.read(attr, *_span(attr, start, stop))

    def view(self, path: str, start: int = 0, stop: int | None = None) -> memoryview:
        """The same, without a copy where they are stored as they are in a file of this machine (`dls.fuse.views`)."""
        image, attr = self.image, self._file(path)
        if self._views is None:
            self._views = Views(image)
        start, stop = _span(attr, start, stop)
        found = self._views.view(attr, start, stop)
        return memoryview(image.read(attr, start, stop)) if found is None else found

    def open(self, path: str) -> io.BufferedReader:
        """A file to read and seek in."""
        return io.BufferedReader(ImageFile(self.image, self._file(path), path), 128 << 10)

    def walk(self, path: str = "") -> Iterator[tuple[str, FileStat]]:
        """Everything below a folder."""
        for name, attr in self.image.walk(os.fsencode(path)):
            yield os.fsdecode(name), FileStat(attr.mode, attr.size, attr.mtime_ns, attr.uid, attr.gid, attr.nlink)

    def samples(self, wanted: Callable[[str], bool] = lambda name: True) -> Samples:
        """The files whose names are wanted, in order of names."""
        paths = (entry.path for entry in self.image.manifest if entry.kind == FILE)
        return Samples(self, _Paths(path for path in paths if wanted(os.fsdecode(path))))

    def _file(self, path: str) -> Attr:
        attr = self.image.find(os.fsencode(path))
        if attr.mode >> 12 != 8:
            raise Conflict(f"{path} is no file", code="not-a-file", key=path, remedy="look again at what is there")
        return attr

    def close(self) -> None:
        """Let go of the image."""
        image, self._image, self._views, self._made = self._image, None, None, ()
        if image is not None:
            image.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _span(attr: Attr, start: int, stop: int | None) -> tuple[int, int]:
    """Where a stretch of a file begins and ends, as slices have it."""
    first, last, _ = slice(start, stop).indices(attr.size)
    return first, max(first, last)


def _made(tree: Tree) -> tuple[bytes, ...]:
    """Digests of the headers of all that an image of ours is made of; of what others wrote nothing is known."""
    trees: Sequence[Tree] = getattr(tree, "trees", [tree])  # most images are no layers, and open sooner without those
    ends = [one.index.data[-FOOTER.size :] for one in trees if type(one) is Image]
    return tuple(FOOTER.unpack(end)[4] for end in ends)


class _Paths(Sequence[bytes]):
    """Many paths in two arrays: nothing to count references of, which would copy the memory of every worker."""

    def __init__(self, paths: Iterable[bytes]) -> None:
        self._bytes, self._ends = bytearray(), array("Q", [0])
        for path in paths:
            self._bytes += path
            self._ends.append(len(self._bytes))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return _Paths(self[k] for k in range(*i.indices(len(self))))
        if not -len(self) <= i < len(self):
            raise IndexError(f"there are {len(self)} files, number {i} is none of them")
        i %= len(self)
        return bytes(self._bytes[self._ends[i] : self._ends[i + 1]])


class Samples(Sequence[tuple[str, bytes]]):
    """Files by number: (name, bytes).  A map-style dataset: workers get it by fork or by pickle, 30 bytes a name."""

    def __init__(self, files: Files, paths: Sequence[bytes]) -> None:
        self.files, self._paths = files, paths

    @property
    def names(self) -> list[str]:
        """All names."""
        return [os.fsdecode(path) for path in self._paths]

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        name = os.fsdecode(self._paths[i])
        return name, self.files.read(name)

    def __getitems__(self, numbers: Sequence[int]) -> list[tuple[str, bytes]]:
        """A batch, in the order asked for; read in the order in which it lies: shared blocks are decoded once."""
        found = {i: self[i] for i in sorted(set(numbers))}
        return [found[i] for i in numbers]


def open_image(url: str, **options: Any) -> Files:
    """The image in a file or at an address; a bad one is told now.  `options` are those of `dls.fuse.remote`."""
    files = Files(url, **options)
    files.image  # noqa: B018 - opens it
    return files
