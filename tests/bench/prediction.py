"""Prediction: 30 stage-ins over links of three speeds; how far off the time is that is told before, and at half-way.

The links are proxies that limit the rate and add a round trip.  What is printed is no comparison: medians of
|told - took| / took, of all and of those after the first on each link.
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from bench.rounds import Place
from components.proxy import Proxy
from components.s3_rclone import rclone_s3
from dls.cli.bars import Meter
from dls.cli.settings import load
from dls.cli.wiring import Dls, connect
from dls.logistics.transfer.progress import Progress
from dls.madpp.actions.register import Register
from dls.madpp.actions.stage_in import StageIn

LINKS = (("slow", 3e6, 0.02), ("middle", 12e6, 0.005), ("fast", 40e6, 0.0))
"""Name, bytes a second, seconds of a round trip."""


def run(place: Place, full: bool, rounds: int) -> list[dict[str, Any]]:
    """Stage in 30 trees; the rows, also printed and written to build/bench/prediction.jsonl by the caller."""
    rng, rows = random.Random(11), list[dict[str, Any]]()
    seconds = 8.0 if full else 2.0  # that a stage-in should take, about
    with ExitStack() as stack:
        service = stack.enter_context(rclone_s3(place.memory / "s3", fresh=False))
        assert service.root is not None
        bucket = service.root / service.bucket("bucket")
        for name, rate, delay in LINKS:
            proxy = stack.enter_context(Proxy(service.endpoint))
            proxy.rate, proxy.delay = rate, delay
            with _home(place.memory / f"home-{name}", service.env(proxy.endpoint)) as dls:
                dls.context.sites.add_site("scratch", str(place.memory / f"scratch-{name}"))
                for number in range(10):
                    key = f"x:{name}{number}"
                    _plant(bucket / f"{name}{number}", rng, rate * seconds * rng.uniform(0.3, 1.5))
                    service.look_again()
                    proxy.rate = 0.0
                    dls.take(Register(key, f"s3://bucket/{name}{number}"))
                    proxy.rate = rate
                    rows.append({"link": name, "number": number, **_told(dls, key)})
                    print(f"  {json.dumps(rows[-1])}", file=sys.stderr, flush=True)
    for what, chosen in (("all 30", rows), ("after the first of each link", [r for r in rows if r["number"]])):
        start = median(abs(r["told_s"] - r["took_s"]) / r["took_s"] for r in chosen)
        half = median(abs(r["half_s"] - r["left_s"]) / r["left_s"] for r in chosen if r["left_s"] > 0.1)
        within = sum(r["low_s"] <= r["took_s"] <= r["high_s"] for r in chosen) / len(chosen)
        print(
            f"prediction, {what}: median error {start:.0%} at the start, {half:.0%} at half-way; "
            f"{within:.0%} within the interval"
        )
    return rows


@contextmanager
def _home(folder: Path, env: dict[str, str]) -> Iterator[Dls]:
    os.environ.update({**env, "DLS_HOME": str(folder)})
    dls = connect(load())
    try:
        yield dls
    finally:
        dls.close()


def _plant(folder: Path, rng: random.Random, size: float) -> None:
    """A tree of about that many bytes: one half in small files, one in a few of some megabytes."""
    folder.mkdir(parents=True)
    small = int(size * rng.uniform(0.1, 0.9))
    for n in range(max(1, small // 40_000)):
        (folder / f"s{n:05}").write_bytes(rng.randbytes(40_000))
    for n in range(3):
        (folder / f"l{n}").write_bytes(rng.randbytes(int((size - small) / 3)))


def _told(dls: Dls, key: str) -> dict[str, float]:
    action = StageIn(key, "scratch")
    eta = dls.preview(action)["eta"]
    progress = Progress()
    meter, over, half = Meter(progress), threading.Event(), list[tuple[float, float]]()

    def look() -> None:
        while not over.wait(0.1):
            figures = meter.look()
            if not half and figures.bytes_total and figures.bytes >= figures.bytes_total / 2 and figures.eta_s:
                half.append((time.monotonic(), figures.eta_s))

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    began = time.monotonic()
    dls.take(action, progress=progress, options=replace(dls.context.options, durability="process"))
    ended = time.monotonic()
    over.set()
    watcher.join()
    at, left = half[0] if half else (ended, 0.0)
    told = {"told_s": eta["seconds"], "low_s": eta["low"], "high_s": eta["high"], "took_s": ended - began}
    return {name: round(v, 2) for name, v in {**told, "half_s": left, "left_s": ended - at}.items()}
