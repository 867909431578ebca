"""Plan documents: every fault with its place, nothing lost on the way, and nothing that ends without a word.

python tests/madpp/test_document.py      writes tests/golden/plans/*.txt and specs/plan.schema.json anew
"""

from __future__ import annotations

import json
import re
import string
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import example, given
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
from dls.madpp.document import schema as schemas
from dls.madpp.document.model import KINDS, SECTIONS
from dls.madpp.document.read import read
from dls.madpp.document.text import DEPTH, LARGEST, SHOWN
from dls.madpp.document.write import write
from dls.madpp.plan import Plan, Step

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "plans"
SPEC = (ROOT / "specs" / "plan.md").read_text(encoding="utf-8")
BROKEN = sorted(path.stem for path in GOLDEN.glob("*.yaml"))
# Faults that are about the meaning of a word, or about other steps: a schema does not know them.
BEYOND_SCHEMA = {
    *(
        "part-of-a-dataset",
        "after-itself",
        "after-nobody",
        "bad-input-among-good",
        "bad-size",
        "circle",
        "loose-duration",
        "months",
    ),
    *("lifetime-of-nothing", "release-dataset-nowhere", "release-nobody", "release-what-makes-none", "secret-in-url"),
    *("bad-site-name", "dataset-without-scope", "step-name-too-long", "time-without-zone"),
}


def said(name: str) -> str:
    reading = read((GOLDEN / f"{name}.yaml").read_bytes())
    return "\n".join(reading.shown(f"{name}.yaml")) + "\n"


# ------------------------------------------------------------------------------------------- PLAN-5


@pytest.mark.spec("PLAN-5")
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plan_tells_its_faults_as_golden(name: str) -> None:
    assert (GOLDEN / f"{name}.txt").read_text() == said(name), "python tests/madpp/test_document.py writes them anew"


@pytest.mark.spec("PLAN-5")
@pytest.mark.parametrize("name", BROKEN)
def test_each_fault_has_a_place_in_the_file_and_a_remedy(name: str) -> None:
    data = (GOLDEN / f"{name}.yaml").read_bytes()
    reading = read(data)
    lines = data.decode("latin-1").split("\n")
    assert reading.plan is None
    assert reading.faults
    assert len(reading.faults) <= SHOWN
    assert [(f.line, f.column) for f in reading.faults] == sorted((f.line, f.column) for f in reading.faults)
    for fault in reading.faults:
        assert 1 <= fault.line <= len(lines)
        assert 1 <= fault.column <= len(lines[fault.line - 1]) + 1
        assert fault.message
        assert fault.remedy, fault
        assert "hunter2" not in fault.message + fault.remedy


def test_there_are_many_broken_plans_and_no_golden_is_left_over() -> None:
    assert len(BROKEN) >= 40
    assert {p.stem for p in GOLDEN.glob("*.txt")} == set(BROKEN)


@pytest.mark.spec("PLAN-5")
def test_all_faults_are_told_at_once() -> None:
    told = said("many-at-once")
    for word in (
        "dls: 1",
        "did you mean name?",
        "did you mean to?",
        "P7D",
        "[make]",
        "no step is named z",
        "10 apples",
    ):
        assert word in told, told
    assert "hunter2" not in said("secret-in-url")
    assert "and 10 more" in said("over-fifty")


# ------------------------------------------------------------------------------------------- PLAN-6

words = st.text(st.sampled_from(string.ascii_letters + string.digits + ":-.,{}[]&*!|>'\"%@`#~?<= \n\té"), max_size=40)


@pytest.mark.spec("PLAN-5", "PLAN-6")
@given(st.binary(max_size=80) | words.map(str.encode))
@example(b"\xff\xfe")
@example(b"--- ---")
@example(b"? ? ?")
@example(b"dls: 1\nsteps: {a: {run: [], after: []}}")
@example("dls: 1\nname: \ud800".encode("utf-8", "surrogatepass"))
def test_any_bytes_are_a_plan_or_faults(data: bytes) -> None:
    reading = read(data)
    assert (reading.plan is None) == bool(reading.faults)
    reading.shown("f")


