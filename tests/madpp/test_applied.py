"""Plans that are applied: promises, waiting, twice, in Python."""

from __future__ import annotations

import pickle
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dls.logistics.errors import DlsError, Invalid, NotFound, Unavailable
from dls.madpp import call, dataset, pack, pyfile, release, run, site, stage_in, stage_out, step, verify, wait_for
from dls.madpp import plan as begin
from dls.madpp.action import NotYet
from dls.madpp.actions import BUILT_IN
from dls.madpp.actions.compute import Compute
from dls.madpp.actions.register import Register
from dls.madpp.actions.stage_in import StageIn
from dls.madpp.actions.wait_for import WaitFor, read_time
from dls.madpp.build import FunctionStep
from dls.madpp.document.read import read
from dls.madpp.document.write import write
from dls.madpp.engine import Durable
from dls.madpp.plan import Plan, Step, plan_from, prove
from dls.madpp.previews import previews
from dls.madpp.runs import Run
from dls.madpp.testing.world import World

EVERY = """
dls: 1
name: everything
sites:
  fast: {url: $W/fast, capacity: 1GB, tier: scratch}
datasets:
  climate:era5: {url: $W/era5, title: hourly}
steps:
  other:   {register: climate:other, url: $W/other}
  old:     {withdraw: climate:old, reason: wrong}
  back:    {restore: climate:old, after: old}
  away:    {withdraw: climate:older, reason: wrong}
  tape:    {site: tape, url: $W/tape}
  fetch:   {stage-in: climate:era5, to: fast, lifetime: P7D}
  addr:    {stage-in: $W/loose, to: fast}
  compute:
    run: [sh, -c, 'date +%N >> $W/ran; cat {in}/* > sum']
    in: climate:era5
    out: climate:sum
    at: fast
    after: fetch
  keep:    {stage-out: climate:sum, to: archive, after: compute}
  save:    {stage-out: $W/loose, to: tape, as: climate:loose, after: tape}
  image:   {pack: climate:era5, to: $W/era5.sqfs, level: 5, replace: true}
  whole:   {stage-in: climate:era5, to: fast, as-image: true, after: image}
  loose:   {pack: $W/loose, to: $W/loose.sqfs, as: climate:packed}
  check:   {verify: climate:sum, at: archive, deep: true, after: keep}
  wait:    {wait-for: climate:sum@1, until: 2099-12-31T00:00:00Z, after: keep}
  free:    {release: fetch, after: compute}
  free2:   {release: compute, after: check}
"""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "w")
    for name in ("era5", "other", "loose", "old", "older"):
        made.write(name, {"a": name.encode(), "b": b"2" * 5000})
    for name in ("old", "older"):
        made.take(Register(f"climate:{name}", name))
    yield made
    made.close()


def document(world: World, text: str = EVERY) -> Plan:
    reading = read(text.replace("$W", str(world.folder)).encode())
    assert reading.plan is not None, reading.shown("plan.yaml")
    return reading.plan


def apply(world: World, plan: Plan, **how: Any) -> Run:
    return Durable(world.runs).submit(plan, replace(world.context, **how))


# ------------------------------------------------------------------------------------------- PLAN-11


@pytest.mark.spec("PLAN-11")
def test_applying_twice_changes_nothing(world: World) -> None:
    plan = document(world)
    assert {one.action.name for one in plan.steps} == set(BUILT_IN)
    first = apply(world, plan)
    before = world.state(lineage=False)
    assert before["climate:sum"][1]
    ran = (world.folder / "ran").read_text()
    files = world.tree(str(world.folder / "fast")) | world.tree(str(world.folder / "tape"))
    world.trip.arm()
    second = apply(world, plan)
    assert world.state(lineage=False) == before
    assert (world.folder / "ran").read_text() == ran, "the command ran again"
    assert world.tree(str(world.folder / "fast")) | world.tree(str(world.folder / "tape")) == files
    assert second.id != first.id
    assert {name for name, facts in second.results.items() if "skipped" in facts} == {"fetch", "compute"}
    assert not [name for name, facts in second.results.items() if facts.get("copied")]


