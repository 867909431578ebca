"""The structure of the code, checked like any other behaviour.

Numbered rules: in `specs/*.md` a rule is a line that starts with its id in bold as a list item,

    - **STORE-7** A write that fails leaves nothing, or the old bytes.

that is, the expression ``^- \\*\\*([A-Z]+-\\d+)\\*\\*``. A test proves a rule when it says so by
`@pytest.mark.spec("STORE-7")`, by the decorator `@spec("STORE-7")`, or by either among the marks of a
parameter; in `tests/` or in a suite that we ship (`<part>/dls/<part>/testing/`). No rule without a test, no
mark without a rule.
"""

import ast
import fnmatch
import functools
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tokenize
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("logistics", "catalogue", "fuse", "madpp", "cli")
RULE = re.compile(r"^- \*\*([A-Z]+-\d+)\*\*", re.MULTILINE)

MODULE_LINES = 450
FUNCTION_LINES = 50
# Names that say nothing about what a module owns.
EMPTY_NAMES = {"base", "common", "core", "default", "helper", "helpers", "manager", "misc", "tools", "util", "utils"}

# Each foreign library and the modules that may import it. What is not in this table is not imported.
FOREIGN = {
    "blake3": ["dls.logistics.digest"],
    "click": ["dls.cli", "dls.cli.*"],
    "dls_fast": ["dls.fuse.fast"],
    "dls_files": ["dls.logistics.stores.posix_fast"],
    "coverage": ["dls.logistics.testing.touched"],
    "fsspec": ["dls.fuse.filesystem"],
    "hypothesis": ["dls.*.testing", "dls.*.testing.*"],
    "lz4": ["dls.fuse.foreign.metadata"],
    "mfusepy": ["dls.fuse.libfuse"],
    "psycopg": ["dls.logistics.database_postgres"],
    "pytest": ["dls.*.testing", "dls.*.testing.*"],
    "xxhash": ["dls.fuse.codec"],
    "yaml": ["dls.madpp.document.text"],
    "zstandard": ["dls.fuse.codec"],
}
# Standard library with one home, for the same reason.
FOREIGN_STDLIB = {"sqlite3": ["dls.logistics.database_sqlite"]}

READS_ENVIRONMENT = {
    "dls.cli.settings",
    "dls.fuse.fast",
    "dls.logistics.credentials",
    "dls.logistics.stores.posix_fast",
}
PRINTS = {"dls.cli.render"}
# A person waits for `dls --help` on a login node with a slow file system: each of these costs 50–500 ms there.
SLOW_TO_IMPORT = ("asyncio", "boto3", "botocore", "http.client", "obstore", "psycopg", "sqlalchemy", "sqlite3", "ssl")


