"""What a server makes ready before it is asked for."""

from __future__ import annotations

from dls.fuse.guess import Guess
from dls.fuse.tree import Tree
from dls.logistics.errors import Corrupt


class Counting(Tree):  # only what a guess uses
    def __init__(self) -> None:
        self.asked: list[int] = []

    def likely(self, node: int) -> list[bytes | memoryview] | None:
        self.asked.append(node)
        if node == 13:
            raise Corrupt("damaged", code="bad-image")
        if node == 15:
            raise ValueError("what no writer of ours makes")
        return None if node == 14 else [b"content of %d" % node]


Counting.__abstractmethods__ = frozenset()


def trusted() -> tuple[Guess, Counting]:
    tree = Counting()  # type: ignore[abstract]
    guess = Guess(tree)
    for node in range(100, 110):
        guess.looked(node)
        if guess.open:
            guess.prepare()
        guess.taken(node, 4096)
    return guess, tree


def test_reads_after_looks_are_learnt_and_answered_once() -> None:
    guess, tree = trusted()
    assert tree.asked == [104, 105, 106, 107, 108, 109]
    guess.looked(7)
    assert guess.open
    guess.prepare()
    assert not guess.open
    assert guess.taken(8, 4096) is None
    assert guess.taken(7, 4096) == [b"content of 7"]
    assert guess.taken(7, 4096) is None


def test_what_does_not_fit_or_was_not_looked_up_last_is_read_as_ever() -> None:
    guess, _ = trusted()
    guess.looked(7)
    guess.prepare()
    assert guess.taken(7, 4) is None
    guess.looked(13)
    guess.prepare()
    assert guess.taken(13, 4096) is None
    for node in (14, 15):
        guess.looked(node)
        guess.prepare()
        assert guess.taken(node, 4096) is None


def test_where_files_are_only_looked_at_nothing_is_made_ready() -> None:
    guess, tree = trusted()
    for node in range(200, 300):
        guess.looked(node)
        if guess.open:
            guess.prepare()
    assert len(tree.asked) < 6 + 32
    before = len(tree.asked)
    guess.looked(300)
    assert not guess.open
    assert len(tree.asked) == before