@pytest.mark.spec("PLAN-11")
def test_what_changed_is_done_again(world: World) -> None:
    """The skipping can be wrong in the other direction too."""
    plan = document(world)
    apply(world, plan)
    ran = (world.folder / "ran").read_text()
    world.write("era5", {"c": b"new"})
    results = apply(world, plan).results
    assert results["register:climate:era5"]["dataset"] == "climate:era5@2"
    assert "skipped" not in results["fetch"]
    assert results["compute"]["dataset"] == "climate:sum@2"
    assert len((world.folder / "ran").read_text().split()) == 2 * len(ran.split()) == 2
    assert results["keep"]["dataset"] == "climate:sum@2"


def test_another_command_or_once_false_runs_again(world: World) -> None:
    world.take(Register("x:in", "era5"))
    words = ("sh", "-c", f"echo >> {world.folder}/ran; echo fixed > out")
    make = Compute(words, "scratch", ("x:in",), "x:out", once=True)
    for action, count in [(make, 1), (make, 1), (replace(make, once=False), 2), (make, 2)]:
        world.take(action)
        assert len((world.folder / "ran").read_text().split("\n")) - 1 == count
    world.take(replace(make, command=(*words, "more")))
    assert len((world.folder / "ran").read_text().split("\n")) - 1 == 3


# -------------------------------------------------------------------------------------- PLAN-9, PLAN-10


@pytest.mark.spec("PLAN-9")
def test_what_an_earlier_step_makes_is_no_problem(world: World) -> None:
    plan = document(world)
    before = world.dump()
    assert prove(plan, world.context) == []
    assert world.dump() == before
    lonely = tuple(replace(one, after=()) for one in plan.steps)
    codes = {(p.step, p.error.code) for p in prove(Plan(lonely), world.context)}
    assert {("fetch", "no-dataset"), ("fetch", "unknown-site"), ("keep", "no-dataset")} <= codes


@pytest.mark.spec("PLAN-9")
def test_a_problem_names_line_and_column(world: World) -> None:
    plan = document(world, "dls: 1\nsteps:\n  a: {verify: no:thing}\n  b: {stage-in: x:y, to: nowhere, after: a}\n")
    found = prove(plan, world.context)
    assert [(p.step, p.line, p.column, p.error.code) for p in found] == [
        ("a", 3, 3, "no-dataset"),
        ("b", 4, 3, "unknown-site"),
        ("b", 4, 3, "no-dataset"),
    ]
    assert found[0].to_json()["column"] == 3


@pytest.mark.spec("PLAN-9")
def test_a_promise_that_is_not_kept_is_found_when_its_turn_comes(world: World) -> None:
    """The command writes nothing that is registered under the name which the next step takes for granted."""
    world.take(Register("x:in", "era5"))
    steps = (
        Step("wait", WaitFor("x:in")),
        Step("a", StageIn("x:in@7", "scratch"), ("wait",)),
    )
    assert prove(Plan(steps), world.context) == []
    with pytest.raises(NotFound) as told:
        apply(world, Plan(steps))
    assert told.value.code == "no-version"
    assert world.runs.list()[0].results.keys() == {"wait"}


@pytest.mark.spec("PLAN-10")
def test_show_tells_what_each_step_would_change(world: World) -> None:
    plan = document(world)
    before = world.dump()
    rows = {row["step"]: row for row in previews(plan, world.context)}
    assert world.dump() == before
    assert [*rows] == [one.name for one in plan.order()]
    assert (rows["register:climate:era5"]["state"], rows["register:climate:era5"]["files"]) == ("todo", 2)
    assert rows["register:climate:era5"]["bytes"] == 5004
    assert (rows["fetch"]["state"], rows["fetch"]["until"]) == ("later", "register:climate:era5")
    assert (rows["keep"]["state"], rows["keep"]["until"]) == ("later", "compute")
    apply(world, plan)
    before = world.dump()
    rows = {row["step"]: row for row in previews(plan, world.context)}
    assert world.dump() == before
    assert {name for name, row in rows.items() if row["state"] == "done"} == {"fetch", "compute"}
    assert rows["keep"]["eta"]
    assert {row["state"] for row in rows.values()} == {"todo", "done"}


