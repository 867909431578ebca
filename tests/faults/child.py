"""A process that runs transfers and may be killed at any system call: imports once, forks for each case.

Reads one JSON object a line on standard input and answers each with two lines: the pid of the fork, which waits until
its `gate` (a FIFO) is opened, and how it ended.  Bodies asked of a disk are counted in memory that the forks share.
"""

from __future__ import annotations

import json
import mmap
import os
import pickle
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dls.logistics import digest as digests
from dls.logistics import segment as segments
from dls.logistics.credentials import S3Credentials
from dls.logistics.database import Database
from dls.logistics.errors import DlsError
from dls.logistics.manifest import in_memory
from dls.logistics.store import Store
from dls.logistics.stores import posix_upload
from dls.logistics.stores.posix import PosixStore
from dls.logistics.stores.s3 import S3Store
from dls.logistics.testing.faults import Around
from dls.logistics.transfer import bringing, plan, prove, sharing, small
from dls.logistics.transfer.listing import known, listed
from dls.logistics.transfer.receipt import SqlReceipts
from dls.logistics.transfer.run import Options, run_copies
from dls.logistics.url import parse

BODIES = mmap.mmap(-1, 8)
BLOCK, BIG, SMALL = 64 << 10, 256 << 10, 32 << 10


def small_scale() -> None:
    """Parts that a kill can fall between without moving gigabytes."""
    digests.BLOCK, digests.BIG = BLOCK, BIG  # type: ignore[misc]
    for module in (plan, bringing, prove):
        module.SMALL = SMALL  # type: ignore[attr-defined]
    posix_upload.PosixUpload.part = BLOCK  # type: ignore[misc]
    segments.LEAST, segments.LIMIT = 4, 6


class Counting(Around):
    """Counts bodies, for whoever looks after the kill."""

    def step(self, verb: str, key: bytes = b"") -> bool:
        if verb in ("fetch.item", "read"):
            BODIES[:8] = (int.from_bytes(BODIES[:8], "little") + 1).to_bytes(8, "little")
        return False


class CountingAtOnce(Counting):
    """As a store that does many files in one call."""

    def __init__(self, inner: PosixStore) -> None:
        super().__init__(inner)
        self._files = inner

    def batches(self) -> bool:
        return self._files.batches()

    def take(self, keys: Sequence[bytes], sizes: Sequence[int]) -> list[bytes | None]:
        for key in keys:
            self.step("fetch.item", key)
        return self._files.take(keys, sizes)

    def give(self, *rows: Any) -> list[bytes | None]:
        return self._files.give(*rows)


def opened(where: str, keys: dict[str, Any] | None, at_once: bool) -> Store:
    """A store by its address."""
    if where.startswith("s3"):
        return S3Store(parse(where), S3Credentials(**(keys or {})), timeout_s=5)
    if at_once:
        sharing.WORTH, small._AT_ONCE = 2, 2  # type: ignore[misc]
        store = CountingAtOnce(PosixStore(where))
        assert store.batches(), "tests/setup installs logistics/accelerator"
        return store
    return Counting(PosixStore(where))


def work(case: dict[str, Any]) -> dict[str, Any]:
    """One run of the copies."""
    source = opened(case["source"], case.get("keys"), case.get("at_once", False))
    state = Path(case["state"])
    receipts = SqlReceipts(Database(state / "state.sqlite"))
    if case.get("manifest"):
        wanted = known(in_memory(pickle.loads(Path(case["manifest"]).read_bytes())))
    else:
        wanted = listed(source, state)
    options = Options(**{"streams": 2, "durability": "process", "settle_s": 0, **case.get("options", {})})
    try:
        target = PosixStore(case["target"])
        outcome = run_copies(source, target, case["root"].encode(), wanted, receipts, logs=state, options=options)
    except DlsError as error:
        return {"error": error.to_json()}
    shown = [(key.decode(), error.to_json()) for key, error in outcome.failures.shown]
    return {"copied": outcome.copied, "kept": outcome.kept, "failed": shown}


def fork(case: dict[str, Any]) -> int:
    """A fork that waits at the gate; what it has to say goes to the file `said`."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        if case.get("gate"):
            with open(case["gate"], "rb") as gate:
                gate.read()
        Path(case["said"]).write_text(json.dumps(work(case)))
        status = 0
    finally:
        os._exit(status)


def main() -> None:
    """Serve until standard input ends."""
    if "--small" in sys.argv:
        small_scale()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        case = json.loads(line)
        if "count" in case:
            print(json.dumps({"bodies": int.from_bytes(BODIES[:8], "little")}), flush=True)
            BODIES[:8] = bytes(8)
            continue
        Path(case["said"]).unlink(missing_ok=True)
        pid = fork(case)
        print(json.dumps({"pid": pid}), flush=True)
        _, status = os.waitpid(pid, 0)
        said = Path(case["said"])
        told = json.loads(said.read_text()) if said.exists() and said.stat().st_size else {}
        print(json.dumps({"signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0, **told}), flush=True)


if __name__ == "__main__":
    main()
