"""Build: plans in Python.  Typed functions make the same `Plan` that a document does.

with plan("mean") as p:
    era5 = stage_in("climate:era5", "scratch")
    mean = run(["python", "mean.py"], era5, out="climate:mean", at="scratch")
    stage_out(mean, "archive")
p.plan

What a step made may stand wherever a dataset may; then that step comes first.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, ParamSpec, Self, TypeVar

from dls.logistics import digest as digests
from dls.logistics.errors import Invalid
from dls.logistics.frozen import frozen
from dls.madpp.action import Action
from dls.madpp.actions.compute import Compute
from dls.madpp.actions.pack import Pack
from dls.madpp.actions.register import Register
from dls.madpp.actions.release import Release
from dls.madpp.actions.site import Site
from dls.madpp.actions.stage_in import StageIn
from dls.madpp.actions.stage_out import StageOut
from dls.madpp.actions.verify import Verify
from dls.madpp.actions.wait_for import WaitFor
from dls.madpp.document.read import entries_named
from dls.madpp.plan import Plan, Step, asked

P = ParamSpec("P")
R = TypeVar("R")


@frozen
class Made:
    """A step of a plan that is being written; what it makes may be given to other steps."""

    step: str
    data: str = ""
    """The dataset, or the address, that it brings or makes."""
    at: str = ""
    """The site where that is then."""
    as_image: bool = False
    """Whether it is an image there."""

    def __str__(self) -> str:
        return self.data


Data = str | Made
After = Made | str | Iterable["Made | str"]

_open: ContextVar[tuple[Building, ...]] = ContextVar("dls_plans", default=())


class Building:
    """A plan that is being written: inside its block every step is added to it."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self._steps: dict[str, Step] = {}

    @property
    def plan(self) -> Plan:
        """The plan so far."""
        return Plan(tuple(self._steps.values()), self.name)

    def __enter__(self) -> Self:
        _open.set((*_open.get(), self))
        return self

    def __exit__(self, *ended: object) -> None:
        _open.set(_open.get()[:-1])

    def add(self, action: Action, name: str, after: After, *used: Data) -> str:
        """Add a step; its name."""
        said = [after] if isinstance(after, Made | str) else list(after)
        first = [*(one.step if isinstance(one, Made) else one for one in said)]
        first += [one.step for one in used if isinstance(one, Made)]
        first += [one for one in entries_named(asked(action)) if one in self._steps]
        name = name or self._free(action.name)
        if name in self._steps:
            raise Invalid(f"two steps are named {name}", code="bad-plan", step=name)
        self._steps[name] = Step(name, action, tuple(dict.fromkeys(first)), _line())
        return name

    def _free(self, verb: str) -> str:
        number, name = 1, verb
        while name in self._steps:
            number += 1
            name = f"{verb}-{number}"
        return name


def plan(name: str = "") -> Building:
    """Begin a plan: `with plan("mean") as p:`."""
    return Building(name)


def site(name: str, url: str, **limits: Any) -> Made:
    """A site that the plan needs; `limits`: capacity, inodes, tier, lifetime, block."""
    return Made(_here().add(Site(name, url, **limits), f"site:{name}", ()), name, name)


def dataset(key: str, url: str, *, title: str = "", note: str = "", image: bool = False) -> Made:
    """A dataset that the plan needs, registered from where it lies; `image`: what the image there holds."""
    return Made(_here().add(Register(key, url, title, note, image), f"register:{key}", ()), key)


def stage_in(
    what: Data, to: Data, lifetime: str = "", *, as_image: bool = False, name: str = "", after: After = ()
) -> Made:
    """Bring a dataset, or what lies at an address, into a leased buffer of a site; `as_image`: as one file."""
    action = StageIn(str(what), str(to), lifetime, as_image)
    return Made(_here().add(action, name, after, what, to), str(what), str(to), as_image)


def pack(
    what: Data,
    to: str,
    *,
    as_: str = "",
    owner: str = "",
    xattrs: str = "user",
    level: int = 2,
    replace: bool = False,
    form: str = "squashfs",
    name: str = "",
    after: After = (),
) -> Made:
    """Put a dataset, or what lies at an address, into one image; `form`: squashfs or erofs."""
    action = Pack(str(what), to, as_, owner, xattrs, level, replace, form)
    return Made(_here().add(action, name, after, what), as_ or str(what))


