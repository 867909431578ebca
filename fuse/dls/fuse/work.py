"""The hands of a packer: read, hash, compress, write.  One process each, or none for a small tree.

A *job* is a few files read whole, or a stretch of a large one.  It takes three steps, each asked for by the one who
decides (`dls.fuse.pack`): `read` tells the digests, `pack` compresses what is no duplicate and tells the
stored sizes, `write` puts it where it was told to lie.  So bytes never pass through the one who decides.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from dls.fuse.codec import Packer, Unpacker, sum_of
from dls.fuse.index import RAW
from dls.fuse.origin import File, Reader, opened
from dls.logistics import digest as digests
from dls.logistics.errors import KINDS, Corrupt, DlsError
from dls.logistics.stores.posix_errors import ours


class Form(NamedTuple):
    """The shape of an image's data."""

    block: int = 128 << 10
    """Bytes of a block of a file."""
    small: int = 16 << 10
    """Files up to this size share a block with their neighbours."""
    shared: int = 32 << 10
    """A shared block takes no further file from here on."""
    level: int = 3


class Packed(NamedTuple):
    """What a job became: stored sizes (with RAW; 0 is a hole) and sums of its blocks in order; which of them are
    shared; for each file kept, (number of its first block or -1, number of the shared block or -1, offset there)."""

    stored: list[int]
    sums: list[int]
    shared: list[int]
    files: list[tuple[int, int, int]]


class Worker:
    """Does jobs; several may be under way."""

    def __init__(self, reader: Reader, target: int, form: Form) -> None:
        self._reader, self._target, self._form = reader, target, form
        self._packer, self._unpacker = Packer(form.level), Unpacker()
        self._bodies: dict[int, list[bytes]] = {}
        self._ready: dict[int, list[bytes]] = {}
        self._stretches: dict[int, File] = {}
        self._zeros = bytes(form.block)

    # ---------------------------------------------------------------------------------------------- reading

    def read(self, job: int, files: Sequence[File]) -> bytes:
        """Read the files of a job; their digests, 32 bytes each."""
        if len(files) == 1 and files[0].stop >= 0:
            self._stretches[job] = files[0]
            return b""
        bodies = self._reader.bodies(files)
        self._bodies[job] = bodies
        of = digests.of
        return b"".join([of(body) for body in bodies])

    # ------------------------------------------------------------------------------------------ compressing

    def pack(self, job: int, keep: bytes) -> tuple[Packed, bytes]:
        """Compress the files whose byte in `keep` is 1; what they became, and the digest of a stretch."""
        if job in self._stretches:
            return self._stretch(job)
        bodies, form = self._bodies.pop(job), self._form
        parts: list[bytes] = []
        shared: list[int] = []
        files: list[tuple[int, int, int]] = []
        group: list[bytes] = []
        waiting: list[int] = []  # places in `files` whose shared block is open
        filled = 0

        def close() -> None:
            nonlocal filled
            number = len(parts)
            for i in waiting:
                files[i] = (-1, number, files[i][2])
            shared.append(number)
            parts.append(b"".join(group) if len(group) > 1 else group[0])
            group.clear()
            waiting.clear()
            filled = 0

        for body, kept in zip(bodies, keep, strict=True):
            if not kept:
                continue
            size = len(body)
            if size <= form.small:
                if filled + size > form.block:
                    close()
                waiting.append(len(files))
                files.append((-1, 0, filled))
                group.append(body)
                filled += size
                if filled >= form.shared:
                    close()
            else:
                if group:
                    close()
                files.append((len(parts), -1, 0))
                parts += [body[at : at + form.block] for at in range(0, size, form.block)]
        if group:
            close()
        stored, sums, data = self._compressed(parts, set(shared))
        self._ready[job] = data
        return Packed(stored, sums, shared, files), b""

    def _compressed(self, parts: list[bytes], shared: set[int]) -> tuple[list[int], list[int], list[bytes]]:
        stored, sums, data = list[int](), list[int](), list[bytes]()
        zeros = self._zeros
        for number, (plain, frame) in enumerate(zip(parts, self._packer.many(parts), strict=True)):
            size = len(plain)
            if number not in shared and not plain[0] and plain == zeros[:size]:
                stored.append(0)
                sums.append(0)
                continue
            if len(frame) < size:
                # Proven before it is written: what cannot be read back is never stored.
                if self._unpacker.one(frame, size) != plain:
                    raise Corrupt("a compressed block does not give back what went in", code="bad-memory")
                stored.append(len(frame))
            else:
                frame = plain
                stored.append(size | RAW)
            sums.append(sum_of(frame))
            data.append(frame)
        return stored, sums, data

    def _stretch(self, job: int) -> tuple[Packed, bytes]:
        file = self._stretches.pop(job)
        block = self._form.block
        hasher = digests.Hasher(0)
        stored, sums, data = list[int](), list[int](), list[bytes]()
        for body in self._reader.stretch(file):
            hasher.update(body)
            some = self._compressed([body[i : i + block] for i in range(0, len(body), block)], set())
            stored += some[0]
            sums += some[1]
            data += some[2]
        self._ready[job] = data
        return Packed(stored, sums, [], [(0, -1, 0)]), hasher.digest()

    # ---------------------------------------------------------------------------------------------- writing

    def write(self, job: int, at: int) -> None:
        """Put the blocks of a job at position `at` of the image."""
        data = self._ready.pop(job)
        for first in range(0, len(data), 512):
            some = data[first : first + 512]
            size = sum(map(len, some))
            done = os.pwritev(self._target, some, at)
            if done != size:
                whole = memoryview(b"".join(some))
                while done < size:
                    done += os.pwrite(self._target, whole[done:], at + done)
            at += size


def told(error: DlsError) -> dict[str, Any]:
    """An error as a message to another process."""
    return {"kind": error.kind, "message": error.message, "code": error.code, "remedy": error.remedy, **error.facts}


def untold(message: dict[str, Any]) -> DlsError:
    """The error in such a message."""
    kinds = {kind.kind: kind for kind in KINDS}
    rest = dict(message)
    kind, text = kinds.get(rest.pop("kind"), DlsError), rest.pop("message")
    return kind(text, **rest)


def main() -> None:
    """A worker process: messages come and go over the connection whose number is the first argument."""
    gc.disable()  # nothing here is in a cycle
    pipe = Connection(int(sys.argv[1]))
    description, target, form = pipe.recv()
    try:
        worker = Worker(opened(description), target, Form(*form))
        verbs: dict[str, Callable[..., Any]] = {"read": worker.read, "pack": worker.pack, "write": worker.write}
        while (message := pipe.recv()) is not None:
            verb, job, *rest = message
            try:
                pipe.send((verb, job, verbs[verb](job, *rest)))
            except DlsError as error:
                pipe.send(("error", job, told(error)))
            except OSError as exc:
                pipe.send(("error", job, told(ours(exc, "the image", b""))))
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        pass  # the one who decides is gone: nothing of this is published
