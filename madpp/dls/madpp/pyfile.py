"""Pyfile: a plan from a Python file, which is run in a child process by its user's own wish.

The child hands back the plan as JSON, so nothing that it makes is trusted further than a document is; what it prints is
told as the lines of a job are.
"""

from __future__ import annotations

import json
import runpy
import sys
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dls.logistics.errors import DlsError, Invalid
from dls.madpp.action import Context
from dls.madpp.actions.child import execute
from dls.madpp.build import Building
from dls.madpp.plan import Plan, plan_from


def load(context: Context, path: Path) -> Plan:
    """The one plan that a file ends with; Invalid says what is wrong, and on which line."""
    with TemporaryDirectory(prefix="dls-plan-") as folder:
        answer = Path(folder, "plan.json")
        words = [sys.executable, "-P", "-m", "dls.madpp.pyfile", str(path.absolute()), str(answer)]
        status = execute(context, words, context.cwd, context.environ)
        said: dict[str, Any] = json.loads(answer.read_bytes()) if answer.is_file() else {}
    if "plan" not in said:
        message = said.get("message") or f"it ended with exit status {status} and without a plan"
        line = int(said.get("line", 0))
        raise Invalid(
            f"{path}{f':{line}' if line else ''}: {message}",
            code="bad-plan-file",
            file=str(path),
            line=line,
            remedy=said.get("remedy") or "mend the file: it must end with one plan",
        )
    plan = plan_from(said["plan"])
    lined = (replace(one, line=int(line)) for one, line in zip(plan.steps, said["lines"], strict=True))
    return Plan(tuple(lined), plan.name)


def main(words: Sequence[str]) -> None:
    """The child: run the file, write its plan, or its error, as JSON."""
    path, answer = words
    sys.path.insert(0, str(Path(path).parent))  # as for any script; not the working folder, where data may lie
    try:
        plan = _only(runpy.run_path(path, run_name="__main__"))
        said: dict[str, Any] = {"plan": plan.to_json(), "lines": [one.line for one in plan.steps]}
    except DlsError as exc:
        said = {"message": exc.message, "remedy": exc.remedy, "line": _line(exc, path)}
    except Exception as exc:  # noqa: BLE001 - any error of the user's own file is told as its error
        said = {"message": f"{type(exc).__name__}: {exc}", "line": _line(exc, path)}
    Path(answer).write_text(json.dumps(said))


def _only(names: dict[str, Any]) -> Plan:
    """The one plan among the names of a file."""
    found: dict[int, Plan] = {}
    for one in names.values():
        if isinstance(one, Building):
            found[id(one)] = one.plan
    for one in names.values():
        if isinstance(one, Plan) and one not in found.values():
            found[id(one)] = one
    if len(found) != 1:
        raise Invalid(
            f"the file makes {len(found)} plans",
            code="bad-plan-file",
            remedy='keep exactly one at the top: with plan("name") as p:',
        )
    return next(iter(found.values()))


def _line(exc: BaseException, path: str) -> int:
    """The last line of the file itself that an error came through."""
    if isinstance(exc, SyntaxError) and exc.filename == path:
        return exc.lineno or 0
    lines = [one.lineno for one in traceback.extract_tb(exc.__traceback__) if one.filename == path]
    return next((one for one in reversed(lines) if one), 0)


if __name__ == "__main__":
    main(sys.argv[1:])