@pytest.mark.spec("PLAN-10")
def test_show_tells_what_is_wrong(world: World) -> None:
    (row,) = previews(document(world, "dls: 1\nsteps:\n  a: {verify: no:thing}\n"), world.context)
    assert (row["state"], row["code"], row["line"]) == ("wrong", "no-dataset", 3)


# ------------------------------------------------------------------------------------------- PLAN-12


@pytest.mark.spec("PLAN-12")
def test_a_wait_ends_when_the_version_is_there(world: World) -> None:
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        world.clock.advance(seconds)
        world.write("era5", {f"new{len(slept)}": b"x"})
        if len(slept) > 1:
            world.take(Register("x:obs", "era5"))

    done = Durable(world.runs, sleep).submit(Plan((Step("w", WaitFor("x:obs@2")),)), world.context)
    assert done.results == {"w": {"dataset": "x:obs@2"}}
    assert len(slept) == 3
    assert [facts["text"] for kind, facts in world.told if kind == "note"] == ["w waits for x:obs@2"]


@pytest.mark.spec("PLAN-12")
def test_a_wait_past_its_time_fails(world: World) -> None:
    now = world.clock()
    until = "2033-05-18T03:34:30Z"
    left = (read_time(until) - now) / 1e9
    assert 60 < left < 70
    action = WaitFor("x:obs", until)
    assert action.check(world.context) == []
    with pytest.raises(NotYet) as asked:
        action.run(world.context)
    assert (asked.value.what, asked.value.until_ns) == ("x:obs", read_time(until))
    assert asked.value.look_again_s == 30
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        world.clock.advance(seconds)

    with pytest.raises(Unavailable) as told:
        Durable(world.runs, sleep).submit(Plan((Step("w", action),)), world.context)
    assert told.value.code == "not-in-time"
    assert sum(slept) == pytest.approx(left, abs=1)
    assert world.runs.list()[0].error["code"] == "not-in-time"
    assert [e.code for e in action.check(world.context)] == ["not-in-time"]


