"""Names: legal ones, how they are shown, and what a store can hold."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dls.logistics import names
from dls.logistics.errors import Invalid, Unsupported
from dls.logistics.names import Names
from dls.logistics.testing.strategies import ILLEGAL, ODD, keys


def legal(key: bytes) -> bool:
    parts = key.split(b"/")
    return not any(p in (b"", b".", b"..") or p.startswith(b".dls-") or b"\0" in p for p in parts)


@given(st.one_of(keys(), st.binary(max_size=12), st.text("./a-dls\0", max_size=8).map(str.encode)))
def test_check_agrees_with_the_definition(key: bytes) -> None:
    if legal(key):
        assert names.check(key) is key
    else:
        with pytest.raises(Invalid) as told:
            names.check(key)
        assert told.value.code == "bad-name"


@given(st.lists(st.one_of(keys(), st.binary(max_size=6), st.text("./a-dls\0", max_size=8).map(str.encode)), max_size=5))
def test_many_at_once_are_judged_like_each(some: list[bytes]) -> None:
    if all(map(legal, some)):
        names.check_all(some)
    else:
        with pytest.raises(Invalid) as told:
            names.check_all(some)
        assert told.value.facts["key"] == names.show(next(key for key in some if not legal(key)))


@pytest.mark.parametrize("key", ODD)
def test_odd_names_are_legal(key: bytes) -> None:
    assert names.check(key) == key


@pytest.mark.parametrize("key", ILLEGAL)
def test_illegal_names(key: bytes) -> None:
    with pytest.raises(Invalid):
        names.check(key)


def test_a_key_is_bytes() -> None:
    with pytest.raises(TypeError):
        names.check("text")  # type: ignore[arg-type]


@given(
    st.one_of(
        keys(),
        st.binary(max_size=20),
        st.text(max_size=8).map(str.encode),
        st.text("%4f1\n", max_size=9).map(str.encode),
    )
)
def test_show_is_reversible_and_harmless(key: bytes) -> None:
    shown = names.show(key)
    assert names.read(shown) == key
    assert shown.isprintable()
    shown.encode("utf-8")


def test_show_keeps_what_people_can_read() -> None:
    assert names.show("día/日本 1%.txt".encode()) == "día/日本 1%.txt"
    assert names.show(b"a\nb\xff%41%") == "a%0Ab%FF%2541%"


@given(keys())
def test_parents(key: bytes) -> None:
    found = list(names.parents(key))
    assert found == [key.rsplit(b"/", n)[0] for n in range(1, key.count(b"/") + 1)]


def test_hidden() -> None:
    assert [names.is_hidden(k) for k in (b".dls-x", b"a/.dls-x/b", b"a.dls-x", b".dl", b"a/.dlsx")] == [
        True,
        True,
        False,
        False,
        False,
    ]


CASES = [
    (Names(), b"x" * 5000, 0, True),
    (Names(part_bytes=3), b"abc/def", 0, True),
    (Names(part_bytes=3), b"abc/defg", 0, False),
    (Names(part_bytes=3), b"abcd/d", 0, False),
    (Names(key_bytes=7), b"abc/def", 0, True),
    (Names(key_bytes=7), b"abc/def", 1, False),
    (Names(key_bytes=7), b"abc/defg", 0, False),
    (Names(utf8=True), "é".encode(), 0, True),
    (Names(utf8=True), b"\xe9", 0, False),
    (Names(utf8=True), b"\xed\xa0\x80", 0, False),
    (Names(forbidden=b":\n"), b"a;b", 0, True),
    (Names(forbidden=b":\n"), b"a:b", 0, False),
    (Names(forbidden=b":\n"), b"a\n", 0, False),
    (Names(dots=False), b".a/b.c", 0, True),
    (Names(dots=False), b"a./b", 0, False),
    (Names(dots=False), b"a/b.", 0, False),
]


@pytest.mark.parametrize(("held", "key", "room", "fine"), CASES)
def test_what_a_store_can_hold(held: Names, key: bytes, room: int, fine: bool) -> None:
    assert (not held.refuses(key, room)) == fine
    if fine:
        assert held.check(key, "there", room) == key
    else:
        with pytest.raises(Unsupported) as told:
            held.check(key, "there", room)
        assert told.value.facts == {"key": names.show(key), "store": "there"}
        assert told.value.remedy
