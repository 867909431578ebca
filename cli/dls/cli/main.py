"""Main: the command `dls`.  Everything that can go wrong ends here, in one sentence and an exit status."""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Sequence
from typing import Final, NoReturn

import click

from dls.cli import failure, render
from dls.cli.command import COMPLETE, Verbs
from dls.cli.front import Front
from dls.logistics.version import VERSION

COMMANDS: Final = {
    "site": ("dls.cli.commands.site:site", "Places where data may lie."),
    "catalogue": ("dls.cli.commands.catalogue:catalogue", "Datasets, their files, copies and lineage."),
    "stage-in": ("dls.cli.commands.stage_in:stage_in", "Bring a dataset into a leased buffer of a site."),
    "run": ("dls.cli.commands.run:run", "Run a command on staged data and record what made what."),
    "stage-out": ("dls.cli.commands.stage_out:stage_out", "Save a path, a buffer or a dataset elsewhere."),
    "plan": ("dls.cli.commands.plan:plan", "Plans: many steps in one document; check, show, apply."),
    "buffer": ("dls.cli.commands.buffer:buffer", "Leased buffers: look, renew, release."),
    "verify": ("dls.cli.commands.verify:verify", "Check copies of a dataset against what was recorded."),
    "probe": ("dls.cli.commands.probe:probe", "What lies at a place, and which sites would take it."),
    "pack": ("dls.cli.commands.pack:pack", "Put many files into one image."),
    "layer": ("dls.cli.commands.layer:layer", "Put what changed into a small image on top of others."),
    "compact": ("dls.cli.commands.compact:compact", "Make one image of layers."),
    "unpack": ("dls.cli.commands.unpack:unpack", "Write what an image holds into a folder."),
    "cat": ("dls.cli.commands.cat:cat", "Write one file of an image to standard output."),
    "mount": ("dls.cli.commands.mount:mount", "Mount an image on a folder."),
    "umount": ("dls.cli.commands.umount:umount", "Unmount an image."),
    "mounts": ("dls.cli.commands.mounts:mounts", "Images that are mounted here."),
    "status": ("dls.cli.commands.status:status", "What ran, runs, or was broken off."),
    "explain": ("dls.cli.commands.explain:explain", "Why a run, a step or a file is not done yet."),
    "cancel": ("dls.cli.commands.cancel:cancel", "End a run."),
    "resume": ("dls.cli.commands.resume:resume", "Carry on a run that broke off, failed or was cancelled."),
    "worker": ("dls.cli.commands.worker:worker", "Carry the runs that others left (--detach)."),
    "events": ("dls.cli.commands.events:events", "What happened, in order."),
    "doctor": ("dls.cli.commands.doctor:doctor", "What this machine can do, and what is missing."),
    "completion": ("dls.cli.commands.completion:completion", "A script that completes words in a shell."),
    "version": ("dls.cli.commands.version:version", "Versions of dls and of what it stands on."),
}
_COLLECTED: Final = 50_000, 20, 20
"""New objects between two searches for cycles, and how often older ones are looked through, too: we make hardly any
cycles, and at the usual 700 the searches take a tenth of the start."""
_HELP: Final = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group("dls", cls=Verbs, lazy=COMMANDS, context_settings=_HELP)
@click.version_option(VERSION, prog_name="dls", message="%(prog)s %(version)s", help="Show the version and exit.")
def cli() -> None:
    """Bring research data where the code runs: proven intact, in time, within every site's limits.

    Results go to standard output, everything else to standard error.  A command that was interrupted continues when it
    is run again.  Exit status: 0 done, 2 to 9 as in specs/errors.md, 70 a fault of dls, 128 + a signal's number.
    """


def main() -> int:
    """Run the command line of this process."""
    gc.set_threshold(*_COLLECTED)
    render.whole()
    status = _completed() if len(sys.argv) == 1 else None
    if status is None:
        status = run(sys.argv[1:])
    if not render.flushed() or _hangs():
        _leave(status)
    return status


def _completed() -> int | None:
    """Answer a shell that asks for completions; None where none does.  The script calls `dls` without words."""
    from dls.cli.settings import completing

    asked = completing(COMPLETE)
    if not asked:
        return None
    from click.shell_completion import shell_complete

    return shell_complete(cli, {}, "dls", COMPLETE, asked)


def run(words: Sequence[str]) -> int:
    """Run one command; its exit status."""
    front = Front(json="--json" in _before(words, "--"))
    with failure.signals():
        try:
            with cli.make_context("dls", list(words), obj=front) as context:
                cli.invoke(context)
            return 0
        except click.exceptions.Exit as exc:
            return exc.exit_code
        except BrokenPipeError:
            return failure.PIPE
        except BaseException as exc:  # noqa: BLE001 - the one place where every failure ends
            return _failed(exc, front)
        finally:
            front.close()


def _failed(exc: BaseException, front: Front) -> int:
    facts = failure.explain(exc, front.folder, front.secrets)
    front.out.calm()
    front.out.error(facts)
    return int(facts["exit_status"])


def _before(words: Sequence[str], end: str) -> Sequence[str]:
    return words[: words.index(end)] if end in words else words


def _hangs() -> bool:
    """Whether threads are left, as after a stalled transfer: they may hang for ever in a dead file system."""
    return threading.active_count() > 1


def _leave(status: int) -> NoReturn:
    os._exit(status)
