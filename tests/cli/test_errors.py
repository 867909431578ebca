"""Every error a user can run into, run in text and in JSON: one sentence, the right exit status, what to do, no secret,
no traceback; the state and the target tree as before; and once the cause is mended the same command succeeds.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest

from components.command import Command, Ran, fill, visible
from components.loopdisk import loop_disk
from components.s3 import S3Service
from components.s3_rclone import rclone_s3

T = TypeVar("T")
SECRET = "5ecr3t-Pa55w0rd-never-shown"
FACTS = {
    "datasets",
    "versions",
    "version_segments",
    "replicas",
    "file_marks",
    "activities",
    "ports",
    "applied",
    "storages",
}
"""Tables that say what is where: no failure changes them."""


@dataclass
class World:
    """Where one case takes place."""

    dls: Command
    tmp: Path
    stack: ExitStack
    before: Sequence[str] = ()
    """Words before the command: it then runs in a process of its own."""
    watched: list[Path] = field(default_factory=list)
    """Folders in which nothing may appear."""

    def enter(self, context: AbstractContextManager[T]) -> T:
        """Keep something until the end of the case."""
        return self.stack.enter_context(context)

    def target(self, name: str) -> Path:
        """A folder in which nothing may appear."""
        folder = self.tmp / name
        self.watched.append(folder)
        return folder

    def data(self) -> Path:
        """`x:data`, registered; and the site `scratch`."""
        self.dls("site", "add", "scratch", self.target("scratch"), ok=True)
        tree = fill(self.tmp / "tree")
        self.dls("catalogue", "add", "x:data", tree, ok=True)
        return tree

    def s3(self, **options: Any) -> S3Service:
        """An S3 server with the bucket `bucket`; ours to pause and stop."""
        service = self.enter(rclone_s3(self.tmp, **options))
        service.bucket("bucket")
        self.dls.set(**service.env(), DLS_TIMEOUT="1")
        return service

    def on_s3(self) -> S3Service:
        """`x:data`, registered on an S3 server; and the site `scratch`."""
        service = self.s3()
        assert service.root is not None
        fill(service.root / "bucket" / "tree")
        self.dls("site", "add", "scratch", self.target("scratch"), ok=True)
        self.dls("catalogue", "add", "x:data", "s3://bucket/tree", ok=True)
        return service

    def run(self, words: Sequence[str | Path]) -> Ran:
        """One command, where this case wants it to run."""
        return self.dls.alone(*words, before=self.before) if self.before else self.dls(*words)


@dataclass(frozen=True)
class Want:
    """How a case must end."""

    status: int
    code: str
    names: Sequence[str]
    early: bool
    finds: frozenset[str]


DAMAGE = frozenset({"replicas", "file_marks"})
Words = Sequence[str | Path]
Case = Callable[[World], Iterator[Words]]


def case(
    status: int, code: str, *names: str, early: bool = False, finds: frozenset[str] = frozenset(), marks: Any = ()
) -> Callable[[Case], Case]:
    """A case: a generator that makes trouble, yields the command, and mends the cause (or yields the right command).

    `names` are texts that the message must hold; `early` failures change not one row of the state; `finds` are facts
    that the command records though it fails: what it found of a copy."""

    def declared(make: Case) -> Case:
        want = Want(status, code, names, early, finds)
        CASES.append(pytest.param(make, want, id=make.__name__.replace("_", "-"), marks=marks))
        return make

    return declared


CASES: list[Any] = []
SERVICE = (pytest.mark.service,)


@pytest.mark.spec("ERROR-1", "ERROR-2", "ERROR-3", "ERROR-4", "ERROR-5", "ERROR-6")
@pytest.mark.parametrize("where", ["text", "json"])
@pytest.mark.parametrize(("make", "want"), CASES)
def test_case(make: Case, want: Want, where: str, dls: Command, tmp_path: Path) -> None:
    with ExitStack() as stack:
        world = World(dls, tmp_path, stack)
        steps = make(world)
        words = list(next(steps))
        state, tree = dls.state(), visible(*world.watched)
        ran = world.run([*words[:1], "--json", *words[1:]] if where == "json" else words)
        assert ran.status == want.status, ran.said
        (_is_clear_json if where == "json" else _is_clear_text)(ran, want)
        assert not _has_secret(ran.said, dls.home)
        assert visible(*world.watched) == tree
        after = dls.state()
        same = set(state) if want.early else (FACTS & set(state)) - want.finds
        assert {t: after[t] for t in same} == {t: state[t] for t in same}
        right = next(steps, words)  # mends the cause
        again = world.run(right)
        assert again.status == 0, again.said
        steps.close()


def _is_clear_text(ran: Ran, want: Want) -> None:
    assert ran.out == ""
    lines = ran.err.splitlines()
    first = next(n for n, line in enumerate(lines) if line.startswith("error: "))
    error, remedy = lines[first:]  # nothing after the remedy
    assert error.endswith(f" [{want.code}]")
    assert 20 < len(error) < 500
    assert remedy.startswith("  what to do: ")
    assert len(remedy) > 20
    assert all(name in error for name in want.names), error
    assert "Traceback" not in ran.said


def _is_clear_json(ran: Ran, want: Want) -> None:
    assert ran.err == ""
    error = ran.result
    assert (error["event"], error["code"], error["exit_status"]) == ("error", want.code, ran.status), error
    assert len(error["remedy"]) > 5
    assert "\n" not in error["message"]
    assert all(name in error["message"] for name in want.names), error
    assert isinstance(error["facts"], dict)
    assert [e for e in ran.events if e["event"] in ("error", "result")] == [error]


def _has_secret(said: str, home: Path) -> bool:
    kept = [path.read_bytes() for path in home.rglob("*") if path.is_file()] if home.exists() else []
    return SECRET in said or any(SECRET.encode() in body for body in kept)


# ---------------------------------------------------------------------------------------------- what is asked


@case(2, "bad-usage", "--to", early=True)
def missing_option(world: World) -> Iterator[Words]:
    world.data()
    yield ["stage-in", "x:data"]
    yield ["stage-in", "x:data", "--to", "scratch"]


@case(2, "bad-usage", "stage-inn", early=True)
def unknown_command(world: World) -> Iterator[Words]:
    world.data()
    yield ["stage-inn", "x:data"]
    yield ["stage-in", "x:data", "--to", "scratch"]


@case(2, "bad-dataset-id", "x:da ta", early=True)
def bad_dataset_id(world: World) -> Iterator[Words]:
    world.data()
    yield ["stage-in", "x:da ta", "--to", "scratch"]
    yield ["stage-in", "x:data", "--to", "scratch"]


@case(3, "no-dataset", "x:date", early=True)
def unknown_dataset(world: World) -> Iterator[Words]:
    world.data()
    yield ["stage-in", "x:date", "--to", "scratch"]
    yield ["stage-in", "x:data", "--to", "scratch"]


@case(3, "unknown-site", "scrath", early=True)
def unknown_site(world: World) -> Iterator[Words]:
    world.data()
    yield ["stage-in", "x:data", "--to", "scrath"]
    world.dls("site", "add", "scrath", world.tmp / "elsewhere", ok=True)


@case(2, "bad-url", early=True)
def bad_url(world: World) -> Iterator[Words]:
    tree = world.data()
    yield ["catalogue", "add", "x:other", "s3:///no/bucket"]
    yield ["catalogue", "add", "x:other", tree]


@case(6, "unknown-scheme", "gopher", early=True)
def unknown_scheme(world: World) -> Iterator[Words]:
    tree = world.data()
    yield ["catalogue", "add", "x:other", "gopher://host/path"]
    yield ["catalogue", "add", "x:other", tree]


@case(6, "unknown-scheme", "memory", early=True)
def memory_of_a_command_is_no_place_to_save(world: World) -> Iterator[Words]:
    world.data()
    yield ["stage-out", "x:data", "--to", "memory://a/b"]
    yield ["stage-out", "x:data", "--to", world.tmp / "saved"]


@case(6, "unknown-scheme", "memory", early=True)
def memory_of_a_command_is_no_site(world: World) -> Iterator[Words]:
    yield ["site", "add", "quick", "memory://a"]
    yield ["site", "add", "quick", world.tmp / "quick"]


@case(2, "secret-in-url", early=True)
def secret_in_url(world: World) -> Iterator[Words]:
    world.data()
    yield ["stage-out", "x:data", "--to", f"s3://AKIAXY:{SECRET}@bucket/prefix"]
    yield ["stage-out", "x:data", "--to", world.tmp / "saved"]


@case(2, "bad-usage", early=True)
def secret_in_url_in_the_wrong_place(world: World) -> Iterator[Words]:
    world.data()
    yield ["site", "list", f"s3://AKIAXY:{SECRET}@bucket/prefix"]
    yield ["site", "list"]


@case(2, "bad-duration", early=True)
def bad_lifetime(world: World) -> Iterator[Words]:
    world.data()
    yield ["stage-in", "x:data", "--to", "scratch", "--lifetime", "7 days"]
    yield ["stage-in", "x:data", "--to", "scratch", "--lifetime", "P7D"]


@case(2, "bad-size", early=True)
def bad_capacity(world: World) -> Iterator[Words]:
    world.data()
    yield ["site", "add", "other", world.tmp / "other", "--capacity", "lots"]
    yield ["site", "add", "other", world.tmp / "other", "--capacity", "10GB"]


@case(4, "site-differs", "scratch", early=True)
def site_with_another_address(world: World) -> Iterator[Words]:
    world.data()
    yield ["site", "add", "scratch", world.tmp / "elsewhere"]
    yield ["site", "add", "scratch", world.tmp / "scratch"]


@case(2, "in-buffer", "scratch/dls/x-data", early=True)
def a_buffer_is_no_place_to_register(world: World) -> Iterator[Words]:
    world.data()
    path = world.dls.json("stage-in", "x:data", "--to", "scratch")["path"]
    yield ["catalogue", "add", "x:other", path]
    yield ["stage-out", path, "--to", world.tmp / "saved", "--as", "x:other"]


@case(3, "no-program", "no-such-program", early=True)
def no_program(world: World) -> Iterator[Words]:
    world.data()
    yield ["run", "--in", "x:data", "--at", "scratch", "--", "no-such-program"]
    yield ["run", "--in", "x:data", "--at", "scratch", "--", "true"]


@case(2, "no-command", early=True)
def no_command(world: World) -> Iterator[Words]:
    world.data()
    yield ["run", "--in", "x:data", "--at", "scratch"]
    yield ["run", "--in", "x:data", "--at", "scratch", "--", "true"]


@case(8, "command-failed", "bad-format")
def program_of_no_format(world: World) -> Iterator[Words]:
    world.data()
    program = world.tmp / "bad-format"
    program.write_text("no program\n")
    program.chmod(0o755)
    yield ["run", "--at", "scratch", "--", program]
    program.write_text("#!/bin/sh\n")


@case(8, "command-failed", "left no folder")
def command_removes_its_folder(world: World) -> Iterator[Words]:
    world.data()
    flag = world.tmp / "flag"
    yield ["run", "--out", "x:out", "--at", "scratch", "--", "sh", "-c", f'test -e {flag} || rmdir "$DLS_OUT"']
    flag.touch()


@case(5, "no-access", "closed")
def nothing_may_be_made_where_it_runs(world: World) -> Iterator[Words]:
    world.data()
    world.before = _powerless()
    closed = world.target("closed")
    closed.mkdir(mode=0o555)
    world.dls("site", "add", "closed", closed, ok=True)
    yield ["run", "--out", "x:out", "--at", "closed", "--", "true"]
    closed.chmod(0o755)


@case(8, "command-failed", "exit status 3")
def command_fails(world: World) -> Iterator[Words]:
    world.data()
    flag = world.tmp / "flag"
    yield ["run", "--out", "x:out", "--at", "scratch", "--", "sh", "-c", f"test -e {flag} || exit 3"]
    flag.touch()


@case(3, "no-buffer", early=True)
def no_buffer(world: World) -> Iterator[Words]:
    world.data()
    yield ["buffer", "release", "01ARZ3NDEKTSV4RRFFQ69G5FAV"]
    path = world.dls.json("stage-in", "x:data", "--to", "scratch")["path"]
    yield ["buffer", "release", path]


@case(3, "no-run", early=True)
def no_run(world: World) -> Iterator[Words]:
    world.data()
    yield ["status", "01ARZ3NDEKTSV4RRFFQ69G5FAV"]
    yield ["status"]


@case(2, "bad-usage", "reason", early=True)
def withdraw_without_reason(world: World) -> Iterator[Words]:
    world.data()
    yield ["catalogue", "withdraw", "x:data"]
    yield ["catalogue", "withdraw", "x:data", "--reason", "a better one exists"]


@case(3, "no-replica", "withdrawn", early=True)
def withdrawn(world: World) -> Iterator[Words]:
    world.data()
    world.dls("catalogue", "withdraw", "x:data", "--reason", "wrong units", ok=True)
    yield ["stage-in", "x:data", "--to", "scratch"]
    world.dls("catalogue", "restore", "x:data", ok=True)


# --------------------------------------------------------------------------------------------------- sources


@case(3, "no-source", "absent")
def missing_source(world: World) -> Iterator[Words]:
    world.data()
    yield ["catalogue", "add", "x:other", world.tmp / "absent"]
    fill(world.tmp / "absent")


@case(3, "no-such-key", "sub/file3", finds=DAMAGE)
def missing_file(world: World) -> Iterator[Words]:
    tree = world.data()
    (tree / "sub" / "file3").rename(world.tmp / "aside")
    yield ["stage-in", "x:data", "--to", "scratch"]
    (world.tmp / "aside").rename(tree / "sub" / "file3")


@case(5, "no-access", "sub/file2")
def unreadable_file(world: World) -> Iterator[Words]:
    tree = world.data()
    world.before = _powerless()
    (tree / "sub" / "file2").chmod(0)
    yield ["stage-in", "x:data", "--to", "scratch"]
    (tree / "sub" / "file2").chmod(0o644)


@case(5, "no-access", "other")
def unreadable_folder(world: World) -> Iterator[Words]:
    world.data()
    world.before = _powerless()
    other = fill(world.tmp / "other")
    (other / "sub").chmod(0)
    yield ["catalogue", "add", "x:other", other]
    (other / "sub").chmod(0o755)


@case(7, "content-differs", "sub/file1", finds=DAMAGE)
def source_changed_to_the_same_size(world: World) -> Iterator[Words]:
    tree = world.data()
    before = (tree / "sub" / "file1").read_bytes()
    (tree / "sub" / "file1").write_bytes(b"x" * len(before))
    yield ["stage-in", "x:data", "--to", "scratch"]
    (tree / "sub" / "file1").write_bytes(before)


@case(9, "source-changed", "sub/file1", finds=DAMAGE)
def source_grown(world: World) -> Iterator[Words]:
    tree = world.data()
    before = (tree / "sub" / "file1").read_bytes()
    (tree / "sub" / "file1").write_bytes(before + b"more")
    yield ["stage-in", "x:data", "--to", "scratch"]
    (tree / "sub" / "file1").write_bytes(before)


@case(5, "wrong-credentials", marks=SERVICE)
def wrong_credentials(world: World) -> Iterator[Words]:
    service = world.on_s3()
    world.dls.set(AWS_SECRET_ACCESS_KEY=SECRET)
    yield ["stage-in", "x:data", "--to", "scratch"]
    world.dls.set(**service.env())


@case(5, "no-credentials", "AWS_ACCESS_KEY_ID", marks=SERVICE)
def no_credentials(world: World) -> Iterator[Words]:
    service = world.on_s3()
    world.dls.set(AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY="")
    yield ["stage-in", "x:data", "--to", "scratch"]
    world.dls.set(**service.env())


@case(3, "no-bucket", "elsewhere", marks=SERVICE)
def no_bucket(world: World) -> Iterator[Words]:
    service = world.on_s3()
    yield ["catalogue", "add", "x:other", "s3://elsewhere/tree"]
    service.bucket("elsewhere")
    assert service.root is not None
    fill(service.root / "elsewhere" / "tree")


@case(8, "service-down", marks=SERVICE)
def dead_service(world: World) -> Iterator[Words]:
    service = world.on_s3()
    child = service.children[0]
    child.stop()
    yield ["stage-in", "x:data", "--to", "scratch"]
    from components.s3 import http_answers

    child.start().wait_ready(lambda: http_answers(service.endpoint))


@case(8, "service-hangs", marks=SERVICE)
def hanging_service(world: World) -> Iterator[Words]:
    service = world.on_s3()
    world.before = ["env"]  # in a process of its own: threads that hang must not keep it
    service.pause()
    yield ["stage-in", "x:data", "--to", "scratch"]
    service.resume()


# --------------------------------------------------------------------------------------------------- targets


@case(4, "target-differs", "sub/file1")
def name_clash(world: World) -> Iterator[Words]:
    world.data()
    there = world.target("there")
    (there / "sub").mkdir(parents=True)
    (there / "sub" / "file1").write_bytes(b"somebody else's")
    yield ["stage-out", "x:data", "--to", there]
    (there / "sub" / "file1").unlink()


@case(5, "no-access", "closed")
def target_of_somebody_else(world: World) -> Iterator[Words]:
    world.data()
    world.before = _powerless()
    closed = world.target("closed")
    closed.mkdir(mode=0o555)
    yield ["stage-out", "x:data", "--to", closed / "copy"]
    closed.chmod(0o755)


@case(5, "read-only", marks=SERVICE)
def read_only_target(world: World) -> Iterator[Words]:
    world.data()
    disk = world.enter(loop_disk(world.tmp, 16))
    world.watched.append(disk.folder)
    world.dls("site", "add", "small", disk.folder, ok=True)
    disk.read_only()
    yield ["stage-in", "x:data", "--to", "small"]
    disk.read_only(on=False)


@case(5, "read-only", marks=SERVICE)
def read_only_place_to_run(world: World) -> Iterator[Words]:
    disk = world.enter(loop_disk(world.tmp, 16))
    world.dls("site", "add", "small", disk.folder, ok=True)
    disk.read_only()
    yield ["run", "--out", "x:out", "--at", "small", "--", "true"]
    disk.read_only(on=False)


@case(8, "disk-full", marks=SERVICE)
def full_disk_before_the_start(world: World) -> Iterator[Words]:
    yield from _full(world, ["stage-in", "x:data", "--to", "small"])


@case(8, "disk-full", marks=SERVICE)
def full_disk_on_the_way(world: World) -> Iterator[Words]:
    yield from _full(world, ["stage-out", "x:data", "--to", world.tmp / "disk" / "copy"])


def _full(world: World, words: Words) -> Iterator[Words]:
    world.data()
    disk = world.enter(loop_disk(world.tmp, 16))
    world.dls("site", "add", "small", disk.folder, ok=True)
    filler = disk.folder / "filler"
    free = shutil.disk_usage(disk.folder).free
    filler.write_bytes(b"\1" * (free - 800_000))
    world.watched.append(disk.folder)
    yield words
    filler.unlink()


@case(8, "no-space-in-buffer", "tiny")
def no_space_in_the_buffer(world: World) -> Iterator[Words]:
    world.data()
    other = fill(world.tmp / "other")
    (other / "sub" / "file1").write_bytes(b"other")
    world.dls("catalogue", "add", "x:other", other, ok=True)
    world.dls("site", "add", "tiny", world.target("tiny"), "--capacity", "2MB", ok=True)
    held = world.dls.json("stage-in", "x:other", "--to", "tiny")["buffer"]
    yield ["stage-in", "x:data", "--to", "tiny"]
    world.watched.clear()
    world.dls("buffer", "release", held, ok=True)


@case(9, "buffer-dirty", "nowhere else")
def release_of_unsaved_data(world: World) -> Iterator[Words]:
    world.data()
    made = world.dls.json("run", "--at", "scratch", "--out", "x:out", "--", "sh", "-c", "echo 1 > out")["path"]
    yield ["buffer", "release", made]
    world.dls("stage-out", made, "--to", world.tmp / "saved", "--as", "x:saved", ok=True)


@case(4, "buffer-changed", "scratch/dls/x-data", finds=DAMAGE)
def staged_files_changed(world: World) -> Iterator[Words]:
    world.data()
    staged = Path(world.dls.json("stage-in", "x:data", "--to", "scratch")["path"])
    before = (staged / "sub" / "file1").read_bytes()
    (staged / "sub" / "file1").write_bytes(b"edited")
    yield ["stage-in", "x:data", "--to", "scratch"]
    (staged / "sub" / "file1").write_bytes(before)


@case(7, "replica-damaged", "sub/file1", finds=DAMAGE | {"activities", "ports", "applied"})
def damaged_copy(world: World) -> Iterator[Words]:
    world.data()
    staged = Path(world.dls.json("stage-in", "x:data", "--to", "scratch")["path"])
    before = (staged / "sub" / "file1").read_bytes()
    (staged / "sub" / "file1").write_bytes(b"x" * len(before))
    yield ["verify", "x:data", "--deep"]
    (staged / "sub" / "file1").write_bytes(before)


# ---------------------------------------------------------------------------------------------------- names


@case(6, "name-not-held", "%FF", marks=SERVICE)
def odd_names_to_s3(world: World) -> Iterator[Words]:
    service = world.s3()
    assert service.root is not None
    world.watched.append(service.root)
    odd = fill(world.tmp / "odd")
    bad = os.path.join(os.fsencode(odd), b"not utf-8 \xff")
    Path(os.fsdecode(bad)).write_bytes(b"odd")
    yield ["stage-out", odd, "--to", "s3://bucket/copy"]
    os.rename(bad, os.path.join(os.fsencode(odd), b"plain"))


@case(6, "name-not-held", "%0A", marks=SERVICE)
def odd_names_of_a_dataset_to_s3(world: World) -> Iterator[Words]:
    service = world.s3()
    assert service.root is not None
    world.watched.append(service.root)
    odd = fill(world.tmp / "odd")
    (odd / "new\nline").write_bytes(b"odd")
    world.dls("catalogue", "add", "x:odd", odd, ok=True)
    world.dls("site", "add", "cloud", "s3://bucket/site", ok=True)
    yield ["stage-in", "x:odd", "--to", "cloud"]
    (odd / "new\nline").rename(odd / "new line")
    world.dls("catalogue", "add", "x:odd", odd, ok=True)


# ------------------------------------------------------------------------------------------ state and settings


@case(7, "state-damaged", "state.sqlite", early=True)
def damaged_state(world: World) -> Iterator[Words]:
    world.dls.home.mkdir()
    state = world.dls.home / "state.sqlite"
    state.write_bytes(b"this is no database " * 1000)
    look = world.dls.state
    world.dls.state = lambda: {"bytes": [repr(state.read_bytes())]}  # type: ignore[method-assign]
    yield ["site", "list"]
    state.unlink()
    world.dls.state = look  # type: ignore[method-assign]


@case(8, "no-state", early=True)
def home_is_a_file(world: World) -> Iterator[Words]:
    world.dls.home.write_bytes(b"")
    yield ["site", "list"]
    world.dls.home.unlink()


@case(8, "disk-full", "state.sqlite", early=True, marks=SERVICE)
def full_disk_of_the_state(world: World) -> Iterator[Words]:
    disk = world.enter(loop_disk(world.tmp, 16))
    home = ["--home", disk.folder / "home"]
    world.dls("site", "list", *home, ok=True)
    filler = disk.folder / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(bytes(1 << 10)):
            pass
    yield ["site", "list", *home]
    filler.unlink()


@case(2, "bad-settings", "dls.toml", "denied", early=True)
def settings_of_somebody_else(world: World) -> Iterator[Words]:
    world.before = _powerless()
    world.dls("site", "list", ok=True)
    settings = world.dls.home / "dls.toml"
    settings.write_text("streams = 2\n")
    settings.chmod(0)
    yield ["site", "list"]
    settings.chmod(0o600)


@case(9, "state-newer", early=True)
def state_of_a_newer_version(world: World) -> Iterator[Words]:
    world.data()
    with sqlite3.connect(world.dls.home / "state.sqlite") as state:
        state.execute("UPDATE schema_versions SET version = version + 90 WHERE room = 'run'")
    state.close()
    yield ["site", "list"]
    with sqlite3.connect(world.dls.home / "state.sqlite") as state:
        state.execute("UPDATE schema_versions SET version = version - 90 WHERE room = 'run'")
    state.close()


@case(2, "bad-settings", "dls.toml", "line 2", "speed", early=True)
def unknown_setting(world: World) -> Iterator[Words]:
    world.data()
    settings = world.dls.home / "dls.toml"
    settings.write_text('durability = "power"\nspeed = 12\n')
    yield ["site", "list"]
    settings.write_text('durability = "power"\n')


@case(2, "secret-in-settings", "dls.toml", "line 1", early=True)
def secret_in_settings(world: World) -> Iterator[Words]:
    settings = world.tmp / "dls.toml"
    world.data()
    settings.write_text(f'aws_secret_access_key = "{SECRET[:-1]}"\n')
    settings.rename(world.dls.home / "dls.toml")
    yield ["site", "list"]
    (world.dls.home / "dls.toml").unlink()


def _powerless() -> Sequence[str]:
    """The command without root's power over modes: in a process of its own, as other users are."""
    if os.getuid() != 0:
        return ["env"]
    if not shutil.which("setpriv"):
        pytest.skip("needs setpriv (util-linux) or another user than root")
    return ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", "--inh-caps", "-all"]


