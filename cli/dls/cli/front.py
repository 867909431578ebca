"""Front: what a command has in hand: its settings, the installation, and the way to say things."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from dls.cli import render, words

if TYPE_CHECKING:
    from dls.cli.settings import Settings
    from dls.cli.wiring import Dls
    from dls.madpp.action import Action, Context, Facts


class Answer(NamedTuple):
    """A verb's result for people."""

    essential: str
    """The one word that a script wants; all that --quiet prints."""
    lines: Sequence[str] = ()


T = TypeVar("T")
Show = Callable[["Facts"], Answer]


@dataclass
class Front:
    """One invocation.  Everything is made on first use: `--help` makes nothing."""

    json: bool = False
    quiet: bool = False
    home: str = ""

    @cached_property
    def settings(self) -> Settings:
        """The settings, with the options of the command line."""
        from dls.cli.settings import load

        return load(self.home)

    @cached_property
    def secrets(self) -> list[str]:
        """Values that are never printed."""
        from dls.cli.settings import secrets

        return secrets()

    @cached_property
    def out(self) -> render.Out:
        """Where words go."""
        return render.opened(as_json=self.json, quiet=self.quiet, secrets=self.secrets)

    @cached_property
    def dls(self) -> Dls:
        """The installation."""
        from dls.cli.wiring import connect

        return connect(self.settings)

    @property
    def context(self) -> Context:
        """The world, for commands that look or change one record."""
        return self.dls.context

    def told(self) -> Context:
        """The same, with somebody who listens."""
        return replace(self.context, tell=self.out.tell)

    @property
    def folder(self) -> Path:
        """DLS_HOME, also where the settings cannot be read."""
        from dls.cli.settings import home_of

        return home_of(self.home)

    def take(self, action: Action, show: Show, *, dry_run: bool = False, durability: str | None = None) -> None:
        """Carry an action out, or say what it would do, and print the answer."""
        how: dict[str, Any] = {}
        if durability:
            how["options"] = replace(self.context.options, durability=durability)
        if dry_run:
            facts = self.dls.preview(action, tell=self.out.tell, **how)
            self.out.result({"action": action.name, "dry_run": True, **facts}, action.name, would(facts))
            return
        started = time.monotonic()
        facts = self.watched(lambda **seen: self.dls.take(action, **seen, **how))
        answer = show(facts)
        seconds = round(time.monotonic() - started, 3)
        self.out.result({"action": action.name, "seconds": seconds, **facts}, answer.essential, answer.lines)

    def watched(self, work: Callable[..., T]) -> T:
        """Do work that takes `progress` and `tell`, and show how far it is."""
        from dls.cli.bars import Meter, watched
        from dls.logistics.transfer.progress import Progress

        progress = Progress()
        meter = Meter(progress)

        def tell(kind: str, facts: Mapping[str, Any]) -> None:
            if kind == "route":
                meter.again()
            elif kind == "command":
                progress.phase = "running"
            self.out.tell(kind, facts)

        every = self.out.every_s
        with watched(lambda: self.out.figures(meter.look()), every) if every else nullcontext():
            try:
                return work(progress=progress, tell=tell)
            finally:
                self.out.calm()

    def close(self) -> None:
        """Close what was opened."""
        if "dls" in self.__dict__:
            self.dls.close()


def would(facts: Mapping[str, Any]) -> list[str]:
    """A dry run for people: what, how much, which way, what would be lost, how long."""
    from dls.logistics.duration import show_size

    what = facts.get("what") or facts.get("dataset") or ""
    lines = [f"would handle {what}: {words.files(facts['files'])}, {show_size(facts['bytes'])}; nothing was changed"]
    if facts.get("in_place"):
        lines.append("  in place already: it would be proven and shared, not copied")
    route = " → ".join(map(words.place, facts.get("route", ())))
    lines.append(f"  route: {route}" if route else "")
    if facts.get("allocated") is not None:
        lines.append(f"  space: {show_size(facts['allocated'])} allocated at {facts.get('to', '')}")
    if facts.get("not_kept"):
        lost = ", ".join(f"{count:,} {word}" for word, count in facts["not_kept"].items())
        lines.append(f"  not kept there: {lost}")
    if facts.get("eta"):
        lines.append(f"  time: {_eta(facts['eta'])}")
    for stage in facts.get("stages", ()):
        lines.extend(f"  first, {line}" if n == 0 else f"  {line}" for n, line in enumerate(would(stage)))
    return lines


def _eta(eta: Mapping[str, Any]) -> str:
    from dls.logistics.duration import show_duration

    likely, low, high = (show_duration(eta[k]) for k in ("seconds", "low", "high"))
    return f"about {likely} ({low} to {high}), from {eta['from']}"
