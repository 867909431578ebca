"""Our own contenders: the command line as users call it, with a `DLS_HOME` of each turn's own (set by `rounds`)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from bench.contender import Contender, Turn, Words
from bench.rounds import environment

SITE = "bench"
Check = Callable[[Turn], str]


def dls(*words: str | Path) -> list[str | Path]:
    """Return a command of ours, from the environment that runs the bench."""
    return [Path(sys.executable).parent / "dls", *words]


def contender(
    name: str,
    command: Callable[[Turn], Words],
    *before: Callable[[Turn], Words],
    check: Check | None = None,
    env: Mapping[str, str] | None = None,
) -> Contender:
    """Make a contender of ours; the commands `before` run outside the clock, in order, and must succeed."""

    def prepare(turn: Turn) -> None:
        for words in before:
            done = subprocess.run(
                list(words(turn)), env=environment(turn, made), capture_output=True, text=True, stdin=subprocess.DEVNULL
            )
            if done.returncode:
                raise RuntimeError(f"preparing gave {done.returncode}: {' '.join(done.stderr[-300:].split())}")

    made = Contender(name, command, dict(env or {}), prepare=prepare, check=check, verified=True)
    return made


def site_add(turn: Turn) -> Words:
    """Give the turn's target as site `bench`."""
    return dls("site", "add", SITE, f"file://{turn.target}")


def stage_in(url: str, check: Check, env: Mapping[str, str] | None = None, name: str = "dls") -> Contender:
    """Stage a URL into a fresh site: nothing is known of it, so it is listed and hashed, before and after."""
    return contender(name, lambda turn: dls("stage-in", url, "--to", SITE), site_add, check=check, env=env)


def stage_out(source: Path, to: Callable[[Turn], str], check: Check, env: Mapping[str, str]) -> Contender:
    """Stage a folder or file out to a URL."""
    return contender("dls", lambda turn: dls("stage-out", source, "--to", to(turn)), check=check, env=env)


def stage_in_again(url: str, check: Check | None = None) -> Contender:
    """Stage in what is there already: nothing to do."""
    again = dls("stage-in", url, "--to", SITE)
    return contender("dls", lambda turn: again, site_add, lambda turn: again, check=check)


def register(dataset: str, url: str) -> Contender:
    """Register a tree in a fresh catalogue: every byte is read and hashed."""
    return contender("dls", lambda turn: dls("catalogue", "add", dataset, url))


def stage_dataset(
    dataset: str, url: str, check: Check, env: Mapping[str, str] | None = None, name: str = "dls"
) -> Contender:
    """Stage a registered dataset into a fresh site."""
    return contender(
        name,
        lambda turn: dls("stage-in", dataset, "--to", SITE),
        site_add,
        lambda turn: dls("catalogue", "add", dataset, url),
        check=check,
        env=env,
    )


def stage_dataset_again(dataset: str, url: str) -> Contender:
    """Stage in a registered dataset that is there already."""
    again = dls("stage-in", dataset, "--to", SITE)
    return contender(
        "dls", lambda turn: again, site_add, lambda turn: dls("catalogue", "add", dataset, url), lambda turn: again
    )
