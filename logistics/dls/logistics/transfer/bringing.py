"""Bringing the files of one segment: what staging holds already is proven where it lies, the rest is copied."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress

from dls.logistics import digest as digests
from dls.logistics.entry import NO_MODE, NO_TIME, Entry
from dls.logistics.errors import DlsError, NotFound
from dls.logistics.segment import Segment
from dls.logistics.store import SMALL, Store, Upload, Want
from dls.logistics.transfer.evidence import Found, Known
from dls.logistics.transfer.listing import moving
from dls.logistics.transfer.log import Log, Opened
from dls.logistics.transfer.parts import Alive, Large
from dls.logistics.transfer.plan import Sorts
from dls.logistics.transfer.receipt import Receipt
from dls.logistics.transfer.small import FATAL, Small, passes
from dls.logistics.transfer.threads import ending, together
from dls.logistics.transfer.transfer import Transfer

Errors = dict[int, DlsError]


def bring(
    transfer: Transfer, segment: Segment, sorts: Sorts, todo: Sequence[int], receipt: Receipt | None
) -> tuple[dict[int, Found], int, Errors]:
    """Copy what is missing; (what now lies, proven, where it was written; how many of these were copied; errors)."""
    progress, log = transfer.progress, transfer.logs.of(segment.digest)
    found: dict[int, Found] = {}
    if transfer.landing.staged:
        found = _staged(transfer, segment, todo, receipt, log)
        progress.settled(len(found), sum(segment.sizes[i] for i in found), kept=True)
    kept = len(found)
    large = set(sorts.large)
    one = Small(transfer.source, transfer.landing.stage, segment, progress, transfer.alive, helpers=transfer.helpers)
    if transfer.logged:
        listed = transfer.evidence.sources(segment)
        one.placed = lambda i, digest, stamp: log.add_placed(i, digest, stamp, listed[i] if listed else b"")
    one.run([i for i in todo if i not in large and i not in found], transfer.options.retries)
    found.update({i: (one.digests[i], b"", stamp) for i, stamp in one.stamps.items()})
    errors = one.errors
    _large(transfer, segment, [i for i in todo if i in large and i not in found], found, errors)
    transfer.landing.dirty = True
    _unmoved(transfer, segment, found, errors)
    return found, max(0, len(found) - kept), errors


def _staged(
    transfer: Transfer, segment: Segment, todo: Sequence[int], receipt: Receipt | None, log: Log
) -> dict[int, Found]:
    """What a killed run left in staging and is right: hashed where it lies.  Files over 64 MiB that were not finished
    are left to their parts."""
    stage = transfer.landing.stage
    now = stage.stamps([segment.paths[i] for i in todo])
    there = {i: stamp for i, stamp in zip(todo, now, strict=True) if stamp}
    expected = transfer.evidence.expected(segment, there, receipt, log)
    done = receipt.done if receipt is not None else ()
    ask = [i for i in expected if segment.sizes[i] <= digests.BIG or log.placed(i) or i in done]
    ask = [i for i in ask if expected[i][0] != digests.UNKNOWN]
    ask = [i for i in ask if _dressed(transfer, segment, i)]
    good = proven(stage, segment, ask, expected, transfer.tick)
    return {i: (*known, there[i]) for i, known in good.items()}


def _dressed(transfer: Transfer, segment: Segment, i: int) -> bool:
    """Whether a file in staging has its mode and time, which it gets last: a kill may come between."""
    stage, wanted = transfer.landing.stage, segment.entry(i)
    there = stage.stat(wanted.path).entry
    if stage.keeps.modes and wanted.mode not in (NO_MODE, there.mode):
        return False
    return not stage.keeps.mtimes or wanted.mtime_ns in (NO_TIME, there.mtime_ns)


def _large(transfer: Transfer, segment: Segment, todo: list[int], found: dict[int, Found], errors: Errors) -> None:
    """Bring large files: those over 64 MiB one after the other by several streams, the others several at once."""
    queue = [i for i in todo if segment.sizes[i] <= digests.BIG]
    turn, lock = iter(queue), threading.Lock()

    def work(stop: threading.Event) -> None:
        while not stop.is_set():
            with lock:
                i = next(turn, None)
            if i is None:
                return
            _one(transfer, segment, i, 1, found, errors)

    together(work, min(transfer.options.streams, len(queue)))
    for i in todo:
        if segment.sizes[i] > digests.BIG:
            _one(transfer, segment, i, transfer.options.streams, found, errors)


def _one(transfer: Transfer, segment: Segment, i: int, streams: int, found: dict[int, Found], errors: Errors) -> None:
    """Bring one large file, with retries; its outcome is in `found` or in `errors`."""
    for attempt in range(transfer.options.retries + 1):
        try:
            found[i] = _attempt(transfer, segment, i, streams)
        except DlsError as exc:
            if exc.code in FATAL:
                raise
            errors[i] = exc
            if attempt == transfer.options.retries or not passes(exc):
                return
        else:
            errors.pop(i, None)
            transfer.progress.settled(1, 0)
            return


def _attempt(transfer: Transfer, segment: Segment, i: int, streams: int) -> Found:
    entry, log = segment.entry(i), transfer.logs.of(segment.digest)
    listed = transfer.evidence.sources(segment)
    source = listed[i] if listed else b""
    finished = _fresh(transfer, segment, i, source, log)
    if finished is not None:
        return finished
    upload = _upload(transfer, entry, log.token(i))
    work = Large(transfer.source, entry, i, log, transfer.progress, transfer.alive, upload, streams)
    try:
        if upload.token and upload.token != log.token(i):
            log.add_token(i, Opened(upload.token, entry.path, entry.size))
        digest, blocks = work.run()
        transfer.alive()
        stamp = upload.finish()
    except DlsError as exc:
        work.take_back()
        if exc.code in ("content-differs", "target-changed"):  # what was written is wrong, and so is what the log says
            log.forget(i)
            with suppress(DlsError):
                upload.abort()
        raise
    finally:
        upload.close()
    log.add_placed(i, digest, stamp, source)
    return digest, blocks, stamp


def _upload(transfer: Transfer, entry: Entry, token: str) -> Upload:
    return transfer.landing.stage.upload(entry.path, entry.size, token=token, mode=entry.mode, mtime_ns=entry.mtime_ns)


def _fresh(transfer: Transfer, segment: Segment, i: int, source: bytes, log: Log) -> Found | None:
    """Let the log speak of this source and of an upload that is still known, or of nothing.  An upload that is gone
    may have been finished, its answer lost: then what lies there is hashed and may be the whole file already."""
    entry = segment.entry(i)
    if not log.begin(i, source):
        if log.token(i):
            transfer.landing.abort(Opened(log.token(i), entry.path, entry.size))
        log.forget(i)
        log.begin(i, source)
    if not log.token(i):
        return None
    try:
        _upload(transfer, entry, log.token(i)).close()
    except NotFound as exc:
        if exc.code != "no-upload":
            raise
    else:
        return None
    stage = transfer.landing.stage
    expected = transfer.evidence.expected(segment, [i], None, log)
    (stamp,) = stage.stamps([entry.path])
    good = proven(stage, segment, [i], expected, transfer.tick) if stamp and expected else {}
    log.forget(i)
    log.begin(i, source)
    if i not in good:
        return None
    transfer.progress.moved(entry.size)
    return (*good[i], stamp)


def _unmoved(transfer: Transfer, segment: Segment, found: dict[int, Found], errors: Errors) -> None:
    """Where digests were not known: the source must still be what was listed, or what we read may be a mixture."""
    listed = transfer.evidence.sources(segment)
    if not listed or not found:
        return
    for i in moved(transfer.source, segment, found, listed):
        del found[i]
        transfer.landing.take_back(segment.paths[i])
        errors[i] = moving(transfer.source.url, segment.paths[i])


def moved(store: Store, segment: Segment, ordinals: Iterable[int], before: Sequence[bytes]) -> list[int]:
    """Those of the ordinals whose stamp is not what it was."""
    asked = sorted(ordinals)
    now = store.stamps([segment.paths[i] for i in asked])
    return [i for i, stamp in zip(asked, now, strict=True) if stamp != before[i]]


def proven(
    store: Store, segment: Segment, ordinals: Collection[int], expected: dict[int, Known], tick: Alive
) -> dict[int, Known]:
    """Which files that lie at `store` are what is expected: read where they lie, hashed, compared."""
    good: dict[int, Known] = {}
    wants = [Want(i, segment.paths[i], segment.sizes[i]) for i in sorted(ordinals) if segment.sizes[i] <= SMALL]
    with ending(store.fetch(wants) if wants else ()) as bodies:
        for i, body, error in bodies:
            tick()
            if error is None:
                digest = digests.of(body)
                if digest == expected[i][0] and len(body) == segment.sizes[i]:
                    good[i] = digest, b""
            elif error.code in FATAL:
                raise error
    for i in sorted(ordinals):
        if segment.sizes[i] > SMALL:
            known = _proven_large(store, segment, i, expected[i], tick)
            if known is not None:
                good[i] = known
    return good


def _proven_large(store: Store, segment: Segment, i: int, expected: Known, tick: Alive) -> Known | None:
    """(digest, block digests) of the large file at `store`, if it is what is expected; read block by block."""
    key, size = segment.paths[i], segment.sizes[i]
    whole, blocks = digests.Hasher(0), list[bytes]()
    by_blocks = expected[0] == digests.UNKNOWN
    try:
        for start in range(0, size, digests.BLOCK):
            stop = min(start + digests.BLOCK, size)
            data = b"".join(store.read(key, start, stop + (stop == size)))
            tick()
            if start + len(data) != stop:
                return None
            whole.update(data)
            if by_blocks or size > digests.BIG:
                blocks.append(digests.of(data))
    except DlsError as exc:
        if exc.code in FATAL:
            raise
        return None
    found, joined = whole.digest(), b"".join(blocks)
    if (joined != expected[1]) if by_blocks else (found != expected[0]):
        return None
    return found, joined if size > digests.BIG else b""
