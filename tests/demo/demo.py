"""`make demo`: the whole road on real data, told as it goes, with a transfer killed halfway on purpose.

Real files (Debian's casacore tables, GSHHG coastlines, GMT colour tables) go to a real S3 server on loopback, are
staged in through a proxy that counts requests, killed, resumed, verified, computed on, staged out.  The last line is
JSON.  Everything lies in a temporary folder; nothing stays running.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
sys.path.insert(0, str(Path(__file__).parent))

from environment import small_files  # noqa: E402

from components.compare import same_tree  # noqa: E402 - after the path is set
from components.exchange import Fault  # noqa: E402
from components.proxy import Proxy  # noqa: E402
from components.s3 import S3Service  # noqa: E402
from components.s3_rclone import rclone_s3  # noqa: E402
from components.tree import real  # noqa: E402

DLS = Path(sys.executable).parent / "dls"
WINDOW = 64 + 4
"""Bodies that may be in flight when a transfer is killed."""


class Demo:
    """One run of the demo: a home of its own, a server, a proxy."""

    def __init__(self, work: Path, service: S3Service, proxy: Proxy) -> None:
        self.work, self.service, self.proxy = work, service, proxy
        self.env = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "DLS_"))},
            **service.env(proxy.endpoint),
            "DLS_HOME": str(work / "home"),
        }
        self.step = 0

    def say(self, title: str, text: str = "") -> None:
        """A heading, and why."""
        self.step += 1
        print(f"\n\033[1m{self.step}. {title}\033[0m" if sys.stdout.isatty() else f"\n{self.step}. {title}")
        if text:
            print(f"   {text}")

    def dls(self, *words: str | Path, show: bool = True, status: int = 0, by: Sequence[str] = ()) -> None:
        """Run a command as a person does, and show it; `by`: words before it, for another user."""
        shown = " ".join(str(w) for w in words)
        if show:
            print(f"   $ dls {shown}", flush=True)
        env = {**self.env, "DLS_HOME": str(self.work / "user" / "home")} if by else self.env
        done = subprocess.run([*by, DLS, *words], env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if show:
            for line in (done.stdout + done.stderr).splitlines():
                print(f"     {line}")
        if done.returncode != status:
            raise SystemExit(f"dls {shown} gave {done.returncode}: {done.stderr}")

    def ask(self, *words: str | Path) -> dict[str, Any]:
        """Run a command as a program does: its last JSON line."""
        print(f"   $ dls {' '.join(str(w) for w in words)}", flush=True)
        done = subprocess.run([DLS, "--json", *words], env=self.env, stdin=subprocess.DEVNULL, capture_output=True)
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        if done.returncode:
            raise SystemExit(f"dls gave {done.returncode}: {lines[-1:]} {done.stderr.decode()}")
        answer: dict[str, Any] = lines[-1]
        return answer

    def bodies(self) -> int:
        """Bodies of objects that the server was asked for so far."""
        return self.proxy.counts().bodies

    def kill_halfway(self, dataset: str, site: str, half: int) -> int:
        """Start a stage-in and kill -9 it when half the bodies were asked for; how many there were."""
        slow = self.proxy.add(Fault(kind="GET", times=None, delay=0.02))
        before = self.bodies()
        print(f"   $ dls stage-in {dataset} --to {site}", flush=True)
        child = subprocess.Popen(
            [DLS, "--json", "stage-in", dataset, "--to", site],
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while child.poll() is None and self.bodies() - before < half:
            time.sleep(0.002)
        ended = child.poll() is not None
        child.send_signal(signal.SIGKILL)
        child.wait()
        self.proxy.clear()
        time.sleep(0.2)
        if ended or not slow.fired:
            raise SystemExit("the transfer ended before it could be killed")
        return self.bodies() - before


def gather(folder: Path) -> None:
    """A working copy of the real data, links and times kept."""
    for one in real():
        shutil.copytree(one, folder / one.name, symlinks=True)


def told(demo: Demo) -> dict[str, Any]:
    """The story; returns what its last line says."""
    source, out = demo.work / "instrument", demo.work / "results"
    demo.say("Real data", "casacore tables, GSHHG coastlines and GMT colour tables, as Debian ships them.")
    gather(source)
    count = sum(1 for p in source.rglob("*") if p.is_file() and not p.is_symlink())
    size = sum(p.stat().st_size for p in source.rglob("*") if p.is_file() and not p.is_symlink())
    print(f"   {count} files, {size / 1e6:.0f} MB, in {source}")

    demo.say("Two sites", "an archive on S3, and scratch with a capacity, where buffers are leased.")
    bucket = demo.service.bucket("archive")
    demo.dls("site", "add", "archive", f"s3://{bucket}/earth", "--tier", "object")
    demo.dls("site", "add", "scratch", demo.work / "scratch", "--capacity", "1GB")
    demo.dls("site", "list")

    demo.say("To the archive, with a name", "hashed while copied, each upload checked by the server's own digest.")
    demo.dls("stage-out", source, "--to", "archive", "--as", "demo:earth")
    demo.dls("catalogue", "show", "demo:earth")

    demo.say("What a stage-in would do", "nothing is touched.")
    demo.dls("stage-in", "demo:earth", "--to", "scratch", "--dry-run")

    demo.say("Stage in, killed halfway on purpose", "kill -9 when half the bodies were asked for.")
    first = demo.kill_halfway("demo:earth", "scratch", count // 2)
    print(f"   killed after {first} bodies of {count}; at the site, nothing is visible:")
    visible = [p.name for p in (demo.work / "scratch").glob("dls/*") if not p.name.startswith(".dls-")]
    print(f"   {visible}")
    demo.dls("status")

    demo.say("The same again", "it continues: what lies in hidden staging is hashed, not fetched again.")
    before = demo.bodies()
    staged = demo.ask("stage-in", "demo:earth", "--to", "scratch", "--lifetime", "P7D")
    second = demo.bodies() - before
    print(f"   {second} bodies after the kill; {first} + {second} = {first + second} for {count} files")
    if first + second > count + WINDOW:
        raise SystemExit(f"{first + second} bodies for {count} files: more than the {WINDOW} in flight came twice")
    differences = same_tree(source, Path(staged["path"]))
    if differences:
        raise SystemExit(f"the staged tree differs: {differences[:5]}")
    print(f"   an independent comparison finds no difference between source and {staged['path']}")
    demo.dls("buffer", "list")

    demo.say("Verify", "every byte of every replica is read and hashed again.")
    demo.dls("verify", "demo:earth", "--deep")

    demo.say("Compute on it", "a small real job: HDF5 superblocks and colour tables; its output is leased too.")
    analyse = Path(__file__).with_name("analyse.py")
    words = ("--in", "demo:earth", "--out", "demo:summary", "--at", "scratch", "--", sys.executable, analyse, "{in}")
    made = demo.ask("run", *words)
    print(f"   {made['files']} files in {made['path']}")
    print("   this buffer holds the only copy, so it cannot be released:")
    demo.dls("buffer", "release", made["buffer"], status=9)

    demo.say("Stage the product out", "to a folder; then the buffer is clean and may go.")
    saved = demo.ask("stage-out", "demo:summary", "--to", out)
    print("   " + (out / "kinds.csv").read_text().splitlines()[1])
    demo.dls("buffer", "release", made["buffer"])

    demo.say(
        "Many small files as one",
        "a Python environment as an image that any kernel mounts; every byte read is checked.",
    )
    packed = small_files(demo)

    demo.say("What the catalogue knows", "nobody was asked to write any of this down.")
    demo.dls("catalogue", "list")
    demo.dls("catalogue", "show", "demo:summary")
    demo.dls("catalogue", "lineage", "demo:summary")
    return {
        "files": count,
        "bytes": size,
        "requests_before_kill": first,
        "requests_after_kill": second,
        "buffer": staged["buffer"],
        "image": packed,
        "lineage": {"stage_in": staged["activity"], "compute": made["activity"], "stage_out": saved["activity"]},
    }


def main() -> None:
    """Everything in a temporary folder, which goes at the end."""
    started = time.monotonic()
    work = Path(tempfile.mkdtemp(prefix="dls-demo-"))
    try:
        with rclone_s3(work / "s3", fresh=False) as service, Proxy(service.endpoint) as proxy:
            said = told(Demo(work, service, proxy))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(f"\nDone in {time.monotonic() - started:.0f} s; nothing is left running.")
    print(json.dumps({"demo": "road", **said}))


if __name__ == "__main__":
    main()
