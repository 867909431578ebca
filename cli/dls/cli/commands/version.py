"""`dls version`: what is installed."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed

from dls.cli.command import verb
from dls.cli.front import Front
from dls.logistics.version import VERSION

_STANDS_ON = ("blake3", "click", "obstore", "boto3")


@verb("version")
def version(front: Front) -> None:
    """Versions of dls and of what it stands on."""
    found = {"dls": VERSION, "python": platform.python_version()} | {name: _of(name) for name in _STANDS_ON}
    front.out.result({"action": "version", **found}, found["dls"], [f"{name} {said}" for name, said in found.items()])


def _of(name: str) -> str:
    try:
        return installed(name)
    except PackageNotFoundError:
        return "not installed"
