"""Digests beside the plainest way to take them."""

import hashlib
import random
import zlib

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from dls.logistics import digest as digests
from dls.logistics.digest import BIG, BLOCK, Hasher
from dls.logistics.errors import Invalid

SUMS = ("md5", "sha1", "sha256", "sha512", "crc32", "adler32")


@given(st.lists(st.binary(max_size=2000), max_size=8), st.booleans())
def test_small_contents(chunks: list[bytes], known: bool) -> None:
    data = b"".join(chunks)
    hasher = Hasher(len(data) if known else None, SUMS)
    for chunk in chunks:
        hasher.update(memoryview(chunk))
    assert hasher.digest() == digests.of(data) == blake3(data).digest()
    assert (hasher.blocks(), hasher.length) == (b"", len(data))
    wanted = {name: hashlib.new(name, data).hexdigest() for name in SUMS[:4]}
    wanted |= {"crc32": f"{zlib.crc32(data):08x}", "adler32": f"{zlib.adler32(data):08x}"}
    assert hasher.sums() == wanted == digests.sums_of(data, SUMS)


ZEROS = bytes(BLOCK)


@pytest.mark.parametrize("size", [BIG - 1, BIG, BIG + 1, BIG + BLOCK - 1, BIG + BLOCK, BIG + BLOCK + 1])
@pytest.mark.parametrize("known", [True, False])
def test_blocks(size: int, known: bool, rng: random.Random) -> None:
    data = memoryview((rng.randbytes(BLOCK // 4) + ZEROS) * (size // BLOCK + 1))[:size]
    hasher, at = Hasher(size if known else None), 0
    while at < size:
        step = rng.choice([1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, rng.randrange(1, 2 * BLOCK)])
        hasher.update(data[at : at + step])
        at += step
    naive = b"".join(blake3(data[i : i + BLOCK]).digest() for i in range(0, size, BLOCK)) if size > BIG else b""
    assert hasher.digest() == blake3(data).digest()
    assert hasher.blocks() == naive
    assert hasher.blocks() == naive, "asking changes nothing"
    assert len(naive) == 32 * digests.block_count(size)


@given(st.integers(0, 2**50))
@settings(max_examples=30)
def test_block_count(size: int) -> None:
    assert digests.block_count(size) == (0 if size <= BIG else (size + BLOCK - 1) // BLOCK)


@given(st.binary(min_size=32, max_size=32))
def test_text_round_trips(digest: bytes) -> None:
    text = digests.text(digest)
    assert text == "" if digest == digests.UNKNOWN else digests.parse(text) == digest


@pytest.mark.parametrize(
    "bad", ["", "blake3:", "blake3:" + "g" * 64, "blake3:" + "a" * 63, "md5:" + "a" * 64, "a" * 64]
)
def test_what_is_no_digest(bad: str) -> None:
    with pytest.raises(Invalid) as told:
        digests.parse(bad)
    assert told.value.code == "bad-digest"


def test_unknown_things() -> None:
    assert digests.text(b"") == digests.text(digests.UNKNOWN) == ""
    for ask in (lambda: Hasher(1, ["md4"]), lambda: digests.sums_of(b"", ["crc64"])):
        with pytest.raises(Invalid):
            ask()
