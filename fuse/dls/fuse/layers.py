"""What a layer lies on, and how a stack of images is opened.

    open_stack("v3.sqfs")                       # finds the images below by the names that it recorded
    open_stack("base.sqfs+v2.sqfs+v3.sqfs")     # the lowest first, each checked against what the next one says

A layer is an image whose index names the images that it was made over, nearest first: `below` in what it says of
how it was made.  Each is known by the digests of its content, of its superblock and of its index.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from dls.fuse.cache import LIMIT
from dls.fuse.image import Image
from dls.fuse.index import FOOTER, damaged
from dls.fuse.opening import open_tree
from dls.fuse.tree import Tree
from dls.logistics import digest as digests
from dls.logistics import names
from dls.logistics.errors import Conflict, NotFound, Unsupported

ENDINGS: Final = (".sqfs", ".squashfs", ".erofs")
"""Only names that end so are taken apart at a plus sign."""


class Below(NamedTuple):
    """An image that a layer lies on."""

    name: str
    """Where it was, seen from the layer's folder; or its address."""
    content: str
    """Of its own manifest."""
    super: str
    """Digest of the first 96 bytes of its superblock."""
    header: str
    """Digest of the header of its index, which covers all of it."""

    @classmethod
    def of(cls, image: Image, name: str) -> Below:
        """What a layer writes down of an image."""
        header = FOOTER.unpack_from(image.index.data, len(image.index.data) - FOOTER.size)[4]
        content = digests.text(image.manifest.content)
        return cls(name, content, image.index.header.image["super"], digests.text(header))

    def same(self, other: Below) -> bool:
        """Whether this is the same image, wherever it lies."""
        return self[1:] == other[1:]


def below(image: Image) -> list[Below]:
    """The images that a layer was made over, nearest first; none for an image that stands by itself."""
    try:
        return [Below(**row) for row in image.index.header.made.get("below", [])]
    except TypeError as exc:
        raise damaged("what it lies on cannot be read") from exc


def split(text: str) -> list[str]:
    """The images in a text such as `base.sqfs+layer.sqfs`, the lowest first; one where it is no such text."""
    parts = text.split("+")
    if len(parts) > 1 and all(part.endswith(ENDINGS) for part in parts) and not os.path.lexists(text):
        return parts
    return [text]


def absolute(text: str) -> str:
    """The same text, for another working folder."""
    return "+".join(part if "://" in part else os.path.abspath(part) for part in split(text))


def open_stack(text: str, cache_folder: str = "", cache_bytes: int = 0, **options: Any) -> Tree:
    """The tree of an image, of a layer with what it lies on, or of a stack; Conflict where they do not fit.  What
    others wrote is a tree by itself; `options` are those of `dls.fuse.opening.open_tree`."""
    kept: dict[str, Any] = {"cache_folder": cache_folder, "cache_bytes": cache_bytes or LIMIT}
    parts = split(text)
    if len(parts) == 1:
        found = open_tree(text, **kept, **options)
        return whole(found, **kept) if type(found) is Image else found
    return _union(text, opened(parts, **kept))


def _union(name: str, trees: Sequence[Tree]) -> Tree:
    from dls.fuse.union import Union  # most images are no layers, and open sooner without it

    return Union(name, trees)


def whole(image: Image, **options: Any) -> Tree:
    """An image that is open, with what it lies on; both are closed where that is not there."""
    try:
        under = _under(image, image.name, options)
    except BaseException:
        image.close()
        raise
    return _union(image.name, [*under, image]) if under else image


def opened(urls: Sequence[str], **options: Any) -> list[Image]:
    """The images of a stack, the lowest first; those that the first one lies on are found by themselves."""
    stack: list[Image] = []
    try:
        for url in urls:
            image = _image(url, options)
            stack.append(image)
            if len(stack) == 1:
                stack[:0] = _under(image, url, options)
            else:
                _check(image, [Below.of(one, one.name) for one in reversed(stack[:-1])])
    except BaseException:
        _close(stack)
        raise
    return stack


def _under(image: Image, url: str, options: dict[str, Any]) -> list[Image]:
    """The images that a layer lies on, the lowest first."""
    found: list[Image] = []
    try:
        for one in below(image):
            found.insert(0, _found(url, one, options))
    except BaseException:
        _close(found)
        raise
    return found


