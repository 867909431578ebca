"""Plans: what is refused, in which order, through JSON and back."""

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dls.logistics.errors import Invalid
from dls.madpp.actions import BUILT_IN
from dls.madpp.actions.compute import Compute
from dls.madpp.actions.pack import Pack
from dls.madpp.actions.register import Register
from dls.madpp.actions.release import Release
from dls.madpp.actions.site import Site
from dls.madpp.actions.stage_in import StageIn
from dls.madpp.actions.stage_out import StageOut
from dls.madpp.actions.verify import Verify
from dls.madpp.actions.wait_for import WaitFor
from dls.madpp.actions.withdraw import Restore, Withdraw
from dls.madpp.plan import Plan, Step, action_from, asked, gravest, plan_from, prove, single
from dls.madpp.testing.world import World

ONE = Release("x")
ALL = (
    Register("x:data", "/src", "A title", "ä note"),
    StageIn("x:data@2", "scratch", "P1D"),
    StageOut("./a b\n", "s3://b/c", "x:out"),
    Pack("x:data", "/archive/i.sqfs", "x:out", "0:0", "all", 7, replace=True, form="erofs"),
    Verify("x:data", "scratch", deep=True),
    Compute(("sh", "-c", "cat {in}"), "scratch", ("x:a", "x:b"), "x:out", "PT5M"),
    Release("01J0000000000000000000000R"),
    Site("scratch", "/scratch", "10GB", 5, "scratch", "P1D", 512),
    WaitFor("x:data@3", "2036-12-31T00:00:00Z"),
    Withdraw("x:data", "wrong"),
    Restore("x:data"),
)


def steps(*given: tuple[str, Sequence[str]]) -> Plan:
    return Plan(tuple(Step(name, ONE, tuple(after)) for name, after in given), "p")


# ------------------------------------------------------------------------------------------- PLAN-1


@pytest.mark.spec("PLAN-1")
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([("a", ()), ("b", ()), ("a", ())], "two steps are named a"),
        ([("a", ("nobody",))], "waits for nobody"),
        ([("a", ("a",))], "a → a"),
        ([("free", ()), ("after", ("c",)), ("a", ("free", "c")), ("b", ("a",)), ("c", ("b",))], "c → b → a → c"),
    ],
)
def test_plans_that_cannot_be_taken_are_refused(given: list[tuple[str, Sequence[str]]], said: str) -> None:
    with pytest.raises(Invalid, match=said) as told:
        steps(*given)
    assert told.value.code == "bad-plan"


# ------------------------------------------------------------------------------------------- PLAN-2


@st.composite
def graphs(draw: st.DrawFn) -> list[tuple[str, list[str]]]:
    """Acyclic graphs, written in any order."""
    count = draw(st.integers(1, 12))
    made: list[tuple[str, list[str]]] = []
    for i in range(count):
        earlier = [name for name, _ in made]
        made.append((f"s{i}", draw(st.lists(st.sampled_from(earlier), max_size=3)) if earlier else []))
    return draw(st.permutations(made))


def naive(given: list[tuple[str, list[str]]]) -> list[str]:
    """The definition, word for word: always the first as written whose others are done."""
    done: list[str] = []
    while len(done) < len(given):
        done.append(next(name for name, after in given if name not in done and set(after) <= set(done)))
    return done


@pytest.mark.spec("PLAN-2")
@given(graphs())
def test_the_order_is_that_of_writing_but_for_waiting(given: list[tuple[str, list[str]]]) -> None:
    plan = steps(*given)
    assert [one.name for one in plan.order()] == naive(given)
    assert list(plan.order()) == list(plan.order())


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.lists(st.sampled_from("abcdef"), max_size=3)), max_size=6))
def test_any_graph_is_ordered_or_refused(given: list[tuple[str, list[str]]]) -> None:
    try:
        plan = steps(*given)
    except Invalid:
        return
    seen: set[str] = set()
    for one in plan.order():
        assert seen.issuperset(one.after)
        seen.add(one.name)
    assert len(seen) == len(given)


