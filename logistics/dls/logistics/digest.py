"""Digests: BLAKE3-256 of a content, and one per 16 MiB block of contents over 64 MiB.

The only home of the `blake3` library.  A digest is 32 bytes inside and `blake3:<64 hex>` outside; all zero bytes
(`UNKNOWN`) stand for "not hashed yet" in columns.  Sums that a peer asks for (md5, sha256, crc32, adler32 …) are taken
in the same pass and are never identity when they are CRCs.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Any, Final

from blake3 import blake3

from dls.logistics.errors import Invalid

SIZE: Final = 32
UNKNOWN: Final = bytes(SIZE)
BLOCK: Final = 16 << 20
"""Bytes of a block: the unit of resume, of parallel ranges and of verified remote reads."""
BIG: Final = 64 << 20
"""Contents larger than this carry block digests."""


def of(data: bytes | bytearray | memoryview) -> bytes:
    """BLAKE3-256 of a buffer, 32 bytes."""
    return blake3(data).digest()


def text(digest: bytes) -> str:
    """`blake3:<hex>`, or '' where unknown."""
    return "" if digest == UNKNOWN or not digest else f"blake3:{digest.hex()}"


def parse(value: str) -> bytes:
    """The 32 bytes of `blake3:<64 hex>`; Invalid otherwise."""
    name, _, hexes = value.partition(":")
    if name != "blake3" or len(hexes) != 2 * SIZE:
        raise Invalid(f"not a BLAKE3 digest: {value[:80]!r}", code="bad-digest", remedy="write blake3:<64 hex digits>")
    try:
        return bytes.fromhex(hexes)
    except ValueError as exc:
        raise Invalid(f"not hexadecimal: {value[:80]!r}", code="bad-digest") from exc


def block_count(size: int) -> int:
    """How many block digests a content of `size` bytes carries (0 up to 64 MiB)."""
    return -(-size // BLOCK) if size > BIG else 0


class Hasher:
    """Digest and block digests of one content fed in order, and any other sums asked for, in one pass.

    `size` is the expected length in bytes, or None where unknown (then blocks are kept until the length is known).
    """

    __slots__ = ("_block", "_blocks", "_filled", "_sums", "_whole", "length")

    def __init__(self, size: int | None = None, sums: Iterable[str] = ()) -> None:
        self._whole = blake3()
        self._block = blake3() if size is None or size > BIG else None
        self._blocks: list[bytes] = []
        self._filled = 0
        self._sums: dict[str, Any] = {name: _sum(name) for name in sums}
        self.length = 0

    def update(self, data: bytes | memoryview) -> None:
        """Feed the next bytes."""
        self._whole.update(data)
        self.length += len(data)
        for one in self._sums.values():
            one.update(data)
        if self._block is None:
            return
        view = memoryview(data)
        while len(view):
            take = min(BLOCK - self._filled, len(view))
            self._block.update(view[:take])
            self._filled += take
            view = view[take:]
            if self._filled == BLOCK:
                self._blocks.append(self._block.digest())
                self._block, self._filled = blake3(), 0

    def digest(self) -> bytes:
        """BLAKE3-256 of all bytes so far."""
        return self._whole.digest()

    def blocks(self) -> bytes:
        """Block digests joined, 32 bytes each; empty up to 64 MiB."""
        if self._block is None or self.length <= BIG:
            return b""
        tail = [self._block.digest()] if self._filled else []
        return b"".join(self._blocks + tail)

    def sums(self) -> dict[str, str]:
        """The other sums, hexadecimal, by name."""
        return {name: one.hexdigest() for name, one in self._sums.items()}


class _Crc:
    """A zlib checksum with the face of a hashlib object; hexadecimal, eight digits."""

    def __init__(self, name: str) -> None:
        self._step = zlib.crc32 if name == "crc32" else zlib.adler32
        self._value = 0 if name == "crc32" else 1

    def update(self, data: bytes | memoryview) -> None:
        self._value = self._step(data, self._value)

    def hexdigest(self) -> str:
        return f"{self._value:08x}"


def _sum(name: str) -> Any:
    if name in ("crc32", "adler32"):
        return _Crc(name)
    if name in ("md5", "sha1", "sha256", "sha512"):
        import hashlib  # brings OpenSSL, 4 ms, and few ask for these

        return hashlib.new(name, usedforsecurity=False)
    raise Invalid(f"unknown checksum {name!r}", code="bad-digest", remedy="md5, sha1, sha256, sha512, crc32, adler32")


def sums_of(data: bytes | memoryview, names: Iterable[str]) -> dict[str, str]:
    """Several sums of one buffer, hexadecimal."""
    out = {}
    for name in names:
        one = _sum(name)
        one.update(data)
        out[name] = one.hexdigest()
    return out
