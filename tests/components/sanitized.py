"""Compiled parts built to tell each access that is out of bounds (AddressSanitizer, UBSan), for a run of tests."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

CHECKS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"]


def run_sanitized(source: Path, work: Path, tests: str, which: str, *libraries: str, **more: str) -> None:
    """Run those tests of a file that `which` (as -k) selects with the module of `source` compiled so into `work`."""
    made = work / f"{source.stem}.abi3.so"
    include = sysconfig.get_paths()["include"]
    words = ["gcc", "-O1", "-g", *CHECKS, "-shared", "-fPIC", f"-I{include}", "-o", made, source, *libraries]
    subprocess.run(words, check=True)
    library = subprocess.check_output(["gcc", "-print-file-name=libasan.so"], text=True).strip()
    env = {
        **os.environ, **more, "LD_PRELOAD": library, "PYTHONPATH": str(work), "PYTHONMALLOC": "malloc",
        "ASAN_OPTIONS": "detect_leaks=0:verify_asan_link_order=0",
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="dls-", dir="/tmp") as place:  # names of sockets have to be short
        words = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", f"--basetemp={place}/t", "-k", which, tests]
        done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=1700, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    code = f"import {source.stem}; print({source.stem}.__file__)"
    assert subprocess.check_output([sys.executable, "-c", code], env=env, text=True).strip() == str(made)
