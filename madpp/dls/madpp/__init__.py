"""madpp: decides what happens to data: plans, proofs, actions, runs.

The words of a plan in Python are imported from here, each on its first use:

from dls.madpp import plan, run, stage_in
with plan("mean") as p:
    era5 = stage_in("climate:era5", "scratch")
    run(["python", "mean.py"], era5, out="climate:mean", at="scratch")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dls.madpp.build import dataset, pack, release, run, site, stage_in, stage_out, step, verify, wait_for

__all__ = ["dataset", "pack", "release", "run", "site", "stage_in", "stage_out", "step", "verify", "wait_for"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("dls.madpp.build"), name)
