"""What lineage says of the software and the hardware that something ran on."""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

from dls.logistics.version import VERSION


def software() -> dict[str, Any]:
    """This program and its interpreter."""
    python = ".".join(map(str, sys.version_info[:3]))
    return {"dls": VERSION, "python": python, "implementation": sys.implementation.name}


@cache
def _machine() -> tuple[tuple[str, Any], ...]:
    system = os.uname()
    pages, page = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return (
        ("host", system.nodename),
        ("machine", system.machine),
        ("system", f"{system.sysname} {system.release}"),
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
