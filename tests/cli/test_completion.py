"""`dls completion`: the script, and the answers that it asks `dls` for."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from components.command import PROGRAM, Command

DLS = f"#!{sys.executable}\nfrom dls.cli.main import main\nraise SystemExit(main())\n"


@pytest.mark.spec("LOOK-7")
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_asks_dls(dls: Command, shell: str) -> None:
    script = dls("completion", shell, ok=True).out
    assert f"_DLS_COMPLETE={shell}_complete" in script
    assert dls.json("completion", shell)["script"].split() == script.split()
    assert dls("completion", shell, "--quiet", ok=True).out.split() == script.split()
    assert not dls.home.exists()


def test_another_shell_is_refused(dls: Command) -> None:
    assert dls.json("completion", "csh", ok=False)["code"] == "bad-usage"


def asked(*words: str) -> list[str]:
    """What `dls` answers a shell: `kind,word` or words alone."""
    env = {"_DLS_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(["dls", *words]), "COMP_CWORD": str(len(words))}
    done = subprocess.run(PROGRAM, env={"PATH": "/usr/bin:/bin", **env}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return [line.partition(",")[2] for line in done.stdout.splitlines()]


@pytest.mark.spec("LOOK-7")
def test_commands_and_options_are_completed() -> None:
    assert asked("st") == ["stage-in", "stage-out", "status"]
    assert asked("buffer", "re") == ["renew", "release"]
    assert asked("stage-in", "--dr") == ["--dry-run"]
    assert {"--json", "--quiet", "--home"} <= set(asked("--"))


@pytest.mark.spec("LOOK-7")
def test_bash_completes(tmp_path: Path, need: Callable[[str, object, str], None]) -> None:
    bash = shutil.which("bash")
    need("bash", bash, "not installed")
    assert bash
    program = tmp_path / "dls"
    program.write_text(DLS)
    program.chmod(0o755)
    script = (
        'eval "$(dls completion bash)" || exit 1\n'
        "COMP_WORDS=(dls pro) COMP_CWORD=1\n"
        "_dls_completion dls\n"
        'echo "${COMPREPLY[@]}"\n'
    )
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run([bash, "--norc", "-c", script], env=env, capture_output=True, text=True, check=False)
    assert done.stdout == "probe\n", done.stderr
