"""Commands: how one is declared: lazily loaded, with the options that all share, before or after the verb."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dls.cli.front import Front

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

COMPLETE = "_DLS_COMPLETE"
"""The variable by which a shell asks for completions (click's protocol)."""
F = TypeVar("F", bound=Callable[..., Any])


def _keep(context: click.Context, option: click.Parameter, value: Any) -> None:
    front = context.find_root().ensure_object(Front)
    if value and option.name:
        setattr(front, option.name, value)


def _shared() -> list[click.Parameter]:
    """The options that every command takes."""
    return [
        click.Option(
            ["--json"], is_flag=True, expose_value=False, callback=_keep, help="JSON lines on standard output."
        ),
        click.Option(
            ["--quiet", "-q"], is_flag=True, expose_value=False, callback=_keep, help="Only the essential of a result."
        ),
        click.Option(
            ["--home"], metavar="PATH", expose_value=False, callback=_keep, help="State and settings, for DLS_HOME."
        ),
    ]


class Verb(click.Command):
    """One command."""

    def __init__(self, *words: Any, **named: Any) -> None:
        super().__init__(*words, **named)
        self.params.extend(_shared())


class Verbs(click.Group):
    """Commands by name, each imported when it is used.

    `lazy` maps a name to (`package.module:object`, summary); the summary stands here so that help imports nothing.
    """

    command_class = Verb

    def __init__(self, *words: Any, lazy: Mapping[str, tuple[str, str]] | None = None, **named: Any) -> None:
        super().__init__(*words, **{"no_args_is_help": False, **named})
        self.lazy = dict(lazy or {})
        self.params.extend(_shared())

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names, in the order in which they are used."""
        return [*self.lazy, *self.commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now."""
        if cmd_name not in self.lazy:
            return super().get_command(ctx, cmd_name)
        module, _, name = self.lazy[cmd_name][0].partition(":")
        found: click.Command = getattr(import_module(module), name)
        return found

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Names with their summaries, and options; nothing is imported for it."""
        from click.shell_completion import CompletionItem

        if not self.lazy:
            return super().shell_complete(ctx, incomplete)
        named = [CompletionItem(n, help=said) for n, (_, said) in self.lazy.items() if n.startswith(incomplete)]
        return [*named, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list under --help."""
        own = [(name, command.get_short_help_str(limit=90)) for name, command in self.commands.items()]
        with formatter.section("Commands"):
            formatter.write_dl([*((name, summary) for name, (_, summary) in self.lazy.items()), *own])


def verb(name: str, group: click.Group | None = None) -> Callable[[Callable[..., Any]], Verb]:
    """Declare a command, by itself or in a group; its function takes the `Front` first."""

    def declared(function: Callable[..., Any]) -> Verb:
        command = click.command(name, cls=Verb)(click.pass_obj(function))
        if group is not None:
            group.add_command(command)
        return command

    return declared


def dry_run(function: F) -> F:
    """`--dry-run`."""
    return click.option("--dry-run", is_flag=True, help="Say files, bytes, route and time; change nothing.")(function)


def detach(function: F) -> F:
    """`--detach`."""
    return click.option("--detach", is_flag=True, help="Leave it to a worker (dls worker); answer at once.")(function)


def durability(function: F) -> F:
    """`--durability`."""
    help = "What a copy survives before it counts: loss of power (the default), or the end of the process."
    return click.option("--durability", type=click.Choice(["power", "process"]), default=None, help=help)(function)
