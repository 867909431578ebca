"""Front: what a command has in hand: its settings, the installation, and the way to say things."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from dls.cli import render, words
from dls.cli.log import Log, Logged

if TYPE_CHECKING:
    from dls.cli.settings import Settings
    from dls.cli.wiring import Dls
    from dls.logistics.transfer.progress import Progress
    from dls.madpp.action import Action, Context, Facts
    from dls.madpp.execution import Run
    from dls.madpp.plan import Plan

T = TypeVar("T")
Tell = Callable[[str, Mapping[str, Any]], None]


class Answer(NamedTuple):
    """A verb's result for people."""

    essential: str
    """The one word that a script wants; all that --quiet prints."""
    lines: Sequence[str] = ()


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
        out = render.opened(as_json=self.json, quiet=self.quiet, secrets=self.secrets)
        try:
            log = self.log
        except Exception:  # noqa: BLE001 - whatever it is, it is told where work begins, and an error needs words at once
            return out
        return out if log is None else Logged(out, log)

    @cached_property
    def log(self) -> Log | None:
        """What is kept of each command, where the setting `log` asks for that; Unavailable where it cannot be kept."""
        return Log(self.settings.log, self.secrets) if self.settings.log else None

    @cached_property
    def dls(self) -> Dls:
        """The installation."""
        from dls.cli.wiring import connect

        _ = self.log  # nothing is done that was to be logged and cannot be
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

    def own(self, name: str) -> Path:
        """A folder of DLS_HOME, which is made, for this user alone, where it is missing and can be made."""
        with suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return self.folder / name

    def take(
        self,
        action: Action,
        show: Show,
        *,
        dry_run: bool = False,
        durability: str | None = None,
        detach: bool = False,
    ) -> None:
        """Carry an action out, or say what it would do, or leave it to a worker, and print the answer."""
        how: dict[str, Any] = {}
        if detach and not dry_run:
            from dls.madpp.plan import single

            self.detach(single(action), action.name, durability)
            return
        if durability:
            how["options"] = replace(self.context.options, durability=durability)
        if dry_run:
            facts = self.dls.preview(action, tell=self.out.tell, **how)
            self.out.result({"action": action.name, "dry_run": True, **facts}, action.name, would(facts))
            return
        started = time.monotonic()
        facts = self.watch(lambda progress, tell: self.dls.take(action, progress=progress, tell=tell, **how))
        answer = show(facts)
        seconds = round(time.monotonic() - started, 3)
        self.out.result({"action": action.name, "seconds": seconds, **facts}, answer.essential, answer.lines)

    def raw(self, data: bytes) -> None:
        """Bytes to standard output, as they are."""
        render.raw(data)

    def detach(self, plan: Plan, verb: str, durability: str | None = None) -> None:
        """Leave a plan to the workers."""
        from dls.logistics.errors import Invalid

        if durability:
            raise Invalid(
                "--durability and --detach do not go together: the worker's own settings hold",
                code="bad-usage",
                remedy="leave out one of them; DLS_DURABILITY of the worker says what its copies survive",
            )
        run = self.dls.enqueue(plan)
        lines = (f"queued as {run.id}: a worker takes it (dls worker)", f"  follow it with dls status {run.id}")
        self.out.result({"action": verb, "run": run.id, "state": run.state.value}, run.id, lines)

    def resume(self, id: str) -> Run:
        """Carry on a run here; the run as it ended."""
        return self.watch(lambda progress, tell: self.dls.resume(id, progress=progress, tell=tell))

    def watch(self, work: Callable[[Progress, Tell], T]) -> T:
        """Do some work while its figures are shown."""
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
                return work(progress, tell)
            finally:
                self.out.calm()

    def close(self) -> None:
        """Close what was opened."""
        if "dls" in self.__dict__:
            self.dls.close()
        if self.__dict__.get("log"):
            self.__dict__["log"].close()


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
        lines.append(f"  time: {eta(facts['eta'])}")
    for stage in facts.get("stages", ()):
        lines.extend(f"  first, {line}" if n == 0 else f"  {line}" for n, line in enumerate(would(stage)))
    return lines


def eta(facts: Mapping[str, Any]) -> str:
    """An estimate for people: `about 3 min (1 min to 9 min), from a guess`."""
    from dls.logistics.duration import show_duration

    likely, low, high = (show_duration(facts[k]) for k in ("seconds", "low", "high"))
    return f"about {likely} ({low} to {high}), from {facts['from']}"