texts = st.text(max_size=12) | st.sampled_from([k.word for k in KINDS] + [f.word for k in KINDS for f in k.fields])
trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=5),
    max_leaves=20,
)


@pytest.mark.spec("PLAN-5", "PLAN-6")
@given(trees, st.booleans())
def test_any_yaml_is_a_plan_or_faults(tree: Any, flow: bool) -> None:
    for wrapped in (tree, {"dls": 1, "steps": tree}, {"dls": 1, "steps": {"a": tree}}, {"dls": 1, "sites": tree}):
        text = yaml.safe_dump(wrapped, default_flow_style=flow, allow_unicode=True)
        reading = read(text.encode("utf-8", "surrogatepass"))
        assert (reading.plan is None) == bool(reading.faults), text


class Counting(bytes):
    """Bytes that nobody may decode."""

    def decode(self, *_: Any) -> str:  # type: ignore[override]
        raise AssertionError("it was read")


@pytest.mark.spec("PLAN-6")
def test_a_large_document_is_refused_unread() -> None:
    reading = read(Counting(b"dls: 1\n" * 1_500_000))
    assert [f.message for f in reading.faults] == [f"a plan has at most {LARGEST:,} bytes"]


@pytest.mark.spec("PLAN-6")
@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? "])
def test_deep_nesting_stops_at_its_depth(opening: str) -> None:
    """What lies behind is not read: a million brackets would exhaust any stack."""
    text = opening * (LARGEST // len(opening) - 10)
    (fault,) = read(text.encode()).faults
    assert f"deeper than {DEPTH}" in fault.message
    assert fault.column + fault.line < 400


@pytest.mark.spec("PLAN-6")
def test_an_anchor_bomb_is_told_and_not_unfolded() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30)]
    reading = read("\n".join(lines).encode())
    assert len(reading.faults) == SHOWN
    assert reading.more > 100