@pytest.mark.spec("ACTION-23")
def test_a_command_may_leave_its_folder_read_only(dls: Command, tmp_path: Path) -> None:
    dls("site", "add", "scratch", tmp_path / "scratch", ok=True)
    words = ["run", "--out", "x:out", "--at", "scratch", "--", "sh", "-c", "echo 42 > result; chmod 555 ."]
    dls.alone(*words, before=_powerless(), ok=True)
    assert dls.json("catalogue", "files", "x:out")["count"] == 1


@pytest.mark.spec("ACTION-23", "ERROR-3")
def test_a_command_that_leaves_a_file_instead_of_its_folder_has_failed(dls: Command, tmp_path: Path) -> None:
    dls("site", "add", "scratch", tmp_path / "scratch", ok=True)
    swapped = 'rmdir "$DLS_OUT"; echo > "$DLS_OUT"'
    error = dls.json("run", "--out", "x:out", "--at", "scratch", "--", "sh", "-c", swapped, ok=False)
    assert error["code"] == "command-failed"
    assert "left no folder" in error["message"]
    assert len(visible(tmp_path / "scratch")) == 1  # what it wrote is kept


@pytest.mark.spec("ERROR-2")
def test_who_may_not_read_the_settings_is_not_told_of_their_words(dls: Command) -> None:
    dls("site", "list", ok=True)
    (dls.home / "dls.toml").mkdir()
    assert "DLS_HOME" in dls.json("site", "list", ok=False)["remedy"]
