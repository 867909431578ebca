"""What lineage says of the software and the hardware that something ran on."""

from __future__ import annotations

import os
import platform
import socket
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


@cache
def dls_version() -> str:
    """The installed version of dls."""
    try:
        return version("dls")
    except PackageNotFoundError:
        return "0+unknown"


def software() -> dict[str, Any]:
    """This program and its interpreter."""
    return {"dls": dls_version(), "python": platform.python_version(), "implementation": sys.implementation.name}


@cache
def _machine() -> tuple[tuple[str, Any], ...]:
    pages, page = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return (
        ("host", socket.gethostname()),
        ("machine", platform.machine()),
        ("system", f"{platform.system()} {platform.release()}"),
        ("cpus", os.cpu_count() or 1),
        ("cpu", _model()),
        ("memory_bytes", pages * page),
    )


def hardware() -> dict[str, Any]:
    """This machine."""
    return dict(_machine())


def _model() -> str:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as lines:
            return next((ln.partition(":")[2].strip() for ln in lines if ln.startswith("model name")), "")
    except OSError:
        return ""