def _close(images: Sequence[Image]) -> None:
    for image in images:
        image.close()


def open_over(openers: Sequence[Callable[[], Tree]]) -> Tree:
    """Images of their own on top of one another, the first one highest."""
    found: list[Tree] = []
    try:
        for opener in openers:
            tree = opener()
            found.append(tree)
            if not isinstance(tree, Image):
                raise Unsupported(
                    f"{tree.name} is no single image: it cannot be laid over others",
                    code="no-stack",
                    store=tree.name,
                    remedy="make one image of it (dls compact, dls pack), or leave out --union",
                )
        return _union(" over ".join(tree.name for tree in found), found[::-1])
    except BaseException:
        for tree in found:
            tree.close()
        raise


def _image(url: str, options: dict[str, Any]) -> Image:
    from dls.fuse.remote import open_at

    found = open_at(url, **options)
    if not isinstance(found, Image):
        raise Unsupported(
            f"{url} is no image of ours: it cannot lie in a stack", code="no-stack", store=url,
            remedy="make one of it: dls pack",
        )  # fmt: skip
    return found


def _found(layer: str, wanted: Below, options: dict[str, Any]) -> Image:
    """An image that a layer lies on: where it was, or beside the layer."""
    wrong = ""
    for place in _places(layer, wanted.name):
        try:
            image = _image(place, options)
        except NotFound:
            continue
        if Below.of(image, place).same(wanted):
            return image
        image.close()
        wrong = wrong or place
    if wrong:
        raise _other(layer, f"{wanted.name} with the content {wanted.content}", f"{wrong} is another image")
    raise NotFound(
        f"{layer} lies on {wanted.name} ({wanted.content}), which is not there", code="no-base", store=layer,
        remedy=f"put {os.path.basename(wanted.name)} beside it, or name all of them: BASE.sqfs+LAYER.sqfs",
    )  # fmt: skip


def _places(layer: str, name: str) -> list[str]:
    """Where to look for an image that a layer names."""
    last = name.rpartition("/")[2]
    if "://" in layer:
        shown = last if "://" in name else names.show(os.fsencode(last))
        beside = layer.rpartition("/")[0] + "/" + shown
        return [beside, name] if "://" in name else [beside]
    plain = os.fsdecode(names.read(last)) if "://" in name else last
    folder = os.path.dirname(layer)
    beside = os.path.join(folder, plain)
    if "://" in name:
        return [beside, name]
    # The layer, or a folder on the way to it, may be reached by a link.
    really = os.path.dirname(os.path.realpath(layer))
    found = [os.path.join(one, name) for one in (os.path.realpath(folder), folder, really)]
    return list(dict.fromkeys([*found, beside, os.path.join(really, plain)]))


def _check(image: Image, stack: Sequence[Below]) -> None:
    """Both nearest first: a layer given by hand lies on just what it was made over, and no image on itself."""
    wanted, own = below(image), Below.of(image, "")
    if any(own.same(one) for one in stack):
        raise _other(image.name, "what it lies on", "it is given twice")
    fits = len(wanted) == len(stack) and all(want.same(have) for want, have in zip(wanted, stack, strict=True))
    if wanted and not fits:
        said, given = (", then ".join(one.name for one in row) for row in (wanted, stack))
        raise _other(image.name, said, f"what is given below it is {given}")


def _other(layer: str, wanted: str, given: str) -> Conflict:
    return Conflict(
        f"{layer} was made over {wanted}; {given}",
        code="wrong-base",
        store=layer,
        remedy="name the images that it was made over, the lowest first; dls layer makes a new one over another base",
    )


def recorded(images: Sequence[Image], layer: str) -> list[dict[str, str]]:
    """What a layer at a path writes down of the images it lies on, which are given the lowest first."""
    folder = os.path.realpath(os.path.dirname(os.path.abspath(layer)))
    rows = []
    for image in reversed(images):
        name = image.name
        if "://" not in name:  # without links on the way: what is above a folder is not what is above a link to it
            above, last = os.path.split(os.path.abspath(name))
            name = os.path.relpath(os.path.join(os.path.realpath(above), last), folder)
        rows.append(Below.of(image, name)._asdict())
    return rows
