"""Names, bodies, entries and trees: fixed odd ones, and generators for Hypothesis."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from dls.logistics import digest as digests
from dls.logistics import names
from dls.logistics.entry import FILE, FOLDER, LINK, NO_MODE, NO_TIME, Entry
from dls.logistics.manifest import Manifest, in_memory

ODD: tuple[bytes, ...] = (
    b"plain",
    b"pre",
    b"prefix",
    b"with space",
    b" leading and trailing ",
    b"a%2Fb",
    b"%",
    b"%%41",
    b"100%25",
    b"plus+and&equals=",
    b"what?#fragment",
    b"colon:semi;comma,",
    b"star*[a]{b}(c)!",
    b"quote'\"`$HOME",
    b"<angle>|pipe^~@",
    b"back\\slash",
    b"new\nline",
    b"tab\tand\rreturn",
    b"\x01control\x7f",
    b"-dash",
    b".leading",
    b".dl",
    b".dlsx",
    b"trailing.",
    b"...",
    b"..a/b..",
    b"caf\xc3\xa9-nfc",
    b"cafe\xcc\x81-nfd",
    "日本語/😀".encode(),
    "\u202eleft\u200b".encode(),
    b"caf\xe9-latin",
    b"\xff\xfe\x80",
    b"\xed\xa0\x80-surrogate",
    b"x" * 200,
    b"deep/" * 20 + b"file",
    b"dir/file",
    b"dir-file",
    b"dir.ext/file",
    b"UPPER",
    b"upper",
    b"a b/c d/e f",
)
"""Legal names that somebody, somewhere, gets wrong."""

ILLEGAL: tuple[bytes, ...] = (
    b"",
    b"/abs",
    b"/",
    b".",
    b"..",
    b"a/..",
    b"../a",
    b"a/../b",
    b"a/./b",
    b"./a",
    b"a//b",
    b"a/",
    b"nul\0byte",
    b".dls-x",
    b"a/.dls-y/z",
)
"""Names that no store takes."""

_ALPHABET = [b"a", b"b", b"-", b".", b"0", b"%", b" ", b"\n", b"\\", b"\xc3\xa9", b"\xff", b"~", b"\x01", b"4", b"1"]


def parts() -> st.SearchStrategy[bytes]:
    """One part of a legal name."""
    short = st.lists(st.sampled_from(_ALPHABET), min_size=1, max_size=6).map(b"".join)
    return short.filter(lambda p: p not in (b".", b"..") and not p.startswith(names.HIDDEN))


def keys(deepest: int = 4) -> st.SearchStrategy[bytes]:
    """Legal names; short ones, so that they meet."""
    return st.lists(parts(), min_size=1, max_size=deepest).map(b"/".join)


def hashes() -> st.SearchStrategy[bytes]:
    """Digests; the unknown one among them."""
    return st.one_of(st.just(digests.UNKNOWN), st.integers(0, 5).map(lambda n: digests.of(b"%d" % n)))


@st.composite
def entries(draw: st.DrawFn, path: st.SearchStrategy[bytes] | None = None) -> Entry:
    """An entry of any kind."""
    name = draw(path or keys())
    kind = draw(st.sampled_from([FILE, FILE, FILE, LINK, FOLDER]))
    mode = draw(st.one_of(st.just(NO_MODE), st.integers(0, 0o7777)))
    mtime = draw(st.one_of(st.just(NO_TIME), st.integers(-(2**40), 2**63 - 1)))
    if kind != FILE:
        return Entry(name, kind, mode=mode, mtime_ns=mtime, target=draw(keys()) if kind == LINK else b"")
    size = draw(st.one_of(st.integers(0, 100), st.integers(0, 2**63)))
    blocks = digests.of(name) * 5 if size > digests.BIG else b""
    return Entry(name, FILE, size, draw(hashes()), mode, mtime, draw(st.sampled_from([b"", b"", b"first"])), blocks)


@st.composite
def trees(draw: st.DrawFn, largest: int = 40) -> list[Entry]:
    """Sorted entries of one tree: no name twice, no file that is also a folder."""
    found = {e.path: e for e in draw(st.lists(entries(), max_size=largest))}
    return sound(found)


def sound(found: dict[bytes, Entry]) -> list[Entry]:
    """The entries sorted, without those that lie below what is not a folder."""
    solid = {path for path, e in found.items() if e.kind != FOLDER}
    return [found[p] for p in sorted(found) if not solid.intersection(names.parents(p))]


def manifests(largest: int = 40) -> st.SearchStrategy[Manifest]:
    """Manifests in memory."""
    return trees(largest).map(in_memory)


def many(count: int, seed: int = 0, **attributes: Any) -> list[Entry]:
    """A large tree without Hypothesis: `count` files in folders of some hundred."""
    return [
        Entry(b"%03d/%06d-%d" % (i // 300, i, seed), FILE, i, digests.of(b"%d/%d" % (i, seed)), **attributes)
        for i in range(count)
    ]