@pytest.mark.spec("PLAN-6")
@pytest.mark.parametrize(
    "text",
    [
        lambda n: "dls: 1\nsteps:\n" + "".join(f" s{i}: {{verify: a:b{i}}}\n" for i in range(n // 25)),
        lambda n: "dls: 1\nname: '" + "x" * n,
        lambda n: "dls: 1\nsteps: {" + "a, " * (n // 3),
        lambda n: "x" * n,
        lambda n: "dls: 1\nsteps:\n" + "".join(f" s{i}: {{verify: a:b, after: t{i}}}\n" for i in range(n // 40)),
    ],
)
def test_a_full_megabyte_ends(text: Callable[[int], str]) -> None:
    """Within the time limit of a test; a quadratic reader would take hours."""
    reading = read(text(LARGEST - 100).encode())
    assert reading.plan is not None or reading.faults


def test_both_parsers_refuse_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = {name: read((GOLDEN / f"{name}.yaml").read_bytes()) for name in BROKEN}
    monkeypatch.delattr(yaml, "CSafeLoader")
    for name in BROKEN:
        slow = read((GOLDEN / f"{name}.yaml").read_bytes())
        assert slow.faults, name
        assert slow.faults[0].line <= fast[name].faults[0].line + 1, name


# ------------------------------------------------------------------------------------------- PLAN-7

ids = st.from_regex(r"[a-z][a-z0-9._-]{0,5}:[A-Za-z0-9][A-Za-z0-9._+-]{0,6}", fullmatch=True)
versions = st.builds(lambda id, n: f"{id}@{n}" if n else id, ids, st.integers(0, 12))
sites = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,6}", fullmatch=True)
free = st.text(st.characters(blacklist_categories=("Cs",)), max_size=12)
line = st.text(st.characters(blacklist_categories=("Cs", "Cc", "Zl", "Zp")), min_size=1, max_size=12)
paths = line.map(lambda t: "/" + t)
lifetimes = st.sampled_from(["", "P7D", "PT12H"])
whats = versions | paths
ACTIONS: dict[str, st.SearchStrategy[Any]] = {
    "stage-in": st.builds(StageIn, whats, sites, lifetimes, st.booleans()),
    "pack": st.builds(
        Pack,
        whats,
        paths,
        st.just("") | ids,
        st.sampled_from(["", "0:0"]),
        st.sampled_from(["user", "all", "none"]),
        st.integers(1, 19),
        st.booleans(),
        st.sampled_from(["squashfs", "erofs"]),
    ),
    "stage-out": st.builds(StageOut, whats, sites | paths, st.just("") | ids),
    "verify": st.builds(Verify, versions, st.just("") | sites, st.booleans()),
    "release": st.builds(Release, ids, sites, st.booleans()) | st.builds(Release, paths),
    "wait-for": st.builds(WaitFor, versions, st.sampled_from(["", "2036-12-31T00:00:00Z"])),
    "register": st.builds(Register, ids, paths, free, free, st.booleans()),
    "site": st.builds(
        Site,
        sites,
        paths,
        st.sampled_from(["", "10GB", "4096"]),
        st.integers(-1, 10**9),
        st.sampled_from(["", "tape"]),
        lifetimes,
        st.sampled_from([0, 512]),
    ),
    "compute": st.builds(
        Compute,
        st.lists(free, min_size=1, max_size=4).map(tuple),
        sites,
        st.lists(whats, max_size=3).map(tuple),
        st.just("") | ids,
        lifetimes,
        st.booleans(),
    ),
    "withdraw": st.builds(Withdraw, ids, free),
    "restore": st.builds(Restore, ids),
}


def named(action: Any, number: int) -> str:
    """A name for a step, sometimes that of a section's entry."""
    if action.name == "site":
        return f"site:{action.site}"
    if action.name == "register":
        return f"register:{action.dataset}"
    return ["a", "true", "1", "x y", "é: {"][number % 5] + str(number)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    steps: list[Step] = []
    for number, action in enumerate(draw(st.lists(st.one_of(*ACTIONS.values()), max_size=6))):
        earlier = [one.name for one in steps]
        after = draw(st.lists(st.sampled_from(earlier), max_size=3, unique=True)) if earlier else []
        name = named(action, number) if draw(st.booleans()) else f"s{number}"
        if name not in earlier:
            steps.append(Step(name, action, tuple(after)))
    return Plan(tuple(steps), draw(line | st.just("")))


@pytest.mark.spec("PLAN-7")
@given(plans())
def test_a_plan_goes_through_a_document_without_loss(plan: Plan) -> None:
    try:
        text = write(plan)
    except Invalid:
        return  # which ones: below
    assert read(text.encode()).plan == plan
    assert yaml.safe_load(text)["dls"] == 1


@pytest.mark.spec("PLAN-7")
@pytest.mark.parametrize("verb", sorted(ACTIONS))
def test_every_verb_can_be_written(verb: str) -> None:
    """The strategy above is not all refusals."""
    seen: list[str] = []

    @given(ACTIONS[verb])
    def tried(action: Any) -> None:
        plan = Plan((Step("s", action),), "p")
        try:
            assert read(write(plan).encode()).plan == plan
            seen.append("written")
        except Invalid:
            seen.append("refused")

    tried()
    assert seen.count("written") >= len(seen) / 3, seen


def test_every_verb_is_in_the_table() -> None:
    assert {kind.verb for kind in KINDS} == set(BUILT_IN) == set(ACTIONS)
    assert all(f.doc and f.example for kind in KINDS for f in kind.fields)


@pytest.mark.spec("PLAN-7")
@pytest.mark.parametrize(
    "action",
    [
        StageIn("x:y", "no site"),
        Compute(("\ud800",), "s"),
        Verify("x:y/part"),
        Release("x:y"),
        Site("a", "/b", block=-1),
    ],
)
def test_what_no_document_can_say_is_refused(action: Any) -> None:
    with pytest.raises(Invalid, match="cannot be written") as told:
        write(Plan((Step("a", action),)))
    assert told.value.code == "bad-plan"


def test_a_written_plan_reads_well() -> None:
    plan = read(worked().encode()).plan
    assert plan is not None
    text = write(plan)
    assert "\nsites:\n  scratch: /scratch/me\n" in text
    assert "  fetch: {stage-in: climate:era5, to: scratch, lifetime: P7D}\n" in text
    assert "after: fetch}" in text


# ------------------------------------------------------------------------------------------- PLAN-8


def worked() -> str:
    """The example of the specification."""
    block = re.search(r"(?:^    .*\n|^\n)+", SPEC[SPEC.index("    dls: 1") :], re.MULTILINE)
    assert block is not None
    return re.sub(r"^    ", "", block[0], flags=re.MULTILINE)


@pytest.mark.spec("PLAN-8")
def test_the_schema_is_as_committed() -> None:
    jsonschema.Draft202012Validator.check_schema(schemas.schema())
    committed = (ROOT / "specs" / "plan.schema.json").read_text(encoding="utf-8")
    assert committed == schemas.text(), "python tests/madpp/test_document.py writes it anew"


def judged(text: str) -> list[str]:
    """What the schema says of a document, whose words are read as JSON would have them."""
    validator = jsonschema.Draft202012Validator(schemas.schema())
    return [one.message for one in validator.iter_errors(typed(yaml.load(text, Loader=yaml.BaseLoader)))]


def typed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: typed(one) for key, one in value.items()}
    if isinstance(value, list):
        return [typed(one) for one in value]
    if value is None or value in ("true", "false"):
        return value and value == "true"
    return int(value) if re.fullmatch(r"-?[0-9]+", value) else value


@pytest.mark.spec("PLAN-8")
def test_the_schema_accepts_the_examples() -> None:
    assert read(worked().encode()).faults == ()
    assert judged(worked()) == []
    for kind in KINDS:
        fields = "".join(f", {one.word}: {one.example}" for one in kind.fields[1:])
        text = f"dls: 1\nsteps:\n  a: {{{kind.word}: {kind.fields[0].example}{fields}}}\n"
        if kind.verb == "release":
            text = "dls: 1\nsteps:\n  a: {release: x:y, at: scratch}\n"
        assert read(text.encode()).faults == (), text
        assert judged(text) == []


@pytest.mark.spec("PLAN-8")
@pytest.mark.parametrize("name", BROKEN)
def test_the_schema_refuses_what_it_can_know(name: str) -> None:
    try:
        wrong = judged((GOLDEN / f"{name}.yaml").read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        return
    told_elsewhere = ("duplicate-", "anchor-", "tag-", "over-", "field-", "bad-da")
    if name not in BEYOND_SCHEMA and not name.startswith(told_elsewhere):
        assert wrong, name


def test_the_specification_names_every_kind_and_field() -> None:
    table = SPEC[: SPEC.index("## In Python")]
    for kind in KINDS:
        row = next(ln for ln in table.split("\n") if ln.startswith(f"| `{kind.word}` |"))
        assert not [one.word for one in kind.fields[1:] if not re.search(rf"\b{one.word}\b", row)], row
    assert all(one.word in table for one in SECTIONS)


if __name__ == "__main__":
    for old in GOLDEN.glob("*.txt"):
        old.unlink()
    for one in BROKEN:
        (GOLDEN / f"{one}.txt").write_text(said(one))
    (ROOT / "specs" / "plan.schema.json").write_text(schemas.text(), encoding="utf-8")
    json.dump(len(BROKEN), sys.stdout)
