"""Many small files, in the demo: a real Python environment as one image, mounted and used by an ordinary user."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from demo import Demo

JOB = """
import sys, ast, pathlib
sys.path.insert(0, sys.argv[1])
import click, hypothesis, yaml, botocore.session
services = len(botocore.session.get_session().get_available_services())
stubs = [p for p in pathlib.Path(sys.argv[1], "mypy/typeshed").rglob("*.pyi")]
functions = sum(isinstance(n, ast.FunctionDef) for p in stubs for n in ast.walk(ast.parse(p.read_bytes())))
assert all(m.__file__.startswith(sys.argv[1]) for m in (click, hypothesis, yaml, botocore))
print(f"4 packages imported from the mount, {services} services in one, {functions:,} functions in {len(stubs)} stubs")
"""
NOBODY = 65534
DEVICE = Path("/dev/fuse")


def small_files(demo: Demo) -> dict[str, Any]:
    """Pack, mount as an ordinary user, compare, run a job, unmount; what the last line says of it."""
    source = Path(sysconfig.get_paths()["purelib"])
    shelf = demo.work / "user"
    shelf.mkdir()
    image, folder = shelf / "environment.sqfs", shelf / "environment"
    folder.mkdir()
    packed = demo.ask("pack", source, image)
    print(f"   {packed['files']:,} files, {packed['bytes'] / 1e6:.0f} MB, in one of {packed['stored'] / 1e6:.0f} MB")
    with ExitStack() as stack:
        user = _ordinary(demo, shelf, stack)
        demo.dls("mount", image, folder, by=user)
        stack.callback(demo.dls, "umount", folder, by=user)
        plain = [*user, "diff", "--recursive", "--no-dereference", source, folder]
        different = subprocess.run(plain, capture_output=True, text=True, check=False)
        if different.returncode:
            raise SystemExit(f"the mounted tree differs: {different.stdout[:300]}{different.stderr[:300]}")
        print("   diff -r finds no difference between the environment and the mount; a job runs from it:")
        interpreter = getattr(sys, "_base_executable", sys.executable)
        job = [*user, interpreter, "-I", "-S", "-c", JOB, folder]
        done = subprocess.run(job, capture_output=True, text=True, cwd="/", check=False)
        if done.returncode:
            raise SystemExit(f"the job failed on the mount: {done.stderr[-300:]}")
        print(f"   {done.stdout.strip()}")
    demo.dls("verify", image, "--sample", "10")
    return {"files": packed["files"], "bytes": packed["stored"], "user": "ordinary" if user or os.getuid() else "root"}


def _ordinary(demo: Demo, shelf: Path, stack: ExitStack) -> list[str]:
    """The words that make what follows run as an ordinary user; none where this user is one, or none can get here."""
    if os.getuid():
        return []
    words = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--"]
    demo.work.chmod(0o755)
    for path in (shelf, *shelf.iterdir()):
        os.chown(path, NOBODY, NOBODY)
    reached = subprocess.run(
        [*words, sys.executable, "-c", "import dls.fuse.mounting"], capture_output=True, check=False
    )
    if reached.returncode:
        print("   (this checkout lies where no other user may look, so root mounts)")
        return []
    before = DEVICE.stat().st_mode & 0o777
    if before & 0o006 != 0o006:
        print(f"   (this machine keeps {DEVICE} for root; the demo lets everybody use it while it mounts)")
        DEVICE.chmod(0o666)
        stack.callback(DEVICE.chmod, before)
    print("   from here on an ordinary user, nobody:")
    return words
