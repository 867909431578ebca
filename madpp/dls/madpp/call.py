"""Call: the job of a step that is a Python function: `python -m dls.madpp.call FILE FUNCTION DIGEST OUT [IN …]`.

The file is read once; the bytes that are run are those that the digest was looked at for.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Sequence
from pathlib import Path

from dls.logistics import digest as digests


def main(words: Sequence[str]) -> None:
    """Load the file, find the function, call it with the folders of its inputs and of its output."""
    path, name, digest, out, *ins = words
    try:
        code = Path(path).read_bytes()
    except OSError as exc:
        raise SystemExit(f"cannot read {path}: {exc.strerror}") from None
    if digests.text(digests.of(code)) != digest:
        raise SystemExit(f"{path} has changed since the plan was made; what to do: apply the plan anew")
    module = types.ModuleType("dls_step")
    module.__file__ = path
    sys.modules["dls_step"] = module  # dataclasses and the like look there
    sys.path.insert(0, str(Path(path).parent))
    exec(compile(code, path, "exec"), module.__dict__)  # noqa: S102 - the user's own file, by its digest
    found = getattr(module, name, None)
    function = getattr(found, "function", found)
    if not callable(function):
        raise SystemExit(f"{path} has no function {name}")
    function(*map(Path, ins), Path(out))


if __name__ == "__main__":
    main(sys.argv[1:])
