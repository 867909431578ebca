"""The hands of a packer: read, hash, compress, write.  One process each, or none for a small tree.

A *job* is a few files read whole, or a stretch of a large one.  It takes three steps, each asked for by the one who
decides (`dls.fuse.pack`): `read` tells the digests, `pack` compresses what is no duplicate and tells the
stored sizes, `write` puts it where it was told to lie.  So bytes never pass through the one who decides.
"""

from __future__ import annotations

import errno
import gc
import os
import pickle
import select
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, compress
from typing import Any, Final

from dls.fuse.blocks import Blocks, Form
from dls.fuse.codec import Packer, Unpacker
from dls.fuse.pipes import Pipe
from dls.fuse.reading import File, Reader, opened
from dls.logistics import digest as digests
from dls.logistics.errors import KINDS, Corrupt, DlsError
from dls.logistics.stores.posix_calls import write_soon

_VECTOR: Final = 64
"""Blocks that are written and read back at once: what is compared is still in the processor's cache."""


class Worker:
    """Does jobs; several may be under way."""

    def __init__(self, reader: Reader, target: int, form: Form) -> None:
        self._reader, self._target, self._form = reader, target, form
        self._packer, self._unpacker = Packer(form.level), Unpacker()
        self._bodies: dict[int, list[bytes]] = {}
        self._ready: dict[int, list[bytes]] = {}
        self._stretches: dict[int, File] = {}
        self._again = bytearray()
        """What is read back."""

    # ---------------------------------------------------------------------------------------------- reading

    def read(self, job: int, rows: Sequence[tuple[bytes, int, int, int, int]]) -> bytes:
        """Read the files of a job (fields of File); their digests, 32 bytes each."""
        files = list(map(File._make, rows))
        if len(files) == 1 and files[0].stop >= 0:
            self._stretches[job] = files[0]
            return b""
        bodies = self._reader.bodies(files)
        self._bodies[job] = bodies
        of = digests.of
        return b"".join([of(body) for body in bodies])

    # ------------------------------------------------------------------------------------------ compressing

    def pack(self, job: int, keep: bytes) -> tuple[tuple[bytes, ...], bytes]:
        """Compress the files whose byte in `keep` is 1; what they became (fields of Packed), the digest of a
        stretch of a file that has digests of its blocks."""
        if job in self._stretches:
            return self._stretch(job)
        blocks = Blocks(self._form, self._packer, self._unpacker)
        blocks.add(compress(self._bodies.pop(job), keep))
        packed = blocks.packed()
        self._ready[job] = blocks.data
        return tuple(packed), b""

    def _stretch(self, job: int) -> tuple[tuple[bytes, ...], bytes]:
        file = self._stretches.pop(job)
        blocks = Blocks(self._form, self._packer, self._unpacker)
        hasher = digests.Hasher(0) if file.size > digests.BIG else None  # smaller files have no digests of blocks
        for body in self._reader.stretch(file):
            if hasher is not None:
                hasher.update(body)
            blocks.stretch(body)
        self._ready[job] = blocks.data
        return tuple(blocks.packed()), hasher.digest() if hasher is not None else b""

    # ---------------------------------------------------------------------------------------------- writing

    def write(self, job: int, at: int) -> None:
        """Put the blocks of a job at position `at` of the image, and read them back."""
        data, start = self._ready.pop(job), at
        for first in range(0, len(data), _VECTOR):
            some = data[first : first + _VECTOR]
            offsets = list(accumulate(map(len, some), initial=0))
            size = offsets.pop()
            if (done := os.pwritev(self._target, some, at)) < size:
                self._rest(some, at, done)
            if len(self._again) < size:
                self._again = bytearray(size)
            # Compared in a buffer that stays: a new one of megabytes costs more than the comparison.
            read = os.preadv(self._target, [memoryview(self._again)[:size]], at)
            if read != size or not all(map(self._again.startswith, some, offsets)):
                raise Corrupt(
                    f"what was written at byte {at} of the image cannot be read back", code="bad-disk",
                    remedy="look at the disk's health; nothing was published",
                )  # fmt: skip
            at += size
        write_soon(self._target, start, at - start)

    def _rest(self, some: Sequence[bytes], at: int, done: int) -> None:
        """What a short write left over."""
        whole = memoryview(b"".join(some))
        while done < len(whole):
            done += os.pwrite(self._target, whole[done:], at + done)


def told(error: DlsError) -> dict[str, Any]:
    """An error as a message to another process."""
    facts = {k: v if isinstance(v, str | bytes | int | float | None) else str(v) for k, v in error.facts.items()}
    return {"kind": error.kind, "message": error.message, "code": error.code, "remedy": error.remedy, **facts}


def untold(message: dict[str, Any]) -> DlsError:
    """The error in such a message."""
    kinds = {kind.kind: kind for kind in KINDS}
    rest = dict(message)
    kind, text = kinds.get(rest.pop("kind"), DlsError), rest.pop("message")
    return kind(text, **rest)


def _inbox(pipe: Pipe) -> Iterator[tuple[str, int, list[Any]]]:
    """Messages until the last one: first what others wait for.  Nobody compresses before all earlier files are read
    (which contents are new?), and a job that is written makes room for another."""
    looking = select.poll()
    looking.register(pipe.fileno(), select.POLLIN)
    waiting: dict[str, deque[tuple[str, int, list[Any]]]] = {verb: deque() for verb in ("read", "write", "pack")}
    while True:
        while looking.poll(0) or not any(waiting.values()):
            if (message := pipe.receive()) is None:
                return
            verb, job, *rest = message
            waiting[verb].append((verb, job, rest))
        yield next(queue for queue in waiting.values() if queue).popleft()


def main() -> None:
    """A worker process: messages come and go over the connection whose number is the first argument."""
    gc.disable()  # nothing here is in a cycle
    pipe = Pipe(int(sys.argv[1]))
    try:
        description, target, form = pipe.receive()
        reader = opened(pickle.loads(description))  # noqa: S301 - from the process that started this one
        worker = Worker(reader, target, Form(*form))
        verbs: dict[str, Callable[..., Any]] = {"read": worker.read, "pack": worker.pack, "write": worker.write}
        for verb, job, rest in _inbox(pipe):
            try:
                pipe.send((verb, job, verbs[verb](job, *rest)))
            except DlsError as error:
                pipe.send(("error", job, told(error)))
            except OSError as exc:
                pipe.send(("failed", job, exc.errno or errno.EIO))  # who decides knows the image's name
    except (EOFError, BrokenPipeError, ConnectionResetError, KeyboardInterrupt):
        pass  # the one who decides is gone: nothing of this is published