def run(
    command: Sequence[str],
    *inputs: Data,
    at: Data,
    out: str = "",
    lifetime: str = "",
    once: bool = True,
    name: str = "",
    after: After = (),
) -> Made:
    """Run a command on staged inputs; `once`: not again where it made its output from these inputs before."""
    action = Compute(tuple(command), str(at), tuple(map(str, inputs)), out, lifetime, once)
    return Made(_here().add(action, name, after, *inputs, at), out, str(at))


def stage_out(what: Data, to: Data, *, as_: str = "", name: str = "", after: After = ()) -> Made:
    """Save a dataset, or what lies at an address, at a site or an address."""
    return Made(_here().add(StageOut(str(what), str(to), as_), name, after, what, to), as_ or str(what), str(to))


def verify(what: Data, *, at: Data = "", deep: bool = False, name: str = "", after: After = ()) -> Made:
    """Look whether copies are what was recorded."""
    return Made(_here().add(Verify(str(what), str(at), deep), name, after, what, at), str(what))


def release(what: Data, *, at: Data = "", as_image: bool = False, name: str = "", after: After = ()) -> Made:
    """Give back the buffer that a step made; or that of a dataset at a site; or a buffer by its id."""
    made = what if isinstance(what, Made) else Made("")
    action = Release(str(what), str(at) or made.at, as_image or made.as_image)
    return Made(_here().add(action, name, after, what, at))


def wait_for(what: Data, *, until: str = "", name: str = "", after: After = ()) -> Made:
    """Wait until a dataset is there; `scope:name@3` means version 3 or later."""
    return Made(_here().add(WaitFor(str(what), until), name, after, what), str(what).partition("@")[0])


# --------------------------------------------------------------------------------- functions as steps


@dataclass(frozen=True)
class FunctionStep(Generic[P, R]):
    """A Python function that is a step: called inside a plan it is added to it."""

    function: Callable[P, R]
    inputs: tuple[Data, ...]
    out: str
    at: Data
    lifetime: str
    once: bool

    def __call__(self, *inputs: Data, after: After = (), name: str = "") -> Made:
        """Add it to the open plan; `inputs` stand for those of the decorator."""
        given = inputs or self.inputs
        return run(
            _command(self.function, len(given)),
            *given,
            at=self.at,
            out=self.out,
            lifetime=self.lifetime,
            once=self.once,
            name=name or self.function.__name__,
            after=after,
        )


def step(
    *inputs: Data, at: Data, out: str = "", lifetime: str = "", once: bool = True
) -> Callable[[Callable[P, R]], FunctionStep[P, R]]:
    """Make a step of a function of a file.  As a job it is given the folder of each input and that of the output.

    The plan keeps the file's path and digest, no code: a file that has changed is refused when the job begins."""
    return lambda function: FunctionStep(function, inputs, out, at, lifetime, once)


def _command(function: Callable[..., Any], count: int) -> list[str]:
    """How a job calls a function: its file, name and digest, then the folders."""
    code = getattr(function, "__code__", None)
    path = Path(code.co_filename).absolute() if code else None
    if path is None or not path.is_file() or not function.__qualname__.isidentifier():
        raise Invalid(
            f"the function {function.__qualname__} cannot become a step: it is not at the top of a file",
            code="not-a-file-function",
            remedy="write it into a file NAME.py, outside of other functions, and import it from there",
        )
    digest = digests.text(digests.of(path.read_bytes()))
    words = [sys.executable, "-P", "-m", "dls.madpp.call", str(path), function.__name__, digest, "{out}"]
    return [*words, *(f"{{in{n}}}" for n in range(1, count + 1))]


def _here() -> Building:
    if not _open.get():
        raise Invalid("no plan is open here", code="no-open-plan", remedy='write it inside: with plan("name") as p:')
    return _open.get()[-1]


def _line() -> int:
    """The line of whoever called into this module."""
    frame = sys._getframe(1)  # the only way to a line without a traceback
    while frame.f_back is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    return frame.f_lineno
