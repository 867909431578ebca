"""`dls completion`: a script for the user's shell."""

from __future__ import annotations

import click

from dls.cli.command import COMPLETE, verb
from dls.cli.front import Front

_HOW = {
    "bash": 'eval "$(dls completion bash)"      # in ~/.bashrc',
    "zsh": 'eval "$(dls completion zsh)"       # in ~/.zshrc',
    "fish": "dls completion fish | source      # in ~/.config/fish/config.fish",
}


@verb("completion")
@click.argument("shell", type=click.Choice(sorted(_HOW)))
def completion(front: Front, shell: str) -> None:
    """Print the script that completes commands and options in SHELL; `eval "$(dls completion bash)"` turns it on."""
    from click.shell_completion import ShellComplete, get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    script = ShellComplete.source(kind(click.Command("dls"), {}, "dls", COMPLETE))  # without asking bash how old it is
    front.out.result(
        {"action": "completion", "shell": shell, "script": script, "how": _HOW[shell]}, script, script.splitlines()
    )
