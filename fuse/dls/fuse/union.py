"""A union: trees on top of one another, shown as one.  A name is what the highest tree that has it says.

Folders that several trees have are *merged*: attributes are those of the highest, names those of all.  Whiteouts and
opaque folders (`dls.fuse.whiteout`) hide what lies below them, everywhere but in the lowest tree.  A folder that only
one tree has is answered by that tree's own ready-made listing.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from dls.fuse import records, whiteout
from dls.fuse.index import damaged
from dls.fuse.joined import Joined
from dls.fuse.listings import BLOCK, FULL, LAYERS, Block, Cut, cookie_of, named, shift, shifted, without
from dls.fuse.records import MODE, NLINK, U32, U64, Attr
from dls.fuse.stacked import entries
from dls.fuse.tree import Tree
from dls.logistics.entry import Entry
from dls.logistics.errors import NotFound

KEPT: Final = 32 << 20
"""Bytes of plans that are kept."""

Parts = tuple[tuple[int, int], ...]
"""What a merged folder is made of, highest first: numbers of trees and of nodes in them."""


@dataclass(slots=True)
class Plan:
    """How a merged folder is listed: first a block with the merged folders in it, then its parts with cuts."""

    parts: Parts
    cuts: list[list[Cut]]
    nlink: int
    folders: list[tuple[bytes, int]]
    """Names and numbers of the merged folders in it."""
    block: Block | None = None

    @property
    def bytes(self) -> int:
        """About how much memory it takes."""
        made = len(self.block.data) + 40 * len(self.block.borders) if self.block else 0
        return 500 + 130 * sum(map(len, self.cuts)) + 150 * len(self.folders) + made


class Union(Joined):
    """Trees on top of one another, the lowest first."""

    def __init__(self, name: str, trees: Sequence[Tree]) -> None:
        super().__init__(name, trees, LAYERS)
        self._parts: dict[int, Parts] = {}
        self._plans: OrderedDict[int, Plan] = OrderedDict()
        self._held = 0
        self._lock = threading.Lock()
        roots = tuple((number, tree.root) for number, tree in enumerate(trees))
        self.root = self._known(roots[::-1])

    def _known(self, parts: Parts) -> int:
        """The number of a merged folder.  It says what the highest part is, so that all who serve say the same."""
        number, node = parts[0]
        found = LAYERS.made | number << LAYERS.shift | node
        self._parts[found] = parts
        return found

    def parts(self, node: int) -> Parts:
        """What a folder is made of."""
        if not node & LAYERS.made:
            return ((node >> LAYERS.shift, node & LAYERS.inside),)
        if node not in self._parts:
            self._discover()  # told by another process, or by one that died
        try:
            return self._parts[node]
        except KeyError:
            raise NotFound(f"{self.name} has no folder {node:x}", code="no-such-key", remedy="mount it again") from None

    def _discover(self) -> None:
        todo, seen = [self.root], {self.root}
        while todo:
            found = {node for _, node in self.plan(todo.pop()).folders} - seen
            seen |= found
            todo.extend(found)

    # ---------------------------------------------------------------------------------------------- names

    def _covers(self, number: int, attr: Attr) -> bool:
        """Whether a folder of tree `number` hides what lies below."""
        tree = self.trees[number]
        return bool(number) and attr.xattrs >= 0 and whiteout.covers(tree.xattrs(attr).items(), tree.name)

    def _meets(self, parts: Parts, name: bytes) -> list[tuple[int, bytes]]:
        """The records that make up a name, highest first; none where it is not there."""
        found: list[tuple[int, bytes]] = []
        for number, node in parts:
            head = self.trees[number].lookup(node, name)
            if not head:
                continue
            if U32.unpack_from(head, MODE)[0] >> 12 != 4:
                if not found and not (number and whiteout.record_hides(head)):
                    found.append((number, head))
                break
            found.append((number, head))
            if self._covers(number, records.unpack(head)):
                break
        return found

    def made_lookup(self, node: int, name: bytes) -> bytes:
        """The record of a name in a merged folder."""
        return self._shown(self._meets(self.parts(node), name))

    def _shown(self, found: list[tuple[int, bytes]]) -> bytes:
        """The record of a name, from those that make it up."""
        if not found:
            return b""
        number, head = found[0]
        if len(found) == 1:
            return shift(head, number, LAYERS)
        parts = tuple((number, U64.unpack_from(head)[0] & LAYERS.inside) for number, head in found)
        return self._dressed(head, self._known(parts))

    def made(self, node: int) -> bytes:
        """The record of a merged folder: the highest part's, with the number and the links of the whole."""
        number, inside = self.parts(node)[0]
        return self._dressed(self.trees[number].record(inside), node)

    def _dressed(self, head: bytes, node: int) -> bytes:
        out = bytearray(shift(head, self.parts(node)[0][0], LAYERS))
        U64.pack_into(out, 0, node)
        U32.pack_into(out, NLINK, self.plan(node).nlink)
        return bytes(out)

    # ----------------------------------------------------------------------------------------------- plans

    def plan(self, node: int) -> Plan:
        """How a merged folder is listed."""
        found = self._plans.get(node)
        if found is None:
            found = self._planned(self.parts(node))
            with self._lock:
                self._plans[node] = found
                self._held += found.bytes
                while self._held > KEPT and len(self._plans) > 1:
                    _, old = self._plans.popitem(last=False)
                    self._held -= old.bytes
        return found

    def _planned(self, parts: Parts) -> Plan:
        """Each name of each part but the lowest is looked for in those below it."""
        cuts: list[list[Cut]] = [[] for _ in parts]
        hidden: list[set[bytes]] = [set() for _ in parts]
        folders: list[tuple[bytes, int]] = []
        (number, node), nlink = parts[-1], 0
        nlink = self.trees[number].attr(node).nlink
        for level, (number, node) in enumerate(parts[:-1]):
            tree = self.trees[number]
            for name, attr in tree.rows(tree.attr(node)):
                if name in hidden[level]:
                    continue
                is_folder = attr.mode >> 12 == 4
                chain = [(number, attr.node)]
                over = not is_folder or self._covers(number, attr)
                nlink += is_folder
                for below in range(level + 1, len(parts)):
                    lower, inside = parts[below]
                    head = self.trees[lower].lookup(inside, name)
                    if not head:
                        continue
                    cuts[below].append(cookie_of(head))
                    hidden[below].add(name)
                    other = records.unpack(head)
                    is_other = other.mode >> 12 == 4
                    nlink -= is_other and below == len(parts) - 1
                    if not over and is_other:
                        chain.append((lower, other.node))
                    over = over or not is_other or self._covers(lower, other)
                if len(chain) > 1:
                    folders.append((name, self._known(tuple(chain))))
                    cuts[level].append(cookie_of(tree.lookup(node, name)))
        for some in cuts:
            some.sort()
        return Plan(parts, cuts, nlink, folders)

    def _block(self, plan: Plan) -> Block:
        """`.`, `..` and the merged folders."""
        if plan.block is None:
            (number, node), before = plan.parts[0], plan.bytes
            tree = self.trees[number]
            dots = [named(shift(head, number, LAYERS), name) for name, head in _dots(tree, node)]
            made = (named(self.made(inside), name) for name, inside in sorted(plan.folders))
            plan.block = Block.of(iter([*dots, *made]))
            with self._lock:
                self._held += plan.bytes - before
        return plan.block

    def made_listing(self, node: int, offset: int, size: int) -> list[bytes]:
        """The block, then each part, highest first."""
        plan, out = self.plan(node), list[bytes]()
        number = offset >> LAYERS.shift
        level = next((i for i, (one, _) in enumerate(plan.parts) if one == number), len(plan.parts))
        inside = offset & LAYERS.inside
        if not offset or number == BLOCK >> LAYERS.shift:
            block = self._block(plan)
            inside = block.border(inside)
            if data := block.part(inside, size):
                out.append(data)
                size -= len(data)
                inside += len(data)
            if inside < len(block.data):
                return out
            level, inside = 0, 0
        while level < len(plan.parts) and size >= FULL:
            number, within = plan.parts[level]
            inside = inside or _behind_dots(self.trees[number], within)
            found, inside = self._rest(number, within, inside, size, plan.cuts[level])
            if found:
                out += found
                size -= sum(map(len, found))
            else:
                level, inside = level + 1, 0
        return out

    def part(self, number: int, node: int, offset: int, size: int) -> list[bytes]:
        """A listing of a folder that tree `number` alone has, without whiteouts."""
        return self._rest(number, node, offset & LAYERS.inside, size, ())[0]

    def _rest(self, number: int, node: int, offset: int, size: int, cuts: Sequence[Cut]) -> tuple[list[bytes], int]:
        """A listing of one tree from `offset` on without what is cut out, [] at its end; the offset of what follows."""
        tree, out = self._tree(number), list[bytes]()
        while not out and (pieces := tree.listing(node, offset, size)):
            for piece in pieces:
                for rest in without(piece, cuts) if cuts else [piece]:
                    if found := shifted(rest, number, LAYERS) if number else rest:
                        out.append(found)
            behind = cookie_of(pieces[-1])[0] + len(pieces[-1])
            if behind <= offset:
                raise damaged("a listing goes backwards")
            offset = behind
        return out, offset

    def made_rows(self, node: int) -> Iterator[tuple[bytes, Attr]]:
        """The names of all parts, highest first."""
        parts, seen = self.parts(node), set[bytes]()
        for level, (number, inside) in enumerate(parts):
            tree, lowest = self.trees[number], level == len(parts) - 1
            for name, attr in tree.rows(tree.attr(inside)):
                if name in seen:
                    continue
                if not lowest:
                    seen.add(name)
                if attr.mode >> 12 == 4 and not lowest:
                    found = self._shown(self._meets(parts[level:], name))
                    if not found:
                        raise damaged("a name in a listing is not in its table")
                    yield name, records.unpack(found)
                elif not (number and whiteout.hides(attr)):
                    yield name, self.lifted(number, attr)

    # -------------------------------------------------------------------------------------------- manifest

    def entries(self) -> Iterator[Entry]:
        """Those of the manifest."""
        return entries(self)


def _dots(tree: Tree, node: int) -> list[tuple[bytes, bytes]]:
    """`.` and `..` of a listing."""
    data = b"".join(tree.listing(node, 0, FULL))
    if len(data) < 2 * _DOT or [records.name_of(data, at) for at in (0, _DOT)] != [b".", b".."]:
        raise damaged("a listing does not begin with the folder itself")
    return [(b".", data[: records.HEAD]), (b"..", data[_DOT : _DOT + records.HEAD])]


_DOT: Final = records.length_of(1)


def _behind_dots(tree: Tree, node: int) -> int:
    """Where names begin in a listing."""
    return cookie_of(_dots(tree, node)[1][1])[1]
