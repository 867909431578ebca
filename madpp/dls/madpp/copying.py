"""One transfer as a step takes it: alone at its place, estimated, copied, learnt from; failures become one error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from dls.logistics import names, rates
from dls.logistics.errors import KINDS, DlsError, worst
from dls.logistics.need import Claim
from dls.logistics.store import Can, Store
from dls.logistics.transfer.listing import Wanted
from dls.logistics.transfer.plan import Survey, survey
from dls.logistics.transfer.run import Options, Outcome, run_copies
from dls.logistics.transfer.small import Failures
from dls.madpp.action import Context


@contextmanager
def alone(context: Context, content: bytes, where: str) -> Iterator[Claim]:
    """Hold the need for a content at a place; whoever waited for another run looks for itself afterwards."""

    def waiting(run: str) -> None:
        context.say("waiting", {"run": run, "text": f"waiting for run {run}, which works on the same"})

    while True:
        fence = context.options.fence
        with context.needs.claim(content, where, context.run, on_wait=waiting, alive=fence) as claim:
            if claim.is_held:
                yield claim
                return


def fit(wanted: Wanted, target: Store, block: int = 4096) -> Survey:
    """What would arrive, and what the target would lose; Unsupported where it cannot hold a name."""
    if Can.SPACE in target.can:
        block = target.space().block
    found = survey(wanted.manifest.segments(), target.keeps, target.names, target.room, block)
    found.check(target.url)
    return found


def tell_losses(context: Context, found: Survey, target: Store, *, kept: bool) -> None:
    """Say before the start what the target does not keep."""
    losses = found.losses()
    if losses:
        where = "the catalogue's manifest keeps them" if kept else "they will be lost"
        said = f"{target.url} does not keep {', '.join(losses)}: {where}"
        context.say("losses", {"not_kept": found.lost, "text": said})


def estimate(context: Context, link: tuple[str, str], size: int, files: int) -> dict[str, Any]:
    """Seconds that it will take, with an interval, and on what that rests."""
    return rates.estimate(context.sites, *link, size, files).to_json()


def copy(
    context: Context,
    source: Store,
    target: Store,
    root: bytes,
    wanted: Wanted,
    link: tuple[str, str],
    options: Options | None = None,
) -> Outcome:
    """Run the copies; the link learns from it where no file failed."""
    started = context.now()
    before, kept = context.progress.bytes, context.progress.kept
    outcome = run_copies(
        source,
        target,
        root,
        wanted,
        context.receipts,
        logs=context.folder,
        options=options or context.options,
        progress=context.progress,
    )
    if outcome.copied and outcome.complete and context.progress.kept == kept:
        moved = max(0, context.progress.bytes - before)
        context.sites.observe(context.sites.link(*link), moved, outcome.copied, (context.now() - started) / 1e9)
    return outcome


def failure(failures: Failures, doing: str) -> DlsError | None:
    """One error for all files that failed, naming the first and how many; None where none did."""
    if not failures.count:
        return None
    errors = [error for _, error in failures.shown]
    gravest = worst(errors) or errors[0]
    if failures.count == 1:
        return gravest
    key = next(key for key, error in failures.shown if error is gravest)
    kind = next(k for k in KINDS if isinstance(gravest, k))
    made = kind(
        f"{failures.count:,} files failed while {doing}; first {names.show(key)}: {gravest.message}",
        code=gravest.code,
        remedy=gravest.remedy or "run the same again: it continues",
        count=failures.count,
        keys=[names.show(k) for k, _ in failures.shown[:20]],
        **{k: v for k, v in gravest.facts.items() if k == "store"},
    )
    made.__cause__ = gravest
    return made


def failed(failures: Failures, doing: str) -> None:
    """Raise it."""
    error = failure(failures, doing)
    if error is not None:
        raise error


def replacing(options: Options, keys: Any) -> Options:
    """Options that allow some names to be replaced."""
    return replace(options, replace=keys) if keys else options


def gone_wrong(errors: list[DlsError]) -> DlsError:
    """Several sources were tried: the error to end with."""
    return worst(errors) or errors[-1]