def test_ctrl_c_ends_a_wait(world: World) -> None:
    def sleep(seconds: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Durable(world.runs, sleep).submit(Plan((Step("w", WaitFor("x:obs")),)), world.context)
    assert world.runs.list()[0].error["code"] == "interrupted"


@pytest.mark.parametrize("text", ["", "soon", "2036-12-31", "2036-12-31T00:00:00", "2036-13-01T00:00:00Z"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(Invalid) as told:
        read_time(text)
    assert told.value.code == "bad-time"


def test_times() -> None:
    assert read_time("1970-01-01T00:00:01Z") == 10**9
    assert read_time("1970-01-01T02:00:01+02:00") == 10**9


# ------------------------------------------------------------------------------------------- PLAN-13


@pytest.mark.spec("PLAN-13")
def test_a_plan_in_python_is_the_plan_of_the_document(world: World) -> None:
    here = world.folder
    with begin("yearly") as p:
        fast = site("fast", f"{here}/fast", capacity="1GB")
        era5 = dataset("climate:era5", f"{here}/era5")
        fetched = stage_in(era5, fast, "P7D", name="fetch")
        made = run(["sh", "-c", "cat {in}/* > sum"], fetched, out="climate:sum", at=fast, name="compute")
        kept = stage_out(made, "archive", name="keep")
        looked = verify(kept, at="archive", deep=True, name="check")
        release(fetched, name="free", after=made)
        wait_for("climate:sum@1", name="wait", after=looked)
        image = pack(fetched, f"{here}/era5.sqfs", level=5, replace=True, name="image")
        whole = stage_in(image, fast, as_image=True, name="whole")
        release(whole, name="give")
    text = f"""
dls: 1
name: yearly
sites:
  fast: {{url: {here}/fast, capacity: 1GB}}
datasets:
  climate:era5: {here}/era5
steps:
  fetch:   {{stage-in: climate:era5, to: fast, lifetime: P7D}}
  compute: {{run: [sh, -c, 'cat {{in}}/* > sum'], in: climate:era5, out: climate:sum, at: fast, after: fetch}}
  keep:    {{stage-out: climate:sum, to: archive, after: compute}}
  check:   {{verify: climate:sum, at: archive, deep: true, after: keep}}
  free:    {{release: fetch, after: compute}}
  wait:    {{wait-for: climate:sum@1, after: check}}
  image:   {{pack: climate:era5, to: {here}/era5.sqfs, level: 5, replace: true, after: fetch}}
  whole:   {{stage-in: climate:era5, to: fast, as-image: true, after: image}}
  give:    {{release: whole}}
"""
    written = document(world, text)
    same = [(s.name, s.action, set(s.after)) for s in written.steps]
    assert [(s.name, s.action, set(s.after)) for s in p.plan.steps] == same
    assert read(write(p.plan).encode()).plan == p.plan
    assert plan_from(p.plan.to_json()) == p.plan
    results = apply(world, p.plan).results
    assert results["keep"]["dataset"] == "climate:sum@1"
    assert [one.line for one in p.plan.steps] == sorted(one.line for one in p.plan.steps)
    assert p.plan.steps[0].line > 100


def test_steps_outside_of_a_plan_and_twice_named_are_refused() -> None:
    with pytest.raises(Invalid) as told:
        stage_in("x:y", "scratch")
    assert told.value.code == "no-open-plan"
    with begin() as p:
        verify("x:y", name="a")
        with pytest.raises(Invalid, match="two steps are named a"):
            verify("x:y", name="a")
    assert [one.name for one in p.plan.steps] == ["a"]
    with begin() as p:
        verify("x:y")
        verify("x:z")
    assert [one.name for one in p.plan.steps] == ["verify", "verify-2"]


FILE = """
from dls.madpp import dataset, plan, release, stage_in, stage_out, step

@step("climate:era5", out="climate:mean", at="scratch")
def mean(era5, out):
    print("reading", sorted(p.name for p in era5.iterdir()))
    (out / "mean").write_bytes(b"".join(sorted(p.read_bytes() for p in era5.iterdir())))

with plan("mean") as p:
    print("made here")
    era5 = dataset("climate:era5", "era5")
    made = mean(stage_in(era5, "scratch", name="fetch"))
    stage_out(made, "archive", name="keep")
"""


def file(world: World, text: str = FILE) -> Path:
    path = world.folder / "plan.py"
    path.write_text(textwrap.dedent(text))
    return path


@pytest.mark.spec("PLAN-13")
def test_a_file_with_a_function_is_applied(world: World) -> None:
    with world.listening() as told:
        plan = pyfile.load(world.context, file(world))
    assert [facts["text"] for kind, facts in told if kind == "line"] == ["made here"]
    assert [(one.name, one.line) for one in plan.steps] == [
        ("register:climate:era5", 11),
        ("fetch", 12),
        ("mean", 12),
        ("keep", 13),
    ]
    assert read(write(plan).encode()).plan == plan
    with world.listening() as told:
        results = apply(world, plan).results
    assert "reading ['a', 'b']" in [facts["text"] for kind, facts in told if kind == "line"]
    (path,) = (world.folder / "archive").rglob("mean/v1/mean")
    assert path.read_bytes() == b"2" * 5000 + b"era5"
    assert results["mean"]["files"] == 1
    assert "skipped" in apply(world, plan).results["mean"]


@pytest.mark.spec("PLAN-13")
@pytest.mark.parametrize(
    ("text", "said", "line"),
    [
        ("x = 1\n", "makes 0 plans", 0),
        ("from dls.madpp import plan\na = plan()\nb = plan()\n", "makes 2 plans", 0),
        ("\nimport no_such_module\n", "ModuleNotFoundError", 2),
        ("a = (\n", "SyntaxError", 1),
        ("from dls.madpp import verify\n\nverify('x:y')\n", "no plan is open", 3),
        ("import sys\nsys.exit(7)\n", "exit status 7", 0),
        ("import os\nos._exit(3)\n", "exit status 3", 0),
        ("from dls.madpp import plan, verify\nwith plan() as p:\n  verify('x:y', after='z')\n", "not a step", 0),
    ],
)
def test_a_file_without_a_plan_is_told_with_its_line(world: World, text: str, said: str, line: int) -> None:
    with pytest.raises(Invalid, match=said) as told:
        pyfile.load(world.context, file(world, text))
    assert told.value.code == "bad-plan-file"
    assert told.value.facts["line"] == line
    assert told.value.remedy


# ------------------------------------------------------------------------------------------- PLAN-14


@pytest.mark.spec("PLAN-14")
def test_a_file_that_has_changed_is_refused_by_the_job(world: World) -> None:
    path = file(world)
    plan = pyfile.load(world.context, path)
    assert FILE.split("\n")[6].strip() not in str(plan.to_json()), "code is kept"
    path.write_text(path.read_text() + "\n# changed\n")
    with world.listening() as told, pytest.raises(Unavailable) as failed:
        apply(world, plan)
    assert failed.value.code == "command-failed"
    lines = [facts["text"] for kind, facts in told if kind == "line"]
    assert len(lines) == 1
    assert "has changed since the plan was made" in lines[0]
    path.unlink()
    with pytest.raises(Unavailable):
        apply(world, plan)


@pytest.mark.spec("PLAN-14")
def test_a_function_without_a_file_is_refused() -> None:
    def inner(out: Path) -> None: ...

    names: dict[str, Any] = {}
    exec(compile("def typed(out): ...", "<notebook>", "exec"), names)
    for function in (inner, lambda out: None, names["typed"], len):
        with begin(), pytest.raises(Invalid) as told:
            step(at="scratch")(function)()
        assert told.value.code == "not-a-file-function"
    made = step(at="scratch")(inner)
    assert isinstance(made, FunctionStep)
    assert made.function is inner


@pytest.mark.spec("PLAN-14")
def test_a_planted_pickle_is_refused(world: World) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (world.folder / "exploded",))

    planted = pickle.dumps(Bomb())
    for data in (planted, b"!!python/object/apply:os.system [touch x]"):
        assert read(data).faults
    world.take(Register("x:in", "era5"))
    id = world.runs.list()[0].id
    for value in (planted, planted.hex(), "{}"):
        with world.database.transaction() as tx:
            tx.run("UPDATE runs SET plan = ? WHERE id = ?", (value, id))
        try:
            plan_from(world.runs.get(id).plan)
        except (DlsError, ValueError, TypeError):
            pass
        else:
            pytest.fail("a planted plan was taken")
    assert not (world.folder / "exploded").exists()
    with pytest.raises(Invalid):
        plan_from({"steps": [{"name": "a", "action": "os:system", "with": {"command": "touch x"}}]})


def test_no_module_of_ours_can_unpickle() -> None:
    root = Path(sys.modules["dls.madpp.build"].__file__ or "").parents[3]
    texts = [p.read_text() for part in ("logistics", "catalogue", "madpp", "cli") for p in (root / part).rglob("*.py")]
    assert len(texts) > 100
    assert not [t for t in texts if "import pickle" in t or "import marshal" in t or "import shelve" in t]


def test_the_job_of_a_function_says_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "f.py"
    path.write_text("x = 1\n")
    with pytest.raises(SystemExit, match="has changed"):
        call.main([str(path), "f", "blake3:" + "0" * 64, str(tmp_path)])
    with pytest.raises(SystemExit, match="cannot read"):
        call.main([str(tmp_path / "gone.py"), "f", "", str(tmp_path)])