def test_a_long_plan_is_ordered_quickly() -> None:
    count = 20_000
    plan = steps(*((f"s{i}", (f"s{i + 1}",) if i + 1 < count else ()) for i in range(count)))
    assert next(plan.order()).name == f"s{count - 1}"


# ------------------------------------------------------------------------------------------- PLAN-3


@pytest.mark.spec("PLAN-3")
@pytest.mark.parametrize("action", ALL, ids=lambda a: a.name)
def test_actions_go_through_json(action: Any) -> None:
    assert action_from(action.name, json.loads(json.dumps(asked(action)))) == action


def test_every_verb_is_tried() -> None:
    assert {one.name for one in ALL} == set(BUILT_IN)


@pytest.mark.spec("PLAN-3")
@given(st.permutations(ALL), st.text(max_size=10))
def test_plans_go_through_json(actions: list[Any], name: str) -> None:
    made: list[Step] = []
    for n, action in enumerate(actions):
        made.append(Step(f"step {n}", action, tuple(s.name for s in made[-2:])))
    plan = Plan(tuple(made), name)
    assert plan_from(json.loads(json.dumps(plan.to_json()))) == plan


@pytest.mark.spec("PLAN-3")
@pytest.mark.parametrize(
    ("verb", "fields", "said"),
    [
        ("os.system", {}, "no such action: os.system"),
        ("release", {"buffer": "x", "force": True}, "no field force"),
        ("release", {}, "needs the field buffer"),
        ("release", {"buffer": 3}, "buffer is not of type str"),
        ("verify", {"dataset": "x:y", "deep": "yes"}, "deep is not of type bool"),
        ("verify", {"dataset": "x:y", "deep": 1}, "deep is not of type bool"),
        ("compute", {"command": "ls -l", "at": "x"}, "command is not of type"),
        ("compute", {"command": ["ls", 1], "at": "x"}, "command is not of type"),
        ("compute", {"command": None, "at": "x"}, "command is not of type"),
    ],
)
def test_what_is_no_action_is_refused_by_name(verb: str, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(Invalid, match=said) as told:
        action_from(verb, fields)
    assert told.value.code == "bad-plan"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "action", "with", "after", "x"]), inner, max_size=4)
    ),
    max_leaves=8,
)


@pytest.mark.spec("PLAN-3")
@given(JSON, JSON)
def test_anything_else_is_refused(data: Any, name: Any) -> None:
    for document in ({"steps": data, "name": name}, {"steps": [data]}):
        with suppress(Invalid):
            assert plan_from(document).steps == ()


# ------------------------------------------------------------------------------------------- PLAN-4


@pytest.mark.spec("PLAN-4")
def test_a_proof_tells_all_problems_with_their_lines(tmp_path: Path) -> None:
    world = World(tmp_path / "w")
    plan = Plan(
        (
            Step("second", StageIn("x:none", "nosite", "soon"), ("first",), line=9),
            Step("first", Verify("x:none", "nosite"), line=3),
        )
    )
    before = world.dump()
    found = prove(plan, world.context)
    assert [(p.step, p.line) for p in found] == [("first", 3)] * 2 + [("second", 9)] * 3
    assert world.dump() == before
    worst = gravest(found)
    assert worst is not None
    assert worst.code == "bad-duration"
    assert found[0].to_json()["line"] == 3
    assert gravest(prove(single(Register("x:a", str(tmp_path))), world.context)) is None
    world.close()


@pytest.mark.spec("PLAN-9")
def test_what_an_earlier_step_makes_may_be_absent(tmp_path: Path) -> None:
    world = World(tmp_path / "w")
    at = world.write("data", {"a": b"1"})
    add, fetch = Step("add", Register("t:x", at)), StageIn("t:x", "scratch")
    assert [p.error.code for p in prove(Plan((add, Step("fetch", fetch))), world.context)] == ["no-dataset"]
    plan = Plan((add, Step("mid", StageIn(at, "scratch"), ("add",)), Step("fetch", fetch, ("mid",))))
    assert prove(plan, world.context) == []
    wrong = Plan((add, Step("fetch", StageIn("t:x", "nowhere"), ("add",))))
    assert [p.error.code for p in prove(wrong, world.context)] == ["unknown-site"]
    world.close()