class Module:
    """One source file of ours, parsed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.shown = str(path.relative_to(ROOT))
        inside = path.relative_to(ROOT).parts[1:]  # without the source root
        names = [*inside[:-1], path.stem] if path.stem != "__init__" else list(inside[:-1])
        self.name = ".".join(names)
        self.text = path.read_text(encoding="utf-8")
        self.tree = ast.parse(self.text, filename=str(path))

    @functools.cached_property
    def comments(self) -> dict[int, str]:
        tokens = tokenize.generate_tokens(io.StringIO(self.text).readline)
        return {t.start[0]: t.string for t in tokens if t.type == tokenize.COMMENT}


@functools.cache
def sources() -> tuple[Module, ...]:
    return tuple(Module(path) for part in PARTS for path in sorted((ROOT / part / "dls").rglob("*.py")))


def run(*command: str, cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, timeout=100, check=False
    )


def python(code: str, *arguments: str, cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, "-c", code, *arguments, cwd=cwd, **env)


def lint_imports(cwd: Path) -> subprocess.CompletedProcess[str]:
    # The roots of `cwd` go first on the path, so that a copy is judged and not the installed checkout.
    path = os.pathsep.join(str(cwd / part) for part in PARTS)
    program = str(Path(sys.executable).with_name("lint-imports"))
    return run(program, "--no-cache", cwd=cwd, PYTHONPATH=path)


# ------------------------------------------------------------------------------------------- namespace


def test_namespace_has_no_init() -> None:
    wrong = [str(p.relative_to(ROOT)) for part in PARTS for p in (ROOT / part / "dls").glob("__init__.py*")]
    assert not wrong, f"{wrong}: a file dls/__init__.py hides the four other parts of the namespace"


def test_every_part_is_a_typed_package() -> None:
    for part in PARTS:
        assert sorted(p.name for p in (ROOT / part / "dls").iterdir() if p.name != "__pycache__") == [part]
        for name in ("__init__.py", "py.typed"):
            assert (ROOT / part / "dls" / part / name).is_file(), f"dls.{part} has no {name}"


def test_packages_have_an_init() -> None:
    """A folder of modules without __init__.py escapes the import contract."""
    folders = {m.path.parent for m in sources()}
    assert not [str(f.relative_to(ROOT)) for f in folders if not (f / "__init__.py").is_file()]


# ---------------------------------------------------------------------------------------------- layers


def test_import_contract_holds() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


PLANTED = {
    "upward": ("logistics", "import dls.madpp", "Layers"),
    "upward from a deep module": ("madpp", "import dls.cli", "Layers"),
    "siblings": ("catalogue", "import dls.fuse", "Layers"),
    "siblings, the other way": ("fuse", "import dls.catalogue", "Layers"),
    "machinery in the catalogue": ("catalogue", "import dls.logistics.stores", "only words"),
    "machinery by from-import": ("catalogue", "from dls.logistics import stores", "only words"),
    "boto3 in the catalogue": ("catalogue", "import boto3", "S3 libraries"),
    "obstore outside the stores": ("logistics", "import obstore", "S3 libraries"),
    "sqlite3 in the cli": ("cli", "import sqlite3", "sqlite3 lives"),
    "psycopg beside the state": ("logistics", "def f():\n    import psycopg", "psycopg lives"),
    "blake3 in madpp": ("madpp", "from blake3 import blake3", "blake3 lives"),
    "yaml in the cli": ("cli", "import yaml", "yaml lives"),
    "click in madpp, inside a function": ("madpp", "def f():\n    import click", "click lives"),
}


@pytest.mark.slow
def test_import_contract_catches_planted_violations(tmp_path: Path) -> None:
    """A contract that cannot fail guards nothing: each breach is planted in a copy, and must be named."""
    house = tmp_path / "house"
    for part in PARTS:
        shutil.copytree(ROOT / part, house / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", house)
    clean = lint_imports(house)
    assert clean.returncode == 0, clean.stdout + clean.stderr
    missed = []
    for what, (part, code, contract) in PLANTED.items():
        planted = house / part / "dls" / part / "planted.py"
        planted.write_text(f'"""Planted."""\n{code}\n')
        done = lint_imports(house)
        planted.unlink()
        broken = [line for line in done.stdout.splitlines() if " BROKEN" in line]
        if done.returncode == 0 or not any(contract in line for line in broken):
            missed.append(f"{what}: exit {done.returncode}, broken {broken}")
    assert not missed, missed


def imported(module: Module) -> set[str]:
    """Full names that a module imports; `from a import b` gives `a.b`, which may be a symbol of `a`."""
    found: set[str] = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_foreign_libraries_have_one_home() -> None:
    homes = FOREIGN | FOREIGN_STDLIB
    wrong = []
    for module in sources():
        for target in sorted({name.split(".")[0] for name in imported(module)}):
            if target == "dls" or (target in sys.stdlib_module_names and target not in FOREIGN_STDLIB):
                continue
            if not any(fnmatch.fnmatchcase(module.name, home) for home in homes.get(target, [])):
                wrong.append(f"{module.shown} imports {target}; its home: {homes.get(target, 'none yet, see FOREIGN')}")
    assert not wrong, "\n".join(wrong)


# ------------------------------------------------------------------------------------------- the wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    target = tmp_path_factory.mktemp("wheel")
    done = run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(target))
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = target.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(target / "unpacked")
        return archive


def test_wheel_holds_all_parts_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    names = {n for n in wheel.namelist() if ".dist-info/" not in n}
    assert "dls/__init__.py" not in names
    assert {n for n in names if n.endswith(".py")} == {m.path.relative_to(ROOT / p).as_posix() for m, p in _by_root()}
    assert {f"dls/{part}/py.typed" for part in PARTS} <= names
    assert all(n.startswith("dls/") for n in names)


def _by_root() -> Iterator[tuple[Module, str]]:
    return ((m, m.path.relative_to(ROOT).parts[0]) for m in sources())


def test_wheel_is_pure_python(wheel: zipfile.ZipFile) -> None:
    assert wheel.filename is not None
    assert wheel.filename.endswith("-py3-none-any.whl")
    binary = [n for n in wheel.namelist() if n.endswith((".so", ".pyd", ".dll", ".a", ".c", ".rs"))]
    assert not binary


def test_wheel_can_be_imported_alone(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    """From the unpacked wheel only: without this checkout's .pth, without the current folder."""
    assert wheel.filename is not None
    unpacked = str(Path(wheel.filename).parent / "unpacked")
    code = (
        "import sys, importlib\n"
        "sys.path[:] = [sys.argv[1]] + [p for p in sys.path if not p.startswith(sys.argv[2]) or '/.venv/' in p]\n"
        "for part in sys.argv[3:]:\n"
        "    assert importlib.import_module(f'dls.{part}').__file__.startswith(sys.argv[1]), part\n"
    )
    done = python(code, unpacked, str(ROOT), *PARTS, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


# ------------------------------------------------------------------------------------- modules by shape


def test_modules_say_what_they_own() -> None:
    silent = [m.shown for m in sources() if not (ast.get_docstring(m.tree) or "").strip()]
    assert not silent, f"no docstring: {silent}"
    empty = [m.shown for m in sources() if m.path.stem.strip("_") in EMPTY_NAMES]
    assert not empty, f"a name that says nothing: {empty}"


def test_modules_and_functions_are_short() -> None:
    """A longer module or function is asking to be two things."""
    long = []
    for module in sources():
        lines = module.text.count("\n")
        if lines > MODULE_LINES:
            long.append(f"{module.shown}: {lines} lines, at most {MODULE_LINES}")
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > FUNCTION_LINES:
                    long.append(f"{module.shown}:{node.lineno} {node.name}: {lines} lines, at most {FUNCTION_LINES}")
    assert not long, "\n".join(long)


def test_only_settings_and_credentials_read_the_environment() -> None:
    wrong = []
    for module in sources():
        if module.name in READS_ENVIRONMENT:
            continue
        for node in ast.walk(module.tree):
            name = _dotted(node)
            if name in {"os.environ", "os.environb", "os.getenv", "os.getenvb", "os.putenv", "os.unsetenv"}:
                wrong.append(f"{module.shown}:{node.lineno} {name}")  # type: ignore[attr-defined]
        wrong += [
            f"{module.shown} imports {n}" for n in imported(module) if re.match(r"os\.(environ|getenv|putenv)", n)
        ]
    assert not wrong, wrong


def test_only_render_prints() -> None:
    wrong = []
    for module in sources():
        if module.name in PRINTS:
            continue
        for node in ast.walk(module.tree):
            name = _dotted(node.func) if isinstance(node, ast.Call) else _dotted(node)
            called = isinstance(node, ast.Call) and name in {
                "print",
                "click.echo",
                "click.secho",
                "click.echo_via_pager",
            }
            if called or name in {"sys.stdout", "sys.stderr", "sys.__stdout__", "sys.__stderr__"}:
                wrong.append(f"{module.shown}:{node.lineno} {name}")
        wrong += [
            f"{module.shown} imports {n}" for n in imported(module) if re.match(r"click\.s?echo|sys\.std(out|err)", n)
        ]
    assert not wrong, wrong


def _dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return f"{node.value.id}.{node.attr}"
    return ""


def test_catching_everything_gives_a_reason() -> None:
    """`except Exception` needs a comment that says why, on its line or just around it, or must raise again."""
    wrong = []
    for module in sources():
        for node in ast.walk(module.tree):
            if not isinstance(node, ast.ExceptHandler) or not _catches_all(node.type):
                continue
            if isinstance(node.body[-1], ast.Raise):
                continue
            around = range(node.lineno - 1, node.body[0].lineno + 1)
            said = " ".join(module.comments.get(line, "") for line in around)
            reason = re.sub(r"(noqa|type: ignore|pragma)[^a-z]*([A-Z]+\d+[, ]*)*", "", said)
            if len(re.findall(r"[a-z]{2,}", reason)) < 3:
                wrong.append(f"{module.shown}:{node.lineno}")
    assert not wrong, f"catches everything and does not say why: {wrong}"


def _catches_all(kind: ast.expr | None) -> bool:
    kinds = kind.elts if isinstance(kind, ast.Tuple) else [kind]
    return any(k is None or _dotted(k) in {"Exception", "BaseException"} for k in kinds)


# ------------------------------------------------------------------------------------- rules and tests


def rules() -> dict[str, str]:
    found: dict[str, str] = {}
    for path in sorted((ROOT / "specs").glob("*.md")):
        for rule in RULE.findall(path.read_text(encoding="utf-8")):
            assert rule not in found, f"{rule} stands in {found[rule]} and in {path.name}"
            found[rule] = path.name
    return found


def marks() -> dict[str, set[str]]:
    """Rule id → places of the tests that claim to prove it."""
    found: dict[str, set[str]] = {}
    shipped = [path for part in PARTS for path in (ROOT / part / "dls" / part).glob("**/testing/**/*.py")]
    for path in [*(ROOT / "tests").rglob("*.py"), *shipped]:
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name == "spec":
                for value in node.args:
                    if isinstance(value, ast.Constant) and isinstance(value.value, str):
                        found.setdefault(value.value, set()).add(f"{path.relative_to(ROOT)}:{node.lineno}")
    return found


def test_every_rule_has_a_test() -> None:
    untested = sorted(set(rules()) - set(marks()), key=lambda r: (r.split("-")[0], int(r.split("-")[1])))
    assert not untested, f"rules that no test names: {untested}"


def test_every_mark_names_a_rule() -> None:
    known = rules()
    unknown = {rule: sorted(places) for rule, places in marks().items() if rule not in known}
    assert not unknown, f"marks that name no rule of specs/: {unknown}"


# ------------------------------------------------------------------------------------- import and start


def test_help_starts_light(tmp_path: Path) -> None:
    if not (ROOT / "cli/dls/cli/main.py").is_file():
        pytest.skip("dls.cli.main is not written yet")
    code = (
        "import json, sys\n"
        "sys.argv = ['dls', '--help']\n"
        "try:\n"
        "    from dls.cli.main import main\n"
        "    assert not main()\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        "print('\\n' + json.dumps(sorted(sys.modules)))\n"
    )
    done = python(code, cwd=tmp_path, DLS_HOME=str(tmp_path / "home"))
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert not [name for name in SLOW_TO_IMPORT if name in loaded]
    assert not list(tmp_path.iterdir()), "help leaves nothing behind"


# Runs in a fresh interpreter: imports all that we ship and writes down what that did to the world.
IMPORT_ALL = """
import importlib, json, os, sys, threading
effects, absent = [], []
WATCHED = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.putenv",
           "os.fork", "os.posix_spawn", "os.system", "subprocess.Popen", "socket.connect", "socket.bind",
           "sqlite3.connect", "tempfile.mkdtemp", "tempfile.mkstemp", "signal.pthread_kill"}
def hook(event, args):
    if event == "open" and args[0] != os.devnull:
        writes = isinstance(args[1], str) and set(args[1]) & set("wax+")
        if writes or (args[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            effects.append(f"{name}: open {args[0]!r}")
    elif event in WATCHED:
        effects.append(f"{name}: {event} {args!r}"[:200])
names = sys.argv[1:]
name = ""
before = dict(os.environ)
sys.addaudithook(hook)
for name in names:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "dls").split(".")[0] == "dls":
            raise
        absent.append(f"{name}: {error.name}")   # an extra that is not installed here
        continue
    for public in getattr(module, "__all__", ()):
        assert hasattr(module, public), f"{name}.__all__ names {public}, which is not there"
if dict(os.environ) != before:
    effects.append("the environment changed")
effects += [f"thread {t.name}" for t in threading.enumerate() if t is not threading.main_thread()]
json.dump({"effects": effects, "absent": absent}, sys.stdout)
"""


def test_importing_has_no_effect(tmp_path: Path) -> None:
    names = [m.name for m in sources()]
    env = {k: v for k, v in os.environ.items() if k not in {"HOME", "DLS_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"}}
    done = subprocess.run(
        [sys.executable, "-B", "-c", IMPORT_ALL, *names],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    seen = json.loads(done.stdout)  # so nothing else was printed
    assert not seen["effects"], seen["effects"]
    assert not seen["absent"], f"not importable here, an extra is missing from .venv: {seen['absent']}"
    assert not list(tmp_path.iterdir())
